//! Who may do what: the one place that decides it.
//!
//! Always: an API method that reads or changes anything first turns its caller into a [`Permit`] for
//! one [`Action`]; a permit is not `Clone` and is used up by the act. What is not listed is denied.
//!
//! Not here: who the caller is (`api::caller`), and what is true of the subject at the moment of the
//! act, which `apply()` decides.

pub mod permit;
pub mod roles;

use mintmark_identity::spiffe_id::SpiffeId;
use mintmark_proto::mintmark::raft::v1::Refusal;
use thiserror::Error;

use crate::state::refusal_code;

pub use self::permit::{AgentCaller, AgentDenial, Caller, Identity, Permit};
pub use self::roles::{Action, Role};

/// Why a caller may not do something.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Denied {
    /// The caller shows no identity.
    #[error("{} needs an identity: {}", .action.name(), .action.who())]
    Unauthenticated {
        /// What was asked.
        action: Action,
    },
    /// The caller's identity is not one that may do this.
    #[error("{caller} may not call {}: it is for {}", .action.name(), .action.who())]
    Forbidden {
        /// What was asked.
        action: Action,
        /// Who asked.
        caller: String,
    },
    /// The caller's SVID was good when it connected, and is not any more.
    #[error("the SVID that this connection was made with no longer verifies: {problem}")]
    Lapsed {
        /// What was asked.
        action: Action,
        /// Why.
        problem: String,
    },
    /// The method is for agents, and this agent is not accepted.
    #[error("agent {agent} is not accepted")]
    Agent {
        /// Which agent.
        agent: SpiffeId,
        /// Why.
        source: AgentDenial,
    },
}

impl Denied {
    /// Whether an agent that hears this discards its identity.
    #[must_use]
    pub fn costs_an_identity(&self) -> bool {
        matches!(self, Self::Agent { .. } | Self::Lapsed { .. })
    }

    /// The reason as leaves have it: the words of the replicated state, where it has one for it.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unauthenticated { .. } => "unauthenticated",
            Self::Forbidden { .. } => refusal_code(Refusal::NotAuthorized),
            Self::Lapsed { .. } => "svid_lapsed",
            Self::Agent { source, .. } => match source {
                AgentDenial::Expired => "svid_lapsed",
                AgentDenial::NotAttested => refusal_code(Refusal::AgentNotAttested),
                AgentDenial::NotActive => refusal_code(Refusal::AgentSerial),
                AgentDenial::Banned => refusal_code(Refusal::Banned),
            },
        }
    }
}

/// Decides whether `caller` may do `action`.
///
/// # Errors
/// [`Denied`], which says what would be needed.
pub fn decide(caller: &Caller, action: Action) -> Result<Permit, Denied> {
    let roles = caller.roles();
    // The first role that the caller has, in the order of the table, is the one it acts in.
    if let Some(role) = action.roles().iter().find(|role| roles.contains(role)) {
        return Ok(Permit::grant(caller, action, *role));
    }
    Err(match caller.identity() {
        Identity::Nobody => Denied::Unauthenticated { action },
        Identity::Lapsed(problem) => Denied::Lapsed {
            action,
            problem: problem.clone(),
        },
        Identity::Local => Denied::Forbidden {
            action,
            caller: "the local administrator".into(),
        },
        Identity::Svid {
            id,
            agent: Some(Err(denial)),
            ..
        } if action.roles().contains(&Role::Agent) => Denied::Agent {
            agent: id.clone(),
            source: *denial,
        },
        Identity::Svid { id, .. } => Denied::Forbidden {
            action,
            caller: id.to_string(),
        },
    })
}

#[cfg(test)]
mod tests;
