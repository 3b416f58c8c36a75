//! Bundles that know what they are for.
//!
//! Responsible for: [`X509Bundles`] and [`JwtBundles`], and [`BundleSource`], which keeps the former
//! current for verifiers that have no identity of their own.
//! Always holds: X.509 authorities verify X.509-SVIDs and nothing else, JWT keys verify JWT-SVIDs and
//! nothing else (Workload API, sections 5.2.1, 5.2.2 and 6.2.2); the two are different types, so one
//! cannot be passed for the other. An authority that cannot be used is left out.
//! Not here: the stream of JWT bundles, which [`JwtSource`](super::jwt::JwtSource) follows.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mintmark_identity::bundle::{Bundle, BundleSet, X509Anchor};
use mintmark_identity::clock::Timestamp;
use mintmark_identity::svid::jwt::{Audience, JwtSvidError, VerifiedJwtSvid, verify_jwt_svid};
use mintmark_identity::svid::x509::verify::{
    Usage, VerifiedX509Svid, X509SvidError, verify_x509_svid,
};
use mintmark_identity::tls;
use mintmark_identity::trust_domain::TrustDomain;
use rustls_pki_types::CertificateDer;

use super::{Feed, Running, Settings, Watch};
use crate::client::x509::X509BundlesStream;
use crate::client::{Client, X509Authorities};
use crate::error::{ClientError, SourceError};
use crate::limits::Limits;

/// X.509 authorities by trust domain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct X509Bundles(Arc<BundleSet>);

impl X509Bundles {
    pub(crate) fn new(
        bundles: &BTreeMap<TrustDomain, X509Authorities>,
        limits: &Limits,
    ) -> Result<Self, ClientError> {
        limits.check_bundles(bundles.len())?;
        let bundles: Result<BundleSet, ClientError> = bundles
            .iter()
            .map(|(domain, authorities)| x509_bundle(domain, authorities, limits))
            .collect();
        Ok(Self(Arc::new(bundles?)))
    }

    /// Verifies a chain, leaf first, with the bundle of the trust domain that its leaf names.
    ///
    /// # Errors
    /// Why it is nobody's X.509-SVID; without a bundle for its trust domain, that.
    pub fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        now: Timestamp,
        usage: Usage,
    ) -> Result<VerifiedX509Svid, X509SvidError> {
        verify_x509_svid(chain, &self.0, now, usage)
    }

    /// The certificates of one trust domain's authorities in DER; `None` without a bundle for it.
    #[must_use]
    pub fn authorities(&self, trust_domain: &TrustDomain) -> Option<Vec<&[u8]>> {
        let bundle = self.0.get(trust_domain)?;
        Some(
            bundle
                .x509
                .iter()
                .map(|anchor| anchor.certificate.as_slice())
                .collect(),
        )
    }

    /// The trust domains that there is a bundle for.
    pub fn trust_domains(&self) -> impl Iterator<Item = &TrustDomain> {
        self.0.iter().map(|bundle| &bundle.trust_domain)
    }

    /// The same for verifiers of this crate's neighbours; there are X.509 authorities in it and no
    /// others.
    #[must_use]
    pub const fn as_set(&self) -> &Arc<BundleSet> {
        &self.0
    }
}

fn x509_bundle(
    domain: &TrustDomain,
    authorities: &X509Authorities,
    limits: &Limits,
) -> Result<Bundle, ClientError> {
    limits.check_authorities(authorities.len())?;
    let mut bundle = Bundle::empty(domain.clone());
    for der in authorities {
        match X509Anchor::parse(der) {
            Ok(anchor) => bundle.x509.push(anchor),
            Err(error) => {
                tracing::debug!(trust_domain = %domain, %error, "an X.509 authority is left out");
            }
        }
    }
    Ok(bundle)
}

/// JWT keys by trust domain.
///
/// They verify nothing but tokens, and X.509 bundles verify no token:
///
/// ```compile_fail,E0308
/// use mintmark_workload_api::source::bundles::{JwtBundles, X509Bundles};
///
/// fn the_wrong_bundles(bundles: X509Bundles) -> JwtBundles {
///     bundles
/// }
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JwtBundles(BundleSet);

impl JwtBundles {
    pub(crate) fn new(
        bundles: &BTreeMap<TrustDomain, Vec<u8>>,
        limits: &Limits,
    ) -> Result<Self, ClientError> {
        limits.check_bundles(bundles.len())?;
        let bundles: Result<BundleSet, ClientError> = bundles
            .iter()
            .map(|(domain, jwks)| jwt_bundle(domain, jwks, limits))
            .collect();
        Ok(Self(bundles?))
    }

    /// Verifies a token for one of the `expected` recipients, with the bundle of the trust domain that
    /// its subject names. Clocks may differ by `leeway`.
    ///
    /// Where the agent can be asked, ask it: [`JwtSource::validate`](super::jwt::JwtSource::validate).
    ///
    /// # Errors
    /// Why the token proves nothing; without a bundle for its trust domain, that.
    pub fn verify(
        &self,
        token: &str,
        expected: &Audience,
        now: Timestamp,
        leeway: Duration,
    ) -> Result<VerifiedJwtSvid, JwtSvidError> {
        verify_jwt_svid(token, expected, &self.0, now, leeway)
    }

    /// The trust domains that there is a bundle for.
    pub fn trust_domains(&self) -> impl Iterator<Item = &TrustDomain> {
        self.0.iter().map(|bundle| &bundle.trust_domain)
    }
}

fn jwt_bundle(domain: &TrustDomain, jwks: &[u8], limits: &Limits) -> Result<Bundle, ClientError> {
    let (bundle, skipped) = Bundle::from_workload_api_jwks(domain, jwks)
        .map_err(|error| ClientError::malformed("bundles", error.to_string()))?;
    limits.check_authorities(bundle.jwt.len())?;
    for key in skipped {
        tracing::debug!(trust_domain = %domain, index = key.index, error = %key.reason, "a JWT key is left out");
    }
    Ok(bundle)
}

/// X.509 bundles that keep themselves current, for verifiers without an identity. Clones share it.
#[derive(Debug, Clone)]
pub struct BundleSource(Arc<Running<X509Bundles>>);

impl BundleSource {
    /// Starts following the agent, and waits for the first bundles.
    ///
    /// # Errors
    /// [`SourceError::Refused`] when the agent will never answer this, [`SourceError::NotReady`] when it
    /// has not in time.
    pub async fn start(settings: Settings) -> Result<Self, SourceError> {
        Ok(Self(Arc::new(Running::start(Bundles, settings).await?)))
    }

    /// The bundles that count now.
    ///
    /// # Errors
    /// [`SourceError::Withdrawn`] when the agent withdrew them.
    pub fn bundles(&self) -> Result<Arc<X509Bundles>, SourceError> {
        self.0.value()
    }

    /// What happens, from now on.
    #[must_use]
    pub fn watch(&self) -> Watch<X509Bundles> {
        self.0.watch()
    }
}

impl tls::BundleSource for BundleSource {
    fn bundles(&self) -> Arc<BundleSet> {
        self.0
            .value()
            .map(|bundles| Arc::clone(bundles.as_set()))
            .unwrap_or_default()
    }
}

struct Bundles;

impl Feed for Bundles {
    type Value = X509Bundles;
    type Stream = X509BundlesStream;

    async fn open(&self, mut client: Client) -> Result<X509BundlesStream, ClientError> {
        client.watch_x509_bundles().await
    }

    async fn next(
        &self,
        stream: &mut X509BundlesStream,
        settings: &Settings,
    ) -> Result<X509Bundles, ClientError> {
        X509Bundles::new(&stream.next().await?, &settings.limits)
    }
}
