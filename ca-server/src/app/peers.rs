//! How servers know each other.
//!
//! Always: a peer shows a certificate by the trust-domain key that names its node id; it counts only if
//! the replicated list has that server with that very key. Of nodes that the list does not have yet, only
//! those admitted later than it goes are believed, so that who was removed stays out.
//!
//! Not here: the certificates' rules (`mintmark_identity::svid::x509::peer`).

mod known_chains;

use std::sync::{Arc, PoisonError, RwLock};

use mintmark_identity::clock::Clock;
use mintmark_identity::key_manager::spki_sha256;
use mintmark_identity::secret::SecretBytes;
use mintmark_identity::svid::x509::peer::{PeerName, verify_peer_certificate};
use mintmark_identity::svid::x509::{Usage, X509Svid};
use mintmark_identity::tls::{
    Authorizer, SvidSource, TlsConfigError, TrustDomainKeySource, peer_client_config,
    peer_server_config,
};
use mintmark_runtime::tls::{ClientConfigSource, ServerConfigSource};
use rustls::ClientConfig;
use rustls_pki_types::CertificateDer;

use self::known_chains::KnownChains;
use crate::Consensus;
use crate::raft::{NodeId, PeerAuth};
use crate::state::State;

/// This server's part in the peers' protocol. A clone shares it.
#[derive(Debug, Clone)]
pub struct Peers(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    clock: Arc<dyn Clock>,
    own: RwLock<Own>,
    /// Consensus holds this server's part too, so whoever ends it breaks the circle.
    consensus: RwLock<Option<Consensus>>,
    known_chains: KnownChains,
    /// Connects to nobody.
    refusing: Arc<ClientConfig>,
}

/// Has no identity and knows nobody.
#[derive(Debug)]
struct Nobody;

impl SvidSource for Nobody {
    fn svid(&self) -> Option<Arc<X509Svid>> {
        None
    }
}

impl TrustDomainKeySource for Nobody {
    fn trust_domain_certificates(&self) -> Arc<Vec<Vec<u8>>> {
        Arc::default()
    }
}

#[derive(Debug, Default)]
struct Own {
    svid: Option<Arc<X509Svid>>,
    trust_domain_keys: Arc<Vec<Vec<u8>>>,
}

impl Peers {
    /// A server that cannot show who it is yet.
    ///
    /// # Errors
    /// Never in practice: TLS cannot be set up.
    pub fn new(clock: Arc<dyn Clock>) -> Result<Self, TlsConfigError> {
        let nobody: Arc<dyn SvidSource> = Arc::new(Nobody);
        let no_keys: Arc<dyn TrustDomainKeySource> = Arc::new(Nobody);
        let refusing = Authorizer::new(|_| false);
        let refusing = peer_client_config(Arc::clone(&clock), nobody, no_keys, refusing)?;
        Ok(Self(Arc::new(Inner {
            clock,
            own: RwLock::default(),
            consensus: RwLock::default(),
            known_chains: KnownChains::default(),
            refusing: Arc::new(refusing),
        })))
    }

    /// Shows `certificate` from now on, and believes certificates by the key of `key_certificate`.
    ///
    /// # Errors
    /// What is wrong with the certificate.
    pub fn show(
        &self,
        certificate: Vec<u8>,
        private_key: SecretBytes,
        key_certificate: Vec<u8>,
    ) -> Result<(), String> {
        let chain = vec![CertificateDer::from(certificate)];
        let svid = X509Svid::new(chain, private_key).map_err(|error| error.to_string())?;
        let mut own = self.0.own.write().unwrap_or_else(PoisonError::into_inner);
        own.svid = Some(Arc::new(svid));
        own.trust_domain_keys = Arc::new(vec![key_certificate]);
        Ok(())
    }

    /// Asks this consensus who is a server.
    pub fn follow(&self, consensus: Consensus) {
        *self
            .0
            .consensus
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Some(consensus);
    }

    /// Lets go of consensus, which has ended.
    pub fn forget(&self) {
        *self
            .0
            .consensus
            .write()
            .unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// TLS of the peers' port.
    ///
    /// # Errors
    /// Never in practice.
    pub fn server_tls(&self) -> Result<ServerConfigSource, TlsConfigError> {
        let (identity, keys) = (Arc::new(self.clone()), Arc::new(self.clone()));
        let authorizer = Authorizer::new(|id| PeerName::parse(id).is_some());
        let clock = Arc::clone(&self.0.clock);
        let config = Arc::new(peer_server_config(clock, identity, keys, authorizer)?);
        Ok(Arc::new(move || Arc::clone(&config)))
    }

    fn counts(&self, node: NodeId, spki: &[u8]) -> bool {
        let consensus = self
            .0
            .consensus
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        match consensus.as_ref() {
            Some(consensus) => consensus.read(|state| is_listed(state, node, spki)),
            // Before the log is open nothing is known of anybody, and after it nothing is served.
            None => true,
        }
    }
}

fn is_listed(state: &State, node: NodeId, spki: &[u8]) -> bool {
    match state.server(node) {
        Some(server) => server.peer_spki_sha256 == spki_sha256(spki),
        None => node >= state.next_server_id(),
    }
}

impl SvidSource for Peers {
    fn svid(&self) -> Option<Arc<X509Svid>> {
        self.0
            .own
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .svid
            .clone()
    }
}

impl TrustDomainKeySource for Peers {
    fn trust_domain_certificates(&self) -> Arc<Vec<Vec<u8>>> {
        let own = self.0.own.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&own.trust_domain_keys)
    }
}

impl PeerAuth for Peers {
    fn authorize(&self, node: NodeId, certificates: &[CertificateDer<'static>]) -> bool {
        let keys = self.trust_domain_certificates();
        let now = self.0.clock.now();
        let known = &self.0.known_chains;
        if let Some(peer) = known.recall(node, certificates, &keys, now) {
            return self.counts(node, &peer.public_key_spki);
        }
        match verify_peer_certificate(certificates, &keys, now, Usage::Either) {
            Ok(peer) => {
                let is_member =
                    peer.name.node_id == node && self.counts(node, &peer.public_key_spki);
                if is_member {
                    known.keep(node, certificates, keys, peer);
                }
                is_member
            }
            Err(error) => {
                tracing::debug!(node, %error, "a peer's certificate is refused");
                false
            }
        }
    }

    fn client_tls(&self, node: NodeId) -> Option<ClientConfigSource> {
        let (identity, keys) = (Arc::new(self.clone()), Arc::new(self.clone()));
        let authorizer =
            Authorizer::new(move |id| PeerName::parse(id).is_some_and(|name| name.node_id == node));
        let clock = Arc::clone(&self.0.clock);
        let config = match peer_client_config(clock, identity, keys, authorizer) {
            Ok(config) => Arc::new(config),
            Err(error) => {
                // Never plain text: rather no connection at all.
                tracing::error!(%error, "TLS between servers cannot be set up");
                Arc::clone(&self.0.refusing)
            }
        };
        Some(Arc::new(move || Arc::clone(&config)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use mintmark_proto::mintmark::raft::v1::{
        Actor, AdmitServer, Command, InitializeCluster, RemoveServer, actor, command,
    };
    use mintmark_proto::mintmark::state::v1::{LogKey, Server, Settings, TrustDomainKey};
    use mintmark_tlog::note::NoteSigner;

    use super::*;
    use crate::state::COMMAND_VERSION;

    fn spki(node: u8) -> Vec<u8> {
        vec![node; 8]
    }

    fn server(node: u8) -> Server {
        Server {
            incarnation: vec![node; 16],
            peer_spki_sha256: spki_sha256(&spki(node)).to_vec(),
            ..Server::default()
        }
    }

    fn apply(state: &mut State, index: u64, body: command::Body) {
        let actor = Actor {
            kind: actor::Kind::Local.into(),
            ..Actor::default()
        };
        let command = Command {
            version: COMMAND_VERSION,
            actor: Some(actor),
            body: Some(body),
            ..Command::default()
        };
        let result = state.apply(index, &command).result;
        assert_eq!(result.refusal, 0, "{}", result.detail);
    }

    fn admit(node: u8) -> command::Body {
        command::Body::AdmitServer(AdmitServer {
            server: Some(server(node)),
            ..AdmitServer::default()
        })
    }

    /// Servers 1 to 3.
    fn three() -> State {
        let origin = "example.org/audit/1";
        let signer = NoteSigner::from_seed(origin, &[7; 32]).unwrap();
        let initialize = InitializeCluster {
            trust_domain: "example.org".into(),
            cluster_id: vec![9; 16],
            settings: Some(Settings {
                ca_ttl_seconds: 86_400,
                x509_svid_ttl_seconds: 3_600,
                jwt_svid_ttl_seconds: 300,
                agent_svid_ttl_seconds: 3_600,
                ..Settings::default()
            }),
            trust_domain_key: Some(TrustDomainKey {
                certificate: vec![1],
                spki_sha256: vec![4; 32],
                vault_record: "tdk".into(),
            }),
            log_key: Some(LogKey {
                public_key: signer.verifier().public_key().to_vec(),
                origin: origin.into(),
                vault_record: "log".into(),
            }),
            first_server: Some(Server {
                node_id: 1,
                ..server(1)
            }),
            epoch: 1,
            ..InitializeCluster::default()
        };
        let mut state = State::new();
        apply(&mut state, 1, command::Body::InitializeCluster(initialize));
        apply(&mut state, 2, admit(2));
        apply(&mut state, 3, admit(3));
        state
    }

    #[test]
    fn a_removed_server_never_counts_again_whichever_its_id_was() {
        for removed in [2_u8, 3] {
            let mut state = three();
            let node_id = u64::from(removed);
            assert!(is_listed(&state, node_id, &spki(removed)));
            let remove = command::Body::RemoveServer(RemoveServer { node_id });
            apply(&mut state, 4, remove);
            assert!(!is_listed(&state, node_id, &spki(removed)), "{removed}");
            apply(&mut state, 5, admit(4));
            assert!(!is_listed(&state, node_id, &spki(removed)), "{removed}");
        }
    }

    #[test]
    fn a_server_counts_with_its_own_key_and_one_admitted_later_than_known_here_counts() {
        let state = three();
        assert!(is_listed(&state, 2, &spki(2)));
        assert!(!is_listed(&state, 2, &spki(3)), "another's key");
        assert!(is_listed(&state, 4, &spki(4)), "not applied here yet");
        assert!(is_listed(&State::new(), 1, &spki(1)), "an empty log");
    }
}
