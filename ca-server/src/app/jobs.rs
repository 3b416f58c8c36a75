//! Small jobs that keep a server in step: unsealing, its own record, its settings, its gauges.
//!
//! Always: each looks at what is and at what should be, again and again, and does the difference.
//!
//! Not here: rotation (`authority::rotation`), membership (`cluster::reconcile`).

use std::sync::Arc;
use std::time::Duration;

use mintmark_identity::clock::Timestamp;
use mintmark_identity::validity::{TtlPolicy, TtlRequest};
use mintmark_proto::mintmark::raft::v1::{Actor, AdmitServer, ChangeSettings, actor, command};
use mintmark_proto::mintmark::state::v1::{Authority, AuthorityState, Server, Settings};
use mintmark_runtime::cause::chain;
use mintmark_runtime::readiness::{Gate, Readiness};
use mintmark_runtime::task::periodic::{Periodic, Wake};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::api::{Services, accepted};
use crate::config::Config;
use crate::issuance::kind_name;
use crate::metrics::Readings;
use crate::raft::Role;
use crate::state::ISSUE_SKEW_MAX;
use crate::vault::kek::KekError;

/// How often jobs look.
const PERIOD: Duration = Duration::from_secs(2);
/// Without word from a quorum for so long, a server is not ready.
const CONTACT_MAX: Duration = Duration::from_secs(5);

fn schedule(services: &Services, period: Duration) -> Periodic {
    Periodic::new(period, Wake::new(), services.tasks.token())
}

/// Looks for an absent KEK until it is there. A wrong one goes to `fatal`.
pub async fn unseal(services: Services, fatal: mpsc::Sender<KekError>) {
    let vault = services.keyring.vault();
    if !vault.is_sealed() {
        return;
    }
    tracing::warn!(
        "this server is sealed: its key-encryption key is absent; it replicates and does not issue"
    );
    let mut schedule = schedule(&services, PERIOD);
    while schedule.next().await {
        match vault.try_unseal(services.host.disk.as_ref()) {
            Ok(false) => {}
            Ok(true) => {
                tracing::info!("the key-encryption key is there: this server is unsealed");
                services.rotation.wake();
                return;
            }
            // A file that is half written is no reason to end; one that is the wrong key is.
            Err(error @ KekError::Wrong { .. }) => {
                // Nobody listens any more when the server is ending already.
                let _ = fatal.send(error).await;
                return;
            }
            Err(error) => tracing::warn!(error = %chain(&error), "the KEK cannot be used yet"),
        }
    }
}

/// What the list of servers should say of this one.
#[derive(Debug, Clone)]
pub struct OwnRecord {
    /// Its name.
    pub name: String,
    /// Where peers reach it.
    pub peer_address: String,
    /// Where agents reach it.
    pub api_address: String,
}

impl OwnRecord {
    fn brought_up_to_date(&self, server: &Server) -> Option<Server> {
        let wanted = Server {
            name: self.name.clone(),
            peer_address: self.peer_address.clone(),
            api_address: self.api_address.clone(),
            ..server.clone()
        };
        (wanted != *server).then_some(wanted)
    }
}

/// Brings this server's record up to date: its addresses may have changed since it was admitted.
pub async fn keep_record(services: Services, record: OwnRecord) {
    let node_id = services.keyring.node_id();
    let mut schedule = schedule(&services, PERIOD);
    while schedule.next().await {
        let wanted = services.consensus.read(|state| {
            state
                .server(node_id)
                .and_then(|server| record.brought_up_to_date(server))
        });
        let Some(server) = wanted else { continue };
        let admit = AdmitServer {
            server: Some(server),
            ..AdmitServer::default()
        };
        propose(
            &services,
            command::Body::AdmitServer(admit),
            "the server's own record",
        )
        .await;
    }
}

/// Applies once, when there is a cluster, what the configuration says of its settings. What the
/// configuration does not name stays as it is.
pub async fn apply_settings(services: Services, config: Arc<Config>) {
    let mut schedule = schedule(&services, Duration::from_millis(200));
    while schedule.next().await {
        let Some(current) = services.consensus.read(|state| state.settings().cloned()) else {
            continue;
        };
        let wanted = match wanted_settings(&current, &config) {
            Ok(wanted) => wanted,
            Err(problem) => {
                tracing::error!(problem, "the configured lifetimes do not fit the cluster's");
                return;
            }
        };
        if wanted == current {
            return;
        }
        tracing::warn!("the configuration asks for other cluster settings; changing them");
        let expected_revision = current.revision;
        let body = ChangeSettings {
            settings: Some(wanted),
            expected_revision,
        };
        propose(
            &services,
            command::Body::ChangeSettings(body),
            "the settings",
        )
        .await;
    }
}

fn wanted_settings(current: &Settings, config: &Config) -> Result<Settings, String> {
    let keep = |asked: Option<Duration>, seconds: u64| {
        asked.or_else(|| Some(Duration::from_secs(seconds)))
    };
    let asked = &config.ttl;
    let request = TtlRequest {
        ca: keep(asked.ca, current.ca_ttl_seconds),
        // A lifetime that follows from another one is not kept against it.
        x509_svid: asked.x509_svid.or_else(|| {
            asked
                .ca
                .is_none()
                .then(|| Duration::from_secs(current.x509_svid_ttl_seconds))
        }),
        jwt_svid: asked.jwt_svid.or_else(|| {
            asked
                .ca
                .is_none()
                .then(|| Duration::from_secs(current.jwt_svid_ttl_seconds))
        }),
        agent_svid: asked.agent_svid.or_else(|| {
            let follows = asked.ca.is_some() || asked.x509_svid.is_some();
            (!follows).then(|| Duration::from_secs(current.agent_svid_ttl_seconds))
        }),
        upstream: None,
    };
    let ttl = TtlPolicy::resolve(request).map_err(|error| error.to_string())?;
    let mut wanted = current.clone();
    if config.ttl != TtlRequest::default() {
        wanted.ca_ttl_seconds = ttl.ca.as_secs();
        wanted.x509_svid_ttl_seconds = ttl.x509_svid.as_secs();
        wanted.jwt_svid_ttl_seconds = ttl.jwt_svid.as_secs();
        wanted.agent_svid_ttl_seconds = ttl.agent_svid.as_secs();
    }
    if let Some(pq) = config.pq {
        wanted.pq = pq.into();
    }
    if let Some(issuer) = &config.jwt_issuer {
        wanted.jwt_issuer.clone_from(issuer);
    }
    Ok(wanted)
}

async fn propose(services: &Services, body: command::Body, what: &'static str) {
    let node_id = services.keyring.node_id();
    let actor = Actor {
        kind: actor::Kind::Server.into(),
        node_id,
        ..Actor::default()
    };
    match services.consensus.propose(body, actor, None).await {
        Ok(proposed) if accepted(&proposed.result).is_ok() => {}
        Ok(proposed) => tracing::warn!(what, detail = proposed.result.detail, "was not changed"),
        Err(error) => tracing::debug!(what, %error, "is not changed yet"),
    }
}

/// When a quorum last stood behind what this server knows. An election alone forgets the age that the
/// consensus tells, so the instant is kept here.
#[derive(Debug, Default)]
struct Touch(Option<Instant>);

impl Touch {
    /// Takes over what the consensus tells; true when the quorum has been silent too long.
    fn is_lost(&mut self, now: Instant, age: Option<Duration>) -> bool {
        if let Some(at) = age.and_then(|age| now.checked_sub(age)) {
            self.0 = self.0.max(Some(at));
        }
        self.0
            .is_none_or(|at| now.saturating_duration_since(at) >= CONTACT_MAX)
    }
}

/// Closes readiness while no quorum answers. The gate is closed from the start, until the first answer.
pub async fn watch_quorum(services: Services, readiness: Readiness, quorum: Gate) {
    let (mut quorum, mut touch) = (Some(quorum), Touch::default());
    let mut schedule = schedule(&services, Duration::from_millis(100));
    while schedule.next().await {
        let was_lost = quorum.is_some();
        let lost = touch.is_lost(Instant::now(), services.consensus.quorum_age());
        hold(&mut quorum, lost, || readiness.gate("quorum"));
        match (was_lost, lost) {
            (false, true) => tracing::warn!("no quorum answers: this server is not ready"),
            (true, false) => tracing::info!("a quorum answers"),
            _ => {}
        }
    }
}

/// Holds back readiness until an authority of each kind signs for the first time. Later there is nothing
/// that another server would do better: all of them have the same authorities.
pub async fn watch_authorities(services: Services, authority: Gate) {
    let mut schedule = schedule(&services, Duration::from_millis(100));
    while schedule.next().await {
        let now = services.host.clock.now();
        let signs = services.consensus.read(|state| {
            let active = state
                .all_authorities()
                .filter(|one| state.may_sign(&one.id, now));
            active.count() >= crate::authority::rotation::plan::KINDS.len()
        });
        if signs {
            authority.open();
            return;
        }
    }
}

/// Closes readiness while this server may not sign because of a clock: its own, or one that was ahead once
/// and took the cluster's time along.
pub async fn watch_clock(services: Services, readiness: Readiness, clock: Gate) {
    let (mut clock, mut time) = (Some(clock), None);
    let mut schedule = schedule(&services, Duration::from_millis(100));
    while schedule.next().await {
        let good = services.consensus.clock().is_good();
        hold(&mut clock, !good, || readiness.gate("clock"));
        let now = services.host.clock.now();
        let ahead = services.consensus.read(|state| state.time().since(now));
        let was_ahead = time.is_some();
        hold(&mut time, good && ahead > ISSUE_SKEW_MAX, || {
            readiness.gate("cluster time")
        });
        if time.is_some() && !was_ahead {
            let seconds = ahead.as_secs();
            tracing::error!(
                seconds,
                "the cluster's time is ahead of the clocks: nothing is issued until they have caught up"
            );
        }
    }
}

fn hold(gate: &mut Option<Gate>, closed: bool, make: impl FnOnce() -> Gate) {
    if !closed {
        *gate = None;
    } else if gate.is_none() {
        *gate = Some(make());
    }
}

/// Shows the gauges.
pub async fn show_gauges(services: Services) {
    let mut schedule = schedule(&services, PERIOD);
    while schedule.next().await {
        services.metrics.show(&readings(&services));
    }
}

fn readings(services: &Services) -> Readings {
    let raft = services.consensus.status().borrow().clone();
    let mut readings = Readings {
        push_streams: services.hub.streams(),
        is_leader: raft.role == Role::Leader,
        leader: raft.leader.unwrap_or_default(),
        term: raft.term,
        applied_index: raft.applied_log_index.unwrap_or_default(),
        last_log_index: raft.last_log_index.unwrap_or_default(),
        sealed: services.keyring.vault().is_sealed(),
        clock: services.consensus.clock(),
        differing_members: services.consensus.differing_members(),
        ..Readings::default()
    };
    let now = services.host.clock.now();
    services.consensus.read(|state| {
        readings.cluster_time_ahead = state.time().since(now);
        readings.entries = state.entry_count();
        readings.attested_agents = state.attested_node_count();
        readings.bundle_sequence = state.bundle_sequence();
        readings.audit_leaves = state.audit_size();
        let signed_at = state.last_checkpoint().map_or(0, |last| last.signed_at_ms);
        readings.checkpoint_at = Timestamp::from_unix_millis(signed_at).unix_secs();
        readings.authorities = state.all_authorities().filter_map(expiry).collect();
    });
    readings
}

fn expiry(authority: &Authority) -> Option<(&'static str, &'static str, i64)> {
    let state = match authority.state() {
        AuthorityState::Published => "published",
        AuthorityState::Active => "active",
        AuthorityState::Old => "old",
        _ => return None,
    };
    let end = Timestamp::from_unix_millis(authority.not_after_ms).unix_secs();
    Some((kind_name(authority.kind()), state, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_quorum_is_lost_after_a_long_silence_and_found_with_the_next_answer() {
        let mut touch = Touch::default();
        tokio::time::advance(SECOND * 60).await;
        assert!(touch.is_lost(Instant::now(), None), "never heard of one");
        assert!(touch.is_lost(Instant::now(), Some(CONTACT_MAX)));
        assert!(!touch.is_lost(Instant::now(), Some(Duration::ZERO)));
        // An election forgets the age, and takes less than the silence that counts.
        tokio::time::advance(SECOND * 4).await;
        assert!(!touch.is_lost(Instant::now(), None));
        assert!(
            !touch.is_lost(Instant::now(), Some(SECOND * 30)),
            "an old word takes nothing back"
        );
        tokio::time::advance(SECOND).await;
        assert!(touch.is_lost(Instant::now(), None));
        assert!(touch.is_lost(Instant::now(), Some(SECOND * 35)));
        assert!(!touch.is_lost(Instant::now(), Some(SECOND)));
    }
}
