//! The whole state as bytes.
//!
//! Responsible for: writing a snapshot and reading it back, with every index.
//! Always holds: what is read back equals what was written and goes on exactly
//! as it would have; nothing is taken from a snapshot unchecked.
//! Not here: where snapshots are kept and how they travel (`raft`).

use mintmark_identity::clock::Timestamp;
use mintmark_identity::entry::RegistrationEntry;
use mintmark_identity::spiffe_id::SpiffeId;
use mintmark_identity::trust_domain::TrustDomain;
use mintmark_proto::convert::ids::selectors_from_state;
use mintmark_proto::mintmark::state::v1::{Entry, LiveSerial, Snapshot, TreeRoot};
use mintmark_runtime::mutation::{self, Bug};
use mintmark_tlog::{Frontier, Hash};
use prost::Message as _;

use super::State;
use super::agents::Node;
use super::bundles::OwnBundle;
use super::event::EventRing;
use super::issuance::SERIAL_LENGTH;
use super::settings::{Cluster, check_log_key, check_settings};

/// Version of the format that is written.
const SNAPSHOT_VERSION: u32 = 1;

/// Bytes that are not a snapshot of a state.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// Not a snapshot message at all.
    #[error("the snapshot is not a protobuf message")]
    Encoding(#[source] prost::DecodeError),
    /// Written by a version that this build does not know.
    #[error("the snapshot has format version {0}, this build reads 1")]
    Version(u32),
    /// A record breaks a rule that every stored record keeps.
    #[error("the snapshot holds an impossible {0}")]
    Record(&'static str),
}

impl State {
    /// The whole state as bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut snapshot = Snapshot {
            version: SNAPSHOT_VERSION,
            applied_index: self.applied_index,
            command_time_ms: self.now.unix_millis(),
            entries: self.entries.iter().map(Entry::from).collect(),
            nodes: self.attested_nodes().cloned().collect(),
            join_tokens: self.tokens.iter().cloned().collect(),
            authorities: self.authorities.iter().cloned().collect(),
            servers: self.servers().cloned().collect(),
            vault_records: self.vault.records().cloned().collect(),
            wrapped_data_keys: self.vault.wrapped().cloned().collect(),
            audit_frontier: self.audit.frontier.encode(),
            last_checkpoint: self.audit.last_checkpoint.clone(),
            recent_roots: self.recent_roots(),
            idempotency: self.idempotency.records().collect(),
            live_serials: self.live_serials(),
            entry_counter: self.entries.deleted_revision_max,
            next_node_id: self.servers.next_id,
            ..Snapshot::default()
        };
        if mutation::is(Bug::SnapshotLacksTokens) {
            snapshot.join_tokens.clear();
        }
        if let Some(cluster) = &self.cluster {
            snapshot.trust_domain = cluster.trust_domain.as_str().to_owned();
            snapshot.cluster_id = cluster.cluster_id.to_vec();
            snapshot.epoch = cluster.epoch;
            snapshot.settings = Some(cluster.settings.clone());
            snapshot.trust_domain_key = Some(cluster.trust_domain_key.clone());
            snapshot.log_key = Some(cluster.log_key.clone());
            snapshot.bundle_counter = cluster.bundle.counter;
        }
        snapshot.encode_to_vec()
    }

    /// Reads what [`State::encode`] wrote.
    ///
    /// # Errors
    /// When the bytes are not a snapshot, are of another version, or hold what
    /// no state can hold.
    pub fn decode(bytes: &[u8]) -> Result<Self, SnapshotError> {
        let snapshot = Snapshot::decode(bytes).map_err(SnapshotError::Encoding)?;
        if snapshot.version != SNAPSHOT_VERSION {
            return Err(SnapshotError::Version(snapshot.version));
        }
        let mut state = Self {
            now: Timestamp::from_unix_millis(snapshot.command_time_ms),
            applied_index: snapshot.applied_index,
            ..Self::default()
        };
        state.restore_entries(&snapshot)?;
        state.restore_nodes(&snapshot)?;
        state.restore_tokens(&snapshot)?;
        state.restore_serials(&snapshot)?;
        state.restore_audit(&snapshot)?;
        state.restore_the_rest(&snapshot)?;
        state.cluster = state.restore_cluster(&snapshot)?;
        state.events = EventRing::starting_at(state.applied_position());
        Ok(state)
    }

    fn recent_roots(&self) -> Vec<TreeRoot> {
        let roots = self.audit.recent_roots.iter();
        roots
            .map(|(size, root)| TreeRoot {
                size: *size,
                root: root.to_vec(),
            })
            .collect()
    }

    fn live_serials(&self) -> Vec<LiveSerial> {
        let serials = self.serials.iter();
        serials
            .map(|(serial, not_after_ms)| LiveSerial {
                serial: serial.to_vec(),
                not_after_ms,
            })
            .collect()
    }

    fn restore_entries(&mut self, snapshot: &Snapshot) -> Result<(), SnapshotError> {
        for wire in &snapshot.entries {
            let entry = RegistrationEntry::try_from(wire);
            self.entries
                .put(entry.map_err(|_| SnapshotError::Record("entry"))?);
        }
        self.entries.deleted_revision_max = snapshot.entry_counter;
        Ok(())
    }

    fn restore_nodes(&mut self, snapshot: &Snapshot) -> Result<(), SnapshotError> {
        for record in &snapshot.nodes {
            let id = SpiffeId::parse(&record.agent_id);
            let selectors = selectors_from_state("selectors", &record.selectors);
            let (Ok(id), Ok(selectors)) = (id, selectors) else {
                return Err(SnapshotError::Record("attested node"));
            };
            self.nodes.put(
                id,
                Node {
                    record: record.clone(),
                    selectors,
                },
            );
        }
        Ok(())
    }

    fn restore_tokens(&mut self, snapshot: &Snapshot) -> Result<(), SnapshotError> {
        for token in &snapshot.join_tokens {
            let hash = <[u8; 32]>::try_from(&*token.token_sha256);
            let hash = hash.map_err(|_| SnapshotError::Record("join token"))?;
            self.tokens.put(hash, token.clone());
        }
        Ok(())
    }

    fn restore_serials(&mut self, snapshot: &Snapshot) -> Result<(), SnapshotError> {
        for live in &snapshot.live_serials {
            let serial = <[u8; SERIAL_LENGTH]>::try_from(&*live.serial);
            let serial = serial.map_err(|_| SnapshotError::Record("serial number"))?;
            self.serials.insert(serial, live.not_after_ms);
        }
        Ok(())
    }

    fn restore_audit(&mut self, snapshot: &Snapshot) -> Result<(), SnapshotError> {
        let frontier = Frontier::decode(&snapshot.audit_frontier);
        self.audit.frontier = frontier.map_err(|_| SnapshotError::Record("audit frontier"))?;
        self.audit
            .last_checkpoint
            .clone_from(&snapshot.last_checkpoint);
        for known in &snapshot.recent_roots {
            let last = self.audit.recent_roots.back().map(|(size, _)| *size);
            let root = Hash::try_from(&*known.root);
            match root {
                Ok(root) if last.is_none_or(|last| last < known.size) => {
                    self.audit.recent_roots.push_back((known.size, root));
                }
                _ => return Err(SnapshotError::Record("tree root")),
            }
        }
        // Every command leaves the root behind that the tree then has; what is appended later must come
        // after it.
        let tree = (self.audit.frontier.size(), self.audit.frontier.root());
        if self
            .audit
            .recent_roots
            .back()
            .is_some_and(|last| *last != tree)
        {
            return Err(SnapshotError::Record("tree root"));
        }
        Ok(())
    }

    fn restore_the_rest(&mut self, snapshot: &Snapshot) -> Result<(), SnapshotError> {
        for authority in &snapshot.authorities {
            self.authorities.put(authority.clone());
        }
        for server in &snapshot.servers {
            self.servers.by_id.insert(server.node_id, server.clone());
        }
        self.servers.next_id = snapshot.next_node_id;
        for record in &snapshot.vault_records {
            self.vault.put_record(record.clone());
        }
        for key in &snapshot.wrapped_data_keys {
            self.vault.put_wrapped(key.clone());
        }
        for record in &snapshot.idempotency {
            if !self.idempotency.restore(record) {
                return Err(SnapshotError::Record("idempotency record"));
            }
        }
        Ok(())
    }

    fn restore_cluster(&self, snapshot: &Snapshot) -> Result<Option<Cluster>, SnapshotError> {
        if snapshot.trust_domain.is_empty() {
            return Ok(None);
        }
        let wrong = |what| move |_| SnapshotError::Record(what);
        let trust_domain = TrustDomain::parse(&snapshot.trust_domain)
            .map_err(|_| SnapshotError::Record("trust domain"))?;
        let cluster_id = <[u8; 16]>::try_from(&*snapshot.cluster_id)
            .map_err(|_| SnapshotError::Record("cluster id"))?;
        let settings = snapshot.settings.clone().unwrap_or_default();
        let ttls = check_settings(&settings).map_err(wrong("settings record"))?;
        let log_key = snapshot.log_key.clone().unwrap_or_default();
        let log_verifier = check_log_key(&log_key, &trust_domain).map_err(wrong("log key"))?;
        let bundle = OwnBundle::of(
            &trust_domain,
            &self.authorities,
            &settings,
            snapshot.epoch,
            snapshot.bundle_counter,
        );
        Ok(Some(Cluster {
            trust_domain,
            cluster_id,
            epoch: snapshot.epoch,
            settings,
            ttls,
            trust_domain_key: snapshot.trust_domain_key.clone().unwrap_or_default(),
            log_key,
            log_verifier,
            bundle,
        }))
    }
}
