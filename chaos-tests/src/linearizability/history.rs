//! What clients did and saw, in the order of its happening.
//!
//! Responsible for: recording calls with their invocation and their end, and cutting a history into
//! one for each key.
//! Always holds: a call ends at most once and not before it began; instants never go back, because
//! one recorder sees all clients of a simulated world; calls are in order of invocation.
//! Not here: what the calls mean (`Model`).
//!
//! A call that never ended, or ended by time-out, is *unknown*: it may take effect at any time after
//! its invocation, or never. A call that *failed* is one that surely had no effect, such as one that
//! was never sent. A refusal with a reason is neither: the object answered, and the answer counts.

use std::collections::BTreeMap;

/// When something happened: virtual nanoseconds, then order of recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    /// Virtual nanoseconds since the start of the world.
    pub at: u64,
    /// Many things happen within one tick: which of them came first.
    pub order: u64,
}

impl Moment {
    /// After everything.
    pub const NEVER: Self = Self {
        at: u64::MAX,
        order: u64::MAX,
    };
}

/// How a call ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending<R> {
    /// With an answer.
    Answered(Moment, R),
    /// Without an effect, for certain.
    Failed(Moment),
    /// Unknown.
    Unknown,
}

/// One call of one client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call<O, R> {
    /// Who called.
    pub process: u64,
    /// What was asked.
    pub op: O,
    /// When.
    pub invoked: Moment,
    /// What came of it.
    pub ending: Ending<R>,
}

impl<O, R> Call<O, R> {
    /// When the answer came; [`Moment::NEVER`] when it is unknown.
    #[must_use]
    pub fn returned(&self) -> Moment {
        match &self.ending {
            Ending::Answered(at, _) => *at,
            Ending::Failed(_) | Ending::Unknown => Moment::NEVER,
        }
    }

    /// The answer, if one came.
    #[must_use]
    pub fn outcome(&self) -> Option<&R> {
        match &self.ending {
            Ending::Answered(_, outcome) => Some(outcome),
            Ending::Failed(_) | Ending::Unknown => None,
        }
    }
}

/// A call that was recorded, for the one who will record its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CallId(usize);

/// Calls in order of their invocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History<O, R> {
    calls: Vec<Call<O, R>>,
    last: Moment,
}

impl<O, R> Default for History<O, R> {
    fn default() -> Self {
        Self::new()
    }
}

impl<O, R> History<O, R> {
    /// Nothing has happened.
    #[must_use]
    pub fn new() -> Self {
        Self {
            calls: Vec::new(),
            last: Moment { at: 0, order: 0 },
        }
    }

    /// A client asks.
    pub fn invoke(&mut self, process: u64, op: O, at: u64) -> CallId {
        let invoked = self.moment(at);
        self.calls.push(Call {
            process,
            op,
            invoked,
            ending: Ending::Unknown,
        });
        CallId(self.calls.len() - 1)
    }

    /// The object answers.
    pub fn answer(&mut self, call: CallId, outcome: R, at: u64) {
        let moment = self.moment(at);
        self.end(call, Ending::Answered(moment, outcome));
    }

    /// It is certain that the call had and will have no effect.
    pub fn fail(&mut self, call: CallId, at: u64) {
        let moment = self.moment(at);
        self.end(call, Ending::Failed(moment));
    }

    /// Both at once, for histories that are written down by hand.
    pub fn call(&mut self, process: u64, op: O, outcome: R, at: u64) {
        let call = self.invoke(process, op, at);
        self.answer(call, outcome, at);
    }

    fn end(&mut self, call: CallId, ending: Ending<R>) {
        let known = &mut self.calls[call.0].ending;
        assert!(
            matches!(known, Ending::Unknown),
            "call {} has ended already",
            call.0
        );
        *known = ending;
    }

    fn moment(&mut self, at: u64) -> Moment {
        assert!(
            at >= self.last.at,
            "time goes back from {} to {at}",
            self.last.at
        );
        self.last = Moment {
            at,
            order: self.last.order + 1,
        };
        self.last
    }

    /// The calls, in order of invocation.
    #[must_use]
    pub fn calls(&self) -> &[Call<O, R>] {
        &self.calls
    }

    /// How many calls there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.calls.len()
    }

    /// Whether nothing was called.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// When the last thing happened.
    #[must_use]
    pub fn last(&self) -> Moment {
        self.last
    }
}

impl<O: Clone, R: Clone> History<O, R> {
    /// One history for each key. Objects that do not touch each other are linearizable together
    /// exactly if each is by itself.
    pub fn by_key<K: Ord>(&self, key: impl Fn(&O) -> K) -> BTreeMap<K, Self> {
        let mut parts: BTreeMap<K, Self> = BTreeMap::new();
        for call in &self.calls {
            let part = parts.entry(key(&call.op)).or_default();
            part.calls.push(call.clone());
            part.last = self.last;
        }
        parts
    }

    /// What was known at this moment: later calls are gone, later ends unknown.
    #[must_use]
    pub fn until(&self, moment: Moment) -> Self {
        let begun = self.calls.iter().take_while(|call| call.invoked <= moment);
        let calls = begun
            .map(|call| match &call.ending {
                Ending::Answered(at, _) | Ending::Failed(at) if *at > moment => Call {
                    ending: Ending::Unknown,
                    ..call.clone()
                },
                _ => call.clone(),
            })
            .collect();
        Self {
            calls,
            last: moment.min(self.last),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_of_one_tick_keep_their_order() {
        let mut history = History::new();
        let first = history.invoke(1, 'a', 5);
        history.answer(first, 'x', 5);
        let _second = history.invoke(2, 'b', 5);
        let [first, second] = history.calls() else {
            unreachable!("two calls were recorded")
        };
        assert!(first.returned() < second.invoked);
        assert_eq!(second.returned(), Moment::NEVER);
    }

    #[test]
    fn a_cut_history_forgets_what_came_later() {
        let mut history = History::new();
        let long = history.invoke(1, 'a', 1);
        history.call(2, 'b', 'y', 2);
        let cut = history.calls()[1].returned();
        history.answer(long, 'x', 3);
        history.call(2, 'c', 'z', 4);
        let past = history.until(cut);
        assert_eq!(past.len(), 2);
        assert_eq!(past.calls()[0].ending, Ending::Unknown);
        assert_eq!(past.calls()[1].outcome(), Some(&'y'));
    }

    #[test]
    fn a_key_has_the_calls_that_name_it() {
        let mut history = History::new();
        for (n, op) in ["a1", "b1", "a2"].into_iter().enumerate() {
            history.call(0, op, (), n as u64);
        }
        let parts = history.by_key(|op| op.as_bytes()[0]);
        assert_eq!(parts[&b'a'].len(), 2);
        assert_eq!(parts[&b'b'].len(), 1);
    }

    #[test]
    #[should_panic(expected = "has ended already")]
    fn a_call_ends_once() {
        let mut history = History::new();
        let call = history.invoke(1, 'a', 1);
        history.answer(call, 'x', 2);
        history.answer(call, 'x', 3);
    }

    #[test]
    #[should_panic(expected = "time goes back")]
    fn time_does_not_go_back() {
        let mut history: History<char, char> = History::new();
        history.invoke(1, 'a', 2);
        history.invoke(1, 'a', 1);
    }
}
