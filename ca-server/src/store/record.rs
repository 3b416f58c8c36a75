//! The envelope of every stored record: version, checksum, content.
//!
//! Responsible for: noticing any record that is not byte for byte what was written at
//! this place. Always holds: the checksum covers the table and the key too, so a record
//! that turns up at another key is damage. Not here: the content.

use thiserror::Error;

/// Format of the envelope.
const VERSION: u8 = 1;
/// Version byte and CRC32C.
const HEADER_LEN: usize = 5;

/// Why a record is not what was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Damage {
    /// Shorter than its header.
    #[error("it is cut short")]
    Short,
    /// Written by a newer server, or damaged.
    #[error("its version {0} is unknown")]
    Version(u8),
    /// The content changed.
    #[error("its checksum does not match")]
    Checksum,
    /// The checksum matches and yet it cannot be read.
    #[error("its content cannot be decoded")]
    Content,
    /// It stands where another one belongs.
    #[error("it belongs to another place")]
    Place,
}

/// Wraps `content` for its place.
#[must_use]
pub fn seal(table: &str, key: &[u8], content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_LEN.saturating_add(content.len()));
    out.push(VERSION);
    out.extend_from_slice(&checksum(table, key, content).to_le_bytes());
    out.extend_from_slice(content);
    out
}

/// The content, if it is what was written at this place.
///
/// # Errors
/// On any difference.
pub fn open<'a>(table: &str, key: &[u8], record: &'a [u8]) -> Result<&'a [u8], Damage> {
    let (version, rest) = record.split_first().ok_or(Damage::Short)?;
    let (sum, content) = rest.split_first_chunk::<4>().ok_or(Damage::Short)?;
    if *version != VERSION {
        return Err(Damage::Version(*version));
    }
    if u32::from_le_bytes(*sum) != checksum(table, key, content) {
        return Err(Damage::Checksum);
    }
    Ok(content)
}

fn checksum(table: &str, key: &[u8], content: &[u8]) -> u32 {
    let place = crc32c::crc32c(&[VERSION]);
    let place = crc32c::crc32c_append(place, table.as_bytes());
    let place = crc32c::crc32c_append(place, &[0]);
    let place = crc32c::crc32c_append(place, key);
    crc32c::crc32c_append(place, content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_opens_only_unchanged_and_at_its_place() {
        let record = seal("log", &[7], b"content");
        assert_eq!(open("log", &[7], &record), Ok(&b"content"[..]));
        assert_eq!(open("log", &[8], &record), Err(Damage::Checksum));
        assert_eq!(open("meta", &[7], &record), Err(Damage::Checksum));
        for bit in 0..record.len() * 8 {
            let mut damaged = record.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(open("log", &[7], &damaged).is_err(), "bit {bit}");
        }
        for length in 0..record.len() {
            assert!(open("log", &[7], &record[..length]).is_err());
        }
    }
}
