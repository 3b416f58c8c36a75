//! Faults that are active, and what they make of links, clocks, disks and processes.
//!
//! Always: what a link lets through follows from all faults that are active, so that the end of one
//! does not end another; every fault that became active is counted.
//!
//! Not here: which fault when (`plan`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::seq::SliceRandom;

use super::disk::{Faults as DiskFaults, Latency, Operation};
use super::plan::{Fault, Shape, Who};
use super::run::leader;
use super::world::World;
use crate::view::Views;

/// Machines that a fault hits, when it began.
#[derive(Debug, Clone)]
struct Active {
    fault: Fault,
    hits: BTreeSet<String>,
    began: Duration,
    until: Duration,
}

/// All faults of a run.
#[derive(Debug)]
pub struct Faults {
    servers: Vec<String>,
    machines: Vec<String>,
    latency_max_ms: u64,
    svid_ttl: Duration,
    draws: SmallRng,
    active: Vec<Active>,
    /// Directed links that let nothing through now.
    cut: BTreeSet<(String, String)>,
    /// Machines whose process does not run because of a fault.
    down: BTreeSet<String>,
    /// Machines whose disk was full or failed, and so whose process may have ended.
    was_hurt: BTreeSet<String>,
    /// Machines whose disk rots, and so whose server may never start again.
    rotten: BTreeSet<String>,
    coverage: BTreeMap<&'static str, u64>,
    /// How often agents were away for longer than an SVID lives.
    away: u64,
}

impl Faults {
    /// None are active.
    pub fn new(shape: &Shape, draws: SmallRng) -> Self {
        let servers: Vec<String> = (1..=shape.servers).map(|n| format!("server-{n}")).collect();
        let all_servers = (1..=shape.servers + shape.spares).map(|n| format!("server-{n}"));
        let agents = (1..=shape.agents).map(|n| format!("agent-{n}"));
        Self {
            machines: all_servers.chain(agents).collect(),
            servers,
            latency_max_ms: shape.latency_max_ms,
            svid_ttl: Duration::from_secs(shape.svid_ttl_seconds),
            draws,
            active: Vec::new(),
            cut: BTreeSet::new(),
            down: BTreeSet::new(),
            was_hurt: BTreeSet::new(),
            rotten: BTreeSet::new(),
            coverage: BTreeMap::new(),
            away: 0,
        }
    }

    /// How often each fault became active.
    pub fn coverage(&self) -> &BTreeMap<&'static str, u64> {
        &self.coverage
    }

    /// How often agents were cut off, or down, for longer than an SVID lives.
    pub fn times_away(&self) -> u64 {
        self.away
    }

    /// Whether a fault keeps this machine's process from running.
    pub fn is_down(&self, name: &str) -> bool {
        self.down.contains(name)
    }

    /// Whether a process may end by itself.
    pub fn excuses(&self, name: &str) -> bool {
        self.was_hurt.contains(name) || self.rotten.contains(name)
    }

    /// Whether any disk rots.
    pub fn any_rotten(&self) -> bool {
        !self.rotten.is_empty()
    }

    /// Whether a server may be lost for good.
    pub fn is_rotten(&self, name: &str) -> bool {
        self.rotten.contains(name)
    }

    fn hits(&mut self, who: &Who, views: &Views) -> BTreeSet<String> {
        match who {
            Who::Server(n) => BTreeSet::from([format!("server-{n}")]),
            Who::Agent(n) => BTreeSet::from([format!("agent-{n}")]),
            Who::Leader => leader(views).into_iter().collect(),
            Who::AllServers => self.servers.iter().cloned().collect(),
            Who::Minority => {
                let mut servers = self.servers.clone();
                servers.shuffle(&mut self.draws);
                servers.truncate(self.servers.len().saturating_sub(1) / 2);
                servers.into_iter().collect()
            }
        }
    }

    /// A fault begins.
    pub fn begin(
        &mut self,
        fault: &Fault,
        until: Duration,
        sim: &mut turmoil::Sim<'static>,
        world: &World,
        views: &Views,
    ) {
        let hits = match fault {
            Fault::Crash(who)
            | Fault::Restart(who)
            | Fault::Isolate(who)
            | Fault::Mute(who)
            | Fault::Deafen(who)
            | Fault::DiskFull(who)
            | Fault::SlowDisk { who, .. }
            | Fault::DiskErrors { who, .. }
            | Fault::Rot(who)
            | Fault::Skew { who, .. } => self.hits(who, views),
            Fault::Bridge | Fault::Loss { .. } | Fault::Delay { .. } => BTreeSet::new(),
        };
        let needs_somebody = !matches!(
            fault,
            Fault::Bridge | Fault::Loss { .. } | Fault::Delay { .. }
        );
        if needs_somebody && hits.is_empty() {
            return;
        }
        world.note("driver", &format!("{fault:?} hits {hits:?}"));
        *self.coverage.entry(fault.kind()).or_default() += 1;
        match fault {
            Fault::Crash(_) | Fault::Restart(_) => {
                let power = matches!(fault, Fault::Crash(_));
                for name in &hits {
                    self.stop(name, power, sim, world);
                }
            }
            Fault::Skew { millis, .. } => {
                for name in &hits {
                    world.machine(name).clock().skew(*millis);
                }
            }
            Fault::DiskFull(_) | Fault::DiskErrors { .. } | Fault::SlowDisk { .. } => {}
            Fault::Rot(_) => {
                for name in &hits {
                    let disk = world.machine(name).disk();
                    // Not the copy of the log, which nothing checks again.
                    let files = disk.files().into_iter().map(|(path, _)| path);
                    let stores: Vec<PathBuf> =
                        files.filter(|path| path.starts_with("/data")).collect();
                    let file = stores.choose(&mut self.draws);
                    let flipped = file.filter(|file| disk.flip_random_bit(Some(file)).is_some());
                    world.note(name, &format!("a bit flips in {flipped:?}"));
                    self.rotten.insert(name.clone());
                }
            }
            _ => {}
        }
        self.active.push(Active {
            fault: fault.clone(),
            hits,
            began: sim.elapsed(),
            until,
        });
        self.set_links(sim);
        self.set_disks(world);
    }

    /// What each disk does follows from all faults that are active.
    fn set_disks(&mut self, world: &World) {
        for name in &self.machines {
            let (mut full, mut faults) = (false, DiskFaults::default());
            for active in self
                .active
                .iter()
                .filter(|active| active.hits.contains(name))
            {
                match &active.fault {
                    Fault::DiskFull(_) => full = true,
                    Fault::SlowDisk { max_ms, .. } => {
                        faults.latency = Some(Latency {
                            min: Duration::ZERO,
                            max: Duration::from_millis(*max_ms),
                        });
                    }
                    Fault::DiskErrors { per_10_000, .. } => {
                        let rate = f64::from(*per_10_000) / 10_000.0;
                        faults.errors = [Operation::Write, Operation::Sync]
                            .map(|operation| (operation, rate))
                            .into();
                    }
                    _ => {}
                }
            }
            let disk = world.machine(name).disk();
            if full || !faults.errors.is_empty() {
                self.was_hurt.insert(name.clone());
            }
            disk.set_capacity(full.then_some(0));
            disk.set_faults(faults);
        }
    }

    /// The power of a machine goes, or only its process is killed.
    fn stop(&mut self, name: &str, power: bool, sim: &mut turmoil::Sim<'static>, world: &World) {
        if self.down.insert(name.to_owned()) {
            // Before the host is dropped: a store writes when it is dropped, a dead machine does not.
            let disk = world.machine(name).disk();
            if power {
                disk.crash();
            } else {
                disk.kill();
            }
            sim.crash(name);
            let mut inner = world.lock();
            inner.servers.remove(name);
            inner.agents.remove(name);
            inner.oracle.machine_ended(name);
        }
    }

    /// Ends what is due.
    pub fn end_due(&mut self, now: Duration, sim: &mut turmoil::Sim<'static>, world: &World) {
        let (over, active) = std::mem::take(&mut self.active)
            .into_iter()
            .partition(|active| active.until <= now);
        self.active = active;
        let over: Vec<Active> = over;
        if !over.is_empty() {
            self.undo(&over, sim, world);
        }
    }

    /// Ends everything.
    pub fn end_all(&mut self, sim: &mut turmoil::Sim<'static>, world: &World) {
        let over = std::mem::take(&mut self.active);
        self.undo(&over, sim, world);
    }

    fn undo(&mut self, over: &[Active], sim: &mut turmoil::Sim<'static>, world: &World) {
        for ended in over {
            world.note("driver", &format!("{:?} ends", ended.fault));
            let lasted = sim.elapsed().saturating_sub(ended.began);
            if lasted > self.svid_ttl && ended.keeps_agents_away() {
                self.away += 1;
            }
            for name in &ended.hits {
                match &ended.fault {
                    Fault::Skew { .. } => world.machine(name).clock().skew(0),
                    Fault::Crash(_) | Fault::Restart(_) if !self.stops(name) => {
                        self.down.remove(name);
                        sim.bounce(name.as_str());
                    }
                    _ => {}
                }
            }
        }
        self.set_links(sim);
        self.set_disks(world);
    }

    /// Whether an active fault keeps it stopped.
    fn stops(&self, name: &str) -> bool {
        self.active.iter().any(|active| {
            matches!(active.fault, Fault::Crash(_) | Fault::Restart(_))
                && active.hits.contains(name)
        })
    }

    fn set_links(&mut self, sim: &mut turmoil::Sim<'static>) {
        let mut cut = BTreeSet::new();
        for from in &self.machines {
            for to in self.machines.iter().filter(|to| *to != from) {
                if self.active.iter().any(|active| active.cuts(from, to)) {
                    cut.insert((from.clone(), to.clone()));
                }
            }
        }
        for (from, to) in cut.difference(&self.cut) {
            sim.partition_oneway(from.as_str(), to.as_str());
        }
        for (from, to) in self.cut.difference(&cut) {
            sim.repair_oneway(from.as_str(), to.as_str());
        }
        self.cut = cut;
        let loss = self.active.iter().filter_map(|active| match active.fault {
            Fault::Loss { per_10_000 } => Some(per_10_000),
            _ => None,
        });
        sim.set_fail_rate(f64::from(loss.max().unwrap_or(0)) / 10_000.0);
        let delay = self.active.iter().filter_map(|active| match active.fault {
            Fault::Delay { max_ms } => Some(max_ms),
            _ => None,
        });
        let delay = delay.max().unwrap_or(self.latency_max_ms);
        sim.set_max_message_latency(Duration::from_millis(delay));
    }
}

impl Active {
    /// Whether agents can reach no server, or do not run.
    fn keeps_agents_away(&self) -> bool {
        matches!(
            self.fault,
            Fault::Isolate(Who::Agent(_)) | Fault::Crash(Who::Agent(_) | Who::AllServers)
        )
    }

    fn cuts(&self, from: &str, to: &str) -> bool {
        let (hits_from, hits_to) = (self.hits.contains(from), self.hits.contains(to));
        match &self.fault {
            Fault::Isolate(_) => hits_from != hits_to,
            Fault::Mute(_) => hits_from && !hits_to,
            Fault::Deafen(_) => hits_to && !hits_from,
            Fault::Bridge => {
                let ends = [from, to];
                ends.contains(&"server-1") && ends.contains(&"server-3")
            }
            _ => false,
        }
    }
}
