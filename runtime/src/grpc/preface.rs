//! The first bytes of an HTTP/2 connection.
//!
//! Responsible for waiting for them with a time limit, which hyper does not do, so that a peer
//! that connects and says nothing does not hold its place forever. Always holds: the returned
//! stream yields every byte again. Not here: HTTP/2 itself.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

use crate::network::BoxStream;

/// RFC 9113 section 3.4.
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Waits for the client's connection preface.
///
/// # Errors
/// `TimedOut`; `InvalidData` when it is something else than HTTP/2; `UnexpectedEof`.
pub(super) async fn read_preface(mut stream: BoxStream, limit: Duration) -> io::Result<BoxStream> {
    let mut bytes = [0; PREFACE.len()];
    match tokio::time::timeout(limit, stream.read_exact(&mut bytes)).await {
        Ok(read) => read?,
        Err(_) => {
            let message = "the peer sent no HTTP/2 preface in time";
            return Err(io::Error::new(io::ErrorKind::TimedOut, message));
        }
    };
    if bytes != *PREFACE {
        let message = "the peer does not speak HTTP/2";
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    Ok(Box::new(Rewound {
        prefix: PREFACE,
        stream,
    }))
}

/// A stream whose first bytes were taken out and are read again.
struct Rewound {
    prefix: &'static [u8],
    stream: BoxStream,
}

impl AsyncRead for Rewound {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        let count = self.prefix.len().min(buffer.remaining());
        let (now, later) = self.prefix.split_at(count);
        buffer.put_slice(now);
        self.prefix = later;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Rewound {
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use tokio::io::AsyncWriteExt as _;

    const LIMIT: Duration = Duration::from_secs(10);

    async fn after(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let (mut client, server) = tokio::io::duplex(256);
        client.write_all(bytes).await.unwrap();
        drop(client);
        let mut stream = read_preface(Box::new(server), LIMIT).await?;
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await?;
        Ok(all)
    }

    #[tokio::test(start_paused = true)]
    async fn every_byte_is_read_again() {
        let mut bytes = PREFACE.to_vec();
        bytes.extend_from_slice(b"settings");
        assert_eq!(after(&bytes).await.unwrap(), bytes);
    }

    #[tokio::test(start_paused = true)]
    async fn another_protocol_or_an_early_end_is_refused() {
        let error = after(b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n").await;
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::InvalidData);
        let error = after(b"PRI * HTTP").await;
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_peer_is_given_up() {
        let (_client, server) = tokio::io::duplex(256);
        let began = tokio::time::Instant::now();
        let error = read_preface(Box::new(server), LIMIT).await.err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(began.elapsed(), LIMIT);
    }
}
