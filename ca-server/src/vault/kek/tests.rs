//! The KEK: right, wrong, absent, exposed, of another kind, and a damaged file.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use mintmark_identity::entropy::SeededEntropy;
use mintmark_runtime::Host;

use super::*;

const CHEAP: PassphraseCost = PassphraseCost {
    memory_kib: 64,
    passes: 1,
    lanes: 1,
};

struct Place {
    host: Host,
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self {
            host: Host::os(),
            directory: tempfile::tempdir().unwrap(),
        }
    }

    fn disk(&self) -> &dyn Disk {
        self.host.disk.as_ref()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8], mode: u32) -> PathBuf {
        let path = self.path(name);
        self.disk().write_atomic(&path, bytes, mode).unwrap();
        path
    }

    fn create(&self, source: &KekSource) -> VaultPublicKey {
        let entropy = SeededEntropy::new(5);
        let made =
            SealedKeyPair::create(self.disk(), &self.path("vault.key"), source, &entropy).unwrap();
        made.unwrap().1.public().clone()
    }

    fn open(&self, source: &KekSource) -> Result<Option<VaultKeyPair>, KekError> {
        let sealed = SealedKeyPair::read(self.disk(), &self.path("vault.key"))?;
        sealed.unwrap().open(self.disk(), source)
    }
}

fn passphrase(text: &str) -> KekSource {
    let value = PassphraseSource::Value(Some(SecretBytes::from(text.as_bytes().to_vec())));
    KekSource::Passphrase {
        source: value,
        cost: CHEAP,
    }
}

#[test]
fn a_key_file_is_made_once_and_opens_what_it_sealed() {
    let place = Place::new();
    let source = KekSource::File(place.path("kek"));
    let entropy = SeededEntropy::new(1);
    source.create_if_absent(place.disk(), &entropy).unwrap();
    let public = place.create(&source);
    source
        .create_if_absent(place.disk(), &SeededEntropy::new(2))
        .unwrap();
    assert_eq!(place.open(&source).unwrap().unwrap().public(), &public);
    assert_eq!(
        place.disk().metadata_mode(&place.path("kek")).unwrap() & 0o777,
        0o600
    );
    assert_eq!(
        place
            .disk()
            .metadata_mode(&place.path("vault.key"))
            .unwrap()
            & 0o777,
        0o600
    );
}

#[test]
fn raw_and_hexadecimal_key_files_are_the_same_key() {
    let place = Place::new();
    let raw = KekSource::File(place.write("raw", &[0xab; 32], 0o600));
    let public = place.create(&raw);
    let text = format!("{}\n", "ab".repeat(32));
    let hexadecimal = KekSource::File(place.write("hex", text.as_bytes(), 0o600));
    assert_eq!(place.open(&hexadecimal).unwrap().unwrap().public(), &public);
}

#[test]
fn an_absent_kek_is_no_error_and_a_wrong_one_is() {
    let place = Place::new();
    place.create(&KekSource::File(place.write("kek", &[1; 32], 0o600)));
    assert!(
        place
            .open(&KekSource::File(place.path("nowhere")))
            .unwrap()
            .is_none()
    );
    assert!(
        place
            .open(&KekSource::Credential(place.path("nowhere")))
            .unwrap()
            .is_none()
    );
    let wrong = KekSource::File(place.write("wrong", &[2; 32], 0o600));
    assert!(matches!(place.open(&wrong), Err(KekError::Wrong { .. })));
}

#[test]
fn a_passphrase_opens_with_the_stored_cost_and_a_wrong_one_does_not() {
    let place = Place::new();
    let public = place.create(&passphrase("correct horse"));
    let file = place.write("passphrase", b"correct horse\r\n", 0o600);
    let from_file = KekSource::Passphrase {
        source: PassphraseSource::File(file),
        cost: PassphraseCost::DEFAULT,
    };
    assert_eq!(place.open(&from_file).unwrap().unwrap().public(), &public);
    assert!(matches!(
        place.open(&passphrase("wrong")),
        Err(KekError::Wrong { .. })
    ));
    assert!(matches!(
        place.open(&passphrase("")),
        Err(KekError::EmptyPassphrase)
    ));
    let unset = KekSource::Passphrase {
        source: PassphraseSource::Value(None),
        cost: CHEAP,
    };
    assert!(place.open(&unset).unwrap().is_none());
}

#[test]
fn another_kind_of_kek_is_named() {
    let place = Place::new();
    place.create(&passphrase("correct horse"));
    let file = KekSource::File(place.write("kek", &[1; 32], 0o600));
    assert!(matches!(place.open(&file), Err(KekError::OtherKind { .. })));
}

#[test]
fn key_files_of_wrong_length_or_open_to_others_are_refused() {
    let place = Place::new();
    let entropy = SeededEntropy::new(1);
    let path = place.path("vault.key");
    let short = KekSource::File(place.write("short", &[1; 31], 0o600));
    let made = SealedKeyPair::create(place.disk(), &path, &short, &entropy);
    assert!(matches!(made, Err(KekError::KeyLength { .. })));
    let open = KekSource::File(place.write("open", &[1; 32], 0o644));
    let made = SealedKeyPair::create(place.disk(), &path, &open, &entropy);
    assert!(matches!(made, Err(KekError::Exposed { mode: 0o644, .. })));
    let credential = KekSource::Credential(place.write("credential", &[1; 32], 0o440));
    assert!(SealedKeyPair::create(place.disk(), &path, &credential, &entropy).is_ok());
}

#[test]
fn a_damaged_file_is_told_from_a_wrong_kek() {
    let place = Place::new();
    let source = KekSource::File(place.write("kek", &[1; 32], 0o600));
    place.create(&source);
    let mut file: SealedFile =
        serde_json::from_slice(&place.disk().read(&place.path("vault.key")).unwrap()).unwrap();
    let mut sealed = STANDARD.decode(&file.sealed).unwrap();
    sealed[40] ^= 1;
    file.sealed = STANDARD.encode(sealed);
    place.write("vault.key", &serde_json::to_vec(&file).unwrap(), 0o600);
    assert!(matches!(place.open(&source), Err(KekError::Damaged { .. })));
    place.write("vault.key", b"{}", 0o600);
    assert!(matches!(place.open(&source), Err(KekError::Damaged { .. })));
}

#[test]
fn nothing_secret_is_debug() {
    let shown = format!("{:?}", passphrase("correct horse"));
    assert!(!shown.contains("correct"), "{shown}");
}
