//! The Huffman code of HPACK (RFC 7541 section 5.2 and appendix B).
//!
//! Responsible for decoding strings. Always holds: the code is canonical, so the lengths of its
//! codes say everything; all tables are computed from them at compile time. Not here: lengths of
//! strings, which the caller bounds.

use super::HpackError;

/// Length in bits of the code of each symbol: the 256 octets, then the end of the string.
#[rustfmt::skip]
pub(super) const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];

/// The symbol that ends a string. It may only stand, cut short, in the padding.
const END: u16 = 256;

/// Longest code.
const BITS_MAX: usize = 30;

/// The codes of one length. Codes are compared as the upper bits of a 32-bit window.
#[derive(Clone, Copy)]
pub(super) struct Level {
    /// The lowest code of this length.
    pub(super) first: u64,
    /// Windows below this, and not of a shorter code, begin with a code of this length.
    limit: u64,
    /// Where the symbols of this length begin in [`SYMBOLS`].
    pub(super) offset: usize,
}

/// By length.
pub(super) const LEVELS: [Level; BITS_MAX + 1] = levels();

/// All symbols, by length of code and then by value.
pub(super) const SYMBOLS: [u16; LENGTHS.len()] = symbols();

const fn levels() -> [Level; BITS_MAX + 1] {
    let mut levels = [Level {
        first: 0,
        limit: 0,
        offset: 0,
    }; BITS_MAX + 1];
    let (mut next, mut offset, mut length) = (0, 0, 1);
    while length <= BITS_MAX {
        let first = next;
        let (mut count, mut symbol) = (0, 0);
        while symbol < LENGTHS.len() {
            if LENGTHS[symbol] as usize == length {
                next += 1 << (32 - length);
                count += 1;
            }
            symbol += 1;
        }
        levels[length] = Level {
            first,
            limit: next,
            offset,
        };
        offset += count;
        length += 1;
    }
    // Every window begins with some code.
    assert!(next == 1 << 32);
    levels
}

const fn symbols() -> [u16; LENGTHS.len()] {
    let mut symbols = [0; LENGTHS.len()];
    let (mut next, mut length) = (0, 1);
    while length <= BITS_MAX {
        let mut symbol = 0;
        while symbol <= END {
            if LENGTHS[symbol as usize] as usize == length {
                symbols[next] = symbol;
                next += 1;
            }
            symbol += 1;
        }
        length += 1;
    }
    symbols
}

/// The symbol that `window` begins with, and the length of its code.
fn symbol_at(window: u64) -> Option<(u16, usize)> {
    let (length, level) = LEVELS
        .iter()
        .enumerate()
        .find(|(_, level)| window < level.limit)?;
    let place = usize::try_from((window - level.first) >> (32 - length)).ok()?;
    Some((*SYMBOLS.get(level.offset + place)?, length))
}

/// Appends the decoded text to `into`.
///
/// # Errors
/// [`HpackError::Huffman`] for padding that is longer than seven bits or not all ones, and for
/// the end-of-string symbol.
pub(super) fn decode(text: &[u8], into: &mut Vec<u8>) -> Result<(), HpackError> {
    let mut octets = text.iter();
    // The bits not decoded yet, from the top; zeros follow.
    let (mut bits, mut count) = (0_u64, 0_usize);
    loop {
        while count <= 56
            && let Some(octet) = octets.next()
        {
            bits |= u64::from(*octet) << (56 - count);
            count += 8;
        }
        let (symbol, length) = symbol_at(bits >> 32).ok_or(HpackError::Huffman)?;
        if length > count {
            // Of the text only padding is left: the first bits of the end-of-string symbol.
            let padding_is_ones = bits.leading_ones() as usize == count;
            return if count < 8 && padding_is_ones {
                Ok(())
            } else {
                Err(HpackError::Huffman)
            };
        }
        into.push(u8::try_from(symbol).map_err(|_| HpackError::Huffman)?);
        bits <<= length;
        count -= length;
    }
}
