//! Refusals that never became an intent, and that the log has to show.
//!
//! Always: a refusal is written by a task, so that refusing costs the caller's time and not the log's;
//! how many are written is bounded, and what is left out is counted and said.
//!
//! Not here: refusals of intents and commands, whose leaves `apply()` writes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mintmark_proto::mintmark::raft::v1::{Actor, RecordDenial, actor, command};
use mintmark_runtime::task::Tasks;
use tokio::sync::mpsc;

use crate::Consensus;
use crate::issuance::limits::{DENIAL_RATE, RateLimiter};
use crate::policy::{Action, Caller, Denied, Identity};

/// Refusals that wait to be written.
const QUEUE_MAX: usize = 256;

/// Writes refusals into the log.
#[derive(Debug, Clone)]
pub struct Denials {
    queue: mpsc::Sender<RecordDenial>,
    limiter: Arc<RateLimiter>,
    left_out: Arc<AtomicU64>,
}

impl Denials {
    /// Starts the task that writes.
    #[must_use]
    pub fn start(consensus: Consensus, node_id: u64, tasks: &Tasks) -> Self {
        let (queue, refusals) = mpsc::channel(QUEUE_MAX);
        let left_out = Arc::new(AtomicU64::new(0));
        let run = write(
            consensus,
            node_id,
            refusals,
            Arc::clone(&left_out),
            tasks.token(),
        );
        tasks.spawn("denials", run);
        Self {
            queue,
            limiter: Arc::new(RateLimiter::new(DENIAL_RATE)),
            left_out,
        }
    }

    /// Notes a refusal. Callers without an identity, or with one that is over, are counted by the limits
    /// only: their requests are free to make, and the log is not theirs to fill.
    pub fn record(&self, caller: &Caller, action: Action, denied: &Denied) {
        let Identity::Svid { id, .. } = caller.identity() else {
            return;
        };
        let refusal = RecordDenial {
            action: action.name().to_owned(),
            subject: id.to_string(),
            reason: denied.reason().to_owned(),
        };
        let fits = self.limiter.take("server", 1).is_ok();
        if !fits || self.queue.try_send(refusal).is_err() {
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
    }
}

async fn write(
    consensus: Consensus,
    node_id: u64,
    mut refusals: mpsc::Receiver<RecordDenial>,
    left_out: Arc<AtomicU64>,
    token: tokio_util::sync::CancellationToken,
) {
    let actor = Actor {
        kind: actor::Kind::Server.into(),
        node_id,
        ..Actor::default()
    };
    loop {
        let refusal = tokio::select! {
            biased;
            () = token.cancelled() => return,
            refusal = refusals.recv() => refusal,
        };
        let Some(mut refusal) = refusal else { return };
        let missing = left_out.swap(0, Ordering::Relaxed);
        if missing > 0 {
            refusal.reason = format!("{} ({missing} more were not written)", refusal.reason);
        }
        let body = command::Body::RecordDenial(refusal);
        if let Err(error) = consensus.propose(body, actor.clone(), None).await {
            left_out.fetch_add(missing.saturating_add(1), Ordering::Relaxed);
            tracing::debug!(%error, "a refusal is not in the log");
        }
    }
}
