//! Keeps the workloads' X.509-SVIDs fresh: does what the plan says, and asks again.
//!
//! Responsible for: keys, certificate signing requests in batches, verifying what comes back,
//! and noting what failed. Always holds: every SVID gets a key of its own that never leaves this
//! process but to its workload and the sealed cache; nothing is published that a relying party
//! would not accept; a failure leaves the present SVID in place. Not here: what is due (`plan`).

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use mintmark_identity::{
    bundle::{Bundle, BundleSet},
    clock::Timestamp,
    entropy::draw_u64,
    entry::EntryId,
    rotation::renewal_due_once_received,
    secret::SecretBytes,
};
use mintmark_runtime::{
    Host,
    failpoint::{Step, reach},
    task::periodic::Wake,
};
use tokio_util::sync::CancellationToken;

use crate::{
    cache::{
        Cache,
        entries::Held,
        plan::{Action, Attempt, Inputs, Plan, plan, retry_at},
        state::{CachedSvid, IssuedFor, State},
        tokens::Tokens,
    },
    csr::NewKey,
    issuer::{CsrItem, IssueError, IssuedChain, Issuer},
    metrics::Metrics,
    verify::{self, Accepted},
};

/// The most requests in one batch; the protocol's own limit.
pub const BATCH_MAX: usize = 500;
/// The smallest batch that an overloaded server is asked for.
const BATCH_MIN: usize = 10;
/// Batches on their way at one time.
const BATCHES_MAX: usize = 4;
/// The plan is looked at this often even when nothing wakes it.
const PERIOD: Duration = Duration::from_secs(30);

/// What keeps SVIDs fresh.
#[derive(Clone, Debug)]
pub struct Rotation {
    /// The machine.
    pub host: Host,
    /// What is served.
    pub cache: Cache,
    /// JWT-SVIDs, which are purged along.
    pub tokens: Tokens,
    /// Whom to ask.
    pub issuer: Arc<dyn Issuer>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// How many SVIDs to hold beyond those that are wanted.
    pub cache_limit: usize,
    /// Asks for a look at once: a server was reached again.
    pub wake: Wake,
}

/// One SVID on its way.
struct Asked {
    held: Held,
    key: NewKey,
    not_after: Option<Timestamp>,
}

/// What a batch brought.
struct Batch {
    asked: Vec<Asked>,
    answer: Result<Vec<Result<IssuedChain, IssueError>>, IssueError>,
}

impl Rotation {
    /// Runs until the token is cancelled.
    pub async fn run(self, stop: CancellationToken) {
        let mut states = self.cache.watch();
        let mut wanted = self.cache.watch_wanted();
        let mut batches = FuturesUnordered::new();
        let mut batch_size = BATCH_MAX;
        let mut own_bundle: Option<Arc<Bundle>> = None;
        loop {
            let state = Arc::clone(&states.borrow_and_update());
            wanted.mark_unchanged();
            self.drop_unverifiable(&state, &mut own_bundle).await;
            let plan = self.plan();
            self.tidy(&plan);
            let room = BATCHES_MAX.saturating_sub(batches.len());
            for due in due(&plan).chunks(batch_size).take(room) {
                if let Some(batch) = self.prepare(due).await {
                    batches.push(batch);
                }
            }
            let sleep = self.sleep(plan.wake_at);
            tokio::select! {
                changed = states.changed() => if changed.is_err() { return },
                changed = wanted.changed() => if changed.is_err() { return },
                Some(batch) = batches.next() => batch_size = self.take(batch, batch_size).await,
                () = self.wake.woken() => self.forget_passing_failures(),
                () = sleep => {}
                () = stop.cancelled() => return,
            }
        }
    }

    fn plan(&self) -> Plan {
        let state = self.cache.current();
        let wanted = self.cache.wanted();
        let now = self.host.clock.now();
        let inputs = |progress: &mut _| {
            plan(&Inputs {
                state: &state,
                wanted: &wanted,
                progress,
                cache_limit: self.cache_limit,
                now,
            })
        };
        self.cache.progress(|progress| inputs(progress))
    }

    async fn sleep(&self, until: Option<Timestamp>) {
        let now = self.host.clock.now();
        let wait = until.map_or(PERIOD, |at| at.since(now).min(PERIOD));
        tokio::time::sleep(wait).await;
    }

    /// Drops what is to be dropped and counts what is left.
    fn tidy(&self, plan: &Plan) {
        let now = self.host.clock.now();
        let drops: Vec<&EntryId> = plan
            .actions
            .iter()
            .filter_map(|action| match action {
                Action::Drop { entry, why } => {
                    tracing::debug!(entry_id = %entry, ?why, "dropping an SVID");
                    Some(entry)
                }
                _ => None,
            })
            .collect();
        if !drops.is_empty() {
            self.cache.change(|state| {
                for entry in drops {
                    state.drop_svid(entry);
                }
            });
        }
        if plan.actions.contains(&Action::Notify) {
            self.cache.told_until(now);
        }
        let state = self.cache.current();
        self.cache.progress(|progress| {
            progress.attempts.retain(|id, attempt| {
                state
                    .entries
                    .get(id)
                    .is_some_and(|held| held.arrival == attempt.arrival)
            });
        });
        self.tokens.purge(&state, now);
        self.count(&state);
    }

    fn count(&self, state: &State) {
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        self.metrics.entries.set(count(state.entries.len()));
        self.metrics.x509_svids.set(count(state.svids.len()));
        self.metrics.jwt_svids.set(count(self.tokens.len()));
        let next = state
            .svids
            .values()
            .map(|svid| svid.validity.not_after)
            .min();
        self.metrics
            .next_svid_expiry
            .set(next.map_or(0, Timestamp::unix_secs));
    }

    /// An authority that left the bundle takes its SVIDs along: no peer accepts them any more.
    async fn drop_unverifiable(&self, state: &Arc<State>, seen: &mut Option<Arc<Bundle>>) {
        let now_bundle = state.own_bundle().cloned();
        let shrank = match (seen.as_ref(), now_bundle.as_ref()) {
            (Some(before), Some(now)) if !Arc::ptr_eq(before, now) => {
                before.x509.iter().any(|anchor| !now.x509.contains(anchor))
            }
            (before, now) => before.is_none() && now.is_some(),
        };
        *seen = now_bundle;
        if !shrank || state.svids.is_empty() {
            return;
        }
        let (state, now) = (Arc::clone(state), self.host.clock.now());
        let check = move || {
            let bad = |svid: &&Arc<CachedSvid>| !verify::still_verifies(svid, &state.bundles, now);
            let bad = state.svids.values().filter(bad);
            bad.map(|svid| (svid.entry_id.clone(), svid.serial.clone()))
                .collect::<Vec<_>>()
        };
        let Ok(bad) = self.host.disk.run(check).await else {
            return;
        };
        if !bad.is_empty() {
            tracing::warn!(
                count = bad.len(),
                "dropping SVIDs whose authority left the bundle"
            );
            self.cache.change(|state| {
                for (id, serial) in &bad {
                    if state
                        .svids
                        .get(id)
                        .is_some_and(|svid| svid.serial == *serial)
                    {
                        state.drop_svid(id);
                    }
                }
            });
        }
    }

    /// Makes keys and requests for these entries, marks them as asked for, and asks.
    async fn prepare(&self, ids: &[EntryId]) -> Option<impl Future<Output = Batch> + Send + use<>> {
        let state = self.cache.current();
        let held: Vec<Held> = ids
            .iter()
            .filter_map(|id| state.entries.get(id).cloned())
            .collect();
        let made = self.host.disk.run(move || {
            let with_key =
                |held: Held| NewKey::for_id(&held.entry.spiffe_id).map(|key| (held, key));
            held.into_iter()
                .map(with_key)
                .collect::<Result<Vec<_>, _>>()
        });
        let made = match made.await {
            Ok(Ok(made)) => made,
            Ok(Err(error)) => {
                tracing::error!(%error, "keys cannot be made");
                return None;
            }
            Err(error) => {
                tracing::error!(%error, "keys cannot be made");
                return None;
            }
        };
        if made.is_empty() {
            return None;
        }
        self.cache.progress(|progress| {
            progress
                .in_flight
                .extend(made.iter().map(|(held, _)| held.entry.id.clone()));
        });
        let items: Vec<CsrItem> = made.iter().map(|(held, key)| item(held, key)).collect();
        let asked: Vec<Asked> = made
            .into_iter()
            .map(|(held, key)| {
                let svid = state.svids.get(&held.entry.id);
                let not_after = svid.map(|svid| svid.validity.not_after);
                Asked {
                    held,
                    key,
                    not_after,
                }
            })
            .collect();
        let issuer = Arc::clone(&self.issuer);
        Some(async move {
            Batch {
                asked,
                answer: issuer.issue_x509(items).await,
            }
        })
    }

    /// Takes a batch in and returns how large the next ones may be.
    async fn take(&self, batch: Batch, size: usize) -> usize {
        let count = batch.asked.len();
        let now = self.host.clock.now();
        let (mut accepted, mut failed) = (Vec::new(), Vec::new());
        let bundles = Arc::clone(&self.cache.current().bundles);
        let overloaded = matches!(
            &batch.answer,
            Err(error) if error.code == tonic::Code::ResourceExhausted
        );
        match batch.answer {
            // The call failed, and with it nothing that is known of any entry: it may be that the agent's
            // own SVID has ended. That passes when the agent is whole again.
            Err(error) => failed.extend(batch.asked.into_iter().map(|asked| Failed {
                asked,
                error: error.clone(),
                passing: true,
            })),
            Ok(answers) if answers.len() != count => {
                let error =
                    IssueError::misbehaved("the answer has another length than the question");
                failed.extend(
                    batch
                        .asked
                        .into_iter()
                        .map(|asked| Failed::of(asked, error.clone())),
                );
            }
            Ok(answers) => {
                let pairs: Vec<_> = batch.asked.into_iter().zip(answers).collect();
                let bundles = Arc::clone(&bundles);
                let check = move || {
                    let check = |(asked, answer): (Asked, Result<IssuedChain, IssueError>)| {
                        let result = answer.and_then(|issued| {
                            let id = &asked.held.entry.spiffe_id;
                            verify::accept(issued.chain, id, &asked.key, &bundles, now)
                        });
                        (asked, result)
                    };
                    pairs.into_iter().map(check).collect::<Vec<_>>()
                };
                for (asked, result) in self.host.disk.run(check).await.unwrap_or_default() {
                    match result {
                        Ok(chain) => accepted.push((asked, chain)),
                        Err(error) => failed.push(Failed::of(asked, error)),
                    }
                }
            }
        }
        self.publish(accepted, &bundles, now);
        self.note_failures(failed, now);
        if overloaded {
            (size / 2).max(BATCH_MIN)
        } else {
            size.saturating_mul(2).min(BATCH_MAX)
        }
    }

    /// Publishes what was verified with these bundles.
    fn publish(&self, accepted: Vec<(Asked, Accepted)>, bundles: &Arc<BundleSet>, now: Timestamp) {
        if accepted.is_empty() {
            return;
        }
        reach(Step::SvidReceived);
        let done: Vec<EntryId> = accepted
            .iter()
            .map(|(asked, _)| asked.held.entry.id.clone())
            .collect();
        let svids: Vec<(u64, Arc<CachedSvid>)> = accepted
            .into_iter()
            .map(|(asked, accepted)| {
                let draw = draw_u64(self.host.entropy.as_ref());
                (
                    asked.held.arrival,
                    Arc::new(cached(asked, accepted, draw, now)),
                )
            })
            .collect();
        self.cache.progress(|progress| {
            for id in &done {
                progress.in_flight.remove(id);
                progress.attempts.remove(id);
            }
        });
        self.metrics
            .issued
            .inc_by(u64::try_from(svids.len()).unwrap_or(u64::MAX));
        self.cache.change(|state| {
            // A bundle that changed meanwhile may lack the authority; what is not put is asked for again.
            let same = Arc::ptr_eq(&state.bundles, bundles);
            for (arrival, svid) in svids {
                let (entry_id, serial) = (svid.entry_id.clone(), svid.serial.clone());
                if !same && !state.has_anchor(&svid.anchor_id) {
                    tracing::info!(%entry_id, serial, "dropping an SVID whose authority left the bundle");
                } else if state.put_svid(svid, arrival) {
                    tracing::info!(%entry_id, serial, "SVID issued");
                } else {
                    tracing::info!(%entry_id, serial, "dropping an SVID that came after a denial");
                }
            }
        });
        reach(Step::SvidPublished);
    }

    fn note_failures(&self, failed: Vec<Failed>, now: Timestamp) {
        if failed.is_empty() {
            return;
        }
        let mut problems: BTreeMap<String, usize> = BTreeMap::new();
        self.metrics
            .issue_failures
            .inc_by(u64::try_from(failed.len()).unwrap_or(u64::MAX));
        self.cache.progress(|progress| {
            for Failed {
                asked,
                error,
                passing,
            } in failed
            {
                let id = asked.held.entry.id.clone();
                progress.in_flight.remove(&id);
                let before = progress.attempts.get(&id);
                let failures = before
                    .filter(|attempt| attempt.arrival == asked.held.arrival)
                    .map_or(1, |attempt| attempt.failures.saturating_add(1));
                let draw = draw_u64(self.host.entropy.as_ref());
                let problem = error.to_string();
                let count = problems.entry(problem.clone()).or_insert(0);
                *count = count.saturating_add(1);
                let attempt = Attempt {
                    failures,
                    noted: now,
                    next: retry_at(now, failures, draw, asked.not_after),
                    problem,
                    passing,
                    arrival: asked.held.arrival,
                };
                progress.attempts.insert(id, attempt);
            }
        });
        for (problem, count) in problems {
            tracing::warn!(problem, count, "SVIDs were not issued; trying again later");
        }
    }

    /// A server was reached again: what failed for want of one is tried at once, but for SVIDs
    /// that have time, so that a recovered server is not stormed.
    fn forget_passing_failures(&self) {
        let state = self.cache.current();
        self.cache.progress(|progress| {
            progress
                .attempts
                .retain(|id, attempt| !attempt.passing || state.svids.contains_key(id));
        });
    }
}

/// An SVID that was not issued.
struct Failed {
    asked: Asked,
    error: IssueError,
    /// Whether it may pass by itself.
    passing: bool,
}

impl Failed {
    /// One that the server answered, or answered badly.
    fn of(asked: Asked, error: IssueError) -> Self {
        let passing = error.is_passing();
        Self {
            asked,
            error,
            passing,
        }
    }
}

fn due(plan: &Plan) -> Vec<EntryId> {
    plan.actions
        .iter()
        .filter_map(|action| match action {
            Action::Issue { entry } | Action::Renew { entry, .. } => Some(entry.clone()),
            Action::Drop { .. } | Action::Notify => None,
        })
        .collect()
}

fn item(held: &Held, key: &NewKey) -> CsrItem {
    CsrItem {
        entry_id: held.entry.id.clone(),
        entry_revision: held.entry.revision,
        csr: key.csr.clone(),
    }
}

fn cached(asked: Asked, accepted: Accepted, draw: u64, now: Timestamp) -> CachedSvid {
    CachedSvid {
        entry_id: asked.held.entry.id.clone(),
        issued_for: IssuedFor::of(&asked.held.entry),
        chain: accepted.chain,
        key: SecretBytes::from(asked.key.pkcs8),
        serial: accepted.serial,
        authority_id: accepted.authority_id,
        anchor_id: accepted.anchor_id,
        validity: accepted.validity,
        received_at: now,
        renew_at: renewal_due_once_received(accepted.validity, now, draw),
        draw,
    }
}
