//! The ground a server stands on: its directories, addresses, keys and log.
//!
//! Always: what can fail is tried before anything is changed that others know of; an interrupted first
//! start or admission is finished by the next start.
//!
//! Not here: what runs on it (`assemble`).

use std::sync::Arc;
use std::time::Duration;

use mintmark_identity::entropy::draw_bytes;
use mintmark_proto::mintmark::cluster::v1::{JoinRequest, JoinResponse};
use mintmark_runtime::cause::chain;
use mintmark_runtime::failpoint::{Step, reach};
use mintmark_runtime::host::Host;
use mintmark_runtime::task::Tasks;
use tokio::time::Instant;

use super::error::StartError;
use super::found::{FOUNDER, Foundation, Founder};
use super::jobs::OwnRecord;
use super::listeners::Listeners;
use super::peers::Peers;
use super::place::{Membership, PeerKey, Place};
use crate::Consensus;
use crate::cluster::join::{Door, join};
use crate::config::checked::JoinSecret;
use crate::config::{Config, Join};
use crate::raft::{ClusterId, RaftConfig};
use crate::state::State;
use crate::vault::Vault;

/// How long a server goes on asking a cluster that cannot be reached to admit it.
const JOIN_PATIENCE: Duration = Duration::from_secs(30);
/// Between two such questions.
const JOIN_PAUSE: Duration = Duration::from_millis(200);

/// What is there before consensus is opened.
pub struct Ground {
    pub(super) host: Host,
    pub(super) config: Arc<Config>,
    pub(super) place: Place,
    pub(super) peer_key: PeerKey,
    pub(super) vault: Arc<Vault>,
    pub(super) peers: Peers,
    pub(super) listeners: Listeners,
    pub(super) tasks: Tasks,
}

impl Ground {
    /// Everything that can be found out or bound without changing what a cluster knows.
    pub(super) async fn prepare(
        host: Host,
        config: Config,
        tasks: Tasks,
    ) -> Result<Self, StartError> {
        let disk = Arc::clone(&host.disk);
        let place = Place::open(Arc::clone(&disk), &config, host.entropy.as_ref())?;
        place.check_keys()?;
        reach(Step::PlaceMade);
        let listeners = Listeners::bind(&host, &config).await?;
        let vault = Vault::open_or_create(
            disk.as_ref(),
            &place.vault_file(),
            config.kek.clone(),
            host.entropy.as_ref(),
        )?;
        reach(Step::VaultKeyMade);
        let peer_key = place.peer_key()?;
        reach(Step::PeerKeyMade);
        let peers = Peers::new(Arc::clone(&host.clock))?;
        let config = Arc::new(config);
        let vault = Arc::new(vault);
        Ok(Self {
            host,
            config,
            place,
            peer_key,
            vault,
            peers,
            listeners,
            tasks,
        })
    }

    /// Asks a member to admit this server.
    pub(super) async fn join(&mut self, how: &Join, record: &OwnRecord) -> Result<(), StartError> {
        let token = match &how.token {
            JoinSecret::Value(token) => token.expose().to_vec(),
            JoinSecret::File(path) => {
                self.host
                    .disk
                    .read(path)
                    .map_err(|error| StartError::File {
                        path: path.clone(),
                        problem: error.to_string(),
                    })?
            }
        };
        let token = String::from_utf8_lossy(token.trim_ascii()).into_owned();
        let door = Door {
            address: how.address.clone(),
            pin: how.pin,
            trust_domain: self.config.trust_domain.clone(),
        };
        let request = JoinRequest {
            token,
            name: record.name.clone(),
            peer_csr: self.peer_key.csr().to_vec(),
            incarnation: self.place.incarnation().to_vec(),
            peer_address: record.peer_address.clone(),
            api_address: record.api_address.clone(),
            vault_public_key: self.vault.public_key().as_bytes().to_vec(),
        };
        let answer = self.admitted(&door, request).await?;
        let cluster_id = <[u8; 16]>::try_from(answer.cluster_id.as_slice())
            .map_err(|_| StartError::JoinAnswer("cluster_id is not 16 bytes".to_owned()))?;
        tracing::info!(node_id = answer.node_id, "admitted to the cluster");
        reach(Step::JoinAnswered);
        self.place.remember(Membership::new(
            answer.node_id,
            cluster_id,
            &answer.trust_domain_key_certificate,
            &answer.peer_certificate,
            false,
        ))?;
        reach(Step::JoinRemembered);
        Ok(())
    }

    /// Joins, and asks again while the member cannot be reached: a cluster that has just been made has
    /// no SVID to answer with yet. The token admits one key, so asking twice is asking once.
    async fn admitted(
        &self,
        door: &Door,
        request: JoinRequest,
    ) -> Result<JoinResponse, StartError> {
        let patience = Instant::now() + JOIN_PATIENCE;
        loop {
            let refused = match join(&self.host, door, request.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(refused) => refused,
            };
            if !refused.may_pass() || Instant::now() >= patience {
                return Err(refused.into());
            }
            tracing::info!(reason = chain(&refused), "the cluster is asked again");
            tokio::time::sleep(JOIN_PAUSE).await;
        }
    }

    /// Opens the log; makes the cluster when there is none.
    pub(super) async fn open_consensus(
        &mut self,
        record: &OwnRecord,
    ) -> Result<Consensus, StartError> {
        let known = self.place.membership().cloned();
        let cluster_id = match &known {
            Some(known) => known
                .cluster_id()
                .ok_or_else(|| self.bad_identity("cluster_id"))?,
            None => draw_bytes::<16>(self.host.entropy.as_ref()),
        };
        let node_id = known.as_ref().map_or(FOUNDER, |known| known.node_id);
        if let Some(known) = &known {
            let certificates = known.certificates();
            let (key, own) = certificates.ok_or_else(|| self.bad_identity("a certificate"))?;
            self.show(own, key)?;
        } else {
            // Remembered before the log is made, so that a start that is interrupted finds it again.
            self.place
                .remember(Membership::new(FOUNDER, cluster_id, &[], &[], true))?;
            reach(Step::FounderRemembered);
        }
        let raft = RaftConfig::new(
            node_id,
            ClusterId(cluster_id),
            record.peer_address.clone(),
            self.place.raft_folder(),
        )
        .with_snapshots_every(self.config.snapshot_entries);
        let auth = Arc::new(self.peers.clone());
        let consensus = Consensus::open(&self.host, &raft, auth, &self.tasks).await?;
        self.peers.follow(consensus.clone());
        Ok(consensus)
    }

    /// Makes the cluster, unless it is made or somebody else's.
    pub(super) async fn found_if_needed(
        &mut self,
        consensus: &Consensus,
        record: &OwnRecord,
    ) -> Result<(), StartError> {
        let known = self.place.membership().filter(|known| known.founder);
        let Some(cluster_id) = known.and_then(Membership::cluster_id) else {
            return Ok(());
        };
        if consensus.is_member() {
            let complete = self.place.membership().and_then(Membership::certificates);
            if complete.is_some_and(|(key, own)| !key.is_empty() && !own.is_empty()) {
                return Ok(());
            }
            // A start was interrupted: the log says how far it came.
            let interrupted = |_| StartError::Init("the log of a first start is stuck".to_owned());
            consensus.read_index().await.map_err(interrupted)?;
            if let Some((key, own)) = consensus.read(founded) {
                return self.founded(cluster_id, &key, &own);
            }
        } else {
            consensus
                .bootstrap()
                .await
                .map_err(|error| StartError::Init(error.to_string()))?;
            reach(Step::ClusterBootstrapped);
        }
        let founder = Founder {
            incarnation: self.place.incarnation(),
            peer_address: record.peer_address.clone(),
            api_address: record.api_address.clone(),
        };
        let foundation = Foundation::lay(
            &self.host,
            &self.config,
            cluster_id,
            &founder,
            &self.peer_key,
            self.vault.public_key(),
        )?;
        let (key, own) = (
            foundation.key_certificate.clone(),
            foundation.peer_certificate.clone(),
        );
        reach(Step::FoundationLaid);
        foundation.propose(consensus).await?;
        reach(Step::FoundationCommitted);
        self.founded(cluster_id, &key, &own)?;
        reach(Step::FoundationRemembered);
        tracing::info!(trust_domain = %self.config.trust_domain, "cluster made");
        Ok(())
    }

    fn founded(&mut self, cluster_id: [u8; 16], key: &[u8], own: &[u8]) -> Result<(), StartError> {
        self.show(own.to_vec(), key.to_vec())?;
        self.place
            .remember(Membership::new(FOUNDER, cluster_id, key, own, true))
    }

    fn show(&self, own: Vec<u8>, key: Vec<u8>) -> Result<(), StartError> {
        if own.is_empty() || key.is_empty() {
            return Ok(());
        }
        let private = self.peer_key.pkcs8().clone();
        self.peers
            .show(own, private, key)
            .map_err(|problem| self.bad_identity(&format!("the peer certificate ({problem})")))
    }

    fn bad_identity(&self, what: &str) -> StartError {
        let problem = format!("{what} cannot be used");
        StartError::File {
            path: self.place.data().join("server.json"),
            problem,
        }
    }
}

/// Certificates of the trust-domain key and of the founder, when the cluster is made.
fn founded(state: &State) -> Option<(Vec<u8>, Vec<u8>)> {
    let key = state.trust_domain_key()?.certificate.clone();
    Some((key, state.server(FOUNDER)?.peer_certificate.clone()))
}
