//! A stream whose reading side goes through the filter.
//!
//! Always holds: what came before an error is read before the error; writing is untouched; no
//! more than one chunk is read ahead. Not here: what the filter does.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{AuthorityFilter, FilterError};
use crate::network::BoxStream;

/// Bytes read at a time. Requests on Unix sockets are small; most fit whole.
const CHUNK: usize = 4096;

/// The same connection, seen by a server that takes header lists of this size.
pub(in crate::grpc) fn filtered(stream: BoxStream, header_list_size_max: u32) -> BoxStream {
    let list_max = usize::try_from(header_list_size_max).unwrap_or(usize::MAX);
    through(stream, AuthorityFilter::new(list_max))
}

/// A stream whose reading side goes through `filter`.
pub(super) fn through(stream: BoxStream, filter: AuthorityFilter) -> BoxStream {
    Box::new(Filtered {
        stream,
        filter,
        chunk: Box::new([0; CHUNK]),
        out: Vec::new(),
        taken: 0,
        error: None,
    })
}

struct Filtered {
    stream: BoxStream,
    filter: AuthorityFilter,
    chunk: Box<[u8; CHUNK]>,
    /// What came out of the filter, and how much of it was read.
    out: Vec<u8>,
    taken: usize,
    error: Option<FilterError>,
}

impl AsyncRead for Filtered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        // Ends: between two turns the filter takes bytes, and it withholds only so many.
        loop {
            let waiting = this.out.get(this.taken..).unwrap_or_default();
            if !waiting.is_empty() {
                let (now, _) = waiting.split_at(waiting.len().min(buffer.remaining()));
                buffer.put_slice(now);
                this.taken += now.len();
                return Poll::Ready(Ok(()));
            }
            this.taken = 0;
            this.out.clear();
            this.out.shrink_to(2 * CHUNK);
            if let Some(error) = this.error {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
            }
            let mut chunk = ReadBuf::new(&mut this.chunk[..]);
            ready!(Pin::new(&mut this.stream).poll_read(cx, &mut chunk))?;
            if chunk.filled().is_empty() {
                return Poll::Ready(if this.filter.withholds() {
                    Err(io::ErrorKind::UnexpectedEof.into())
                } else {
                    Ok(())
                });
            }
            this.error = this.filter.push(chunk.filled(), &mut this.out).err();
        }
    }
}

impl AsyncWrite for Filtered {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
