//! Opened keys: what this server can sign with.
//!
//! Always: a key is opened from the sealed record that replicated state holds, at most once while it is
//! in use, and is dropped when its authority is. A sealed server has none.
//!
//! Not here: which authority signs (the state), what is signed (`issuance`, `statement`, `audit`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mintmark_identity::authority::AuthorityKey;
use mintmark_identity::entropy::Entropy;
use mintmark_identity::key_manager::KeyError;
use mintmark_identity::secret::SecretBytes;
use mintmark_proto::mintmark::state::v1::{Authority, VaultRecord, WrappedDataKey};
use mintmark_tlog::note::{NoteSigner, SignError};
use thiserror::Error;

use super::trust_domain_key::{TrustDomainKey, TrustDomainKeyError};
use crate::state::State;
use crate::vault::seal::SealKey;
use crate::vault::{Vault, VaultError, open_record, seal_record};

/// Why a key cannot be used.
#[derive(Debug, Error)]
pub enum KeyringError {
    /// The vault cannot open it.
    #[error("the vault does not give the key")]
    Vault(#[from] VaultError),
    /// The state holds no such record.
    #[error("vault record {name} does not exist")]
    NoRecord {
        /// Its name.
        name: String,
    },
    /// The state holds no data key for this server.
    #[error("this server was not admitted to the vault")]
    NotAdmitted,
    /// The opened bytes are no key.
    #[error("vault record {name} holds no usable key")]
    Key {
        /// The record.
        name: String,
        /// Why.
        source: KeyError,
    },
    /// The opened bytes are no log key.
    #[error("the log key cannot be used")]
    LogKey(#[source] SignError),
    /// The trust-domain key and its certificate do not fit.
    #[error("the trust-domain key cannot be used")]
    TrustDomainKey(#[from] TrustDomainKeyError),
    /// The cluster does not exist yet.
    #[error("the cluster is not initialised")]
    NotInitialized,
}

impl KeyringError {
    /// Whether the reason is that the KEK is absent.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        matches!(self, Self::Vault(VaultError::Sealed))
    }
}

/// A sealed record with what is needed to open it; copied out of the state, so that no lock is held
/// while it is opened.
#[derive(Debug)]
pub struct SealedRecord {
    cluster_id: Vec<u8>,
    wrapped: WrappedDataKey,
    record: VaultRecord,
}

impl SealedRecord {
    /// Copies record `name` out of the state, for the server `node_id`.
    ///
    /// # Errors
    /// When there is no such record, or no data key for this server.
    pub fn find(state: &State, node_id: u64, name: &str) -> Result<Self, KeyringError> {
        let record = state
            .vault_record(name)
            .ok_or_else(|| KeyringError::NoRecord {
                name: name.to_owned(),
            })?;
        let wrapped = state
            .wrapped_data_key(node_id)
            .ok_or(KeyringError::NotAdmitted)?;
        Ok(Self {
            cluster_id: state.cluster_id().map(|id| id.to_vec()).unwrap_or_default(),
            wrapped: wrapped.clone(),
            record: record.clone(),
        })
    }

    fn open(&self, vault: &Vault) -> Result<SecretBytes, KeyringError> {
        let data_key = vault.data_key(&self.cluster_id, &self.wrapped)?;
        Ok(open_record(&data_key, &self.cluster_id, &self.record)?)
    }
}

/// Everything this server can sign with.
#[derive(Debug)]
pub struct Keyring {
    vault: Arc<Vault>,
    node_id: u64,
    authorities: Mutex<BTreeMap<String, Arc<AuthorityKey>>>,
}

impl Keyring {
    /// A keyring over this server's vault.
    #[must_use]
    pub fn new(vault: Arc<Vault>, node_id: u64) -> Self {
        Self {
            vault,
            node_id,
            authorities: Mutex::new(BTreeMap::new()),
        }
    }

    /// The vault beneath.
    #[must_use]
    pub fn vault(&self) -> &Vault {
        &self.vault
    }

    /// This server's node id.
    #[must_use]
    pub fn node_id(&self) -> u64 {
        self.node_id
    }

    /// An authority's key, if it is open already.
    #[must_use]
    pub fn opened(&self, authority_id: &str) -> Option<Arc<AuthorityKey>> {
        self.lock().get(authority_id).cloned()
    }

    /// Opens an authority's key.
    ///
    /// # Errors
    /// When the server is sealed or the record is not usable.
    pub fn authority_key(
        &self,
        authority_id: &str,
        sealed: &SealedRecord,
    ) -> Result<Arc<AuthorityKey>, KeyringError> {
        if let Some(key) = self.opened(authority_id) {
            return Ok(key);
        }
        let bytes = sealed.open(&self.vault)?;
        let key = AuthorityKey::from_bytes(bytes.expose()).map_err(|source| KeyringError::Key {
            name: sealed.record.name.clone(),
            source,
        })?;
        let key = Arc::new(key);
        self.lock()
            .insert(authority_id.to_owned(), Arc::clone(&key));
        Ok(key)
    }

    /// Drops the keys of all authorities but these.
    pub fn retain(&self, authority_ids: &BTreeSet<String>) {
        self.lock().retain(|id, _| authority_ids.contains(id));
    }

    /// Opens the trust-domain key. It is used rarely, so it is not kept.
    ///
    /// # Errors
    /// When the server is sealed or the record is not usable.
    pub fn trust_domain_key(
        &self,
        certificate: &[u8],
        sealed: &SealedRecord,
    ) -> Result<TrustDomainKey, KeyringError> {
        let bytes = sealed.open(&self.vault)?;
        let key = AuthorityKey::from_bytes(bytes.expose()).map_err(|source| KeyringError::Key {
            name: sealed.record.name.clone(),
            source,
        })?;
        Ok(TrustDomainKey::new(certificate, key)?)
    }

    /// Opens the log's key.
    ///
    /// # Errors
    /// When the server is sealed or the record is not usable.
    pub fn log_signer(
        &self,
        origin: &str,
        sealed: &SealedRecord,
    ) -> Result<NoteSigner, KeyringError> {
        let bytes = sealed.open(&self.vault)?;
        let seed: &[u8; 32] = bytes.expose().try_into().map_err(|_| KeyringError::Key {
            name: sealed.record.name.clone(),
            source: KeyError::Malformed,
        })?;
        NoteSigner::from_seed(origin, seed).map_err(KeyringError::LogKey)
    }

    /// Seals the key of a new authority under the data key that this server holds.
    ///
    /// # Errors
    /// When the server is sealed.
    pub fn seal(
        &self,
        cluster_id: &[u8],
        wrapped: &WrappedDataKey,
        name: &str,
        plaintext: &[u8],
        entropy: &dyn Entropy,
    ) -> Result<VaultRecord, KeyringError> {
        let data_key = self.data_key(cluster_id, wrapped)?;
        Ok(seal_record(
            &data_key,
            wrapped.version,
            cluster_id,
            name,
            plaintext,
            entropy,
        )?)
    }

    /// The cluster's data key, to wrap it to a server that joins.
    ///
    /// # Errors
    /// When the server is sealed.
    pub fn data_key(
        &self,
        cluster_id: &[u8],
        wrapped: &WrappedDataKey,
    ) -> Result<SealKey, KeyringError> {
        Ok(self.vault.data_key(cluster_id, wrapped)?)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<AuthorityKey>>> {
        // Every critical section leaves the map whole.
        self.authorities
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The vault record that holds an authority's key.
#[must_use]
pub fn record_name(authority: &Authority) -> String {
    if authority.vault_record.is_empty() {
        format!("authority-{}", authority.id)
    } else {
        authority.vault_record.clone()
    }
}
