//! Results of commands that may be sent again.
//!
//! Responsible for: giving a repeated request its first result.
//! Always holds: a key stands for one request; results are kept for 24 h, at
//! most [`RECORDS_MAX`] of them and [`BYTES_MAX`] bytes, the oldest go first.
//! Not here: issuance, whose retries are new intents.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mintmark_identity::clock::Timestamp;
use mintmark_proto::mintmark::raft::v1::CommandResult;
use mintmark_proto::mintmark::state::v1::IdempotencyRecord;
use mintmark_runtime::mutation::{self, Bug};
use prost::Message as _;

use super::turn::{Decided, Refused};

/// How long a result is kept.
pub const KEPT_FOR: Duration = Duration::from_secs(24 * 3_600);

/// Most results that are kept.
pub const RECORDS_MAX: usize = 10_000;

/// Most bytes of results that are kept: a result may hold a thousand entries.
pub const BYTES_MAX: usize = 64 * 1024 * 1024;

/// An idempotency key.
pub(super) type Key = [u8; 16];

/// Remembered results.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Idempotency {
    by_key: BTreeMap<Key, Remembered>,
    by_expiry: BTreeSet<(i64, Key)>,
    bytes: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Remembered {
    request_sha256: [u8; 32],
    result: Vec<u8>,
    expires_at_ms: i64,
}

impl Idempotency {
    /// The result of the first command with this key, if there is one.
    pub(super) fn find(
        &self,
        key: &Key,
        request: &[u8; 32],
        now: Timestamp,
    ) -> Decided<Option<CommandResult>> {
        let Some(record) = self.by_key.get(key) else {
            return Ok(None);
        };
        if mutation::is(Bug::ResultForgotten) {
            return Ok(None);
        }
        if record.expires_at_ms <= now.unix_millis() {
            return Ok(None);
        }
        if record.request_sha256 != *request {
            return Err(Refused::conflict(
                "the idempotency key belongs to another request",
            ));
        }
        let result = CommandResult::decode(&*record.result);
        Ok(result.ok().map(|result| CommandResult {
            replayed: true,
            ..result
        }))
    }

    pub(super) fn remember(
        &mut self,
        key: Key,
        request_sha256: [u8; 32],
        result: &CommandResult,
        now: Timestamp,
    ) {
        let expires_at_ms = now.saturating_add(KEPT_FOR).unix_millis();
        let result = result.encode_to_vec();
        self.put(
            key,
            Remembered {
                request_sha256,
                result,
                expires_at_ms,
            },
        );
        while self.by_key.len() > RECORDS_MAX || self.bytes > BYTES_MAX {
            let Some((_, oldest)) = self.by_expiry.first().copied() else {
                break;
            };
            self.forget(&oldest);
        }
    }

    /// Drops what ended at `now` or before.
    pub(super) fn prune(&mut self, now: Timestamp) {
        while let Some((at, key)) = self.by_expiry.first().copied() {
            if at > now.unix_millis() {
                break;
            }
            self.forget(&key);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }

    pub(super) fn records(&self) -> impl Iterator<Item = IdempotencyRecord> {
        self.by_key.iter().map(|(key, record)| IdempotencyRecord {
            key: key.to_vec(),
            request_sha256: record.request_sha256.to_vec(),
            result: record.result.clone(),
            expires_at_ms: record.expires_at_ms,
        })
    }

    /// Takes back a record that [`Idempotency::records`] gave; whether it is one.
    pub(super) fn restore(&mut self, record: &IdempotencyRecord) -> bool {
        let key = Key::try_from(&*record.key);
        let request = <[u8; 32]>::try_from(&*record.request_sha256);
        let (Ok(key), Ok(request_sha256)) = (key, request) else {
            return false;
        };
        let result = record.result.clone();
        self.put(
            key,
            Remembered {
                request_sha256,
                result,
                expires_at_ms: record.expires_at_ms,
            },
        );
        true
    }

    fn put(&mut self, key: Key, record: Remembered) {
        self.forget(&key);
        self.bytes = self.bytes.saturating_add(record.result.len());
        self.by_expiry.insert((record.expires_at_ms, key));
        self.by_key.insert(key, record);
    }

    fn forget(&mut self, key: &Key) {
        if let Some(record) = self.by_key.remove(key) {
            self.bytes = self.bytes.saturating_sub(record.result.len());
            self.by_expiry.remove(&(record.expires_at_ms, *key));
        }
    }
}
