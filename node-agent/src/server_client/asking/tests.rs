#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use mintmark_identity::entropy::SeededEntropy;
use proptest::prelude::*;
use tonic::Code;

use super::*;
use crate::server_client::patience::Patience;

/// How a server answers, each time that it is asked.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// After so many milliseconds.
    Good(u64),
    /// After so many milliseconds, with this.
    Bad(u64, Code),
    Never,
}
use Way::{Bad, Good, Never};

/// What happened in a call.
#[derive(Default)]
struct Log {
    /// Who was asked when, in milliseconds.
    asked: Mutex<Vec<(char, u64)>>,
    seen: Mutex<Vec<(char, Seen)>>,
    /// Questions that are open, and the most that were before anybody denied the agent.
    open: Mutex<(usize, usize)>,
    denied: Mutex<bool>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An open question; it is closed by its end, whichever it is.
struct Open<'a>(&'a Log);

impl<'a> Open<'a> {
    fn new(log: &'a Log) -> Self {
        let (now, most) = &mut *lock(&log.open);
        *now += 1;
        if !*lock(&log.denied) {
            *most = (*most).max(*now);
        }
        Self(log)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        lock(&self.0.open).0 -= 1;
    }
}

impl Log {
    /// Asks these servers in this order; each answers in its ways, and in the last of them from then on.
    async fn call(&self, servers: &[(char, &[Way])]) -> (Result<char, Status>, u64) {
        let began = Instant::now();
        let elapsed = move || u64::try_from(began.elapsed().as_millis()).unwrap();
        let names = servers.iter().map(|(name, _)| *name);
        let addresses = names.map(|name| Address::new(&name.to_string(), 1).unwrap());
        let ways: BTreeMap<char, &[Way]> = servers.iter().copied().collect();
        let ask = |server: Address| {
            let name = name(&server);
            let mut asked = lock(&self.asked);
            let times = asked.iter().filter(|(who, _)| *who == name).count();
            asked.push((name, elapsed()));
            let way = ways[&name][times.min(ways[&name].len() - 1)];
            let open = Open::new(self);
            async move {
                let _open = open;
                let (Good(after) | Bad(after, _)) = way else {
                    return std::future::pending().await;
                };
                tokio::time::sleep(Duration::from_millis(after)).await;
                *lock(&self.denied) |= matches!(way, Bad(_, Code::PermissionDenied));
                match way {
                    Bad(_, code) => Err(Status::new(code, name.to_string())),
                    _ => Ok(name),
                }
            }
        };
        let judge = |_: &Address, status: &Status| match status.code() {
            Code::Unavailable => Failure::OfServer,
            Code::PermissionDenied => Failure::Denial,
            Code::Unauthenticated => Failure::Stranger,
            _ => Failure::OfRequest,
        };
        let see = |server: &Address, seen| lock(&self.seen).push((name(server), seen));
        let waits = Patience::default().waits(Arc::new(SeededEntropy::new(7)));
        let answer = first_answer(addresses.collect(), waits, ask, judge, see).await;
        (answer, elapsed())
    }

    fn asked(&self) -> String {
        lock(&self.asked).iter().map(|(name, _)| *name).collect()
    }

    /// When the n-th question was asked.
    fn at(&self, n: usize) -> u64 {
        lock(&self.asked)[n].1
    }

    fn silent(&self) -> String {
        let seen = lock(&self.seen);
        let silent = seen.iter().filter(|(_, seen)| *seen == Seen::Silent);
        silent.map(|(name, _)| *name).collect()
    }
}

fn name(server: &Address) -> char {
    server.host().chars().next().unwrap()
}

const UNAVAILABLE: Way = Bad(5, Code::Unavailable);
const DENIED: Way = Bad(5, Code::PermissionDenied);
const STRANGER: Way = Bad(5, Code::Unauthenticated);
const REFUSED: Way = Bad(5, Code::InvalidArgument);

#[tokio::test(start_paused = true)]
async fn a_server_that_answers_is_the_only_one_asked() {
    let log = Log::default();
    let (answer, _) = log.call(&[('a', &[Good(900)]), ('b', &[Good(1)])]).await;
    assert_eq!(answer.unwrap(), 'a');
    assert_eq!(log.asked(), "a");
    let took = Seen::Answered(Duration::from_millis(900));
    assert_eq!(*lock(&log.seen), [('a', took)]);
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_is_passed_over_and_told_so() {
    let log = Log::default();
    let (answer, took) = log.call(&[('a', &[Never]), ('b', &[Good(5)])]).await;
    assert_eq!(answer.unwrap(), 'b');
    assert!((1_005..=1_255).contains(&took), "{took}");
    assert_eq!(log.silent(), "a");
}

#[tokio::test(start_paused = true)]
async fn a_slow_server_still_answers_while_another_is_asked_too() {
    let log = Log::default();
    let servers: [(char, &[Way]); 3] = [('a', &[Good(1_500)]), ('b', &[Never]), ('c', &[Good(1)])];
    let (answer, took) = log.call(&servers).await;
    assert_eq!((answer.unwrap(), took), ('a', 1_500));
    assert_eq!(log.asked(), "ab");
    assert_eq!(
        log.silent(),
        "",
        "the one that was asked later had no chance"
    );
}

#[tokio::test(start_paused = true)]
async fn a_server_that_fails_is_followed_at_once_by_each_other_once() {
    let log = Log::default();
    let all: [(char, &[Way]); 3] = [
        ('a', &[UNAVAILABLE]),
        ('b', &[UNAVAILABLE]),
        ('c', &[UNAVAILABLE]),
    ];
    let (answer, took) = log.call(&all).await;
    assert_eq!(answer.unwrap_err().message(), "c");
    assert_eq!((log.asked().as_str(), took), ("abc", 15));
}

#[tokio::test(start_paused = true)]
async fn two_silent_servers_of_five_delay_a_call_by_two_waits() {
    let log = Log::default();
    let servers: [(char, &[Way]); 5] = [
        ('a', &[Never]),
        ('b', &[Never]),
        ('c', &[Good(5)]),
        ('d', &[Good(5)]),
        ('e', &[Good(5)]),
    ];
    let (answer, took) = log.call(&servers).await;
    assert_eq!(answer.unwrap(), 'c');
    assert!((3_005..=3_755).contains(&took), "{took}");
    assert_eq!(log.silent(), "ab");
    assert_eq!(lock(&log.open).1, 2, "two at a time");
}

#[tokio::test(start_paused = true)]
async fn servers_without_a_leader_are_asked_again_while_one_is_silent() {
    let log = Log::default();
    let servers: [(char, &[Way]); 3] = [
        ('a', &[UNAVAILABLE, Good(5)]),
        ('b', &[Never]),
        ('c', &[UNAVAILABLE, Good(5)]),
    ];
    let (answer, took) = log.call(&servers).await;
    assert_eq!(answer.unwrap(), 'a');
    assert_eq!(log.asked(), "abca");
    assert!(took < 4_000, "{took}");
}

#[tokio::test(start_paused = true)]
async fn when_all_are_silent_the_call_ends_and_has_asked_few() {
    let log = Log::default();
    let servers: [(char, &[Way]); 3] = [('a', &[Never]), ('b', &[Never]), ('c', &[Never])];
    let (answer, took) = log.call(&servers).await;
    assert_eq!(answer.unwrap_err().code(), Code::DeadlineExceeded);
    assert_eq!(took, 20_000);
    assert_eq!(log.asked(), "abcab");
    let waits: Vec<u64> = (1..5).map(|n| log.at(n) - log.at(n - 1)).collect();
    assert!(waits.is_sorted() && waits[3] >= 8_000, "{waits:?}");
    assert_eq!(*lock(&log.open), (0, 2), "nothing is left open");
}

#[tokio::test(start_paused = true)]
async fn one_server_alone_has_all_the_time_and_is_asked_once() {
    let log = Log::default();
    let (answer, took) = log.call(&[('a', &[Good(19_000)])]).await;
    assert_eq!((answer.unwrap(), took), ('a', 19_000));
    assert_eq!(log.asked(), "a");
}

#[tokio::test(start_paused = true)]
async fn what_every_server_would_say_is_asked_of_no_other() {
    let log = Log::default();
    let (answer, took) = log.call(&[('a', &[REFUSED]), ('b', &[Good(1)])]).await;
    assert_eq!(answer.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!((log.asked().as_str(), took), ("a", 5));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_gives_way_to_the_answer_of_a_server_that_was_asked_before() {
    let log = Log::default();
    let servers: [(char, &[Way]); 2] = [('a', &[Good(1_900)]), ('b', &[REFUSED])];
    let (answer, _) = log.call(&servers).await;
    assert_eq!(answer.unwrap(), 'a', "it had done what was asked");
    let log = Log::default();
    let (answer, took) = log.call(&[('a', &[Never]), ('b', &[REFUSED])]).await;
    assert_eq!(answer.unwrap_err().code(), Code::InvalidArgument);
    assert!(took < 4_000, "but not for long: {took}");
}

#[tokio::test(start_paused = true)]
async fn a_denial_is_believed_when_no_other_server_serves_the_agent() {
    let log = Log::default();
    let servers: [(char, &[Way]); 3] = [('a', &[DENIED]), ('b', &[UNAVAILABLE]), ('c', &[DENIED])];
    let (answer, took) = log.call(&servers).await;
    assert_eq!(answer.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!((log.asked().as_str(), took), ("abc", 10), "each once");
    let log = Log::default();
    let (answer, _) = log.call(&[('a', &[DENIED]), ('b', &[Good(5)])]).await;
    assert_eq!(answer.unwrap(), 'b');
    let log = Log::default();
    let (answer, took) = log.call(&[('a', &[DENIED]), ('b', &[Never])]).await;
    assert_eq!(answer.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(log.asked(), "ab");
    assert!(took < 2_000, "silence does not put it off for long: {took}");
}

#[tokio::test(start_paused = true)]
async fn what_most_servers_deny_waits_for_no_other() {
    let log = Log::default();
    let servers: [(char, &[Way]); 3] = [('a', &[DENIED]), ('b', &[DENIED]), ('c', &[Good(500)])];
    let (answer, took) = log.call(&servers).await;
    assert_eq!(answer.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!((log.asked().as_str(), took), ("abc", 10));
    let log = Log::default();
    let servers: [(char, &[Way]); 3] = [('a', &[DENIED]), ('b', &[Never]), ('c', &[DENIED])];
    let (answer, took) = log.call(&servers).await;
    assert_eq!(answer.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(
        (log.asked().as_str(), took),
        ("abc", 10),
        "a dead one delays nothing"
    );
    let log = Log::default();
    let servers: [(char, &[Way]); 4] = [
        ('a', &[DENIED]),
        ('b', &[DENIED]),
        ('c', &[UNAVAILABLE]),
        ('d', &[Good(5)]),
    ];
    assert_eq!(
        log.call(&servers).await.0.unwrap(),
        'd',
        "half are not most"
    );
}

#[tokio::test(start_paused = true)]
async fn when_most_servers_are_strangers_the_call_says_so_and_waits_for_no_dead_one() {
    let log = Log::default();
    let servers: [(char, &[Way]); 3] = [('a', &[Never]), ('b', &[STRANGER]), ('c', &[STRANGER])];
    let (answer, took) = log.call(&servers).await;
    assert_eq!(answer.unwrap_err().code(), Code::Unauthenticated);
    assert!((1_010..=1_260).contains(&took), "{took}");
    let log = Log::default();
    let servers: [(char, &[Way]); 3] =
        [('a', &[STRANGER]), ('b', &[UNAVAILABLE]), ('c', &[Good(5)])];
    assert_eq!(log.call(&servers).await.0.unwrap(), 'c', "one is not most");
    let log = Log::default();
    let servers: [(char, &[Way]); 2] = [('a', &[STRANGER]), ('b', &[UNAVAILABLE])];
    let answer = log.call(&servers).await.0;
    assert_eq!(
        answer.unwrap_err().code(),
        Code::Unauthenticated,
        "it says more than the last failure"
    );
    assert_eq!(log.asked(), "ab", "each once");
}

#[tokio::test(start_paused = true)]
async fn without_a_server_the_call_fails_at_once() {
    let (answer, took) = Log::default().call(&[]).await;
    assert_eq!(answer.unwrap_err().code(), Code::Unavailable);
    assert_eq!(took, 0);
}

fn way() -> impl Strategy<Value = Way> {
    prop_oneof![
        (0_u64..30_000).prop_map(Good),
        (0_u64..30_000).prop_map(|after| Bad(after, Code::Unavailable)),
        (0_u64..30_000).prop_map(|after| Bad(after, Code::PermissionDenied)),
        (0_u64..30_000).prop_map(|after| Bad(after, Code::Unauthenticated)),
        (0_u64..30_000).prop_map(|after| Bad(after, Code::InvalidArgument)),
        Just(Never),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever servers do: two at a time, few in all, an end in time, and nothing left behind.
    #[test]
    fn a_call_is_bounded(ways in proptest::collection::vec(proptest::collection::vec(way(), 1..4), 0..8)) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let log = Log::default();
        let servers: Vec<(char, &[Way])> = ('a'..).zip(ways.iter().map(Vec::as_slice)).collect();
        let (answer, took) = runtime.block_on(log.call(&servers));
        let asked = log.asked();
        prop_assert!(took <= 20_000, "{took}");
        prop_assert!(asked.len() <= servers.len() + 4, "{asked}");
        let (open, most) = *lock(&log.open);
        prop_assert!(open == 0 && most <= 2);
        if let Ok(name) = answer {
            prop_assert!(asked.contains(name));
        }
    }

    /// A good server among bad ones gives its answer, after a wait for each that is silent.
    #[test]
    fn one_good_server_is_enough(silent in proptest::collection::vec(any::<bool>(), 0..3), at in 0_usize..3) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let mut ways: Vec<Way> = silent.iter().map(|silent| if *silent { Never } else { UNAVAILABLE }).collect();
        ways.insert(at.min(ways.len()), Good(5));
        let lists: Vec<[Way; 1]> = ways.into_iter().map(|way| [way]).collect();
        let servers: Vec<(char, &[Way])> = ('a'..).zip(lists.iter().map(<[Way; 1]>::as_slice)).collect();
        let (answer, took) = runtime.block_on(Log::default().call(&servers));
        prop_assert!(answer.is_ok());
        prop_assert!(took <= 3_770, "{took}");
    }
}
