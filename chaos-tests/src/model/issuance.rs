//! Commit, then sign.
//!
//! Responsible for: edge servers that propose intents, a replicated log whose uncommitted tail may be
//! lost, `apply()`, and the signature that follows it.
//! Always holds: nothing is timed; whatever may take long may take for ever.
//! Not here: quorum contact and age of an acceptance (they bound how old the state may be from which
//! a server signs), batches, the content of an SVID.
//!
//! Mirrors `ca-server`: `issuance::batch` (who gets a `Committed`), `issuance::release` (the second
//! look, and that a `Committed` is used up), `state::issuance` (acceptance). Raft itself is abstract:
//! committed commands stay, a change of leader may drop any part of the tail, a forwarded proposal may
//! arrive never, late, or twice. Serials collide on purpose: there are fewer than requests.

use std::collections::BTreeSet;

use stateright::{Model, Property};

/// What the model leaves out of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// The server signs while its proposal is under way.
    SignBeforeCommit,
    /// The server signs when the leader has the command, committed or not.
    SignOnAppend,
    /// A server that replays its log after a crash takes old acceptances for new ones.
    MintOnReplay,
    /// A `Committed` can be used again.
    CommittedIsKept,
    /// The edge looks for a ban, and `apply()` trusts it.
    CheckThenAct,
    /// The server does not look again before it signs.
    NoSecondLook,
    /// `apply()` does not compare serials.
    SerialNotCompared,
}

/// How much may happen.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Commands in the log.
    pub log: usize,
    /// Requests of workloads.
    pub requests: u8,
    /// Crashes of servers.
    pub crashes: u8,
    /// Changes of the leader that lose a part of the tail.
    pub elections: u8,
}

/// Edge servers.
const SERVERS: usize = 2;
/// Serials to draw from.
const SERIALS: u8 = 2;
/// How often one proposal may arrive.
const ARRIVALS_MAX: u8 = 2;

/// The protocol.
#[derive(Debug, Clone, Copy)]
pub struct CommitThenSign {
    /// How much may happen.
    pub bounds: Bounds,
    /// What is wrong with it.
    pub broken: Option<Broken>,
}

/// A command in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Command {
    /// May this be signed?
    Issue(Intent),
    /// Deny the subject everything.
    Ban,
}

/// An intent. Every request makes a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Intent {
    id: u8,
    server: u8,
    serial: u8,
}

/// A proposal on its way to the leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Proposal {
    intent: Intent,
    arrived: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Server {
    /// Commands that it applied.
    applied: u8,
    /// What it waits for.
    waiting: Option<Intent>,
    /// What it may sign: the intent and its leaf.
    committed: Option<(Intent, u8)>,
}

/// An SVID that left a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Release {
    intent: Intent,
    leaf: Option<u8>,
    /// What the signer had applied.
    applied: u8,
}

/// The whole world.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    log: Vec<Command>,
    committed: u8,
    proposals: BTreeSet<Proposal>,
    servers: [Server; SERVERS],
    released: Vec<Release>,
    requests: u8,
    crashes: u8,
    elections: u8,
}

/// What may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// A workload asks this server, which draws this serial.
    Request(usize, u8),
    /// A proposal reaches the leader.
    Append(Intent),
    /// An operator bans the subject.
    Ban,
    /// The quorum has one more command.
    Commit,
    /// Another leader, whose log has so many commands.
    Elect(u8),
    /// A server applies its next command.
    Apply(usize),
    /// A server looks again and signs.
    Sign(usize),
    /// A server stops waiting; the outcome is unknown to it.
    GiveUp(usize),
    /// A server loses its memory, and replays its log.
    Crash(usize),
}

impl State {
    fn banned_before(&self, index: u8) -> bool {
        let before = self.log.iter().take(usize::from(index));
        before.into_iter().any(|command| *command == Command::Ban)
    }
}

impl CommitThenSign {
    /// Which commands are accepted, as far as the log goes.
    fn accepted(&self, log: &[Command]) -> Vec<bool> {
        let mut banned = false;
        let mut serials = BTreeSet::new();
        let decide = |command: &Command| match command {
            Command::Ban => {
                banned = true;
                false
            }
            Command::Issue(intent) => {
                let denied = banned && self.broken != Some(Broken::CheckThenAct);
                let reused = self.broken != Some(Broken::SerialNotCompared)
                    && serials.contains(&intent.serial);
                if !denied && !reused {
                    serials.insert(intent.serial);
                }
                !denied && !reused
            }
        };
        log.iter().map(decide).collect()
    }

    fn request(&self, state: &mut State, server: usize, serial: u8) {
        let intent = Intent {
            id: state.requests,
            server: u8::try_from(server).unwrap_or(u8::MAX),
            serial,
        };
        state.requests -= 1;
        state.servers[server].waiting = Some(intent);
        // Who checks here and acts there looks at what it knows here.
        let refused = self.broken == Some(Broken::CheckThenAct)
            && state.banned_before(state.servers[server].applied);
        if refused {
            state.servers[server].waiting = None;
        } else {
            state.proposals.insert(Proposal { intent, arrived: 0 });
        }
    }

    fn apply(&self, state: &mut State, server: usize) {
        let index = state.servers[server].applied;
        let place = usize::from(index);
        let accepted = self.accepted(&state.log[..=place])[place];
        let it = &mut state.servers[server];
        it.applied += 1;
        let Command::Issue(intent) = state.log[place] else {
            return;
        };
        let replayed = self.broken == Some(Broken::MintOnReplay)
            && usize::from(intent.server) == server
            && it.committed.is_none();
        if it.waiting == Some(intent) {
            it.waiting = None;
            it.committed = accepted.then_some((intent, index));
        } else if replayed && accepted {
            it.committed = Some((intent, index));
        }
    }

    /// What a server could sign now.
    fn signable(&self, state: &State, server: usize) -> Option<(Intent, Option<u8>)> {
        let it = &state.servers[server];
        let early = it.waiting.and_then(|intent| match self.broken {
            Some(Broken::SignBeforeCommit) => Some((intent, None)),
            Some(Broken::SignOnAppend) => {
                let mut log = state.log.iter();
                let place = log.position(|command| *command == Command::Issue(intent))?;
                Some((intent, u8::try_from(place).ok()))
            }
            _ => None,
        });
        early.or_else(|| it.committed.map(|(intent, leaf)| (intent, Some(leaf))))
    }

    fn sign(&self, state: &mut State, server: usize) {
        let Some((intent, leaf)) = self.signable(state, server) else {
            return;
        };
        let applied = state.servers[server].applied;
        let denied = state.banned_before(applied) && self.broken != Some(Broken::NoSecondLook);
        if !denied {
            state.released.push(Release {
                intent,
                leaf,
                applied,
            });
            state.released.sort_unstable();
        }
        let it = &mut state.servers[server];
        it.waiting = None;
        if self.broken != Some(Broken::CommittedIsKept) || denied {
            it.committed = None;
        }
    }

    /// Whether this release has its accepted leaf in the committed log.
    fn is_logged(&self, state: &State, release: &Release) -> bool {
        let Some(leaf) = release.leaf.filter(|leaf| *leaf < state.committed) else {
            return false;
        };
        let place = usize::from(leaf);
        state.log[place] == Command::Issue(release.intent) && self.accepted(&state.log)[place]
    }
}

impl Model for CommitThenSign {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let server = Server {
            applied: 0,
            waiting: None,
            committed: None,
        };
        vec![State {
            log: Vec::new(),
            committed: 0,
            proposals: BTreeSet::new(),
            servers: [server; SERVERS],
            released: Vec::new(),
            requests: self.bounds.requests,
            crashes: self.bounds.crashes,
            elections: self.bounds.elections,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let room = state.log.len() < self.bounds.log;
        let length = u8::try_from(state.log.len()).unwrap_or(u8::MAX);
        for (n, server) in state.servers.iter().enumerate() {
            let idle = server.waiting.is_none() && server.committed.is_none();
            if idle && state.requests > 0 {
                actions.extend((0..SERIALS).map(|serial| Action::Request(n, serial)));
            }
            if server.applied < state.committed {
                actions.push(Action::Apply(n));
            }
            if self.signable(state, n).is_some() {
                actions.push(Action::Sign(n));
            }
            if !idle {
                actions.push(Action::GiveUp(n));
            }
            if state.crashes > 0 {
                actions.push(Action::Crash(n));
            }
        }
        if room {
            let due = state
                .proposals
                .iter()
                .filter(|it| it.arrived < ARRIVALS_MAX);
            actions.extend(due.map(|proposal| Action::Append(proposal.intent)));
            if !state.banned_before(length) {
                actions.push(Action::Ban);
            }
        }
        if state.committed < length {
            actions.push(Action::Commit);
            if state.elections > 0 {
                actions.extend((state.committed..length).map(Action::Elect));
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Request(server, serial) => self.request(&mut state, server, serial),
            Action::Append(intent) => {
                let found = state.proposals.iter().find(|it| it.intent == intent);
                let mut proposal = *found?;
                state.proposals.remove(&proposal);
                proposal.arrived += 1;
                state.proposals.insert(proposal);
                state.log.push(Command::Issue(intent));
            }
            Action::Ban => state.log.push(Command::Ban),
            Action::Commit => state.committed += 1,
            Action::Elect(length) => {
                state.log.truncate(usize::from(length));
                state.elections -= 1;
            }
            Action::Apply(server) => self.apply(&mut state, server),
            Action::Sign(server) => self.sign(&mut state, server),
            Action::GiveUp(server) => {
                state.servers[server].waiting = None;
                state.servers[server].committed = None;
            }
            Action::Crash(server) => {
                state.crashes -= 1;
                state.servers[server] = Server {
                    applied: 0,
                    waiting: None,
                    committed: None,
                };
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(RELEASED_IS_COMMITTED, |model: &Self, state: &State| {
                let mut released = state.released.iter();
                released.all(|release| model.is_logged(state, release))
            }),
            Property::always(ONE_SIGNATURE, |_, state: &State| {
                let leaves = state.released.iter().map(|release| release.leaf);
                distinct(leaves.flatten())
            }),
            Property::always(DENIAL_FIRST, |model: &Self, state: &State| {
                let log = &state.log[..usize::from(state.committed)];
                let mut indexed = (0..state.committed).zip(model.accepted(log));
                indexed.all(|(index, accepted)| !accepted || !state.banned_before(index))
            }),
            Property::always(NOTHING_AFTER_BAN, |_, state: &State| {
                let mut released = state.released.iter();
                released.all(|release| !state.banned_before(release.applied))
            }),
            Property::always(SERIAL_UNIQUE, |_, state: &State| {
                distinct(state.released.iter().map(|release| release.intent.serial))
            }),
            Property::sometimes("two SVIDs are released", |_, state: &State| {
                state.released.len() > 1
            }),
            Property::sometimes(
                "a leaf stays without an SVID",
                |model: &Self, state: &State| {
                    let accepted = model.accepted(&state.log[..usize::from(state.committed)]);
                    let idle =
                        |it: &Server| it.committed.is_none() && it.applied >= state.committed;
                    accepted.contains(&true)
                        && state.released.is_empty()
                        && state.servers.iter().all(idle)
                },
            ),
        ]
    }
}

/// P1.
pub const RELEASED_IS_COMMITTED: &str = "what is released has its leaf in the committed log";
/// A `Committed` is single-use.
pub const ONE_SIGNATURE: &str = "of each leaf there is at most one signature";
/// P3, in `apply()`.
pub const DENIAL_FIRST: &str = "a denial before the acceptance beats it";
/// P3, at the signer.
pub const NOTHING_AFTER_BAN: &str = "a signer releases nothing after a ban that it applied";
/// Serials.
pub const SERIAL_UNIQUE: &str = "no serial is released twice";

fn distinct(values: impl Iterator<Item = u8>) -> bool {
    let mut seen = BTreeSet::new();
    values.into_iter().all(|value| seen.insert(value))
}
