//! Leaves: canonical, bounded, and showing what they must and must not.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::too_many_lines,
    reason = "tests"
)]

mod state_support;

use ca_server::state::{LEAF_LENGTH_MAX, is_accepted};
use mintmark_identity::spiffe_id::SPIFFE_ID_MAX;
use mintmark_proto::mintmark::audit::v1::Leaf;
use mintmark_proto::mintmark::raft::v1::activate_authority::Ground;
use mintmark_proto::mintmark::raft::v1::command::Body;
use mintmark_proto::mintmark::raft::v1::{
    CreateEntries, DeleteEntries, Intent, RecordDenial, Refusal,
};
use mintmark_proto::mintmark::state::v1::AuthorityKind;
use mintmark_tlog::{Checkpoint, verify_log};
use prost::Message as _;
use state_support::*;

const AGENT: &str = "/spire/agent/test/a";

/// A path that makes a SPIFFE ID of exactly `length` bytes.
fn long_path(prefix: &str, length: usize) -> String {
    let used = id(prefix).len() + 1;
    format!("{prefix}/{}", "x".repeat(length - used))
}

fn commitment(text: &str) -> String {
    format!("sha256:{}", hex::encode(sha(text)))
}

#[test]
fn every_leaf_is_canonical_numbered_and_in_the_tree() {
    let mut cluster = Cluster::running();
    cluster.create(entry("web", AGENT, "/web", &["unix:uid:1000"]));
    let intent = cluster.entry_intent(AGENT, "web");
    cluster.issue(intent);
    cluster.create(entry("web", AGENT, "/web", &["unix:uid:1000"]));
    assert!(cluster.leaves.len() > 10);
    for (index, bytes) in cluster.leaves.iter().enumerate() {
        let leaf = Leaf::decode(&**bytes).unwrap();
        assert_eq!(leaf.encode_to_vec(), *bytes, "canonical");
        assert_eq!((leaf.version, leaf.index), (1, index as u64));
        assert!(leaf.log_index > 0 && leaf.log_index <= cluster.index);
        assert_eq!(leaf.time_ms, T0);
        assert!(!leaf.actor.is_empty() && !leaf.action.is_empty());
        assert!(leaf.decision == "accepted" || leaf.decision == "denied");
        assert_eq!(is_accepted(&leaf), leaf.decision == "accepted");
        assert_eq!(
            is_accepted(&leaf),
            leaf.reason.is_empty() || leaf.authority.is_some() || leaf.action == "authority.prove"
        );
    }
    let checkpoint = Checkpoint {
        origin: ORIGIN.into(),
        size: cluster.state.audit_size(),
        root: cluster.state.audit_root(),
    };
    verify_log(&cluster.leaves, &checkpoint).unwrap();
    cluster.leaves[3][0] ^= 1;
    assert!(verify_log(&cluster.leaves, &checkpoint).is_err());
}

#[test]
fn identities_stay_clear_while_they_fit_and_are_committed_when_not() {
    let mut cluster = Cluster::running();
    let short = long_path("/short", 300);
    cluster.create(entry("short", AGENT, &short, &["a:1"]));
    let change = cluster.decoded_leaves().pop().unwrap().entry.unwrap();
    assert_eq!(change.spiffe_id, id(&short));

    let long = long_path("/long", SPIFFE_ID_MAX);
    let parent = long_path("/parent", SPIFFE_ID_MAX);
    cluster.create(entry("long", &parent, &long, &["a:1"]));
    let change = cluster.decoded_leaves().pop().unwrap().entry.unwrap();
    assert_eq!(change.spiffe_id, commitment(&id(&long)));
    assert_eq!(change.parent_id, commitment(&id(&parent)));
    assert_eq!(change.entry_id, "long");
}

#[test]
fn the_longest_issuance_fits() {
    let mut cluster = Cluster::running();
    let agent = long_path("/spire/agent/test", SPIFFE_ID_MAX);
    cluster.join(&agent, &[]);
    let path = long_path("/w", SPIFFE_ID_MAX);
    let entry_id = "e".repeat(255);
    cluster.create(entry(&entry_id, &agent, &path, &["a:1"]));
    let intent = cluster.entry_intent(&agent, &entry_id);
    assert_eq!(cluster.issue(intent).refusal(), Refusal::Unspecified);
    let leaf = cluster.decoded_leaves().pop().unwrap();
    assert_eq!(leaf.subject, commitment(&id(&path)));
    let issuance = leaf.issuance.unwrap();
    assert_eq!(issuance.agent, commitment(&id(&agent)));
    assert_eq!(issuance.entry_id, entry_id, "what fits stays clear");
}

#[test]
fn whatever_a_denied_command_holds_its_leaf_fits() {
    let mut cluster = Cluster::running();
    let huge = "\u{1f980}".repeat(20_000);
    let bytes = vec![0xaa; 100_000];
    let mut intent = cluster.mint_intent("/x");
    intent = Intent {
        spiffe_id: huge.clone(),
        requesting_agent: huge.clone(),
        spki_sha256: bytes.clone(),
        serial: bytes.clone(),
        svid_hash: bytes.clone(),
        authority_id: huge.clone(),
        audience_sha256: bytes,
        profile_version: u32::MAX,
        not_before_ms: i64::MIN,
        not_after_ms: i64::MIN,
        ..intent
    };
    let mut bad = entry("e", AGENT, "/w", &["a:1"]);
    bad.id.clone_from(&huge);
    bad.spiffe_id.clone_from(&huge);
    bad.parent_id.clone_from(&huge);
    let denial = RecordDenial {
        action: huge.clone(),
        subject: huge.clone(),
        reason: huge.clone(),
    };
    let mut actor = by_agent(AGENT);
    actor.spiffe_id.clone_from(&huge);
    for (actor, body) in [
        (by_server(1), batch(vec![intent])),
        (
            local(),
            Body::CreateEntries(CreateEntries { entries: vec![bad] }),
        ),
        (
            local(),
            Body::DeleteEntries(DeleteEntries {
                ids: vec![huge.clone()],
            }),
        ),
        (actor.clone(), Body::RecordDenial(denial)),
        (local(), activate(&huge, Ground::Operator)),
        (actor, activate(&huge, Ground::Operator)),
    ] {
        let applied = cluster.apply(actor, body);
        assert_eq!(applied.leaves.len(), 1);
        assert!(
            applied.leaves[0].len() <= LEAF_LENGTH_MAX,
            "{}",
            applied.leaves[0].len()
        );
        assert_eq!(last_leaf(&applied).decision, "denied");
    }
}

#[test]
fn a_forced_activation_counts_all_and_names_as_many_as_fit() {
    let mut cluster = Cluster::running();
    let agents: Vec<String> = (0..40)
        .map(|n| format!("/spire/agent/test/node-{n:03}"))
        .collect();
    for agent in &agents {
        cluster.join(agent, &[]);
    }
    let prepare = cluster.prepare("x1", AuthorityKind::X509, 2);
    cluster.accept(by_server(1), prepare);
    cluster.accept(by_server(1), publish("x1"));
    let applied = cluster.accept(local(), activate("x1", Ground::Operator));
    let leaf = leaves(&applied).remove(0);
    assert_eq!(
        leaf.reason, "operator, 42 missing",
        "41 agents and the server"
    );
    assert!(
        leaf.missing.len() >= 10 && leaf.missing.len() < 42,
        "{}",
        leaf.missing.len()
    );
    assert_eq!(leaf.missing[0], "server/1");
    assert_eq!(applied.result.missing.len(), 42);
    assert!(applied.leaves[0].len() <= LEAF_LENGTH_MAX);
}

#[test]
fn missing_agents_with_the_longest_names_are_committed() {
    let mut cluster = Cluster::running();
    for n in 0..6 {
        let agent = long_path(&format!("/spire/agent/test/n{n}"), SPIFFE_ID_MAX);
        cluster.join(&agent, &[]);
    }
    let prepare = cluster.prepare("x1", AuthorityKind::X509, 2);
    cluster.accept(by_server(1), prepare);
    cluster.accept(by_server(1), publish("x1"));
    let applied = cluster.accept(local(), activate("x1", Ground::Operator));
    let leaf = leaves(&applied).remove(0);
    assert_eq!(leaf.missing.len(), 4);
    assert!(leaf.missing[2].starts_with("sha256:"), "{:?}", leaf.missing);
    assert_eq!(leaf.authority.unwrap().authority_id, "x1");
}

#[test]
fn a_leaf_names_the_request_it_came_from() {
    use sha2::{Digest as _, Sha256};
    let mut cluster = Cluster::running();
    let body = Body::CreateEntries(CreateEntries {
        entries: vec![entry("web", AGENT, "/web", &["unix:uid:1000"])],
    });
    let mut encoded = Vec::new();
    body.encode(&mut encoded);
    let applied = cluster.accept(local(), body);
    assert_eq!(
        last_leaf(&applied).request_sha256,
        Sha256::digest(&encoded).to_vec()
    );
    // The entry as stored is committed too, byte for byte.
    let stored = applied.result.items[0].entry.clone().unwrap();
    let hash = Sha256::digest(stored.encode_to_vec()).to_vec();
    assert_eq!(last_leaf(&applied).entry.unwrap().entry_sha256, hash);
}
