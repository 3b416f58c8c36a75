//! Sources: identities and bundles that keep themselves current.
//!
//! Responsible for: the loop that all sources share. It opens a stream, publishes each checked update as
//! a whole, and opens the stream again when it ends.
//! Always holds: what is published was checked as its user would check it; a malformed update, a lost
//! connection or an agent that cannot answer leaves the last good value in place (decision A-30);
//! PermissionDenied withdraws it at once; InvalidArgument and Unimplemented end the loop. The task ends
//! with the last handle of its source.
//! Not here: what an update is ([`x509`], [`bundles`], [`jwt`]), and how long to wait ([`backoff`]).
//!
//! [`backoff`]: crate::backoff

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use mintmark_identity::clock::{Clock, SystemClock, Timestamp};
use mintmark_identity::entropy::{Entropy, SystemEntropy, draw_u64};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::backoff::{RetryPolicy, Schedule};
use crate::client::Client;
use crate::connector::Connector;
use crate::endpoint::{Endpoint, EndpointError};
use crate::error::{ClientError, SourceError};
use crate::limits::Limits;

pub mod bundles;
pub mod jwt;
pub mod x509;

/// What a source needs from outside.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How to reach the agent.
    pub connector: Arc<dyn Connector>,
    /// The time by which SVIDs are judged.
    pub clock: Arc<dyn Clock>,
    /// Where jitter comes from.
    pub entropy: Arc<dyn Entropy>,
    /// How much is held.
    pub limits: Limits,
    /// When to call again.
    pub retry: RetryPolicy,
    /// How long starting waits for the first value; `None` is as long as it takes.
    pub first_value: Option<Duration>,
    /// Where the source's task runs; `None` is the runtime that starts it.
    pub runtime: Option<Handle>,
}

impl Settings {
    /// Settings that fit everybody, with this way to the agent.
    pub fn new(connector: impl Connector + 'static) -> Self {
        Self {
            connector: Arc::new(connector),
            clock: Arc::new(SystemClock),
            entropy: Arc::new(SystemEntropy),
            limits: Limits::default(),
            retry: RetryPolicy::default(),
            first_value: Some(Duration::from_secs(30)),
            runtime: None,
        }
    }

    /// Settings for this address, or for the one that `SPIFFE_ENDPOINT_SOCKET` holds.
    ///
    /// # Errors
    /// When there is no address, or it is malformed.
    pub fn resolve(address: Option<&str>) -> Result<Self, EndpointError> {
        Ok(Self::new(Endpoint::resolve(address)?))
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }
}

/// What happened to a source.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<T> {
    /// There is a new value, and it replaces the last one as a whole.
    Value(Arc<T>),
    /// The agent has no identity for this process any more: there is no value.
    Withdrawn(Arc<ClientError>),
    /// Something failed; the value stays what it was, and the source goes on unless this was its end.
    Trouble(Arc<ClientError>),
}

/// The stream of one kind of update.
pub(crate) trait Feed: Send + Sync + 'static {
    type Value: PartialEq + Send + Sync + fmt::Debug + 'static;
    type Stream: Send;

    fn open(
        &self,
        client: Client,
    ) -> impl Future<Output = Result<Self::Stream, ClientError>> + Send;

    /// The next update, checked.
    fn next(
        &self,
        stream: &mut Self::Stream,
        settings: &Settings,
    ) -> impl Future<Output = Result<Self::Value, ClientError>> + Send;
}

/// What a source holds. The counters tell a watcher that comes late what it has not seen.
#[derive(Debug)]
struct Held<T> {
    value: Option<Arc<T>>,
    values: u64,
    problem: Option<Arc<ClientError>>,
    problems: u64,
    over: bool,
}

impl<T> Held<T> {
    const fn new() -> Self {
        Self {
            value: None,
            values: 0,
            problem: None,
            problems: 0,
            over: false,
        }
    }

    fn failed(&mut self, error: ClientError) {
        if error.is_no_identity() && self.value.take().is_some() {
            self.values = self.values.saturating_add(1);
        } else {
            self.problems = self.problems.saturating_add(1);
        }
        self.over = !error.is_retryable();
        self.problem = Some(Arc::new(error));
    }
}

impl<T: PartialEq> Held<T> {
    /// Takes a new value; says whether anybody needs to hear of it.
    fn take(&mut self, value: T) -> bool {
        self.problem = None;
        if self.value.as_deref() == Some(&value) {
            return false;
        }
        self.value = Some(Arc::new(value));
        self.values = self.values.saturating_add(1);
        true
    }
}

/// A running loop and what it holds; dropped, it ends.
#[derive(Debug)]
pub(crate) struct Running<T> {
    held: watch::Receiver<Held<T>>,
    settings: Settings,
    since: Instant,
    task: JoinHandle<()>,
}

impl<T> Drop for Running<T> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<T: PartialEq + Send + Sync + fmt::Debug + 'static> Running<T> {
    /// Starts the loop.
    pub(crate) fn spawn<F: Feed<Value = T>>(feed: F, settings: Settings) -> Self {
        let (sender, held) = watch::channel(Held::new());
        let handle = settings.runtime.clone().unwrap_or_else(Handle::current);
        let task = handle.spawn(run(feed, settings.clone(), sender));
        Self {
            held,
            settings,
            since: Instant::now(),
            task,
        }
    }

    /// Starts the loop and waits for the first value.
    pub(crate) async fn start<F: Feed<Value = T>>(
        feed: F,
        settings: Settings,
    ) -> Result<Self, SourceError> {
        let mut running = Self::spawn(feed, settings);
        match running.settings.first_value {
            None => running.first_value().await?,
            Some(limit) => {
                let first = tokio::time::timeout(limit, running.first_value()).await;
                first.unwrap_or_else(|_| {
                    let last = running.held.borrow().problem.clone();
                    Err(SourceError::NotReady {
                        waited: limit,
                        last,
                    })
                })?;
            }
        }
        Ok(running)
    }

    async fn first_value(&mut self) -> Result<(), SourceError> {
        let held = self
            .held
            .wait_for(|held| held.value.is_some() || held.over)
            .await
            .map_err(|_| SourceError::Stopped)?;
        match (&held.value, &held.problem) {
            (Some(_), _) => Ok(()),
            (None, Some(problem)) => Err(SourceError::Refused(Arc::clone(problem))),
            (None, None) => Err(SourceError::Stopped),
        }
    }

    /// The value that counts now.
    pub(crate) fn value(&self) -> Result<Arc<T>, SourceError> {
        let held = self.held.borrow();
        match (&held.value, &held.problem) {
            (Some(value), _) => Ok(Arc::clone(value)),
            (None, Some(problem)) if held.over => Err(SourceError::Refused(Arc::clone(problem))),
            (None, Some(problem)) if held.values > 0 => {
                Err(SourceError::Withdrawn(Arc::clone(problem)))
            }
            (None, last) => Err(SourceError::NotReady {
                waited: self.since.elapsed(),
                last: last.clone(),
            }),
        }
    }

    /// Why the source is not up to date, if it is not.
    pub(crate) fn problem(&self) -> Option<Arc<ClientError>> {
        self.held.borrow().problem.clone()
    }

    pub(crate) const fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(crate) fn watch(&self) -> Watch<T> {
        Watch {
            held: self.held.clone(),
            values: 0,
            problems: self.held.borrow().problems,
        }
    }
}

/// What happens to a source, from its present value on. Level-triggered: who comes late sees the latest
/// value and not each one between.
#[derive(Debug)]
pub struct Watch<T> {
    held: watch::Receiver<Held<T>>,
    values: u64,
    problems: u64,
}

impl<T> Watch<T> {
    /// The next event; `None` when the source has ended and everything of it was seen. The first is the
    /// present value.
    pub async fn next(&mut self) -> Option<Event<T>> {
        loop {
            let (event, over) = self.unseen();
            if event.is_some() || over {
                return event;
            }
            if self.held.changed().await.is_err() {
                return self.unseen().0;
            }
        }
    }

    /// What was not yet seen, and whether nothing will follow it.
    fn unseen(&mut self) -> (Option<Event<T>>, bool) {
        let held = self.held.borrow_and_update();
        let problem = held.problem.clone();
        let event = if held.values != self.values {
            self.values = held.values;
            match &held.value {
                Some(value) => Some(Event::Value(Arc::clone(value))),
                None => problem.map(Event::Withdrawn),
            }
        } else if held.problems != self.problems {
            self.problems = held.problems;
            problem.map(Event::Trouble)
        } else {
            None
        };
        (event, held.over)
    }
}

async fn run<F: Feed>(feed: F, settings: Settings, held: watch::Sender<Held<F::Value>>) {
    let mut schedule = Schedule::new(settings.retry);
    loop {
        let mut delivering = None;
        let error = follow(&feed, &settings, &held, &mut delivering).await;
        if let Some(since) = delivering {
            schedule.lived(Instant::now().saturating_duration_since(since));
        }
        let pause = schedule.after(&error, draw_u64(&*settings.entropy));
        match pause {
            Some(pause) => tracing::debug!(%error, ?pause, "the agent's stream ended"),
            None => tracing::warn!(%error, "the agent refused the request"),
        }
        held.send_modify(|held| held.failed(error));
        let Some(pause) = pause else { return };
        tokio::time::sleep(pause).await;
    }
}

/// Publishes what one stream brings until it ends; `delivering` is since when it brings something good.
async fn follow<F: Feed>(
    feed: &F,
    settings: &Settings,
    held: &watch::Sender<Held<F::Value>>,
    delivering: &mut Option<Instant>,
) -> ClientError {
    let client = match settings.connector.connect().await {
        Ok(client) => client,
        Err(error) => return error,
    };
    let mut stream = match feed.open(client).await {
        Ok(stream) => stream,
        Err(error) => return error,
    };
    loop {
        match feed.next(&mut stream, settings).await {
            Ok(value) => {
                delivering.get_or_insert_with(Instant::now);
                held.send_if_modified(|held| held.take(value));
            }
            Err(error) if error.is_malformed() => {
                tracing::warn!(%error, "an update of the agent is discarded");
                held.send_modify(|held| held.failed(error));
            }
            Err(error) => return error,
        }
    }
}
