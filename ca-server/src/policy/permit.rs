//! The caller of a request, and the proof that it may do what it asks.
//!
//! Always: a caller with an identity comes from a verified X.509-SVID and replicated state, never from
//! anything the request says. A permit is made by `decide` alone, is not `Clone`, and names its actor.
//!
//! Not here: the table of roles (`roles`).

use std::collections::BTreeSet;

use mintmark_identity::clock::Timestamp;
use mintmark_identity::spiffe_id::SpiffeId;
use mintmark_identity::svid::x509::{Serial, VerifiedX509Svid};
use mintmark_proto::mintmark::raft::v1::{Actor, actor::Kind};
use thiserror::Error;

use super::{Action, Role};

/// Why an agent's SVID is not accepted, although it verifies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum AgentDenial {
    /// Its SVID has expired since the connection was made.
    #[error("its SVID expired")]
    Expired,
    /// No such node is attested: it was evicted, or never was.
    #[error("it is not attested, or was evicted")]
    NotAttested,
    /// A newer SVID of the same agent is in use.
    #[error("a newer SVID of this agent is in use")]
    NotActive,
    /// It is banned.
    #[error("it is banned")]
    Banned,
}

/// An attested agent that showed its current SVID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentCaller {
    /// Its SPIFFE ID.
    pub id: SpiffeId,
    /// Serial number of the SVID it showed.
    pub serial: Serial,
    /// When that SVID ends.
    pub not_after: Timestamp,
}

/// What is known of a caller.
#[derive(Debug, Clone)]
pub enum Identity {
    /// Connected to the private Unix socket.
    Local,
    /// Shows nothing.
    Nobody,
    /// Shows an SVID that verified when the connection was made, and does not any more.
    Lapsed(String),
    /// Shows an X.509-SVID that verifies.
    Svid {
        /// Its SPIFFE ID.
        id: SpiffeId,
        /// Whether an entry of this ID is marked `admin`.
        admin: bool,
        /// Whether an entry of this ID is marked `downstream`.
        downstream: bool,
        /// For an agent's ID: whether it is accepted.
        agent: Option<Result<AgentCaller, AgentDenial>>,
    },
}

/// Who asks, and from where.
#[derive(Debug, Clone)]
pub struct Caller {
    identity: Identity,
    source: String,
}

/// What replicated state knows of the SPIFFE ID that a caller shows.
#[derive(Debug, Clone)]
pub struct Standing {
    /// An entry of this ID is marked `admin`.
    pub admin: bool,
    /// An entry of this ID is marked `downstream`.
    pub downstream: bool,
    /// For an agent's ID: whether it is accepted, and with which serial number.
    pub agent: Option<Result<Serial, AgentDenial>>,
}

impl Caller {
    /// A process connected to the private Unix socket.
    #[must_use]
    pub fn local() -> Self {
        Self {
            identity: Identity::Local,
            source: "local".to_owned(),
        }
    }

    /// Somebody without an identity, connected from `source`.
    #[must_use]
    pub fn nobody(source: String) -> Self {
        Self {
            identity: Identity::Nobody,
            source,
        }
    }

    /// Somebody whose SVID no longer verifies.
    #[must_use]
    pub fn lapsed(problem: String, source: String) -> Self {
        Self {
            identity: Identity::Lapsed(problem),
            source,
        }
    }

    /// The holder of a verified SVID.
    #[must_use]
    pub fn verified(svid: &VerifiedX509Svid, standing: Standing, source: String) -> Self {
        let id = svid.spiffe_id.clone();
        let not_after = svid.validity.not_after;
        let agent = standing.agent.map(|accepted| {
            accepted.map(|serial| AgentCaller {
                id: id.clone(),
                serial,
                not_after,
            })
        });
        let Standing {
            admin, downstream, ..
        } = standing;
        Self {
            identity: Identity::Svid {
                id,
                admin,
                downstream,
                agent,
            },
            source,
        }
    }

    /// What is known of the caller.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The roles the caller has.
    #[must_use]
    pub fn roles(&self) -> BTreeSet<Role> {
        let mut roles = BTreeSet::from([Role::Anyone]);
        match &self.identity {
            Identity::Nobody | Identity::Lapsed(_) => {}
            Identity::Local => {
                roles.insert(Role::Local);
            }
            Identity::Svid {
                admin,
                downstream,
                agent,
                ..
            } => {
                roles.extend(admin.then_some(Role::Admin));
                roles.extend(downstream.then_some(Role::Downstream));
                roles.extend(matches!(agent, Some(Ok(_))).then_some(Role::Agent));
            }
        }
        roles
    }

    /// Whom rate limits count together: an identity, or else an address without its port.
    #[must_use]
    pub fn rate_key(&self) -> String {
        match &self.identity {
            Identity::Local => "local".to_owned(),
            Identity::Nobody | Identity::Lapsed(_) => format!("address {}", self.source),
            Identity::Svid { id, .. } => id.to_string(),
        }
    }

    /// Where the caller is connected from.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// As whom the caller acts in this role.
    fn actor(&self, role: Role) -> Actor {
        let (kind, id) = match (role, &self.identity) {
            (Role::Local, _) => (Kind::Local, None),
            (Role::Agent, Identity::Svid { id, .. }) => (Kind::Agent, Some(id)),
            (Role::Admin, Identity::Svid { id, .. }) => (Kind::Admin, Some(id)),
            _ => (Kind::Nobody, None),
        };
        let spiffe_id = id.map(ToString::to_string).unwrap_or_default();
        Actor {
            kind: kind.into(),
            spiffe_id,
            node_id: 0,
        }
    }
}

/// Proof that a caller may do one thing, once.
#[derive(Debug)]
#[must_use = "a permit that is not used permits nothing"]
pub struct Permit {
    action: Action,
    actor: Actor,
    agent: Option<AgentCaller>,
}

impl Permit {
    /// Only `policy::decide` grants.
    pub(super) fn grant(caller: &Caller, action: Action, role: Role) -> Self {
        let agent = match caller.identity() {
            Identity::Svid {
                agent: Some(Ok(agent)),
                ..
            } => Some(agent.clone()),
            _ => None,
        };
        Self {
            action,
            actor: caller.actor(role),
            agent,
        }
    }

    /// What is permitted.
    #[must_use]
    pub fn action(&self) -> Action {
        self.action
    }

    /// Who acts, as commands and audit leaves name it.
    #[must_use]
    pub fn actor(&self) -> &Actor {
        &self.actor
    }

    /// The agent that acts, where one does.
    #[must_use]
    pub fn agent(&self) -> Option<&AgentCaller> {
        self.agent.as_ref()
    }
}
