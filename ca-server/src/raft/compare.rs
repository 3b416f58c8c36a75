//! Comparing this member with every other one, again and again.
//!
//! Responsible for: asking for clocks and marks, and acting on what the clocks show: a server whose
//! clock is off lets others lead. Always holds: leaders, followers and learners ask alike, so clocks are
//! known also while nobody leads; a server campaigns only while its clock is known to be good; one that
//! leads with a bad clock falls silent, so that another is elected. Not here: the verdicts
//! ([`super::clocks`], [`super::marks`]).

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use mintmark_proto::mintmark::raft::v1 as pb;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::clocks::{ClockState, Clocks};
use super::marks::{Mark, Marks};
use super::peers::{Peers, Remote};
use super::status::{RaftStatus, StatusWatch};
use super::type_config::Raft;
use crate::store::leaves::LeafStore;

/// How often every member is asked.
const PERIOD: Duration = Duration::from_secs(1);
/// The same while this clock is not known: elections wait for it.
const PERIOD_UNKNOWN: Duration = Duration::from_millis(100);
/// Longest that an answer may take; half of it is the greatest error of a clock's reading.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// Asks the other members.
pub struct Comparer {
    pub peers: Peers,
    pub status: StatusWatch,
    pub clocks: Clocks,
    pub marks: Marks,
    pub stop: CancellationToken,
}

impl Comparer {
    /// Compares until the process or consensus ends.
    pub async fn run(self) {
        let mut status = self.status.subscribe();
        loop {
            let now = status.borrow_and_update().clone();
            tokio::select! {
                () = self.round(&now) => {}
                () = self.stop.cancelled() => return,
            }
            if !now.voters.is_empty() {
                self.clocks.asked_all();
            }
            let period = match self.clocks.judge() {
                ClockState::Unknown => PERIOD_UNKNOWN,
                ClockState::Good(_) | ClockState::Skewed(_) => PERIOD,
            };
            self.marks.judge();
            let changed = status
                .wait_for(|next| (&next.members, &next.voters) != (&now.members, &now.voters));
            tokio::select! {
                () = tokio::time::sleep(period) => {}
                changed = changed => if changed.is_err() {
                    return;
                },
                () = self.stop.cancelled() => return,
            }
        }
    }

    async fn round(&self, now: &RaftStatus) {
        let members: BTreeSet<_> = now.members.keys().copied().collect();
        self.clocks.retain(|node| members.contains(&node));
        self.marks.retain(|node| members.contains(&node));
        let own = self.peers.sessions().own().node_id;
        let others = members.into_iter().filter(|node| *node != own);
        let asked = others.filter_map(|node| now.remote(node));
        join_all(asked.map(|member| self.ask(member))).await;
    }

    async fn ask(&self, member: Remote) {
        let asked = self
            .peers
            .call(
                &member,
                ANSWER_TIMEOUT,
                || pb::CompareRequest {
                    marks: self.marks.own().iter().map(Mark::to_pb).collect(),
                },
                |mut client, request| async move {
                    let sent = Instant::now();
                    let answer = client.compare(request).await;
                    answer.map(|answer| answer.map(|answer| (sent, answer)))
                },
            )
            .await;
        match asked {
            Ok((sent, answer)) => {
                self.clocks.heard(member.node, sent, answer.clock_ms);
                let marks: Vec<_> = answer.marks.iter().filter_map(Mark::from_pb).collect();
                self.marks.heard(member.node, &marks);
            }
            Err(error) => {
                tracing::debug!(%error, "a member could not be compared with");
            }
        }
    }
}

/// The answer to another member's question.
#[must_use]
pub fn answer(
    node: super::type_config::NodeId,
    request: &pb::CompareRequest,
    clocks: &Clocks,
    marks: &Marks,
    leaves: &LeafStore,
) -> pb::CompareResponse {
    let theirs = request.marks.iter().take(super::marks::MARKS_MAX);
    let theirs: Vec<_> = theirs.filter_map(Mark::from_pb).collect();
    marks.heard(node, &theirs);
    let mut told = marks.own();
    told.extend(marks.counterparts(&theirs));
    pb::CompareResponse {
        clock_ms: clocks.read().0.unix_millis(),
        marks: told.iter().map(Mark::to_pb).collect(),
        lacks_leaves: !leaves.is_complete(),
    }
}

/// Lets the library campaign and lead only as the clock allows, and says so.
pub async fn yield_on_skew(raft: Raft, clocks: Clocks, stop: CancellationToken) {
    let mut changes = clocks.subscribe();
    loop {
        let state = *changes.borrow_and_update();
        // Without heartbeats another member is elected within a second. A leader that restarts leads
        // on without an election, so it keeps silent until its clock is known.
        raft.runtime_config().heartbeat(state.is_good());
        raft.runtime_config().elect(state.is_good());
        match state {
            ClockState::Unknown => {
                tracing::debug!("this server's clock is not compared with the voters' yet");
            }
            ClockState::Good(offset) => {
                tracing::info!(%offset, "this server's clock is near the voters'");
            }
            ClockState::Skewed(offset) => tracing::error!(
                %offset,
                "this server's clock is wrong: it neither proposes, campaigns nor signs"
            ),
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() {
                return;
            },
            () = stop.cancelled() => return,
        }
    }
}
