//! The life of authorities.
//!
//! Responsible for: two issuing servers and two agents that rotate the authority of one kind:
//! prepared, published, active, old, retired, tainted, revoked; acknowledgements; deadline, cold
//! start and override; agents that crash, lag, lose all they had, or whose messages are lost, late
//! or repeated.
//! Always holds: any command may be proposed at any time, by a server that is behind or by a client
//! that repeats itself: only the rules of the state machine stand in its way (`rules`). What should
//! happen when nothing more goes wrong is `settling`. An agent that has stopped is one to which nothing
//! happens, so there is no action for it.
//! Not here: several kinds of authority, federation, downstream clusters.
//!
//! Mirrors `ca-server`: `state::authorities`, `state::acknowledgements`, `state::bundles`,
//! `state::agents` (attestation forgets acknowledgements) and, in `settling`,
//! `authority::rotation::plan`. Instants come from `mintmark_identity::rotation` itself. One tick
//! is two hours: an authority lives for twelve and an SVID for two, as the defaults' proportions ask.
//!
//! Servers are interchangeable, so they prove in order. `forgetting` makes states equal that nobody
//! can tell apart any more.

use stateright::{Model, Property};

pub mod forgetting;
pub mod rules;
pub mod settling;

use rules::{Ground, Phase};

/// What the model leaves out of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// An authority becomes active as acknowledged without anybody's acknowledgement.
    ActivateUnacknowledged,
    /// A forced activation does not say who was missing.
    LeafNamesNobody,
    /// An agent takes whatever bundle comes, even an older one.
    OlderBundleTaken,
    /// An old authority leaves the bundle at once.
    RetireAtOnce,
    /// Nobody remembers until when an authority's SVIDs are valid.
    UseForgotten,
    /// A repeated publish takes an active authority back.
    PublishAgain,
    /// The active authority stays active when the next one begins.
    TwoActive,
    /// A tainted authority goes on signing.
    TaintedSigns,
    /// Nobody is ever activated without all acknowledgements, and no tainted one is replaced.
    NoDeadline,
    /// Acknowledgements are not recorded.
    AcknowledgementsLost,
}

/// How much may happen.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// The world begins this long after its first authority, …
    pub from: u8,
    /// … and is looked at until then.
    pub until: u8,
    /// Authorities, the first included.
    pub authorities: usize,
    /// Agents that lose all they had, taints and overrides.
    pub faults: u8,
    /// Whether to go on from every state to see that it settles, which takes most of the time.
    pub settling: bool,
}

/// Agents.
pub const AGENTS: usize = 2;

/// The protocol.
#[derive(Debug, Clone, Copy)]
pub struct AuthorityLife {
    /// How much may happen.
    pub bounds: Bounds,
    /// What is wrong with it.
    pub broken: Option<Broken>,
}

/// A set of authorities: a bit for each.
pub type Set = u16;

/// The bit of an authority.
#[must_use]
pub fn bit(authority: usize) -> Set {
    1 << authority
}

/// An authority, as the replicated state knows it; at the end, what only the model knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Authority {
    phase: Phase,
    tainted: bool,
    prepared_at: u8,
    /// Servers that proved that they can use it.
    proven: u8,
    /// First bundle that had it; 0: none.
    published: u8,
    /// Until when something that it signed is valid.
    last_svid: Option<u8>,
    /// Servers that the leaf of its activation names as missing.
    named_servers: u8,
    /// Until when something that it signed is valid, in truth.
    truly_last_svid: Option<u8>,
}

/// An agent: what it has, and what the replicated state knows of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Agent {
    /// The bundle that it serves: its sequence and the authorities in it.
    holds: Option<(u8, Set)>,
    /// Its SVID: by whom, and until when.
    svid: Option<(u8, u8)>,
    /// The highest bundle that it ever acknowledged; the message may arrive at any time.
    sent: u8,
    /// The highest acknowledgement that was recorded since it attested.
    acknowledged: u8,
    /// Until when an SVID was issued to it.
    recorded_until: u8,
    /// Authorities whose activation leaf names it as missing.
    named: Set,
}

/// The whole world.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    now: u8,
    authorities: Vec<Authority>,
    /// Every bundle so far; the sequence of the first is 1.
    bundles: Vec<Set>,
    agents: [Agent; AGENTS],
    faults: u8,
    /// Whether something went back, or a tainted authority signed.
    went_back: bool,
    tainted_signed: bool,
}

/// What may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// A command is applied, if the rules allow it.
    Prepare,
    /// The next server shows that it can use this authority.
    Prove(usize),
    /// This authority goes into the bundle.
    Publish(usize),
    /// This authority signs from now on.
    Activate(usize, Ground),
    /// This authority leaves the bundle.
    Retire(usize),
    /// What this authority signed is to be replaced.
    Taint(usize),
    /// This authority is put out of the bundle.
    Revoke(usize),
    /// A bundle reaches an agent, the newest or one that was under way for long.
    Deliver(usize, u8),
    /// The highest acknowledgement of an agent is recorded.
    Acknowledge(usize),
    /// An agent asks for its next SVID; whether the reply arrives.
    Renew(usize, bool),
    /// An agent attests anew; whether the reply arrives.
    Attest(usize, bool),
    /// An agent loses all it had.
    Wipe(usize),
    /// Time passes.
    Tick,
}

impl State {
    fn sequence(&self) -> u8 {
        u8::try_from(self.bundles.len()).unwrap_or(u8::MAX)
    }

    /// The authorities of the newest bundle.
    fn bundle(&self) -> Set {
        self.bundles.last().copied().unwrap_or_default()
    }

    fn active(&self) -> Option<usize> {
        let mut all = self.authorities.iter();
        all.position(|authority| authority.phase == Phase::Active)
    }
}

impl Model for AuthorityLife {
    type State = State;
    type Action = Action;

    /// The first authority is active, and both agents have it and an SVID.
    fn init_states(&self) -> Vec<State> {
        let now = self.bounds.from;
        // Issued a tick ago.
        let until = now + rules::SVID_TICKS - 1;
        let first = Authority {
            phase: Phase::Active,
            tainted: false,
            prepared_at: 0,
            proven: rules::ALL_SERVERS,
            published: 1,
            last_svid: Some(until),
            named_servers: 0,
            truly_last_svid: Some(until),
        };
        let agent = Agent {
            holds: Some((1, bit(0))),
            svid: Some((0, until)),
            sent: 1,
            acknowledged: 1,
            recorded_until: until,
            named: 0,
        };
        vec![State {
            now,
            authorities: vec![first],
            bundles: vec![bit(0)],
            agents: [agent; AGENTS],
            faults: self.bounds.faults,
            went_back: false,
            tainted_signed: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.authorities.len() < self.bounds.authorities {
            actions.push(Action::Prepare);
        }
        for id in 0..state.authorities.len() {
            actions.extend([Action::Prove(id), Action::Publish(id), Action::Retire(id)]);
            let grounds = [Ground::Acknowledged, Ground::Deadline, Ground::ColdStart];
            actions.extend(grounds.map(|ground| Action::Activate(id, ground)));
            actions.push(Action::Revoke(id));
            if state.faults > 0 {
                actions.push(Action::Activate(id, Ground::Operator));
                actions.push(Action::Taint(id));
            }
        }
        for (n, agent) in state.agents.iter().enumerate() {
            if n > 0 && *agent == state.agents[n - 1] {
                // What it does, the one before it does as well.
                continue;
            }
            self.agent_actions(state, n, actions);
        }
        if state.now < self.bounds.until {
            actions.push(Action::Tick);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        let changed = self.perform(&mut state, action);
        state.went_back |= went_back(last, &state);
        forgetting::forget(&mut state, self.broken);
        changed.then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(EVERYBODY_KNOWS, |_, state: &State| everybody_knows(state)),
            Property::always(BUNDLE_KEEPS, |_, state: &State| bundle_keeps(state)),
            Property::always(ONLY_FORWARD, |_, state: &State| !state.went_back),
            Property::always(NO_TAINTED_SIGNATURE, |_, state: &State| {
                !state.tainted_signed
            }),
            Property::always(ROTATION_COMPLETES, |model: &Self, state: &State| {
                !model.bounds.settling || settling::completes(*model, state)
            }),
            Property::always(NOBODY_WAITS_FOR_EVER, |model: &Self, state: &State| {
                !model.bounds.settling || settling::goes_on_without_acknowledgements(*model, state)
            }),
            Property::sometimes("an old authority is retired", |_, state: &State| {
                let mut all = state.authorities.iter();
                all.any(|it| it.phase == Phase::Retired && it.truly_last_svid.is_some())
            }),
            Property::sometimes("a leaf names a missing agent", |_, state: &State| {
                state.agents.iter().any(|agent| agent.named != 0)
            }),
            Property::sometimes(
                "an agent holds an SVID of the second authority",
                |_, state: &State| {
                    let mut agents = state.agents.iter();
                    agents.any(|agent| matches!(agent.svid, Some((1, until)) if until > state.now))
                },
            ),
        ]
    }
}

impl AuthorityLife {
    fn agent_actions(&self, state: &State, n: usize, actions: &mut Vec<Action>) {
        let agent = &state.agents[n];
        if let Some((held, _)) = agent.holds {
            let old = self.broken == Some(Broken::OlderBundleTaken);
            let from = if old { 1 } else { held + 1 };
            actions.extend((from..=state.sequence()).map(|it| Action::Deliver(n, it)));
        }
        for arrives in [true, false] {
            match agent.holds {
                Some(_) => actions.push(Action::Renew(n, arrives)),
                None => actions.push(Action::Attest(n, arrives)),
            }
        }
        if agent.sent > agent.acknowledged {
            actions.push(Action::Acknowledge(n));
        }
        if state.faults > 0 && agent.holds.is_some() {
            actions.push(Action::Wipe(n));
        }
    }
}

/// P6, first half.
pub const EVERYBODY_KNOWS: &str = "who counts knows the active authority, or its leaf names him";
/// P6, second half.
pub const BUNDLE_KEEPS: &str = "the bundle has every unrevoked authority of an unexpired SVID";
/// States only go forward, and one is active.
pub const ONLY_FORWARD: &str = "authorities only go forward, and at most one is active";
/// Taint.
pub const NO_TAINTED_SIGNATURE: &str = "nothing tainted or revoked signs";
/// Liveness, when everybody answers.
pub const ROTATION_COMPLETES: &str = "when agents acknowledge, rotation completes before force";
/// Liveness, when agents renew and never acknowledge.
pub const NOBODY_WAITS_FOR_EVER: &str = "when agents do not acknowledge, signing goes on";

fn everybody_knows(state: &State) -> bool {
    let Some(active) = state.active() else {
        return true;
    };
    let authority = &state.authorities[active];
    let servers = authority.proven | authority.named_servers;
    let mut agents = state.agents.iter();
    let known = agents.all(|agent| {
        let counts = agent.svid.is_some_and(|(_, until)| until > state.now);
        let holds = agent.holds.is_some_and(|(_, set)| set & bit(active) != 0);
        !counts || holds || agent.named & bit(active) != 0
    });
    servers == rules::ALL_SERVERS && known
}

fn bundle_keeps(state: &State) -> bool {
    let bundle = state.bundle();
    let mut all = state.authorities.iter().enumerate();
    all.all(|(id, authority)| {
        let needed = authority
            .truly_last_svid
            .is_some_and(|last| last >= state.now);
        !needed || authority.phase == Phase::Revoked || bundle & bit(id) != 0
    })
}

fn went_back(last: &State, state: &State) -> bool {
    let active = state
        .authorities
        .iter()
        .filter(|it| it.phase == Phase::Active);
    let mut both = last.authorities.iter().zip(&state.authorities);
    both.any(|(old, new)| new.phase < old.phase || (old.tainted && !new.tainted))
        || active.count() > 1
}
