//! X.509-SVIDs and bundles.

use std::collections::BTreeMap;

use mintmark_identity::secret::SecretBytes;
use mintmark_identity::spiffe_id::SpiffeId;
use mintmark_identity::trust_domain::TrustDomain;
use mintmark_proto::spiffe::workload as wire;

use super::{
    Client, X509Authorities, authorities, checked_hint, first_of_each_hint, private_key, split_der,
};
use crate::error::ClientError;

/// One identity as the agent sent it. The certificate is not yet verified.
#[derive(Debug)]
pub struct X509Identity {
    /// The SPIFFE ID that the agent named; whoever uses the SVID compares it with the certificate.
    pub spiffe_id: SpiffeId,
    /// DER, leaf first.
    pub chain: Vec<Vec<u8>>,
    /// PKCS#8 DER.
    pub private_key: SecretBytes,
    /// Authorities of its own trust domain.
    pub bundle: X509Authorities,
    /// Operator's label; no security meaning.
    pub hint: String,
}

/// The whole X.509 state of this process; it replaces the last one.
#[derive(Debug)]
pub struct X509Update {
    /// At least one; the first is the default.
    pub identities: Vec<X509Identity>,
    /// Authorities of federated trust domains.
    pub federated: BTreeMap<TrustDomain, X509Authorities>,
}

/// An open stream of updates.
#[derive(Debug)]
pub struct X509Stream {
    messages: tonic::Streaming<wire::X509svidResponse>,
}

impl X509Stream {
    /// The next whole state; waits until something changes.
    ///
    /// # Errors
    /// [`ClientError::Malformed`] for an answer to discard (the stream stays open), anything else when
    /// the stream ended.
    pub async fn next(&mut self) -> Result<X509Update, ClientError> {
        match self.messages.message().await? {
            Some(message) => update(message),
            None => Err(ClientError::Closed),
        }
    }
}

/// An open stream of X.509 bundles.
#[derive(Debug)]
pub struct X509BundlesStream {
    messages: tonic::Streaming<wire::X509BundlesResponse>,
}

impl X509BundlesStream {
    /// The next whole state, the own trust domain included; waits until something changes.
    ///
    /// # Errors
    /// As for [`X509Stream::next`].
    pub async fn next(&mut self) -> Result<BTreeMap<TrustDomain, X509Authorities>, ClientError> {
        x509_bundles(&self.messages.message().await?.ok_or(ClientError::Closed)?)
    }
}

impl Client {
    /// Opens the stream of X.509 bundles, for those who verify others and are nobody themselves.
    ///
    /// # Errors
    /// What the agent answers; see [`ClientError`].
    pub async fn watch_x509_bundles(&mut self) -> Result<X509BundlesStream, ClientError> {
        let messages = self
            .service
            .fetch_x509_bundles(wire::X509BundlesRequest {})
            .await?
            .into_inner();
        Ok(X509BundlesStream { messages })
    }

    /// Opens the stream of X.509-SVIDs.
    ///
    /// # Errors
    /// What the agent answers; see [`ClientError`].
    pub async fn watch_x509(&mut self) -> Result<X509Stream, ClientError> {
        let messages = self
            .service
            .fetch_x509svid(wire::X509svidRequest {})
            .await?
            .into_inner();
        Ok(X509Stream { messages })
    }

    /// The X.509 state as it is now.
    ///
    /// # Errors
    /// What the agent answers; see [`ClientError`].
    pub async fn fetch_x509(&mut self) -> Result<X509Update, ClientError> {
        self.watch_x509().await?.next().await
    }
}

/// What a message of bundles says.
#[doc(hidden)]
pub fn x509_bundles(
    message: &wire::X509BundlesResponse,
) -> Result<BTreeMap<TrustDomain, X509Authorities>, ClientError> {
    if message.bundles.is_empty() {
        return Err(ClientError::malformed("bundles", "is empty"));
    }
    authorities("bundles", &message.bundles)
}

/// What a message of SVIDs says.
#[doc(hidden)]
pub fn update(message: wire::X509svidResponse) -> Result<X509Update, ClientError> {
    if message.svids.is_empty() {
        return Err(ClientError::malformed("svids", "is empty"));
    }
    let federated = authorities("federated_bundles", &message.federated_bundles)?;
    let identities = message
        .svids
        .into_iter()
        .map(identity)
        .collect::<Result<Vec<_>, _>>()?;
    Ok(X509Update {
        identities: first_of_each_hint(identities, |identity| &identity.hint),
        federated,
    })
}

fn identity(svid: wire::X509svid) -> Result<X509Identity, ClientError> {
    let spiffe_id = svid
        .spiffe_id
        .parse()
        .map_err(|e| ClientError::id("spiffe_id", &e))?;
    let chain = split_der("x509_svid", &svid.x509_svid)?;
    if chain.is_empty() {
        return Err(ClientError::malformed("x509_svid", "is empty"));
    }
    let bundle = split_der("bundle", &svid.bundle)?;
    if bundle.is_empty() {
        return Err(ClientError::malformed("bundle", "is empty"));
    }
    let private_key = private_key(svid.x509_svid_key)?;
    Ok(X509Identity {
        spiffe_id,
        chain,
        private_key,
        bundle,
        hint: checked_hint(svid.hint)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn svid(hint: &str) -> wire::X509svid {
        wire::X509svid {
            spiffe_id: "spiffe://example.org/w".into(),
            x509_svid: vec![0x30, 0],
            x509_svid_key: vec![1],
            bundle: vec![0x30, 0],
            hint: hint.into(),
        }
    }

    fn message(svids: Vec<wire::X509svid>) -> wire::X509svidResponse {
        wire::X509svidResponse {
            svids,
            ..Default::default()
        }
    }

    #[test]
    fn wla_14_a_mandatory_field_at_its_default_spoils_the_message() {
        assert!(update(message(vec![svid("")])).is_ok());
        assert!(update(message(vec![])).is_err());
        let spoil: [fn(&mut wire::X509svid); 4] = [
            |s| s.spiffe_id.clear(),
            |s| s.x509_svid.clear(),
            |s| s.x509_svid_key.clear(),
            |s| s.bundle.clear(),
        ];
        for spoil in spoil {
            let mut bad = svid("");
            spoil(&mut bad);
            assert!(update(message(vec![svid(""), bad])).is_err());
        }
    }

    #[test]
    fn wla_20_of_several_svids_with_one_hint_the_first_counts() {
        let got = update(message(vec![svid("a"), svid("a"), svid(""), svid("")])).unwrap();
        let hints: Vec<_> = got.identities.iter().map(|i| i.hint.as_str()).collect();
        assert_eq!(hints, ["a", "", ""]);
    }

    #[test]
    fn bundles_are_keyed_by_the_id_of_a_trust_domain() {
        for key in ["example.org", "spiffe://example.org/w", "x"] {
            let mut bad = message(vec![svid("")]);
            bad.federated_bundles.insert(key.into(), vec![0x30, 0]);
            assert!(update(bad).is_err(), "{key}");
        }
    }
}
