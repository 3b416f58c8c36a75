//! What the crate offers to tests, its own and others'.
//!
//! Responsible for: the conformance suite of [`KeyManager`], and running futures that never
//! wait. (`ManualClock` and `SeededEntropy` stand beside what they fake.)
//! Always holds: a suite ends normally exactly if the implementation does what the trait says.
//! Not here: anything that production code calls.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a suite fails by panicking"
)]

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use crate::key_manager::{
    KeyAlgorithm, KeyError, KeyManager, KeyName, SigningKey, verify_signature,
};

/// Runs a future that never waits, such as those of in-memory fakes, without a runtime.
///
/// # Panics
/// If the future waits.
pub fn run_ready<F: Future>(future: F) -> F::Output {
    let mut context = Context::from_waker(Waker::noop());
    match pin!(future).poll(&mut context) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("future waits; run it on a runtime"),
    }
}

/// The conformance suite of [`KeyManager`]. `manager` may hold other keys, but none whose name
/// starts with `conformance-`.
///
/// # Panics
/// If the manager breaks a promise of the trait.
pub async fn check_key_manager(manager: &dyn KeyManager) {
    let mut made = 0;
    for kind in KeyAlgorithm::ALL {
        let name = KeyName::parse(&format!("conformance-{kind}")).expect("a good name");
        missing_keys_are_not_found(manager, &name).await;
        match manager.generate(&name, kind).await {
            Err(KeyError::Unsupported) => continue,
            Err(error) => panic!("generate {kind}: {error}"),
            Ok(public) => {
                made += 1;
                assert_eq!(public.algorithm, kind, "kind of the key that was made");
                existing_key_works(manager, &name, kind, &public.spki).await;
            }
        }
        names_are_given_once(manager, &name, kind).await;
        exported_keys_can_be_imported(manager, &name, kind).await;
        manager.remove(&name).await.expect("remove");
        manager.remove(&name).await.expect("remove what is gone");
        missing_keys_are_not_found(manager, &name).await;
    }
    assert!(made > 0, "a key manager supports at least one kind of key");
}

async fn missing_keys_are_not_found(manager: &dyn KeyManager, name: &KeyName) {
    assert_eq!(
        manager.public_key(name).await.err(),
        Some(KeyError::NotFound)
    );
    assert_eq!(
        manager.sign(name, b"m").await.err(),
        Some(KeyError::NotFound)
    );
}

async fn existing_key_works(
    manager: &dyn KeyManager,
    name: &KeyName,
    kind: KeyAlgorithm,
    spki: &[u8],
) {
    let public = manager.public_key(name).await.expect("public key");
    assert_eq!(
        (public.algorithm, public.spki.as_slice()),
        (kind, spki),
        "same public key as returned by generate"
    );
    for message in [&b""[..], b"message", &[0x5a; 10_000]] {
        let signature = manager.sign(name, message).await.expect("sign");
        assert_eq!(
            verify_signature(spki, message, &signature),
            Ok(()),
            "{kind}"
        );
        assert!(
            verify_signature(spki, b"another message", &signature).is_err(),
            "{kind}"
        );
    }
}

async fn names_are_given_once(manager: &dyn KeyManager, name: &KeyName, kind: KeyAlgorithm) {
    let before = manager.public_key(name).await.expect("public key");
    assert_eq!(
        manager.generate(name, kind).await.err(),
        Some(KeyError::Exists)
    );
    let imported = SigningKey::generate(kind).expect("software key");
    let refusal = manager.import(name, imported).await.err();
    assert!(
        matches!(refusal, Some(KeyError::Exists | KeyError::Unsupported)),
        "{refusal:?}"
    );
    assert_eq!(
        manager.public_key(name).await,
        Ok(before),
        "the key is unchanged"
    );
}

async fn exported_keys_can_be_imported(
    manager: &dyn KeyManager,
    name: &KeyName,
    kind: KeyAlgorithm,
) {
    let exported = match manager.export(name).await {
        Err(KeyError::Unsupported) => return,
        other => other.expect("export"),
    };
    let before = manager.public_key(name).await.expect("public key");
    assert_eq!(exported.public_key(), before, "{kind}");
    manager.remove(name).await.expect("remove");
    match manager.import(name, exported).await {
        Err(KeyError::Unsupported) => {}
        other => assert_eq!(other, Ok(before), "{kind}"),
    }
}
