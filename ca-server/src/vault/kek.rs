//! The key-encryption key of one server, and the file that it seals.
//!
//! Always: the KEK never leaves the process and is never written; what is on disk is the vault
//! key pair sealed under it, with the salt and the cost that made it, and a check value, so that
//! a wrong KEK is told from a damaged file. A KEK that is absent is no error here: it seals the
//! server.
//!
//! Not here: the key pair's use (`wrap`), what happens while sealed (`vault`).

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mintmark_identity::entropy::{Entropy, draw_bytes};
use mintmark_identity::secret::SecretBytes;
use mintmark_runtime::disk::Disk;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use zeroize::Zeroizing;

use super::seal::{KEY_BYTES, SealContext, SealKey};
use super::wrap::{VaultKeyPair, VaultPublicKey};

/// Version of the sealed file's format.
const FORMAT: u32 = 1;
const SALT_BYTES: usize = 16;
const KEK_INFO: &[u8] = b"mintmark-kek-v1";
const CHECK_INFO: &[u8] = b"mintmark-kek-check-v1";
const RECORD_NAME: &str = "vault-key-pair";
/// Bits of a file mode that let others than the owner in.
const OTHERS: u32 = 0o077;

/// Where the key-encryption key comes from.
#[derive(Debug, Clone)]
pub enum KekSource {
    /// A file of 32 bytes, raw or as 64 hexadecimal digits, readable by its owner only.
    File(PathBuf),
    /// The same bytes, handed over by the service manager.
    Credential(PathBuf),
    /// A passphrase, stretched by Argon2id.
    Passphrase {
        /// Where the passphrase is.
        source: PassphraseSource,
        /// What a guess costs, for a file that is made new.
        cost: PassphraseCost,
    },
}

/// Where a passphrase is.
#[derive(Debug, Clone)]
pub enum PassphraseSource {
    /// In memory: it came from the environment. `None`: it was not set.
    Value(Option<SecretBytes>),
    /// In a file or a credential; a trailing line end is not part of it.
    File(PathBuf),
}

/// Parameters of Argon2id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassphraseCost {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over the memory.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

impl PassphraseCost {
    /// 256 MiB, three passes: about a second on the hardware of 2026.
    pub const DEFAULT: Self = Self {
        memory_kib: 256 * 1024,
        passes: 3,
        lanes: 4,
    };

    /// The most that a file may ask for, so that a changed file cannot exhaust the machine.
    const MAX_MEMORY_KIB: u32 = 4 * 1024 * 1024;
    const MAX_PASSES: u32 = 64;
    const MAX_LANES: u32 = 64;

    fn is_sane(&self) -> bool {
        self.memory_kib <= Self::MAX_MEMORY_KIB
            && self.passes <= Self::MAX_PASSES
            && self.lanes <= Self::MAX_LANES
    }
}

/// Why a KEK or the file it seals cannot be used.
#[derive(Debug, Error)]
pub enum KekError {
    /// The file exists and cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The key file does not hold 32 bytes.
    #[error("{} holds neither 32 bytes nor 64 hexadecimal digits", path.display())]
    KeyLength {
        /// The file.
        path: PathBuf,
    },
    /// Others than its owner may read the key file.
    #[error("{} has mode {mode:o}; a key must be readable by its owner only (0600)", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The passphrase is empty.
    #[error("the passphrase is empty")]
    EmptyPassphrase,
    /// The sealed file is damaged or of an unknown format.
    #[error("the sealed vault key {} is damaged or of a newer format", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// The KEK is not the one that sealed the file.
    #[error("the key-encryption key is not the one that sealed {}", path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
    },
    /// A file made from key bytes is opened with a passphrase, or the other way round.
    #[error("{} was sealed under a {sealed_with}, but a {configured} is configured", path.display())]
    OtherKind {
        /// The file.
        path: PathBuf,
        /// What sealed it.
        sealed_with: &'static str,
        /// What the configuration names.
        configured: &'static str,
    },
    /// The cryptographic library failed.
    #[error("the cryptographic library failed")]
    Crypto,
}

/// Secret input from which a KEK is derived.
struct Material {
    secret: SecretBytes,
    passphrase: Option<PassphraseCost>,
}

impl Material {
    fn kind(&self) -> &'static str {
        if self.passphrase.is_some() {
            "passphrase"
        } else {
            "key file"
        }
    }
}

impl KekSource {
    /// Reads the secret. `None`: it is absent, which seals the server.
    fn load(&self, disk: &dyn Disk) -> Result<Option<Material>, KekError> {
        match self {
            Self::File(path) => {
                let secret = read_key(disk, path, true)?;
                Ok(secret.map(|secret| Material {
                    secret,
                    passphrase: None,
                }))
            }
            Self::Credential(path) => {
                let secret = read_key(disk, path, false)?;
                Ok(secret.map(|secret| Material {
                    secret,
                    passphrase: None,
                }))
            }
            Self::Passphrase { source, cost } => {
                let Some(secret) = read_passphrase(disk, source)? else {
                    return Ok(None);
                };
                if secret.expose().is_empty() {
                    return Err(KekError::EmptyPassphrase);
                }
                Ok(Some(Material {
                    secret,
                    passphrase: Some(*cost),
                }))
            }
        }
    }

    /// Makes a key file where a key file is configured and none exists. Called only when the
    /// server's keys are made for the first time.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn create_if_absent(&self, disk: &dyn Disk, entropy: &dyn Entropy) -> Result<(), KekError> {
        let Self::File(path) = self else {
            return Ok(());
        };
        let present = disk.exists(path).map_err(|source| KekError::Read {
            path: path.clone(),
            source,
        })?;
        if present {
            return Ok(());
        }
        let mut text = Zeroizing::new(hex::encode(SealKey::draw(entropy).expose()));
        text.push('\n');
        disk.write_atomic(path, text.as_bytes(), 0o600)
            .map_err(|source| KekError::Write {
                path: path.clone(),
                source,
            })
    }
}

fn read_optional(disk: &dyn Disk, path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, KekError> {
    match disk.read(path) {
        Ok(bytes) => Ok(Some(Zeroizing::new(bytes))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(KekError::Read {
            path: path.to_owned(),
            source,
        }),
    }
}

fn read_key(
    disk: &dyn Disk,
    path: &Path,
    check_mode: bool,
) -> Result<Option<SecretBytes>, KekError> {
    let Some(bytes) = read_optional(disk, path)? else {
        return Ok(None);
    };
    if check_mode {
        let mode = disk.metadata_mode(path).map_err(|source| KekError::Read {
            path: path.to_owned(),
            source,
        })?;
        if mode & OTHERS != 0 {
            return Err(KekError::Exposed {
                path: path.to_owned(),
                mode: mode & 0o7777,
            });
        }
    }
    if bytes.len() == KEY_BYTES {
        return Ok(Some(SecretBytes::from(bytes.to_vec())));
    }
    let text = bytes.trim_ascii();
    let key = hex::decode(text).ok().filter(|key| key.len() == KEY_BYTES);
    key.map(|key| Some(SecretBytes::from(key)))
        .ok_or_else(|| KekError::KeyLength {
            path: path.to_owned(),
        })
}

fn read_passphrase(
    disk: &dyn Disk,
    source: &PassphraseSource,
) -> Result<Option<SecretBytes>, KekError> {
    match source {
        PassphraseSource::Value(value) => Ok(value.clone()),
        PassphraseSource::File(path) => Ok(read_optional(disk, path)?.map(|bytes| {
            let end = bytes
                .iter()
                .rposition(|byte| !matches!(byte, b'\r' | b'\n'));
            let text = bytes.get(..end.map_or(0, |index| index.saturating_add(1)));
            SecretBytes::from(text.unwrap_or_default().to_vec())
        })),
    }
}

/// What is on disk.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SealedFile {
    format: u32,
    /// Absent: sealed under key bytes.
    argon2id: Option<PassphraseCost>,
    salt: String,
    check: String,
    public: String,
    sealed: String,
}

/// The vault key pair on disk.
pub struct SealedKeyPair {
    path: PathBuf,
    cost: Option<PassphraseCost>,
    salt: Vec<u8>,
    check: Vec<u8>,
    public: VaultPublicKey,
    sealed: Vec<u8>,
}

impl SealedKeyPair {
    /// Reads the sealed file. `None`: there is none yet.
    ///
    /// # Errors
    /// When the file cannot be read or is not of this format.
    pub fn read(disk: &dyn Disk, path: &Path) -> Result<Option<Self>, KekError> {
        let Some(bytes) = read_optional(disk, path)? else {
            return Ok(None);
        };
        let damaged = || KekError::Damaged {
            path: path.to_owned(),
        };
        let file: SealedFile = serde_json::from_slice(&bytes).map_err(|_| damaged())?;
        if file.format != FORMAT || file.argon2id.is_some_and(|cost| !cost.is_sane()) {
            return Err(damaged());
        }
        let public = STANDARD.decode(&file.public).map_err(|_| damaged())?;
        Ok(Some(Self {
            path: path.to_owned(),
            cost: file.argon2id,
            salt: hex::decode(&file.salt).map_err(|_| damaged())?,
            check: hex::decode(&file.check).map_err(|_| damaged())?,
            public: VaultPublicKey::parse(&public).map_err(|_| damaged())?,
            sealed: STANDARD.decode(&file.sealed).map_err(|_| damaged())?,
        }))
    }

    /// Makes a key pair, seals it under the KEK and writes it.
    ///
    /// # Errors
    /// When the KEK is absent or malformed, or the file cannot be written.
    pub fn create(
        disk: &dyn Disk,
        path: &Path,
        source: &KekSource,
        entropy: &dyn Entropy,
    ) -> Result<Option<(Self, VaultKeyPair)>, KekError> {
        let Some(material) = source.load(disk)? else {
            return Ok(None);
        };
        let pair = VaultKeyPair::generate().map_err(|_| KekError::Crypto)?;
        let salt = draw_bytes::<SALT_BYTES>(entropy);
        let (kek, check) = derive(&material, material.passphrase, &salt)?;
        let sealed = kek
            .seal(&context(), pair.to_bytes().expose(), entropy)
            .map_err(|_| KekError::Crypto)?;
        let file = SealedFile {
            format: FORMAT,
            argon2id: material.passphrase,
            salt: hex::encode(salt),
            check: hex::encode(check),
            public: STANDARD.encode(pair.public().as_bytes()),
            sealed: STANDARD.encode(&sealed),
        };
        let text = serde_json::to_vec_pretty(&file).map_err(|_| KekError::Crypto)?;
        disk.write_atomic(path, &text, 0o600)
            .map_err(|source| KekError::Write {
                path: path.to_owned(),
                source,
            })?;
        let sealed_pair = Self {
            path: path.to_owned(),
            cost: material.passphrase,
            salt: salt.to_vec(),
            check: check.to_vec(),
            public: pair.public().clone(),
            sealed,
        };
        Ok(Some((sealed_pair, pair)))
    }

    /// The public half, which is known without the KEK.
    #[must_use]
    pub fn public(&self) -> &VaultPublicKey {
        &self.public
    }

    /// Opens the pair. `None`: the KEK is absent.
    ///
    /// # Errors
    /// [`KekError::Wrong`] for another KEK, [`KekError::Damaged`] when the KEK is right and
    /// the file is not.
    pub fn open(
        &self,
        disk: &dyn Disk,
        source: &KekSource,
    ) -> Result<Option<VaultKeyPair>, KekError> {
        let Some(material) = source.load(disk)? else {
            return Ok(None);
        };
        if material.passphrase.is_some() != self.cost.is_some() {
            return Err(KekError::OtherKind {
                path: self.path.clone(),
                sealed_with: if self.cost.is_some() {
                    "passphrase"
                } else {
                    "key file"
                },
                configured: material.kind(),
            });
        }
        let (kek, check) = derive(&material, self.cost, &self.salt)?;
        if !SecretBytes::from(check.to_vec()).ct_eq(&self.check) {
            return Err(KekError::Wrong {
                path: self.path.clone(),
            });
        }
        let damaged = || KekError::Damaged {
            path: self.path.clone(),
        };
        let bytes = kek.open(&context(), &self.sealed).map_err(|_| damaged())?;
        let pair = VaultKeyPair::from_bytes(bytes.expose()).map_err(|_| damaged())?;
        if pair.public() != &self.public {
            return Err(damaged());
        }
        Ok(Some(pair))
    }
}

impl fmt::Debug for SealedKeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealedKeyPair")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

fn context() -> SealContext<'static> {
    SealContext {
        cluster_id: &[],
        version: FORMAT,
        name: RECORD_NAME,
    }
}

/// The KEK, and a value that shows that it is the right one without saying anything of it.
fn derive(
    material: &Material,
    cost: Option<PassphraseCost>,
    salt: &[u8],
) -> Result<(SealKey, [u8; KEY_BYTES]), KekError> {
    let mut stretched = Zeroizing::new([0; KEY_BYTES]);
    let secret = match cost {
        None => material.secret.expose(),
        Some(cost) => {
            let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(KEY_BYTES))
                .map_err(|_| KekError::Crypto)?;
            Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
                .hash_password_into(material.secret.expose(), salt, stretched.as_mut_slice())
                .map_err(|_| KekError::Crypto)?;
            stretched.as_slice()
        }
    };
    let prk = Salt::new(HKDF_SHA256, salt).extract(secret);
    let expand = |info: &[u8]| -> Result<Zeroizing<[u8; KEY_BYTES]>, KekError> {
        let mut out = Zeroizing::new([0; KEY_BYTES]);
        prk.expand(&[info], HKDF_SHA256)
            .and_then(|okm| okm.fill(out.as_mut_slice()))
            .map_err(|_| KekError::Crypto)?;
        Ok(out)
    };
    Ok((SealKey::new(*expand(KEK_INFO)?), *expand(CHECK_INFO)?))
}

#[cfg(test)]
mod tests;
