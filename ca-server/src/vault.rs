//! The vault of one server: its key pair, and through it the cluster's data keys and records.
//!
//! Always: a server whose KEK is absent is *sealed*. It replicates everything and opens nothing,
//! and says so; it may be unsealed later without a restart. Opened data keys stay in memory only.
//!
//! Not here: the sealed records themselves (replicated state), what they mean (`authority`).

pub mod kek;
pub mod seal;
pub mod wrap;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use mintmark_identity::entropy::Entropy;
use mintmark_identity::secret::SecretBytes;
use mintmark_proto::mintmark::state::v1::{VaultRecord, WrappedDataKey};
use mintmark_runtime::disk::Disk;
use thiserror::Error;

use self::kek::{KekError, KekSource, SealedKeyPair};
use self::seal::{SealContext, SealError, SealKey};
use self::wrap::{VaultKeyPair, VaultPublicKey, WrapContext, WrapError};

/// Why something in the vault cannot be used.
#[derive(Debug, Error)]
pub enum VaultError {
    /// The KEK is absent.
    #[error("this server is sealed: its key-encryption key is absent")]
    Sealed,
    /// The state holds no data key for this server.
    #[error("data key {version} was not wrapped to this server")]
    NotAdmitted {
        /// The version of the data key.
        version: u32,
    },
    /// The wrapped data key does not open.
    #[error("the cluster's data key does not open")]
    DataKey(#[source] WrapError),
    /// A record does not open.
    #[error("vault record {name} does not open")]
    Record {
        /// Its name.
        name: String,
        /// Why.
        source: SealError,
    },
}

/// The vault of this server.
pub struct Vault {
    file: PathBuf,
    source: KekSource,
    sealed: SealedKeyPair,
    opened: Mutex<Opened>,
}

#[derive(Default)]
struct Opened {
    pair: Option<Arc<VaultKeyPair>>,
    /// By cluster and version; a server knows one cluster, and the key of the map shows it.
    data_keys: BTreeMap<(Vec<u8>, u32), SealKey>,
}

impl Vault {
    /// Opens the vault that is on disk, or makes one.
    ///
    /// # Errors
    /// When the KEK is wrong, the file is damaged, or a new vault has no KEK to be sealed under.
    pub fn open_or_create(
        disk: &dyn Disk,
        file: &Path,
        source: KekSource,
        entropy: &dyn Entropy,
    ) -> Result<Self, OpenVaultError> {
        if let Some(sealed) = SealedKeyPair::read(disk, file)? {
            let pair = sealed.open(disk, &source)?;
            return Ok(Self::new(file, source, sealed, pair));
        }
        source.create_if_absent(disk, entropy)?;
        let made = SealedKeyPair::create(disk, file, &source, entropy)?;
        let (sealed, pair) = made.ok_or(OpenVaultError::NoKek)?;
        Ok(Self::new(file, source, sealed, Some(pair)))
    }

    fn new(
        file: &Path,
        source: KekSource,
        sealed: SealedKeyPair,
        pair: Option<VaultKeyPair>,
    ) -> Self {
        let opened = Opened {
            pair: pair.map(Arc::new),
            data_keys: BTreeMap::new(),
        };
        Self {
            file: file.to_owned(),
            source,
            sealed,
            opened: Mutex::new(opened),
        }
    }

    /// Whether the KEK is absent.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        self.lock().pair.is_none()
    }

    /// Looks for the KEK again. Returns whether the vault is open now.
    ///
    /// # Errors
    /// When a KEK has appeared and is the wrong one.
    pub fn try_unseal(&self, disk: &dyn Disk) -> Result<bool, KekError> {
        if !self.is_sealed() {
            return Ok(true);
        }
        let pair = self.sealed.open(disk, &self.source)?;
        let found = pair.is_some();
        self.lock().pair = pair.map(Arc::new);
        Ok(found)
    }

    /// The key that others wrap data keys to.
    #[must_use]
    pub fn public_key(&self) -> &VaultPublicKey {
        self.sealed.public()
    }

    /// Opens the data key that `wrapped` holds for this server.
    ///
    /// # Errors
    /// [`VaultError::Sealed`] without a KEK; otherwise the key is not for this server.
    pub fn data_key(
        &self,
        cluster_id: &[u8],
        wrapped: &WrappedDataKey,
    ) -> Result<SealKey, VaultError> {
        let cached = (cluster_id.to_vec(), wrapped.version);
        let mut opened = self.lock();
        if let Some(key) = opened.data_keys.get(&cached) {
            return Ok(key.clone());
        }
        let pair = opened.pair.clone().ok_or(VaultError::Sealed)?;
        let context = WrapContext {
            cluster_id,
            version: wrapped.version,
        };
        let key = pair
            .unwrap(&context, &wrapped.wrapped)
            .map_err(VaultError::DataKey)?;
        opened.data_keys.insert(cached, key.clone());
        Ok(key)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Opened> {
        // Every critical section only reads or replaces whole values.
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vault")
            .field("file", &self.file)
            .field("sealed", &self.is_sealed())
            .finish_non_exhaustive()
    }
}

/// Why the vault on disk cannot be opened or made.
#[derive(Debug, Error)]
pub enum OpenVaultError {
    /// The KEK or the sealed file cannot be used.
    #[error("the vault cannot be opened")]
    Kek(#[from] KekError),
    /// There is no vault yet, and no KEK to seal a new one under.
    #[error("a new vault needs a key-encryption key, and the configured one is absent")]
    NoKek,
}

/// Seals `plaintext` as the vault record `name`.
///
/// # Errors
/// When the cipher fails.
pub fn seal_record(
    data_key: &SealKey,
    version: u32,
    cluster_id: &[u8],
    name: &str,
    plaintext: &[u8],
    entropy: &dyn Entropy,
) -> Result<VaultRecord, VaultError> {
    let context = SealContext {
        cluster_id,
        version,
        name,
    };
    let sealed = data_key
        .seal(&context, plaintext, entropy)
        .map_err(|source| VaultError::Record {
            name: name.to_owned(),
            source,
        })?;
    Ok(VaultRecord {
        name: name.to_owned(),
        data_key_version: version,
        sealed,
    })
}

/// Opens a vault record.
///
/// # Errors
/// When the record was sealed under another key, cluster or name, or was changed.
pub fn open_record(
    data_key: &SealKey,
    cluster_id: &[u8],
    record: &VaultRecord,
) -> Result<SecretBytes, VaultError> {
    let context = SealContext {
        cluster_id,
        version: record.data_key_version,
        name: &record.name,
    };
    data_key
        .open(&context, &record.sealed)
        .map_err(|source| VaultError::Record {
            name: record.name.clone(),
            source,
        })
}
