//! One run of one plan.
//!
//! Always: three parts: everything is set up in peace; faults and deeds come as planned; everything
//! heals, and must be as if nothing had happened. What is taken back then is gone at once. Invariants
//! are checked after each step of the simulation, and what only the end shows, at the end.
//!
//! Not here: what happens when (`plan`), what must hold (`crate::invariant`).

mod taking_back;
mod withdrawing;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::agent::RACER;
use super::faults::Faults;
use super::instant::SimulatedInstants;
use super::machine::Machine;
use super::operator::{KEYED, Order};
use super::plan::{Deed, Plan, Shape};
use super::server::FOUNDER;
use super::situations::{AWAY, Situations};
use super::world::World;
use super::{agent, server};
use crate::invariant::sinks_miss_nothing::copied;
use crate::invariant::{Invariants, Violation};
use crate::oracle::Oracle;
use crate::view::{Views, is_leader};

/// One step of the simulation.
pub const TICK: Duration = Duration::from_millis(5);
/// How long the set-up may take.
const SETUP_LIMIT: Duration = Duration::from_secs(120);
/// How long everything runs on after it healed: longer than a server mistrusts its clock that was wrong,
/// for until then it refuses what an operator asks of it.
const AFTERGLOW: Duration = Duration::from_secs(5);
/// How long a process that ended by itself stays down.
pub const SUPERVISOR_PAUSE: Duration = Duration::from_secs(1);

/// How often a server with a rotten disk is started again before its operator gives it up.
const ROTTEN_TRIES: u32 = 3;

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    /// Its seed.
    pub seed: u64,
    /// What was broken, if anything.
    pub violation: Option<Violation>,
    /// One value for everything that happened.
    pub digest: String,
    /// What happened.
    pub trace: Vec<String>,
    /// How often each fault became active.
    pub coverage: BTreeMap<&'static str, u64>,
    /// How often it came to each situation.
    pub situations: BTreeMap<&'static str, u64>,
    /// Virtual time.
    pub elapsed: Duration,
    /// SVIDs that workloads were given.
    pub svids: usize,
    /// Leaves of the audit log.
    pub leaves: usize,
    /// Everything that was issued, by the audit log.
    pub issued: Vec<Issued>,
}

/// Runs a plan.
pub fn run(plan: &Plan) -> Outcome {
    crate::panics::watch();
    let mut simulation = Simulation::new(plan);
    let violation = simulation.all().err();
    simulation.outcome(violation)
}

struct Simulation<'p> {
    plan: &'p Plan,
    world: World,
    sim: turmoil::Sim<'static>,
    faults: Faults,
    situations: Situations,
    views: Views,
    invariants: Invariants,
    /// Processes that ended by themselves, and when they are started again.
    ended: BTreeMap<String, Duration>,
    /// Machines whose process is not started again.
    gone: BTreeSet<String>,
    endings: BTreeMap<String, u32>,
    entries_made: u64,
    /// Whether the spare server was asked to join.
    grown: bool,
    /// The last that is dropped.
    instants: SimulatedInstants,
}

/// An issuance, as the audit log has it.
#[derive(Debug, Clone)]
pub struct Issued {
    /// When, in milliseconds of the cluster's time.
    pub at_ms: i64,
    /// What: `x509` or `jwt`.
    pub kind: String,
    /// To whom.
    pub spiffe_id: String,
}

fn issued(oracle: &Oracle) -> Vec<Issued> {
    let accepted = oracle.log().filter(|leaf| leaf.decision == "accepted");
    let issued = accepted.filter_map(|leaf| {
        Some(Issued {
            at_ms: leaf.time_ms,
            kind: leaf.issuance?.kind,
            spiffe_id: leaf.subject,
        })
    });
    issued.collect()
}

/// Names of the servers' machines.
fn server_names(shape: &Shape) -> Vec<String> {
    (1..=shape.servers).map(|n| format!("server-{n}")).collect()
}

/// Names of the machines of servers that may join later.
fn spare_names(shape: &Shape) -> Vec<String> {
    let spares = shape.servers + 1..=shape.servers + shape.spares;
    spares.map(|n| format!("server-{n}")).collect()
}

/// Names of the machines of agents that race for one token.
fn racer_names(shape: &Shape) -> Vec<String> {
    (1..=shape.racers).map(|n| format!("{RACER}{n}")).collect()
}

/// Names of the agents' machines.
fn agent_names(shape: &Shape) -> Vec<String> {
    (1..=shape.agents).map(|n| format!("agent-{n}")).collect()
}

impl<'p> Simulation<'p> {
    fn new(plan: &'p Plan) -> Self {
        let instants = SimulatedInstants::begin();
        let shape = &plan.shape;
        let world = World::new();
        let mut sim = turmoil::Builder::new()
            .rng_seed(shape.seed)
            .simulation_duration(Duration::from_secs(100_000))
            .tick_duration(TICK)
            .min_message_latency(Duration::from_millis(1))
            .max_message_latency(Duration::from_millis(shape.latency_max_ms))
            .repair_rate(1.0)
            .tcp_capacity(65_536)
            .enable_random_order()
            .build();
        let machines = server_names(shape).into_iter().chain(spare_names(shape));
        let agents = agent_names(shape).into_iter().chain(racer_names(shape));
        for name in machines.chain(agents) {
            let machine = Machine::new(&name, shape.seed, world.time.clone());
            world.lock().machines.insert(name.clone(), machine);
            let (world, shape) = (world.clone(), shape.clone());
            let own = name.clone();
            let is_server = name.starts_with("server-");
            sim.host(name, move || {
                let (world, name, shape) = (world.clone(), own.clone(), shape.clone());
                async move {
                    if is_server {
                        server::live(world, name, shape).await
                    } else {
                        agent::live(world, name, shape).await
                    }
                }
            });
        }
        let draws = SmallRng::seed_from_u64(shape.seed.rotate_left(32));
        Self {
            plan,
            faults: Faults::new(shape, draws),
            situations: Situations::default(),
            views: Views::default(),
            invariants: Invariants::all(),
            world,
            sim,
            ended: BTreeMap::new(),
            gone: BTreeSet::new(),
            endings: BTreeMap::new(),
            entries_made: 0,
            grown: false,
            instants,
        }
    }

    fn all(&mut self) -> Result<(), Violation> {
        self.set_up()?;
        self.world.note("driver", "the chaos begins");
        self.chaos()?;
        self.world.note("driver", "the healing begins");
        self.heal()?;
        self.withdraw()?;
        self.take_back()?;
        self.audit()?;
        let at = self.sim.elapsed();
        self.invariants
            .at_end(at, &self.plan.shape, &self.views, &self.world.lock())
    }

    fn outcome(self, violation: Option<Violation>) -> Outcome {
        let inner = self.world.lock();
        Outcome {
            seed: self.plan.shape.seed,
            violation,
            digest: inner.trace.digest(),
            trace: inner.trace.lines().to_vec(),
            coverage: self.faults.coverage().clone(),
            situations: self.situations.counts().clone(),
            elapsed: self.sim.elapsed(),
            svids: inner.oracle.received.len(),
            leaves: inner
                .oracle
                .leaves
                .values()
                .map(Vec::len)
                .max()
                .unwrap_or(0),
            issued: issued(&inner.oracle),
        }
    }

    /// One step, with everything that is checked after each.
    fn step(&mut self) -> Result<(), Violation> {
        let stepped = self.sim.step();
        let at = self.sim.elapsed();
        self.world.time.reached(at);
        self.instants.reached(at);
        self.world.log_polls();
        if let Err(error) = stepped {
            return Err(Violation::new("no process fails", at, error.to_string()));
        }
        let panic = crate::panics::take();
        // The store's library may panic on rotten bytes; the product turns that into an error.
        let excused = |panic: &String| self.faults.any_rotten() && panic.contains("/redb-");
        if let Some(panic) = panic.filter(|panic| !excused(panic)) {
            return Err(Violation::new("nothing panics", at, panic));
        }
        self.restart_ended(at)?;
        let changed = self.views.look(&self.world);
        for (who, what) in changed {
            self.world.note(&who, &what);
        }
        self.invariants
            .after_step(at, &self.plan.shape, &self.views, &self.world.lock())
    }

    /// Does what a supervisor does, and an operator who reads why a process ended.
    fn restart_ended(&mut self, at: Duration) -> Result<(), Violation> {
        let ended = std::mem::take(&mut self.world.lock().ended);
        for (name, reason) in ended {
            let seen = without_chance(&reason, self.faults.is_rotten(&name));
            self.world.note(&name, &seen);
            let is_banned = self.world.lock().banned.contains(&name);
            // Whoever asks to join asks again when nobody could be reached.
            let is_joining = spare_names(&self.plan.shape).contains(&name)
                && reason.starts_with("did not start");
            let is_lost = self.faults.is_rotten(&name) && self.endings(&name) > ROTTEN_TRIES;
            let is_over = is_banned || name.starts_with(RACER);
            if is_lost || (is_over && reason.contains("cannot go on")) {
                self.gone.insert(name);
            } else if self.faults.excuses(&name) || is_joining {
                self.ended.insert(name, at + SUPERVISOR_PAUSE);
            } else {
                let seen = format!("{name} {reason}");
                return Err(Violation::new("no process ends by itself", at, seen));
            }
        }
        let due: Vec<String> = self
            .ended
            .iter()
            .filter(|(name, due)| **due <= at && !self.faults.is_down(name))
            .map(|(name, _)| name.clone())
            .collect();
        for name in due {
            self.ended.remove(&name);
            self.sim.bounce(name.as_str());
        }
        Ok(())
    }

    /// Counts one more ending of a process, and tells how many there were.
    fn endings(&mut self, name: &str) -> u32 {
        let count = self.endings.entry(name.to_owned()).or_default();
        *count += 1;
        *count
    }

    /// Steps until it holds.
    fn until(
        &mut self,
        what: &'static str,
        limit: Duration,
        mut holds: impl FnMut(&mut Self) -> Result<(), String>,
    ) -> Result<(), Violation> {
        let deadline = self.sim.elapsed() + limit;
        loop {
            self.step()?;
            match holds(self) {
                Ok(()) => return Ok(()),
                Err(missing) if self.sim.elapsed() >= deadline => {
                    return Err(Violation::new(what, self.sim.elapsed(), missing));
                }
                Err(_) => {}
            }
        }
    }

    fn order(&self, at: &str, order: Order) {
        let mut inner = self.world.lock();
        inner
            .orders
            .entry(at.to_owned())
            .or_default()
            .push_back(order);
    }

    fn set_up(&mut self) -> Result<(), Violation> {
        let shape = self.plan.shape.clone();
        for name in server_names(&shape)
            .into_iter()
            .filter(|name| name != FOUNDER)
        {
            self.order(FOUNDER, Order::ServerToken(name));
        }
        if shape.servers == 1 {
            // Nobody joins, but agents take the pin from a token too.
            self.order(FOUNDER, Order::ServerToken("nobody".to_owned()));
        }
        for name in agent_names(&shape) {
            self.order(FOUNDER, Order::AgentToken(name));
        }
        let agents = agent_names(&shape);
        self.until("agents get tokens", SETUP_LIMIT, |this| {
            let inner = this.world.lock();
            let without = agents
                .iter()
                .find(|name| !inner.agent_ids.contains_key(*name));
            without.map_or(Ok(()), |name| Err(format!("{name} has none")))
        })?;
        for (name, user) in self.users() {
            let parent = self.world.lock().agent_ids[&name].clone();
            let order = Order::CreateEntry {
                key: format!("{name}/{user}"),
                parent,
                path: format!("/{name}/user-{user}"),
                uid: agent::UID_BASE + user,
            };
            self.order(FOUNDER, order);
        }
        self.until("everything is set up", SETUP_LIMIT, Self::is_healthy)
    }

    /// Agents' machines and their users.
    fn users(&self) -> Vec<(String, u32)> {
        let shape = &self.plan.shape;
        let machines = agent_names(shape).into_iter();
        machines
            .flat_map(|name| (0..shape.workloads).map(move |user| (name.clone(), user)))
            .collect()
    }

    fn chaos(&mut self) -> Result<(), Violation> {
        let began = self.sim.elapsed();
        self.situations.begin(&self.views);
        let mut faults = self.plan.faults.iter().peekable();
        let mut deeds = self.plan.deeds.iter().peekable();
        while self.sim.elapsed() < began + self.plan.shape.chaos {
            self.step()?;
            self.situations.look(&self.views);
            let since = self.sim.elapsed().saturating_sub(began);
            while let Some(planned) = faults.next_if(|planned| planned.at <= since) {
                let until = self.sim.elapsed() + planned.lasts;
                self.faults.begin(
                    &planned.fault,
                    until,
                    &mut self.sim,
                    &self.world,
                    &self.views,
                );
            }
            while let Some((_, server, deed)) = deeds.next_if(|deed| deed.0 <= since) {
                self.deed(*server, deed);
            }
            let now = self.sim.elapsed();
            self.faults.end_due(now, &mut self.sim, &self.world);
        }
        self.situations.end(began, &self.world.lock());
        Ok(())
    }

    fn deed(&mut self, server: u32, deed: &Deed) {
        let at = format!("server-{server}");
        let order = match deed {
            Deed::CreateEntry { agent, user } => {
                let key = format!("extra/{:04}", self.entries_made);
                self.entries_made += 1;
                let path = format!("/{key}");
                Some(self.one_more_entry(*agent, *user, key, path))
            }
            Deed::UpdateEntry { ttl_seconds } => {
                self.youngest_extra().map(|key| Order::UpdateEntry {
                    key,
                    ttl_seconds: *ttl_seconds,
                })
            }
            Deed::DeleteEntry => self.oldest_extra().map(|key| Order::DeleteEntry { key }),
            Deed::ReadEntry => self.youngest_extra().map(|key| Order::ReadEntry { key }),
            Deed::ReadAgent { agent } => {
                let inner = self.world.lock();
                let agent = inner.agent_ids[&format!("agent-{agent}")].clone();
                Some(Order::ReadAgent { agent })
            }
            Deed::ReadAuthorities => Some(Order::ReadAuthorities),
            Deed::Ban { agent } => {
                let name = format!("agent-{agent}");
                let mut inner = self.world.lock();
                inner.banned.insert(name.clone());
                let agent = inner.agent_ids[&name].clone();
                Some(Order::Ban { agent })
            }
            Deed::Rotate => Some(Order::Rotate),
            Deed::Taint { old: false } => self.signing().map(Order::Taint),
            Deed::Taint { old: true } => self.replaced().map(Order::Taint),
            Deed::Revoke => self.tainted().map(Order::Revoke),
            Deed::Race => Some(Order::RacersToken(racer_names(&self.plan.shape))),
            Deed::CreateKeyed {
                request,
                agent,
                user,
            } => {
                let key = format!("{KEYED}{request}");
                let path = format!("/extra/keyed-{request}");
                Some(self.one_more_entry(*agent, *user, key, path))
            }
            Deed::Grow => {
                self.grown = true;
                let spare = spare_names(&self.plan.shape).into_iter().next();
                spare.map(Order::ServerToken)
            }
        };
        if let Some(order) = order {
            self.order(&at, order);
        }
    }

    /// The youngest of the entries that deeds made.
    fn youngest_extra(&self) -> Option<String> {
        let inner = self.world.lock();
        let mut keys = inner.oracle.entries();
        keys.rfind(|key| key.starts_with("extra/")).cloned()
    }

    /// The oldest of them that nobody has asked to delete.
    fn oldest_extra(&self) -> Option<String> {
        let inner = self.world.lock();
        let mut extra = inner
            .oracle
            .entries()
            .filter(|key| key.starts_with("extra/"));
        let deleted = |key: &&String| {
            let mut asked = inner.oracle.asked.iter();
            asked.any(|one| matches!(&one.order, Order::DeleteEntry { key: gone } if gone == *key))
        };
        extra.find(|key| !deleted(key)).cloned()
    }

    /// One more identity for a user of an agent's machine.
    fn one_more_entry(&self, agent: u32, user: u32, key: String, path: String) -> Order {
        Order::CreateEntry {
            key,
            parent: self.world.lock().agent_ids[&format!("agent-{agent}")].clone(),
            path,
            uid: agent::UID_BASE + user,
        }
    }

    fn heal(&mut self) -> Result<(), Violation> {
        self.faults.end_all(&mut self.sim, &self.world);
        self.situations.add(AWAY, self.faults.times_away());
        // Orders that nobody took are not given any more.
        for orders in self.world.lock().orders.values_mut() {
            orders.clear();
        }
        if self.grown {
            self.invite_again();
        }
        self.until(
            "everything heals",
            self.plan.shape.healing,
            Self::is_healthy,
        )?;
        let end = self.sim.elapsed() + AFTERGLOW;
        while self.sim.elapsed() < end {
            self.step()?;
        }
        self.until(
            "everything stays healed",
            self.plan.shape.healing,
            Self::is_healthy,
        )
    }

    /// A token that was asked for may have got lost with the server that was asked.
    fn invite_again(&mut self) {
        let spares = spare_names(&self.plan.shape).into_iter();
        let uninvited: Vec<String> = spares
            .filter(|name| !self.world.lock().server_tokens.contains_key(name))
            .collect();
        let mut running = server_names(&self.plan.shape).into_iter().rev();
        let host = running.find(|name| !self.is_gone(name));
        for (name, host) in uninvited.into_iter().zip(host) {
            self.order(&host, Order::ServerToken(name));
        }
    }

    /// One leader, equal states, and a valid SVID in every workload's hands.
    fn is_healthy(&mut self) -> Result<(), String> {
        let (members, running) = self.members();
        self.views.agreement(&running, members)?;
        let inner = self.world.lock();
        for (name, user) in self.users() {
            if inner.banned.contains(&name) {
                continue;
            }
            let held = inner
                .oracle
                .held
                .get(&(name.clone(), agent::UID_BASE + user));
            let now = mintmark_identity::clock::Clock::now(inner.machines[&name].clock());
            let fresh = held.is_some_and(|held| {
                !held.is_empty()
                    && held.iter().all(|one| {
                        let verified = one.verified.as_ref();
                        verified.is_ok_and(|svid| svid.validity.not_after > now)
                    })
            });
            if !fresh {
                return Err(format!("user {user} of {name} holds no valid SVID"));
            }
        }
        Ok(())
    }

    /// How many servers there are to be, and the names of those that are not given up.
    fn members(&self) -> (usize, Vec<String>) {
        let shape = &self.plan.shape;
        let mut members = server_names(shape);
        if self.grown {
            members.extend(spare_names(shape));
        }
        let running = members.iter().filter(|name| !self.is_gone(name));
        (members.len(), running.cloned().collect())
    }

    /// Whether it was given up. A machine whose power came back after that may run again.
    fn is_gone(&self, name: &str) -> bool {
        self.gone.contains(name) && !self.world.lock().servers.contains_key(name)
    }

    /// An auditor reads the whole log from every server.
    fn audit(&mut self) -> Result<(), Violation> {
        let (_, servers) = self.members();
        self.world.lock().oracle.audited_at = self.sim.elapsed();
        for name in &servers {
            self.order(name, Order::ReadLog);
        }
        self.until(
            "the log can be read from every server",
            SETUP_LIMIT,
            |this| {
                let inner = this.world.lock();
                let without = servers
                    .iter()
                    .find(|name| !inner.oracle.leaves.contains_key(*name));
                without.map_or(Ok(()), |name| Err(format!("{name} does not give it")))
            },
        )?;
        // A sink that met a full disk tries again after a while.
        let mut next_look = Duration::ZERO;
        let mut last = Ok(());
        self.until("every sink catches up", SETUP_LIMIT, |this| {
            if this.sim.elapsed() >= next_look {
                next_look = this.sim.elapsed() + Duration::from_millis(500);
                last = this.sinks_have_all();
            }
            last.clone()
        })
    }

    fn sinks_have_all(&self) -> Result<(), String> {
        let inner = self.world.lock();
        for (name, leaves) in &inner.oracle.leaves {
            let copied = copied(&inner.machines[name].disk())?;
            if copied < leaves.len() as u64 {
                return Err(format!("{name} has copied {copied} of {}", leaves.len()));
            }
        }
        Ok(())
    }
}

/// A reason without what cryptography draws by chance: of flipped bits only the error's code is sure, for what they
/// make of a file depends on the random bytes around them.
fn without_chance(reason: &str, is_rotten: bool) -> String {
    let length = match reason.find("MM-") {
        Some(code) if is_rotten => code + "MM-0000".len(),
        _ => 80,
    };
    reason.chars().take(length).collect()
}

/// Whether anybody leads, for faults that aim at the leader.
pub fn leader(views: &Views) -> Option<String> {
    let leaders = views.servers().iter().filter(|(_, view)| is_leader(view));
    leaders
        .max_by_key(|(_, view)| view.status.term)
        .map(|(name, _)| name.clone())
}
