//! Sealed records and wrapped data keys.
//!
//! Responsible for: keeping the vault's bytes; nothing here can open them.
//! Always holds: a record or a wrapped key is never replaced by one under an
//! older data key.
//! Not here: sealing (`crate::vault`).

use std::collections::BTreeMap;

use mintmark_proto::mintmark::audit::v1::Leaf;
use mintmark_proto::mintmark::raft::v1::{CommandResult, PutVaultRecord, Refusal, WrapDataKey};
use mintmark_proto::mintmark::state::v1::{VaultRecord, WrappedDataKey};

use super::State;
use super::event::Event;
use super::turn::{Decided, Refused, Turn};

/// Longest name of a record.
const NAME_MAX: usize = 256;

/// Longest sealed record: keys and small secrets.
const SEALED_MAX: usize = 256 * 1024;

/// Records of one vault.
const RECORDS_MAX: usize = 10_000;

/// Data keys of one server that are kept: while records are sealed anew under
/// the next key, the one before is still needed.
const WRAPPED_KEPT: usize = 4;

/// All sealed bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct SealedVault {
    records: BTreeMap<String, VaultRecord>,
    wrapped: BTreeMap<(u64, u32), WrappedDataKey>,
}

impl SealedVault {
    pub(super) fn record(&self, name: &str) -> Option<&VaultRecord> {
        self.records.get(name)
    }

    pub(super) fn records(&self) -> impl Iterator<Item = &VaultRecord> {
        self.records.values()
    }

    pub(super) fn wrapped(&self) -> impl Iterator<Item = &WrappedDataKey> {
        self.wrapped.values()
    }

    pub(super) fn wrapped_for(
        &self,
        node_id: u64,
    ) -> impl DoubleEndedIterator<Item = &WrappedDataKey> {
        self.wrapped
            .range((node_id, 0)..=(node_id, u32::MAX))
            .map(|(_, key)| key)
    }

    pub(super) fn put_record(&mut self, record: VaultRecord) {
        self.records.insert(record.name.clone(), record);
    }

    pub(super) fn remove_record(&mut self, name: &str) -> bool {
        self.records.remove(name).is_some()
    }

    pub(super) fn put_wrapped(&mut self, key: WrappedDataKey) {
        let node_id = key.node_id;
        self.wrapped.insert((node_id, key.version), key);
        while self.wrapped_for(node_id).count() > WRAPPED_KEPT {
            let Some(oldest) = self.wrapped_for(node_id).next().map(|key| key.version) else {
                break;
            };
            self.wrapped.remove(&(node_id, oldest));
        }
    }

    pub(super) fn remove_wrapped(&mut self, node_id: u64) -> bool {
        let before = self.wrapped.len();
        self.wrapped.retain(|(node, _), _| *node != node_id);
        self.wrapped.len() != before
    }
}

impl State {
    pub(super) fn wrap_data_key(
        &mut self,
        turn: &mut Turn<'_>,
        body: &WrapDataKey,
    ) -> Decided<CommandResult> {
        let key = body.key.clone().unwrap_or_default();
        check_wrapped(&key)?;
        if self.server(key.node_id).is_none() {
            return Err(Refused::not_found(format!(
                "there is no server {}",
                key.node_id
            )));
        }
        let newest = self.vault.wrapped_for(key.node_id).next_back();
        if newest.is_some_and(|newest| newest.version > key.version) {
            return Err(Refused::conflict("the server has a newer data key"));
        }
        let subject = format!("server/{}", key.node_id);
        self.vault.put_wrapped(key);
        self.append_leaf(turn, vault_leaf(turn, "vault.wrap", &subject));
        turn.emit(Event::VaultChanged);
        Ok(CommandResult::default())
    }

    pub(super) fn put_vault_record(
        &mut self,
        turn: &mut Turn<'_>,
        body: &PutVaultRecord,
    ) -> Decided<CommandResult> {
        let record = body.record.clone().unwrap_or_default();
        self.check_vault_record(&record)?;
        let name = record.name.clone();
        self.vault.put_record(record);
        self.append_leaf(turn, vault_leaf(turn, "vault.put", &name));
        turn.emit(Event::VaultChanged);
        Ok(CommandResult::default())
    }

    /// Form and order of a record that is to be stored.
    pub(super) fn check_vault_record(&self, record: &VaultRecord) -> Decided<()> {
        if record.name.is_empty() || record.name.len() > NAME_MAX {
            return Err(Refused::invalid(
                "the vault record has no name, or too long a one",
            ));
        }
        if record.sealed.is_empty() || record.sealed.len() > SEALED_MAX {
            return Err(Refused::invalid("the vault record is empty or too long"));
        }
        match self.vault.record(&record.name) {
            Some(old) if old.data_key_version > record.data_key_version => Err(Refused::conflict(
                "the record is sealed under a newer data key already",
            )),
            None if self.vault.records.len() >= RECORDS_MAX => {
                let detail = format!("the vault has {RECORDS_MAX} records already");
                Err(Refused::new(Refusal::Limit, detail))
            }
            _ => Ok(()),
        }
    }

    /// The sealed record with this name.
    #[must_use]
    pub fn vault_record(&self, name: &str) -> Option<&VaultRecord> {
        self.vault.record(name)
    }

    /// All sealed records, in order of their names.
    pub fn vault_records(&self) -> impl Iterator<Item = &VaultRecord> {
        self.vault.records()
    }

    /// The newest data key that is wrapped for this server.
    #[must_use]
    pub fn wrapped_data_key(&self, node_id: u64) -> Option<&WrappedDataKey> {
        self.vault.wrapped_for(node_id).next_back()
    }

    /// Every data key that is wrapped for this server, the oldest first.
    pub fn wrapped_data_keys(&self, node_id: u64) -> impl Iterator<Item = &WrappedDataKey> {
        self.vault.wrapped_for(node_id)
    }
}

/// Form of a wrapped key.
pub(super) fn check_wrapped(key: &WrappedDataKey) -> Decided<()> {
    if key.wrapped.is_empty() || key.wrapped.len() > SEALED_MAX {
        return Err(Refused::invalid(
            "the wrapped data key is empty or too long",
        ));
    }
    Ok(())
}

fn vault_leaf(turn: &Turn<'_>, action: &str, subject: &str) -> Leaf {
    Leaf {
        action: action.to_owned(),
        subject: subject.to_owned(),
        request_sha256: turn.request_sha256.to_vec(),
        ..Leaf::default()
    }
}
