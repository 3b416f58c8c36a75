//! Seeds that found bugs, with their stories. Each ran into what is told before it was mended; a later
//! change of the planner may lead it elsewhere, so each story has a test at the bug's own place as well.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::process::Command;
use std::sync::Mutex;
use std::thread;

/// Seed 101: server 2 had not applied an entry yet that server 1 had acknowledged, and told an operator
/// who wanted to change it that there is none. Now it confirms with the quorum before it says so
/// (`ca_server::api::entry`).
const ACKNOWLEDGED_ENTRY_WAS_DENIED: u64 = 101;

/// Seed 1: the clock of an agent ran five seconds ahead, more than the 40 % of life after which SVIDs are
/// renewed. Every new SVID was due at once, and the agent renewed in a loop. Now an SVID lives at least a
/// twentieth of its life with the agent (`mintmark_identity::rotation`).
const FAST_CLOCK_RENEWED_IN_A_LOOP: u64 = 1;

/// Seed 71: an agent whose own SVID had expired was refused every call. It took that for an answer about
/// each entry, and when it was whole again its workloads waited for up to a minute more. Now only what a
/// server says of an entry counts against the entry (`node_agent::rotation`).
const ENTRIES_WAITED_FOR_THE_AGENTS_FAULT: u64 = 71;

/// Seed 162: a bit flipped in a certificate in `server.json`; the server could not be reached by the others
/// and went on taking itself for the leader of a term long gone. Now the file has a checksum, and the
/// server does not start (`ca_server::app::place`).
const ROTTEN_CERTIFICATE_WAS_BELIEVED: u64 = 162;

/// Seed 91: a bit flipped in a store, and the store's library panicked on opening it. Now that is an error
/// like other damage (`ca_server::store::database`).
const ROTTEN_STORE_PANICKED: u64 = 91;

/// Seed 235: all power went just after an entry was acknowledged. The leader came back leading the same
/// term, knew less of what is committed than before, and confirmed a read index below that entry; so an
/// operator was told that there is none. Now it gives at least the end of the log with which it came back
/// (`ca_server::raft::read_index`).
const RESUMED_LEADER_FORGOT_WHAT_IT_ACKNOWLEDGED: u64 = 235;

/// Seed 286: a bit flipped in an audit leaf, and the server could not give its audit log any more. Now a
/// damaged leaf counts as missing and is fetched from the others (`ca_server::store::leaves`).
const ROTTEN_LEAF_WAS_NEVER_REPLACED: u64 = 286;

/// Seed 1633: an agent was banned in the moment in which it opened its stream anew, while one of three servers was
/// dead. Two servers told it so, and it went on serving until the dead one had had its time to contradict. Now what most
/// servers deny is denied (`node_agent::server_client::asking`).
const A_DEAD_SERVER_PUT_OFF_A_BAN: u64 = 1633;

/// Seed 176: an authority was tainted while one of five servers was dead, and an agent's SVID expired before the next
/// authority signed. The agent's bundle did not have that one, so it could verify no server; but the last that it asked
/// was the dead one, so it did not ask what to trust. Now most servers that cannot be verified are a reason
/// (`node_agent::server_client::asking`).
const A_DEAD_SERVER_HID_THAT_THE_BUNDLE_WAS_OUTDATED: u64 = 176;

/// Seed 1892: a server and the leader were parted from the others; a later leader had that server cut off what it had
/// acknowledged to the first, which was then restarted, remembered what it had been told, and expelled the server for
/// having lost it. Now only what no later leader can have cut off is a reason (`ca_server::raft::session`).
const WHAT_A_LATER_LEADER_CUT_OFF_WAS_TAKEN_FOR_LOST: u64 = 1892;

/// Seed 2434: two servers joined, got the state in a snapshot, voted, and had asked each other for the audit leaves that
/// neither had when the first server died for good. The leaves were lost with it. Now a server votes once it holds them,
/// and asks all others before it pauses (`ca_server::raft::{membership, backfill}`).
const LEAVES_WERE_LOST_WITH_THE_FIRST_SERVER: u64 = 2434;

/// Seed 2750: an authority was revoked, and a workload that asked in that moment was given the new bundle together with
/// its SVID of that authority. Now both go in one step (`node_agent::cache::state`).
const A_NEW_BUNDLE_CAME_WITH_AN_OLD_SVID: u64 = 2750;

/// Seed 3205: the clock of a server had been ahead, and for seconds nobody issued. An agent whose renewals failed
/// meanwhile was to try again only when its SVID had expired; it was banned then, and did not hear of it. Now an attempt
/// comes after at most a quarter of what is left (`node_agent::agent_svid`).
const AN_AGENT_RENEWED_TOO_SELDOM_TO_KEEP_ITS_SVID: u64 = 3205;

/// Seed 2352: a leader was restarted on a slow disk and led on; a later leader's snapshot took the place of its log while
/// it read that for a follower. What was purged under the reader counted as damage, and the server stopped. Now such a
/// reader gets nothing (`ca_server::raft::log_store`).
const A_SNAPSHOT_TOOK_THE_LOG_FROM_UNDER_A_READER: u64 = 2352;

/// Each in a process of its own, as where it was found: the history of a seed is another one behind
/// those of others.
#[test]
fn pinned_seeds_hold_every_property() {
    let seeds = Mutex::new(vec![
        ACKNOWLEDGED_ENTRY_WAS_DENIED,
        FAST_CLOCK_RENEWED_IN_A_LOOP,
        ENTRIES_WAITED_FOR_THE_AGENTS_FAULT,
        ROTTEN_CERTIFICATE_WAS_BELIEVED,
        ROTTEN_STORE_PANICKED,
        RESUMED_LEADER_FORGOT_WHAT_IT_ACKNOWLEDGED,
        ROTTEN_LEAF_WAS_NEVER_REPLACED,
        A_DEAD_SERVER_PUT_OFF_A_BAN,
        A_DEAD_SERVER_HID_THAT_THE_BUNDLE_WAS_OUTDATED,
        WHAT_A_LATER_LEADER_CUT_OFF_WAS_TAKEN_FOR_LOST,
        LEAVES_WERE_LOST_WITH_THE_FIRST_SERVER,
        A_NEW_BUNDLE_CAME_WITH_AN_OLD_SVID,
        AN_AGENT_RENEWED_TOO_SELDOM_TO_KEEP_ITS_SVID,
        A_SNAPSHOT_TOOK_THE_LOG_FROM_UNDER_A_READER,
    ]);
    let next = || seeds.lock().unwrap().pop();
    let run_some = || {
        while let Some(seed) = next() {
            let mut fuzz = Command::new(env!("CARGO_BIN_EXE_fuzz"));
            let run = fuzz.args(["--seed", &seed.to_string()]).output().unwrap();
            let said = String::from_utf8_lossy(&run.stdout);
            assert!(run.status.success(), "{said}");
            print!("{said}");
        }
    };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(run_some);
        }
    });
}
