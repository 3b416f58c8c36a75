//! A sorted one-to-many map: what secondary indexes are made of.
//!
//! Always holds: a key without values is not kept, so equal contents are equal
//! maps.
//! Not here: which indexes exist (each table has its own).

use std::collections::{BTreeMap, BTreeSet};

/// Key to the set of its values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Index<K, V>(BTreeMap<K, BTreeSet<V>>);

impl<K, V> Default for Index<K, V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord + Clone, V: Ord + Clone> Index<K, V> {
    pub(super) fn insert(&mut self, key: &K, value: &V) {
        match self.0.get_mut(key) {
            Some(values) => values.insert(value.clone()),
            None => self
                .0
                .insert(key.clone(), BTreeSet::from([value.clone()]))
                .is_none(),
        };
    }

    pub(super) fn remove(&mut self, key: &K, value: &V) {
        if let Some(values) = self.0.get_mut(key) {
            values.remove(value);
            if values.is_empty() {
                self.0.remove(key);
            }
        }
    }

    pub(super) fn get(&self, key: &K) -> impl Iterator<Item = &V> {
        self.0.get(key).into_iter().flatten()
    }

    pub(super) fn count(&self, key: &K) -> usize {
        self.0.get(key).map_or(0, BTreeSet::len)
    }
}
