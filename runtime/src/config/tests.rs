//! What is wrong with a file, exactly.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use super::*;
use crate::disk::MODE_PUBLIC;
use crate::network::Address;
use crate::testing::MemoryDisk;

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    trust_domain: String,
    server: Server,
    #[serde(default)]
    peers: Vec<Server>,
    #[serde(default)]
    labels: BTreeMap<String, Server>,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Server {
    listen: Address,
    #[serde(default)]
    ttl: Option<DurationText>,
}

const TOML: &str = "\
trust_domain = \"example.org\"

[server]
listen = \"127.0.0.1:8081\"
ttl = \"1h30m\"
";

const YAML: &str = "\
trust_domain: example.org

server:
  listen: 127.0.0.1:8081
  ttl: 1h30m
";

fn toml(text: &str) -> Result<Raw, ConfigError> {
    parse(text, ConfigFormat::Toml, Path::new("server.toml"))
}

fn yaml(text: &str) -> Result<Raw, ConfigError> {
    parse(text, ConfigFormat::Yaml, Path::new("server.yaml"))
}

#[test]
fn both_languages_say_the_same() {
    let from_toml = toml(TOML).unwrap();
    assert_eq!(from_toml, yaml(YAML).unwrap());
    let ttl = from_toml.server.ttl.unwrap();
    assert_eq!(ttl.0, Duration::from_secs(5400));
}

#[test]
fn an_unknown_key_is_named_with_its_place_and_the_one_meant() {
    let text = TOML.replace("listen", "lisen");
    let error = toml(&text).unwrap_err();
    assert_eq!(
        error.to_string(),
        "server.toml:4: unknown key \"server.lisen\", did you mean \"listen\"?"
    );
    let text = YAML.replace("listen", "lisen");
    let error = yaml(&text).unwrap_err();
    assert_eq!(
        error.to_string(),
        "server.yaml:4: unknown key \"server.lisen\", did you mean \"listen\"?"
    );
}

#[test]
fn an_unknown_key_like_no_other_lists_what_exists() {
    let text = format!("{TOML}color = 1\n");
    let error = toml(&text).unwrap_err();
    assert_eq!(
        error.to_string(),
        "server.toml:6: unknown key \"server.color\", the keys here are listen, ttl"
    );
    let text = format!("color: 1\n{YAML}");
    let error = yaml(&text).unwrap_err();
    assert!(
        matches!(&error, ConfigError::UnknownKey { key, suggestion: None, .. } if key == "color"),
        "{error}"
    );
}

#[test]
fn keys_inside_lists_and_maps_have_their_path() {
    let text = format!("{TOML}[[peers]]\nlisten = \"a:1\"\n[[peers]]\nlistn = \"a:1\"\n");
    let error = toml(&text).unwrap_err().to_string();
    assert!(
        error.starts_with("server.toml:9: unknown key \"peers[1].listn\""),
        "{error}"
    );
    let text = format!("{TOML}[labels.east]\nlisten = \"a:1\"\nttk = \"1s\"\n");
    let error = toml(&text).unwrap_err().to_string();
    assert!(
        error.starts_with("server.toml:8: unknown key \"labels.east.ttk\""),
        "{error}"
    );
}

#[test]
fn a_bad_value_is_named_with_key_line_and_reason() {
    let error = toml(&TOML.replace("1h30m", "90")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "server.toml:5: server.ttl: a duration needs a unit (d, h, m, s or ms), like 90s"
    );
    // Without quotes it is a number.
    let error = toml(&TOML.replace("\"1h30m\"", "90")).unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("server.toml:5: server.ttl: "), "{text}");
    assert!(text.contains("a duration with a unit"), "{text}");
    let error = yaml(&YAML.replace("1h30m", "90")).unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("server.yaml:5: server.ttl: "), "{text}");
    assert!(text.contains("unit"), "{text}");
    assert!(!text.contains('\n'), "{text}");
    let error = toml(&TOML.replace(":8081", "")).unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with("server.toml:4: server.listen: an address needs"),
        "{text}"
    );
}

#[test]
fn a_missing_key_is_named() {
    let error = toml("trust_domain = \"a\"\n[server]\n").unwrap_err();
    let text = error.to_string();
    assert!(text.contains("missing field `listen`"), "{text}");
    assert!(text.starts_with("server.toml:2: server: "), "{text}");
    let error = yaml("server:\n  listen: a:1\n").unwrap_err();
    let text = error.to_string();
    assert!(text.contains("trust_domain"), "{text}");
}

#[test]
fn broken_syntax_is_found_by_line() {
    let error = toml("trust_domain = \"a\"\n[server\n").unwrap_err();
    assert!(error.to_string().starts_with("server.toml:2: "), "{error}");
    let error = toml("a = 1\na = 2\n").unwrap_err();
    assert!(error.to_string().starts_with("server.toml:2: "), "{error}");
    let error = yaml("trust_domain: [a\n").unwrap_err();
    assert!(error.to_string().starts_with("server.yaml:"), "{error}");
    let error = yaml("trust_domain: a\ntrust_domain: b\n").unwrap_err();
    assert!(error.to_string().starts_with("server.yaml:2: "), "{error}");
}

#[test]
fn the_extension_chooses_the_language() {
    let disk = MemoryDisk::new();
    for (name, text) in [
        ("/a.toml", TOML),
        ("/a.conf", TOML),
        ("/a.yaml", YAML),
        ("/a.yml", YAML),
    ] {
        let path = Path::new(name);
        disk.write_atomic(path, text.as_bytes(), MODE_PUBLIC)
            .unwrap();
        let raw: Raw = load(&disk, path).unwrap();
        assert_eq!(raw.trust_domain, "example.org", "{name}");
    }
}

#[test]
fn files_that_are_no_configuration_are_refused() {
    let disk = MemoryDisk::new();
    let path = Path::new("/a.toml");
    let error = load::<Raw>(&disk, path).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot read the configuration file /a.toml"
    );
    assert!(std::error::Error::source(&error).is_some());
    disk.write_atomic(path, &[0xff, 0xfe], MODE_PUBLIC).unwrap();
    let error = load::<Raw>(&disk, path).unwrap_err();
    assert!(matches!(error, ConfigError::NotText { .. }), "{error}");
    disk.write_atomic(path, &vec![b'\n'; FILE_LEN_MAX + 1], MODE_PUBLIC)
        .unwrap();
    let error = load::<Raw>(&disk, path).unwrap_err();
    assert!(matches!(error, ConfigError::NotText { .. }), "{error}");
}

proptest::proptest! {
    #[test]
    fn any_text_parses_or_fails_cleanly(text in "(?s).{0,60}") {
        let _ = toml(&text);
        let _ = yaml(&text);
    }
}
