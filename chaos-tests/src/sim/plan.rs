//! What happens in a run: its shape, its faults, and what operators do; all from one number.
//!
//! Always: a pure function of the seed and the profile, so that a plan can be printed, compared and
//! replayed; a fault that needs to know who leads names a role, not a machine.
//!
//! Not here: doing it (`run`).

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// The size of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Shape {
    /// Everything follows from it.
    pub seed: u64,
    /// Servers, 1 to 9.
    pub servers: u32,
    /// Servers that may join later: 0 or 1.
    pub spares: u32,
    /// Agents.
    pub agents: u32,
    /// Workloads per agent, each a user of its own.
    pub workloads: u32,
    /// Agents that race for one join token: none, or 2 or 3.
    pub racers: u32,
    /// Whether an authority is withdrawn in peace, at the end.
    pub withdraws: bool,
    /// Lifetime of authorities.
    pub ca_ttl_seconds: u64,
    /// Lifetime of X.509-SVIDs.
    pub svid_ttl_seconds: u64,
    /// Hybrid signatures.
    pub hybrid: bool,
    /// Log entries between two snapshots.
    pub snapshot_entries: u64,
    /// Longest delay of a message.
    pub latency_max_ms: u64,
    /// How long faults and orders come.
    pub chaos: Duration,
    /// How long everything may take to heal after the last fault.
    pub healing: Duration,
}

/// Some machines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// Server number n.
    Server(u32),
    /// Agent number n.
    Agent(u32),
    /// Whoever leads when the fault begins.
    Leader,
    /// Every server.
    AllServers,
    /// As many servers as leave a majority.
    Minority,
}

/// Something that goes wrong, and for how long.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// Power goes and comes back.
    Crash(Who),
    /// A process is asked to end, and is started again.
    Restart(Who),
    /// Nothing passes between these machines and all others.
    Isolate(Who),
    /// Nothing passes from these machines to the others; the other way everything does.
    Mute(Who),
    /// Nothing passes from the others to these machines; the other way everything does.
    Deafen(Who),
    /// Servers 1 and 3 reach server 2 and not each other.
    Bridge,
    /// Part of the messages is lost, and with them connections.
    Loss {
        /// Of ten thousand messages.
        per_10_000: u32,
    },
    /// Messages take longer, and overtake each other.
    Delay {
        /// Longest delay.
        max_ms: u64,
    },
    /// A clock is wrong, and jumps back right at the end.
    Skew {
        /// Whose.
        who: Who,
        /// By how much.
        millis: i64,
    },
    /// A disk takes no more bytes.
    DiskFull(Who),
    /// A disk takes its time.
    SlowDisk {
        /// Whose.
        who: Who,
        /// Longest wait of a piece of work.
        max_ms: u64,
    },
    /// Some operations of a disk fail.
    DiskErrors {
        /// Whose.
        who: Who,
        /// Of ten thousand writes and syncs.
        per_10_000: u32,
    },
    /// A bit of what a server's disk holds flips, for ever.
    Rot(Who),
}

impl Fault {
    /// What it is called in coverage tables.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Crash(Who::Agent(_)) => "crash of an agent",
            Self::Crash(Who::AllServers) => "total outage of servers",
            Self::Crash(Who::Leader) => "crash of the leader",
            Self::Crash(_) => "crash of a server",
            Self::Restart(Who::Agent(_)) => "restart of an agent",
            Self::Restart(_) => "restart of a server",
            Self::Isolate(Who::Agent(_)) => "agent cut off",
            Self::Isolate(Who::Leader) => "leader isolated",
            Self::Isolate(_) => "server isolated",
            Self::Mute(_) => "one-way cut, outgoing",
            Self::Deafen(_) => "one-way cut, incoming",
            Self::Bridge => "bridge partition",
            Self::Loss { .. } => "message loss",
            Self::Delay { .. } => "delay and reorder",
            Self::Skew { .. } => "clock skew and jump",
            Self::DiskFull(_) => "full disk",
            Self::SlowDisk { .. } => "slow disk",
            Self::DiskErrors { .. } => "disk errors",
            Self::Rot(_) => "flipped bit",
        }
    }
}

/// All kinds of faults, as coverage tables call them.
pub const FAULT_KINDS: [&str; 19] = [
    "crash of an agent",
    "total outage of servers",
    "crash of the leader",
    "crash of a server",
    "restart of an agent",
    "restart of a server",
    "agent cut off",
    "leader isolated",
    "server isolated",
    "one-way cut, outgoing",
    "one-way cut, incoming",
    "bridge partition",
    "message loss",
    "delay and reorder",
    "clock skew and jump",
    "full disk",
    "slow disk",
    "disk errors",
    "flipped bit",
];

/// A fault and its time.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    /// From when, since the chaos began.
    pub at: Duration,
    /// How long.
    pub lasts: Duration,
    /// What.
    pub fault: Fault,
}

/// What operators do meanwhile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deed {
    /// Registers a workload anew that an agent has anyway, under another path.
    CreateEntry {
        /// For agent number n.
        agent: u32,
        /// For its user number n.
        user: u32,
    },
    /// Changes the lifetime of the youngest such entry.
    UpdateEntry {
        /// Its new lifetime.
        ttl_seconds: u64,
    },
    /// Removes the oldest such entry.
    DeleteEntry,
    /// Reads the youngest such entry.
    ReadEntry,
    /// Reads how an agent stands.
    ReadAgent {
        /// Agent number n.
        agent: u32,
    },
    /// Reads how far authorities have come.
    ReadAuthorities,
    /// Bans an agent.
    Ban {
        /// Agent number n.
        agent: u32,
    },
    /// Prepares a new X.509 authority now.
    Rotate,
    /// Taints an X.509 authority, as if its key were known to others.
    Taint {
        /// Not the one that signs, but the one before it.
        old: bool,
    },
    /// Revokes a tainted X.509 authority.
    Revoke,
    /// Lets one more server join.
    Grow,
    /// Makes one join token for all agents that race.
    Race,
    /// Registers one more workload under an idempotency key. The same comes again, through another
    /// server perhaps, as from somebody who got no answer.
    CreateKeyed {
        /// Number of the request.
        request: u32,
        /// For agent number n.
        agent: u32,
        /// For its user number n.
        user: u32,
    },
}

/// Everything that happens.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The size of the run.
    pub shape: Shape,
    /// Faults, by time.
    pub faults: Vec<Planned>,
    /// Deeds, by time, each through the server that the number draws.
    pub deeds: Vec<(Duration, u32, Deed)>,
}

impl Plan {
    /// The plan of a seed.
    pub fn of(seed: u64) -> Self {
        let mut draws = SmallRng::seed_from_u64(seed);
        let shape = shape(seed, &mut draws);
        let faults = faults(&shape, &mut draws);
        let mut deeds = deeds(&shape, &mut draws);
        repetitions(&shape, &mut deeds);
        withdrawals(&shape, &mut deeds);
        Self {
            shape,
            faults,
            deeds,
        }
    }

    /// The same run without faults.
    pub fn calm(mut self) -> Self {
        self.faults.clear();
        self
    }
}

fn shape(seed: u64, draws: &mut SmallRng) -> Shape {
    let servers = if draws.gen_ratio(1, 4) { 5 } else { 3 };
    let svid_ttl_seconds = draws.gen_range(8..20);
    Shape {
        seed,
        servers,
        spares: u32::from(draws.gen_ratio(1, 3)),
        agents: draws.gen_range(2..4),
        workloads: draws.gen_range(1..4),
        racers: races(seed),
        withdraws: seed.is_multiple_of(8),
        ca_ttl_seconds: svid_ttl_seconds * draws.gen_range(6..9),
        svid_ttl_seconds,
        hybrid: draws.gen_ratio(1, 8),
        snapshot_entries: draws.gen_range(20..80),
        latency_max_ms: draws.gen_range(2..40),
        chaos: Duration::from_secs(draws.gen_range(20..50)),
        healing: Duration::from_secs(60),
    }
}

/// Between two faults.
const FAULT_GAP_MS: std::ops::Range<u64> = 500..8_000;

fn faults(shape: &Shape, draws: &mut SmallRng) -> Vec<Planned> {
    let mut faults = Vec::new();
    let mut at = Duration::from_millis(draws.gen_range(0..2_000));
    while at < shape.chaos {
        let fault = fault(shape, draws);
        let lasts = lasts(shape, &fault, draws);
        faults.push(Planned { at, lasts, fault });
        at += Duration::from_millis(draws.gen_range(FAULT_GAP_MS));
    }
    // A disk that rots is lost; one of three or five servers may be.
    if draws.gen_ratio(1, 6) {
        faults.push(Planned {
            at: Duration::from_millis(draws.gen_range(0..10_000)),
            lasts: Duration::ZERO,
            fault: Fault::Rot(Who::Server(draws.gen_range(1..=shape.servers))),
        });
        faults.sort_by_key(|planned| planned.at);
    }
    faults
}

fn who(shape: &Shape, draws: &mut SmallRng) -> Who {
    match draws.gen_range(0..10) {
        0..=2 => Who::Leader,
        3..=5 => Who::Server(draws.gen_range(1..=shape.servers)),
        6..=7 => Who::Agent(draws.gen_range(1..=shape.agents)),
        _ => Who::Minority,
    }
}

fn fault(shape: &Shape, draws: &mut SmallRng) -> Fault {
    match draws.gen_range(0..100) {
        0..=24 => Fault::Crash(who(shape, draws)),
        25..=28 => Fault::Crash(Who::AllServers),
        29..=36 => Fault::Restart(who(shape, draws)),
        37..=50 => Fault::Isolate(who(shape, draws)),
        51..=56 => Fault::Mute(who(shape, draws)),
        57..=62 => Fault::Deafen(who(shape, draws)),
        63..=67 => Fault::Bridge,
        68..=75 => Fault::Loss {
            per_10_000: draws.gen_range(5..200),
        },
        76..=83 => Fault::Delay {
            max_ms: draws.gen_range(100..900),
        },
        84..=89 => Fault::Skew {
            who: who(shape, draws),
            millis: draws.gen_range(-8_000..8_000),
        },
        90..=92 => Fault::DiskFull(who(shape, draws)),
        93..=95 => Fault::SlowDisk {
            who: who(shape, draws),
            max_ms: draws.gen_range(20..400),
        },
        _ => Fault::DiskErrors {
            who: who(shape, draws),
            per_10_000: draws.gen_range(10..1_000),
        },
    }
}

fn lasts(shape: &Shape, fault: &Fault, draws: &mut SmallRng) -> Duration {
    let millis = match fault {
        Fault::Restart(_) => draws.gen_range(10..200),
        // Now and then longer than an SVID lives.
        Fault::Isolate(Who::Agent(_)) | Fault::Crash(Who::Agent(_) | Who::AllServers)
            if draws.gen_ratio(1, 3) =>
        {
            shape.svid_ttl_seconds * draws.gen_range(1_100..2_000)
        }
        _ => draws.gen_range(100..8_000),
    };
    Duration::from_millis(millis)
}

/// Between two deeds.
const DEED_GAP_MS: std::ops::Range<u64> = 200..3_000;

fn deeds(shape: &Shape, draws: &mut SmallRng) -> Vec<(Duration, u32, Deed)> {
    let mut deeds = Vec::new();
    let mut at = Duration::ZERO;
    let mut may_ban = true;
    let mut may_grow = shape.spares > 0;
    while at < shape.chaos {
        let server = draws.gen_range(1..=shape.servers);
        let deed = match draws.gen_range(0..100) {
            0..=34 => Deed::CreateEntry {
                agent: draws.gen_range(1..=shape.agents),
                user: draws.gen_range(0..shape.workloads),
            },
            35..=54 => Deed::UpdateEntry {
                ttl_seconds: draws.gen_range(5..shape.svid_ttl_seconds + 1),
            },
            55..=74 => Deed::DeleteEntry,
            75..=86 => Deed::ReadEntry,
            87..=89 => Deed::ReadAgent {
                agent: shape.agents,
            },
            90..=92 => Deed::ReadAuthorities,
            93..=94 => Deed::Rotate,
            95..=97 if may_grow => {
                may_grow = false;
                Deed::Grow
            }
            // One agent at the most, so that somebody is left to look after.
            _ if may_ban => {
                may_ban = false;
                Deed::Ban {
                    agent: shape.agents,
                }
            }
            _ => Deed::ReadEntry,
        };
        deeds.push((at, server, deed));
        at += Duration::from_millis(draws.gen_range(DEED_GAP_MS));
    }
    deeds
}

/// Streams of their own, so that what was added later leaves the other draws of a seed as they were.
const RACE_STREAM: u64 = 0x7ace;
const REPETITION_STREAM: u64 = 0x7e9e;
const WITHDRAWAL_STREAM: u64 = 0x7a17;
/// So soon somebody asks again.
const REPEATED_WITHIN_MS: u64 = 4_000;

/// How many agents race for one token; in most runs none.
fn races(seed: u64) -> u32 {
    let mut draws = SmallRng::seed_from_u64(seed ^ RACE_STREAM << 48);
    if draws.gen_ratio(1, 4) {
        draws.gen_range(2..4)
    } else {
        0
    }
}

/// What is asked for twice: a token by several agents, an entry by one operator.
fn repetitions(shape: &Shape, deeds: &mut Vec<(Duration, u32, Deed)>) {
    let mut draws = SmallRng::seed_from_u64(shape.seed ^ REPETITION_STREAM << 48);
    let chaos = u64::try_from(shape.chaos.as_millis()).unwrap_or(u64::MAX);
    let moment = |draws: &mut SmallRng| Duration::from_millis(draws.gen_range(0..chaos));
    let server = |draws: &mut SmallRng| draws.gen_range(1..=shape.servers);
    if shape.racers > 0 {
        deeds.push((moment(&mut draws), server(&mut draws), Deed::Race));
    }
    let keyed = if draws.gen_ratio(1, 4) { 3 } else { 0 };
    for request in 0..keyed {
        let deed = Deed::CreateKeyed {
            request,
            agent: draws.gen_range(1..=shape.agents),
            user: draws.gen_range(0..shape.workloads),
        };
        let first = moment(&mut draws);
        let again = first + Duration::from_millis(draws.gen_range(0..REPEATED_WITHIN_MS));
        deeds.push((first, server(&mut draws), deed.clone()));
        deeds.push((again, server(&mut draws), deed));
    }
    // What is due at one moment stays in the order in which it was drawn.
    deeds.sort_by_key(|(at, _, _)| *at);
}

/// An operator who withdraws an authority asks again until it is out of the bundle.
const REVOCATIONS: u32 = 4;

/// Authorities that are tainted and revoked: in every third run one, now and then a second.
fn withdrawals(shape: &Shape, deeds: &mut Vec<(Duration, u32, Deed)>) {
    let mut draws = SmallRng::seed_from_u64(shape.seed ^ WITHDRAWAL_STREAM << 48);
    let chaos = u64::try_from(shape.chaos.as_millis()).unwrap_or(u64::MAX);
    let times = match draws.gen_range(0..12) {
        0..=2 => 1,
        3 => 2,
        _ => 0,
    };
    for _ in 0..times {
        let server = |draws: &mut SmallRng| draws.gen_range(1..=shape.servers);
        let mut at = Duration::from_millis(draws.gen_range(0..chaos));
        let old = draws.gen_ratio(1, 3);
        deeds.push((at, server(&mut draws), Deed::Taint { old }));
        // The first comes so soon that the authority may be the one that signs yet.
        let mut wait = 5..500;
        for _ in 0..REVOCATIONS {
            at += Duration::from_millis(draws.gen_range(wait));
            wait = 500..4_000;
            deeds.push((at, server(&mut draws), Deed::Revoke));
        }
    }
    deeds.sort_by_key(|(at, _, _)| *at);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_follows_from_its_seed() {
        assert_eq!(Plan::of(7), Plan::of(7));
        assert_ne!(Plan::of(7), Plan::of(8));
    }

    #[test]
    fn a_hundred_plans_have_every_fault() {
        let mut kinds = std::collections::BTreeSet::new();
        for seed in 0..100 {
            kinds.extend(
                Plan::of(seed)
                    .faults
                    .iter()
                    .map(|planned| planned.fault.kind()),
            );
        }
        assert_eq!(kinds, FAULT_KINDS.into_iter().collect());
    }
}
