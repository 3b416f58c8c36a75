//! `mintmark x509 verify` asks for both signatures of a hybrid SVID. The forger here has everything that a
//! quantum computer would give: the native key of the authority.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use mintmark_identity::authority::AuthorityKey;
use mintmark_identity::clock::{Clock as _, SystemClock};
use mintmark_identity::entropy::SystemEntropy;
use mintmark_identity::hybrid::ALT_SIGNATURE_VALUE;
use mintmark_identity::key_manager::{KeyAlgorithm, SigningKey};
use mintmark_identity::pem;
use mintmark_identity::spiffe_id::SpiffeId;
use mintmark_identity::svid::x509::structure::CertificateParts;
use mintmark_identity::svid::x509::{
    CaSubject, LeafRequest, LeafSubject, Serial, X509Authority, prepare_leaf, self_signed_authority,
};
use mintmark_identity::trust_domain::TrustDomain;
use mintmark_identity::validity::Validity;

const SEQUENCE: u8 = 0x30;
const BIT_STRING: u8 = 0x03;

/// A hybrid authority, and one without a post-quantum half that has its name and its native key.
struct World {
    trust_domain: TrustDomain,
    hybrid: (AuthorityKey, X509Authority),
    classical: (AuthorityKey, X509Authority),
    directory: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let trust_domain = TrustDomain::parse("hybrid.test").unwrap();
        let both = AuthorityKey::generate(true).unwrap();
        let native =
            SigningKey::from_pkcs8(KeyAlgorithm::EcP256, &both.native().to_pkcs8().unwrap())
                .unwrap();
        let native = AuthorityKey::from_keys(native, None).unwrap();
        let serial = Serial::draw(&SystemEntropy);
        let validity = Validity::issued_at(SystemClock.now(), Duration::from_secs(86_400));
        let certified = |key: AuthorityKey| {
            let subject = CaSubject::default();
            let der = self_signed_authority(&trust_domain, &key, serial, validity, &subject);
            (key, X509Authority::parse(&der.unwrap()).unwrap())
        };
        let (hybrid, classical) = (certified(both), certified(native));
        Self {
            trust_domain,
            hybrid,
            classical,
            directory: tempfile::tempdir().unwrap(),
        }
    }

    fn issue(&self, (key, authority): &(AuthorityKey, X509Authority)) -> Vec<u8> {
        let leaf = SigningKey::generate(KeyAlgorithm::EcP256).unwrap();
        let request = LeafRequest {
            spiffe_id: SpiffeId::from_path(&self.trust_domain, "/w").unwrap(),
            public_key_spki: leaf.spki_der().to_vec(),
            serial: Serial::draw(&SystemEntropy),
            validity: Validity::issued_at(SystemClock.now(), Duration::from_secs(3_600)),
            dns_names: Vec::new(),
            subject: LeafSubject::default(),
        };
        prepare_leaf(&request, authority)
            .unwrap()
            .sign(key)
            .unwrap()
    }

    /// A leaf of which one byte of the post-quantum signature is another, natively signed again.
    fn altered(&self, leaf: &[u8]) -> Vec<u8> {
        let parts = CertificateParts::parse(leaf).unwrap();
        let extension = parts.tbs.extension(ALT_SIGNATURE_VALUE).unwrap().der;
        let mut tbs = parts.tbs.der.to_vec();
        let at = tbs
            .windows(extension.len())
            .position(|part| part == extension);
        let last = at.unwrap() + extension.len() - 1;
        tbs[last] ^= 1;
        let mut signature = vec![0];
        signature.extend(self.hybrid.0.native().sign(&tbs).unwrap());
        let content = [
            tbs,
            parts.signature_algorithm.to_vec(),
            element(BIT_STRING, &signature),
        ];
        element(SEQUENCE, &content.concat())
    }

    fn write(&self, name: &str, certificate: &[u8]) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, pem::encode_certificates([certificate])).unwrap();
        path
    }
}

/// A DER element of less than 64 KiB.
fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    let mut der = match length {
        [0, short @ ..0x80] => vec![tag, short],
        [0, short] => vec![tag, 0x81, short],
        [high, low] => vec![tag, 0x82, high, low],
    };
    der.extend_from_slice(content);
    der
}

fn verify(svid: &Path, bundle: &Path, flags: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mintmark"))
        .args(["x509", "verify", svid.to_str().unwrap(), "-o", "json"])
        .args(["--bundle", bundle.to_str().unwrap()])
        .args(flags)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn refused(svid: &Path, bundle: &Path, flags: &[&str], says: &[&str]) {
    let output = verify(svid, bundle, flags);
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(8), "{complaint}");
    assert!(output.stdout.is_empty());
    for part in says {
        assert!(complaint.contains(part), "no {part} in {complaint}");
    }
}

#[test]
fn a_hybrid_svid_without_its_post_quantum_signature_or_with_another_is_refused() {
    let world = World::new();
    let bundle = world.write("bundle.pem", world.hybrid.1.certificate_der());
    let leaf = world.issue(&world.hybrid);
    let good = world.write("good.pem", &leaf);
    let output = verify(&good, &bundle, &["--require-hybrid"]);
    assert!(output.status.success(), "{output:?}");
    let verified: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        verified["signatures"],
        serde_json::json!(["native", "ML-DSA-65"])
    );

    let stripped = world.write("stripped.pem", &world.issue(&world.classical));
    refused(&stripped, &bundle, &[], &["MM-3421", "2.5.29.73"]);
    let altered = world.write("altered.pem", &world.altered(&leaf));
    refused(
        &altered,
        &bundle,
        &[],
        &["MM-3421", "alternative signature"],
    );

    // The forgeries are sound but for that: who is told of no post-quantum half takes them, and who asks
    // for one does not.
    let classical = world.write("classical.pem", world.classical.1.certificate_der());
    assert!(verify(&stripped, &classical, &[]).status.success());
    refused(&stripped, &classical, &["--require-hybrid"], &["MM-3422"]);
}

#[test]
fn an_svid_altered_anywhere_is_refused() {
    let world = World::new();
    let bundle = world.write("bundle.pem", world.hybrid.1.certificate_der());
    let leaf = world.issue(&world.hybrid);
    for part in 0..16 {
        let mut altered = leaf.clone();
        let at = leaf.len() * part / 16 + 8;
        altered[at] ^= 1;
        let altered = world.write("altered.pem", &altered);
        let output = verify(&altered, &bundle, &[]);
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(8), "byte {at}: {complaint}");
    }
}
