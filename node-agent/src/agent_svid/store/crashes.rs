//! The agent's identity on a disk that loses power at any operation.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use rcgen::{CertificateParams, KeyPair, KeyUsagePurpose, SanType};

use super::*;
use crate::{
    sim::disk::{Coverage, SimDisk},
    testing::{at, domain},
};

const AGENT: &str = "spiffe://example.org/spire/agent/join_token/t";

fn open(disk: &SimDisk) -> Result<Store, StoreError> {
    let (data, keys) = (Path::new("/agent/data"), Path::new("/agent/keys"));
    Store::open(Arc::new(disk.clone()), domain(), data, keys)
}

/// What a server issues for this key; the draw tells one from another.
fn issued(key: &NewKey, draw: u64) -> Own {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(AGENT.try_into().unwrap())];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let pair = KeyPair::try_from(key.pkcs8.as_slice()).unwrap();
    let der = params.self_signed(&pair).unwrap().der().clone();
    let secret = SecretBytes::new(key.pkcs8.to_vec());
    Own {
        chain: vec![der.to_vec()],
        svid: Arc::new(X509Svid::new(vec![der], secret).unwrap()),
        renew_at: at(1_000),
        draw,
        evidence: "join_token".to_owned(),
    }
}

fn note() -> Denied {
    Denied {
        banned: true,
        agent_id: AGENT.to_owned(),
        evidence: "join_token".to_owned(),
    }
}

/// What the store acknowledged.
#[derive(Debug, Default, Clone)]
struct Said {
    /// Draw of the SVID that was kept, and of the one that was being kept.
    kept: Option<u64>,
    keeping: Option<u64>,
    /// The key that a server heard of.
    told: Option<Vec<u8>>,
    forgetting: bool,
    forgotten: bool,
}

/// Attests, renews twice, and is denied.
fn live(disk: &SimDisk, said: &mut Said) -> Result<(), StoreError> {
    let store = open(disk)?;
    for draw in 1..=3 {
        let key = store.next_key(None)?;
        said.told = Some(key.pkcs8.to_vec());
        said.keeping = Some(draw);
        store.keep(&issued(&key, draw))?;
        said.kept = Some(draw);
    }
    said.forgetting = true;
    store.forget(Some(&note()))?;
    said.forgotten = true;
    Ok(())
}

fn check(disk: &SimDisk, said: &Said, context: &str) {
    let store = open(disk).unwrap();
    let own = store.load().unwrap_or_else(|e| panic!("{context}: {e:?}"));
    let found = own.as_ref().map(|own| own.draw);
    if said.forgotten {
        assert_eq!(found, None, "{context}");
    }
    if said.forgetting {
        let denied = store.denied().unwrap();
        assert!(
            found == said.kept || denied == Some(note()),
            "{context}: {found:?}, {denied:?}"
        );
    } else {
        assert!(
            found == said.kept || found == said.keeping,
            "{context}: {found:?} of {said:?}"
        );
        // Whatever key a server may have heard of can still be shown.
        let known = store.known_keys().unwrap();
        let told = said.told.as_ref();
        assert!(
            told.is_none_or(|told| known.iter().any(|key| key.expose() == told.as_slice())),
            "{context}"
        );
    }
    // And the agent can go on: with the same key if its answer may have been lost.
    let key = store.next_key(None).unwrap();
    store.keep(&issued(&key, 9)).unwrap();
    assert_eq!(
        open(disk).unwrap().load().unwrap().unwrap().draw,
        9,
        "{context}"
    );
    assert_eq!(store.denied().unwrap(), None, "{context}");
}

#[test]
fn a_crash_at_any_operation_leaves_the_old_identity_or_the_new_one_whole() {
    let whole = SimDisk::new(1);
    live(&whole, &mut Said::default()).unwrap();
    let all = whole.operations().total();
    let mut covered = Coverage::default();
    for operation in 0..all {
        for seed in 0..4 {
            let context = format!("seed {seed}, crash at {operation} of {all}");
            let disk = SimDisk::new(seed * 1000 + operation);
            disk.crash_at(operation);
            let mut said = Said::default();
            let _ = live(&disk, &mut said);
            let disk = disk.restart();
            // Reading may have to finish what was cut off; power goes again in that.
            disk.crash_at(disk.operations().total() + seed * 2);
            let _ = open(&disk).and_then(|store| store.load());
            disk.crash();
            covered.crashes_in_operation += disk.coverage().crashes_in_operation;
            covered.temporaries_left += disk.coverage().temporaries_left;
            covered.names_lost += disk.coverage().names_lost;
            check(&disk.restart(), &said, &context);
        }
    }
    println!("{covered:?}");
    assert!(covered.crashes_in_operation > 300, "{covered:?}");
    assert!(
        covered.temporaries_left > 10 && covered.names_lost > 10,
        "{covered:?}"
    );
}
