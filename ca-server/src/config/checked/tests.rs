//! Configurations that can be run, and every way in which one cannot.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use super::*;

fn raw() -> RawConfig {
    let mut raw = RawConfig {
        trust_domain: "example.org".to_owned(),
        data_dir: "/var/lib/mintmark/data".into(),
        ..RawConfig::default()
    };
    raw.listen.api = Some("127.0.0.1:8081".to_owned());
    raw.listen.peer = Some("127.0.0.1:8082".to_owned());
    raw
}

fn no_environment(_: &str) -> Option<String> {
    None
}

fn keys_of(raw: &RawConfig) -> Vec<&'static str> {
    let errors = raw.check(&no_environment).unwrap_err();
    errors.0.into_iter().map(|fault| fault.key).collect()
}

#[test]
fn defaults_put_keys_and_socket_where_they_belong() {
    let config = raw().check(&no_environment).unwrap();
    assert_eq!(config.keys_dir, Path::new("/var/lib/mintmark/keys"));
    let socket = Path::new("/var/lib/mintmark/data/private/admin.sock");
    assert_eq!(config.listen.admin_socket, socket);
    let file = Path::new("/var/lib/mintmark/keys/kek");
    assert!(matches!(config.kek, KekSource::File(path) if path == file));
    assert!(config.join.is_none() && config.pq.is_none());
}

#[test]
fn every_fault_is_reported_together() {
    let mut raw = raw();
    raw.trust_domain = "Example.Org".to_owned();
    raw.keys_dir = Some("/var/lib/mintmark/data/keys".into());
    raw.listen.http = Some("nowhere".to_owned());
    raw.settings.pq = Some("maybe".to_owned());
    raw.ttl.ca = Some("soon".to_owned());
    raw.log.format = Some("xml".to_owned());
    raw.join = Some(RawJoin::default());
    raw.name = Some("a b".to_owned());
    let expected = [
        "trust_domain",
        "keys_dir",
        "listen.http",
        "ttl.ca",
        "settings.pq",
        "join.address",
        "join",
        "join.pin",
        "name",
        "log.format",
    ];
    assert_eq!(keys_of(&raw), expected);
}

#[test]
fn lifetimes_that_do_not_fit_are_refused_with_the_sum() {
    let mut raw = raw();
    raw.ttl.ca = Some("1h".to_owned());
    raw.ttl.x509_svid = Some("30m".to_owned());
    let errors = raw.check(&no_environment).unwrap_err();
    assert_eq!(errors.0[0].key, "ttl");
    assert!(errors.0[0].problem.contains("× 6"), "{errors}");
}

#[test]
fn a_wildcard_needs_an_address_to_advertise() {
    let mut raw = raw();
    raw.listen.api = None;
    raw.listen.peer = Some("[::]:8082".to_owned());
    assert_eq!(
        keys_of(&raw),
        ["listen.advertise_api", "listen.advertise_peer"]
    );
    raw.listen.advertise_api = Some("a.example.org:8081".to_owned());
    raw.listen.advertise_peer = Some("a.example.org:8082".to_owned());
    assert!(raw.check(&no_environment).is_ok());
}

#[test]
fn one_kek_source_is_taken_and_two_are_refused() {
    let mut raw = raw();
    raw.kek.passphrase_env = Some("MINTMARK_PASSPHRASE".to_owned());
    let environment =
        |name: &str| (name == "MINTMARK_PASSPHRASE").then(|| "correct horse".to_owned());
    match raw.check(&environment).unwrap().kek {
        KekSource::Passphrase {
            source: PassphraseSource::Value(Some(value)),
            ..
        } => {
            assert_eq!(value.expose(), b"correct horse");
        }
        other => panic!("{other:?}"),
    }
    raw.kek.file = Some("/etc/kek".into());
    assert_eq!(keys_of(&raw), ["kek"]);
}

#[test]
fn credentials_come_from_the_service_manager() {
    let mut raw = raw();
    raw.kek.credential = Some("mintmark-kek".to_owned());
    let environment =
        |name: &str| (name == "CREDENTIALS_DIRECTORY").then(|| "/run/cred".to_owned());
    let config = raw.check(&environment).unwrap();
    let path = Path::new("/run/cred/mintmark-kek");
    assert!(matches!(config.kek, KekSource::Credential(at) if at == path));
    raw.kek.credential = Some("../etc/shadow".to_owned());
    assert_eq!(keys_of(&raw), ["kek"]);
}

#[test]
fn sinks_are_files_and_each_is_named_once() {
    let mut raw = raw();
    let sink = super::super::RawSinkFile {
        path: "/var/log/audit.jsonl".into(),
    };
    raw.audit.file = vec![sink.clone()];
    assert_eq!(raw.check(&no_environment).unwrap().sinks.len(), 1);
    raw.audit.file = vec![sink.clone(), sink, super::super::RawSinkFile::default()];
    assert_eq!(keys_of(&raw), ["audit.file.path", "audit.file.path"]);
}
