//! Opening what an agent has on disk.
//!
//! Responsible for: the lock on the data directory, the identity, the trust, the pin and the
//! sealed cache. Always holds: nothing is changed in a directory that is not this agent's.
//! Not here: running anything.

use std::{io, path::Path, sync::Arc};

use mintmark_identity::clock::Timestamp;
use mintmark_runtime::{
    Host,
    disk::{DiskLock, MODE_DIRECTORY},
};
use sha2::{Digest, Sha256};

use super::StartError;
use crate::{
    agent_svid::{
        Tls,
        store::{Own, Store, StoreError},
    },
    attestation::{NodeAttestor, join_token::JoinToken},
    cache::{
        keeper::{Keeper, Place, cache_key},
        state::State,
    },
    code,
    config::{CacheKey, Config, Evidence},
    peer_tls,
    pinning::Pinning,
    trust::Trust,
};

/// What is opened before anything runs.
pub(super) struct Opened {
    pub lock: Box<dyn DiskLock>,
    pub store: Store,
    pub own: Option<Own>,
    pub trust: Trust,
    pub pinning: Pinning,
    pub attestor: Option<Box<dyn NodeAttestor>>,
    pub keeper: Keeper,
    pub state: State,
}

pub(super) fn open(host: &Host, config: &Config) -> Result<Opened, StartError> {
    let now = host.clock.now();
    let lock = lock(host, &config.data_dir)?;
    let domain = config.trust_domain.clone();
    let disk = Arc::clone(&host.disk);
    let store = Store::open(disk, domain.clone(), &config.data_dir, &config.keys_dir)
        .map_err(StartError::Identity)?;
    let own = match store.load() {
        Ok(own) => own,
        Err(error @ StoreError::Foreign { .. }) => return Err(StartError::Foreign(error)),
        Err(error @ StoreError::Disk { .. }) => return Err(StartError::Identity(error)),
        Err(error @ StoreError::Damaged { .. }) if config.evidence == Evidence::None => {
            return Err(StartError::Identity(error));
        }
        Err(error) => {
            tracing::error!(code = %code::DISK, %error, "attesting anew");
            None
        }
    };
    let anybody = Tls(peer_tls::towards_anybody(Arc::clone(&host.clock))?);
    let pin_file = config.data_dir.join("trust-domain-key.json");
    let configured = config.trust_domain_key;
    let pinning = Pinning::open(host.clone(), domain.clone(), pin_file, configured, anybody);
    let trust = Trust::open(
        Arc::clone(&host.disk),
        domain,
        config.data_dir.join("bundle.json"),
        config.trust_bundle_path.as_deref(),
        pinning.pin().is_some(),
        now,
    )?;
    let attestor = attestor(host, config, own.is_some())?;
    let (keeper, state) = keeper(host, config, own.as_ref(), now);
    trust.catch_up(&state);
    Ok(Opened {
        lock,
        store,
        own,
        trust,
        pinning,
        attestor,
        keeper,
        state,
    })
}

fn lock(host: &Host, data_dir: &Path) -> Result<Box<dyn DiskLock>, StartError> {
    let failed = |source| StartError::Disk {
        path: data_dir.to_owned(),
        source,
    };
    host.disk
        .create_dir_all(data_dir, MODE_DIRECTORY)
        .map_err(failed)?;
    host.disk
        .lock_exclusive(&data_dir.join("lock"))
        .map_err(|error| {
            if error.kind() == io::ErrorKind::WouldBlock {
                StartError::InUse {
                    path: data_dir.to_owned(),
                }
            } else {
                failed(error)
            }
        })
}

/// The token, if there is one. An agent that has an identity can do without: its file may long
/// be gone.
fn attestor(
    host: &Host,
    config: &Config,
    has_identity: bool,
) -> Result<Option<Box<dyn NodeAttestor>>, StartError> {
    let token = match config.evidence.token(host.disk.as_ref()) {
        Ok(token) => token,
        Err(_) if has_identity => None,
        Err(source) => {
            let path = match &config.evidence {
                Evidence::JoinTokenFile(path) => path.clone(),
                _ => config.data_dir.clone(),
            };
            return Err(StartError::Disk { path, source });
        }
    };
    Ok(token.map(|token| Box::new(JoinToken::new(token)) as Box<dyn NodeAttestor>))
}

/// The sealed cache, when the agent has an identity that it can belong to. Without a place for
/// its key there is none: SVIDs do not lie beside the key that opens them.
fn keeper(host: &Host, config: &Config, own: Option<&Own>, now: Timestamp) -> (Keeper, State) {
    let empty = State::new(config.trust_domain.clone());
    let file = config.data_dir.join("cache.sealed");
    let without = |empty: State| {
        // An older file must not come back when the key does: it may hold what was withdrawn.
        match host.disk.remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::error!(code = %code::DISK, %error, "the old cache cannot be removed");
            }
            _ => {}
        }
        (Keeper::without_file(host.clone(), empty.clone()), empty)
    };
    let CacheKey::In(dir) = &config.cache_key else {
        return without(empty);
    };
    let name = Sha256::digest(config.data_dir.as_os_str().as_encoded_bytes());
    let name: String = hex::encode(name).chars().take(16).collect();
    let key_file = dir.join(format!("cache-{name}.key"));
    let key = match cache_key(host, &key_file) {
        Ok(key) => key,
        Err(error) => {
            tracing::warn!(
                code = %code::DISK, %error, path = %key_file.display(),
                "no place for the cache key: SVIDs are in memory only"
            );
            return without(empty);
        }
    };
    let place = Place {
        file: config.data_dir.join("cache.sealed"),
        key,
    };
    let agent = own.map(|own| own.svid.spiffe_id().to_string());
    Keeper::open(host.clone(), place, agent, empty, now)
}
