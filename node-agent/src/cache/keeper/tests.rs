#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use mintmark_identity::entry::EntryId;
use mintmark_runtime::testing::MemoryDisk;
use proptest::prelude::*;

use super::*;
use crate::{
    cache::state::{Denial, Update},
    testing::{at, domain, entry, first_update, put, svid},
};

const FILE: &str = "/data/cache.sealed";
const AGENT: &str = "spiffe://example.org/spire/agent/join_token/t";

fn host(disk: &(impl Disk + Clone + 'static)) -> Host {
    Host {
        disk: Arc::new(disk.clone()),
        ..Host::os()
    }
}

fn disk() -> MemoryDisk {
    let disk = MemoryDisk::new();
    disk.create_dir_all(Path::new("/data"), 0o700).unwrap();
    disk
}

use mintmark_runtime::disk::Disk;

fn open_as(
    disk: &(impl Disk + Clone + 'static),
    agent: Option<&str>,
    key: u8,
    now: i64,
) -> (Keeper, State) {
    let place = Place {
        file: FILE.into(),
        key: Zeroizing::new([key; KEY_LEN]),
    };
    let agent = agent.map(str::to_owned);
    Keeper::open(host(disk), place, agent, State::new(domain()), at(now))
}

fn open(disk: &(impl Disk + Clone + 'static)) -> (Keeper, State) {
    open_as(disk, Some(AGENT), 1, 150)
}

/// Everything of a state that is kept.
fn picture(state: &State) -> String {
    let svids: Vec<_> = state
        .svids
        .iter()
        .map(|(id, svid)| {
            let (key, chain) = (svid.key.expose(), &svid.chain);
            let rest = (svid.renew_at, &svid.issued_for, svid.validity);
            (id, &svid.serial, key, chain, rest)
        })
        .collect();
    let entries: Vec<_> = state
        .entries
        .iter()
        .map(|held| (&held.entry, held.since))
        .collect();
    let place = (state.position, state.last_update, state.bundle_sequence);
    let rest = (&state.bundles, &state.tainted, &state.defaults);
    format!("{svids:#?} {entries:#?} {place:#?} {rest:#?}")
}

fn same(read: &State, written: &State) {
    assert_eq!(picture(read), picture(written));
}

fn one(id: &str) -> mintmark_identity::entry::RegistrationEntry {
    let mut entry = entry(id, &format!("/{id}"), &["unix:uid:1", "unix:path:/x"]);
    entry.dns_names = vec!["x.test".to_owned()];
    entry.x509_svid_ttl = Some(Duration::from_secs(60));
    entry
}

fn update(index: u64) -> Update {
    Update {
        position: Position { epoch: 1, index },
        ..Update::default()
    }
}

/// A little history: entries, SVIDs, a taint, a removal.
fn history() -> Vec<State> {
    let mut state = State::new(domain());
    let mut states = Vec::new();
    state
        .apply(first_update(vec![one("a"), one("b")]), at(100))
        .unwrap();
    states.push(state.clone());
    put(&mut state, svid(&one("a"), 100, 500, 1_100));
    put(&mut state, svid(&one("b"), 100, 500, 1_100));
    states.push(state.clone());
    let tainted = ["bad".to_owned()].into();
    state
        .apply(
            Update {
                tainted,
                entries: vec![one("c")],
                ..update(2)
            },
            at(110),
        )
        .unwrap();
    put(&mut state, svid(&one("a"), 120, 500, 1_100));
    states.push(state.clone());
    let removed_entries = vec![EntryId::parse("b").unwrap()];
    state
        .apply(
            Update {
                removed_entries,
                ..update(3)
            },
            at(130),
        )
        .unwrap();
    states.push(state);
    states
}

#[tokio::test]
async fn what_was_kept_is_read_back_after_each_step_of_a_history() {
    let disk = disk();
    let (mut keeper, empty) = open(&disk);
    assert_eq!(empty.position, None);
    for state in history() {
        keeper.keep(&state).await.unwrap();
        same(&open(&disk).1, &state);
        assert_eq!(*keeper.kept().borrow(), Kept::of(&state));
    }
    // A keeper that continues an existing file does it just as well.
    let (mut continued, mut state) = open(&disk);
    put(&mut state, svid(&one("c"), 140, 500, 1_100));
    continued.keep(&state).await.unwrap();
    same(&open(&disk).1, &state);
}

#[tokio::test]
async fn a_file_that_was_opened_again_is_never_continued_under_the_same_salt() {
    let disk = disk();
    let states = history();
    let (mut keeper, _) = open(&disk);
    for state in states.get(..2).unwrap() {
        keeper.keep(state).await.unwrap();
    }
    drop(keeper);
    let whole = disk.read(Path::new(FILE)).unwrap();
    let header = frames::HEADER_LEN;
    for torn in [0, 1] {
        // What a crash tore off, or an older copy that came back, may have been seen by somebody:
        // no nonce of that file is used again.
        let left = whole.get(..whole.len() - torn).unwrap();
        disk.write_atomic(Path::new(FILE), left, disk::MODE_SECRET)
            .unwrap();
        let (mut keeper, read) = open(&disk);
        assert!(read.position.is_some());
        keeper.keep(&states[2]).await.unwrap();
        let now = disk.read(Path::new(FILE)).unwrap();
        assert_ne!(now[..header], whole[..header], "torn: {torn}");
        same(&open(&disk).1, &states[2]);
    }
}

#[tokio::test]
async fn an_svid_that_expired_meanwhile_is_left_out() {
    let disk = disk();
    let (mut keeper, _) = open(&disk);
    keeper.keep(&history()[1]).await.unwrap();
    assert_eq!(open_as(&disk, Some(AGENT), 1, 1_100).1.svids.len(), 2);
    assert_eq!(open_as(&disk, Some(AGENT), 1, 1_101).1.svids.len(), 0);
}

#[tokio::test]
async fn another_key_another_agent_or_damage_discards_the_file_and_nothing_else() {
    for (agent, key, damage) in [
        (Some(AGENT), 2, false),
        (
            Some("spiffe://example.org/spire/agent/join_token/other"),
            1,
            false,
        ),
        (Some(AGENT), 1, true),
    ] {
        let disk = disk();
        let (mut keeper, _) = open(&disk);
        for state in history() {
            keeper.keep(&state).await.unwrap();
        }
        if damage {
            let mut bytes = disk.read(Path::new(FILE)).unwrap();
            bytes[80] ^= 1;
            disk.write_atomic(Path::new(FILE), &bytes, 0o600).unwrap();
        }
        let (_, state) = open_as(&disk, agent, key, 150);
        assert_eq!((state.position, state.svids.len()), (None, 0));
        assert!(!disk.exists(Path::new(FILE)).unwrap());
    }
    let disk = disk();
    let (mut keeper, _) = open(&disk);
    keeper.keep(&history()[0]).await.unwrap();
    let (_, state) = open_as(&disk, None, 1, 150);
    assert_eq!(
        state.position, None,
        "an agent without identity has no cache"
    );
}

#[tokio::test]
async fn a_full_disk_leaves_no_stale_file_and_the_next_change_is_kept_again() {
    let disk = disk();
    let (mut keeper, _) = open(&disk);
    let states = history();
    keeper.keep(&states[2]).await.unwrap();
    disk.set_full(true);
    keeper.keep(&states[3]).await.unwrap();
    assert_eq!(
        *keeper.kept().borrow(),
        Kept::of(&states[3]),
        "nothing stale is left, so it may be told"
    );
    assert_eq!(open(&disk).1.position, None);
    disk.set_full(false);
    keeper.keep(&states[3]).await.unwrap();
    same(&open(&disk).1, &states[3]);
}

#[tokio::test]
async fn a_denial_removes_the_file() {
    let disk = disk();
    let (mut keeper, _) = open(&disk);
    let mut state = history().remove(1);
    keeper.keep(&state).await.unwrap();
    state.deny(Denial::Banned);
    keeper.keep(&state).await.unwrap();
    assert!(!disk.exists(Path::new(FILE)).unwrap());
}

#[tokio::test]
async fn a_file_that_grew_far_beyond_its_content_is_written_anew() {
    let disk = disk();
    let (mut keeper, _) = open(&disk);
    let mut state = history().remove(1);
    let mut largest = 0;
    for round in 0..60_i64 {
        let mut big = svid(&one("a"), 100 + round, 500, 1_100);
        big.chain = vec![vec![0; 100_000]];
        put(&mut state, big);
        keeper.keep(&state).await.unwrap();
        largest = largest.max(disk.read(Path::new(FILE)).unwrap().len());
    }
    assert!(largest < 2 * COMPACT_MIN, "{largest}");
    same(&open(&disk).1, &state);
}

#[test]
fn a_cache_key_is_made_once_kept_secret_and_replaced_when_others_could_read_it() {
    let disk = MemoryDisk::new();
    let path = Path::new("/keys/cache.key");
    let first = cache_key(&host(&disk), path).unwrap();
    assert_eq!(disk.metadata_mode(path).unwrap() & 0o777, 0o600);
    assert_eq!(*cache_key(&host(&disk), path).unwrap(), *first);
    disk.write_atomic(path, first.as_slice(), 0o640).unwrap();
    let second = cache_key(&host(&disk), path).unwrap();
    assert_ne!(*second, *first);
    disk.write_atomic(path, b"short", 0o600).unwrap();
    assert_ne!(*cache_key(&host(&disk), path).unwrap(), *second);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn a_crash_at_any_byte_of_an_append_leaves_one_of_the_states_before(cut in any::<prop::sample::Index>()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let disk = disk();
            let (mut keeper, _) = open(&disk);
            let mut lengths = Vec::new();
            let states = history();
            for state in &states {
                keeper.keep(state).await.unwrap();
                lengths.push(disk.read(Path::new(FILE)).unwrap().len());
            }
            let bytes = disk.read(Path::new(FILE)).unwrap();
            // From the first whole file on: that one was written in one step.
            let cut = lengths[0] + cut.index(bytes.len() - lengths[0] + 1);
            disk.write_atomic(Path::new(FILE), &bytes[..cut], 0o600).unwrap();
            let whole = lengths.iter().rposition(|length| *length <= cut).unwrap();
            let (mut keeper, state) = open(&disk);
            same(&state, &states[whole]);
            // And it goes on from there.
            keeper.keep(&states[3]).await.unwrap();
            same(&open(&disk).1, &states[3]);
        });
    }
}

mod crashes;
