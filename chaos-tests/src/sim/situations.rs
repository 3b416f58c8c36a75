//! What faults and operators are to come upon, counted while they come.
//!
//! Always: a situation counts when it was seen, not when it was planned; only what happens during the
//! chaos counts, so that the work of setting up and of healing is not taken for load.
//!
//! Not here: faults, which count themselves (`faults`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::operator::{Order, keyed};
use super::world::Inner;
use crate::oracle::{Answer, Asked};
use crate::view::{ServerView, Views, is_leader};

/// Agents raced for one token.
const RACE: &str = "agents race for one token";
/// An operator banned an agent.
const BAN: &str = "an agent is banned";
/// An agent was cut off, or down, for longer than an SVID lives.
pub const AWAY: &str = "an agent is away for longer than its SVID lives";
/// An operator had an authority made.
const ROTATION: &str = "an authority is made on demand";
/// An operator tainted an authority.
const TAINT: &str = "an authority is tainted";
/// An operator revoked an authority.
const REVOCATION: &str = "an authority is revoked";
/// An operator made an entry.
const CREATION: &str = "an entry is made";
/// An operator changed an entry.
const CHANGE: &str = "an entry is changed";
/// An operator deleted an entry.
const DELETION: &str = "an entry is deleted";
/// A request came twice under one idempotency key, and was answered twice.
const REPETITION: &str = "a request is repeated under its key";
/// Another server leads.
const ELECTION: &str = "another server leads";
/// One more server votes.
const GROWTH: &str = "one more server votes";
/// A server made a snapshot, and purged its log.
const SNAPSHOT: &str = "a snapshot is made";
/// A server got a snapshot from another, because that had purged what it lacked.
const CATCHING_UP: &str = "a server catches up by a snapshot";
/// A workload ended, and another process took its place.
const CHURN: &str = "a workload ends";

/// All of them.
pub const SITUATIONS: [&str; 15] = [
    RACE,
    BAN,
    AWAY,
    ROTATION,
    TAINT,
    REVOCATION,
    CREATION,
    CHANGE,
    DELETION,
    REPETITION,
    ELECTION,
    GROWTH,
    SNAPSHOT,
    CATCHING_UP,
    CHURN,
];

/// A server as it was when it last changed.
#[derive(Debug)]
struct Last {
    life: u64,
    snapshot: Option<u64>,
    installed: u64,
}

impl Last {
    fn of(view: &ServerView) -> Self {
        Self {
            life: view.life,
            snapshot: view.status.snapshot_log_index,
            installed: view.snapshots_installed,
        }
    }
}

/// The situations of one run.
#[derive(Debug, Default)]
pub struct Situations {
    counts: BTreeMap<&'static str, u64>,
    servers: BTreeMap<String, Last>,
    /// Terms of which somebody was seen to lead.
    led: BTreeSet<u64>,
    voters: usize,
}

impl Situations {
    /// How often each was seen.
    pub fn counts(&self) -> &BTreeMap<&'static str, u64> {
        &self.counts
    }

    /// One was seen so often.
    pub fn add(&mut self, situation: &'static str, times: u64) {
        if times > 0 {
            *self.counts.entry(situation).or_default() += times;
        }
    }

    /// The chaos begins: what there is now is nothing new.
    pub fn begin(&mut self, views: &Views) {
        for (name, view) in views.servers() {
            self.servers.insert(name.clone(), Last::of(view));
            self.voters = self.voters.max(view.status.voters.len());
            self.led.insert(view.status.term);
        }
    }

    /// After each step of the chaos.
    pub fn look(&mut self, views: &Views) {
        for (name, view) in views.changed() {
            if is_leader(view) && self.led.insert(view.status.term) {
                self.add(ELECTION, 1);
            }
            if view.status.voters.len() > self.voters && !view.status.joint {
                self.voters = view.status.voters.len();
                self.add(GROWTH, 1);
            }
            let now = Last::of(view);
            let Some(before) = self.servers.insert(name.clone(), now) else {
                continue;
            };
            if before.life != view.life {
                continue;
            }
            let installed = view.snapshots_installed - before.installed;
            self.add(CATCHING_UP, installed);
            if installed == 0 && view.status.snapshot_log_index > before.snapshot {
                self.add(SNAPSHOT, 1);
            }
        }
    }

    /// The chaos, which began then, is over.
    pub fn end(&mut self, began: Duration, world: &Inner) {
        let done = |asked: &&Asked| {
            let answer = asked.answered.as_ref().map(|(_, answer)| answer);
            asked.invoked >= began
                && matches!(
                    answer,
                    Some(Answer::Done | Answer::Entry(_) | Answer::Prepared(_))
                )
        };
        let mut keys = BTreeSet::new();
        for asked in world.oracle.asked.iter().filter(done) {
            let situation = match &asked.order {
                Order::RacersToken(_) => RACE,
                Order::Ban { .. } => BAN,
                Order::Rotate => ROTATION,
                Order::Taint(_) => TAINT,
                Order::Revoke(_) => REVOCATION,
                Order::CreateEntry { key, .. } => match keyed(key) {
                    Some(request) if !keys.insert(request) => REPETITION,
                    _ => CREATION,
                },
                Order::UpdateEntry { .. } => CHANGE,
                Order::DeleteEntry { .. } => DELETION,
                _ => continue,
            };
            self.add(situation, 1);
        }
        let ended = world.oracle.processes_ended.iter();
        let ended = ended.filter(|at| **at >= began).count();
        self.add(CHURN, ended as u64);
    }
}
