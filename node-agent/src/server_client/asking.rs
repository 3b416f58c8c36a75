//! Asking servers until one answers.
//!
//! Responsible for: when the next server is asked, and whose answer counts. Always holds: a server
//! that fails is followed by the next at once, one that is silent after a patience that doubles; no
//! more than [`AT_ONCE`] are asked at a time, of which the older is given up for the next one; each
//! is asked once, and again only while another keeps the call waiting; when one denies the agent, all
//! others are asked at once, and what most servers deny is denied; a call ends within
//! [`CALL_DEADLINE`]. Not here: which server comes first (`order`), how long the patience is
//! (`patience`), connections.

use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use mintmark_runtime::network::Address;
use tokio::time::{Instant, sleep_until};
use tonic::Status;

use super::patience::Waits;

/// How long a call may take, whoever is asked; longer than an election.
pub(super) const CALL_DEADLINE: Duration = Duration::from_secs(20);
/// How many servers are asked at a time, while none denies the agent.
const AT_ONCE: usize = 2;

/// What a failure says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// That this server cannot answer; another may.
    OfServer,
    /// That it cannot be verified with the bundle at hand. When most cannot, the bundle is outdated, and
    /// it helps to say so rather than to ask on.
    Stranger,
    /// That the agent is denied: believed when no other server serves it, or most servers say so.
    Denial,
    /// What every server would say.
    OfRequest,
}

/// What was seen of a server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Seen {
    /// It is asked although another has not answered yet.
    AskedToo,
    /// It answered, and took so long.
    Answered(Duration),
    /// It cannot answer.
    Failed,
    /// Another was quicker, although this one was asked before.
    Silent,
}

/// Asks `servers` in their order; see the module.
///
/// # Errors
/// What every server would say; else that the agent is denied; else that a server is a stranger; else the last
/// failure.
pub(super) async fn first_answer<T, E, F>(
    servers: Vec<Address>,
    mut waits: Waits,
    ask: impl Fn(Address) -> F,
    judge: impl Fn(&Address, &E) -> Failure,
    see: impl Fn(&Address, Seen),
) -> Result<T, E>
where
    F: Future<Output = Result<T, E>>,
    E: From<Status>,
{
    let end = Instant::now() + CALL_DEADLINE;
    let mut failures = Failures::of(servers.len());
    let mut round = Round::new(servers);
    let mut due = Instant::now() + waits.draw();
    round.ask_next(&ask);
    while !round.asked.is_empty() {
        tokio::select! {
            biased;
            (asked, answer) = round.answered() => match answer {
                Ok(answer) => {
                    for earlier in round.asked_before(&asked) {
                        see(&earlier.server, Seen::Silent);
                    }
                    see(&asked.server, Seen::Answered(asked.since.elapsed()));
                    return Ok(answer);
                }
                Err(error) => {
                    let failure = judge(&asked.server, &error);
                    failures.note(failure, error);
                    match failure {
                        Failure::OfServer => {
                            see(&asked.server, Seen::Failed);
                            round.again.push_back(asked.server);
                        }
                        Failure::Stranger => see(&asked.server, Seen::Failed),
                        Failure::Denial | Failure::OfRequest => {}
                    }
                    if failures.most_agree() {
                        break;
                    }
                    if !failures.is_final() && round.ask_next(&ask) {
                        due = Instant::now() + waits.draw();
                        // Whoever contradicts is not kept waiting by one that is dead.
                        while failures.denial.is_some() && round.ask_next(&ask) {}
                    }
                }
            },
            () = sleep_until(due.min(end)) => {
                if due >= end || failures.ends_after_patience(&round) {
                    break;
                }
                if let Some(given_up) = round.ask_too(&ask, &see) {
                    see(&given_up, Seen::Silent);
                    round.again.push_back(given_up);
                }
                waits.double();
                due = Instant::now() + waits.draw();
            }
        }
    }
    for silent in &round.asked {
        see(&silent.server, Seen::Silent);
    }
    Err(failures.into_error(!round.asked.is_empty()))
}

/// A server that was asked and has not answered yet.
struct Asked<F> {
    server: Address,
    since: Instant,
    answer: Pin<Box<F>>,
}

/// Who was asked and who is still to be.
struct Round<F> {
    /// Not asked yet.
    fresh: VecDeque<Address>,
    /// Asked in vain.
    again: VecDeque<Address>,
    /// Being asked, the older first.
    asked: Vec<Asked<F>>,
}

impl<F> Round<F> {
    fn new(servers: Vec<Address>) -> Self {
        Self {
            fresh: servers.into(),
            again: VecDeque::new(),
            asked: Vec::with_capacity(AT_ONCE),
        }
    }

    fn ask(&mut self, server: Address, ask: impl Fn(Address) -> F) {
        self.asked.push(Asked {
            answer: Box::pin(ask(server.clone())),
            since: Instant::now(),
            server,
        });
    }

    /// Asks the next that was not asked yet, if there is one.
    fn ask_next(&mut self, ask: impl Fn(Address) -> F) -> bool {
        let next = self.fresh.pop_front();
        next.map(|server| self.ask(server, ask)).is_some()
    }

    /// Asks one more, if there is one. Returns whom it gave up for that.
    fn ask_too(
        &mut self,
        ask: impl Fn(Address) -> F,
        see: impl Fn(&Address, Seen),
    ) -> Option<Address> {
        let next = self.fresh.pop_front().or_else(|| self.again.pop_front())?;
        let given_up = (self.asked.len() >= AT_ONCE).then(|| self.asked.remove(0).server);
        see(&next, Seen::AskedToo);
        self.ask(next, ask);
        given_up
    }

    /// Those that were asked earlier than this one and have not answered.
    fn asked_before(&self, asked: &Asked<F>) -> impl Iterator<Item = &Asked<F>> {
        let since = asked.since;
        self.asked.iter().filter(move |one| one.since < since)
    }
}

impl<T, E, F: Future<Output = Result<T, E>>> Round<F> {
    /// The next answer. Nothing is lost when it is not waited for.
    async fn answered(&mut self) -> (Asked<F>, Result<T, E>) {
        poll_fn(|context| self.poll(context)).await
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<(Asked<F>, Result<T, E>)> {
        let mut asked = self.asked.iter_mut().enumerate();
        let answered = asked.find_map(|(at, one)| match one.answer.as_mut().poll(context) {
            Poll::Ready(answer) => Some((at, answer)),
            Poll::Pending => None,
        });
        match answered {
            Some((at, answer)) => Poll::Ready((self.asked.remove(at), answer)),
            None => Poll::Pending,
        }
    }
}

/// The last failure of each kind.
struct Failures<E> {
    of_request: Option<E>,
    denial: Option<E>,
    stranger: Option<E>,
    of_server: Option<E>,
    /// How many servers there are, how many of them deny the agent, and how many are strangers.
    servers: usize,
    denials: usize,
    strangers: usize,
}

impl<E: From<Status>> Failures<E> {
    const fn of(servers: usize) -> Self {
        Self {
            of_request: None,
            denial: None,
            stranger: None,
            of_server: None,
            servers,
            denials: 0,
            strangers: 0,
        }
    }

    fn note(&mut self, failure: Failure, error: E) {
        // Neither is asked again.
        self.denials += usize::from(failure == Failure::Denial);
        self.strangers += usize::from(failure == Failure::Stranger);
        let kept = match failure {
            Failure::OfRequest => &mut self.of_request,
            Failure::Denial => &mut self.denial,
            Failure::Stranger => &mut self.stranger,
            Failure::OfServer => &mut self.of_server,
        };
        *kept = Some(error);
    }

    /// Whether no other server is worth asking.
    const fn is_final(&self) -> bool {
        self.of_request.is_some()
    }

    /// Whether most servers deny the agent, or are strangers. A server says the first only when a read index confirms it, so one that
    /// does is right unless it is broken; an identity that is removed for nothing is a dear mistake.
    const fn most_agree(&self) -> bool {
        let most = self.servers / 2;
        self.denials > most || self.strangers > most
    }

    /// Whether those that are still being asked had their time to contradict: a refusal may only
    /// tell that another server has just done what was asked.
    fn ends_after_patience<F>(&self, round: &Round<F>) -> bool {
        let all_asked = round.fresh.is_empty();
        self.is_final() || (self.denial.is_some() && all_asked)
    }

    fn into_error(self, silent: bool) -> E {
        let none = || {
            E::from(if silent {
                Status::deadline_exceeded("no server answered in time")
            } else {
                Status::unavailable("no server is configured")
            })
        };
        let server = self.stranger.or(self.of_server);
        let told = self.of_request.or(self.denial);
        told.or(server).unwrap_or_else(none)
    }
}

#[cfg(test)]
mod tests;
