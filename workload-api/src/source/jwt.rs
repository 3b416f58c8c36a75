//! JWT-SVIDs, and the bundles that verify them.
//!
//! Responsible for: fetching tokens, having the agent validate those of others, and JWT bundles that
//! keep themselves current for whoever must validate without asking.
//! Always holds: a connection that failed is not used again; bundles that the agent no longer sends are
//! gone. Not here: a cache of tokens. The agent has one, and it knows when an identity was taken away.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mintmark_identity::spiffe_id::SpiffeId;
use mintmark_identity::svid::jwt::{Audience, VerifiedJwtSvid};

use super::bundles::JwtBundles;
use super::{Feed, Running, Settings, Watch};
use crate::client::Client;
use crate::client::jwt::{JwtBundlesStream, JwtToken, ValidatedJwt};
use crate::error::{ClientError, SourceError};

/// Tokens of this process, and JWT bundles, always the latest. Clones share it; it ends with the last.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use mintmark_identity::svid::jwt::Audience;
/// use mintmark_workload_api::source::Settings;
/// use mintmark_workload_api::source::jwt::JwtSource;
///
/// let source = JwtSource::start(Settings::resolve(Some("unix:///run/spire/api.sock"))?).await?;
/// let mine = source.fetch(&Audience::new(["payments"])?).await?;
/// let theirs = source.validate("orders", "eyJhbGciOi…").await?;
/// println!("I am {}, they are {}", mine.spiffe_id, theirs.spiffe_id);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct JwtSource(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    bundles: Running<JwtBundles>,
    /// The connection for single calls, once there is one.
    client: Mutex<Option<Client>>,
}

impl JwtSource {
    /// Starts following the agent's JWT bundles, and waits for the first.
    ///
    /// # Errors
    /// [`SourceError::Refused`] when the agent will never answer this, [`SourceError::NotReady`] when it
    /// has not in time.
    pub async fn start(settings: Settings) -> Result<Self, SourceError> {
        let bundles = Running::start(Bundles, settings).await?;
        let client = Mutex::new(None);
        Ok(Self(Arc::new(Inner { bundles, client })))
    }

    /// A token of the default identity for `audience`.
    ///
    /// # Errors
    /// What the agent answers.
    pub async fn fetch(&self, audience: &Audience) -> Result<JwtToken, SourceError> {
        let tokens = self.fetch_all(audience, None).await?;
        tokens.into_iter().next().ok_or(SourceError::Stopped)
    }

    /// A token of the identity with this label.
    ///
    /// # Errors
    /// What the agent answers; [`SourceError::NoSuchHint`] when no identity has the label. The default is
    /// never a stand-in.
    pub async fn fetch_with_hint(
        &self,
        audience: &Audience,
        hint: &str,
    ) -> Result<JwtToken, SourceError> {
        let tokens = self.fetch_all(audience, None).await?;
        tokens
            .into_iter()
            .find(|token| token.hint == hint)
            .ok_or_else(|| SourceError::NoSuchHint(hint.to_owned()))
    }

    /// A token of each identity, or of the one named; the first is of the default identity.
    ///
    /// # Errors
    /// What the agent answers.
    pub async fn fetch_all(
        &self,
        audience: &Audience,
        spiffe_id: Option<&SpiffeId>,
    ) -> Result<Vec<JwtToken>, SourceError> {
        let audience = audience.values();
        let mut client = self.client().await?;
        let answer = client.fetch_jwt(audience, spiffe_id).await;
        Ok(self.settle(answer)?)
    }

    /// Has the agent validate somebody's token for `audience`: the default way, since the agent knows
    /// every rule and every bundle (Workload API, section 6.3).
    ///
    /// # Errors
    /// [`ClientError::Invalid`] when the token is not valid.
    pub async fn validate(&self, audience: &str, token: &str) -> Result<ValidatedJwt, SourceError> {
        let mut client = self.client().await?;
        let answer = client.validate_jwt(audience, token).await;
        Ok(self.settle(answer)?)
    }

    /// Validates somebody's token here, with the bundles that count now and no leeway.
    ///
    /// # Errors
    /// [`SourceError::NotAToken`] with the rule that the token breaks.
    pub fn verify(&self, token: &str, expected: &Audience) -> Result<VerifiedJwtSvid, SourceError> {
        let now = self.0.bundles.settings().now();
        let bundles = self.bundles()?;
        Ok(bundles.verify(token, expected, now, Duration::ZERO)?)
    }

    /// The bundles that count now.
    ///
    /// # Errors
    /// [`SourceError::Withdrawn`] when the agent says that this process is nobody any more.
    pub fn bundles(&self) -> Result<Arc<JwtBundles>, SourceError> {
        self.0.bundles.value()
    }

    /// What happens to the bundles, from now on.
    #[must_use]
    pub fn watch(&self) -> Watch<JwtBundles> {
        self.0.bundles.watch()
    }

    async fn client(&self) -> Result<Client, ClientError> {
        let held = self.held().clone();
        if let Some(client) = held {
            return Ok(client);
        }
        let client = self.0.bundles.settings().connector.connect().await?;
        *self.held() = Some(client.clone());
        Ok(client)
    }

    /// Forgets the connection when the answer says nothing about the question.
    fn settle<T>(&self, answer: Result<T, ClientError>) -> Result<T, ClientError> {
        let spoke = matches!(
            answer,
            Ok(_)
                | Err(ClientError::Invalid(_)
                    | ClientError::NoIdentity(_)
                    | ClientError::Unsupported(_)
                    | ClientError::Malformed { .. })
        );
        if !spoke {
            *self.held() = None;
        }
        answer
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Option<Client>> {
        // A clone and an assignment cannot leave it half done.
        self.0.client.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Bundles;

impl Feed for Bundles {
    type Value = JwtBundles;
    type Stream = JwtBundlesStream;

    async fn open(&self, mut client: Client) -> Result<JwtBundlesStream, ClientError> {
        client.watch_jwt_bundles().await
    }

    async fn next(
        &self,
        stream: &mut JwtBundlesStream,
        settings: &Settings,
    ) -> Result<JwtBundles, ClientError> {
        JwtBundles::new(&stream.next().await?, &settings.limits)
    }
}
