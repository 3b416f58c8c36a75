//! Consensus: one log, replicated, and the state that it yields.
//!
//! Responsible for: everything between a proposed command and its local application.
//! Always holds: openraft and its types stay in here. Not here: what commands do
//! (`crate::state`).

mod auth;
mod backfill;
mod batch;
mod clocks;
mod compare;
mod config;
mod consensus;
// Public for the fuzzer and its seeds alone.
#[doc(hidden)]
pub mod convert;
mod log_store;
mod machine;
mod marks;
mod membership;
mod network;
mod open;
mod peers;
mod propose;
mod quorum;
mod read_index;
mod replicated_state;
mod runtime;
mod service;
mod session;
mod snapshot;
mod status;
mod type_config;
mod waiters;

pub use self::auth::PeerAuth;
pub use self::clocks::{ClockOffset, ClockState, SKEW_MAX};
pub use self::config::{ClusterId, RaftConfig, RaftTiming};
pub use self::consensus::{BootstrapError, Consensus, RaftFault, StaleError};
pub use self::machine::MachineError;
pub use self::marks::{Divergence, Mark};
pub use self::membership::MembershipError;
pub use self::open::{OpenError, folder_owner};
pub use self::propose::{COMMAND_LEN_MAX, ProposeError, Proposed};
pub use self::replicated_state::{Applied, ReplicatedState};
pub use self::status::{RaftStatus, Role};
pub use self::type_config::NodeId;

#[cfg(test)]
mod tests;
