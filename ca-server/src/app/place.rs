//! What a server keeps of itself on disk: who it is, and the key by which its peers know it.
//!
//! Always: the data directory is one server's at a time, and one trust domain's; the peer key lies in the
//! keys directory, outside of it, readable by its owner only. A directory that belongs to somebody else is
//! left as it is.
//!
//! Not here: the vault (`vault`), the replicated log (`raft`).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mintmark_identity::entropy::{Entropy, draw_bytes};
use mintmark_identity::key_manager::{KeyAlgorithm, SigningKey};
use mintmark_identity::secret::SecretBytes;
use mintmark_identity::svid::x509::VerifiedCsr;
use mintmark_identity::svid::x509::certificate::Certificate;
use mintmark_identity::trust_domain::TrustDomain;
use mintmark_runtime::disk::{Disk, DiskLock, MODE_DIRECTORY, MODE_SECRET};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use serde::{Deserialize, Serialize};

use super::error::StartError;
use crate::config::Config;

const FORMAT: u32 = 1;
const LOCK_FILE: &str = "server.lock";
const IDENTITY_FILE: &str = "server.json";
const PEER_KEY_FILE: &str = "peer.key";
const VAULT_FILE: &str = "vault.key";
const RAFT_FOLDER: &str = "raft";
/// Bits of a file mode that let others than the owner in.
const OTHERS: u32 = 0o077;

/// Who this server is. Written when it made a cluster or was admitted to one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Membership {
    /// Its node id.
    pub node_id: u64,
    /// 16 bytes that name the cluster, hexadecimal.
    pub cluster_id: String,
    /// Certificate of the trust-domain key, base64 of DER.
    pub trust_domain_key_certificate: String,
    /// Its own peer certificate, base64 of DER.
    pub peer_certificate: String,
    /// Whether it made the cluster, and so may have to finish making it.
    pub founder: bool,
}

impl Membership {
    /// From what a cluster gave.
    #[must_use]
    pub fn new(
        node_id: u64,
        cluster_id: [u8; 16],
        key_certificate: &[u8],
        peer_certificate: &[u8],
        founder: bool,
    ) -> Self {
        Self {
            node_id,
            cluster_id: hex::encode(cluster_id),
            trust_domain_key_certificate: STANDARD.encode(key_certificate),
            peer_certificate: STANDARD.encode(peer_certificate),
            founder,
        }
    }

    /// The cluster's name.
    #[must_use]
    pub fn cluster_id(&self) -> Option<[u8; 16]> {
        hex::decode(&self.cluster_id).ok()?.try_into().ok()
    }

    /// Certificates of the trust-domain key and of this server.
    #[must_use]
    pub fn certificates(&self) -> Option<(Vec<u8>, Vec<u8>)> {
        let key = STANDARD.decode(&self.trust_domain_key_certificate).ok()?;
        let own = STANDARD.decode(&self.peer_certificate).ok()?;
        Some((key, own))
    }
}

/// The file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct IdentityFile {
    format: u32,
    trust_domain: String,
    /// 16 bytes, hexadecimal; drawn once, so that a repeated admission is recognised.
    incarnation: String,
    membership: Option<Membership>,
    /// CRC-32C of this file without this field, hexadecimal: a certificate that rotted would not be
    /// noticed here, but would shut this server out of its own cluster.
    #[serde(default)]
    checksum: String,
}

impl IdentityFile {
    fn computed_checksum(&self) -> Option<String> {
        let unsealed = Self {
            checksum: String::new(),
            ..self.clone()
        };
        let bytes = serde_json::to_vec(&unsealed).ok()?;
        Some(format!("{:08x}", crc32c::crc32c(&bytes)))
    }
}

/// The directories of this server, locked.
#[derive(Debug)]
pub struct Place {
    disk: Arc<dyn Disk>,
    data: PathBuf,
    keys: PathBuf,
    identity: IdentityFile,
    incarnation: [u8; 16],
    _lock: Box<dyn DiskLock>,
}

impl Place {
    /// Makes and locks the directories, and reads who this server is.
    ///
    /// # Errors
    /// When a directory cannot be used, is in use, or is somebody else's.
    pub fn open(
        disk: Arc<dyn Disk>,
        config: &Config,
        entropy: &dyn Entropy,
    ) -> Result<Self, StartError> {
        let (data, keys) = (config.data_dir.clone(), config.keys_dir.clone());
        for path in [&data, &keys] {
            disk.create_dir_all(path, MODE_DIRECTORY)
                .map_err(|source| StartError::Directory {
                    path: path.clone(),
                    source,
                })?;
        }
        let lock = disk
            .lock_exclusive(&data.join(LOCK_FILE))
            .map_err(|source| {
                if source.kind() == io::ErrorKind::WouldBlock {
                    StartError::Locked { path: data.clone() }
                } else {
                    StartError::Directory {
                        path: data.clone(),
                        source,
                    }
                }
            })?;
        let file = data.join(IDENTITY_FILE);
        let identity = match read_optional(&*disk, &file)? {
            Some(bytes) => parse(&file, &bytes)?,
            None => IdentityFile {
                format: FORMAT,
                trust_domain: config.trust_domain.to_string(),
                incarnation: hex::encode(draw_bytes::<16>(entropy)),
                membership: None,
                checksum: String::new(),
            },
        };
        check_owner(&identity, &config.trust_domain, &data)?;
        let incarnation = hex::decode(&identity.incarnation).ok();
        let incarnation = incarnation.and_then(|bytes| bytes.try_into().ok());
        let damaged = || damaged(&file, "its incarnation is not 16 bytes");
        let incarnation = incarnation.ok_or_else(damaged)?;
        let place = Self {
            disk,
            data,
            keys,
            identity,
            incarnation,
            _lock: lock,
        };
        // Before anybody is asked to admit this server, so that it can ask again.
        place.write_identity()?;
        Ok(place)
    }

    /// Who this server is, once it is a member.
    #[must_use]
    pub fn membership(&self) -> Option<&Membership> {
        self.identity.membership.as_ref()
    }

    /// Remembers who this server is.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn remember(&mut self, membership: Membership) -> Result<(), StartError> {
        self.identity.membership = Some(membership);
        self.write_identity()
    }

    fn write_identity(&self) -> Result<(), StartError> {
        let path = self.data.join(IDENTITY_FILE);
        let sealed = IdentityFile {
            checksum: self.identity.computed_checksum().unwrap_or_default(),
            ..self.identity.clone()
        };
        let text = serde_json::to_vec_pretty(&sealed)
            .map_err(|error| damaged(&path, &error.to_string()))?;
        self.disk
            .write_atomic(&path, &text, MODE_SECRET)
            .map_err(|source| StartError::Directory {
                path: self.data.clone(),
                source,
            })
    }

    /// Tells this server's stores from those of one that was wiped.
    #[must_use]
    pub fn incarnation(&self) -> [u8; 16] {
        self.incarnation
    }

    /// Where the replicated log lives.
    #[must_use]
    pub fn raft_folder(&self) -> PathBuf {
        self.data.join(RAFT_FOLDER)
    }

    /// Where other stores live.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Where the sealed vault key pair lives.
    #[must_use]
    pub fn vault_file(&self) -> PathBuf {
        self.keys.join(VAULT_FILE)
    }

    /// Checks that the keys directory holds the keys of the member whose data these are. Called before
    /// anything is made there.
    ///
    /// # Errors
    /// When it holds another server's, or none although this server is a member.
    pub fn check_keys(&self) -> Result<(), StartError> {
        let Some(member) = self.membership() else {
            return Ok(());
        };
        for path in [self.keys.join(PEER_KEY_FILE), self.vault_file()] {
            if read_optional(&*self.disk, &path)?.is_none() {
                let problem = "it is missing, although this server is a member; restore it, or \
                               remove the server from the cluster and join it anew";
                return Err(damaged(&path, problem));
            }
        }
        let own = member.certificates().map(|(_, own)| own);
        // An interrupted first start has none yet.
        let Some(own) = own.filter(|own| !own.is_empty()) else {
            return Ok(());
        };
        let certificate = Certificate::parse(&own)
            .map_err(|error| damaged(&self.data.join(IDENTITY_FILE), &error.to_string()))?;
        let key = self.peer_key()?;
        if certificate.parts.tbs.spki == key.verified().public_key_spki() {
            return Ok(());
        }
        Err(StartError::ForeignKeys {
            keys: self.keys.clone(),
            data: self.data.clone(),
            owner: format!("node {} of cluster {}", member.node_id, member.cluster_id),
        })
    }

    /// The key by which peers know this server; made when there is none.
    ///
    /// # Errors
    /// When it cannot be read, written or used, or others may read it.
    pub fn peer_key(&self) -> Result<PeerKey, StartError> {
        let path = self.keys.join(PEER_KEY_FILE);
        if let Some(pkcs8) = read_optional(&*self.disk, &path)? {
            let mode = self
                .disk
                .metadata_mode(&path)
                .map_err(|error| damaged(&path, &error.to_string()))?;
            if mode & OTHERS != 0 {
                let problem = format!("its mode is {:o}; it must be 0600", mode & 0o7777);
                return Err(damaged(&path, &problem));
            }
            return PeerKey::new(SecretBytes::from(pkcs8))
                .ok_or_else(|| damaged(&path, "it is no P-256 key"));
        }
        let make = || {
            let key = SigningKey::generate(KeyAlgorithm::EcP256).ok()?;
            PeerKey::new(SecretBytes::from(key.to_pkcs8().ok()?))
        };
        let key = make().ok_or_else(|| damaged(&path, "a key cannot be made"))?;
        self.disk
            .write_atomic(&path, key.pkcs8.expose(), MODE_SECRET)
            .map_err(|source| StartError::Directory {
                path: self.keys.clone(),
                source,
            })?;
        Ok(key)
    }
}

fn parse(path: &Path, bytes: &[u8]) -> Result<IdentityFile, StartError> {
    let file: IdentityFile =
        serde_json::from_slice(bytes).map_err(|error| damaged(path, &error.to_string()))?;
    if file.format != FORMAT {
        return Err(damaged(path, "it is of a newer format"));
    }
    if file.computed_checksum().as_ref() != Some(&file.checksum) {
        return Err(damaged(path, "its checksum does not fit"));
    }
    Ok(file)
}

fn check_owner(
    file: &IdentityFile,
    trust_domain: &TrustDomain,
    data: &Path,
) -> Result<(), StartError> {
    if file.trust_domain == trust_domain.as_str() {
        return Ok(());
    }
    Err(StartError::Foreign {
        path: data.to_owned(),
        found: format!("trust domain {}", file.trust_domain),
        expected: format!("trust domain {trust_domain}"),
    })
}

fn damaged(path: &Path, problem: &str) -> StartError {
    StartError::File {
        path: path.to_owned(),
        problem: problem.to_owned(),
    }
}

fn read_optional(disk: &dyn Disk, path: &Path) -> Result<Option<Vec<u8>>, StartError> {
    match disk.read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(damaged(path, &error.to_string())),
    }
}

/// A P-256 key of this server's own, with a request that proves it.
#[derive(Debug)]
pub struct PeerKey {
    pkcs8: SecretBytes,
    csr: Vec<u8>,
    verified: VerifiedCsr,
}

impl PeerKey {
    /// Reads a key; `None` when it is none that can sign a request.
    #[must_use]
    pub fn new(pkcs8: SecretBytes) -> Option<Self> {
        let key = KeyPair::try_from(pkcs8.expose()).ok()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let csr = params.serialize_request(&key).ok()?.der().to_vec();
        let verified = VerifiedCsr::verify(&csr).ok()?;
        Some(Self {
            pkcs8,
            csr,
            verified,
        })
    }

    /// A fresh key; `None` when the cryptographic library refuses.
    #[must_use]
    pub fn generate() -> Option<Self> {
        let key = SigningKey::generate(KeyAlgorithm::EcP256).ok()?;
        Self::new(SecretBytes::from(key.to_pkcs8().ok()?))
    }

    /// The private half, PKCS#8.
    #[must_use]
    pub fn pkcs8(&self) -> &SecretBytes {
        &self.pkcs8
    }

    /// The request, DER.
    #[must_use]
    pub fn csr(&self) -> &[u8] {
        &self.csr
    }

    /// The request, verified.
    #[must_use]
    pub fn verified(&self) -> &VerifiedCsr {
        &self.verified
    }

    /// Gives up the request and keeps the private half.
    #[must_use]
    pub fn into_parts(self) -> (SecretBytes, VerifiedCsr) {
        (self.pkcs8, self.verified)
    }
}
