//! Certificates of the servers among themselves.
//!
//! Responsible for: the certificate by which a server shows its peers which member of the
//! cluster it is, signed at admission by the trust-domain key; and the certificate of that key.
//! Always holds: these certificates chain up to the trust-domain key and to nothing else, which
//! stands in no bundle; so no SVID passes for a peer certificate and none of these for an SVID.
//! Their alternative signature is always demanded.
//! Not here: which members there are. The certificate does not expire in practice; committed
//! membership decides who counts.

use rustls_pki_types::CertificateDer;

use super::authority::X509Authority;
use super::certificate::Certificate;
use super::name::LeafSubject;
use super::prepare::{LeafRequest, PreparedTbs, ProfileError, prepare_leaf};
use super::serial::Serial;
use super::verify::{Anchor, Demands, Usage, X509SvidError, check_leaf, verify_chain};
use crate::clock::Timestamp;
use crate::spiffe_id::{SpiffeId, SpiffeIdError};
use crate::trust_domain::TrustDomain;
use crate::validity::{SVID_BACKDATE, Validity};

/// What RFC 5280 section 4.1.2.5 writes for "no well-defined expiration date":
/// 9999-12-31T23:59:59Z.
pub const NO_EXPIRY: Timestamp = Timestamp::from_unix_secs(253_402_300_799);

const PREFIX: &str = "/mintmark/peer/";

/// The validity of the trust-domain key's certificate and of peer certificates: from now on,
/// without end.
#[must_use]
pub fn endless_validity(now: Timestamp) -> Validity {
    Validity {
        not_before: now.floor_to_second().saturating_sub(SVID_BACKDATE),
        not_after: NO_EXPIRY,
    }
}

/// Which member of which epoch of a cluster a server is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PeerName {
    /// The cluster's trust domain.
    pub trust_domain: TrustDomain,
    /// The log epoch in which it was admitted.
    pub epoch: u64,
    /// Its id in the log; never reused.
    pub node_id: u64,
}

impl PeerName {
    /// The SPIFFE ID `spiffe://<trust domain>/mintmark/peer/<epoch>/<node id>`.
    ///
    /// # Errors
    /// Never in practice: trust domain and path fit into a SPIFFE ID.
    pub fn spiffe_id(&self) -> Result<SpiffeId, SpiffeIdError> {
        let path = format!("{PREFIX}{}/{}", self.epoch, self.node_id);
        SpiffeId::from_path(&self.trust_domain, &path)
    }

    /// Reads a peer's SPIFFE ID; `None` if it is not one, in the only spelling there is.
    #[must_use]
    pub fn parse(id: &SpiffeId) -> Option<Self> {
        let (epoch, node_id) = id.path().strip_prefix(PREFIX)?.split_once('/')?;
        let name = Self {
            trust_domain: id.trust_domain().clone(),
            epoch: epoch.parse().ok()?,
            node_id: node_id.parse().ok()?,
        };
        // "+1" and "01" are numbers too, but other texts.
        (name.spiffe_id().ok()? == *id).then_some(name)
    }
}

/// Prepares the certificate of a peer under the certificate of the trust-domain key.
///
/// # Errors
/// The rule that the request breaks.
pub fn prepare_peer(
    name: &PeerName,
    public_key_spki: &[u8],
    serial: Serial,
    validity: Validity,
    trust_domain_certificate: &X509Authority,
) -> Result<PreparedTbs, ProfileError> {
    let request = LeafRequest {
        // Trust domain and path are too short for any rule to be broken.
        spiffe_id: name.spiffe_id().map_err(|_| ProfileError::RootPath)?,
        public_key_spki: public_key_spki.to_vec(),
        serial,
        validity,
        dns_names: Vec::new(),
        subject: LeafSubject::default(),
    };
    prepare_leaf(&request, trust_domain_certificate)
}

/// A peer, verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedPeer {
    /// Which member it is.
    pub name: PeerName,
    /// Its key, a DER SubjectPublicKeyInfo.
    pub public_key_spki: Vec<u8>,
    /// While this holds, verifying the same chain under the same trust-domain keys gives the same: the
    /// validity that all certificates looked at have in common.
    pub validity: Validity,
}

/// Why somebody is not a peer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// No trust-domain key is known yet, or none that can be read.
    #[error("certificate of the trust-domain key is missing or cannot be read")]
    NoTrustDomainKey,
    /// The chain does not verify.
    #[error("peer certificate does not verify")]
    Chain(#[from] X509SvidError),
    /// The certificate is good and names something else than a peer.
    #[error("{0} is not the name of a peer")]
    NotAPeer(SpiffeId),
}

/// Verifies a peer's chain at `now`. `trust_domain_certificates` are those of the trust-domain
/// key and, while it is being succeeded, of its successor.
///
/// # Errors
/// Why it is not a peer.
pub fn verify_peer_certificate(
    chain: &[CertificateDer<'_>],
    trust_domain_certificates: &[Vec<u8>],
    now: Timestamp,
    usage: Usage,
) -> Result<VerifiedPeer, PeerError> {
    let parse = |der: &Vec<u8>| X509Authority::parse(der).ok();
    let own: Vec<_> = trust_domain_certificates.iter().filter_map(parse).collect();
    let (leaf, spiffe_id) = check_leaf(chain)?;
    let name = PeerName::parse(&spiffe_id).ok_or(PeerError::NotAPeer(spiffe_id.clone()))?;
    let anchors: Vec<_> = own
        .iter()
        .filter(|authority| authority.trust_domain() == Some(&name.trust_domain))
        .filter_map(|authority| Anchor::parse(authority.certificate_der(), false))
        .collect();
    if own.is_empty() {
        return Err(PeerError::NoTrustDomainKey);
    }
    if anchors.is_empty() {
        return Err(X509SvidError::UnknownAuthority(name.trust_domain).into());
    }
    let demands = Demands {
        now,
        usage,
        hybrid: true,
        refuse_tainted: false,
    };
    let verified = verify_chain(chain, &leaf, spiffe_id, &anchors, demands)?;
    let mut validity = leaf.content.validity;
    for intermediate in chain.iter().skip(1) {
        let parsed = Certificate::parse(intermediate).map_err(X509SvidError::Intermediate)?;
        validity = validity.intersection(parsed.content.validity);
    }
    let anchors = anchors.iter().map(Anchor::validity);
    Ok(VerifiedPeer {
        name,
        public_key_spki: verified.public_key_spki,
        validity: anchors.fold(validity, Validity::intersection),
    })
}
