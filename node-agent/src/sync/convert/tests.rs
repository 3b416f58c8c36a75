#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use mintmark_proto::mintmark::state::v1::Entry;

use super::*;
use crate::testing::{domain, entry};

fn wire() -> pb::Update {
    let position = Some(pb::Position { epoch: 3, index: 4 });
    pb::Update {
        position,
        ..pb::Update::default()
    }
}

fn document() -> Vec<u8> {
    Bundle::empty(domain()).to_document()
}

#[test]
fn every_field_arrives() {
    let good = entry("a", "/a", &["unix:uid:1"]);
    let update = update(
        pb::Update {
            complete: true,
            entries: vec![(&good).into()],
            removed_entry_ids: vec!["b".into()],
            bundles: vec![pb::Bundle {
                trust_domain: "example.org".into(),
                document: document(),
                sequence: 9,
            }],
            removed_bundles: vec!["gone.test".into()],
            tainted_authorities: vec!["x".into(), "y".into()],
            defaults: Some(pb::Defaults {
                x509_svid_ttl_seconds: 60,
                jwt_svid_ttl_seconds: 0,
                pq: PqMode::Hybrid.into(),
                servers: vec!["a:1".into()],
            }),
            ..wire()
        },
        &domain(),
    )
    .unwrap();
    assert_eq!(update.position, Position { epoch: 3, index: 4 });
    assert!(update.complete);
    assert_eq!(update.entries, [good]);
    assert_eq!(update.removed_entries, [EntryId::parse("b").unwrap()]);
    assert_eq!((update.bundles.len(), update.bundles[0].sequence), (1, 9));
    assert_eq!(
        update.removed_bundles,
        [TrustDomain::parse("gone.test").unwrap()]
    );
    assert_eq!(update.tainted.len(), 2);
    let defaults = update.defaults.unwrap();
    assert_eq!(defaults.x509_svid_ttl, Some(Duration::from_secs(60)));
    assert_eq!((defaults.jwt_svid_ttl, defaults.hybrid), (None, true));
}

#[test]
fn an_entry_that_is_not_understood_is_taken_as_removed() {
    let bad = |change: fn(&mut Entry)| {
        let mut bad: Entry = (&entry("a", "/a", &["unix:uid:1"])).into();
        change(&mut bad);
        let update = pb::Update {
            entries: vec![bad],
            ..wire()
        };
        let update = super::update(update, &domain()).unwrap();
        assert!(update.entries.is_empty());
        update.removed_entries
    };
    let removed = [EntryId::parse("a").unwrap()];
    assert_eq!(
        bad(|entry| entry.spiffe_id = "spiffe://other.org/a".into()),
        removed
    );
    assert_eq!(bad(|entry| entry.spiffe_id = "x".into()), removed);
    assert_eq!(bad(|entry| entry.selectors.clear()), removed);
    assert_eq!(bad(|entry| entry.hint = "x".repeat(2_000)), removed);
    assert_eq!(bad(|entry| entry.id = String::new()), []);
}

#[test]
fn a_malformed_foreign_bundle_is_removed_and_a_malformed_own_one_refuses_the_update() {
    let bundle = |name: &str| {
        let bundle = pb::Bundle {
            trust_domain: name.into(),
            document: b"x".to_vec(),
            sequence: 1,
        };
        update(
            pb::Update {
                bundles: vec![bundle],
                ..wire()
            },
            &domain(),
        )
    };
    let foreign = bundle("partner.test").unwrap();
    assert_eq!(
        foreign.removed_bundles,
        [TrustDomain::parse("partner.test").unwrap()]
    );
    assert!(matches!(
        bundle("example.org"),
        Err(ConvertError::OwnBundle(_))
    ));
    assert!(bundle("").unwrap().bundles.is_empty());
    let nowhere = pb::Update {
        position: None,
        ..wire()
    };
    assert!(matches!(
        update(nowhere, &domain()),
        Err(ConvertError::NoPosition)
    ));
}
