//! `FetchX509Bundles` and `FetchJWTBundles`.
//!
//! Responsible for: the messages with the bundles that a caller may see. Always holds: the own
//! trust domain's is among them (WLA-24, WLA-34), foreign ones only when an entry of the caller
//! federates with them, and JWT bundles hold JWT keys only (WLA-35). Not here: when they are
//! sent (`surface`).

use std::{collections::BTreeMap, sync::Arc};

use mintmark_identity::{bundle::Bundle, trust_domain::TrustDomain};
use mintmark_proto::spiffe::workload::{JwtBundlesResponse, X509BundlesResponse};
use tonic::Status;

use crate::{
    cache::state::{Identity, State},
    surface::Render,
};

/// Renders `X509BundlesResponse`.
#[derive(Debug)]
pub struct X509;

/// Renders `JWTBundlesResponse`.
#[derive(Debug)]
pub struct Jwt;

/// Bundles by the SPIFFE ID of their trust domain, as the maps of the Workload API are keyed.
fn visible<T>(
    state: &State,
    identities: &[Identity],
    show: impl Fn(&Bundle) -> T,
) -> Option<BTreeMap<String, T>> {
    let own = state.own_bundle()?;
    let mut bundles: BTreeMap<TrustDomain, Arc<Bundle>> = state.federated(identities);
    bundles.insert(own.trust_domain.clone(), Arc::clone(own));
    let shown = bundles
        .iter()
        .map(|(domain, bundle)| (domain.id().to_string(), show(bundle)));
    Some(shown.collect())
}

impl Render for X509 {
    type Message = X509BundlesResponse;

    fn render(
        &self,
        state: &State,
        identities: &[Identity],
    ) -> Result<Option<Self::Message>, Status> {
        let bundles = visible(state, identities, Bundle::x509_der_concat);
        Ok(bundles.map(|bundles| X509BundlesResponse {
            crl: Vec::new(),
            bundles,
        }))
    }

    fn needs_svids(&self) -> bool {
        false
    }
}

impl Render for Jwt {
    type Message = JwtBundlesResponse;

    fn render(
        &self,
        state: &State,
        identities: &[Identity],
    ) -> Result<Option<Self::Message>, Status> {
        let bundles = visible(state, identities, Bundle::jwks_for_workload_api);
        Ok(bundles.map(|bundles| JwtBundlesResponse { bundles }))
    }

    fn needs_svids(&self) -> bool {
        false
    }
}
