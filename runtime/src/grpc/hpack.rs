//! Reading header blocks (HPACK, RFC 7541).
//!
//! Responsible for turning the blocks of one connection, in order, into fields, and for writing a
//! field so that it can be read without any state. Always holds: the dynamic table stays within
//! the size it was made with; no bytes make it panic; a string never grows beyond eight fifths of
//! its encoded length. After an error the decoder is of no more use: the block's later parts are
//! lost, and with them the table. Not here: which fields are acceptable.

use self::table::Table;

#[cfg(test)]
pub(super) mod encoder;
mod huffman;
mod table;

/// What a dynamic table holds where no SETTINGS frame says otherwise, RFC 9113 section 6.5.2.
pub(super) const TABLE_SIZE: usize = 4096;

/// Why bytes are no header block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HpackError {
    /// The block ends within a field.
    #[error("the header block ends within a field")]
    Truncated,
    /// An integer of more octets than any length or index can need.
    #[error("an integer in the header block is too large")]
    Integer,
    /// An index beyond both tables.
    #[error("the header block refers to an entry that does not exist")]
    Index,
    /// A Huffman code that no symbol has, the end-of-string symbol, or wrong padding.
    #[error("a string in the header block is not Huffman code")]
    Huffman,
    /// A new size of the dynamic table that is too large, or not at the block's beginning.
    #[error("the header block resizes the table where or as it must not")]
    Resize,
}

/// One field of a header block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Field<'a> {
    pub(super) name: &'a [u8],
    pub(super) value: &'a [u8],
    /// No intermediary may ever write it into a table, RFC 7541 section 6.2.3.
    pub(super) never_indexed: bool,
}

impl Field<'_> {
    /// Its part of the size of a header list, RFC 9113 section 6.5.2.
    pub(super) const fn size(&self) -> usize {
        table::entry_size(self.name, self.value)
    }

    /// Appends it as a literal with a new name, without Huffman code: no table is needed to read
    /// it or changed by it. It takes fewer octets than [`Field::size`].
    pub(super) fn write(&self, block: &mut Vec<u8>) {
        block.push(if self.never_indexed { 0x10 } else { 0 });
        for text in [self.name, self.value] {
            write_integer(block, 7, 0, text.len());
            block.extend_from_slice(text);
        }
    }
}

/// RFC 7541 section 5.1, with `flags` in the bits above the prefix.
fn write_integer(block: &mut Vec<u8>, prefix: u32, flags: u8, value: usize) {
    let prefix_max = (1_usize << prefix) - 1;
    let octet = |value: usize| value.to_le_bytes()[0];
    if value < prefix_max {
        block.push(flags | octet(value));
        return;
    }
    block.push(flags | octet(prefix_max));
    let mut rest = value - prefix_max;
    while rest >= 0x80 {
        block.push(0x80 | octet(rest & 0x7f));
        rest >>= 7;
    }
    block.push(octet(rest));
}

/// Reads the header blocks of one direction of a connection.
#[derive(Debug)]
pub(super) struct Decoder {
    table: Table,
    /// Name and value of the literal being read; kept for their memory.
    name: Vec<u8>,
    value: Vec<u8>,
}

impl Decoder {
    /// A decoder whose table is empty and holds at most `table_size`.
    pub(super) fn new(table_size: usize) -> Self {
        Self {
            table: Table::new(table_size),
            name: Vec::new(),
            value: Vec::new(),
        }
    }

    /// Hands the fields of the next block to `sink`, in order, until it refuses one.
    pub(super) fn decode<E: From<HpackError>>(
        &mut self,
        block: &[u8],
        mut sink: impl FnMut(Field<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut rest = Reader(block);
        let mut may_resize = true;
        while let Some(&first) = rest.0.first() {
            if first & 0xe0 == 0x20 {
                let size = rest.integer(5)?;
                if !may_resize {
                    return Err(HpackError::Resize.into());
                }
                self.table.resize(size)?;
                continue;
            }
            may_resize = false;
            if first & 0x80 != 0 {
                let (name, value) = self.table.get(rest.integer(7)?)?;
                sink(Field {
                    name,
                    value,
                    never_indexed: false,
                })?;
                continue;
            }
            let indexed = first & 0x40 != 0;
            self.literal(&mut rest, if indexed { 6 } else { 4 })?;
            sink(Field {
                name: &self.name,
                value: &self.value,
                never_indexed: !indexed && first & 0x10 != 0,
            })?;
            if indexed {
                self.table.insert(&self.name, &self.value);
            }
        }
        Ok(())
    }

    fn literal(&mut self, rest: &mut Reader<'_>, prefix: u32) -> Result<(), HpackError> {
        let index = rest.integer(prefix)?;
        if index == 0 {
            rest.string(&mut self.name)?;
        } else {
            let (name, _) = self.table.get(index)?;
            self.name.clear();
            self.name.extend_from_slice(name);
        }
        rest.string(&mut self.value)
    }
}

/// Memory for strings that a connection keeps; few need more.
const STRING_KEPT: usize = 1024;

/// What is left of a block.
struct Reader<'a>(&'a [u8]);

/// Octets of an integer after its prefix: 28 bits, far more than any length or index here.
const INTEGER_OCTETS_MAX: u32 = 4;

impl<'a> Reader<'a> {
    fn octet(&mut self) -> Result<u8, HpackError> {
        let (first, rest) = self.0.split_first().ok_or(HpackError::Truncated)?;
        self.0 = rest;
        Ok(*first)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], HpackError> {
        let (taken, rest) = self
            .0
            .split_at_checked(count)
            .ok_or(HpackError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    /// RFC 7541 section 5.1.
    fn integer(&mut self, prefix: u32) -> Result<usize, HpackError> {
        let prefix_max = (1_usize << prefix) - 1;
        let mut value = usize::from(self.octet()?) & prefix_max;
        if value < prefix_max {
            return Ok(value);
        }
        for position in 0..INTEGER_OCTETS_MAX {
            let octet = self.octet()?;
            value += usize::from(octet & 0x7f) << (7 * position);
            if octet & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(HpackError::Integer)
    }

    /// RFC 7541 section 5.2. The text replaces what is in `into`.
    fn string(&mut self, into: &mut Vec<u8>) -> Result<(), HpackError> {
        into.clear();
        into.shrink_to(STRING_KEPT);
        let huffman = self.0.first().is_some_and(|first| first & 0x80 != 0);
        let length = self.integer(7)?;
        let text = self.take(length)?;
        if huffman {
            return huffman::decode(text, into);
        }
        into.extend_from_slice(text);
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests;
