//! A snapshot in memory: the bytes that travel and that a checkpoint stores.
//!
//! Responsible for: the content of a snapshot and its bound. Always holds: bytes of one
//! encoded `SnapshotContent`, shared, never copied for readers. Not here: the audit
//! leaves, which are fetched apart ([`super::backfill`]).

use std::fmt;

use bytes::Bytes;

/// Longest snapshot that is sent or accepted. A million entries take about half a
/// gigabyte; a peer that announces more is broken or hostile.
pub const SNAPSHOT_LEN_MAX: u64 = 2 * 1024 * 1024 * 1024;

/// Encoded `SnapshotContent`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SnapshotBytes(pub Bytes);

impl fmt::Debug for SnapshotBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SnapshotBytes({} bytes)", self.0.len())
    }
}
