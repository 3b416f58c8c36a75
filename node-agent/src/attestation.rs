//! Proving to a server which node this is.
//!
//! Responsible for: the seam [`NodeAttestor`]. Always holds: an attestor sends evidence and a
//! certificate signing request and returns the chain it got, unverified. Not here: keeping the
//! key (`agent_svid`).

use async_trait::async_trait;
use tonic::{Status, transport::Channel};

pub mod join_token;

/// One way to prove which node this is.
#[async_trait]
pub trait NodeAttestor: Send + Sync + std::fmt::Debug {
    /// Attests over this connection and returns the agent's certificates, leaf first.
    ///
    /// # Errors
    /// What the server said.
    async fn attest(&self, channel: Channel, csr: Vec<u8>) -> Result<Vec<Vec<u8>>, Status>;

    /// Tells one piece of evidence from another, without revealing it.
    fn fingerprint(&self) -> String;
}
