//! Keeping the Raft membership what the state says.
//!
//! Always: the state decides who is a server; this job, on the leader, adds who is missing, lets it vote
//! once its log has caught up and it holds the audit leaves (decision 0043), learns where it is reached
//! now, and takes out who is gone. It looks again after every change and every period, so an interrupted
//! admission is finished by whoever leads next.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mintmark_runtime::failpoint;
use mintmark_runtime::task::Tasks;
use mintmark_runtime::task::periodic::{Periodic, Wake};

use crate::Consensus;
use crate::raft::Role;

/// How often the job looks when nothing changes.
const PERIOD: Duration = Duration::from_secs(1);
/// Between two looks that changes cause.
const CHANGE_PAUSE: Duration = Duration::from_millis(50);
/// Before a learner is tried again that could not be promoted yet: what it lacks may be small.
const PROMOTION_PAUSE: Duration = Duration::from_millis(200);
/// Voters beyond this number only slow the log down.
pub const VOTERS_MAX: usize = 5;

/// One step towards the wanted membership.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Let it get the log.
    Add(u64, String),
    /// It is reached elsewhere.
    Readdress(u64, String),
    /// Let it vote.
    Promote(u64),
    /// Take it out.
    Remove(u64),
}

/// What there is.
#[derive(Debug, Default)]
pub struct Present {
    /// Members and their addresses.
    pub members: BTreeMap<u64, String>,
    /// Who votes.
    pub voters: BTreeSet<u64>,
}

/// The next step; one at a time, because Raft changes its membership one step at a time. Learners
/// that are not `unready` come first.
#[must_use]
pub fn next_step(
    wanted: &BTreeMap<u64, String>,
    present: &Present,
    unready: &BTreeSet<u64>,
) -> Option<Step> {
    let stranger = present
        .members
        .keys()
        .find(|node| !wanted.contains_key(node));
    if let Some(stranger) = stranger.filter(|_| !wanted.is_empty()) {
        return Some(Step::Remove(*stranger));
    }
    let missing = wanted
        .iter()
        .find(|(node, _)| !present.members.contains_key(node));
    if let Some((node, address)) = missing {
        return Some(Step::Add(*node, address.clone()));
    }
    let moved = wanted
        .iter()
        .find(|(node, address)| present.members.get(node) != Some(address));
    if let Some((node, address)) = moved {
        return Some(Step::Readdress(*node, address.clone()));
    }
    if present.voters.len() >= VOTERS_MAX {
        return None;
    }
    let mut learners = wanted.keys().filter(|node| !present.voters.contains(node));
    let first = learners.clone().next()?;
    let ready = learners.find(|node| !unready.contains(node));
    Some(Step::Promote(*ready.unwrap_or(first)))
}

/// Starts the job.
pub fn start(consensus: Consensus, tasks: &Tasks) {
    let wake = Wake::new();
    let mut schedule = Periodic::new(PERIOD, wake.clone(), tasks.token());
    let (mut status, mut applied) = (consensus.status(), consensus.applied());
    let changed = async move || {
        tokio::select! {
            seen = status.changed() => seen.is_ok(),
            seen = applied.changed() => seen.is_ok(),
        }
    };
    tasks.spawn(
        "membership wake",
        wake.clone()
            .after_changes(changed, CHANGE_PAUSE, tasks.token()),
    );
    tasks.spawn("membership", async move {
        // Learners that could not be promoted in this turn: one that is dead must not hold up others.
        let mut unready = BTreeSet::new();
        while schedule.next().await {
            match take_step(&consensus, &unready).await {
                Some(Step::Promote(node)) => {
                    if !unready.insert(node) {
                        unready.clear();
                    }
                    tokio::time::sleep(PROMOTION_PAUSE).await;
                    wake.wake();
                }
                _ => unready.clear(),
            }
        }
    });
}

/// Takes the step that is due, if this server leads; gives it back if it could not be taken.
async fn take_step(consensus: &Consensus, unready: &BTreeSet<u64>) -> Option<Step> {
    let status = consensus.status().borrow().clone();
    if status.role != Role::Leader || status.joint {
        return None;
    }
    let wanted = consensus.read(|state| {
        // A server whose certificate is not recorded yet could not speak to anybody.
        let ready = state
            .servers()
            .filter(|server| !server.peer_certificate.is_empty());
        ready
            .map(|server| (server.node_id, server.peer_address.clone()))
            .collect()
    });
    let present = Present {
        members: status.members,
        voters: status.voters,
    };
    let step = next_step(&wanted, &present, unready)?;
    let outcome = match &step {
        Step::Add(node, address) | Step::Readdress(node, address) => {
            consensus.add_learner(*node, address).await
        }
        Step::Promote(node) => consensus.promote(*node).await,
        Step::Remove(node) => consensus.remove(*node).await,
    };
    match outcome {
        Ok(()) => {
            match step {
                Step::Add(..) => failpoint::reach(failpoint::Step::LearnerAdded),
                Step::Promote(_) => failpoint::reach(failpoint::Step::LearnerPromoted),
                Step::Remove(_) | Step::Readdress(..) => {}
            }
            tracing::info!(?step, "membership changed");
            None
        }
        Err(error) => {
            tracing::debug!(?step, %error, "membership not changed yet");
            Some(step)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(ids: &[u64]) -> BTreeMap<u64, String> {
        ids.iter().map(|id| (*id, format!("h{id}:1"))).collect()
    }

    fn present(members: &[u64], voters: &[u64]) -> Present {
        Present {
            members: nodes(members),
            voters: voters.iter().copied().collect(),
        }
    }

    #[test]
    fn one_step_at_a_time_leads_to_what_the_state_says() {
        let table = [
            (nodes(&[1]), present(&[1], &[1]), None),
            (
                nodes(&[1, 2]),
                present(&[1], &[1]),
                Some(Step::Add(2, "h2:1".into())),
            ),
            (
                nodes(&[1, 2]),
                present(&[1, 2], &[1]),
                Some(Step::Promote(2)),
            ),
            (nodes(&[1, 2]), present(&[1, 2], &[1, 2]), None),
            (
                nodes(&[1]),
                present(&[1, 2], &[1, 2]),
                Some(Step::Remove(2)),
            ),
            (
                nodes(&[1, 3]),
                present(&[1, 2], &[1, 2]),
                Some(Step::Remove(2)),
            ),
        ];
        for (wanted, present, expected) in table {
            assert_eq!(
                next_step(&wanted, &present, &BTreeSet::new()),
                expected,
                "{wanted:?} {present:?}"
            );
        }
    }

    #[test]
    fn a_server_that_moved_is_looked_for_where_it_is_now() {
        let mut wanted = nodes(&[1, 2]);
        wanted.insert(2, "elsewhere:1".to_owned());
        let step = next_step(&wanted, &present(&[1, 2], &[1, 2]), &BTreeSet::new());
        assert_eq!(step, Some(Step::Readdress(2, "elsewhere:1".into())));
    }

    #[test]
    fn an_empty_state_takes_nobody_out() {
        assert_eq!(
            next_step(
                &BTreeMap::new(),
                &present(&[1, 2], &[1, 2]),
                &BTreeSet::new()
            ),
            None
        );
    }

    #[test]
    fn further_servers_stay_learners() {
        let all = [1, 2, 3, 4, 5, 6];
        let step = next_step(&nodes(&all), &present(&all, &all[..5]), &BTreeSet::new());
        assert_eq!(step, None);
    }

    #[test]
    fn a_learner_that_is_not_ready_holds_up_no_other() {
        let (wanted, present) = (nodes(&[1, 2, 3]), present(&[1, 2, 3], &[1]));
        let promoted = |unready: &[u64]| {
            let unready = unready.iter().copied().collect();
            next_step(&wanted, &present, &unready)
        };
        assert_eq!(promoted(&[]), Some(Step::Promote(2)));
        assert_eq!(promoted(&[2]), Some(Step::Promote(3)));
        assert_eq!(promoted(&[2, 3]), Some(Step::Promote(2)), "from the start");
    }
}
