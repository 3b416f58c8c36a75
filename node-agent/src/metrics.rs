//! The agent's numbers, with their names.
//!
//! Responsible for: every metric of this crate. Always holds: names stand here only; none of
//! them has a label that a workload could choose. Not here: serving them.

use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};

/// What the names of all metrics begin with.
pub const PREFIX: &str = "mintmark_agent";

/// What the agent counts.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// Entries that this agent may serve.
    pub entries: Gauge,
    /// X.509-SVIDs in the cache.
    pub x509_svids: Gauge,
    /// JWT-SVIDs in the cache.
    pub jwt_svids: Gauge,
    /// Streams that workloads have open.
    pub streams: Gauge,
    /// Whether the stream to a server is open.
    pub connected: Gauge,
    /// When the agent's own SVID ends, in seconds since 1970.
    pub agent_svid_expiry: Gauge,
    /// When the next workload SVID ends, in seconds since 1970; 0 without any.
    pub next_svid_expiry: Gauge,
    /// When the last update came, in seconds since 1970.
    pub last_update: Gauge,
    /// Messages sent to streams.
    pub pushes: Counter,
    /// X.509-SVIDs received from servers.
    pub issued: Counter,
    /// Requests for X.509-SVIDs that failed.
    pub issue_failures: Counter,
    /// Callers that could not be attested.
    pub attestations_failed: Counter,
    /// Callers without an identity.
    pub denied: Counter,
    /// Updates that were refused.
    pub updates_refused: Counter,
    /// Times the agent turned to another server.
    pub failovers: Counter,
    /// Times a server was asked because another had not answered yet.
    pub asked_too: Counter,
    /// Secrets that Envoy refused.
    pub sds_nacks: Counter,
}

impl Metrics {
    /// Registers everything.
    pub fn register(&self, agent: &mut Registry) {
        for (name, help, gauge) in [
            (
                "entries",
                "Entries that this agent may serve",
                &self.entries,
            ),
            ("x509_svids", "X.509-SVIDs in the cache", &self.x509_svids),
            ("jwt_svids", "JWT-SVIDs in the cache", &self.jwt_svids),
            ("streams", "Streams that workloads have open", &self.streams),
            (
                "connected",
                "Whether the stream to a server is open",
                &self.connected,
            ),
            (
                "svid_expiry_timestamp_seconds",
                "When the agent's own SVID ends",
                &self.agent_svid_expiry,
            ),
            (
                "next_workload_svid_expiry_timestamp_seconds",
                "When the next workload SVID ends",
                &self.next_svid_expiry,
            ),
            (
                "last_update_timestamp_seconds",
                "When the last update came",
                &self.last_update,
            ),
        ] {
            agent.register(name, help, gauge.clone());
        }
        for (name, help, counter) in [
            ("pushes", "Messages sent to streams", &self.pushes),
            ("issued", "X.509-SVIDs received from servers", &self.issued),
            (
                "issue_failures",
                "Requests for X.509-SVIDs that failed",
                &self.issue_failures,
            ),
            (
                "attestations_failed",
                "Callers not attested",
                &self.attestations_failed,
            ),
            ("denied", "Callers without an identity", &self.denied),
            (
                "updates_refused",
                "Updates that were refused",
                &self.updates_refused,
            ),
            (
                "failovers",
                "Times the agent turned to another server",
                &self.failovers,
            ),
            (
                "asked_too",
                "Times a server was asked because another had not answered yet",
                &self.asked_too,
            ),
            ("sds_nacks", "Secrets that Envoy refused", &self.sds_nacks),
        ] {
            agent.register(name, help, counter.clone());
        }
    }
}
