//! Whom an SVID is for: resolved from replicated state, never from the request.
//!
//! Always: a request names an entry, an agent or a server by its key in the state; name, lifetime and
//! DNS names are read there, at one revision, which the intent carries. Only an administrator's mint
//! names its SPIFFE ID itself, and its intent says so.
//!
//! Not here: whether the subject may have an SVID, which `apply()` decides.

use std::time::Duration;

use mintmark_identity::clock::Timestamp;
use mintmark_identity::entry::{EntryId, RegistrationEntry};
use mintmark_identity::spiffe_id::SpiffeId;
use mintmark_identity::svid::x509::Serial;
use mintmark_identity::validity::{TtlPolicy, Validity};
use mintmark_proto::mintmark::raft::v1::intent;
use mintmark_proto::mintmark::state::v1::Settings;

use super::IssueError;
use crate::state::State;

/// What a request names.
#[derive(Debug, Clone)]
pub enum Subject {
    /// A registration entry, asked for by an agent.
    Entry {
        /// The entry.
        id: EntryId,
        /// The revision that the agent has seen, where its protocol says.
        revision: Option<u64>,
        /// Who asks.
        agent: SpiffeId,
    },
    /// The agent itself.
    Agent {
        /// Its SPIFFE ID.
        id: SpiffeId,
        /// Serial number of the SVID it came with; `None` at attestation and resume.
        presented: Option<Serial>,
    },
    /// This server's API identity.
    Server {
        /// Its node id.
        node_id: u64,
    },
    /// Whatever an administrator says.
    Mint {
        /// The identity.
        spiffe_id: SpiffeId,
        /// The lifetime, where it is not the default.
        ttl: Option<Duration>,
        /// DNS names.
        dns_names: Vec<String>,
    },
}

/// Which lifetime applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A certificate.
    X509,
    /// A token.
    Jwt,
}

/// A subject with everything that an SVID says of it.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The identity.
    pub spiffe_id: SpiffeId,
    /// From when until when, before the authority's own end is considered.
    pub validity: Validity,
    /// DNS names of the certificate.
    pub dns_names: Vec<String>,
    /// As the intent names it.
    pub subject: intent::Subject,
    /// Who asks, for entries.
    pub requesting_agent: String,
    /// Whether a token carries a `jti`.
    pub include_jti: bool,
    /// `hint` of the entry.
    pub hint: String,
}

impl Subject {
    /// Looks the subject up.
    ///
    /// # Errors
    /// When it is not there.
    pub fn resolve(
        &self,
        state: &State,
        form: Form,
        now: Timestamp,
    ) -> Result<Resolved, IssueError> {
        let policy = ttl_policy(state.settings().ok_or(IssueError::NotReady)?);
        let ttl_for = |wish: Option<Duration>| match form {
            Form::X509 => policy.x509_svid_for(wish),
            Form::Jwt => policy.jwt_svid_for(wish),
        };
        match self {
            Self::Entry {
                id,
                revision,
                agent,
            } => {
                let entry = state
                    .entry(id)
                    .ok_or_else(|| IssueError::NoEntry(id.clone()))?;
                if revision.is_some_and(|seen| seen > entry.revision) {
                    return Err(IssueError::Behind);
                }
                let wish = match form {
                    Form::X509 => entry.x509_svid_ttl,
                    Form::Jwt => entry.jwt_svid_ttl,
                };
                let validity = Validity::issued_at(now, ttl_for(wish));
                Ok(Resolved::of_entry(entry, agent, validity, now))
            }
            Self::Agent { id, presented } => {
                let presented_serial = presented.map(|s| s.as_bytes().to_vec());
                let subject = intent::AgentSubject {
                    agent_id: id.to_string(),
                    presented_serial: presented_serial.unwrap_or_default(),
                };
                let validity = Validity::issued_at(now, policy.agent_svid);
                Ok(Resolved::new(
                    id.clone(),
                    validity,
                    intent::Subject::Agent(subject),
                ))
            }
            Self::Server { node_id } => {
                let id = SpiffeId::server_id(state.trust_domain().ok_or(IssueError::NotReady)?);
                let validity = Validity::issued_at(now, policy.x509_svid);
                let subject = intent::ServerSubject { node_id: *node_id };
                Ok(Resolved::new(
                    id,
                    validity,
                    intent::Subject::Server(subject),
                ))
            }
            Self::Mint {
                spiffe_id,
                ttl,
                dns_names,
            } => {
                let subject = intent::Subject::AdminMint(intent::AdminMint {});
                let validity = Validity::issued_at(now, ttl_for(*ttl));
                let mut resolved = Resolved::new(spiffe_id.clone(), validity, subject);
                resolved.dns_names.clone_from(dns_names);
                Ok(resolved)
            }
        }
    }
}

impl Resolved {
    /// What stands in an entry; an SVID does not outlive it.
    fn of_entry(
        entry: &RegistrationEntry,
        agent: &SpiffeId,
        validity: Validity,
        now: Timestamp,
    ) -> Self {
        // An entry that has ended is refused by `apply()`, which leaves a leaf.
        let end = entry.expires_at.filter(|end| now < *end);
        let validity = end.map_or(validity, |end| validity.ending_by(end.floor_to_second()));
        let subject = intent::EntrySubject {
            id: entry.id.to_string(),
            revision: entry.revision,
        };
        let subject = intent::Subject::Entry(subject);
        Self {
            dns_names: entry.dns_names.clone(),
            requesting_agent: agent.to_string(),
            include_jti: entry.jwt_svid_include_jti,
            hint: entry.hint.clone(),
            ..Self::new(entry.spiffe_id.clone(), validity, subject)
        }
    }

    fn new(spiffe_id: SpiffeId, validity: Validity, subject: intent::Subject) -> Self {
        Self {
            spiffe_id,
            validity,
            dns_names: Vec::new(),
            subject,
            requesting_agent: String::new(),
            include_jti: false,
            hint: String::new(),
        }
    }
}

/// The lifetimes that the cluster's settings give.
#[must_use]
pub fn ttl_policy(settings: &Settings) -> TtlPolicy {
    TtlPolicy {
        ca: Duration::from_secs(settings.ca_ttl_seconds),
        x509_svid: Duration::from_secs(settings.x509_svid_ttl_seconds),
        jwt_svid: Duration::from_secs(settings.jwt_svid_ttl_seconds),
        agent_svid: Duration::from_secs(settings.agent_svid_ttl_seconds),
    }
}
