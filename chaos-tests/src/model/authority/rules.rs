//! What the state machine allows, and what agents do.
//!
//! Responsible for: each action of the model, as the product decides it.
//! Always holds: a refused command changes nothing; the bundle follows from the authorities.
//! Not here: what is proposed when (any action at any time, or `settling`).

use std::time::Duration;

use mintmark_identity::clock::Timestamp;
use mintmark_identity::rotation::activation_forced_at;
use mintmark_identity::validity::Validity;

use super::{Action, Agent, Authority, AuthorityLife, Broken, Set, State, bit};

/// Servers that issue.
const SERVERS: u8 = 2;
/// A bit for each of them.
pub const ALL_SERVERS: u8 = (1 << SERVERS) - 1;
/// Life of an authority in ticks.
pub const AUTHORITY_TICKS: u8 = 12;
/// Life of an SVID in ticks: a sixth.
pub const SVID_TICKS: u8 = 2;
/// Authorities that a set has bits for; only a broken protocol makes so many.
const AUTHORITIES_MAX: usize = 16;
/// One tick.
const TICK: Duration = Duration::from_secs(2 * 3_600);

/// How far an authority has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Its key exists.
    Prepared,
    /// The bundle has it.
    Published,
    /// It signs.
    Active,
    /// What it signed may still be valid.
    Old,
    /// It is out of the bundle.
    Retired,
    /// It was put out of the bundle.
    Revoked,
}

/// Why an authority may sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ground {
    /// Everybody knows it.
    Acknowledged,
    /// The active one is near its end, or tainted.
    Deadline,
    /// None is active.
    ColdStart,
    /// An operator says so.
    Operator,
}

/// The instant of a tick.
#[must_use]
pub fn at(tick: u8) -> Timestamp {
    Timestamp::UNIX_EPOCH.saturating_add(TICK * u32::from(tick))
}

impl Authority {
    /// From when until when it may sign.
    #[must_use]
    pub fn validity(&self) -> Validity {
        Validity::issued_at(at(self.prepared_at), TICK * u32::from(AUTHORITY_TICKS))
    }

    pub(super) fn is_expired(&self, now: u8) -> bool {
        self.validity().not_after <= at(now)
    }

    pub(super) fn is_bundled(&self) -> bool {
        matches!(self.phase, Phase::Published | Phase::Active | Phase::Old)
    }

    pub(super) fn is_on_its_way(&self) -> bool {
        self.phase <= Phase::Published
    }
}

impl State {
    /// Whether no authority is active and unexpired.
    #[must_use]
    pub fn is_cold(&self) -> bool {
        let active = self.active();
        active.is_none_or(|id| self.authorities[id].is_expired(self.now))
    }

    /// Whether the active one is so near its end, or so unusable, that the next one begins whoever
    /// is missing.
    #[must_use]
    pub fn is_forced(&self) -> bool {
        self.active().is_none_or(|id| {
            let active = &self.authorities[id];
            active.tainted || at(self.now) >= activation_forced_at(active.validity())
        })
    }

    pub(super) fn missing_servers(&self, id: usize) -> u8 {
        ALL_SERVERS & !self.authorities[id].proven
    }

    /// Whether this agent counts, and has not acknowledged this authority.
    pub(super) fn is_missing(&self, id: usize, agent: &Agent) -> bool {
        let published = self.authorities[id].published;
        agent.recorded_until > self.now && (published == 0 || agent.acknowledged < published)
    }

    /// Whether everybody who counts has acknowledged this authority.
    #[must_use]
    pub fn is_acknowledged(&self, id: usize) -> bool {
        let missing = |agent: &Agent| self.is_missing(id, agent);
        self.missing_servers(id) == 0 && !self.agents.iter().any(missing)
    }

    /// The authority that can sign an SVID now.
    pub(super) fn signer(&self, broken: Option<Broken>) -> Option<usize> {
        let fits = |authority: &Authority| {
            let clean = !authority.tainted || broken == Some(Broken::TaintedSigns);
            let outlasts = authority.validity().not_after >= at(self.now + SVID_TICKS);
            authority.phase == Phase::Active && clean && outlasts
        };
        self.authorities.iter().position(fits)
    }

    fn refresh_bundle(&mut self) {
        let all = self.authorities.iter().enumerate();
        let members = all.filter(|(_, authority)| authority.is_bundled());
        let set: Set = members.map(|(id, _)| bit(id)).sum();
        if set != self.bundle() {
            self.bundles.push(set);
            let sequence = self.sequence();
            for authority in &mut self.authorities {
                if authority.is_bundled() && authority.published == 0 {
                    authority.published = sequence;
                }
            }
        }
    }
}

impl AuthorityLife {
    /// Does what the action says, if it is allowed. Whether anything may have changed.
    pub fn perform(&self, state: &mut State, action: Action) -> bool {
        match action {
            Action::Prepare => prepare(state),
            Action::Prove(id) => prove(state, id),
            Action::Publish(id) => self.publish(state, id),
            Action::Activate(id, ground) => self.activate(state, id, ground),
            Action::Retire(id) => self.retire(state, id),
            Action::Taint(id) => taint(state, id),
            Action::Revoke(id) => revoke(state, id),
            Action::Deliver(agent, sequence) => {
                deliver(state, agent, sequence);
                true
            }
            Action::Acknowledge(agent) => self.acknowledge(state, agent),
            Action::Renew(agent, arrives) => self.renew(state, agent, arrives),
            Action::Attest(agent, arrives) => self.attest(state, agent, arrives),
            Action::Wipe(agent) => fault(state, agent, |agent| {
                agent.holds = None;
                agent.svid = None;
            }),
            Action::Tick => {
                state.now += 1;
                true
            }
        }
    }

    fn publish(&self, state: &mut State, id: usize) -> bool {
        let again = self.broken == Some(Broken::PublishAgain);
        let it = &mut state.authorities[id];
        let from = it.phase == Phase::Prepared || (again && it.phase == Phase::Active);
        if !from || it.tainted {
            return false;
        }
        it.phase = Phase::Published;
        state.refresh_bundle();
        true
    }

    fn activate(&self, state: &mut State, id: usize, ground: Ground) -> bool {
        let it = &state.authorities[id];
        let cold = it.phase == Phase::Prepared && ground == Ground::ColdStart;
        if (it.phase != Phase::Published && !cold) || it.tainted || it.is_expired(state.now) {
            return false;
        }
        let blind =
            self.broken == Some(Broken::ActivateUnacknowledged) && ground == Ground::Acknowledged;
        let allowed = match ground {
            Ground::Acknowledged => blind || state.is_acknowledged(id),
            Ground::Deadline => state.is_forced() && self.broken != Some(Broken::NoDeadline),
            Ground::ColdStart => state.is_cold(),
            Ground::Operator => {
                let any = state.faults > 0;
                state.faults = state.faults.saturating_sub(1);
                any
            }
        };
        if !allowed {
            return false;
        }
        if self.broken != Some(Broken::LeafNamesNobody) && !blind {
            name_missing(state, id);
        }
        if let Some(previous) = state.active()
            && self.broken != Some(Broken::TwoActive)
        {
            state.authorities[previous].phase = Phase::Old;
        }
        state.authorities[id].phase = Phase::Active;
        state.refresh_bundle();
        true
    }

    fn retire(&self, state: &mut State, id: usize) -> bool {
        let hasty = self.broken == Some(Broken::RetireAtOnce);
        let now = state.now;
        let it = &mut state.authorities[id];
        let unused = it.last_svid.is_none_or(|last| last < now);
        let allowed = match it.phase {
            Phase::Prepared | Phase::Published => true,
            Phase::Old => unused || hasty,
            Phase::Active | Phase::Retired | Phase::Revoked => false,
        };
        if allowed {
            it.phase = Phase::Retired;
            state.refresh_bundle();
        }
        allowed
    }

    fn acknowledge(&self, state: &mut State, agent: usize) -> bool {
        let agent = &mut state.agents[agent];
        if self.broken != Some(Broken::AcknowledgementsLost) {
            agent.acknowledged = agent.acknowledged.max(agent.sent);
        }
        true
    }

    /// Who renews over its stream keeps the bundle that it has; who resumes after its SVID expired
    /// opens a stream, which begins with the newest bundle.
    fn renew(&self, state: &mut State, agent: usize, arrives: bool) -> bool {
        let resumes = state.agents[agent]
            .svid
            .is_none_or(|(_, until)| until <= state.now);
        let Some(svid) = self.issue(state, agent) else {
            return false;
        };
        if arrives {
            state.agents[agent].svid = Some(svid);
            if resumes {
                let sequence = state.sequence();
                deliver(state, agent, sequence);
            }
        }
        true
    }

    fn attest(&self, state: &mut State, agent: usize, arrives: bool) -> bool {
        state.agents[agent].acknowledged = 0;
        let svid = self.issue(state, agent);
        if arrives && svid.is_some() {
            state.agents[agent].svid = svid;
            let sequence = state.sequence();
            deliver(state, agent, sequence);
        }
        svid.is_some()
    }

    fn issue(&self, state: &mut State, agent: usize) -> Option<(u8, u8)> {
        let id = state.signer(self.broken)?;
        let until = state.now + SVID_TICKS;
        let it = &mut state.authorities[id];
        if self.broken != Some(Broken::UseForgotten) {
            it.last_svid = it.last_svid.max(Some(until));
        }
        it.truly_last_svid = it.truly_last_svid.max(Some(until));
        state.tainted_signed |= it.tainted || it.phase == Phase::Revoked;
        let record = &mut state.agents[agent];
        record.recorded_until = record.recorded_until.max(until);
        Some((u8::try_from(id).unwrap_or(u8::MAX), until))
    }
}

fn fault(state: &mut State, agent: usize, what: impl FnOnce(&mut Agent)) -> bool {
    state.faults -= 1;
    what(&mut state.agents[agent]);
    true
}

fn prepare(state: &mut State) -> bool {
    let busy = |it: &Authority| it.is_on_its_way() && !it.tainted;
    if state.authorities.iter().any(busy) || state.authorities.len() >= AUTHORITIES_MAX {
        return false;
    }
    state.authorities.push(Authority {
        phase: Phase::Prepared,
        tainted: false,
        prepared_at: state.now,
        proven: 0,
        published: 0,
        last_svid: None,
        named_servers: 0,
        truly_last_svid: None,
    });
    true
}

fn prove(state: &mut State, id: usize) -> bool {
    let it = &mut state.authorities[id];
    let allowed = it.phase <= Phase::Active && it.proven != ALL_SERVERS;
    if allowed {
        it.proven = it.proven << 1 | 1;
    }
    allowed
}

fn taint(state: &mut State, id: usize) -> bool {
    let it = &mut state.authorities[id];
    let allowed = it.phase <= Phase::Old && !it.tainted && state.faults > 0;
    if allowed {
        it.tainted = true;
        state.faults -= 1;
    }
    allowed
}

fn revoke(state: &mut State, id: usize) -> bool {
    let it = &mut state.authorities[id];
    let allowed = it.phase <= Phase::Old && it.phase != Phase::Active && it.tainted;
    if allowed {
        it.phase = Phase::Revoked;
        state.refresh_bundle();
    }
    allowed
}

fn name_missing(state: &mut State, id: usize) {
    let missing: Vec<usize> = (0..state.agents.len())
        .filter(|n| state.is_missing(id, &state.agents[*n]))
        .collect();
    for n in missing {
        state.agents[n].named |= bit(id);
    }
    state.authorities[id].named_servers = state.missing_servers(id);
}

/// The agent serves this bundle from now on, and says so.
fn deliver(state: &mut State, agent: usize, sequence: u8) {
    let Some(set) = state.bundles.get(usize::from(sequence).saturating_sub(1)) else {
        return;
    };
    let agent = &mut state.agents[agent];
    agent.holds = Some((sequence, *set));
    agent.sent = agent.sent.max(sequence);
}
