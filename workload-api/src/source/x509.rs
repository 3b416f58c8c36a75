//! X.509-SVIDs that rotate by themselves.
//!
//! Responsible for: checking each update of the agent as a relying party would, holding the last good
//! one, and handing it to whoever asks, TLS configurations included.
//! Always holds: of an identity that is handed out, the agent's word, the certificate and the key agree,
//! it is valid now, and it chained to its own bundle when it came; identities and bundles that the agent
//! no longer sends are gone (Workload API, section 4.4).
//! Not here: reconnecting ([`source`](super)).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mintmark_identity::bundle::BundleSet;
use mintmark_identity::clock::Timestamp;
use mintmark_identity::svid::x509::verify::{Usage, VerifiedX509Svid};
use mintmark_identity::svid::x509::x509_svid::X509Svid;
use mintmark_identity::tls;
use mintmark_identity::trust_domain::TrustDomain;
use rustls_pki_types::CertificateDer;

use super::bundles::X509Bundles;
use super::{Feed, Running, Settings, Watch};
use crate::client::x509::{X509Identity, X509Stream, X509Update};
use crate::client::{Client, X509Authorities};
use crate::error::{ClientError, SourceError};
use crate::limits::Limits;

/// One identity of this process, checked.
#[derive(Debug, Clone)]
pub struct HeldIdentity {
    /// The SVID with its key.
    pub svid: Arc<X509Svid>,
    /// The operator's label; it tells identities apart and has no security meaning.
    pub hint: String,
}

impl PartialEq for HeldIdentity {
    fn eq(&self, other: &Self) -> bool {
        self.hint == other.hint
            && self.svid.chain() == other.svid.chain()
            && self
                .svid
                .private_key()
                .ct_eq(other.svid.private_key().expose())
    }
}

/// Everything that the agent says about this process, checked; one value replaces the other as a whole.
#[derive(Debug, Clone, PartialEq)]
pub struct X509Context {
    identities: Vec<HeldIdentity>,
    bundles: X509Bundles,
}

impl X509Context {
    /// Checks an update.
    ///
    /// # Errors
    /// [`ClientError::Malformed`] naming the first thing wrong with it.
    pub fn check(update: X509Update, limits: &Limits, now: Timestamp) -> Result<Self, ClientError> {
        limits.check_identities(update.identities.len())?;
        let mut authorities = update.federated;
        let mut own = BTreeSet::new();
        for identity in &update.identities {
            let domain = identity.spiffe_id.trust_domain();
            if own.insert(domain.clone()) {
                authorities.insert(domain.clone(), identity.bundle.clone());
            } else if authorities.get(domain) != Some(&identity.bundle) {
                return Err(ClientError::malformed(
                    "bundle",
                    format!("two for {domain}"),
                ));
            }
        }
        let bundles = X509Bundles::new(&authorities, limits)?;
        let identities: Result<Vec<HeldIdentity>, ClientError> = update
            .identities
            .into_iter()
            .map(|identity| checked(identity, &bundles, now))
            .collect();
        Ok(Self {
            identities: identities?,
            bundles,
        })
    }

    /// All identities in the agent's order; there is at least one, and the first is the default.
    #[must_use]
    pub fn identities(&self) -> &[HeldIdentity] {
        &self.identities
    }

    /// The default identity (Workload API, section 8).
    #[must_use]
    pub fn default_identity(&self) -> Option<&HeldIdentity> {
        self.identities.first()
    }

    /// The identity with this label. No match is no identity: the default is never a stand-in.
    #[must_use]
    pub fn identity_with_hint(&self, hint: &str) -> Option<&HeldIdentity> {
        self.identities
            .iter()
            .find(|identity| identity.hint == hint)
    }

    /// The same as an agent would send it, for who writes it down.
    #[must_use]
    pub fn to_update(&self) -> X509Update {
        let mut federated: BTreeMap<TrustDomain, X509Authorities> = self
            .bundles
            .as_set()
            .iter()
            .map(|bundle| {
                let der = bundle.x509.iter().map(|anchor| anchor.certificate.clone());
                (bundle.trust_domain.clone(), der.collect())
            })
            .collect();
        let bundles = federated.clone();
        let identities = self.identities.iter().map(|identity| {
            let spiffe_id = identity.svid.spiffe_id();
            let domain = spiffe_id.trust_domain();
            federated.remove(domain);
            X509Identity {
                spiffe_id: spiffe_id.clone(),
                chain: identity
                    .svid
                    .chain()
                    .iter()
                    .map(|der| der.to_vec())
                    .collect(),
                private_key: identity.svid.private_key().clone(),
                bundle: bundles.get(domain).cloned().unwrap_or_default(),
                hint: identity.hint.clone(),
            }
        });
        let identities = identities.collect();
        X509Update {
            identities,
            federated,
        }
    }

    /// The bundles: of the own trust domain, and of those federated with.
    #[must_use]
    pub const fn bundles(&self) -> &X509Bundles {
        &self.bundles
    }
}

fn checked(
    identity: X509Identity,
    bundles: &X509Bundles,
    now: Timestamp,
) -> Result<HeldIdentity, ClientError> {
    let wrong =
        |error: &dyn std::fmt::Display| ClientError::malformed("x509_svid", error.to_string());
    let chain: Vec<CertificateDer<'static>> = identity
        .chain
        .into_iter()
        .map(CertificateDer::from)
        .collect();
    let svid = X509Svid::new(chain, identity.private_key).map_err(|error| wrong(&error))?;
    if *svid.spiffe_id() != identity.spiffe_id {
        return Err(ClientError::malformed(
            "spiffe_id",
            "is not the one in the certificate",
        ));
    }
    bundles
        .verify(svid.chain(), now, Usage::Either)
        .map_err(|error| wrong(&error))?;
    Ok(HeldIdentity {
        svid: Arc::new(svid),
        hint: identity.hint,
    })
}

/// X.509-SVIDs and bundles of this process, always the latest. Clones share it; it ends with the last.
///
/// It is a [`SvidSource`](tls::SvidSource) and a [`BundleSource`](tls::BundleSource), so a TLS
/// configuration made of it presents the latest SVID and believes the latest bundles in each handshake.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use mintmark_workload_api::source::Settings;
/// use mintmark_workload_api::source::x509::X509Source;
///
/// let source = X509Source::start(Settings::resolve(None)?).await?;
/// println!("I am {}", source.svid()?.spiffe_id());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct X509Source(Arc<Running<X509Context>>);

impl X509Source {
    /// Starts following the agent, and waits for the first SVIDs.
    ///
    /// # Errors
    /// [`SourceError::Refused`] when the agent will never answer this, [`SourceError::NotReady`] when it
    /// has not in time.
    pub async fn start(settings: Settings) -> Result<Self, SourceError> {
        Ok(Self(Arc::new(Running::start(Svids, settings).await?)))
    }

    /// Starts following the agent and does not wait: for who [watches](Self::watch) what happens from the
    /// first connection on.
    #[must_use]
    pub fn spawn(settings: Settings) -> Self {
        Self(Arc::new(Running::spawn(Svids, settings)))
    }

    /// The default identity.
    ///
    /// # Errors
    /// [`SourceError::Withdrawn`] when the agent says that this process is nobody any more,
    /// [`SourceError::Expired`] when no newer one came in time.
    pub fn svid(&self) -> Result<Arc<X509Svid>, SourceError> {
        let context = self.context()?;
        let identity = context.default_identity().ok_or(SourceError::Stopped)?;
        self.current(identity)
    }

    /// The identity with this label.
    ///
    /// # Errors
    /// As for [`Self::svid`]; [`SourceError::NoSuchHint`] when no identity has the label.
    pub fn svid_with_hint(&self, hint: &str) -> Result<Arc<X509Svid>, SourceError> {
        let context = self.context()?;
        let identity = context.identity_with_hint(hint);
        self.current(identity.ok_or_else(|| SourceError::NoSuchHint(hint.to_owned()))?)
    }

    fn current(&self, identity: &HeldIdentity) -> Result<Arc<X509Svid>, SourceError> {
        let not_after = identity.svid.validity().not_after;
        if not_after < self.0.settings().now() {
            return Err(SourceError::Expired { not_after });
        }
        Ok(Arc::clone(&identity.svid))
    }

    /// Everything that counts now.
    ///
    /// # Errors
    /// [`SourceError::Withdrawn`] when the agent says that this process is nobody any more.
    pub fn context(&self) -> Result<Arc<X509Context>, SourceError> {
        self.0.value()
    }

    /// Verifies somebody else's chain, leaf first, with the bundles that count now.
    ///
    /// # Errors
    /// [`SourceError::NotAnSvid`] with the rule that the chain breaks.
    pub fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        usage: Usage,
    ) -> Result<VerifiedX509Svid, SourceError> {
        let now = self.0.settings().now();
        let context = self.context()?;
        Ok(context.bundles().verify(chain, now, usage)?)
    }

    /// Why what is held may be out of date; `None` while all is well.
    #[must_use]
    pub fn problem(&self) -> Option<Arc<ClientError>> {
        self.0.problem()
    }

    /// What happens, from now on.
    ///
    /// ```no_run
    /// # async fn example(source: mintmark_workload_api::source::x509::X509Source) {
    /// use mintmark_workload_api::source::Event;
    ///
    /// let mut events = source.watch();
    /// while let Some(event) = events.next().await {
    ///     match event {
    ///         Event::Value(context) => println!("{} identities", context.identities().len()),
    ///         Event::Withdrawn(why) => println!("no identity any more: {why}"),
    ///         Event::Trouble(why) => println!("keeping what there is: {why}"),
    ///         _ => {}
    ///     }
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn watch(&self) -> Watch<X509Context> {
        self.0.watch()
    }
}

impl tls::SvidSource for X509Source {
    fn svid(&self) -> Option<Arc<X509Svid>> {
        Self::svid(self).ok()
    }
}

impl tls::BundleSource for X509Source {
    fn bundles(&self) -> Arc<BundleSet> {
        self.context()
            .map(|context| Arc::clone(context.bundles().as_set()))
            .unwrap_or_default()
    }
}

struct Svids;

impl Feed for Svids {
    type Value = X509Context;
    type Stream = X509Stream;

    async fn open(&self, mut client: Client) -> Result<X509Stream, ClientError> {
        client.watch_x509().await
    }

    async fn next(
        &self,
        stream: &mut X509Stream,
        settings: &Settings,
    ) -> Result<X509Context, ClientError> {
        let update = stream.next().await?;
        X509Context::check(update, &settings.limits, settings.now())
    }
}
