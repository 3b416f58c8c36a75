//! P10 on real processes: what a server and its agent leave on disk holds no private key in the clear.
//!
//! The keys are known here: the test opens the server's vault with the server's own key-encryption key, and
//! has workloads' keys as a workload has them. Then it looks for their bytes, raw and as text, in every file
//! of the cluster's directory. What is looked for is shown to be found where it lies openly.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use ca_server::vault::open_record;
use chaos_tests::real::dev::Dev;
use chaos_tests::real::wait;
use mintmark_identity::authority::AuthorityKey;
use mintmark_runtime::Host;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject as _;

const PATIENCE: Duration = Duration::from_secs(90);
/// Bytes of every secret that is looked for.
const SECRET: usize = 32;
/// Bytes by which a needle is looked up. No other content has eight of them by chance.
const HEAD: usize = 8;

/// What nothing but a private key has: the beginnings of PKCS#8 for the kinds of keys that there are, of
/// SEC1, of PEM, and the private members of a JWK.
const MARKS: [(&str, &[u8]); 7] = [
    (
        "PKCS#8, elliptic curve",
        b"\x02\x01\x00\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01",
    ),
    (
        "PKCS#8, Ed25519",
        b"\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70",
    ),
    (
        "PKCS#8, ML-DSA-65",
        b"\x02\x01\x00\x30\x0b\x06\x09\x60\x86\x48\x01\x65\x03\x04\x03\x12",
    ),
    ("SEC1, P-256", b"\x30\x77\x02\x01\x01\x04\x20"),
    ("PEM", b"PRIVATE KEY-----"),
    ("JWK", b"\"d\":\""),
    ("JWK, ML-DSA", b"\"priv\":\""),
];

/// What is looked for: the secrets in each form that a file could have them in.
#[derive(Default)]
struct Needles(BTreeMap<[u8; HEAD], Vec<(String, Vec<u8>)>>);

impl Needles {
    fn add(&mut self, name: &str, bytes: &[u8]) {
        let head = bytes[..HEAD].try_into().unwrap();
        let named = (name.to_owned(), bytes.to_vec());
        self.0.entry(head).or_default().push(named);
    }

    /// Either half of a secret alone counts, and its text in hexadecimal digits and in base64 at any
    /// place of a longer text.
    fn add_secret(&mut self, name: &str, secret: &[u8]) {
        assert_eq!(secret.len(), SECRET, "{name}");
        for half in secret.chunks(SECRET / 2) {
            self.add(name, half);
            let text = hex::encode(half);
            self.add(name, text.to_uppercase().as_bytes());
            self.add(name, text.as_bytes());
        }
        for before in 0..3 {
            let shifted = [vec![0; before].as_slice(), secret].concat();
            for text in [STANDARD.encode(&shifted), URL_SAFE.encode(&shifted)] {
                // Without the ends, which depend on the neighbours.
                self.add(name, &text.as_bytes()[4..40]);
            }
        }
    }

    /// The secrets in some content, broken into lines or not.
    fn within(&self, content: &[u8]) -> BTreeSet<String> {
        let is_break = |byte: &u8| matches!(byte, b'\n' | b'\r');
        let joined: Vec<u8> = content
            .iter()
            .copied()
            .filter(|byte| !is_break(byte))
            .collect();
        let mut found = self.within_lines(content);
        found.extend(self.within_lines(&joined));
        found
    }

    fn within_lines(&self, content: &[u8]) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for (place, head) in content.windows(HEAD).enumerate() {
            let head: [u8; HEAD] = head.try_into().unwrap();
            for (name, bytes) in self.0.get(&head).into_iter().flatten() {
                if content[place..].starts_with(bytes) {
                    found.insert(name.clone());
                }
            }
        }
        found
    }
}

/// Every file below a directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![directory.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

/// The 32 bytes that are the key in PKCS#8: of P-256 what stands behind the header of 36 bytes, of
/// everything else here (seeds) the last ones.
fn own_bytes(pkcs8: &[u8]) -> &[u8] {
    if pkcs8
        .windows(MARKS[0].1.len())
        .any(|window| window == MARKS[0].1)
    {
        &pkcs8[36..36 + SECRET]
    } else {
        &pkcs8[pkcs8.len() - SECRET..]
    }
}

/// The keys of the identities that were written into a directory.
fn workload_keys(directory: &Path) -> Vec<Vec<u8>> {
    files(directory)
        .iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "key"))
        .map(|path| {
            let key = PrivateKeyDer::from_pem_file(path).unwrap();
            own_bytes(key.secret_der()).to_vec()
        })
        .collect()
}

/// Every secret in the vault of a server, with its name, and the data key above them.
async fn vault_secrets(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let host = Host::os();
    let file = directory.join("config/server-1.toml");
    let config = ca_server::config::load(host.disk.as_ref(), &file, &|_| None).unwrap();
    let server = ca_server::Server::start(host, config).await.unwrap();
    let ready = tokio::time::timeout(PATIENCE, server.ready()).await;
    assert!(ready.is_ok(), "not ready: {:?}", server.pending());
    let keyring = &server.services().keyring;
    let (cluster, wrapped, records) = server.services().consensus.read(|state| {
        (
            state.cluster_id().unwrap(),
            state.wrapped_data_key(keyring.node_id()).unwrap().clone(),
            state.vault_records().cloned().collect::<Vec<_>>(),
        )
    });
    let data_key = keyring.data_key(&cluster, &wrapped).unwrap();
    let mut secrets = vec![("the data key".to_owned(), data_key.expose().to_vec())];
    for record in records {
        let opened = open_record(&data_key, &cluster, &record).unwrap();
        if opened.expose().len() == SECRET {
            secrets.push((record.name, opened.expose().to_vec()));
            continue;
        }
        let key = AuthorityKey::from_bytes(opened.expose()).unwrap();
        for half in std::iter::once(key.native()).chain(key.alternative()) {
            let pkcs8 = half.to_pkcs8().unwrap();
            let name = format!("{}, {:?}", record.name, half.algorithm());
            secrets.push((name, own_bytes(&pkcs8).to_vec()));
        }
    }
    server.shutdown(Duration::from_secs(1)).await;
    secrets
}

/// A cluster that issued, renewed and made tokens: its directory, the keys that its workload had, and a
/// join token that nobody used.
fn history(directory: &Path, scratch: &Path) -> String {
    let dev = Dev::start_in(directory, &["--pq", "hybrid", "--x509-ttl", "30s"]);
    let fetch = |name: &str| {
        let folder = scratch.join(name);
        dev.json(&["x509", "fetch", "--write", folder.to_str().unwrap()])
    };
    let first = fetch("first");
    wait::until("the agent renews", PATIENCE, || {
        let again = fetch("again");
        (again[0]["serial"] != first[0]["serial"]).then_some(())
    });
    dev.json(&["jwt", "fetch", "--audience", "reports"]);
    let token = dev.json(&["token", "generate"]);
    assert!(dev.stop().success());
    token["token"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_file_of_a_server_or_an_agent_holds_a_private_key_in_the_clear() {
    let temporary = tempfile::Builder::new().prefix("mm").tempdir().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let directory = temporary.path();
    let token = history(directory, scratch.path());

    let mut needles = Needles::default();
    let mut names = BTreeSet::new();
    for (name, secret) in vault_secrets(directory).await {
        needles.add_secret(&name, &secret);
        names.insert(name);
    }
    for kind in ["the data key", "trust-domain-key", "MlDsa65", "EcP256"] {
        assert!(names.iter().any(|name| name.contains(kind)), "{names:?}");
    }
    // The key of the trust domain and an authority of each kind, and the log's.
    assert!(names.len() >= 6, "{names:?}");
    let keys = workload_keys(scratch.path());
    assert!(keys.len() >= 2, "two keys of a workload");
    for key in &keys {
        needles.add_secret("a workload's key", key);
    }
    needles.add("a join token", token.as_bytes());

    // What is looked for is found where it is.
    let written: BTreeSet<String> = files(scratch.path())
        .iter()
        .flat_map(|path| needles.within(&std::fs::read(path).unwrap()))
        .collect();
    assert_eq!(written, ["a workload's key".to_owned()].into());

    let mut looked_at = BTreeSet::new();
    for path in files(directory) {
        let content = std::fs::read(&path).unwrap();
        let place = path.strip_prefix(directory).unwrap();
        let found = needles.within(&content);
        assert!(found.is_empty(), "{} holds {found:?}", path.display());
        let marks: Vec<&str> = MARKS
            .iter()
            .filter(|(_, mark)| content.windows(mark.len()).any(|window| window == *mark))
            .map(|(name, _)| *name)
            .collect();
        if place.starts_with("keys") {
            // A daemon's own key lies here, for its user alone.
            let mode = std::fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o077, 0, "{} has mode {mode:o}", path.display());
        } else {
            assert_eq!(marks, Vec::<&str>::new(), "{}", path.display());
        }
        for mark in marks {
            looked_at.insert(format!("a key in {}: {mark}", top(place)));
        }
        if !content.is_empty() {
            looked_at.insert(top(place));
        }
    }
    for place in [
        "data/server-1",
        "data/agent",
        "log/agent.log",
        "audit.jsonl",
    ] {
        assert!(looked_at.contains(place), "{place} is not in {looked_at:?}");
    }
    // The agent's own key is a file, and would be seen elsewhere too.
    let own = looked_at
        .iter()
        .find(|seen| seen.starts_with("a key in keys/agent"));
    assert!(own.is_some(), "{looked_at:?}");
}

/// The first two parts of a path.
fn top(path: &Path) -> String {
    let parts: PathBuf = path.components().take(2).collect();
    parts.display().to_string()
}

#[test]
fn a_secret_is_found_in_every_form_and_at_every_place() {
    let secret: Vec<u8> = (0_u8..32).map(|n| n.wrapping_mul(7) ^ 0xa5).collect();
    let mut needles = Needles::default();
    needles.add_secret("it", &secret);
    let framed = |inner: &[u8], before: usize| [&vec![9; before], inner, b"end"].concat();
    for before in 0..4 {
        let raw = framed(&secret, before);
        let texts = [
            hex::encode(&raw),
            hex::encode_upper(&raw),
            STANDARD.encode(&raw),
            STANDARD.encode(&raw).replace('A', "A\n"),
            URL_SAFE.encode(&raw),
        ];
        for content in [raw.clone(), framed(&secret[16..], before)]
            .into_iter()
            .chain(texts.map(String::into_bytes))
        {
            assert_eq!(needles.within(&content).len(), 1, "{content:?}");
        }
        assert!(needles.within(&framed(&secret[1..16], before)).is_empty());
    }
}
