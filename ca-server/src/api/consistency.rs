//! How fresh an answer has to be.
//!
//! Always: a reader that asks for a linearizable answer gets one that has everything which was
//! acknowledged to anybody before the question, or an error; everybody else is answered from what this
//! server has applied, as SPIRE's clients expect.
//!
//! Not here: answers that authorise, which are decided in the log.

use mintmark_runtime::mutation::{self, Bug};
use tonic::Request;

use super::Shared;
use super::status::ApiError;

/// Metadata that says how fresh an answer has to be: `local`, which is the default, or `linearizable`.
pub const CONSISTENCY_HEADER: &str = "mintmark-consistency";

impl Shared {
    /// Waits until this server may answer this request.
    ///
    /// # Errors
    /// When the answer has to be fresh and no quorum confirms that it is, or the metadata says neither.
    pub async fn fresh_enough<T: Sync>(&self, request: &Request<T>) -> Result<(), ApiError> {
        match request.metadata().get(CONSISTENCY_HEADER) {
            None => Ok(()),
            Some(value) if value == "local" => Ok(()),
            Some(value) if value == "linearizable" && mutation::is(Bug::StaleRead) => Ok(()),
            Some(value) if value == "linearizable" => {
                let read = self.consensus.read_index().await;
                read.map_err(|_| ApiError::Stale)
            }
            Some(_) => Err(ApiError::invalid(
                CONSISTENCY_HEADER,
                "is neither local nor linearizable",
            )),
        }
    }
}
