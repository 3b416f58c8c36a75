//! How fresh an answer has to be: the flag `--consistency` of commands that look.
//!
//! Always: a command that looks sees what was acknowledged before it began, whichever server it asks, or
//! fails and names the flag that takes this server's own word. An answer that may be outdated is never
//! given to somebody who did not ask for it.

use ca_server::api::consistency::CONSISTENCY_HEADER;
use ca_server::code;
use clap::{Args, ValueEnum};
use serde::Serialize;
use tonic::Request;
use tonic::metadata::MetadataValue;

use crate::connect::request;
use crate::failure::{Exit, Failure};

/// How fresh an answer has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Consistency {
    /// What this server has applied so far. It answers without a quorum too.
    Local,
    /// Everything that was acknowledged anywhere before the question. It takes a quorum.
    #[default]
    Linearizable,
}

/// The flag.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct Freshness {
    /// How fresh the answer has to be.
    #[arg(long, value_enum, default_value_t)]
    pub consistency: Consistency,
}

impl Consistency {
    fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Linearizable => "linearizable",
        }
    }

    /// Runs one request that has to be answered so freshly.
    ///
    /// # Errors
    /// As [`request`]; where no quorum confirms the answer, with what to do.
    pub async fn request<Q, A, F>(
        self,
        doing: &str,
        message: Q,
        call: impl FnOnce(Request<Q>) -> F,
    ) -> Result<A, Failure>
    where
        F: Future<Output = Result<tonic::Response<A>, tonic::Status>>,
    {
        let mut asked = Request::new(message);
        let value = MetadataValue::from_static(self.as_str());
        asked.metadata_mut().insert(CONSISTENCY_HEADER, value);
        let answer = request(doing, call(asked)).await;
        answer.map_err(|failure| self.advise(failure))
    }

    fn advise(self, failure: Failure) -> Failure {
        let stale = failure.exit() == Exit::Unavailable
            && failure.to_string().contains(&code::STALE.to_string())
            && self == Self::Linearizable;
        if !stale {
            return failure;
        }
        failure.next(
            "no quorum confirms that this server is up to date: ask another one (--server-socket), or \
             take its own word with `--consistency local`",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn out_of_touch() -> Failure {
        let status = tonic::Status::unavailable(format!("{}: lost touch", code::STALE));
        Failure::from_status("list entries", &status)
    }

    #[test]
    fn who_cannot_get_a_fresh_answer_is_told_how_to_get_another() {
        let told = |consistency: Consistency, failure| {
            let told = consistency.advise(failure).to_string();
            told.contains("--consistency local")
        };
        assert!(told(Consistency::Linearizable, out_of_touch()));
        assert!(!told(Consistency::Local, out_of_touch()));
        let other = tonic::Status::unavailable("MM-1310: shutting down");
        let other = Failure::from_status("list entries", &other);
        assert!(!told(Consistency::Linearizable, other));
    }
}
