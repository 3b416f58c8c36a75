//! What must hold for any bytes that come to a server through the replicated log or from a peer.
//!
//! Responsible for: one function per fuzz target, which panics when its property is broken.
//! Always holds: the functions are deterministic, so an input that failed once fails again.
//! Not here: the fuzzer. `ca-server/tests/fuzz_seeds.rs` runs the same functions over the seeds.

use std::sync::LazyLock;

use ca_server::raft::convert;
use ca_server::state::{LEAF_LENGTH_MAX, State};
use mintmark_proto::mintmark::audit::v1::Leaf;
use mintmark_proto::mintmark::raft::v1 as pb;
use prost::Message;

/// A state with a cluster, two agents and some entries.
static STATE: LazyLock<State> = LazyLock::new(|| {
    let bytes = include_bytes!("../../ca-server/tests/golden/state_snapshot_v1.bin");
    State::decode(bytes).unwrap_or_else(|error| panic!("the state is good: {error}"))
});

/// Two servers that apply the same commands have the same state, leaves and answers; every leaf has its
/// place, its size and its one form; and the state can be written and read again.
pub fn raft_command(data: &[u8]) {
    let Ok(batch) = pb::CommandBatch::decode(data) else {
        return;
    };
    let (mut one, mut two) = (STATE.clone(), STATE.clone());
    let first = one.applied_position().index + 1;
    for (index, command) in (first..).zip(&batch.commands) {
        let size = one.audit_size();
        let (applied, again) = (one.apply(index, command), two.apply(index, command));
        assert_eq!(applied, again);
        assert_eq!(applied.first_leaf_index, size);
        for (place, bytes) in (size..).zip(&applied.leaves) {
            assert!(bytes.len() <= LEAF_LENGTH_MAX);
            let leaf = Leaf::decode(bytes.as_slice());
            let leaf = leaf.unwrap_or_else(|error| panic!("a leaf can be read: {error}"));
            assert_eq!((leaf.index, leaf.log_index), (place, index));
            assert_eq!(leaf.encode_to_vec(), *bytes);
        }
        assert_eq!(one.audit_size(), size + applied.leaves.len() as u64);
    }
    assert!(one == two);
    survives(&one);
}

/// A state that was written is read again as it was.
fn survives(state: &State) {
    let bytes = state.encode();
    match State::decode(&bytes) {
        Ok(again) => assert_eq!(again.encode(), bytes),
        Err(error) => panic!("what was written cannot be read: {error}"),
    }
}

/// A snapshot that is accepted can be written again and worked with.
pub fn state_snapshot(data: &[u8]) {
    let Ok(mut state) = State::decode(data) else {
        return;
    };
    survives(&state);
    let index = state.applied_position().index.saturating_add(1);
    let body = Some(pb::command::Body::PruneExpired(pb::PruneExpired {}));
    let actor = Some(pb::Actor {
        kind: pb::actor::Kind::Local.into(),
        ..pb::Actor::default()
    });
    let version = ca_server::state::COMMAND_VERSION;
    let command = pb::Command {
        version,
        actor,
        body,
        time_ms: i64::MAX / 2,
        ..pb::Command::default()
    };
    state.apply(index, &command);
    survives(&state);
}

/// Whatever a peer says becomes something that can be said in the same words again.
pub fn peer_message(data: &[u8]) {
    macro_rules! again {
        ($wire:ident, $from:ident, $to:expr) => {
            if let Ok(Ok(read)) = pb::$wire::decode(data).map(convert::$from) {
                let to = $to;
                let written = to(&read);
                match convert::$from(written.clone()) {
                    Ok(again) => assert_eq!(to(&again), written),
                    Err(error) => panic!("what goes out cannot be read back: {error}"),
                }
            }
        };
    }
    again!(AppendEntriesRequest, append_request_from_pb, |read: &_| {
        convert::append_request_to_pb(read, 1, 2)
    });
    again!(
        AppendEntriesResponse,
        append_response_from_pb,
        convert::append_response_to_pb
    );
    again!(
        VoteRequest,
        vote_request_from_pb,
        convert::vote_request_to_pb
    );
    again!(
        VoteResponse,
        vote_response_from_pb,
        convert::vote_response_to_pb
    );
    again!(LogEntry, entry_from_pb, convert::entry_to_pb);
    again!(Membership, membership_from_pb, convert::membership_to_pb);
}
