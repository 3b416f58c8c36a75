//! The cluster itself and its settings.
//!
//! Responsible for: the one command that makes a cluster, and changes of its
//! settings.
//! Always holds: a cluster is initialised once; its lifetimes fit into each
//! other.
//! Not here: what follows from settings elsewhere (authorities, bundle).

use std::time::Duration;

use mintmark_identity::clock::Timestamp;
use mintmark_identity::trust_domain::TrustDomain;
use mintmark_identity::validity::{TtlPolicy, TtlRequest};
use mintmark_proto::mintmark::audit::v1::Leaf;
use mintmark_proto::mintmark::raft::v1::{
    ChangeSettings, CommandResult, InitializeCluster, Refusal,
};
use mintmark_proto::mintmark::state::v1::{LogKey, PqMode, Settings, TrustDomainKey};
use mintmark_tlog::note::NoteVerifier;

use super::State;
use super::authorities::Authorities;
use super::bundles::OwnBundle;
use super::event::Event;
use super::servers::first_server;
use super::turn::{Decided, Refused, Turn, digest};

/// Longest issuer of tokens: a URL.
const ISSUER_MAX: usize = 2_048;

/// Epochs fit above the counter of a bundle sequence.
const EPOCH_MAX: u64 = (1 << 23) - 1;

/// Longest certificate of the trust-domain key.
const CERTIFICATE_MAX: usize = 32 * 1024;

/// What a cluster is.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Cluster {
    pub(super) trust_domain: TrustDomain,
    pub(super) cluster_id: [u8; 16],
    pub(super) epoch: u64,
    pub(super) settings: Settings,
    pub(super) ttls: TtlPolicy,
    pub(super) trust_domain_key: TrustDomainKey,
    pub(super) log_key: LogKey,
    pub(super) log_verifier: NoteVerifier,
    pub(super) bundle: OwnBundle,
}

impl State {
    pub(super) fn initialize_cluster(
        &mut self,
        turn: &mut Turn<'_>,
        body: &InitializeCluster,
    ) -> Decided<CommandResult> {
        if self.cluster.is_some() {
            return Err(Refused::new(
                Refusal::AlreadyExists,
                "the cluster exists already",
            ));
        }
        let cluster = new_cluster(body)?;
        let server = first_server(body.first_server.as_ref(), turn.now)?;
        for record in &body.vault_records {
            self.check_vault_record(record)?;
        }
        for key in &body.wrapped_data_keys {
            super::vault::check_wrapped(key)?;
            if key.node_id != server.node_id {
                return Err(Refused::invalid(
                    "a data key is wrapped for an unknown server",
                ));
            }
        }
        let subject = cluster.trust_domain.as_str().to_owned();
        self.cluster = Some(cluster);
        self.servers.reserve(server.node_id);
        self.servers.by_id.insert(server.node_id, server);
        for record in &body.vault_records {
            self.vault.put_record(record.clone());
        }
        for key in &body.wrapped_data_keys {
            self.vault.put_wrapped(key.clone());
        }
        self.append_leaf(turn, plain_leaf(turn, "cluster.initialize", subject));
        turn.emit(Event::Initialized);
        Ok(CommandResult::default())
    }

    pub(super) fn change_settings(
        &mut self,
        turn: &mut Turn<'_>,
        body: &ChangeSettings,
    ) -> Decided<CommandResult> {
        let mut settings = body.settings.clone().unwrap_or_default();
        let revision = self.settings_or_refuse()?.revision;
        if body.expected_revision != 0 && body.expected_revision != revision {
            let detail = format!(
                "the settings are at revision {revision}, not {}",
                body.expected_revision
            );
            return Err(Refused::new(Refusal::Stale, detail));
        }
        let ttls = check_settings(&settings)?;
        settings.revision = revision.saturating_add(1);
        let subject = format!("settings/{}", settings.revision);
        if let Some(cluster) = &mut self.cluster {
            cluster.settings = settings;
            cluster.ttls = ttls;
        }
        self.refresh_bundle(turn);
        self.append_leaf(turn, plain_leaf(turn, "settings.change", subject));
        turn.emit(Event::SettingsChanged);
        Ok(CommandResult::default())
    }

    pub(super) fn trust_domain_or_refuse(&self) -> Decided<&TrustDomain> {
        self.trust_domain().ok_or_else(not_initialized)
    }

    pub(super) fn settings_or_refuse(&self) -> Decided<&Settings> {
        self.settings().ok_or_else(not_initialized)
    }

    pub(super) fn ttl_policy_or_refuse(&self) -> Decided<&TtlPolicy> {
        self.ttl_policy().ok_or_else(not_initialized)
    }
}

pub(super) fn not_initialized() -> Refused {
    Refused::new(Refusal::NotInitialized, "the cluster is not initialised")
}

fn new_cluster(body: &InitializeCluster) -> Decided<Cluster> {
    let trust_domain = TrustDomain::parse(&body.trust_domain)
        .map_err(|error| Refused::invalid(error.to_string()))?;
    let Ok(cluster_id) = <[u8; 16]>::try_from(&*body.cluster_id) else {
        return Err(Refused::invalid("cluster_id must have 16 bytes"));
    };
    if body.epoch == 0 || body.epoch > EPOCH_MAX {
        return Err(Refused::invalid("the epoch is 0 or too large"));
    }
    let mut settings = body.settings.clone().unwrap_or_default();
    let ttls = check_settings(&settings)?;
    settings.revision = 1;
    let trust_domain_key = body.trust_domain_key.clone().unwrap_or_default();
    digest(
        "trust_domain_key.spki_sha256",
        &trust_domain_key.spki_sha256,
    )?;
    let length = trust_domain_key.certificate.len();
    if length == 0 || length > CERTIFICATE_MAX {
        return Err(Refused::invalid(
            "the trust-domain key has no certificate, or too long a one",
        ));
    }
    let log_key = body.log_key.clone().unwrap_or_default();
    let log_verifier = check_log_key(&log_key, &trust_domain)?;
    let bundle = OwnBundle::of(
        &trust_domain,
        &Authorities::default(),
        &settings,
        body.epoch,
        0,
    );
    Ok(Cluster {
        trust_domain,
        cluster_id,
        epoch: body.epoch,
        settings,
        ttls,
        trust_domain_key,
        log_key,
        log_verifier,
        bundle,
    })
}

/// The log's origin names the trust domain, and its key is named by the origin.
pub(super) fn check_log_key(key: &LogKey, trust_domain: &TrustDomain) -> Decided<NoteVerifier> {
    let public_key = digest("log_key.public_key", &key.public_key)?;
    if !key.origin.starts_with(&format!("{trust_domain}/audit/")) {
        return Err(Refused::invalid(
            "the log's origin is not <trust domain>/audit/<epoch>",
        ));
    }
    NoteVerifier::new(&key.origin, public_key).map_err(|error| Refused::invalid(error.to_string()))
}

/// Settings come complete: a default that a later version changes must not
/// split replicas.
pub(super) fn check_settings(settings: &Settings) -> Decided<TtlPolicy> {
    let ttl = |name: &str, seconds: u64| match seconds {
        0 => Err(Refused::invalid(format!("{name} is not set"))),
        _ => Ok(Some(Duration::from_secs(seconds))),
    };
    let request = TtlRequest {
        ca: ttl("ca_ttl_seconds", settings.ca_ttl_seconds)?,
        x509_svid: ttl("x509_svid_ttl_seconds", settings.x509_svid_ttl_seconds)?,
        jwt_svid: ttl("jwt_svid_ttl_seconds", settings.jwt_svid_ttl_seconds)?,
        agent_svid: ttl("agent_svid_ttl_seconds", settings.agent_svid_ttl_seconds)?,
        upstream: None,
    };
    if PqMode::try_from(settings.pq).is_err() {
        return Err(Refused::invalid("the post-quantum mode is unknown"));
    }
    let issuer = &settings.jwt_issuer;
    if issuer.len() > ISSUER_MAX || issuer.contains(char::is_control) {
        return Err(Refused::invalid(
            "the issuer of tokens is too long or not text",
        ));
    }
    TtlPolicy::resolve(request).map_err(|error| Refused::invalid(error.to_string()))
}

/// A leaf of a command that has nothing but a subject.
pub(super) fn plain_leaf(turn: &Turn<'_>, action: &str, subject: String) -> Leaf {
    Leaf {
        action: action.to_owned(),
        subject,
        request_sha256: turn.request_sha256.to_vec(),
        ..Leaf::default()
    }
}

/// Reads about the cluster itself. Each is `None` before initialisation.
impl State {
    /// The trust domain.
    #[must_use]
    pub fn trust_domain(&self) -> Option<&TrustDomain> {
        self.cluster.as_ref().map(|cluster| &cluster.trust_domain)
    }

    /// The cluster's id, drawn when it was made.
    #[must_use]
    pub fn cluster_id(&self) -> Option<[u8; 16]> {
        self.cluster.as_ref().map(|cluster| cluster.cluster_id)
    }

    /// The settings.
    #[must_use]
    pub fn settings(&self) -> Option<&Settings> {
        self.cluster.as_ref().map(|cluster| &cluster.settings)
    }

    /// The lifetimes that follow from the settings.
    #[must_use]
    pub fn ttl_policy(&self) -> Option<&TtlPolicy> {
        self.cluster.as_ref().map(|cluster| &cluster.ttls)
    }

    /// The trust-domain key.
    #[must_use]
    pub fn trust_domain_key(&self) -> Option<&TrustDomainKey> {
        self.cluster
            .as_ref()
            .map(|cluster| &cluster.trust_domain_key)
    }

    /// The key of the audit log, and the log's origin.
    #[must_use]
    pub fn log_key(&self) -> Option<&LogKey> {
        self.cluster.as_ref().map(|cluster| &cluster.log_key)
    }

    /// What verifies checkpoints of the audit log.
    #[must_use]
    pub fn log_verifier(&self) -> Option<&NoteVerifier> {
        self.cluster.as_ref().map(|cluster| &cluster.log_verifier)
    }

    /// The epoch; 0 before initialisation.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.cluster.as_ref().map_or(0, |cluster| cluster.epoch)
    }

    /// The greatest command time seen.
    #[must_use]
    pub fn command_time(&self) -> Timestamp {
        self.now
    }
}
