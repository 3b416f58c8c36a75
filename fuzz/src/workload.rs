//! What must hold for any bytes that an application is given by an agent.
//!
//! Responsible for the property of the target of the client library. Always holds: it is deterministic, so
//! an input that failed once fails again. Not here: the fuzzer. `workload-api/tests/fuzz_seeds.rs` runs the
//! same function over the seeds.

use std::collections::BTreeSet;

use mintmark_proto::spiffe::workload as wire;
use mintmark_workload_api::client::answers::{claims, jwt_bundles, token, update, x509_bundles};
use prost::Message;

/// An answer that is taken has everything that it must have, byte for byte what was sent: at least one
/// identity, a key and a chain for each, one identity for each hint, a token for whom it says.
pub fn workload_answer(data: &[u8]) {
    if let Ok(sent) = wire::X509svidResponse::decode(data)
        && let Ok(read) = update(sent.clone())
    {
        assert!(!read.identities.is_empty() && read.identities.len() <= sent.svids.len());
        let mut hints = BTreeSet::new();
        for one in &read.identities {
            let svid = sent.svids.iter().find(|svid| {
                svid.spiffe_id == one.spiffe_id.as_str()
                    && svid.x509_svid == one.chain.concat()
                    && svid.x509_svid_key == one.private_key.expose()
                    && svid.bundle == one.bundle.concat()
                    && svid.hint == one.hint
            });
            assert!(svid.is_some(), "{one:?}");
            assert!(!one.chain.is_empty() && !one.private_key.expose().is_empty());
            assert!(one.hint.is_empty() || hints.insert(&one.hint));
        }
        assert!(read.federated.len() <= sent.federated_bundles.len());
    }
    if let Ok(sent) = wire::X509BundlesResponse::decode(data)
        && let Ok(read) = x509_bundles(&sent)
    {
        for (domain, authorities) in &read {
            assert_eq!(
                sent.bundles.get(domain.id().as_str()),
                Some(&authorities.concat())
            );
        }
    }
    if let Ok(sent) = wire::JwtBundlesResponse::decode(data)
        && let Ok(read) = jwt_bundles(sent.clone())
    {
        for (domain, keys) in &read {
            assert_eq!(sent.bundles.get(domain.id().as_str()), Some(keys));
        }
    }
    if let Ok(sent) = wire::Jwtsvid::decode(data)
        && let Ok(read) = token(sent.clone())
    {
        assert_eq!(
            (read.spiffe_id.as_str(), &read.token),
            (sent.spiffe_id.as_str(), &sent.svid)
        );
        assert_eq!(read.token.matches('.').count(), 2);
    }
    if let Ok(sent) = wire::ValidateJwtsvidResponse::decode(data)
        && let Some(fields) = sent.claims
    {
        let names: BTreeSet<String> = fields.fields.keys().cloned().collect();
        let read = claims(fields);
        assert_eq!(read.keys().cloned().collect::<BTreeSet<_>>(), names);
    }
}
