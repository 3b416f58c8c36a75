//! How much an agent may make an application hold.
//!
//! Responsible for: the numbers, and saying which one an update exceeds. Always holds: an update beyond
//! a limit is discarded as a whole, so what is held is never a part of one. Not here: the size of a
//! message in bytes, which the client limits before it decodes it.

use crate::error::ClientError;

/// Limits of one update. The defaults are far beyond any workload and far below what hurts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most identities.
    pub identities: usize,
    /// Most trust domains with a bundle.
    pub bundles: usize,
    /// Most authorities in one bundle.
    pub authorities: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            identities: 1_000,
            bundles: 1_000,
            authorities: 1_000,
        }
    }
}

impl Limits {
    pub(crate) fn check_identities(&self, count: usize) -> Result<(), ClientError> {
        within("svids", count, self.identities)
    }

    pub(crate) fn check_bundles(&self, count: usize) -> Result<(), ClientError> {
        within("bundles", count, self.bundles)
    }

    pub(crate) fn check_authorities(&self, count: usize) -> Result<(), ClientError> {
        within("bundle", count, self.authorities)
    }
}

fn within(field: &'static str, count: usize, limit: usize) -> Result<(), ClientError> {
    if count > limit {
        let reason = format!("has {count} entries, more than the limit of {limit}");
        return Err(ClientError::malformed(field, reason));
    }
    Ok(())
}
