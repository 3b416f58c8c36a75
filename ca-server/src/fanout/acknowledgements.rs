//! What agents serve, on its way into the log.
//!
//! Always: acknowledgements are gathered and go into one command a second at most; only what raises a
//! record is sent. Memory is one record for each agent that said something since the last command.
//!
//! Not here: what follows from an acknowledgement (`state::acknowledgements`).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mintmark_identity::spiffe_id::SpiffeId;
use mintmark_proto::mintmark::raft::v1::acknowledge_bundle::Acknowledgement;
use mintmark_proto::mintmark::raft::v1::{AcknowledgeBundle, Actor, actor, command};
use mintmark_runtime::task::Tasks;
use mintmark_runtime::task::periodic::{Periodic, Wake};

use crate::Consensus;

/// The shortest time between two commands.
const PERIOD: Duration = Duration::from_secs(1);
/// Acknowledgements in one command.
const COMMAND_MAX: usize = 2_000;
/// The longest version that is kept; it comes from the agent.
const VERSION_MAX: usize = 64;

/// Gathers acknowledgements.
#[derive(Debug, Clone, Default)]
pub struct Acknowledgements(Arc<Mutex<BTreeMap<SpiffeId, Acknowledgement>>>);

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

    fn put(&self, agent: &SpiffeId, mut acknowledgement: Acknowledgement) {
        acknowledgement.agent_id = agent.to_string();
        self.lock().insert(agent.clone(), acknowledgement);
    }

    async fn run(self, consensus: Consensus, node_id: u64, mut schedule: Periodic) {
        while schedule.next().await {
            let gathered = self.take(&consensus);
            if gathered.is_empty() {
                continue;
            }
            let body = AcknowledgeBundle {
                acknowledgements: gathered.values().cloned().collect(),
            };
            let actor = Actor {
                kind: actor::Kind::Server.into(),
                node_id,
                ..Actor::default()
            };
            let body = command::Body::AcknowledgeBundle(body);
            if let Err(error) = consensus.propose(body, actor, None).await {
                tracing::debug!(%error, "acknowledgements are not recorded yet");
                self.put_back(gathered);
            }
        }
    }

    /// Takes what would change a record.
    fn take(&self, consensus: &Consensus) -> BTreeMap<SpiffeId, Acknowledgement> {
        let mut waiting = self.lock();
        if waiting.is_empty() {
            return BTreeMap::new();
        }
        consensus.read(|state| {
            waiting.retain(|agent, new| {
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
        });
        let mut taken = std::mem::take(&mut *waiting);
        if let Some(first_left) = taken.keys().nth(COMMAND_MAX).cloned() {
            *waiting = taken.split_off(&first_left);
        }
        taken
    }

    /// Keeps what could not be proposed, unless the agent said something newer meanwhile.
    fn put_back(&self, gathered: BTreeMap<SpiffeId, Acknowledgement>) {
        let mut waiting = self.lock();
        for (agent, acknowledgement) in gathered {
            waiting.entry(agent).or_insert(acknowledgement);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<SpiffeId, Acknowledgement>> {
        // Every critical section leaves the map whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
