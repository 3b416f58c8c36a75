//! One join token, two agents.
//!
//! Responsible for: two agents that race with one token through different servers, send again when a
//! reply is lost, and a leader whose clock may be behind the one before.
//! Always holds: the decision about a token is the specification that histories are judged by
//! (`crate::linearizability::join_token::answers`), and `tests/specifications.rs` holds the state
//! machine to the same.
//! Not here: the attested agent, bans.
//!
//! Mirrors `ca-server`: `state::tokens` (by way of that specification), `State::apply` (time is the
//! maximum of what leaders said), and the attestation API, which answers when its own server has
//! applied the command. Requests and replies may arrive never, late, or several times; a change of
//! leader may drop the uncommitted tail.

use std::collections::BTreeSet;

use stateright::{Model, Property};

use crate::linearizability::join_token::{Op, Outcome, State as Token, Why, answers};

/// What the model leaves out of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// Consuming a token leaves no trace.
    ForgetToConsume,
    /// A consumed token serves nobody, not even its own key.
    ConsumeOnce,
    /// Nobody looks at the expiry.
    NoExpiry,
    /// The time is the last leader's, not the latest that any leader said.
    TimeGoesBack,
    /// The edge looks whether the token is used, and `apply()` trusts it.
    CheckAtEdge,
}

/// How much may happen.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Commands in the log.
    pub log: usize,
    /// Requests that each agent sends.
    pub requests: u8,
    /// Changes of leader.
    pub elections: u8,
}

/// From this time on the token is over.
const EXPIRES_AT: u8 = 2;
/// The last time that is looked at.
const TIME_MAX: u8 = 2;
const SERVERS: usize = 2;
const AGENTS: usize = 2;

/// The protocol.
#[derive(Debug, Clone, Copy)]
pub struct TokenRace {
    /// How much may happen.
    pub bounds: Bounds,
    /// What is wrong with it.
    pub broken: Option<Broken>,
}

/// The attestation of an agent through a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attest {
    agent: u8,
    server: u8,
}

/// An attestation in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Command {
    attest: Attest,
    /// The clock of the leader that appended it.
    time: u8,
    /// What the edge had found, if that is asked for.
    judged: Option<Outcome>,
}

/// The whole world.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    log: Vec<Command>,
    committed: u8,
    applied: [u8; SERVERS],
    /// Requests that were sent; each may arrive any number of times.
    sent: BTreeSet<Attest>,
    /// Replies that were sent, likewise.
    replies: BTreeSet<(u8, Outcome)>,
    /// What each agent was told first.
    told: [Option<Outcome>; AGENTS],
    requests: [u8; AGENTS],
    now: u8,
    /// Whether the leader's clock is behind.
    slow: bool,
    elections: u8,
}

/// What may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// An agent asks a server.
    Send(Attest),
    /// The request arrives, and the leader appends it.
    Append(Attest),
    /// The quorum has one more command.
    Commit,
    /// A server applies its next command, and answers if it was asked.
    Apply(usize),
    /// A reply arrives.
    Tell(u8, Outcome),
    /// Another leader, with a log of this length.
    Elect(u8),
    /// Time passes.
    Tick,
}

impl TokenRace {
    /// What each command of the log answers.
    fn outcomes(&self, log: &[Command]) -> Vec<Outcome> {
        let mut time = 0;
        let mut token = Token::Live {
            expires_at: u64::from(EXPIRES_AT),
            used_by: None,
        };
        let decide = |command: &Command| {
            time = match self.broken {
                Some(Broken::TimeGoesBack) => command.time,
                _ => command.time.max(time),
            };
            let outcome = self.decide(&mut token, command, time);
            match command.judged {
                Some(judged) if outcome == Outcome::Refused(Why::Used) => judged,
                _ => outcome,
            }
        };
        log.iter().map(decide).collect()
    }

    fn decide(&self, token: &mut Token, command: &Command, time: u8) -> Outcome {
        let over = time >= EXPIRES_AT && self.broken != Some(Broken::NoExpiry);
        let used = matches!(
            token,
            Token::Live {
                used_by: Some(_),
                ..
            }
        );
        let stands = if over { Token::Over } else { *token };
        if !over && used && self.broken == Some(Broken::ConsumeOnce) {
            return Outcome::Refused(Why::Used);
        }
        let op = Op::Consume {
            key: u64::from(command.attest.agent),
        };
        let first = answers(stands, op).into_iter().next();
        let Some((outcome, after)) = first else {
            return Outcome::Refused(Why::Unknown);
        };
        if !over && self.broken != Some(Broken::ForgetToConsume) {
            *token = after;
        }
        outcome
    }

    fn append(&self, state: &mut State, attest: Attest) {
        let mut command = Command {
            attest,
            time: state.now - u8::from(state.slow && state.now > 0),
            judged: None,
        };
        if self.broken == Some(Broken::CheckAtEdge) {
            let known = usize::from(state.applied[usize::from(attest.server)]);
            let mut log = state.log[..known].to_vec();
            log.push(command);
            command.judged = self.outcomes(&log).pop();
        }
        state.log.push(command);
    }

    fn apply(&self, state: &mut State, server: usize) {
        let place = usize::from(state.applied[server]);
        state.applied[server] += 1;
        let attest = state.log[place].attest;
        if usize::from(attest.server) == server {
            let outcome = self.outcomes(&state.log[..=place])[place];
            state.replies.insert((attest.agent, outcome));
        }
    }

    /// Keys that the committed log let in.
    fn winners(&self, state: &State) -> BTreeSet<u8> {
        let log = &state.log[..usize::from(state.committed)];
        let outcomes = self.outcomes(log);
        let won = log
            .iter()
            .zip(outcomes)
            .filter(|(_, it)| *it == Outcome::Done);
        won.map(|(command, _)| command.attest.agent).collect()
    }

    /// Whether an agent that asks once more, when nothing else happens, gets in: the winner, or
    /// anybody while there is none.
    fn strands_nobody(&self, state: &State) -> bool {
        let mut log = state.log[..usize::from(state.committed)].to_vec();
        let time = log.iter().map(|command| command.time).max().unwrap_or(0);
        if time >= EXPIRES_AT {
            return true;
        }
        let agent = self.winners(state).first().copied().unwrap_or(0);
        log.push(Command {
            attest: Attest { agent, server: 0 },
            time,
            judged: None,
        });
        self.outcomes(&log).last() == Some(&Outcome::Done)
    }

    fn expired_stays_out(&self, state: &State) -> bool {
        let log = &state.log[..usize::from(state.committed)];
        let outcomes = self.outcomes(log);
        let mut over = false;
        log.iter().zip(outcomes).all(|(command, outcome)| {
            over |= command.time >= EXPIRES_AT;
            !over || outcome != Outcome::Done
        })
    }
}

impl Model for TokenRace {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            log: Vec::new(),
            committed: 0,
            applied: [0; SERVERS],
            sent: BTreeSet::new(),
            replies: BTreeSet::new(),
            told: [None; AGENTS],
            requests: [self.bounds.requests; AGENTS],
            now: 0,
            slow: false,
            elections: self.bounds.elections,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let length = u8::try_from(state.log.len()).unwrap_or(u8::MAX);
        for (agent, server) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let attest = Attest { agent, server };
            let may = state.requests[usize::from(agent)] > 0;
            if may && !state.sent.contains(&attest) {
                actions.push(Action::Send(attest));
            }
        }
        if state.log.len() < self.bounds.log {
            actions.extend(state.sent.iter().copied().map(Action::Append));
        }
        if state.committed < length {
            actions.push(Action::Commit);
        }
        for (server, applied) in state.applied.iter().enumerate() {
            if *applied < state.committed {
                actions.push(Action::Apply(server));
            }
        }
        for (agent, outcome) in &state.replies {
            if state.told[usize::from(*agent)].is_none() {
                actions.push(Action::Tell(*agent, *outcome));
            }
        }
        if state.elections > 0 {
            actions.extend((state.committed..=length).map(Action::Elect));
        }
        if state.now < TIME_MAX {
            actions.push(Action::Tick);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Send(attest) => {
                state.requests[usize::from(attest.agent)] -= 1;
                state.sent.insert(attest);
            }
            Action::Append(attest) => self.append(&mut state, attest),
            Action::Commit => state.committed += 1,
            Action::Apply(server) => self.apply(&mut state, server),
            Action::Tell(agent, outcome) => state.told[usize::from(agent)] = Some(outcome),
            Action::Elect(length) => {
                state.log.truncate(usize::from(length));
                state.slow = !state.slow;
                state.elections -= 1;
            }
            Action::Tick => state.now += 1,
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ONE_KEY, |model: &Self, state: &State| {
                let joined = state.told.iter().filter(|it| **it == Some(Outcome::Done));
                model.winners(state).len() <= 1 && joined.count() <= 1
            }),
            Property::always(WINNER_IS_NOT_DENIED, |model: &Self, state: &State| {
                let mut winners = model.winners(state).into_iter();
                winners.all(|key| !state.replies.contains(&(key, Outcome::Refused(Why::Used))))
            }),
            Property::always(NOBODY_IS_STRANDED, |model: &Self, state: &State| {
                model.strands_nobody(state)
            }),
            Property::always(EXPIRED_STAYS_OUT, |model: &Self, state: &State| {
                model.expired_stays_out(state)
            }),
            Property::sometimes("one joins and the other is told so", |_, state: &State| {
                state.told == [Some(Outcome::Done), Some(Outcome::Refused(Why::Used))]
            }),
            Property::sometimes("both come too late", |_, state: &State| {
                state.told == [Some(Outcome::Refused(Why::Unknown)); AGENTS]
            }),
        ]
    }
}

/// One key wins.
pub const ONE_KEY: &str = "a token lets in one key";
/// The same key may repeat.
pub const WINNER_IS_NOT_DENIED: &str = "whoever won is never told that another did";
/// A lost reply strands nobody.
pub const NOBODY_IS_STRANDED: &str = "within the token's life, the winner can ask again";
/// Expiry, by the latest time that any leader said.
pub const EXPIRED_STAYS_OUT: &str = "nobody joins once the token is over";
