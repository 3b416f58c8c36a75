//! TLS configurations: what they establish, what they refuse, and that they follow rotation.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use mintmark_identity::bundle::BundleSet;
use mintmark_identity::clock::ManualClock;
use mintmark_identity::key_manager::SigningKey;
use mintmark_identity::svid::x509::x509_svid::X509Svid;
use mintmark_identity::svid::x509::{Usage, VerificationPolicy, verify_x509_svid};
use mintmark_identity::tls::{
    Authorizer, BundleSource, ClientAuth, SvidSource, SvidTrust, mtls_client_config, server_config,
    tls_client_config,
};
use rustls::{
    CertificateError, ClientConfig, Error, HandshakeKind, NamedGroup, ProtocolVersion, ServerConfig,
};

use crate::handshake::{any_client, any_server, handshake};
use crate::pki::*;

/// What rotates: identity and bundles, exchanged while configurations live on.
#[derive(Debug)]
struct Rotating {
    svid: Mutex<Option<Arc<X509Svid>>>,
    bundles: Mutex<Arc<BundleSet>>,
}

impl Rotating {
    fn new(svid: Option<Arc<X509Svid>>, bundles: BundleSet) -> Arc<Self> {
        Arc::new(Self {
            svid: Mutex::new(svid),
            bundles: Mutex::new(Arc::new(bundles)),
        })
    }

    fn trust(self: &Arc<Self>, authorizer: Authorizer) -> SvidTrust {
        let bundles = Arc::clone(self) as Arc<dyn BundleSource>;
        SvidTrust {
            bundles,
            policy: VerificationPolicy::default(),
            authorizer,
        }
    }
}

impl SvidSource for Rotating {
    fn svid(&self) -> Option<Arc<X509Svid>> {
        self.svid.lock().unwrap().clone()
    }
}

impl BundleSource for Rotating {
    fn bundles(&self) -> Arc<BundleSet> {
        Arc::clone(&self.bundles.lock().unwrap())
    }
}

/// A server and a client of one trust domain.
struct World {
    authority: Authority,
    client: Arc<Rotating>,
    server: Arc<Rotating>,
    clock: Arc<ManualClock>,
}

impl World {
    fn new(hybrid: bool) -> Self {
        let authority = Authority::new("example.org", hybrid);
        let own = |path: &str| issue(&authority, path);
        let bundles = || bundles([authority.bundle()]);
        Self {
            client: Rotating::new(Some(own("/client")), bundles()),
            server: Rotating::new(Some(own("/server")), bundles()),
            clock: Arc::new(ManualClock::new(NOW)),
            authority,
        }
    }

    fn server_config(&self, client_auth: ClientAuth, authorizer: Authorizer) -> ServerConfig {
        let trust = self.server.trust(authorizer);
        server_config(self.clock.clone(), self.server.clone(), trust, client_auth).unwrap()
    }

    fn client_config(&self, authorizer: Authorizer) -> ClientConfig {
        let trust = self.client.trust(authorizer);
        mtls_client_config(self.clock.clone(), self.client.clone(), trust).unwrap()
    }
}

fn issue(authority: &Authority, path: &str) -> Arc<X509Svid> {
    let key = p256();
    svid(&[&authority.issue(path, &key)], &key)
}

#[test]
fn both_sides_learn_who_the_other_is() {
    for hybrid in [false, true] {
        let world = World::new(hybrid);
        let both = handshake(
            world.client_config(Authorizer::exactly(id("spiffe://example.org/server"))),
            world.server_config(
                ClientAuth::Required,
                Authorizer::exactly(id("spiffe://example.org/client")),
            ),
        )
        .unwrap();
        let bundles = bundles([world.authority.bundle()]);
        let seen = both.server.peer_certificates().unwrap();
        let client = verify_x509_svid(seen, &bundles, NOW, Usage::Client).unwrap();
        assert_eq!(client.spiffe_id.as_str(), "spiffe://example.org/client");
        let seen = both.client.peer_certificates().unwrap();
        let server = verify_x509_svid(seen, &bundles, NOW, Usage::Server).unwrap();
        assert_eq!(server.spiffe_id.as_str(), "spiffe://example.org/server");
        assert_eq!((client.hybrid, server.hybrid), (hybrid, hybrid));
    }
}

#[test]
fn tls_13_with_the_hybrid_key_exchange_is_what_we_agree_on() {
    let world = World::new(false);
    let both = handshake(
        world.client_config(Authorizer::any()),
        world.server_config(ClientAuth::Required, Authorizer::any()),
    )
    .unwrap();
    assert_eq!(
        both.client.protocol_version(),
        Some(ProtocolVersion::TLSv1_3)
    );
    let group = both.client.negotiated_key_exchange_group().unwrap();
    assert_eq!(group.name(), NamedGroup::X25519MLKEM768);
}

#[test]
fn older_versions_are_neither_offered_nor_accepted() {
    let world = World::new(false);
    let name = rustls_pki_types::ServerName::try_from("ignored.invalid").unwrap();
    let config = Arc::new(world.client_config(Authorizer::any()));
    let mut client = rustls::ClientConnection::new(config, name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    // supported_versions with one version, 1.3.
    let versions = [0x00, 0x2b, 0x00, 0x03, 0x02, 0x03, 0x04];
    let at = hello
        .windows(versions.len())
        .position(|window| window == versions);
    // Without that extension it is the hello of a client that speaks TLS 1.2 at most.
    hello[at.expect("only 1.3 is offered")] = 0xfa;
    let config = Arc::new(world.server_config(ClientAuth::Optional, Authorizer::any()));
    let mut server = rustls::ServerConnection::new(config).unwrap();
    let mut rest = hello.as_slice();
    while !rest.is_empty() {
        server.read_tls(&mut rest).unwrap();
    }
    assert!(matches!(
        server.process_new_packets(),
        Err(Error::PeerIncompatible(_))
    ));
}

#[test]
fn our_server_gives_out_no_tickets() {
    let world = World::new(false);
    let key = p256();
    let willing = any_client(&chain(&[&world.authority.issue("/client", &key)]), &key);
    let server = world.server_config(ClientAuth::Required, Authorizer::any());
    for _ in 0..2 {
        let both = handshake(willing.clone(), server.clone()).unwrap();
        assert_eq!(both.client.tls13_tickets_received(), 0);
        assert_eq!(both.server.handshake_kind(), Some(HandshakeKind::Full));
    }
}

#[test]
fn our_client_uses_no_tickets() {
    let world = World::new(false);
    let key = p256();
    let willing = any_server(&chain(&[&world.authority.issue("/server", &key)]), &key);
    let client = world.client_config(Authorizer::any());
    for _ in 0..2 {
        let both = handshake(client.clone(), willing.clone()).unwrap();
        assert!(
            both.client.tls13_tickets_received() > 0,
            "else this proves nothing"
        );
        assert_eq!(both.client.handshake_kind(), Some(HandshakeKind::Full));
    }
    let other = any_client(&chain(&[&world.authority.issue("/client", &key)]), &key);
    handshake(other.clone(), willing.clone()).unwrap();
    let resumed = handshake(other, willing).unwrap();
    assert_eq!(
        resumed.client.handshake_kind(),
        Some(HandshakeKind::Resumed),
        "others do"
    );
}

#[test]
fn a_tightened_bundle_counts_from_the_next_handshake_on() {
    let world = World::new(false);
    let client = world.client_config(Authorizer::any());
    let server = world.server_config(ClientAuth::Required, Authorizer::any());
    handshake(client.clone(), server.clone()).unwrap();
    *world.server.bundles.lock().unwrap() = Arc::new(BundleSet::new());
    assert!(handshake(client.clone(), server.clone()).is_err());
    let again = bundles([world.authority.bundle()]);
    *world.server.bundles.lock().unwrap() = Arc::new(again);
    handshake(client, server).unwrap();
}

#[test]
fn rotation_of_identity_and_authority_needs_no_new_configuration() {
    let world = World::new(false);
    let client = world.client_config(Authorizer::any());
    let server = world.server_config(ClientAuth::Required, Authorizer::any());
    let next = Authority::new("example.org", true);
    let both_anchors = vec![world.authority.anchor(), next.anchor()];
    for side in [&world.client, &world.server] {
        let both = bundles([bundle("example.org", both_anchors.clone())]);
        *side.bundles.lock().unwrap() = Arc::new(both);
    }
    handshake(client.clone(), server.clone()).unwrap();
    *world.server.svid.lock().unwrap() = Some(issue(&next, "/server"));
    let both = handshake(client.clone(), server.clone()).unwrap();
    let leaf = &both.client.peer_certificates().unwrap()[0];
    let presented = world.server.svid().unwrap();
    assert_eq!(leaf, &presented.chain()[0], "the new SVID");
    *world.client.svid.lock().unwrap() = Some(issue(&next, "/client"));
    for side in [&world.client, &world.server] {
        *side.bundles.lock().unwrap() = Arc::new(bundles([next.bundle()]));
    }
    handshake(client, server).unwrap();
}

#[test]
fn time_is_that_of_the_clock() {
    let world = World::new(false);
    let client = world.client_config(Authorizer::any());
    let server = world.server_config(ClientAuth::Required, Authorizer::any());
    world.clock.set(NOW.saturating_add(HOUR));
    handshake(client.clone(), server.clone()).unwrap();
    world.clock.advance(Duration::from_secs(1));
    assert!(matches!(
        handshake(client.clone(), server.clone()),
        Err(Error::InvalidCertificate(CertificateError::Expired))
    ));
    world
        .clock
        .set(mintmark_identity::clock::Timestamp::from_unix_secs(-1));
    assert!(handshake(client, server).is_err(), "a clock before 1970");
}

#[test]
fn a_client_without_certificate_comes_in_only_where_it_is_optional() {
    let world = World::new(false);
    let bare = || {
        let trust = world.client.trust(Authorizer::any());
        tls_client_config(world.clock.clone(), trust).unwrap()
    };
    let optional = world.server_config(ClientAuth::Optional, Authorizer::any());
    let both = handshake(bare(), optional.clone()).unwrap();
    assert_eq!(both.server.peer_certificates(), None);
    let required = world.server_config(ClientAuth::Required, Authorizer::any());
    assert_eq!(
        handshake(bare(), required).err(),
        Some(Error::NoCertificatesPresented)
    );
    // A client that has no SVID yet is one without certificate.
    *world.client.svid.lock().unwrap() = None;
    handshake(world.client_config(Authorizer::any()), optional.clone()).unwrap();
    // Optional does not mean unchecked.
    let key = p256();
    let stranger = Authority::new("example.org", false).issue("/client", &key);
    let stranger = any_client(&chain(&[&stranger]), &key);
    assert!(matches!(
        handshake(stranger, optional),
        Err(Error::InvalidCertificate(_))
    ));
}

#[test]
fn a_server_without_identity_serves_nobody() {
    let world = World::new(false);
    *world.server.svid.lock().unwrap() = None;
    let client = world.client_config(Authorizer::any());
    let server = world.server_config(ClientAuth::Optional, Authorizer::any());
    assert!(handshake(client, server).is_err());
}

#[test]
fn the_authorizer_decides_on_both_sides() {
    let world = World::new(false);
    let nobody = || Authorizer::new(|_| false);
    let refused = Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure);
    let client = world.client_config(nobody());
    let server = world.server_config(ClientAuth::Required, Authorizer::any());
    assert_eq!(handshake(client, server).err(), Some(refused.clone()));
    let client = world.client_config(Authorizer::any());
    let server = world.server_config(ClientAuth::Required, nobody());
    assert_eq!(handshake(client, server).err(), Some(refused.clone()));
    let other = Authorizer::exactly(id("spiffe://example.org/other"));
    let server = world.server_config(ClientAuth::Required, Authorizer::any());
    assert_eq!(
        handshake(world.client_config(other), server).err(),
        Some(refused)
    );
    let member = Authorizer::member_of(td("example.org"));
    let server = world.server_config(ClientAuth::Required, member.clone());
    handshake(world.client_config(member), server).unwrap();
    assert!(!Authorizer::member_of(td("other.test")).allows(&id("spiffe://example.org/w")));
}

#[test]
fn the_authorizer_is_not_asked_about_a_chain_that_does_not_verify() {
    let world = World::new(false);
    let server = world.server_config(
        ClientAuth::Required,
        Authorizer::new(|id| panic!("asked about {id}")),
    );
    let key = p256();
    let stranger = Authority::new("example.org", false).issue("/client", &key);
    assert!(handshake(any_client(&chain(&[&stranger]), &key), server).is_err());
}

#[test]
fn somebody_elses_certificate_is_of_no_use_without_its_key() {
    let world = World::new(false);
    let victim = world.authority.issue("/client", &p256());
    let thief: SigningKey = p256();
    let server = world.server_config(ClientAuth::Required, Authorizer::any());
    let client = any_client(&chain(&[&victim]), &thief);
    assert!(matches!(
        handshake(client, server),
        Err(Error::InvalidCertificate(_))
    ));
}
