//! What agents serve, and with which SVID they were seen, on its way into the log.
//!
//! Always: acknowledgements are gathered and go into one command a second at most; only what raises a
//! record is sent. Memory is one record for each agent that said something since the last command.
//!
//! Not here: what follows from an acknowledgement (`state::acknowledgements`).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mintmark_identity::spiffe_id::SpiffeId;
use mintmark_identity::svid::x509::Serial;
use mintmark_proto::mintmark::raft::v1::acknowledge_bundle::Acknowledgement;
use mintmark_proto::mintmark::raft::v1::{AcknowledgeBundle, Actor, actor, command};
use mintmark_runtime::task::Tasks;
use mintmark_runtime::task::periodic::{Periodic, Wake};

use crate::Consensus;
use crate::raft::ProposeError;
use crate::state::State;

/// The shortest time between two commands.
const PERIOD: Duration = Duration::from_secs(1);
/// Acknowledgements in one command.
const COMMAND_MAX: usize = 2_000;
/// The longest version that is kept; it comes from the agent.
const VERSION_MAX: usize = 64;

/// Gathers acknowledgements.
#[derive(Debug, Clone, Default)]
pub struct Acknowledgements(Arc<Mutex<Waiting>>);

/// What is not in the log yet.
#[derive(Debug, Default)]
struct Waiting {
    bundles: BTreeMap<SpiffeId, Acknowledgement>,
    /// Serial numbers of pending SVIDs that agents were seen with.
    serials: BTreeMap<SpiffeId, Vec<u8>>,
}

impl Acknowledgements {
    /// An empty collection, and the task that proposes it.
    #[must_use]
    pub fn start(consensus: Consensus, node_id: u64, tasks: &Tasks) -> Self {
        let acknowledgements = Self::default();
        let schedule = Periodic::new(PERIOD, Wake::new(), tasks.token());
        let run = acknowledgements.clone().run(consensus, node_id, schedule);
        tasks.spawn("acknowledgements", run);
        acknowledgements
    }

    /// An agent with a push stream serves the bundle of this sequence.
    pub fn streamed(&self, agent: &SpiffeId, sequence: u64, version: &str) {
        let version = version
            .chars()
            .take(VERSION_MAX)
            .filter(|c| !c.is_control())
            .collect();
        self.put(
            agent,
            Acknowledgement {
                sequence,
                streams: true,
                version,
                ..Default::default()
            },
        );
    }

    /// A polling agent was given the bundle of this sequence.
    pub fn polled(&self, agent: &SpiffeId, sequence: u64) {
        self.put(
            agent,
            Acknowledgement {
                sequence,
                ..Default::default()
            },
        );
    }

    /// An agent says which bundle it serves.
    pub fn reported(&self, agent: &SpiffeId, sequence: u64) {
        self.put(
            agent,
            Acknowledgement {
                sequence,
                streams: true,
                ..Default::default()
            },
        );
    }

    /// An agent was seen with its pending SVID: the one before must not count for long.
    pub fn seen(&self, agent: &SpiffeId, serial: &Serial) {
        let serial = serial.as_bytes().to_vec();
        self.lock().serials.insert(agent.clone(), serial);
    }

    fn put(&self, agent: &SpiffeId, mut acknowledgement: Acknowledgement) {
        acknowledgement.agent_id = agent.to_string();
        self.lock().bundles.insert(agent.clone(), acknowledgement);
    }

    async fn run(self, consensus: Consensus, node_id: u64, mut schedule: Periodic) {
        while schedule.next().await {
            let gathered = self.take(&consensus);
            let acknowledgements = gathered.items();
            if acknowledgements.is_empty() {
                continue;
            }
            let body = AcknowledgeBundle { acknowledgements };
            let actor = Actor {
                kind: actor::Kind::Server.into(),
                node_id,
                ..Actor::default()
            };
            let body = command::Body::AcknowledgeBundle(body);
            if let Err(error) = consensus.propose(body, actor, None).await {
                tracing::debug!(%error, "acknowledgements are not recorded yet");
                self.put_back(gathered, matches!(error, ProposeError::Unknown));
            }
        }
    }

    /// Takes what would change a record.
    fn take(&self, consensus: &Consensus) -> Waiting {
        let mut waiting = self.lock();
        consensus.read(|state| waiting.retain(state));
        Waiting {
            serials: first(&mut waiting.serials, COMMAND_MAX),
            bundles: first(&mut waiting.bundles, COMMAND_MAX),
        }
    }

    /// Keeps what could not be proposed, unless the agent said something newer meanwhile. A poll
    /// that may have been recorded is not kept: told twice, it would pass for two, and the second
    /// poll is what says that the answer to the first arrived.
    fn put_back(&self, gathered: Waiting, recorded: bool) {
        let mut waiting = self.lock();
        let kept = gathered
            .bundles
            .into_iter()
            .filter(|(_, one)| one.streams || !recorded);
        for (agent, acknowledgement) in kept {
            waiting.bundles.entry(agent).or_insert(acknowledgement);
        }
        for (agent, serial) in gathered.serials {
            waiting.serials.entry(agent).or_insert(serial);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Every critical section leaves the maps whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// Forgets what would change nothing.
    fn retain(&mut self, state: &State) {
        self.bundles.retain(|agent, new| {
            state.attested_node(agent).is_some_and(|node| {
                let known = if new.streams {
                    node.acknowledged_bundle_sequence
                } else {
                    // A poll acknowledges what the poll before it delivered.
                    node.delivered_bundle_sequence
                        .min(node.acknowledged_bundle_sequence)
                };
                new.sequence > known
                    || (!new.version.is_empty() && new.version != node.agent_version)
            })
        });
        self.serials.retain(|agent, serial| {
            let node = state.attested_node(agent);
            node.is_some_and(|node| node.pending_serial == *serial)
        });
    }

    fn items(&self) -> Vec<Acknowledgement> {
        let serials = self.serials.iter().map(|(agent, serial)| Acknowledgement {
            agent_id: agent.to_string(),
            presented_serial: serial.clone(),
            ..Acknowledgement::default()
        });
        serials.chain(self.bundles.values().cloned()).collect()
    }
}

/// Takes at most `count` out of a map, and leaves the rest.
fn first<V>(map: &mut BTreeMap<SpiffeId, V>, count: usize) -> BTreeMap<SpiffeId, V> {
    let mut taken = std::mem::take(map);
    if let Some(first_left) = taken.keys().nth(count).cloned() {
        *map = taken.split_off(&first_left);
    }
    taken
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_poll_that_may_have_been_recorded_is_not_told_twice() {
        let agent = |name: &str| {
            let id = format!("spiffe://example.org/spire/agent/join_token/{name}");
            SpiffeId::parse(&id).unwrap()
        };
        for (recorded, left) in [(true, 1), (false, 2)] {
            let acknowledgements = Acknowledgements::default();
            acknowledgements.polled(&agent("a"), 5);
            acknowledgements.streamed(&agent("b"), 5, "1");
            let gathered = std::mem::take(&mut *acknowledgements.lock());
            acknowledgements.put_back(gathered, recorded);
            let waiting = acknowledgements.lock();
            assert_eq!(waiting.bundles.len(), left);
            assert!(waiting.bundles.get(&agent("b")).unwrap().streams);
        }
    }
}
