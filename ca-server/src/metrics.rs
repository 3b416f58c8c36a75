//! The server's metrics; every name is in this file.
//!
//! Always: names carry the unit, counters end in `_total` when they are written out, and no label holds a
//! SPIFFE ID or anything else that a caller chooses.
//!
//! Not here: how they are served (`mintmark_runtime::http`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mintmark_runtime::grpc::ListenerMetrics;
use mintmark_runtime::metrics::Metrics as Registry;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;

use crate::audit::sink::SinkMetrics;
use crate::policy::Action;
use crate::raft::ClockState;

/// Prefix of every name.
pub const PREFIX: &str = "mintmark";

/// `kind` and `result` of a signature.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Signing {
    kind: &'static str,
    result: &'static str,
}

/// `method` and `result` of an attestation.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Attesting {
    method: &'static str,
    result: &'static str,
}

/// What was refused.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Refusing {
    action: &'static str,
}

/// An authority's end; `authority` is its kind, `state` the field's word.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Expiring {
    authority: &'static str,
    state: &'static str,
}

/// All of them; a clone counts into the same numbers.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    signing_requests: Family<Signing, Counter>,
    issued_svids: Family<Signing, Counter>,
    rejected_requests: Family<Refusing, Counter>,
    agent_attestations: Family<Attesting, Counter>,
    entries: Gauge,
    attested_agents: Gauge,
    push_streams: Gauge,
    ca_expiry: Family<Expiring, Gauge>,
    svid_expiry: Gauge,
    bundle_sequence: Gauge<u64, AtomicU64>,
    raft_is_leader: Gauge,
    raft_term: Gauge<u64, AtomicU64>,
    raft_applied_index: Gauge<u64, AtomicU64>,
    raft_last_log_index: Gauge<u64, AtomicU64>,
    raft_leader_changes: Counter,
    clock_offset: Gauge<f64, AtomicU64>,
    clock_good: Gauge,
    cluster_time_ahead: Gauge<f64, AtomicU64>,
    differing_members: Gauge,
    audit_leaves: Gauge<u64, AtomicU64>,
    audit_checkpoint: Gauge,
    sealed: Gauge,
    last_leader: Arc<AtomicU64>,
    /// Of the audit sinks, each.
    pub audit_sinks: SinkMetrics,
    /// Of the TCP API.
    pub api_listener: ListenerMetrics,
    /// Of the private socket.
    pub admin_listener: ListenerMetrics,
}

/// What the gauges show; read in one go.
#[derive(Debug, Clone, Default)]
pub struct Readings {
    /// Registration entries.
    pub entries: usize,
    /// Attested nodes.
    pub attested_agents: usize,
    /// Open push streams on this server.
    pub push_streams: usize,
    /// End of each authority in the bundle, in Unix seconds: kind, state, end.
    pub authorities: Vec<(&'static str, &'static str, i64)>,
    /// Sequence number of the bundle.
    pub bundle_sequence: u64,
    /// Whether this server leads.
    pub is_leader: bool,
    /// Who leads, 0 if unknown.
    pub leader: u64,
    /// Raft term.
    pub term: u64,
    /// Last applied log entry.
    pub applied_index: u64,
    /// Last log entry.
    pub last_log_index: u64,
    /// Leaves of the audit log.
    pub audit_leaves: u64,
    /// When the last checkpoint was signed, in Unix seconds.
    pub checkpoint_at: i64,
    /// Whether the vault is sealed.
    pub sealed: bool,
    /// This server's clock beside the voters'.
    pub clock: ClockState,
    /// How far the cluster's time is ahead of this server's clock.
    pub cluster_time_ahead: Duration,
    /// Members whose state differs from this one's.
    pub differing_members: usize,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Registers everything in a registry of its own.
    #[must_use]
    pub fn new() -> Self {
        let metrics = Self {
            registry: Registry::new(PREFIX),
            signing_requests: Family::default(),
            issued_svids: Family::default(),
            rejected_requests: Family::default(),
            agent_attestations: Family::default(),
            entries: Gauge::default(),
            attested_agents: Gauge::default(),
            push_streams: Gauge::default(),
            ca_expiry: Family::default(),
            svid_expiry: Gauge::default(),
            bundle_sequence: Gauge::default(),
            raft_is_leader: Gauge::default(),
            raft_term: Gauge::default(),
            raft_applied_index: Gauge::default(),
            raft_last_log_index: Gauge::default(),
            raft_leader_changes: Counter::default(),
            clock_offset: Gauge::default(),
            clock_good: Gauge::default(),
            cluster_time_ahead: Gauge::default(),
            differing_members: Gauge::default(),
            audit_leaves: Gauge::default(),
            audit_checkpoint: Gauge::default(),
            audit_sinks: SinkMetrics::default(),
            sealed: Gauge::default(),
            last_leader: Arc::default(),
            api_listener: ListenerMetrics::default(),
            admin_listener: ListenerMetrics::default(),
        };
        metrics.register_issuance();
        metrics.register_raft();
        metrics.register_agreement();
        metrics
    }

    fn register_issuance(&self) {
        self.registry.register(|registry| {
            let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
            registry.register("build", "The running version", build);
            let help = "Signatures that were asked for";
            registry.register("signing_requests", help, self.signing_requests.clone());
            registry.register("issued_svids", "SVIDs released", self.issued_svids.clone());
            let help = "Requests that policy refused";
            registry.register("rejected_requests", help, self.rejected_requests.clone());
            let help = "Attestations and resumes";
            registry.register("agent_attestations", help, self.agent_attestations.clone());
            registry.register("entries", "Registration entries", self.entries.clone());
            registry.register(
                "attested_agents",
                "Attested nodes",
                self.attested_agents.clone(),
            );
            let help = "Push streams open on this server";
            registry.register("agent_push_streams", help, self.push_streams.clone());
            let help = "End of each authority in the bundle, Unix seconds";
            registry.register("ca_expiry_timestamp_seconds", help, self.ca_expiry.clone());
            let help = "End of this server's own SVID, Unix seconds";
            registry.register(
                "svid_expiry_timestamp_seconds",
                help,
                self.svid_expiry.clone(),
            );
            let help = "Sequence number of the trust bundle";
            registry.register("bundle_sequence", help, self.bundle_sequence.clone());
            let help = "1 while the key-encryption key is absent";
            registry.register("vault_sealed", help, self.sealed.clone());
        });
    }

    fn register_raft(&self) {
        self.registry.register(|registry| {
            let help = "1 on the leader";
            registry.register("raft_is_leader", help, self.raft_is_leader.clone());
            registry.register("raft_term", "Raft term", self.raft_term.clone());
            let help = "Last log entry applied here";
            registry.register("raft_applied_index", help, self.raft_applied_index.clone());
            let help = "Last log entry here";
            registry.register(
                "raft_last_log_index",
                help,
                self.raft_last_log_index.clone(),
            );
            let help = "Times that another leader was seen";
            registry.register(
                "raft_leader_changes",
                help,
                self.raft_leader_changes.clone(),
            );
            let help = "Leaves of the audit log";
            registry.register("audit_leaves", help, self.audit_leaves.clone());
            let help = "When the last checkpoint was signed, Unix seconds";
            let name = "audit_last_checkpoint_timestamp_seconds";
            registry.register(name, help, self.audit_checkpoint.clone());
            self.audit_sinks.register(registry);
            let api = registry.sub_registry_with_prefix("api");
            self.api_listener.register(api);
            let admin = registry.sub_registry_with_prefix("admin");
            self.admin_listener.register(admin);
        });
    }

    fn register_agreement(&self) {
        self.registry.register(|registry| {
            let help = "How far this server's clock is ahead of the voters' median";
            registry.register("clock_offset_seconds", help, self.clock_offset.clone());
            let help = "1 while this server's clock is near enough to the voters' to be used";
            registry.register("clock_good", help, self.clock_good.clone());
            let help = "How far the time of the last command is ahead of this server's clock";
            registry.register(
                "cluster_time_ahead_seconds",
                help,
                self.cluster_time_ahead.clone(),
            );
            let help = "Members whose replicated state differs from this server's";
            registry.register("differing_members", help, self.differing_members.clone());
        });
    }

    /// The registry, to be served.
    #[must_use]
    pub fn registry(&self) -> Registry {
        self.registry.clone()
    }

    /// Counts a signature that was asked for.
    pub fn issued(&self, kind: &'static str, released: bool) {
        let result = if released { "ok" } else { "error" };
        let labels = Signing { kind, result };
        self.signing_requests.get_or_create(&labels).inc();
        if released {
            self.issued_svids.get_or_create(&labels).inc();
        }
    }

    /// Counts an attestation or a resume.
    pub fn attested(&self, method: &'static str, accepted: bool) {
        let result = if accepted { "ok" } else { "error" };
        self.agent_attestations
            .get_or_create(&Attesting { method, result })
            .inc();
    }

    /// Counts a request that policy refused.
    pub fn denied(&self, action: Action) {
        self.rejected_requests
            .get_or_create(&Refusing {
                action: action.name(),
            })
            .inc();
    }

    /// Notes the end of this server's own SVID.
    pub fn own_svid_until(&self, unix_seconds: i64) {
        self.svid_expiry.set(unix_seconds);
    }

    /// Shows what was read.
    pub fn show(&self, readings: &Readings) {
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.entries.set(number(readings.entries));
        self.attested_agents.set(number(readings.attested_agents));
        self.push_streams.set(number(readings.push_streams));
        self.ca_expiry.clear();
        for (authority, state, end) in readings.authorities.iter().copied() {
            self.ca_expiry
                .get_or_create(&Expiring { authority, state })
                .set(end);
        }
        self.bundle_sequence.set(readings.bundle_sequence);
        self.raft_is_leader.set(i64::from(readings.is_leader));
        self.raft_term.set(readings.term);
        self.raft_applied_index.set(readings.applied_index);
        self.raft_last_log_index.set(readings.last_log_index);
        self.audit_leaves.set(readings.audit_leaves);
        self.audit_checkpoint.set(readings.checkpoint_at);
        self.sealed.set(i64::from(readings.sealed));
        if let ClockState::Good(offset) | ClockState::Skewed(offset) = readings.clock {
            self.clock_offset.set(offset.as_secs_f64());
        }
        self.clock_good.set(i64::from(readings.clock.is_good()));
        let ahead = readings.cluster_time_ahead.as_secs_f64();
        self.cluster_time_ahead.set(ahead);
        self.differing_members
            .set(number(readings.differing_members));
        let before = self.last_leader.swap(readings.leader, Ordering::Relaxed);
        if readings.leader != 0 && readings.leader != before {
            self.raft_leader_changes.inc();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::raft::ClockOffset;

    #[test]
    fn what_is_counted_is_shown() {
        let metrics = Metrics::new();
        metrics.issued("x509", true);
        metrics.issued("x509", false);
        metrics.attested("join_token", true);
        metrics.denied(Action::BanAgent);
        let authorities = vec![("x509", "active", 1_800_000_000)];
        let readings = Readings {
            entries: 7,
            leader: 1,
            authorities,
            clock: ClockState::Skewed(ClockOffset(-7_250)),
            differing_members: 1,
            ..Readings::default()
        };
        metrics.show(&readings);
        metrics.show(&readings);
        let text = metrics.registry().text().unwrap();
        for line in [
            "mintmark_signing_requests_total{kind=\"x509\",result=\"ok\"} 1",
            "mintmark_signing_requests_total{kind=\"x509\",result=\"error\"} 1",
            "mintmark_issued_svids_total{kind=\"x509\",result=\"ok\"} 1",
            "mintmark_agent_attestations_total{method=\"join_token\",result=\"ok\"} 1",
            "mintmark_rejected_requests_total{action=\"agent.BanAgent\"} 1",
            "mintmark_ca_expiry_timestamp_seconds{authority=\"x509\",state=\"active\"} 1800000000",
            "mintmark_entries 7",
            "mintmark_clock_offset_seconds -7.25",
            "mintmark_clock_good 0",
            "mintmark_differing_members 1",
            "mintmark_raft_leader_changes_total 1",
        ] {
            assert!(
                text.lines().any(|shown| shown == line),
                "{line} is not in\n{text}"
            );
        }
    }
}
