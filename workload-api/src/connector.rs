//! How a source comes by a connection to the agent.
//!
//! Responsible for: the seam [`Connector`], behind which a simulator or a test puts its own transport;
//! an [`Endpoint`] is the ordinary one. Always holds: each call makes a connection of its own, so what
//! broke is never used again. Not here: when to connect.

use std::fmt;
use std::pin::Pin;

use crate::client::Client;
use crate::endpoint::Endpoint;
use crate::error::ClientError;

/// A connection under way.
pub type Connecting<'a> = Pin<Box<dyn Future<Output = Result<Client, ClientError>> + Send + 'a>>;

/// Makes connections to one agent.
pub trait Connector: Send + Sync + fmt::Debug {
    /// Connects anew.
    fn connect(&self) -> Connecting<'_>;
}

impl Connector for Endpoint {
    fn connect(&self) -> Connecting<'_> {
        Box::pin(Client::connect(self))
    }
}
