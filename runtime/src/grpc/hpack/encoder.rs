//! An encoder for tests that uses everything HPACK has: both tables, Huffman code, size updates.

use super::huffman::{LENGTHS, LEVELS, SYMBOLS};
use super::table::Table;
use super::write_integer;

/// How one field is written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    pub(crate) representation: Representation,
    /// Whether an index is used where there is one.
    pub(crate) by_index: bool,
    pub(crate) huffman: bool,
    /// A size update before the field, if it is the block's first.
    pub(crate) resize: Option<usize>,
}

/// RFC 7541 section 6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Representation {
    Incremental,
    Without,
    Never,
}

/// The encoder of one direction of a connection.
#[derive(Debug)]
pub(crate) struct Encoder(Table);

impl Encoder {
    pub(crate) fn new(table_size: usize) -> Self {
        Self(Table::new(table_size))
    }

    /// A block of these fields.
    pub(crate) fn encode<'a>(
        &mut self,
        fields: impl IntoIterator<Item = (&'a [u8], &'a [u8], Style)>,
    ) -> Vec<u8> {
        let mut block = Vec::new();
        for (name, value, style) in fields {
            if let Some(size) = style.resize.filter(|_| block.is_empty()) {
                write_integer(&mut block, 5, 0x20, size);
                self.0.resize(size).unwrap();
            }
            self.field(&mut block, name, value, style);
        }
        block
    }

    fn field(&mut self, block: &mut Vec<u8>, name: &[u8], value: &[u8], style: Style) {
        let whole = self.0.find(name, value);
        if let (Some(index), true, false) = (
            whole,
            style.by_index,
            style.representation == Representation::Never,
        ) {
            return write_integer(block, 7, 0x80, index);
        }
        let (prefix, flags) = match style.representation {
            Representation::Incremental => (6, 0x40),
            Representation::Without => (4, 0),
            Representation::Never => (4, 0x10),
        };
        let index = self.0.find_name(name).filter(|_| style.by_index);
        write_integer(block, prefix, flags, index.unwrap_or(0));
        if index.is_none() {
            write_string(block, name, style.huffman);
        }
        write_string(block, value, style.huffman);
        if style.representation == Representation::Incremental {
            self.0.insert(name, value);
        }
    }
}

fn write_string(block: &mut Vec<u8>, text: &[u8], huffman: bool) {
    if huffman {
        let coded = huffman_code(text);
        write_integer(block, 7, 0x80, coded.len());
        block.extend(coded);
    } else {
        write_integer(block, 7, 0, text.len());
        block.extend(text);
    }
}

/// The code of a symbol, in the upper bits of a 32-bit window.
pub(crate) fn code_of(symbol: u16) -> (u64, usize) {
    let length = usize::from(LENGTHS[usize::from(symbol)]);
    let level = LEVELS[length];
    let place = SYMBOLS[level.offset..]
        .iter()
        .position(|other| *other == symbol)
        .unwrap();
    (level.first + ((place as u64) << (32 - length)), length)
}

/// A string in Huffman code, with its padding.
pub(crate) fn huffman_code(text: &[u8]) -> Vec<u8> {
    let mut coded = Vec::new();
    let (mut bits, mut count) = (0_u64, 0);
    for octet in text {
        let (code, length) = code_of(u16::from(*octet));
        bits |= (code << 32) >> count;
        count += length;
        while count >= 8 {
            coded.push(bits.to_be_bytes()[0]);
            bits <<= 8;
            count -= 8;
        }
    }
    if count > 0 {
        coded.push(bits.to_be_bytes()[0] | (0xff >> count));
    }
    coded
}
