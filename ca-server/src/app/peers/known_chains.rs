//! Chains of peers that were verified before.
//!
//! Peers send each other a message with every heartbeat, always with the certificate of their connection;
//! verifying it costs more than all else that such a message causes.
//!
//! Always: what is answered from here is what verifying again would answer: it is the same chain, byte for
//! byte, the trust-domain keys are the same, and the instant lies in the validity of every certificate that
//! was looked at. Only chains of members are kept, one for each.
//!
//! Not here: whether the peer still counts, which is asked of the state each time.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use mintmark_identity::clock::Timestamp;
use mintmark_identity::svid::x509::peer::VerifiedPeer;
use rustls_pki_types::CertificateDer;

use crate::raft::NodeId;

#[derive(Debug)]
struct Known {
    chain: Vec<CertificateDer<'static>>,
    trust_domain_keys: Arc<Vec<Vec<u8>>>,
    peer: Arc<VerifiedPeer>,
}

/// The last good chain of each member.
#[derive(Debug, Default)]
pub(super) struct KnownChains(RwLock<BTreeMap<NodeId, Known>>);

impl KnownChains {
    /// What verifying this chain at `now` says, if that is known; `None` says nothing against it.
    pub fn recall(
        &self,
        node: NodeId,
        chain: &[CertificateDer<'static>],
        trust_domain_keys: &Arc<Vec<Vec<u8>>>,
        now: Timestamp,
    ) -> Option<Arc<VerifiedPeer>> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let known = known.get(&node)?;
        let is_same = Arc::ptr_eq(&known.trust_domain_keys, trust_domain_keys)
            && known.chain == chain
            && known.peer.validity.contains(now);
        is_same.then(|| Arc::clone(&known.peer))
    }

    /// Keeps what verifying this chain said. The caller made sure that it is that member's.
    pub fn keep(
        &self,
        node: NodeId,
        chain: &[CertificateDer<'static>],
        trust_domain_keys: Arc<Vec<Vec<u8>>>,
        peer: VerifiedPeer,
    ) {
        let known = Known {
            chain: chain.to_vec(),
            trust_domain_keys,
            peer: Arc::new(peer),
        };
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        all.insert(node, known);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use mintmark_identity::svid::x509::peer::PeerName;
    use mintmark_identity::trust_domain::TrustDomain;
    use mintmark_identity::validity::Validity;

    use super::*;

    const fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_secs(seconds)
    }

    fn peer(node_id: NodeId) -> VerifiedPeer {
        VerifiedPeer {
            name: PeerName {
                trust_domain: TrustDomain::parse("example.org").unwrap(),
                epoch: 1,
                node_id,
            },
            public_key_spki: vec![7],
            validity: Validity {
                not_before: at(100),
                not_after: at(200),
            },
        }
    }

    fn chain(certificates: &[&[u8]]) -> Vec<CertificateDer<'static>> {
        let certificates = certificates.iter();
        certificates
            .map(|der| CertificateDer::from(der.to_vec()))
            .collect()
    }

    #[test]
    fn only_what_verifying_again_would_accept_is_known() {
        let known = KnownChains::default();
        let keys = Arc::new(vec![vec![1]]);
        let good = chain(&[b"leaf"]);
        assert!(known.recall(2, &good, &keys, at(150)).is_none());
        known.keep(2, &good, Arc::clone(&keys), peer(2));
        assert_eq!(*known.recall(2, &good, &keys, at(150)).unwrap(), peer(2));

        let successor = Arc::new(vec![vec![1], vec![2]]);
        let table = [
            ("another member", 3, good.clone(), &keys, at(150)),
            ("another leaf", 2, chain(&[b"leaf2"]), &keys, at(150)),
            (
                "a longer chain",
                2,
                chain(&[b"leaf", b"ca"]),
                &keys,
                at(150),
            ),
            ("no chain", 2, Vec::new(), &keys, at(150)),
            ("other keys", 2, good.clone(), &successor, at(150)),
            ("too early", 2, good.clone(), &keys, at(99)),
            ("too late", 2, good.clone(), &keys, at(201)),
        ];
        for (what, node, chain, keys, now) in table {
            assert!(known.recall(node, &chain, keys, now).is_none(), "{what}");
        }
    }

    #[test]
    fn of_each_member_the_last_good_chain_is_known() {
        let known = KnownChains::default();
        let keys = Arc::new(vec![vec![1]]);
        let (first, second) = (chain(&[b"first"]), chain(&[b"second"]));
        known.keep(2, &first, Arc::clone(&keys), peer(2));
        known.keep(2, &second, Arc::clone(&keys), peer(2));
        assert!(known.recall(2, &first, &keys, at(150)).is_none());
        assert!(known.recall(2, &second, &keys, at(150)).is_some());
    }
}
