//! The agent's own identity on disk.
//!
//! Responsible for: its keys in the keys directory, its certificates beside the other data, and
//! an order of writes in which a crash at any point loses nothing. Always holds: a new key is on
//! disk before a server hears of it; the old key stays until the certificates of the new one are
//! on disk. Not here: getting certificates (`agent_svid`).

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use mintmark_identity::{
    clock::Timestamp, secret::SecretBytes, spiffe_id::SpiffeId, svid::x509::X509Svid,
    trust_domain::TrustDomain,
};
use mintmark_runtime::disk::{Disk, MODE_DIRECTORY, MODE_PUBLIC, MODE_SECRET};
use mintmark_runtime::failpoint::{Step, reach};
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

use crate::{cache::state::Denial, csr::NewKey};

/// Version of the record's layout.
const VERSION: u32 = 1;

/// Where the files are.
#[derive(Clone, Debug)]
pub struct Store {
    disk: Arc<dyn Disk>,
    trust_domain: TrustDomain,
    record: PathBuf,
    denied: PathBuf,
    key: PathBuf,
    next_key: PathBuf,
}

/// The agent's SVID and when to renew it.
#[derive(Clone, Debug)]
pub struct Own {
    /// The SVID with its key.
    pub svid: Arc<X509Svid>,
    /// The certificates in DER, leaf first.
    pub chain: Vec<Vec<u8>>,
    /// When to renew it: drawn once.
    pub renew_at: Timestamp,
    /// Spreads a forced renewal over the agents of a fleet.
    pub draw: u64,
    /// What it was attested with.
    pub evidence: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    version: u32,
    trust_domain: String,
    agent_id: String,
    certificates: Vec<String>,
    renew_at_ms: i64,
    draw: u64,
    evidence: String,
}

/// That the trust domain denied the agent that was here.
#[derive(Clone, Serialize, Deserialize, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields)]
pub struct Denied {
    /// Whether it was banned; evicted otherwise.
    pub banned: bool,
    /// Which agent it was.
    pub agent_id: String,
    /// What it had been attested with.
    pub evidence: String,
}

impl Denied {
    /// The denial.
    #[must_use]
    pub const fn denial(&self) -> Denial {
        if self.banned {
            Denial::Banned
        } else {
            Denial::Evicted
        }
    }
}

/// Why the identity on disk cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file cannot be read or written.
    #[error("{} cannot be read or written", path.display())]
    Disk {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The identity is of another trust domain.
    #[error("{} holds an identity of trust domain {found}", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Whose identity it is.
        found: String,
    },
}

impl Store {
    /// Files in these directories, which are made if missing.
    ///
    /// # Errors
    /// When a directory cannot be made.
    pub fn open(
        disk: Arc<dyn Disk>,
        trust_domain: TrustDomain,
        data_dir: &Path,
        keys_dir: &Path,
    ) -> Result<Self, StoreError> {
        for path in [data_dir, keys_dir] {
            disk.create_dir_all(path, MODE_DIRECTORY)
                .map_err(|source| StoreError::Disk {
                    path: path.to_owned(),
                    source,
                })?;
        }
        Ok(Self {
            disk,
            trust_domain,
            record: data_dir.join("agent.json"),
            denied: data_dir.join("denied.json"),
            key: keys_dir.join("agent.key"),
            next_key: keys_dir.join("agent.next.key"),
        })
    }

    fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
        match self.disk.read(path) {
            Ok(content) => Ok(Some(content)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(StoreError::Disk {
                path: path.to_owned(),
                source,
            }),
        }
    }

    fn write(&self, path: &Path, content: &[u8], mode: u32) -> Result<(), StoreError> {
        self.disk
            .write_atomic(path, content, mode)
            .map_err(|source| StoreError::Disk {
                path: path.to_owned(),
                source,
            })
    }

    fn remove(&self, path: &Path) -> Result<(), StoreError> {
        match self.disk.remove_file(path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(StoreError::Disk {
                path: path.to_owned(),
                source,
            }),
            _ => Ok(()),
        }
    }

    /// The identity on disk, if there is one, whichever of the two keys it is of.
    ///
    /// # Errors
    /// When it cannot be read, is damaged, or belongs to another trust domain.
    pub fn load(&self) -> Result<Option<Own>, StoreError> {
        let Some(bytes) = self.read(&self.record)? else {
            return Ok(None);
        };
        let damaged = |reason: String| StoreError::Damaged {
            path: self.record.clone(),
            reason,
        };
        let record: Record =
            serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        if record.version != VERSION {
            return Err(damaged(format!("version {}", record.version)));
        }
        if record.trust_domain != self.trust_domain.as_str() {
            let path = self.record.clone();
            return Err(StoreError::Foreign {
                path,
                found: record.trust_domain,
            });
        }
        let chain = record.certificates.iter().map(|text| STANDARD.decode(text));
        let chain: Vec<Vec<u8>> = chain
            .collect::<Result<_, _>>()
            .map_err(|error| damaged(error.to_string()))?;
        let certificates: Vec<CertificateDer<'static>> = chain
            .iter()
            .map(|der| CertificateDer::from(der.clone()))
            .collect();
        let mut problem = "its key is missing".to_owned();
        for path in [&self.key, &self.next_key] {
            let Some(key) = self.read(path)? else {
                continue;
            };
            match X509Svid::new(certificates.clone(), SecretBytes::new(key)) {
                Ok(svid) => {
                    if path == &self.next_key {
                        self.promote()?;
                    } else {
                        self.drop_promoted()?;
                    }
                    let renew_at = Timestamp::from_unix_millis(record.renew_at_ms);
                    let (svid, evidence) = (Arc::new(svid), record.evidence);
                    let draw = record.draw;
                    return Ok(Some(Own {
                        svid,
                        chain,
                        renew_at,
                        draw,
                        evidence,
                    }));
                }
                Err(error) => problem = error.to_string(),
            }
        }
        Err(damaged(problem))
    }

    /// The key for the next SVID: the one that is on disk already, else a new one, on disk
    /// before it is returned. So a server that answered into the void meets the same key again.
    ///
    /// # Errors
    /// When it can neither be read nor written.
    pub fn next_key(&self, id: Option<&SpiffeId>) -> Result<NewKey, StoreError> {
        let damaged = |reason: String| StoreError::Damaged {
            path: self.next_key.clone(),
            reason,
        };
        if let Some(bytes) = self.read(&self.next_key)?.map(SecretBytes::new) {
            match NewKey::of(bytes.expose(), id) {
                Ok(key) => return Ok(key),
                Err(error) => tracing::warn!(%error, "the next key is damaged: making another"),
            }
        }
        let fresh = match id {
            Some(id) => NewKey::for_id(id),
            None => NewKey::nameless(),
        };
        let fresh = fresh.map_err(|error| damaged(error.to_string()))?;
        self.write(&self.next_key, &fresh.pkcs8, MODE_SECRET)?;
        reach(Step::AgentKeyMade);
        Ok(fresh)
    }

    /// The keys that a server may know this agent by: the present one, and the next one, whose
    /// certificates may have been lost on their way.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn known_keys(&self) -> Result<Vec<SecretBytes>, StoreError> {
        let mut keys = Vec::new();
        for path in [&self.key, &self.next_key] {
            keys.extend(self.read(path)?.map(SecretBytes::new));
        }
        Ok(keys)
    }

    /// Keeps a new SVID, and makes its key the present one if it is the next one.
    ///
    /// # Errors
    /// When a file cannot be written; the identity on disk is then the old or the new one.
    pub fn keep(&self, own: &Own) -> Result<(), StoreError> {
        let record = Record {
            version: VERSION,
            trust_domain: self.trust_domain.to_string(),
            agent_id: own.svid.spiffe_id().to_string(),
            certificates: own.chain.iter().map(|der| STANDARD.encode(der)).collect(),
            renew_at_ms: own.renew_at.unix_millis(),
            draw: own.draw,
            evidence: own.evidence.clone(),
        };
        let bytes = serde_json::to_vec_pretty(&record).map_err(|error| StoreError::Damaged {
            path: self.record.clone(),
            reason: error.to_string(),
        })?;
        self.write(&self.record, &bytes, MODE_PUBLIC)?;
        reach(Step::AgentRecordWritten);
        self.drop_or_promote(own)?;
        self.remove(&self.denied)?;
        reach(Step::AgentSvidKept);
        Ok(())
    }

    /// The key of an SVID becomes the present one, unless it is.
    fn drop_or_promote(&self, own: &Own) -> Result<(), StoreError> {
        let present = self.read(&self.key)?.map(SecretBytes::new);
        let is_own = |key: SecretBytes| key.expose() == own.svid.private_key().expose();
        if present.is_some_and(is_own) {
            return self.drop_promoted();
        }
        self.promote()
    }

    /// A crash in the middle of [`Self::promote`] leaves the present key as the next one too, which
    /// would then be certified again.
    fn drop_promoted(&self) -> Result<(), StoreError> {
        let [present, next] = [&self.key, &self.next_key].map(|path| self.read(path));
        let (present, next) = (present?.map(SecretBytes::new), next?.map(SecretBytes::new));
        if let (Some(present), Some(next)) = (present, next)
            && present.expose() == next.expose()
        {
            self.remove(&self.next_key)?;
        }
        Ok(())
    }

    fn promote(&self) -> Result<(), StoreError> {
        if let Some(key) = self.read(&self.next_key)?.map(SecretBytes::new) {
            self.write(&self.key, key.expose(), MODE_SECRET)?;
            reach(Step::AgentKeyPromoted);
            self.remove(&self.next_key)?;
        }
        Ok(())
    }

    /// Forgets the identity and notes why, when the trust domain denied it. A disk that has no room
    /// for the note still loses the identity.
    ///
    /// # Errors
    /// When a file cannot be written or removed.
    pub fn forget(&self, denied: Option<&Denied>) -> Result<(), StoreError> {
        let noted = denied.map_or(Ok(()), |denied| self.note(denied));
        reach(Step::DenialNoted);
        let removed = [&self.record, &self.next_key, &self.key].map(|path| self.remove(path));
        noted?;
        removed.into_iter().collect::<Result<(), _>>()?;
        reach(Step::DenialKept);
        Ok(())
    }

    fn note(&self, denied: &Denied) -> Result<(), StoreError> {
        let bytes = serde_json::to_vec_pretty(denied).map_err(|error| StoreError::Damaged {
            path: self.denied.clone(),
            reason: error.to_string(),
        })?;
        self.write(&self.denied, &bytes, MODE_PUBLIC)
    }

    /// Whether, and how, the agent that was here before was denied.
    ///
    /// # Errors
    /// When the note cannot be read.
    pub fn denied(&self) -> Result<Option<Denied>, StoreError> {
        let Some(bytes) = self.read(&self.denied)? else {
            return Ok(None);
        };
        // A note that cannot be read says nothing that keeps a new token from being tried.
        Ok(serde_json::from_slice(&bytes).ok())
    }
}

#[cfg(test)]
mod crashes;
