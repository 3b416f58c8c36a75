//! Copies of the log for the systems that collect logs.
//!
//! Always: each sink has a task of its own that reads committed leaves in bounded batches, so that a
//! slow or failing sink holds up nothing but itself; a sink says what it has, and gets every leaf after
//! that, in order. A sink that fails is tried again for ever, with growing pauses, and its lag can be
//! seen.
//!
//! Not here: each kind of sink (`file`), and the leaves (`audit::tail`).

use std::error::Error;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use mintmark_identity::entropy::{Entropy, draw_u64};
use mintmark_runtime::backoff::Backoff;
use mintmark_runtime::cause::chain;
use mintmark_runtime::mutation::{self, Bug};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use super::document::{DocumentError, LeafDocument};
use super::tail::{CommittedLeaves, LeavesError, read_counted};

pub mod file;

/// Leaves that a sink gets at once.
pub const BATCH_LEAVES_MAX: u64 = 256;
/// Their bytes, about.
const BATCH_BYTES_MAX: usize = 256 * 1024;
/// Pauses after a failure.
const PAUSE: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// A leaf as a sink gets it.
#[derive(Debug)]
pub struct SinkLeaf {
    /// Where it stands.
    pub index: u64,
    /// The leaf.
    pub document: LeafDocument,
}

/// Why a sink does not take leaves.
#[derive(Debug, Error)]
pub enum SinkError {
    /// The log cannot be read.
    #[error("the log cannot be read")]
    Leaves(#[from] LeavesError),
    /// A leaf cannot be shown.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// What the sink has is of another log.
    #[error("it holds the log {found}, and this server writes {origin}; give it another place")]
    Foreign {
        /// The log it holds.
        found: String,
        /// Ours.
        origin: String,
    },
    /// The last leaf it has is not the one in the log.
    #[error("its leaf {index} is not the one in the log; give it another place")]
    Differs {
        /// Which one.
        index: u64,
    },
    /// What it holds cannot be continued.
    #[error("{what} cannot be continued: {problem}")]
    Unusable {
        /// What.
        what: String,
        /// Why.
        problem: &'static str,
    },
    /// Somebody else writes to it.
    #[error("{what} is in use by another process")]
    InUse {
        /// What.
        what: String,
    },
    /// It failed.
    #[error("{what} cannot be used")]
    Failed {
        /// What.
        what: String,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
}

/// What a sink has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resumption {
    /// The first leaf that it does not have.
    pub next: u64,
    /// The last one that it has, as far as it can tell.
    pub last: Option<LastLeaf>,
}

/// What tells a leaf from the same place of another log.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
pub struct LastLeaf {
    /// Where it stands.
    pub index: u64,
    /// Its place in the replicated log.
    pub log_index: u64,
    /// Its time.
    pub time: String,
}

/// Where leaves are copied to.
#[async_trait]
pub trait AuditSink: Send + Sync + Debug {
    /// A short name, for logs and metrics.
    fn name(&self) -> &str;

    /// Says what it has of the log with this origin. Called first, and again after every error.
    async fn resume(&mut self, origin: &str) -> Result<Resumption, SinkError>;

    /// Takes the leaves that follow those it has. They are durable when it returns.
    async fn deliver(&mut self, leaves: Vec<SinkLeaf>) -> Result<(), SinkError>;
}

/// Numbers of all sinks.
#[derive(Debug, Clone, Default)]
pub struct SinkMetrics {
    lag: Family<SinkLabel, Gauge>,
    delivered: Family<SinkLabel, Counter>,
    failures: Family<SinkLabel, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SinkLabel {
    sink: String,
}

impl SinkMetrics {
    /// Adds them to a registry.
    pub fn register(&self, registry: &mut Registry) {
        let lag = "Committed leaves that an audit sink does not have yet";
        registry.register("audit_sink_lag_leaves", lag, self.lag.clone());
        let delivered = "Leaves that an audit sink took";
        registry.register(
            "audit_sink_delivered_leaves",
            delivered,
            self.delivered.clone(),
        );
        let failures = "Failures of an audit sink";
        registry.register("audit_sink_failures", failures, self.failures.clone());
    }
}

/// The task of one sink.
#[derive(Debug)]
pub struct SinkTask {
    leaves: Arc<dyn CommittedLeaves>,
    sink: Box<dyn AuditSink>,
    entropy: Arc<dyn Entropy>,
    lag: Gauge,
    delivered: Counter,
    failures: Counter,
    /// The first leaf that the sink does not have, as far as known.
    next: AtomicU64,
}

impl SinkTask {
    /// A task that copies `leaves` to `sink`.
    #[must_use]
    pub fn new(
        leaves: Arc<dyn CommittedLeaves>,
        sink: Box<dyn AuditSink>,
        entropy: Arc<dyn Entropy>,
        metrics: &SinkMetrics,
    ) -> Self {
        let label = SinkLabel {
            sink: sink.name().to_owned(),
        };
        Self {
            leaves,
            sink,
            entropy,
            lag: metrics.lag.get_or_create_owned(&label),
            delivered: metrics.delivered.get_or_create_owned(&label),
            failures: metrics.failures.get_or_create_owned(&label),
            next: AtomicU64::new(0),
        }
    }

    /// Copies leaves until `ending`.
    pub async fn run(mut self, ending: CancellationToken) {
        let mut backoff = Backoff::new(PAUSE, PAUSE_MAX);
        while let Err(error) = self.copy(&ending, &mut backoff).await {
            self.failures.inc();
            self.show_lag();
            let pause = backoff.next_delay(draw_u64(self.entropy.as_ref()));
            tracing::warn!(
                sink = self.sink.name(),
                error = %chain(&error),
                pause_ms = pause.as_millis(),
                "an audit sink does not take leaves; nothing else waits for it"
            );
            if ending
                .run_until_cancelled(tokio::time::sleep(pause))
                .await
                .is_none()
            {
                return;
            }
        }
    }

    /// Returns without an error only at `ending`. A batch under way is finished first.
    async fn copy(
        &mut self,
        ending: &CancellationToken,
        backoff: &mut Backoff,
    ) -> Result<(), SinkError> {
        let Some(origin) = ending.run_until_cancelled(self.origin()).await else {
            return Ok(());
        };
        let resumption = self.sink.resume(&origin).await?;
        let mut next = resumption.next;
        if mutation::is(Bug::LeafNotCopied) && resumption.last.is_some() {
            next = next.saturating_add(1);
        }
        self.next.store(next, Ordering::Relaxed);
        self.check_last(&resumption, ending).await?;
        while !ending.is_cancelled() {
            let size = self.leaves.head().size;
            self.show_lag();
            if size <= next {
                ending.run_until_cancelled(self.leaves.grown(next)).await;
                continue;
            }
            let leaves = self.read(next, size).await?;
            let count = leaves.len() as u64;
            self.sink.deliver(leaves).await?;
            next = next.saturating_add(count);
            self.next.store(next, Ordering::Relaxed);
            self.delivered.inc_by(count);
            backoff.reset();
        }
        Ok(())
    }

    async fn origin(&self) -> String {
        loop {
            if let Some(origin) = self.leaves.origin() {
                return origin;
            }
            // A cluster begins with a leaf.
            self.leaves.grown(0).await;
            // Leaves without an origin would make this spin.
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// The last leaf that the sink has must be the one in the log, or it is of another one.
    async fn check_last(
        &self,
        resumption: &Resumption,
        ending: &CancellationToken,
    ) -> Result<(), SinkError> {
        let Some(last) = &resumption.last else {
            return Ok(());
        };
        // A server that restarts is behind until it has replayed its log.
        if ending
            .run_until_cancelled(self.leaves.grown(last.index))
            .await
            .is_none()
        {
            return Ok(());
        }
        let leaves = self.read(last.index, last.index.saturating_add(1)).await?;
        match leaves.first() {
            Some(leaf) if leaf.document.identifies(last) => Ok(()),
            _ => Err(SinkError::Differs { index: last.index }),
        }
    }

    async fn read(&self, start: u64, size: u64) -> Result<Vec<SinkLeaf>, SinkError> {
        let end = size.min(start.saturating_add(BATCH_LEAVES_MAX));
        let leaves = read_counted(&*self.leaves, start, end, BATCH_BYTES_MAX).await?;
        let decode = |(index, bytes): (u64, &bytes::Bytes)| {
            Ok(SinkLeaf {
                index,
                document: LeafDocument::decode(index, bytes)?,
            })
        };
        (start..).zip(&leaves).map(decode).collect()
    }

    fn show_lag(&self) {
        let next = self.next.load(Ordering::Relaxed);
        let lag = self.leaves.head().size.saturating_sub(next);
        self.lag.set(i64::try_from(lag).unwrap_or(i64::MAX));
    }
}

#[cfg(test)]
mod tests;
