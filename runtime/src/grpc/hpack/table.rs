//! The two tables of HPACK (RFC 7541 section 2.3 and appendix A).
//!
//! Always holds: the entries of the dynamic table together are no larger than its present size,
//! and that no larger than the size it was made with.

use std::collections::VecDeque;

use super::HpackError;

/// What the dynamic table is charged for each entry besides its text, RFC 7541 section 4.1.
const ENTRY_OVERHEAD: usize = 32;

/// Size of an entry, and of a field in a header list.
pub(super) const fn entry_size(name: &[u8], value: &[u8]) -> usize {
    name.len() + value.len() + ENTRY_OVERHEAD
}

#[derive(Debug)]
struct Entry {
    name: Box<[u8]>,
    value: Box<[u8]>,
}

impl Entry {
    const fn size(&self) -> usize {
        entry_size(&self.name, &self.value)
    }
}

/// The static table and one direction's dynamic table, in one index space.
#[derive(Debug)]
pub(super) struct Table {
    /// Newest first.
    entries: VecDeque<Entry>,
    size: usize,
    size_max: usize,
    /// What a size update may not go beyond.
    size_allowed: usize,
}

impl Table {
    pub(super) const fn new(size_allowed: usize) -> Self {
        Self {
            entries: VecDeque::new(),
            size: 0,
            size_max: size_allowed,
            size_allowed,
        }
    }

    /// Name and value at an index, which counts from 1.
    pub(super) fn get(&self, index: usize) -> Result<(&[u8], &[u8]), HpackError> {
        let index = index.checked_sub(1).ok_or(HpackError::Index)?;
        if let Some((name, value)) = STATIC.get(index) {
            return Ok((name.as_bytes(), value.as_bytes()));
        }
        let entry = self.entries.get(index - STATIC.len());
        let entry = entry.ok_or(HpackError::Index)?;
        Ok((&entry.name, &entry.value))
    }

    /// Adds an entry and drops the oldest ones for it. One that is larger than the whole table
    /// empties it, which is no error (RFC 7541 section 4.4).
    pub(super) fn insert(&mut self, name: &[u8], value: &[u8]) {
        let size = entry_size(name, value);
        self.shrink_to(self.size_max.saturating_sub(size));
        if size <= self.size_max {
            self.size += size;
            self.entries.push_front(Entry {
                name: name.into(),
                value: value.into(),
            });
        }
    }

    /// A dynamic table size update, RFC 7541 section 6.3.
    pub(super) fn resize(&mut self, size_max: usize) -> Result<(), HpackError> {
        if size_max > self.size_allowed {
            return Err(HpackError::Resize);
        }
        self.size_max = size_max;
        self.shrink_to(size_max);
        Ok(())
    }

    fn shrink_to(&mut self, size: usize) {
        while self.size > size
            && let Some(oldest) = self.entries.pop_back()
        {
            self.size -= oldest.size();
        }
    }

    #[cfg(test)]
    pub(super) const fn size(&self) -> usize {
        self.size
    }

    /// The index of a field, if it has one.
    #[cfg(test)]
    pub(super) fn find(&self, name: &[u8], value: &[u8]) -> Option<usize> {
        (1..=STATIC.len() + self.entries.len()).find(|index| self.get(*index) == Ok((name, value)))
    }

    /// The index of a field of that name, if there is one.
    #[cfg(test)]
    pub(super) fn find_name(&self, name: &[u8]) -> Option<usize> {
        (1..=STATIC.len() + self.entries.len())
            .find(|index| self.get(*index).is_ok_and(|(found, _)| found == name))
    }
}

/// RFC 7541 appendix A.
const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];
