//! Snapshots: what is read back goes on as if nothing had happened.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::too_many_lines,
    reason = "tests"
)]

mod state_support;

use ca_server::state::{Position, SnapshotError, State, TooOld};
use mintmark_proto::mintmark::raft::v1::Refusal;
use mintmark_proto::mintmark::state::v1::Snapshot;
use prost::Message as _;
use state_support::*;

#[test]
fn a_running_cluster_comes_back_equal() {
    let mut cluster = Cluster::running();
    cluster.create(entry(
        "e1",
        "/spire/agent/test/a",
        "/web",
        &["unix:uid:1000"],
    ));
    let intent = cluster.entry_intent("/spire/agent/test/a", "e1");
    assert_eq!(cluster.issue(intent).refusal(), Refusal::Unspecified);

    let decoded = State::decode(&cluster.state.encode()).unwrap();
    assert!(decoded == cluster.state);
    assert_eq!(decoded.encode(), cluster.state.encode());
    assert_eq!(decoded.own_bundle(), cluster.state.own_bundle());
}

#[test]
fn a_blank_state_comes_back_equal() {
    let decoded = State::decode(&State::new().encode()).unwrap();
    assert!(decoded == State::new());
}

#[test]
fn events_before_a_snapshot_are_too_old() {
    let cluster = Cluster::running();
    let position = cluster.state.applied_position();
    let decoded = State::decode(&cluster.state.encode()).unwrap();
    assert_eq!(decoded.events_since(position).unwrap().count(), 0);
    let before = Position {
        index: position.index - 1,
        ..position
    };
    assert!(matches!(decoded.events_since(before), Err(TooOld)));
    assert!(cluster.state.events_since(before).is_ok());
}

#[test]
fn bytes_that_are_no_snapshot_are_refused() {
    let good = Snapshot::decode(&*Cluster::running().state.encode()).unwrap();
    let broken = |change: fn(&mut Snapshot)| {
        let mut snapshot = good.clone();
        change(&mut snapshot);
        State::decode(&snapshot.encode_to_vec())
    };
    assert!(broken(|_| {}).is_ok());
    assert!(matches!(
        State::decode(&[0xff; 9]),
        Err(SnapshotError::Encoding(_))
    ));
    assert!(matches!(State::decode(&[]), Err(SnapshotError::Version(0))));
    assert!(matches!(
        broken(|s| s.version = 2),
        Err(SnapshotError::Version(2))
    ));
    let impossible: [fn(&mut Snapshot); 11] = [
        |s| s.trust_domain = "NOT A DOMAIN".into(),
        |s| s.cluster_id.truncate(3),
        |s| s.settings = None,
        |s| s.log_key = None,
        |s| s.audit_frontier.truncate(4),
        |s| s.nodes[0].agent_id = "nowhere".into(),
        |s| s.live_serials[0].serial.clear(),
        |s| s.recent_roots[0].root.clear(),
        |s| s.recent_roots.swap(0, 1),
        |s| s.recent_roots.last_mut().unwrap().size += 1,
        |s| s.recent_roots.last_mut().unwrap().root[0] ^= 1,
    ];
    for change in impossible {
        assert!(matches!(broken(change), Err(SnapshotError::Record(_))));
    }
}

/// A history without made-up certificates, so that its bytes are always the same.
fn fixed_history() -> Cluster {
    use mintmark_proto::mintmark::raft::v1::command::Body;
    use mintmark_proto::mintmark::raft::v1::{BanAgent, CreateJoinToken, DeleteEntries};
    use mintmark_proto::mintmark::state::v1::JoinToken;
    let mut cluster = Cluster::new();
    let token = JoinToken {
        token_sha256: sha("token"),
        expires_at_ms: T0 + HOUR,
        alias_spiffe_id: id("/rack1"),
        ..JoinToken::default()
    };
    let create = CreateJoinToken {
        token: Some(token),
        alias_entry: None,
    };
    cluster.accept(local(), Body::CreateJoinToken(create));
    let mut attest = cluster.attest(&token_agent("token"), &["a:1"], "key");
    attest.join_token_sha256 = sha("token");
    cluster.accept(nobody(), Body::AttestNode(attest));
    cluster.create(entry("web", "/rack1", "/web", &["unix:uid:1000"]));
    cluster.create(entry("db", "/rack1", "/db", &["unix:uid:1001"]));
    let ids = vec!["db".to_owned()];
    cluster.accept(local(), Body::DeleteEntries(DeleteEntries { ids }));
    let agent_id = id(&token_agent("token"));
    cluster.accept(local(), Body::BanAgent(BanAgent { agent_id }));
    cluster
}

/// Bytes that are on disks and in logs already. A failure here means that a
/// server of this version and one of the last would not agree: raise the
/// version of what changed, read the old one still, and add a second file.
#[test]
fn leaves_and_snapshots_have_the_bytes_that_they_always_had() {
    let cluster = fixed_history();
    let snapshot = cluster.state.encode();
    let golden = include_bytes!("golden/state_snapshot_v1.bin");
    assert_eq!(hex::encode(&snapshot), hex::encode(golden));
    assert!(State::decode(golden).unwrap() == cluster.state);
    let leaves: Vec<String> = cluster.leaves.iter().map(hex::encode).collect();
    let golden = include_str!("golden/audit_leaves_v1.hex");
    assert_eq!(leaves, golden.lines().collect::<Vec<_>>());
}
