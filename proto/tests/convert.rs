//! Converting out and back gives an equal value, and a bad field is named.
//!
//! Responsible for: every conversion, over generated values and over each rule.
//! Always holds: a test fails when a field is forgotten, in either direction.
//! Not here: the rules of `mintmark-identity` themselves.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use std::collections::BTreeSet;
use std::time::Duration;

use mintmark_identity::clock::Timestamp;
use mintmark_identity::entry::{EntryId, RegistrationEntry};
use mintmark_identity::selector::{Selector, SelectorError, Selectors};
use mintmark_identity::spiffe_id::{SpiffeId, SpiffeIdError};
use mintmark_identity::trust_domain::TrustDomain;
use mintmark_proto::convert::agent::agent_to_spire;
use mintmark_proto::convert::entry::{
    entry_from_spire, entry_to_spire, requested_entry, requested_id, updated_entry,
};
use mintmark_proto::convert::svid::{JwtSvidRecord, X509SvidRecord, join_token_to_spire};
use mintmark_proto::convert::{ConvertError, Reason};
use mintmark_proto::mintmark::state::v1 as state;
use mintmark_proto::spire::types;
use proptest::prelude::*;
use prost::Message;

fn domain() -> impl Strategy<Value = TrustDomain> {
    "[a-z0-9]{1,12}(\\.[a-z]{2,4})?".prop_map(|name| TrustDomain::parse(&name).unwrap())
}

fn id() -> impl Strategy<Value = SpiffeId> {
    (domain(), "(/[A-Za-z0-9_][A-Za-z0-9._-]{0,8}){0,3}")
        .prop_map(|(domain, path)| SpiffeId::from_path(&domain, &path).unwrap())
}

fn selector() -> impl Strategy<Value = Selector> {
    ("[a-z_]{1,8}", "[ -~é]{1,20}").prop_map(|(kind, value)| Selector::new(kind, value).unwrap())
}

fn selectors() -> impl Strategy<Value = Selectors> {
    prop::collection::btree_set(selector(), 0..4)
}

fn ttl() -> impl Strategy<Value = Option<Duration>> {
    prop::option::of((1..=i32::MAX as u64).prop_map(Duration::from_secs))
}

fn seconds() -> impl Strategy<Value = Timestamp> {
    (0..=i64::MAX / 1000).prop_map(Timestamp::from_unix_secs)
}

prop_compose! {
    fn entry()(
        (id_text, revision) in ("[A-Za-z0-9._-]{1,40}", 0..=i64::MAX as u64),
        (spiffe_id, parent_id) in (id(), id()),
        selectors in selectors(),
        (x509_svid_ttl, jwt_svid_ttl) in (ttl(), ttl()),
        federates_with in prop::collection::btree_set(domain(), 0..3),
        flags in any::<[bool; 5]>(),
        expires_at in prop::option::of((1..=i64::MAX / 1000).prop_map(Timestamp::from_unix_secs)),
        dns_names in prop::collection::vec("[a-z]{1,8}\\.test", 0..3),
        hint in "[a-z]{0,8}",
        created_at in seconds(),
    ) -> RegistrationEntry {
        let [admin, downstream, store_svid, no_prefetch, jti] = flags;
        RegistrationEntry {
            id: EntryId::parse(id_text).unwrap(),
            revision, spiffe_id, parent_id, selectors, x509_svid_ttl, jwt_svid_ttl,
            federates_with, admin, downstream, expires_at, dns_names, store_svid, hint,
            created_at,
            disable_x509_svid_prefetch: no_prefetch,
            jwt_svid_include_jti: jti,
        }
    }
}

/// Through bytes, so that what is compared is what a peer would see.
fn resent<M: Message + Default>(message: &M) -> M {
    M::decode(message.encode_to_vec().as_slice()).unwrap()
}

proptest! {
    #[test]
    fn an_entry_survives_the_replicated_state(entry in entry()) {
        let wire = resent(&state::Entry::from(&entry));
        prop_assert_eq!(RegistrationEntry::try_from(&wire).unwrap(), entry.clone());
        prop_assert_eq!(RegistrationEntry::try_from(wire).unwrap(), entry);
    }

    #[test]
    fn an_entry_survives_spires_api(entry in entry()) {
        let wire = resent(&entry_to_spire(&entry, None));
        prop_assert_eq!(entry_from_spire(&wire).unwrap(), entry);
    }

    #[test]
    fn a_created_entry_has_the_servers_name_date_and_revision(entry in entry()) {
        let wire = entry_to_spire(&entry, None);
        let id = EntryId::parse("drawn").unwrap();
        let created_at = Timestamp::from_unix_millis(5_500);
        let created = requested_entry(&wire, id.clone(), created_at).unwrap();
        prop_assert_eq!(requested_id(&wire).unwrap().unwrap(), entry.id.clone());
        let expected = RegistrationEntry { id, created_at, revision: 0, ..entry };
        prop_assert_eq!(created, expected);
    }

    #[test]
    fn an_update_without_a_mask_takes_all_that_a_caller_may_set(a in entry(), b in entry()) {
        let updated = updated_entry(&a, &entry_to_spire(&b, None), None).unwrap();
        let expected = RegistrationEntry {
            id: a.id, revision: a.revision, created_at: a.created_at, ..b
        };
        prop_assert_eq!(updated, expected);
    }

    #[test]
    fn an_update_with_an_empty_mask_changes_nothing(a in entry(), b in entry()) {
        let mask = types::EntryMask::default();
        let updated = updated_entry(&a, &entry_to_spire(&b, None), Some(&mask)).unwrap();
        prop_assert_eq!(updated, a);
    }

    #[test]
    fn ids_and_selectors_survive(id in id(), selector in selector()) {
        prop_assert_eq!(SpiffeId::try_from(&resent(&types::Spiffeid::from(&id))).unwrap(), id);
        let wire = resent(&types::Selector::from(&selector));
        prop_assert_eq!(Selector::try_from(&wire).unwrap(), selector.clone());
        let wire = resent(&state::Selector::from(&selector));
        prop_assert_eq!(Selector::try_from(&wire).unwrap(), selector);
    }

    #[test]
    fn svids_survive(
        spiffe_id in id(),
        (expires_at, issued_at) in (seconds(), seconds()),
        chain in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..9), 1..4),
        (hint, token) in ("[a-z]{0,4}", "[a-z.]{1,9}"),
    ) {
        let record = X509SvidRecord {
            chain, spiffe_id: spiffe_id.clone(), expires_at, hint: hint.clone(),
        };
        let wire = resent(&types::X509svid::from(record.clone()));
        prop_assert_eq!(X509SvidRecord::try_from(wire).unwrap(), record);
        let record = JwtSvidRecord { token, spiffe_id, expires_at, issued_at, hint };
        let wire = resent(&types::Jwtsvid::from(record.clone()));
        prop_assert_eq!(JwtSvidRecord::try_from(wire).unwrap(), record);
    }

    #[test]
    fn no_message_of_a_peer_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(wire) = types::Entry::decode(bytes.as_slice()) {
            let _ = entry_from_spire(&wire);
        }
        if let Ok(wire) = state::Entry::decode(bytes.as_slice()) {
            let _ = RegistrationEntry::try_from(&wire);
        }
        if let Ok(wire) = state::AttestedNode::decode(bytes.as_slice()) {
            let _ = agent_to_spire(&wire, None);
        }
    }
}

fn full_entry() -> RegistrationEntry {
    RegistrationEntry {
        id: EntryId::parse("e-1").unwrap(),
        revision: 7,
        spiffe_id: SpiffeId::parse("spiffe://td.test/web").unwrap(),
        parent_id: SpiffeId::parse("spiffe://td.test/node").unwrap(),
        selectors: [
            Selector::parse("unix:uid:1").unwrap(),
            Selector::parse("unix:gid:2").unwrap(),
        ]
        .into(),
        x509_svid_ttl: Some(Duration::from_secs(60)),
        jwt_svid_ttl: Some(Duration::from_secs(30)),
        federates_with: [TrustDomain::parse("other.test").unwrap()].into(),
        admin: true,
        downstream: true,
        expires_at: Some(Timestamp::from_unix_secs(99)),
        dns_names: vec!["web.test".into()],
        store_svid: true,
        hint: "internal".into(),
        created_at: Timestamp::from_unix_secs(5),
        disable_x509_svid_prefetch: true,
        jwt_svid_include_jti: true,
    }
}

/// Names the field that `change` spoils in SPIRE's form of an entry.
fn spire_fault(change: impl FnOnce(&mut types::Entry)) -> ConvertError {
    let mut wire = entry_to_spire(&full_entry(), None);
    change(&mut wire);
    entry_from_spire(&wire).unwrap_err()
}

#[test]
fn each_bad_field_of_a_spire_entry_is_named() {
    assert_eq!(spire_fault(|e| e.id = "a b".into()).field, "id");
    assert_eq!(spire_fault(|e| e.id.clear()).field, "id");
    for (field, spoil) in [
        (
            "spiffe_id",
            (|e| e.spiffe_id = None) as fn(&mut types::Entry),
        ),
        ("parent_id", |e| e.parent_id = None),
    ] {
        let error = spire_fault(spoil);
        assert_eq!(error.field, field);
        assert!(matches!(error.reason, Reason::Missing), "{error:?}");
    }
    for (field, spoil) in [
        (
            "x509_svid_ttl",
            (|e| e.x509_svid_ttl = -1) as fn(&mut types::Entry),
        ),
        ("jwt_svid_ttl", |e| e.jwt_svid_ttl = -1),
        ("expires_at", |e| e.expires_at = -1),
        ("created_at", |e| e.created_at = -1),
        ("revision_number", |e| e.revision_number = -1),
    ] {
        let error = spire_fault(spoil);
        assert_eq!(error.field, field);
        assert!(matches!(error.reason, Reason::Negative), "{error:?}");
    }
    let late = spire_fault(|e| e.expires_at = i64::MAX);
    assert!(matches!(late.reason, Reason::TooLate), "{late:?}");
}

#[test]
fn a_bad_part_of_a_spire_entry_is_named_with_its_place() {
    let path = spire_fault(|e| e.spiffe_id.as_mut().unwrap().path = "/a/".into());
    assert_eq!(path.field, "spiffe_id.path");
    assert!(matches!(
        path.reason,
        Reason::SpiffeId(SpiffeIdError::TrailingSlash)
    ));
    let bare = spire_fault(|e| e.spiffe_id.as_mut().unwrap().path = "web".into());
    assert_eq!(bare.field, "spiffe_id.path");
    let domain = spire_fault(|e| e.parent_id.as_mut().unwrap().trust_domain = "TD".into());
    assert_eq!(domain.field, "parent_id.trust_domain");
    let empty = spire_fault(|e| e.parent_id.as_mut().unwrap().trust_domain.clear());
    assert!(matches!(
        empty.reason,
        Reason::SpiffeId(SpiffeIdError::MissingTrustDomain)
    ));

    let kind = spire_fault(|e| e.selectors[1].r#type = "a:b".into());
    assert_eq!(kind.field, "selectors[1].type");
    assert!(matches!(
        kind.reason,
        Reason::Selector(SelectorError::KindCharacter { character: ':' })
    ));
    let value = spire_fault(|e| e.selectors[0].value.clear());
    assert_eq!(value.field, "selectors[0].value");
    let federated = spire_fault(|e| e.federates_with.push("no spaces".into()));
    assert_eq!(federated.field, "federates_with[1]");
}

#[test]
fn each_bad_field_of_a_state_entry_is_named() {
    for (field, spoil) in [
        ("id", (|e| e.id.clear()) as fn(&mut state::Entry)),
        ("spiffe_id", |e| e.spiffe_id = "http://td/web".into()),
        ("parent_id", |e| e.parent_id.clear()),
        ("selectors[0].kind", |e| e.selectors[0].kind.clear()),
        ("selectors[1].value", |e| {
            e.selectors[1].value = "x".repeat(4097)
        }),
        ("federates_with[0]", |e| e.federates_with[0] = "A".into()),
        ("expires_at_seconds", |e| e.expires_at_seconds = i64::MAX),
        ("created_at_seconds", |e| e.created_at_seconds = -1),
    ] {
        let mut wire = state::Entry::from(&full_entry());
        spoil(&mut wire);
        let error = RegistrationEntry::try_from(&wire).unwrap_err();
        assert_eq!(error.field, field);
        assert!(error.explain().starts_with(field));
    }
}

#[test]
fn id_10_peers_may_name_a_trust_domain_by_its_id() {
    let mut wire = entry_to_spire(&full_entry(), None);
    wire.federates_with = vec!["spiffe://other.test".into()];
    wire.spiffe_id.as_mut().unwrap().trust_domain = "spiffe://td.test".into();
    assert_eq!(entry_from_spire(&wire).unwrap(), full_entry());
}

/// Each bit of the mask with the one field that it shows.
type MaskRow = (
    &'static str,
    fn(&mut types::EntryMask),
    fn(&mut types::Entry, &types::Entry),
);

const MASK_ROWS: [MaskRow; 15] = [
    (
        "spiffe_id",
        |m| m.spiffe_id = true,
        |e, f| {
            e.spiffe_id.clone_from(&f.spiffe_id);
        },
    ),
    (
        "parent_id",
        |m| m.parent_id = true,
        |e, f| {
            e.parent_id.clone_from(&f.parent_id);
        },
    ),
    (
        "selectors",
        |m| m.selectors = true,
        |e, f| {
            e.selectors.clone_from(&f.selectors);
        },
    ),
    (
        "x509_svid_ttl",
        |m| m.x509_svid_ttl = true,
        |e, f| {
            e.x509_svid_ttl = f.x509_svid_ttl;
        },
    ),
    (
        "federates_with",
        |m| m.federates_with = true,
        |e, f| {
            e.federates_with.clone_from(&f.federates_with);
        },
    ),
    ("admin", |m| m.admin = true, |e, f| e.admin = f.admin),
    (
        "downstream",
        |m| m.downstream = true,
        |e, f| {
            e.downstream = f.downstream;
        },
    ),
    (
        "expires_at",
        |m| m.expires_at = true,
        |e, f| {
            e.expires_at = f.expires_at;
        },
    ),
    (
        "dns_names",
        |m| m.dns_names = true,
        |e, f| {
            e.dns_names.clone_from(&f.dns_names);
        },
    ),
    (
        "revision_number",
        |m| m.revision_number = true,
        |e, f| {
            e.revision_number = f.revision_number;
        },
    ),
    (
        "store_svid",
        |m| m.store_svid = true,
        |e, f| {
            e.store_svid = f.store_svid;
        },
    ),
    (
        "jwt_svid_ttl",
        |m| m.jwt_svid_ttl = true,
        |e, f| {
            e.jwt_svid_ttl = f.jwt_svid_ttl;
        },
    ),
    ("hint", |m| m.hint = true, |e, f| e.hint.clone_from(&f.hint)),
    (
        "created_at",
        |m| m.created_at = true,
        |e, f| {
            e.created_at = f.created_at;
        },
    ),
    (
        "additional_attributes",
        |m| m.additional_attributes = true,
        |e, f| e.additional_attributes = f.additional_attributes,
    ),
];

#[test]
fn an_output_mask_shows_exactly_what_it_names() {
    let full = entry_to_spire(&full_entry(), None);
    for (name, set, copy) in MASK_ROWS {
        let mut mask = types::EntryMask::default();
        set(&mut mask);
        let mut expected = types::Entry {
            id: full.id.clone(),
            ..types::Entry::default()
        };
        copy(&mut expected, &full);
        assert_ne!(
            expected,
            types::Entry {
                id: full.id.clone(),
                ..Default::default()
            },
            "{name}"
        );
        assert_eq!(
            entry_to_spire(&full_entry(), Some(&mask)),
            expected,
            "{name}"
        );
    }
}

#[test]
fn an_input_mask_changes_exactly_what_it_names() {
    let mut current = full_entry();
    current.selectors = [Selector::parse("unix:uid:7").unwrap()].into();
    current.spiffe_id = SpiffeId::parse("spiffe://td.test/old").unwrap();
    current.parent_id = SpiffeId::parse("spiffe://td.test/older").unwrap();
    (current.x509_svid_ttl, current.jwt_svid_ttl) = (None, None);
    (current.federates_with, current.dns_names) = (BTreeSet::new(), Vec::new());
    (current.admin, current.downstream, current.store_svid) = (false, false, false);
    (current.expires_at, current.hint) = (None, String::new());
    (
        current.disable_x509_svid_prefetch,
        current.jwt_svid_include_jti,
    ) = (false, false);

    let mut update = entry_to_spire(&full_entry(), None);
    (update.revision_number, update.created_at) = (99, 98);
    for (name, set, copy) in MASK_ROWS {
        let mut mask = types::EntryMask::default();
        set(&mut mask);
        let updated = updated_entry(&current, &update, Some(&mask)).unwrap();
        let mut expected = entry_to_spire(&current, None);
        if !matches!(name, "revision_number" | "created_at") {
            copy(&mut expected, &update);
            assert_ne!(expected, entry_to_spire(&current, None), "{name}");
        }
        assert_eq!(entry_to_spire(&updated, None), expected, "{name}");
    }
}

#[test]
fn an_input_mask_hides_bad_fields_that_it_does_not_name() {
    let mut update = entry_to_spire(&full_entry(), None);
    update.selectors[0].value.clear();
    update.hint = "new".into();
    let hint = types::EntryMask {
        hint: true,
        ..Default::default()
    };
    let updated = updated_entry(&full_entry(), &update, Some(&hint)).unwrap();
    assert_eq!(updated.hint, "new");
    let error = updated_entry(&full_entry(), &update, None).unwrap_err();
    assert_eq!(error.field, "selectors[0].value");
}

#[test]
fn numbers_that_spires_message_cannot_say_are_said_as_the_largest() {
    let mut entry = full_entry();
    entry.revision = u64::MAX;
    entry.x509_svid_ttl = Some(Duration::from_secs(u64::MAX));
    let wire = entry_to_spire(&entry, None);
    assert_eq!(wire.revision_number, i64::MAX);
    assert_eq!(wire.x509_svid_ttl, i32::MAX);
}

fn node() -> state::AttestedNode {
    state::AttestedNode {
        agent_id: "spiffe://td.test/spire/agent/join_token/n1".into(),
        attestation_type: "join_token".into(),
        selectors: vec![state::Selector {
            kind: "join_token".into(),
            value: "n1".into(),
        }],
        current_serial: vec![0x01, 0x00],
        pending_serial: vec![0xff; 16],
        svid_not_after_ms: 12_999,
        can_reattest: true,
        ..Default::default()
    }
}

#[test]
fn an_attested_node_is_shown_as_an_agent() {
    let agent = agent_to_spire(&node(), None).unwrap();
    assert_eq!(
        agent.id.as_ref().unwrap().path,
        "/spire/agent/join_token/n1"
    );
    assert_eq!(agent.x509svid_serial_number, "256");
    assert_eq!(agent.x509svid_expires_at, 12);
    assert_eq!(agent.selectors[0].r#type, "join_token");
    assert!(agent.can_reattest && !agent.banned);

    let mut unseen = node();
    unseen.current_serial.clear();
    let agent = agent_to_spire(&unseen, None).unwrap();
    assert_eq!(agent.x509svid_serial_number, u128::MAX.to_string());

    let mut banned = node();
    banned.banned = true;
    let agent = agent_to_spire(&banned, None).unwrap();
    assert!(agent.banned);
    assert_eq!(agent.x509svid_serial_number, "");
}

#[test]
fn an_agent_mask_shows_exactly_what_it_names() {
    let mut shown = node();
    shown.banned = false;
    let full = agent_to_spire(&shown, None).unwrap();
    let none = types::AgentMask::default();
    let bare = agent_to_spire(&shown, Some(&none)).unwrap();
    assert_eq!(
        bare,
        types::Agent {
            id: full.id.clone(),
            ..Default::default()
        }
    );
    let some = types::AgentMask {
        selectors: true,
        can_reattest: true,
        x509svid_expires_at: true,
        ..Default::default()
    };
    let masked = agent_to_spire(&shown, Some(&some)).unwrap();
    assert_eq!(
        masked,
        types::Agent {
            attestation_type: String::new(),
            x509svid_serial_number: String::new(),
            ..full.clone()
        }
    );
    let rest = types::AgentMask {
        attestation_type: true,
        x509svid_serial_number: true,
        banned: true,
        ..Default::default()
    };
    shown.banned = true;
    let masked = agent_to_spire(&shown, Some(&rest)).unwrap();
    assert_eq!(masked.attestation_type, "join_token");
    assert!(masked.banned && !masked.can_reattest && masked.selectors.is_empty());
    assert!(!agent_to_spire(&shown, Some(&none)).unwrap().banned);
}

#[test]
fn each_bad_field_of_an_attested_node_is_named() {
    for (field, spoil) in [
        (
            "agent_id",
            (|n| n.agent_id.clear()) as fn(&mut state::AttestedNode),
        ),
        ("selectors[0].value", |n| n.selectors[0].value.clear()),
        ("current_serial", |n| n.current_serial = vec![1; 17]),
        ("pending_serial", |n| n.pending_serial = vec![1; 17]),
    ] {
        let mut node = node();
        spoil(&mut node);
        assert_eq!(agent_to_spire(&node, None).unwrap_err().field, field);
    }
}

#[test]
fn each_bad_field_of_an_svid_is_named() {
    let x509 = || types::X509svid {
        cert_chain: vec![vec![1], vec![2]],
        id: Some((&full_entry().spiffe_id).into()),
        expires_at: 9,
        hint: String::new(),
    };
    let fault = |change: fn(&mut types::X509svid)| {
        let mut wire = x509();
        change(&mut wire);
        X509SvidRecord::try_from(wire).unwrap_err().field
    };
    assert_eq!(fault(|s| s.cert_chain.clear()), "cert_chain");
    assert_eq!(fault(|s| s.cert_chain[1].clear()), "cert_chain[1]");
    assert_eq!(fault(|s| s.id = None), "id");
    assert_eq!(fault(|s| s.expires_at = -1), "expires_at");

    let jwt = || types::Jwtsvid {
        token: "a.b.c".into(),
        id: Some((&full_entry().spiffe_id).into()),
        expires_at: 9,
        issued_at: 8,
        hint: String::new(),
    };
    let fault = |change: fn(&mut types::Jwtsvid)| {
        let mut wire = jwt();
        change(&mut wire);
        JwtSvidRecord::try_from(wire).unwrap_err().field
    };
    assert_eq!(fault(|s| s.token.clear()), "token");
    assert_eq!(
        fault(|s| s.id.as_mut().unwrap().path = "/..".into()),
        "id.path"
    );
    assert_eq!(fault(|s| s.expires_at = -1), "expires_at");
    assert_eq!(fault(|s| s.issued_at = -1), "issued_at");
    let printed = format!("{:?}", JwtSvidRecord::try_from(jwt()).unwrap());
    assert!(!printed.contains("a.b.c"), "{printed}");
}

#[test]
fn a_join_token_is_dated_in_whole_seconds() {
    let token = join_token_to_spire("t-1", Timestamp::from_unix_millis(5_999));
    assert_eq!((token.value.as_str(), token.expires_at), ("t-1", 5));
}
