//! Push: agents learn of what concerns them as it commits.
//!
//! Always: work for a change is proportional to the agents that it concerns; an idle agent costs nothing.
//! A wake-up carries no data: a woken stream looks at the state and sends what is different from what it
//! sent before, so a lost or doubled wake-up does no harm.
//!
//! Not here: what an agent may serve (`state::authorization`), the wire (`api::mintmark_agent`).

pub mod acknowledgements;
pub mod update;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mintmark_identity::spiffe_id::SpiffeId;
use mintmark_runtime::task::Tasks;
use mintmark_runtime::task::periodic::Wake;

use crate::Consensus;
use crate::state::{Event, Position, State};

/// After so many events everybody is woken, to learn a position that is still remembered when its stream
/// breaks. A quarter of what the state remembers.
const EVENTS_PER_ROUND: usize = 4096;
/// The state is looked at this often even when nothing says that it changed.
const RECHECK_PERIOD: Duration = Duration::from_secs(10);

/// The streams that are open on this server.
#[derive(Debug, Clone, Default)]
pub struct Hub(Arc<Mutex<Streams>>);

#[derive(Debug, Default)]
struct Streams {
    by_agent: BTreeMap<SpiffeId, BTreeMap<u64, Wake>>,
    next: u64,
}

/// One open stream; dropping it forgets it.
#[derive(Debug)]
pub struct Subscription {
    hub: Hub,
    agent: SpiffeId,
    number: u64,
    wake: Wake,
}

impl Subscription {
    /// Waits until something may concern this agent. Cancel safe.
    pub async fn woken(&self) {
        self.wake.woken().await;
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut streams = self.hub.lock();
        if let Some(of_agent) = streams.by_agent.get_mut(&self.agent) {
            of_agent.remove(&self.number);
            if of_agent.is_empty() {
                streams.by_agent.remove(&self.agent);
            }
        }
    }
}

impl Hub {
    /// A hub without streams, and the task that wakes them.
    #[must_use]
    pub fn start(consensus: Consensus, tasks: &Tasks) -> Self {
        let hub = Self::default();
        tasks.spawn("push hub", hub.clone().run(consensus, tasks.token()));
        hub
    }

    /// Registers a stream of `agent`.
    #[must_use]
    pub fn subscribe(&self, agent: &SpiffeId) -> Subscription {
        let mut streams = self.lock();
        let number = streams.next;
        streams.next = streams.next.wrapping_add(1);
        let wake = Wake::new();
        streams
            .by_agent
            .entry(agent.clone())
            .or_default()
            .insert(number, wake.clone());
        Subscription {
            hub: self.clone(),
            agent: agent.clone(),
            number,
            wake,
        }
    }

    /// How many streams are open.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.lock().by_agent.values().map(BTreeMap::len).sum()
    }

    async fn run(self, consensus: Consensus, token: tokio_util::sync::CancellationToken) {
        let mut applied = consensus.applied();
        let mut seen = *applied.borrow_and_update();
        let mut since_round = 0_usize;
        loop {
            let concerned = consensus.read(|state| {
                let position = state.applied_position();
                let concerned = Concerned::since(state, seen, &mut since_round);
                seen = position;
                concerned
            });
            self.wake(&concerned);
            tokio::select! {
                biased;
                () = token.cancelled() => return,
                changed = applied.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    applied.borrow_and_update();
                }
                () = tokio::time::sleep(RECHECK_PERIOD) => {}
            }
        }
    }

    fn wake(&self, concerned: &Concerned) {
        let streams = self.lock();
        match concerned {
            Concerned::Everybody => {
                streams
                    .by_agent
                    .values()
                    .flat_map(BTreeMap::values)
                    .for_each(Wake::wake);
            }
            Concerned::Agents(agents) => {
                let of_agents = agents
                    .iter()
                    .filter_map(|agent| streams.by_agent.get(agent));
                of_agents.flat_map(BTreeMap::values).for_each(Wake::wake);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Streams> {
        // Every critical section leaves the map whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whom the latest events concern.
enum Concerned {
    Everybody,
    Agents(BTreeSet<SpiffeId>),
}

impl Concerned {
    fn since(state: &State, seen: Position, since_round: &mut usize) -> Self {
        let Ok(events) = state.events_since(seen) else {
            return Self::Everybody;
        };
        let mut agents = BTreeSet::new();
        let mut everybody = false;
        for (_, event) in events {
            *since_round = since_round.saturating_add(1);
            match event {
                Event::EntryChanged(id) => {
                    if let Some(entry) = state.entry(&id) {
                        let parent = &entry.parent_id;
                        agents.extend(state.agents_concerned(parent, &entry.selectors));
                    }
                }
                Event::EntryRemoved {
                    parent, selectors, ..
                } => {
                    agents.extend(state.agents_concerned(&parent, &selectors));
                }
                Event::AgentChanged(agent)
                | Event::AgentBanned(agent)
                | Event::AgentRemoved(agent) => {
                    agents.insert(agent);
                }
                Event::AuthorityChanged { .. } | Event::VaultChanged | Event::CheckpointSigned => {}
                // The bundle, the settings, the servers, a tainted authority; and whatever is
                // new and not known here.
                _ => everybody = true,
            }
        }
        if everybody || *since_round >= EVENTS_PER_ROUND {
            *since_round = 0;
            return Self::Everybody;
        }
        Self::Agents(agents)
    }
}
