//! What the processes of a simulation and its driver tell each other.
//!
//! Always: it is one value behind one lock that nobody holds across an await; the processes report
//! here, and take their orders from here, so that both follow the simulation's order of events.
//!
//! Not here: what is made of it (`run`, `crate::oracle`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use ca_server::api::Services;
use node_agent::cache::state::State as AgentState;
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::clock::SimTime;
use super::machine::Machine;
use super::operator::Order;
use super::trace::Trace;
use crate::oracle::Oracle;

/// Everything that is shared. A clone is the same world.
#[derive(Clone)]
pub struct World {
    /// The time.
    pub time: SimTime,
    inner: Arc<Mutex<Inner>>,
}

/// What is behind the lock.
pub struct Inner {
    /// All machines, by name.
    pub machines: BTreeMap<String, Machine>,
    /// Servers that run, by machine.
    pub servers: BTreeMap<String, Services>,
    /// Agents that run, by machine: what they serve from.
    pub agents: BTreeMap<String, watch::Receiver<Arc<AgentState>>>,
    /// What the latest process of each machine runs on.
    pub runtimes: BTreeMap<String, Handle>,
    /// Tokens of agents, by machine, once they are made.
    pub agent_tokens: BTreeMap<String, String>,
    /// SPIFFE IDs of agents, by machine, once their token is made.
    pub agent_ids: BTreeMap<String, String>,
    /// Machines whose agent was banned, or is about to be.
    pub banned: BTreeSet<String>,
    /// Tokens and pin of joining servers, by machine, once they are made.
    pub server_tokens: BTreeMap<String, (String, String)>,
    /// What operators are to do, in order, by the machine they sit at.
    pub orders: BTreeMap<String, VecDeque<Order>>,
    /// Processes that ended by themselves, and why, since the driver last looked.
    pub ended: Vec<(String, String)>,
    /// What was seen.
    pub oracle: Oracle,
    /// What happened.
    pub trace: Trace,
}

impl World {
    /// A world with nothing in it.
    pub fn new() -> Self {
        Self {
            time: SimTime::default(),
            inner: Arc::new(Mutex::new(Inner {
                machines: BTreeMap::new(),
                servers: BTreeMap::new(),
                agents: BTreeMap::new(),
                runtimes: BTreeMap::new(),
                agent_tokens: BTreeMap::new(),
                agent_ids: BTreeMap::new(),
                banned: BTreeSet::new(),
                server_tokens: BTreeMap::new(),
                orders: BTreeMap::new(),
                ended: Vec::new(),
                oracle: Oracle::default(),
                trace: Trace::default(),
            })),
        }
    }

    /// Looks at it, or changes it.
    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    /// Notes an event.
    pub fn note(&self, who: &str, what: &str) {
        let at = self.time.elapsed();
        self.lock().trace.add(at, who, what);
    }

    /// A process begins on a machine.
    pub fn begins(&self, name: &str) {
        let runtimes = &mut self.lock().runtimes;
        runtimes.insert(name.to_owned(), Handle::current());
    }

    /// Logs how often each process was polled. Two runs of one seed part where these numbers do, long before
    /// it shows in what happens.
    pub fn log_polls(&self) {
        if !tracing::enabled!(target: "polls", tracing::Level::TRACE) {
            return;
        }
        for (name, runtime) in &self.lock().runtimes {
            let metrics = runtime.metrics();
            let (polls, spawned) = (metrics.worker_poll_count(0), metrics.spawned_tasks_count());
            tracing::trace!(target: "polls", name, polls, spawned);
        }
    }

    /// A machine.
    pub fn machine(&self, name: &str) -> Machine {
        self.lock().machines[name].clone()
    }

    /// Waits until something is there.
    pub async fn wait_for<T>(&self, mut look: impl FnMut(&mut Inner) -> Option<T>) -> T {
        loop {
            if let Some(found) = look(&mut self.lock()) {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}
