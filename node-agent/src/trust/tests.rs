#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use mintmark_identity::{
    authority::AuthorityKey,
    entropy::SystemEntropy,
    svid::x509::{CaSubject, Serial, self_signed_authority},
    validity::Validity,
};
use mintmark_runtime::testing::MemoryDisk;

use super::*;
use crate::testing::{at, domain};

const KEPT: &str = "/data/bundle.json";
const GIVEN: &str = "/given";

/// A bundle with one authority that is valid for these seconds.
fn bundle(from: i64, seconds: u64) -> Bundle {
    let key = AuthorityKey::generate(false).unwrap();
    let validity = Validity::issued_at(at(from), Duration::from_secs(seconds));
    let serial = Serial::draw(&SystemEntropy);
    let der =
        self_signed_authority(&domain(), &key, serial, validity, &CaSubject::default()).unwrap();
    let mut bundle = Bundle::empty(domain());
    bundle.x509 = vec![X509Anchor::parse(&der).unwrap()];
    bundle
}

fn disk(given: &[u8]) -> Arc<MemoryDisk> {
    let disk = MemoryDisk::new();
    disk.create_dir_all(Path::new("/data"), 0o700).unwrap();
    disk.write_atomic(Path::new(GIVEN), given, MODE_PUBLIC)
        .unwrap();
    Arc::new(disk)
}

fn open(disk: &Arc<MemoryDisk>, given: bool, pinned: bool, now: i64) -> Result<Trust, TrustError> {
    let given = given.then_some(Path::new(GIVEN));
    let disk: Arc<dyn Disk> = Arc::<MemoryDisk>::clone(disk);
    Trust::open(disk, domain(), KEPT.into(), given, pinned, at(now))
}

fn own(trust: &Trust) -> Bundle {
    trust.bundles().get(&domain()).unwrap().as_ref().clone()
}

#[tokio::test]
async fn a_kept_bundle_outlives_the_configured_one_until_an_operator_gives_another() {
    let (given, told, another) = (bundle(50, 9_000), bundle(50, 9_000), bundle(50, 9_000));
    let disk = disk(&given.to_document());
    let trust = open(&disk, true, false, 100).unwrap();
    assert_eq!(own(&trust), given);
    assert_eq!(trust.take(Arc::new(told.clone())), Taken::New);
    assert!(trust.keep().await);
    assert_eq!(
        own(&open(&disk, true, false, 100).unwrap()),
        told,
        "the old file undoes nothing"
    );
    assert_eq!(
        own(&open(&disk, false, false, 100).unwrap()),
        told,
        "nor is it needed any more"
    );
    disk.write_atomic(Path::new(GIVEN), &another.to_document(), MODE_PUBLIC)
        .unwrap();
    assert_eq!(own(&open(&disk, true, false, 100).unwrap()), another);
}

#[tokio::test]
async fn what_is_older_than_what_was_told_is_not_trusted_again() {
    let numbered = |sequence| Bundle {
        sequence: Some(sequence),
        ..bundle(50, 9_000)
    };
    let (given, first, second) = (numbered(900), numbered(7), numbered(8));
    let disk = disk(&given.to_document());
    let trust = open(&disk, true, false, 100).unwrap();
    let take = |trust: &Trust, bundle: &Bundle| trust.take(Arc::new(bundle.clone()));
    assert_eq!(
        take(&trust, &first),
        Taken::New,
        "an operator's number is none"
    );
    assert_eq!(take(&trust, &second), Taken::New);
    assert_eq!(take(&trust, &first), Taken::Older);
    assert_eq!(take(&trust, &second), Taken::Same);
    assert_eq!(own(&trust), second);
    assert!(trust.keep().await);
    let again = open(&disk, true, false, 100).unwrap();
    assert_eq!(take(&again, &first), Taken::Older, "nor after a restart");
    assert_eq!(own(&again), second);
}

#[tokio::test]
async fn what_the_cache_held_before_a_statement_does_not_come_back_with_its_next_change() {
    let numbered = |sequence| {
        Arc::new(Bundle {
            sequence: Some(sequence),
            ..bundle(50, 9_000)
        })
    };
    let (given, told, stated) = (numbered(1), numbered(2), numbered(3));
    let trust = open(&disk(&given.to_document()), true, false, 100).unwrap();
    let cache = Cache::new(State::new(domain()));
    let stop = CancellationToken::new();
    let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy);
    let mut replaced = trust.replaced();
    let following = trust.clone().follow(entropy, cache.clone(), stop.clone());
    let checking = async {
        cache.change(|state| state.bundles = Arc::new([told].into_iter().collect()));
        replaced.changed().await.unwrap();
        trust.take(Arc::clone(&stated));
        for _ in 0..3 {
            cache.change(|state| {
                state.told_until = state.told_until.saturating_add(Duration::from_secs(1))
            });
            tokio::task::yield_now().await;
        }
        stop.cancel();
    };
    tokio::join!(following, checking);
    assert_eq!(own(&trust), *stated);
}

#[tokio::test]
async fn an_expired_kept_bundle_is_of_no_use() {
    let (given, told) = (bundle(50, 9_000), bundle(50, 450));
    let disk = disk(&given.to_document());
    let trust = open(&disk, true, false, 100).unwrap();
    assert_eq!(trust.take(Arc::new(told)), Taken::New);
    assert!(trust.keep().await);
    assert!(trust.is_usable(at(500)));
    assert!(!trust.is_usable(at(501)));
    assert_eq!(own(&open(&disk, true, false, 501).unwrap()), given);
    assert!(matches!(
        open(&disk, false, false, 501),
        Err(TrustError::Nothing)
    ));
    let pinned = open(&disk, false, true, 501).unwrap();
    assert!(
        !pinned.is_usable(at(501)),
        "a statement has to bring the bundle"
    );
}

#[test]
fn a_bundle_is_read_as_a_document_or_as_pem_and_nothing_else() {
    let given = bundle(50, 9_000);
    let text = pem::encode(pem::CERTIFICATE, &given.x509.first().unwrap().certificate);
    let read = open(&disk(text.as_bytes()), true, false, 100).unwrap();
    assert_eq!(own(&read).x509, given.x509);
    for bad in [
        b"".as_slice(),
        b"{}",
        b"hello",
        b"\xff\xfe",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\n",
    ] {
        let error = open(&disk(bad), true, true, 100).unwrap_err();
        assert!(error.to_string().starts_with("MM-2022"), "{error}");
    }
}
