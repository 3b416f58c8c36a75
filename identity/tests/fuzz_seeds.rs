//! The properties of the fuzz targets over their seeds, and over damaged seeds.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]
#![allow(clippy::indexing_slicing, reason = "tests")]

#[path = "../../fuzz/src/lib.rs"]
mod properties;

use std::path::Path;

use mintmark_identity::entropy::{Entropy, SeededEntropy, draw_u64};

/// Damaged copies made of each seed.
const COPIES: usize = 300;

#[expect(
    clippy::disallowed_methods,
    reason = "seeds are files of this repository"
)]
fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/seeds")
        .join(target);
    let seeds = std::fs::read_dir(folder).unwrap().map(|entry| {
        let path = entry.unwrap().path();
        (path.display().to_string(), std::fs::read(&path).unwrap())
    });
    let seeds: Vec<_> = seeds.collect();
    assert!(!seeds.is_empty(), "no seeds for {target}");
    seeds
}

/// Changes, removes, repeats or inserts a few bytes.
fn damage(seed: &[u8], entropy: &dyn Entropy) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=draw_u64(entropy) % 3 {
        let draw = draw_u64(entropy).to_le_bytes();
        let at = usize::from(u16::from_le_bytes([draw[0], draw[1]])) % (bytes.len() + 1);
        let to = (at + usize::from(draw[2] % 16)).min(bytes.len());
        match draw[3] % 4 {
            0 if at < bytes.len() => bytes[at] = draw[4],
            1 => drop(bytes.drain(at..to)),
            2 => {
                let piece = bytes[at..to].to_vec();
                bytes.splice(at..at, piece);
            }
            _ => bytes.insert(at, draw[4]),
        }
    }
    bytes
}

fn check(target: &str, property: fn(&[u8])) {
    for (name, seed) in seeds(target) {
        let entropy = SeededEntropy::new(7).fork(&name[name.rfind('/').unwrap()..]);
        property(&seed);
        for _ in 0..COPIES {
            let damaged = damage(&seed, &entropy);
            let result = std::panic::catch_unwind(|| property(&damaged));
            assert!(
                result.is_ok(),
                "{name}, damaged to {:?}",
                String::from_utf8_lossy(&damaged)
            );
        }
    }
}

#[test]
fn spiffe_ids_keep_their_property() {
    check("spiffe_id", properties::spiffe_id);
}

#[test]
fn bundle_documents_keep_their_property() {
    check("bundle_document", properties::bundle_document);
}

#[test]
fn jwt_svids_keep_their_property() {
    check("jwt_svid", properties::jwt_svid);
}

#[test]
fn certificates_keep_their_property() {
    check("x509_svid", properties::x509_svid);
}

#[test]
fn requests_keep_their_property() {
    check("csr", properties::csr);
}
