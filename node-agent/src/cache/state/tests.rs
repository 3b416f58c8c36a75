#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::testing::{at, domain, entry, first_update, put, state, svid};

fn id(text: &str) -> EntryId {
    EntryId::parse(text).unwrap()
}

fn foreign(name: &str) -> BundleChange {
    let bundle = Arc::new(Bundle::empty(TrustDomain::parse(name).unwrap()));
    BundleChange {
        bundle,
        sequence: 1,
    }
}

fn update(index: u64) -> Update {
    Update {
        position: Position { epoch: 1, index },
        ..Update::default()
    }
}

#[test]
fn the_first_update_must_be_complete_and_bring_the_own_bundle() {
    let mut state = State::new(domain());
    assert_eq!(state.apply(update(1), at(1)), Err(UpdateError::NotComplete));
    let without = Update {
        complete: true,
        ..update(1)
    };
    assert_eq!(state.apply(without, at(1)), Err(UpdateError::NoOwnBundle));
    assert_eq!(state.position, None);
    state.apply(first_update(vec![]), at(1)).unwrap();
    assert_eq!((state.bundle_sequence, state.last_update), (1, Some(at(1))));
}

#[test]
fn an_older_update_changes_nothing_and_positions_compare_epoch_first() {
    let mut state = state(vec![entry("a", "/a", &["unix:uid:1"])]);
    state.apply(update(5), at(2)).unwrap();
    let old = Update {
        removed_entries: vec![id("a")],
        ..update(4)
    };
    assert!(matches!(
        state.apply(old, at(3)),
        Err(UpdateError::Older { .. })
    ));
    assert_eq!((state.entries.len(), state.last_update), (1, Some(at(2))));
    state.apply(update(5), at(3)).unwrap();
    let restored = Update {
        position: Position { epoch: 2, index: 1 },
        ..Update::default()
    };
    state.apply(restored, at(4)).unwrap();
    assert!(state.apply(update(1_000), at(5)).is_err());
}

#[test]
fn a_complete_update_replaces_everything_and_keeps_what_is_equal() {
    let (a, b) = (
        entry("a", "/a", &["unix:uid:1"]),
        entry("b", "/b", &["unix:uid:1"]),
    );
    let mut state = state(vec![a.clone(), b]);
    put(&mut state, svid(&a, 100, 200, 300));
    let arrival = state.entries.get(&id("a")).unwrap().arrival;
    let next = Update {
        position: Position { epoch: 1, index: 9 },
        ..first_update(vec![a])
    };
    state.apply(next, at(150)).unwrap();
    assert_eq!(state.entries.len(), 1);
    let held = state.entries.get(&id("a")).unwrap();
    assert_eq!((held.arrival, held.since), (arrival, at(100)));
    assert!(state.svids.contains_key(&id("a")));
}

#[test]
fn a_removed_entry_takes_its_svid_along_and_so_does_another_identity() {
    let a = entry("a", "/a", &["unix:uid:1"]);
    let mut state = state(vec![a.clone()]);
    put(&mut state, svid(&a, 100, 200, 300));
    let mut renamed = entry("a", "/renamed", &["unix:uid:1"]);
    renamed.revision = 1;
    state
        .apply(
            Update {
                entries: vec![renamed.clone()],
                ..update(2)
            },
            at(110),
        )
        .unwrap();
    assert!(state.svids.is_empty());
    put(&mut state, svid(&renamed, 110, 200, 300));
    state
        .apply(
            Update {
                removed_entries: vec![id("a")],
                ..update(3)
            },
            at(120),
        )
        .unwrap();
    assert!(state.svids.is_empty() && state.entries.is_empty());
}

fn anchor() -> X509Anchor {
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    X509Anchor::parse(params.self_signed(&key).unwrap().der()).unwrap()
}

#[test]
fn an_authority_that_leaves_the_bundle_takes_its_svids_along_in_the_same_step() {
    let entries = ["a", "b", "c"].map(|name| entry(name, "/one", &["unix:uid:1"]));
    let mut state = state(entries.to_vec());
    let (leaves, stays) = (anchor(), anchor());
    let own = |index, x509: &[&X509Anchor]| {
        let mut bundle = Bundle::empty(domain());
        bundle.x509 = x509.iter().copied().cloned().collect();
        Update {
            bundles: vec![BundleChange {
                bundle: Arc::new(bundle),
                sequence: index,
            }],
            ..update(index)
        }
    };
    state.apply(own(2, &[&leaves, &stays]), at(110)).unwrap();
    for (entry, anchor_id) in entries.iter().zip([leaves.id(), stays.id(), "unknown"]) {
        let anchor_id = anchor_id.to_owned();
        let svid = svid(entry, 100, 200, 300);
        put(&mut state, CachedSvid { anchor_id, ..svid });
    }
    state.apply(update(3), at(120)).unwrap();
    assert_eq!(state.svids.len(), 3, "the bundle is the same");
    assert!(state.has_anchor(leaves.id()) && !state.has_anchor("unknown"));
    state.apply(own(4, &[&stays]), at(130)).unwrap();
    assert!(state.has_anchor(stays.id()) && !state.has_anchor(leaves.id()));
    assert_eq!(
        state.svids.keys().cloned().collect::<Vec<_>>(),
        [id("b"), id("c")]
    );
}

#[test]
fn an_answer_for_an_entry_that_was_replaced_or_to_a_denied_agent_is_dropped() {
    let a = entry("a", "/a", &["unix:uid:1"]);
    let mut state = state(vec![a.clone()]);
    let asked_at = state.entries.get(&id("a")).unwrap().arrival;
    state
        .apply(
            Update {
                removed_entries: vec![id("a")],
                ..update(2)
            },
            at(110),
        )
        .unwrap();
    state
        .apply(
            Update {
                entries: vec![a.clone()],
                ..update(3)
            },
            at(120),
        )
        .unwrap();
    let late = Arc::new(svid(&a, 100, 200, 300));
    assert!(
        !state.put_svid(Arc::clone(&late), asked_at),
        "the same id, but another arrival"
    );
    let now_at = state.entries.get(&id("a")).unwrap().arrival;
    assert!(state.put_svid(Arc::clone(&late), now_at));
    state.deny(Denial::Banned);
    assert!(!state.put_svid(late, now_at));
    assert!(state.svids.is_empty() && state.entries.is_empty());
    assert!(state.identities(&a.selectors, at(150)).is_empty());
}

#[test]
fn wla_n4_foreign_bundles_reach_only_who_federates_and_the_own_is_not_foreign() {
    let mut federating = entry("a", "/a", &["unix:uid:1"]);
    let partner = TrustDomain::parse("partner.test").unwrap();
    let unknown = TrustDomain::parse("unknown.test").unwrap();
    federating.federates_with = [partner.clone(), unknown, domain()].into();
    let plain = entry("b", "/b", &["unix:uid:2"]);
    let mut state = state(vec![federating.clone(), plain.clone()]);
    let bundles = vec![foreign("partner.test"), foreign("other.test")];
    state
        .apply(
            Update {
                bundles,
                ..update(2)
            },
            at(110),
        )
        .unwrap();
    let seen = |entry: &RegistrationEntry| {
        let identities = state.identities(&entry.selectors, at(120));
        state.federated(&identities).into_keys().collect::<Vec<_>>()
    };
    assert_eq!(seen(&federating), std::slice::from_ref(&partner));
    assert_eq!(seen(&plain), []);
    let gone = Update {
        removed_bundles: vec![partner],
        ..update(3)
    };
    state.apply(gone, at(130)).unwrap();
    assert_eq!(state.bundles.len(), 2);
    let own_gone = Update {
        removed_bundles: vec![domain()],
        ..update(4)
    };
    assert_eq!(
        state.apply(own_gone, at(140)),
        Err(UpdateError::NoOwnBundle)
    );
}

#[test]
fn a_taint_keeps_the_time_at_which_it_was_first_heard_of() {
    let mut state = state(vec![]);
    let tainted = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect();
    state
        .apply(
            Update {
                tainted: tainted(&["x"]),
                ..update(2)
            },
            at(10),
        )
        .unwrap();
    state
        .apply(
            Update {
                tainted: tainted(&["x", "y"]),
                ..update(3)
            },
            at(20),
        )
        .unwrap();
    let known: Vec<(&str, Timestamp)> = state
        .tainted
        .iter()
        .map(|(id, at)| (id.as_str(), *at))
        .collect();
    assert_eq!(known, [("x", at(10)), ("y", at(20))]);
    state.apply(update(4), at(30)).unwrap();
    assert!(state.tainted.is_empty(), "the list is complete each time");
}

#[test]
fn an_expired_svid_is_not_shown() {
    let a = entry("a", "/a", &["unix:uid:1"]);
    let mut state = state(vec![a.clone()]);
    put(&mut state, svid(&a, 100, 200, 300));
    let shown = |now: i64| {
        state
            .identities(&a.selectors, at(now))
            .remove(0)
            .svid
            .is_some()
    };
    assert!(shown(300));
    assert!(!shown(301));
}
