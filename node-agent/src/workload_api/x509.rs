//! `FetchX509SVID`.
//!
//! Responsible for: the message with all X.509-SVIDs of a caller. Always holds: the leaf comes
//! first (WLA-15), the key is PKCS#8 DER (WLA-16), foreign bundles are those that the caller's
//! entries federate with (WLA-N4). Not here: when it is sent (`surface`).

use mintmark_proto::spiffe::workload::{X509svid, X509svidResponse};
use tonic::Status;

use crate::{
    cache::state::{CachedSvid, Identity, State},
    surface::Render,
};

/// Renders `X509SVIDResponse`.
#[derive(Debug)]
pub struct Svids;

impl Render for Svids {
    type Message = X509svidResponse;

    fn render(
        &self,
        state: &State,
        identities: &[Identity],
    ) -> Result<Option<Self::Message>, Status> {
        let Some(own) = state.own_bundle() else {
            return Ok(None);
        };
        let bundle = own.x509_der_concat();
        let svids: Vec<X509svid> = identities
            .iter()
            .filter_map(|identity| {
                let svid = identity.svid.as_ref()?;
                Some(one(svid, &identity.held.entry.hint, bundle.clone()))
            })
            .collect();
        if svids.is_empty() {
            return Ok(None);
        }
        let federated = state.federated(identities);
        Ok(Some(X509svidResponse {
            svids,
            crl: Vec::new(),
            federated_bundles: federated
                .iter()
                .map(|(domain, bundle)| (domain.id().to_string(), bundle.x509_der_concat()))
                .collect(),
        }))
    }

    fn needs_svids(&self) -> bool {
        true
    }
}

fn one(svid: &CachedSvid, hint: &str, bundle: Vec<u8>) -> X509svid {
    X509svid {
        spiffe_id: svid.issued_for.spiffe_id.to_string(),
        x509_svid: svid.chain.concat(),
        x509_svid_key: svid.key.expose().to_vec(),
        bundle,
        hint: hint.to_owned(),
    }
}
