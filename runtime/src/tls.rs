//! TLS over any [`Stream`](crate::network::Stream).
//!
//! Responsible for running a handshake within a time limit and for telling what it established:
//! the peer's certificates and a value bound to this very connection. Always holds: the
//! configuration is the caller's and is taken anew for each connection, so certificates rotate
//! without restarting a listener. Not here: whom to trust; the verifiers live in
//! `mintmark_identity::tls`.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::network::BoxStream;

/// Label of the exported value (RFC 8446 section 7.5) that binds a message to its connection.
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-mintmark-resume";

/// Supplies the server configuration of the next connection.
pub type ServerConfigSource = Arc<dyn Fn() -> Arc<ServerConfig> + Send + Sync>;

/// Supplies the client configuration of the next connection.
pub type ClientConfigSource = Arc<dyn Fn() -> Arc<ClientConfig> + Send + Sync>;

/// An established TLS connection.
pub struct TlsStream {
    /// The bytes inside.
    pub stream: BoxStream,
    /// What the peer presented, leaf first; empty if it presented nothing. The configuration's
    /// verifier has accepted it.
    pub peer_certificates: Vec<CertificateDer<'static>>,
    /// The same 32 bytes on both sides of this connection, and on no other.
    pub exporter: Option<[u8; 32]>,
}

/// The server's side of a connection.
pub type TlsServerStream = TlsStream;
/// The client's side of a connection.
pub type TlsClientStream = TlsStream;

impl fmt::Debug for TlsStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream")
            .field("peer_certificates", &self.peer_certificates.len())
            .finish_non_exhaustive()
    }
}

/// Accepts a TLS connection.
///
/// # Errors
/// `TimedOut`, or what rustls said (`InvalidData` with a [`rustls::Error`] inside).
pub async fn accept(
    stream: BoxStream,
    config: Arc<ServerConfig>,
    handshake_timeout: Duration,
) -> io::Result<TlsServerStream> {
    let handshake = TlsAcceptor::from(config).accept(stream);
    let stream = within(handshake_timeout, handshake).await?;
    let (_, connection) = stream.get_ref();
    let peer_certificates = own(connection.peer_certificates());
    let exporter = connection
        .export_keying_material([0; 32], EXPORTER_LABEL, None)
        .ok();
    Ok(TlsStream {
        stream: Box::new(stream),
        peer_certificates,
        exporter,
    })
}

/// Opens a TLS connection to the server called `name`.
///
/// # Errors
/// `TimedOut`, or what rustls said (`InvalidData` with a [`rustls::Error`] inside).
pub async fn connect(
    stream: BoxStream,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    handshake_timeout: Duration,
) -> io::Result<TlsClientStream> {
    let handshake = TlsConnector::from(config).connect(name, stream);
    let stream = within(handshake_timeout, handshake).await?;
    let (_, connection) = stream.get_ref();
    let peer_certificates = own(connection.peer_certificates());
    let exporter = connection
        .export_keying_material([0; 32], EXPORTER_LABEL, None)
        .ok();
    Ok(TlsStream {
        stream: Box::new(stream),
        peer_certificates,
        exporter,
    })
}

/// The same configuration, offering `protocol` by ALPN unless it names protocols of its own.
pub(crate) fn with_server_protocol(
    config: Arc<ServerConfig>,
    protocol: &'static [u8],
) -> Arc<ServerConfig> {
    if config.alpn_protocols.is_empty() {
        let mut config = ServerConfig::clone(&config);
        config.alpn_protocols = vec![protocol.to_vec()];
        Arc::new(config)
    } else {
        config
    }
}

/// The same configuration, asking for `protocol` by ALPN unless it names protocols of its own.
pub(crate) fn with_client_protocol(
    config: Arc<ClientConfig>,
    protocol: &'static [u8],
) -> Arc<ClientConfig> {
    if config.alpn_protocols.is_empty() {
        let mut config = ClientConfig::clone(&config);
        config.alpn_protocols = vec![protocol.to_vec()];
        Arc::new(config)
    } else {
        config
    }
}

async fn within<T>(
    limit: Duration,
    handshake: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    match tokio::time::timeout(limit, handshake).await {
        Ok(result) => result,
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the TLS handshake took too long",
        )),
    }
}

fn own(certificates: Option<&[CertificateDer<'static>]>) -> Vec<CertificateDer<'static>> {
    certificates.unwrap_or_default().to_vec()
}

#[cfg(test)]
pub(crate) mod pki;
#[cfg(test)]
mod tests;
