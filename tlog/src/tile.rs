//! Tiles and entry bundles of C2SP tlog-tiles: their names and their bytes.
//!
//! Always holds: a path parses to the tile that writes it and to no other; a
//! full tile holds 256 hashes, a partial one says its width in its path.
//!
//! Not here: serving or storing tiles.

use std::fmt;

use thiserror::Error;

use crate::tree::{HASH_LENGTH, Hash};

/// Hashes (or entries) of a full tile.
pub const TILE_WIDTH: u64 = 256;

/// Tree levels that one tile level spans: log2 of [`TILE_WIDTH`].
pub const TILE_HEIGHT: u8 = 8;

/// Highest tile level of a tree with 2^64 leaves.
const LEVEL_MAX: u8 = 7;

/// Longest entry: bundles prefix each with 16 bits of length.
pub const ENTRY_LENGTH_MAX: usize = u16::MAX as usize;

/// What a tile holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TileLevel {
    /// Hashes of the nodes at tree level `8 * level`.
    Hashes(u8),
    /// The entries themselves.
    Entries,
}

/// Names one tile, full or partial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TileId {
    /// What it holds.
    pub level: TileLevel,
    /// Position in its level.
    pub index: u64,
    /// Hashes or entries in it: 1 to 256.
    pub width: u16,
}

/// A path that names no tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("not the path of a tile")]
pub struct TilePathError;

/// A bundle that is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BundleError {
    /// An entry is longer than its 16-bit length prefix can say.
    #[error("entry {0} is longer than 65535 bytes")]
    EntryTooLong(usize),
    /// The bundle ends inside an entry.
    #[error("the bundle ends inside entry {0}")]
    Truncated(usize),
    /// More entries than a tile holds.
    #[error("more than 256 entries in one bundle")]
    TooMany,
}

/// Path of the hash tile at `level` and `index`, full when `partial` is 0 or 256.
#[must_use]
pub fn tile_path(level: u8, index: u64, partial: u16) -> String {
    let width = if partial == 0 {
        TILE_WIDTH as u16
    } else {
        partial
    };
    TileId {
        level: TileLevel::Hashes(level),
        index,
        width,
    }
    .to_string()
}

/// Path of the entry bundle at `index`, full when `partial` is 0 or 256.
#[must_use]
pub fn entries_path(index: u64, partial: u16) -> String {
    let width = if partial == 0 {
        TILE_WIDTH as u16
    } else {
        partial
    };
    TileId {
        level: TileLevel::Entries,
        index,
        width,
    }
    .to_string()
}

impl fmt::Display for TileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.level {
            TileLevel::Hashes(level) => write!(f, "tile/{level}/")?,
            TileLevel::Entries => f.write_str("tile/entries/")?,
        }
        // Groups of three digits; all but the last are marked with an x.
        let mut groups = Vec::new();
        let mut rest = self.index;
        loop {
            groups.push(rest % 1000);
            rest /= 1000;
            if rest == 0 {
                break;
            }
        }
        for (position, group) in groups.iter().enumerate().rev() {
            if position > 0 {
                write!(f, "x{group:03}/")?;
            } else {
                write!(f, "{group:03}")?;
            }
        }
        if u64::from(self.width) < TILE_WIDTH {
            write!(f, ".p/{}", self.width)
        } else {
            Ok(())
        }
    }
}

impl std::str::FromStr for TileId {
    type Err = TilePathError;

    fn from_str(path: &str) -> Result<Self, Self::Err> {
        let rest = path.strip_prefix("tile/").ok_or(TilePathError)?;
        let (level, rest) = rest.split_once('/').ok_or(TilePathError)?;
        let level = match level {
            "entries" => TileLevel::Entries,
            digits => TileLevel::Hashes(
                decimal(digits)
                    .and_then(|n| u8::try_from(n).ok())
                    .ok_or(TilePathError)?,
            ),
        };
        let (index_text, width) = match rest.split_once(".p/") {
            None => (rest, TILE_WIDTH as u16),
            Some((index, width)) => {
                let width = decimal(width).and_then(|n| u16::try_from(n).ok());
                (index, width.ok_or(TilePathError)?)
            }
        };
        let mut index = 0u64;
        for group in index_text.split('/') {
            let digits = group.strip_prefix('x').unwrap_or(group);
            if digits.len() != 3 || !digits.bytes().all(|b| b.is_ascii_digit()) {
                return Err(TilePathError);
            }
            let value = digits.parse::<u64>().map_err(|_| TilePathError)?;
            index = index.checked_mul(1000).ok_or(TilePathError)?;
            index = index.checked_add(value).ok_or(TilePathError)?;
        }
        let tile = Self {
            level,
            index,
            width,
        };
        // Writing it again refuses every second spelling: leading zero groups,
        // a missing or surplus x, a width of 256 spelled out.
        let level_known = !matches!(level, TileLevel::Hashes(n) if n > LEVEL_MAX);
        let canonical = level_known && (1..=256).contains(&width) && tile.to_string() == path;
        if canonical {
            Ok(tile)
        } else {
            Err(TilePathError)
        }
    }
}

fn decimal(text: &str) -> Option<u64> {
    text.bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| text.parse().ok())
        .flatten()
}

impl TileId {
    /// Nodes of the tree that a hash tile holds, as (tree level, first index,
    /// count); entry bundles hold the leaves with those indexes.
    #[must_use]
    pub fn nodes(&self) -> (u8, u64, u16) {
        let level = match self.level {
            TileLevel::Hashes(level) => level.saturating_mul(TILE_HEIGHT),
            TileLevel::Entries => 0,
        };
        (level, self.index.saturating_mul(TILE_WIDTH), self.width)
    }
}

/// Every tile that a tree of `size` leaves has, of which the tree of `since`
/// leaves had not: what is to be published when the tree grows. Entry bundles
/// come first, then hash tiles from the lowest level up.
pub fn tiles_added(since: u64, size: u64) -> impl Iterator<Item = TileId> {
    let entries = level_tiles(TileLevel::Entries, since, size);
    let hashes = (0..=LEVEL_MAX).flat_map(move |level| {
        let shift = u32::from(level) * u32::from(TILE_HEIGHT);
        level_tiles(TileLevel::Hashes(level), since >> shift, size >> shift)
    });
    entries.chain(hashes)
}

/// Tiles of one level that `nodes` nodes have and `before` nodes had not.
fn level_tiles(level: TileLevel, before: u64, nodes: u64) -> impl Iterator<Item = TileId> {
    let full = (before / TILE_WIDTH..nodes / TILE_WIDTH).map(move |index| TileId {
        level,
        index,
        width: TILE_WIDTH as u16,
    });
    let width = nodes % TILE_WIDTH;
    let partial = (width > 0 && nodes > before).then_some(TileId {
        level,
        index: nodes / TILE_WIDTH,
        width: width as u16,
    });
    full.chain(partial)
}

/// Bytes of a hash tile.
#[must_use]
pub fn encode_hashes(hashes: &[Hash]) -> Vec<u8> {
    hashes.as_flattened().to_vec()
}

/// Reads a hash tile; `None` unless it is 1 to 256 whole hashes.
#[must_use]
pub fn decode_hashes(bytes: &[u8]) -> Option<&[Hash]> {
    let (hashes, rest) = bytes.as_chunks::<HASH_LENGTH>();
    let fits = rest.is_empty() && (1..=TILE_WIDTH as usize).contains(&hashes.len());
    fits.then_some(hashes)
}

/// Bytes of an entry bundle: each entry behind its length in 16 bits, big-endian.
///
/// # Errors
/// When an entry is too long or there are more than 256.
pub fn encode_bundle<E: AsRef<[u8]>>(entries: &[E]) -> Result<Vec<u8>, BundleError> {
    if entries.len() > TILE_WIDTH as usize {
        return Err(BundleError::TooMany);
    }
    let mut out = Vec::new();
    for (position, entry) in entries.iter().enumerate() {
        let entry = entry.as_ref();
        let length = u16::try_from(entry.len()).map_err(|_| BundleError::EntryTooLong(position))?;
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(entry);
    }
    Ok(out)
}

/// Reads an entry bundle.
///
/// # Errors
/// When it ends inside an entry or holds more than 256.
pub fn decode_bundle(bytes: &[u8]) -> Result<Vec<&[u8]>, BundleError> {
    let mut entries = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        if entries.len() == TILE_WIDTH as usize {
            return Err(BundleError::TooMany);
        }
        let truncated = BundleError::Truncated(entries.len());
        let (length, tail) = rest.split_first_chunk::<2>().ok_or(truncated)?;
        let length = usize::from(u16::from_be_bytes(*length));
        let (entry, tail) = tail.split_at_checked(length).ok_or(truncated)?;
        entries.push(entry);
        rest = tail;
    }
    Ok(entries)
}
