//! Keys in this process's memory.
//!
//! Responsible for: [`MemoryKeyManager`], the simplest key manager.
//! Always holds: what the trait promises; keys are gone with the process.
//! Not here: anything that outlives the process.

use std::collections::BTreeMap;
use std::fmt;
use std::future::ready;
use std::sync::{Arc, Mutex, PoisonError};

use super::{BoxFuture, KeyAlgorithm, KeyError, KeyManager, KeyName, PublicKey, SigningKey};

/// Keeps keys in memory, for tests, development and short-lived tools.
#[derive(Default)]
pub struct MemoryKeyManager {
    keys: Mutex<BTreeMap<KeyName, Arc<SigningKey>>>,
}

impl MemoryKeyManager {
    /// A manager without keys.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn find(&self, name: &KeyName) -> Result<Arc<SigningKey>, KeyError> {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.get(name).cloned().ok_or(KeyError::NotFound)
    }

    fn keep(&self, name: &KeyName, key: SigningKey) -> Result<PublicKey, KeyError> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.contains_key(name) {
            return Err(KeyError::Exists);
        }
        let public = key.public_key();
        keys.insert(name.clone(), Arc::new(key));
        Ok(public)
    }
}

impl KeyManager for MemoryKeyManager {
    fn generate<'a>(
        &'a self,
        name: &'a KeyName,
        algorithm: KeyAlgorithm,
    ) -> BoxFuture<'a, Result<PublicKey, KeyError>> {
        let made = SigningKey::generate(algorithm).and_then(|key| self.keep(name, key));
        Box::pin(ready(made))
    }

    fn public_key<'a>(&'a self, name: &'a KeyName) -> BoxFuture<'a, Result<PublicKey, KeyError>> {
        Box::pin(ready(self.find(name).map(|key| key.public_key())))
    }

    fn sign<'a>(
        &'a self,
        name: &'a KeyName,
        message: &'a [u8],
    ) -> BoxFuture<'a, Result<Vec<u8>, KeyError>> {
        Box::pin(ready(self.find(name).and_then(|key| key.sign(message))))
    }

    fn remove<'a>(&'a self, name: &'a KeyName) -> BoxFuture<'a, Result<(), KeyError>> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.remove(name);
        Box::pin(ready(Ok(())))
    }

    fn import<'a>(
        &'a self,
        name: &'a KeyName,
        key: SigningKey,
    ) -> BoxFuture<'a, Result<PublicKey, KeyError>> {
        Box::pin(ready(self.keep(name, key)))
    }

    fn export<'a>(&'a self, name: &'a KeyName) -> BoxFuture<'a, Result<SigningKey, KeyError>> {
        let copied = self
            .find(name)
            .and_then(|key| SigningKey::from_pkcs8(key.algorithm(), &key.to_pkcs8()?));
        Box::pin(ready(copied))
    }
}

impl fmt::Debug for MemoryKeyManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        f.debug_set().entries(keys.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_key_manager, run_ready};

    #[test]
    fn memory_passes_the_conformance_suite() {
        run_ready(check_key_manager(&MemoryKeyManager::new()));
    }

    #[test]
    fn debug_names_keys_and_shows_none() {
        let manager = MemoryKeyManager::new();
        let name = KeyName::parse("a").unwrap();
        run_ready(manager.generate(&name, KeyAlgorithm::EcP256)).unwrap();
        assert_eq!(format!("{manager:?}"), "{KeyName(a)}");
    }
}
