//! The operating system's network: TCP through tokio, Unix sockets through [`crate::unix`].
//!
//! Always holds: TCP connections have no Nagle delay. Not here: time-outs, which belong to the
//! caller who knows how long it can wait.

use std::io;
use std::path::Path;

use async_trait::async_trait;

use super::{Address, BoxStream, Listener, Network, Peer, UnixMode};
use crate::unix;

/// [`Network`] of the machine we run on.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsNetwork;

#[async_trait]
#[expect(
    clippy::disallowed_types,
    reason = "this is where the real network enters"
)]
impl Network for OsNetwork {
    async fn connect(&self, address: &Address) -> io::Result<BoxStream> {
        let stream = tokio::net::TcpStream::connect((address.host(), address.port())).await?;
        stream.set_nodelay(true)?;
        Ok(Box::new(stream))
    }

    async fn listen(&self, address: &Address) -> io::Result<Box<dyn Listener>> {
        let listener = tokio::net::TcpListener::bind((address.host(), address.port()))
            .await
            .map_err(|error| {
                io::Error::new(
                    error.kind(),
                    ListenError {
                        address: address.clone(),
                        source: error,
                    },
                )
            })?;
        Ok(Box::new(TcpListener(listener)))
    }

    async fn connect_unix(&self, path: &Path) -> io::Result<BoxStream> {
        Ok(Box::new(tokio::net::UnixStream::connect(path).await?))
    }

    async fn listen_unix(&self, path: &Path, mode: UnixMode) -> io::Result<Box<dyn Listener>> {
        let listener = unix::UnixListener::bind(path, mode)
            .await
            .map_err(|error| io::Error::new(error.kind(), error))?;
        Ok(Box::new(listener))
    }
}

/// Listening failed; the message names the address, which the system's error does not.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}")]
struct ListenError {
    address: Address,
    source: io::Error,
}

#[expect(
    clippy::disallowed_types,
    reason = "this is where the real network enters"
)]
struct TcpListener(tokio::net::TcpListener);

#[async_trait]
impl Listener for TcpListener {
    async fn accept(&mut self) -> io::Result<(BoxStream, Peer)> {
        let (stream, address) = self.0.accept().await?;
        // A peer that is gone already shows up as an error here; it is found out on first use.
        let _ = stream.set_nodelay(true);
        Ok((Box::new(stream), Peer::Tcp(address)))
    }

    fn local_address(&self) -> String {
        self.0
            .local_addr()
            .map_or_else(|_| String::from("unknown"), |address| address.to_string())
    }
}
