//! Peers of the cluster: certificates by the trust-domain key.

use std::sync::Arc;
use std::time::Duration;

use mintmark_identity::authority::AuthorityKey;
use mintmark_identity::clock::{ManualClock, Timestamp};
use mintmark_identity::hybrid::HybridError;
use mintmark_identity::key_manager::SigningKey;
use mintmark_identity::svid::x509::peer::{
    PeerError, PeerName, endless_validity, prepare_peer, verify_peer_certificate,
};
use mintmark_identity::svid::x509::{Certificate, Usage, X509SvidError, verify_x509_svid};
use mintmark_identity::tls::{Authorizer, peer_client_config, peer_server_config};

use crate::handshake::handshake;
use crate::pki::*;

fn trust_domain_key(hybrid: bool) -> Authority {
    let key = AuthorityKey::generate(hybrid).unwrap();
    Authority::with_key("example.org", key, endless_validity(NOW))
}

fn peer(node_id: u64) -> PeerName {
    PeerName {
        trust_domain: td("example.org"),
        epoch: 1,
        node_id,
    }
}

fn admit(authority: &Authority, name: &PeerName, key: &SigningKey) -> Vec<u8> {
    let spki = key.spki_der();
    let validity = endless_validity(NOW);
    let prepared = prepare_peer(name, spki, serial(), validity, &authority.certificate);
    prepared.unwrap().sign(&authority.key).unwrap()
}

fn certificates(authorities: &[&Authority]) -> Arc<Vec<Vec<u8>>> {
    let der = |authority: &&Authority| authority.certificate.certificate_der().to_vec();
    Arc::new(authorities.iter().map(der).collect())
}

#[test]
fn a_peer_is_known_by_epoch_and_node_id() {
    let authority = trust_domain_key(true);
    let key = p256();
    let name = peer(7);
    let certificate = admit(&authority, &name, &key);
    let verify = |now| {
        let anchors = certificates(&[&authority]);
        verify_peer_certificate(&chain(&[&certificate]), &anchors, now, Usage::Either)
    };
    let verified = verify(NOW).unwrap();
    assert_eq!(verified.name, name);
    assert_eq!(verified.public_key_spki, key.spki_der());
    let own = Certificate::parse(&certificate).unwrap().content.validity;
    let above = authority.certificate.certificate_der();
    let above = Certificate::parse(above).unwrap().content.validity;
    assert_eq!(verified.validity, own.intersection(above));
    assert!(verify(verified.validity.not_before).is_ok());
    let before = verified
        .validity
        .not_before
        .saturating_sub(Duration::from_secs(1));
    assert!(verify(before).is_err(), "verifying agrees with the period");
    let uris = Certificate::parse(&certificate)
        .unwrap()
        .content
        .names
        .uris
        .join(" ");
    assert_eq!(uris, "spiffe://example.org/mintmark/peer/1/7");
    // After an outage of any length the servers still know each other.
    let in_900_years = Timestamp::from_unix_secs(NOW.unix_secs() + 900 * 31_557_600);
    assert_eq!(verify(in_900_years).unwrap().name, name);
}

#[test]
fn names_have_one_spelling() {
    let good = id("spiffe://example.org/mintmark/peer/1/7");
    assert_eq!(PeerName::parse(&good), Some(peer(7)));
    assert_eq!(peer(7).spiffe_id().unwrap(), good);
    for path in [
        "1/07",
        "01/7",
        "1/7/8",
        "1",
        "x/7",
        "1/-7",
        "1/18446744073709551616",
    ] {
        let other = id(&format!("spiffe://example.org/mintmark/peer/{path}"));
        assert_eq!(PeerName::parse(&other), None, "{other}");
    }
    assert_eq!(PeerName::parse(&id("spiffe://example.org/w")), None);
}

#[test]
fn the_alternative_signature_is_always_demanded() {
    let classical = trust_domain_key(false);
    let certificate = chain(&[&admit(&classical, &peer(1), &p256())]);
    let anchors = certificates(&[&classical]);
    assert_eq!(
        verify_peer_certificate(&certificate, &anchors, NOW, Usage::Either),
        Err(PeerError::Chain(X509SvidError::Hybrid(
            HybridError::AnchorWithoutKey
        )))
    );
    // A native forgery under the right key.
    let hybrid = trust_domain_key(true);
    let forged = Forge::leaf("spiffe://example.org/mintmark/peer/1/1", &p256()).sign_by(&hybrid);
    let anchors = certificates(&[&hybrid]);
    let verdict = verify_peer_certificate(&chain(&[&forged]), &anchors, NOW, Usage::Either);
    assert!(
        matches!(
            verdict,
            Err(PeerError::Chain(X509SvidError::Hybrid(
                HybridError::Missing { .. }
            )))
        ),
        "{verdict:?}"
    );
}

#[test]
fn an_svid_is_no_peer_certificate_and_a_peer_certificate_no_svid() {
    let top = trust_domain_key(true);
    let authority = Authority::new("example.org", true);
    let anchors = certificates(&[&top]);
    let verify = |der: &[u8]| verify_peer_certificate(&chain(&[der]), &anchors, NOW, Usage::Either);
    // An SVID with a peer's name, signed by an authority of the bundle.
    let svid = authority.issue("/mintmark/peer/1/7", &p256());
    assert!(matches!(verify(&svid), Err(PeerError::Chain(_))));
    // The trust-domain key signs something that is no peer.
    let other = top.issue("/w", &p256());
    assert_eq!(
        verify(&other),
        Err(PeerError::NotAPeer(id("spiffe://example.org/w")))
    );
    // A peer's certificate where an SVID is asked for.
    let peer = admit(&top, &peer(7), &p256());
    let bundles = bundles([authority.bundle()]);
    assert_eq!(
        verify_x509_svid(&chain(&[&peer]), &bundles, NOW, Usage::Either),
        Err(X509SvidError::UnknownAuthority(td("example.org")))
    );
}

#[test]
fn the_trust_domain_key_speaks_for_its_own_trust_domain_only() {
    let top = trust_domain_key(true);
    let anchors = certificates(&[&top]);
    let verify = |trust_domain: &str| {
        let text = format!("spiffe://{trust_domain}/mintmark/peer/1/7");
        let certificate = Forge::leaf(&text, &p256()).sign_hybrid_by(&top);
        verify_peer_certificate(&chain(&[&certificate]), &anchors, NOW, Usage::Either)
    };
    assert_eq!(verify("example.org").unwrap().name, peer(7));
    let unknown = X509SvidError::UnknownAuthority(td("other.test"));
    assert_eq!(verify("other.test"), Err(PeerError::Chain(unknown)));
}

#[test]
fn without_a_trust_domain_key_nobody_is_a_peer() {
    let authority = trust_domain_key(true);
    let certificate = chain(&[&admit(&authority, &peer(1), &p256())]);
    for anchors in [vec![], vec![b"garbage".to_vec()]] {
        let verdict = verify_peer_certificate(&certificate, &anchors, NOW, Usage::Either);
        assert_eq!(verdict, Err(PeerError::NoTrustDomainKey));
    }
    let stranger = trust_domain_key(true);
    let anchors = certificates(&[&stranger]);
    let verdict = verify_peer_certificate(&certificate, &anchors, NOW, Usage::Either);
    assert!(matches!(verdict, Err(PeerError::Chain(_))));
    // While the key is succeeded, both count.
    let both = certificates(&[&stranger, &authority]);
    assert!(verify_peer_certificate(&certificate, &both, NOW, Usage::Either).is_ok());
}

#[test]
fn peers_meet_in_tls_and_others_do_not() {
    let top = trust_domain_key(true);
    let anchors = certificates(&[&top]);
    let identity = |node_id| {
        let key = p256();
        svid(&[&admit(&top, &peer(node_id), &key)], &key)
    };
    let clock = || Arc::new(ManualClock::new(NOW));
    let server = || {
        let source = Arc::new(Arc::clone(&anchors));
        peer_server_config(clock(), Arc::new(identity(1)), source, Authorizer::any()).unwrap()
    };
    let client = |identity, authorizer| {
        let source = Arc::new(Arc::clone(&anchors));
        peer_client_config(clock(), Arc::new(identity), source, authorizer).unwrap()
    };
    let first = peer(1).spiffe_id().unwrap();
    let both = handshake(client(identity(2), Authorizer::exactly(first)), server()).unwrap();
    let seen = both.server.peer_certificates().unwrap();
    let verified = verify_peer_certificate(seen, &anchors, NOW, Usage::Client).unwrap();
    assert_eq!(verified.name, peer(2));
    let second = peer(2).spiffe_id().unwrap();
    assert!(handshake(client(identity(2), Authorizer::exactly(second)), server()).is_err());
    let key = p256();
    let workload = Authority::new("example.org", true).issue("/mintmark/peer/1/2", &key);
    let workload = svid(&[&workload], &key);
    assert!(handshake(client(workload, Authorizer::any()), server()).is_err());
}
