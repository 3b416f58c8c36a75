//! Requests that name no host: what clients on Unix sockets send as `:authority`.
//!
//! gRPC's C core puts the percent-encoded path of the socket there, grpc-java the bare path. The
//! HTTP/2 library takes only what [`http::uri::Authority`] takes and resets the stream otherwise,
//! so those clients would get nothing (`docs/decisions/0022-a-filter-for-authorities.md`).
//!
//! Responsible for replacing such an authority by [`PLACEHOLDER`] in the bytes a client sends,
//! before the library reads them. Always holds: a connection whose authorities are all acceptable
//! passes through byte by byte; what comes out does not depend on how the bytes were cut; of an
//! unfinished header block no more is kept than the limits say; what cannot be a header block ends
//! the connection. Not here: every other rule of HTTP/2, which the library applies to what comes
//! out.

mod stream;

use http::uri::Authority;

pub(super) use self::stream::filtered;
use super::hpack::{Decoder, Field, HpackError, TABLE_SIZE};
use super::preface::PREFACE;

/// The authority of a request that names no host. Nothing on a Unix socket reads it.
pub const PLACEHOLDER: &str = "localhost";

/// Largest payload of a frame, both of those taken and of those written: what RFC 9113 section
/// 6.5.2 gives every endpoint, and the server here does not ask for more.
pub(super) const FRAME_SIZE_MAX: u32 = 16_384;
const PAYLOAD_MAX: usize = FRAME_SIZE_MAX as usize;

/// How far beyond the limit of a header list a list is still decoded. The library answers those
/// in between with a status; further ones end the connection. The same factor is the library's.
const LIST_ABUSE_FACTOR: usize = 4;

/// CONTINUATION frames of one block. One is enough for any list within the limit; the library
/// takes six.
const CONTINUATIONS_MAX: usize = 8;

/// Memory that is kept from one header block to the next; few are larger.
const BUFFER_KEPT: usize = 4096;

const HEAD_LEN: usize = 9;
const PRIORITY_LEN: usize = 5;

/// Frame types, RFC 9113 section 6.
mod kind {
    pub(super) const HEADERS: u8 = 1;
    pub(super) const PUSH_PROMISE: u8 = 5;
    pub(super) const CONTINUATION: u8 = 9;
}

/// Flags of HEADERS and CONTINUATION.
mod flag {
    pub(super) const END_HEADERS: u8 = 0x4;
    pub(super) const PADDED: u8 = 0x8;
    pub(super) const PRIORITY: u8 = 0x20;
}

/// Why a connection cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// A HEADERS or CONTINUATION frame larger than the server allows.
    #[error("a frame with headers is larger than {FRAME_SIZE_MAX} bytes")]
    FrameTooLarge,
    /// Another frame, or one of another stream, within a header block.
    #[error("a header block is interrupted by another frame")]
    Interrupted,
    /// A CONTINUATION frame that continues nothing.
    #[error("a frame continues no header block")]
    Continuation,
    /// A header block in more frames than any needs.
    #[error("a header block has more than {CONTINUATIONS_MAX} continuations")]
    TooManyContinuations,
    /// The encoded header block is larger than any needs to be.
    #[error("a header block is too large")]
    BlockTooLarge,
    /// The decoded header block is far beyond the limit.
    #[error("a header list is far larger than allowed")]
    ListTooLarge,
    /// Only servers promise.
    #[error("a client promises a push")]
    PushPromise,
    /// A HEADERS frame too short for its padding or its priority.
    #[error("a frame with headers is shorter than its padding and priority")]
    Padding,
    /// The header block cannot be read.
    #[error("a header block cannot be read")]
    Hpack(#[source] HpackError),
}

impl From<HpackError> for FilterError {
    fn from(error: HpackError) -> Self {
        Self::Hpack(error)
    }
}

/// The filter for the bytes of one connection, from client to server.
///
/// It decodes every header block, because each may change how the next is read. As long as no
/// authority was replaced it hands on the blocks as they came, and the reader's table follows the
/// client's. From the first replacement on it writes all blocks itself, without any table, so what
/// the reader still has in its own no longer matters.
#[derive(Debug)]
pub struct AuthorityFilter {
    place: Place,
    /// The block that is being gathered.
    open: Option<Block>,
    decoder: Decoder,
    list_max: usize,
    /// Whether an authority was replaced before.
    rewriting: bool,
    /// The last block as it can be read without a table; kept for its memory.
    rewritten: Vec<u8>,
    error: Option<FilterError>,
}

/// What the next byte belongs to.
#[derive(Debug)]
enum Place {
    /// The connection preface, of which this much was seen.
    Preface(usize),
    /// The head of a frame, of which this much was seen.
    Head([u8; HEAD_LEN], usize),
    /// The payload of a frame without headers, of which this much is to come.
    Through(usize),
    /// The payload of a frame with headers, of which this much is to come.
    Headers(Head, usize),
    /// Another protocol than HTTP/2, to the end.
    Foreign,
}

impl Place {
    const NEXT_FRAME: Self = Self::Head([0; HEAD_LEN], 0);
}

/// The head of a frame, RFC 9113 section 4.1.
#[derive(Clone, Copy, Debug)]
struct Head {
    length: usize,
    kind: u8,
    flags: u8,
    stream: u32,
}

impl Head {
    const fn parse(bytes: [u8; HEAD_LEN]) -> Self {
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = bytes;
        Self {
            length: u32::from_be_bytes([0, l0, l1, l2]) as usize,
            kind,
            flags,
            // The uppermost bit is reserved.
            stream: u32::from_be_bytes([s0, s1, s2, s3]) & 0x7fff_ffff,
        }
    }

    fn write(self, out: &mut Vec<u8>) {
        let [_, length @ ..] = u32::try_from(self.length).unwrap_or(u32::MAX).to_be_bytes();
        out.extend_from_slice(&length);
        out.extend_from_slice(&[self.kind, self.flags]);
        out.extend_from_slice(&self.stream.to_be_bytes());
    }
}

/// A header block that is being gathered.
#[derive(Debug)]
struct Block {
    /// Of its HEADERS frame.
    stream: u32,
    flags: u8,
    priority: Option<[u8; PRIORITY_LEN]>,
    continuations: usize,
    /// Its frames as they came.
    frames: Vec<u8>,
    /// Where the payload of the last frame begins.
    payload: usize,
    /// Their fragments, joined.
    fragments: Vec<u8>,
}

impl AuthorityFilter {
    /// A filter for a new connection to a server that takes header lists of this size.
    #[must_use]
    pub fn new(header_list_size_max: usize) -> Self {
        Self {
            place: Place::Preface(0),
            open: None,
            decoder: Decoder::new(TABLE_SIZE),
            list_max: header_list_size_max.saturating_mul(LIST_ABUSE_FACTOR),
            rewriting: false,
            rewritten: Vec::new(),
            error: None,
        }
    }

    /// Takes the next bytes of the client and appends to `out` what the server may read by now.
    ///
    /// # Errors
    /// When the connection cannot go on; then `out` has everything that came before the offending
    /// frame, and every further call fails as well.
    pub fn push(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) -> Result<(), FilterError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        while !bytes.is_empty() {
            bytes = self.step(bytes, out).inspect_err(|error| {
                self.error = Some(*error);
                self.open = None;
            })?;
        }
        Ok(())
    }

    /// Whether bytes were taken that did not come out, so that an end here cuts a frame.
    #[must_use]
    pub const fn withholds(&self) -> bool {
        let within_head = matches!(self.place, Place::Head(_, seen) if seen > 0);
        within_head || self.open.is_some()
    }

    /// Takes some of the bytes, at least one, and returns the rest.
    fn step<'a>(&mut self, bytes: &'a [u8], out: &mut Vec<u8>) -> Result<&'a [u8], FilterError> {
        match &mut self.place {
            Place::Foreign => {
                out.extend_from_slice(bytes);
                Ok(&[])
            }
            Place::Preface(seen) => {
                let expected = PREFACE.get(*seen..).unwrap_or_default();
                let (now, rest) = bytes.split_at(expected.len().min(bytes.len()));
                out.extend_from_slice(now);
                *seen += now.len();
                if !expected.starts_with(now) {
                    self.place = Place::Foreign;
                } else if *seen == PREFACE.len() {
                    self.place = Place::NEXT_FRAME;
                }
                Ok(rest)
            }
            Place::Head(head, seen) => {
                let (now, rest) = bytes.split_at((HEAD_LEN - *seen).min(bytes.len()));
                for (to, from) in head.iter_mut().skip(*seen).zip(now) {
                    *to = *from;
                }
                *seen += now.len();
                if *seen == HEAD_LEN {
                    let head = *head;
                    self.begin_frame(head, out)?;
                }
                Ok(rest)
            }
            Place::Through(left) => {
                let (now, rest) = bytes.split_at((*left).min(bytes.len()));
                out.extend_from_slice(now);
                *left -= now.len();
                if *left == 0 {
                    self.place = Place::NEXT_FRAME;
                }
                Ok(rest)
            }
            Place::Headers(head, left) => {
                let (now, rest) = bytes.split_at((*left).min(bytes.len()));
                if let Some(block) = &mut self.open {
                    block.frames.extend_from_slice(now);
                }
                *left -= now.len();
                if *left == 0 {
                    let head = *head;
                    self.end_frame(head, out)?;
                }
                Ok(rest)
            }
        }
    }

    fn begin_frame(&mut self, bytes: [u8; HEAD_LEN], out: &mut Vec<u8>) -> Result<(), FilterError> {
        let head = Head::parse(bytes);
        match (&mut self.open, head.kind) {
            (None, kind::HEADERS) => self.open = Some(Block::new(head)),
            (None, kind::CONTINUATION) => return Err(FilterError::Continuation),
            (None, kind::PUSH_PROMISE) => return Err(FilterError::PushPromise),
            (None, _) => {
                out.extend_from_slice(&bytes);
                self.place = match head.length {
                    0 => Place::NEXT_FRAME,
                    length => Place::Through(length),
                };
                return Ok(());
            }
            (Some(block), kind::CONTINUATION) if block.stream == head.stream => {
                block.continuations += 1;
            }
            (Some(_), _) => return Err(FilterError::Interrupted),
        }
        if head.length > PAYLOAD_MAX {
            return Err(FilterError::FrameTooLarge);
        }
        // A list that is written more loosely than it is counted still fits.
        let block_max = self.list_max.saturating_add(PAYLOAD_MAX);
        if let Some(block) = &mut self.open {
            block.begin_frame(bytes, head.length, block_max)?;
        }
        self.place = Place::Headers(head, head.length);
        if head.length == 0 {
            self.end_frame(head, out)?;
        }
        Ok(())
    }

    fn end_frame(&mut self, head: Head, out: &mut Vec<u8>) -> Result<(), FilterError> {
        self.place = Place::NEXT_FRAME;
        if let Some(block) = &mut self.open {
            block.end_frame(head)?;
        }
        if head.flags & flag::END_HEADERS == 0 {
            return Ok(());
        }
        match self.open.take() {
            Some(block) => self.end_block(&block, out),
            None => Ok(()),
        }
    }

    fn end_block(&mut self, block: &Block, out: &mut Vec<u8>) -> Result<(), FilterError> {
        let rewritten = &mut self.rewritten;
        rewritten.clear();
        rewritten.shrink_to(BUFFER_KEPT);
        let (mut size, mut replaced) = (0_usize, false);
        self.decoder.decode(&block.fragments, |mut field| {
            if field.name == b":authority" && Authority::try_from(field.value).is_err() {
                field.value = PLACEHOLDER.as_bytes();
                replaced = true;
            }
            size = size.saturating_add(field.size());
            if size > self.list_max {
                return Err(FilterError::ListTooLarge);
            }
            Field::write(&field, rewritten);
            Ok(())
        })?;
        self.rewriting |= replaced;
        if self.rewriting {
            block.write(rewritten, out);
        } else {
            out.extend_from_slice(&block.frames);
        }
        Ok(())
    }
}

impl Block {
    const fn new(head: Head) -> Self {
        Self {
            stream: head.stream,
            flags: head.flags,
            priority: None,
            continuations: 0,
            frames: Vec::new(),
            payload: 0,
            fragments: Vec::new(),
        }
    }

    fn begin_frame(
        &mut self,
        head: [u8; HEAD_LEN],
        length: usize,
        block_max: usize,
    ) -> Result<(), FilterError> {
        if self.continuations > CONTINUATIONS_MAX {
            return Err(FilterError::TooManyContinuations);
        }
        if self.frames.len().saturating_add(length) > block_max {
            return Err(FilterError::BlockTooLarge);
        }
        self.frames.extend_from_slice(&head);
        self.payload = self.frames.len();
        Ok(())
    }

    /// Takes the fragment out of the payload that is complete now.
    fn end_frame(&mut self, head: Head) -> Result<(), FilterError> {
        let mut rest = self.frames.get(self.payload..).unwrap_or_default();
        if head.kind == kind::HEADERS {
            let mut padding = 0;
            if head.flags & flag::PADDED != 0 {
                let (length, after) = rest.split_first().ok_or(FilterError::Padding)?;
                (padding, rest) = (usize::from(*length), after);
            }
            if head.flags & flag::PRIORITY != 0 {
                let (priority, after) = rest.split_first_chunk().ok_or(FilterError::Padding)?;
                (self.priority, rest) = (Some(*priority), after);
            }
            let length = rest.len().checked_sub(padding);
            let length = length.ok_or(FilterError::Padding)?;
            rest = rest.get(..length).unwrap_or_default();
        }
        self.fragments.extend_from_slice(rest);
        Ok(())
    }

    /// Writes frames like the block's own with other fields: with its stream, its priority and
    /// its flags, without its padding.
    fn write(&self, mut fields: &[u8], out: &mut Vec<u8>) {
        let priority = self.priority.as_ref().map_or(&[][..], |bytes| &bytes[..]);
        let mut prefix = priority;
        let mut kind = kind::HEADERS;
        let mut flags = self.flags & !(flag::PADDED | flag::END_HEADERS);
        loop {
            let (now, later) = fields.split_at((PAYLOAD_MAX - prefix.len()).min(fields.len()));
            if later.is_empty() {
                flags |= flag::END_HEADERS;
            }
            let head = Head {
                length: prefix.len() + now.len(),
                kind,
                flags,
                stream: self.stream,
            };
            head.write(out);
            out.extend_from_slice(prefix);
            out.extend_from_slice(now);
            if later.is_empty() {
                return;
            }
            (fields, prefix, kind, flags) = (later, &[], kind::CONTINUATION, 0);
        }
    }
}

#[cfg(test)]
mod tests;
