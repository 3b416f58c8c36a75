//! Rotation: authorities are prepared, proven, published, activated and retired without anybody asking.
//!
//! Always: the decision is a function of state and time ([`mod@plan`]), looked at again and again, so that
//! whatever was interrupted goes on where it stopped, on whichever server. The leader acts first; a
//! server that sees a step overdue acts too, because a leader may be sealed; the state refuses what was
//! done already. A cold start needs no human.
//!
//! Not here: the instants (`mintmark_identity::rotation`), who is missing (`state::acknowledgements`).

pub mod plan;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use mintmark_identity::entropy::{Entropy, draw_u64};
use mintmark_proto::mintmark::raft::v1::{
    ActivateAuthority, Actor, PrepareAuthority, ProveAuthority, PruneExpired, PublishAuthority,
    RetireAuthority, actor, command,
};
use mintmark_proto::mintmark::state::v1::{Authority, AuthorityKind};
use mintmark_runtime::backoff::Backoff;
use mintmark_runtime::cause::chain;
use mintmark_runtime::failpoint;
use mintmark_runtime::host::Host;
use mintmark_runtime::task::Tasks;
use mintmark_runtime::task::periodic::{Periodic, Wake};
use thiserror::Error;
use tokio::time::Instant;

use self::plan::{Step, plan, unproven};
use super::keyring::{Keyring, KeyringError, SealedRecord, record_name};
use super::lifecycle::{LifecycleError, Plan, make, prove};
use crate::Consensus;
use crate::issuance::kind_name;
use crate::raft::{ProposeError, Role};

/// How often the job looks, when nothing wakes it.
const PERIOD: Duration = Duration::from_secs(1);
/// Between two looks that changes of the state cause.
const WAKE_PAUSE: Duration = Duration::from_millis(20);
/// A server that does not lead waits so long before it does the leader's work.
const PATIENCE: Duration = Duration::from_secs(15);
/// First and longest pause after a failure.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// How often what has expired is dropped from the state.
const PRUNE_PERIOD: Duration = Duration::from_secs(60);

/// Why a step could not be made.
#[derive(Debug, Error)]
pub enum RotationError {
    /// The vault.
    #[error("the vault is not usable")]
    Keyring(#[from] KeyringError),
    /// The key or certificate.
    #[error("the authority could not be made or proven")]
    Lifecycle(#[from] LifecycleError),
    /// The log.
    #[error("the log did not take the step")]
    Propose(#[from] ProposeError),
    /// The state.
    #[error("the step was refused: {0}")]
    Refused(String),
    /// There is no cluster yet.
    #[error("the cluster is not initialised")]
    NotInitialized,
}

/// The rotation job.
#[derive(Debug, Clone)]
pub struct Rotation(Arc<Job>);

#[derive(Debug)]
struct Job {
    host: Host,
    consensus: Consensus,
    keyring: Arc<Keyring>,
    wake: Wake,
}

impl Rotation {
    /// Starts the job.
    #[must_use]
    pub fn start(host: Host, consensus: Consensus, keyring: Arc<Keyring>, tasks: &Tasks) -> Self {
        let wake = Wake::new();
        let rotation = Self(Arc::new(Job {
            host,
            consensus,
            keyring,
            wake: wake.clone(),
        }));
        let schedule = Periodic::new(PERIOD, wake.clone(), tasks.token());
        tasks.spawn("rotation", rotation.clone().run(schedule));
        let (mut applied, token) = (rotation.0.consensus.applied(), tasks.token());
        let changed = async move || applied.changed().await.is_ok();
        tasks.spawn(
            "rotation wake",
            wake.after_changes(changed, WAKE_PAUSE, token),
        );
        rotation
    }

    /// Asks the job to look now.
    pub fn wake(&self) {
        self.0.wake.wake();
    }

    /// Prepares an authority because an operator asks for it. Returns its id.
    ///
    /// # Errors
    /// When the vault is sealed, or the state does not allow it now.
    pub async fn prepare(
        &self,
        kind: AuthorityKind,
        actor: Actor,
    ) -> Result<String, RotationError> {
        let id = self.0.prepare(kind, false, actor).await?;
        self.wake();
        Ok(id)
    }

    async fn run(self, mut schedule: Periodic) {
        let job = &self.0;
        let mut proofs = Attempt::new();
        let mut due: Vec<(Step, Attempt)> = Vec::new();
        let mut pruned = Instant::now();
        while schedule.next().await {
            if proofs.may_try() {
                let outcome = job.prove_all().await;
                proofs.note(&outcome, job.host.entropy.as_ref());
            }
            let (now, node_id) = (job.host.clock.now(), job.keyring.node_id());
            let steps = job.consensus.read(|state| plan(state, node_id, now));
            due.retain(|(step, _)| steps.contains(step));
            for step in steps {
                if !due.iter().any(|(known, _)| *known == step) {
                    due.push((step, Attempt::new()));
                }
            }
            for (step, attempt) in &mut due {
                job.attempt(step, attempt).await;
            }
            pruned = job.prune(pruned).await;
        }
    }
}

/// What has been tried of one step.
#[derive(Debug)]
struct Attempt {
    since: Instant,
    not_before: Option<Instant>,
    backoff: Backoff,
}

impl Attempt {
    fn new() -> Self {
        let backoff = Backoff::new(RETRY.0, RETRY.1);
        Self {
            since: Instant::now(),
            not_before: None,
            backoff,
        }
    }

    /// A refusal is itself applied, and would wake the job at once, so a failed step waits by itself.
    fn may_try(&self) -> bool {
        self.not_before.is_none_or(|at| Instant::now() >= at)
    }

    fn note(&mut self, outcome: &Result<(), RotationError>, entropy: &dyn Entropy) {
        match outcome {
            Ok(()) => {
                self.not_before = None;
                self.backoff.reset();
            }
            Err(error) => {
                let pause = self.backoff.next_delay(draw_u64(entropy));
                self.not_before = Instant::now().checked_add(pause);
                tracing::debug!(error = %chain(error), ?pause, "tried again later");
            }
        }
    }
}

impl Job {
    /// Shows for every authority on its way that this server can use it.
    async fn prove_all(&self) -> Result<(), RotationError> {
        let node_id = self.keyring.node_id();
        let (due, in_use) = self.consensus.read(|state| {
            let due: Result<Vec<(Authority, SealedRecord)>, KeyringError> =
                unproven(state, node_id)
                    .into_iter()
                    .map(|authority| {
                        let record = SealedRecord::find(state, node_id, &record_name(&authority))?;
                        Ok((authority, record))
                    })
                    .collect();
            let in_use: BTreeSet<String> = state
                .all_authorities()
                .filter(|authority| plan::is_in_use(authority))
                .map(|authority| authority.id.clone())
                .collect();
            (due, in_use)
        });
        self.keyring.retain(&in_use);
        for (authority, record) in due? {
            let key = self.keyring.authority_key(&authority.id, &record)?;
            let signature = prove(&authority, &key, node_id)?;
            failpoint::reach(failpoint::Step::AuthorityProofMade);
            let body = ProveAuthority {
                authority_id: authority.id,
                node_id,
                signature,
            };
            self.propose(command::Body::ProveAuthority(body), self.actor())
                .await?;
            failpoint::reach(failpoint::Step::AuthorityProven);
        }
        Ok(())
    }

    /// Tries a step, if it is this server's turn.
    async fn attempt(&self, step: &Step, attempt: &mut Attempt) {
        let leads = self.consensus.role() == Role::Leader;
        if !attempt.may_try() || (!leads && attempt.since.elapsed() < PATIENCE) {
            return;
        }
        let outcome = self.perform(step).await;
        attempt.note(&outcome, self.host.entropy.as_ref());
        match outcome {
            Ok(()) => {
                tracing::info!(?step, "authority moved");
                self.wake.wake();
            }
            Err(error) => {
                tracing::warn!(?step, error = %chain(&error), "authority did not move");
            }
        }
    }

    async fn perform(&self, step: &Step) -> Result<(), RotationError> {
        use failpoint::Step as At;
        let (before, body, after) = match step {
            Step::Prepare { kind, cold_start } => {
                return self
                    .prepare(*kind, *cold_start, self.actor())
                    .await
                    .map(drop);
            }
            Step::Publish { id } => (
                At::AuthorityPublishing,
                command::Body::PublishAuthority(PublishAuthority {
                    authority_id: id.clone(),
                }),
                At::AuthorityPublished,
            ),
            Step::Activate { id, ground } => (
                At::AuthorityActivating,
                command::Body::ActivateAuthority(ActivateAuthority {
                    authority_id: id.clone(),
                    ground: (*ground).into(),
                }),
                At::AuthorityActivated,
            ),
            Step::Retire { id } => (
                At::AuthorityRetiring,
                command::Body::RetireAuthority(RetireAuthority {
                    authority_id: id.clone(),
                }),
                At::AuthorityRetired,
            ),
        };
        failpoint::reach(before);
        self.propose(body, self.actor()).await?;
        failpoint::reach(after);
        Ok(())
    }

    async fn prepare(
        &self,
        kind: AuthorityKind,
        cold_start: bool,
        actor: Actor,
    ) -> Result<String, RotationError> {
        let node_id = self.keyring.node_id();
        let (trust_domain, settings, cluster_id, wrapped) = self
            .consensus
            .read(|state| {
                let wrapped = state.wrapped_data_key(node_id).cloned();
                let cluster = (state.trust_domain(), state.settings(), state.cluster_id());
                match cluster {
                    (Some(domain), Some(settings), Some(id)) => {
                        Some((domain.clone(), settings.clone(), id, wrapped))
                    }
                    _ => None,
                }
            })
            .ok_or(RotationError::NotInitialized)?;
        let wrapped = wrapped.ok_or(KeyringError::NotAdmitted)?;
        // A sealed server finds out before it makes keys in vain.
        self.keyring.data_key(&cluster_id, &wrapped)?;
        let (trust_domain, settings) = (&trust_domain, &settings);
        let plan = Plan {
            trust_domain,
            settings,
            kind,
            now: self.host.clock.now(),
        };
        let made = make(&plan, self.host.entropy.as_ref())?;
        failpoint::reach(failpoint::Step::AuthorityKeyMade);
        let id = made.authority.id.clone();
        let key = self.keyring.seal(
            &cluster_id,
            &wrapped,
            &record_name(&made.authority),
            &made.key,
            self.host.entropy.as_ref(),
        )?;
        failpoint::reach(failpoint::Step::AuthorityKeySealed);
        let (authority, key) = (Some(made.authority), Some(key));
        let body = PrepareAuthority {
            authority,
            key,
            cold_start,
        };
        self.propose(command::Body::PrepareAuthority(body), actor)
            .await?;
        failpoint::reach(failpoint::Step::AuthorityPrepared);
        tracing::info!(authority_id = %id, kind = kind_name(kind), cold_start, "authority prepared");
        Ok(id)
    }

    /// Drops from the state what has expired, now and then.
    async fn prune(&self, last: Instant) -> Instant {
        if last.elapsed() < PRUNE_PERIOD || self.consensus.role() != Role::Leader {
            return last;
        }
        let body = command::Body::PruneExpired(PruneExpired {});
        if let Err(error) = self.propose(body, self.actor()).await {
            tracing::debug!(error = %chain(&error), "nothing was pruned");
        }
        Instant::now()
    }

    async fn propose(&self, body: command::Body, actor: Actor) -> Result<(), RotationError> {
        let proposed = self.consensus.propose(body, actor, None).await?;
        if crate::api::accepted(&proposed.result).is_err() {
            return Err(RotationError::Refused(proposed.result.detail));
        }
        Ok(())
    }

    fn actor(&self) -> Actor {
        let node_id = self.keyring.node_id();
        Actor {
            kind: actor::Kind::Server.into(),
            node_id,
            ..Actor::default()
        }
    }
}
