//! What one attested agent's record promises.
//!
//! Responsible for: attestation, resume, renewal, ban and eviction of one agent ID.
//! Always holds: a ban survives every later attestation and ends by eviction only; while it lasts,
//! nothing is issued; only the current or the pending SVID renews, so a lost reply strands nobody; once
//! the agent is seen with the pending one, that before it and its key are worth nothing; a method that works once binds the agent to its key.
//! Not here: the token that an attestation may need (`join_token`), silence of 30 days, expiry of
//! the agent's SVID.
//!
//! A renewal whose reply is lost may have replaced the pending SVID by one that nobody ever saw: its
//! serial is then `Unseen`, and nobody can present it. One that was refused after its acceptance
//! (the signer looks again) has an unknown outcome, too. Whoever records must record that an agent was
//! seen with an SVID (`Show`), or at least that it may have been (unknown).

use super::{Model, Window};

/// What is asked of an agent's record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Op {
    /// Evidence was verified for this key.
    Attest {
        /// Key of the certificate request.
        key: u64,
        /// Whether the method may attest again with another key.
        repeatable: bool,
        /// Whether the first SVID comes with the same reply.
        issue: bool,
    },
    /// The agent asks for its next SVID.
    Renew {
        /// Serial of the one it shows; `None` right after attestation or resume.
        presented: Option<u64>,
        /// Key of the certificate request.
        key: u64,
    },
    /// The agent's SVID expired, and it proves a key that it had.
    Resume {
        /// That key.
        proven: u64,
        /// Key of the certificate request.
        new_key: Option<u64>,
    },
    /// It is seen with the SVID of this serial, as when it opens a stream.
    Show(u64),
    /// Deny it everything.
    Ban,
    /// Forget it.
    Evict,
    /// Look at it.
    Read,
}

/// How an agent stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// There is no record.
    Absent,
    /// It may ask.
    Attested,
    /// It may not.
    Banned,
}

/// Why an agent did not get what it asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// It is banned.
    Banned,
    /// There is no record of it.
    NotAttested,
    /// Its method works once, and it has another key.
    AlreadyAttested,
    /// The SVID that it shows is not the current one, or the key is not an attested one.
    Serial,
    /// The key is not the last one that it had.
    Key,
    /// Its token does not serve.
    Token,
}

/// What an agent's record answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// It is attested; with the serial of the first SVID, if that came along.
    Attested(Option<u64>),
    /// The SVID with this serial was issued.
    Renewed(u64),
    /// It was resumed, seen, banned or evicted.
    Done,
    /// It stands like this.
    Stands(Standing),
    /// Nothing changed.
    Refused(Why),
}

/// A serial number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Serial {
    Seen(u64),
    Unseen,
}

/// The record of an attested agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Record {
    key: u64,
    pending_key: Option<u64>,
    current: Option<Serial>,
    pending: Option<Serial>,
    repeatable: bool,
    banned: bool,
}

/// One agent ID.
#[derive(Debug, Clone, Copy, Default)]
pub struct Agent;

type State = Option<Record>;

impl Model for Agent {
    type State = State;
    type Op = Op;
    type Outcome = Outcome;

    fn initial(&self) -> State {
        None
    }

    fn step(&self, state: &State, op: &Op, observed: Option<&Outcome>, _: Window) -> Vec<State> {
        let mut after: Vec<State> = answers(*state, *op, observed)
            .into_iter()
            .filter(|(outcome, _)| observed.is_none_or(|seen| seen == outcome))
            .map(|(_, after)| after)
            .collect();
        after.sort_unstable();
        after.dedup();
        after
    }
}

/// What may be answered. The serial of a new SVID is the one that was observed.
fn answers(state: State, op: Op, observed: Option<&Outcome>) -> Vec<(Outcome, State)> {
    let refused = |why| vec![(Outcome::Refused(why), state)];
    match (op, state) {
        (Op::Read, _) => vec![(Outcome::Stands(standing(state)), state)],
        (Op::Attest { .. }, Some(record)) if record.banned => refused(Why::Banned),
        (
            Op::Attest {
                key,
                repeatable,
                issue,
            },
            old,
        ) => {
            let mut all = refused(Why::Token);
            all.extend(attest(old, key, repeatable, issue, observed));
            all
        }
        (_, None) => refused(Why::NotAttested),
        (Op::Evict, Some(_)) => vec![(Outcome::Done, None)],
        (Op::Ban, Some(record)) => {
            let banned = Record {
                banned: true,
                current: None,
                pending: None,
                ..record
            };
            vec![(Outcome::Done, Some(banned))]
        }
        (Op::Renew { .. } | Op::Resume { .. } | Op::Show(_), Some(record)) if record.banned => {
            refused(Why::Banned)
        }
        (Op::Show(serial), Some(record)) => {
            let seen = record.pending == Some(Serial::Seen(serial));
            let after = if seen { promoted(record) } else { record };
            vec![(Outcome::Done, Some(after))]
        }
        (Op::Renew { presented, key }, Some(record)) => {
            match renew(record, presented, key, observed) {
                Some((outcome, after)) => vec![(outcome, Some(after))],
                None => refused(Why::Serial),
            }
        }
        (Op::Resume { proven, new_key }, Some(record)) => {
            if proven != record.key && Some(proven) != record.pending_key {
                return refused(Why::Key);
            }
            let resumed = Record {
                key: proven,
                pending_key: new_key.filter(|new| *new != proven),
                current: None,
                pending: None,
                ..record
            };
            vec![(Outcome::Done, Some(resumed))]
        }
    }
}

fn standing(state: State) -> Standing {
    match state {
        None => Standing::Absent,
        Some(record) if record.banned => Standing::Banned,
        Some(_) => Standing::Attested,
    }
}

fn attest(
    old: State,
    key: u64,
    repeatable: bool,
    issue: bool,
    observed: Option<&Outcome>,
) -> Vec<(Outcome, State)> {
    if old.is_some_and(|old| !old.repeatable && old.key != key) {
        return vec![(Outcome::Refused(Why::AlreadyAttested), old)];
    }
    let record = Record {
        key,
        pending_key: None,
        current: None,
        pending: None,
        repeatable,
        banned: false,
    };
    let mut all = vec![(Outcome::Attested(None), Some(record))];
    if issue {
        let (serial, number) = match observed {
            Some(Outcome::Attested(Some(serial))) => (Serial::Seen(*serial), Some(*serial)),
            _ => (Serial::Unseen, Some(u64::MAX)),
        };
        let issued = Record {
            current: Some(serial),
            ..record
        };
        all.push((Outcome::Attested(number), Some(issued)));
    }
    all
}

fn renew(
    record: Record,
    presented: Option<u64>,
    key: u64,
    observed: Option<&Outcome>,
) -> Option<(Outcome, Record)> {
    let (serial, number) = match observed {
        Some(Outcome::Renewed(serial)) => (Serial::Seen(*serial), *serial),
        _ => (Serial::Unseen, u64::MAX),
    };
    let next = Record {
        pending: Some(serial),
        pending_key: Some(key),
        ..record
    };
    let after = match presented.map(Serial::Seen) {
        None if record.current.is_some() || record.pending.is_some() => return None,
        None if key == record.key => Record {
            current: Some(serial),
            pending_key: None,
            ..record
        },
        None if Some(key) == record.pending_key => next,
        None => return None,
        // Whoever shows the pending one has received it: the one before is over.
        shown if shown == record.pending => Record {
            pending: Some(serial),
            pending_key: Some(key),
            ..promoted(record)
        },
        shown if shown == record.current => next,
        Some(_) => return None,
    };
    Some((Outcome::Renewed(number), after))
}

/// The pending SVID and its key are the current ones from now on.
fn promoted(record: Record) -> Record {
    Record {
        current: record.pending,
        pending: None,
        key: record.pending_key.unwrap_or(record.key),
        pending_key: None,
        ..record
    }
}
