//! Issuing through the servers: the seam [`Issuer`] over their calls.
//!
//! Always holds: a token is handed on only if its verifiers will accept it and it says what was
//! asked. Not here: which server is asked (`Servers::call`), verifying X.509-SVIDs (`rotation`).

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use mintmark_identity::{
    clock::{Clock, Timestamp},
    svid::jwt::{Audience, UnverifiedJwtSvid, verify_jwt_svid},
};
use mintmark_proto::mintmark::agent::v1::{
    IssueJwtRequest, IssueX509Request, IssueX509Response, issue_x509_request, issue_x509_response,
};
use tonic::{Code, Status};

use super::Servers;
use crate::{
    cache::{Cache, entries::Held},
    issuer::{CsrItem, IssueError, IssuedChain, IssuedToken, Issuer},
};

/// How far clocks of server and agent may be apart before the agent mistrusts a token.
const LEEWAY: Duration = Duration::from_secs(60);

/// Issues through the servers.
#[derive(Clone, Debug)]
pub struct RemoteIssuer {
    /// The servers.
    pub servers: Servers,
    /// The bundles that tokens are verified with.
    pub cache: Cache,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

#[async_trait]
impl Issuer for RemoteIssuer {
    async fn issue_x509(
        &self,
        items: Vec<CsrItem>,
    ) -> Result<Vec<Result<IssuedChain, IssueError>>, IssueError> {
        let items = items.into_iter().map(|item| issue_x509_request::Item {
            entry_id: item.entry_id.to_string(),
            entry_revision: item.entry_revision,
            csr: item.csr,
        });
        let request = IssueX509Request {
            items: items.collect(),
            agent_csr: Vec::new(),
        };
        let response = self.issue(&request).await?;
        Ok(response.items.into_iter().map(item_result).collect())
    }

    async fn issue_jwt(&self, held: &Held, audience: &Audience) -> Result<IssuedToken, IssueError> {
        let request = IssueJwtRequest {
            entry_id: held.entry.id.to_string(),
            entry_revision: held.entry.revision,
            audience: audience.values().to_vec(),
        };
        let response = self.servers.call(|address| {
            let (mut client, request) = (self.servers.agent_client(&address), request.clone());
            async move { client.issue_jwt(request).await }
        });
        let response = response.await?.into_inner();
        let issued_at = Timestamp::from_unix_millis(response.issued_at_ms);
        self.check(response.token, held, audience, issued_at)
    }
}

impl RemoteIssuer {
    async fn issue(&self, request: &IssueX509Request) -> Result<IssueX509Response, Status> {
        let response = self.servers.call(|address| {
            let (mut client, request) = (self.servers.agent_client(&address), request.clone());
            async move { client.issue_x509(request).await }
        });
        Ok(response.await?.into_inner())
    }

    /// Verifies a token as its verifiers will, and compares it with what was asked.
    fn check(
        &self,
        token: String,
        held: &Held,
        audience: &Audience,
        issued_at: Timestamp,
    ) -> Result<IssuedToken, IssueError> {
        let bad = |what: &str| IssueError::misbehaved(&format!("the token issued {what}"));
        let now = self.clock.now();
        let bundles = &self.cache.current().bundles;
        let verified = verify_jwt_svid(&token, audience, bundles, now, LEEWAY)
            .map_err(|error| bad(&format!("does not verify: {error}")))?;
        let content = UnverifiedJwtSvid::parse(&token).map_err(|_| bad("is malformed"))?;
        if verified.spiffe_id != held.entry.spiffe_id {
            return Err(bad("is for another identity"));
        }
        if content.audience != audience.values() {
            return Err(bad("is for another audience"));
        }
        Ok(IssuedToken {
            token,
            authority_id: content.kid,
            issued_at,
            expires_at: verified.expires_at,
        })
    }
}

/// An item's answer as a result.
///
/// # Errors
/// What the server said about the item.
pub fn item_result(item: issue_x509_response::Item) -> Result<IssuedChain, IssueError> {
    match (item.code, item.svid) {
        (0, Some(svid)) => Ok(IssuedChain { chain: svid.chain }),
        (0, None) => Err(IssueError::misbehaved("an issued item holds no SVID")),
        (code, _) => Err(IssueError {
            code: Code::from_i32(code),
            message: item.message,
        }),
    }
}
