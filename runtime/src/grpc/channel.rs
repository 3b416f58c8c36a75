//! Calling gRPC.
//!
//! Responsible for channels over the [`Network`] seam. Always holds: connecting is bounded in
//! time, TLS configuration is taken anew for each connection (so a rotated certificate is used
//! from the next one on), and every call has a deadline for its response to begin. Not here:
//! retries, which only the caller can judge.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls_pki_types::{CertificateDer, ServerName};
use tonic::transport::{Channel, Endpoint};

use super::ALPN_H2;
use crate::network::{Address, BoxStream, Network};
use crate::tls::{self, ClientConfigSource};

/// Where a channel leads.
#[derive(Clone)]
pub enum Target {
    /// A TCP address, with TLS if there is a configuration.
    Tcp {
        /// The address; its host is the name in TLS.
        address: Address,
        /// Asked for each connection.
        tls: Option<ClientConfigSource>,
    },
    /// A Unix socket.
    Unix(PathBuf),
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { address, .. } => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// What a new TLS connection established.
#[derive(Clone)]
pub struct Connected {
    /// What the server presented, leaf first; accepted by the verifier.
    pub peer_certificates: Arc<[CertificateDer<'static>]>,
    /// A value that both ends of this connection share and nobody else; see
    /// [`tls::EXPORTER_LABEL`].
    pub tls_exporter: Option<[u8; 32]>,
}

impl fmt::Debug for Connected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connected")
            .field("peer_certificates", &self.peer_certificates.len())
            .finish_non_exhaustive()
    }
}

/// How a channel behaves.
#[derive(Clone)]
pub struct ChannelOptions {
    /// Time for connecting and, again, for the TLS handshake.
    pub connect_timeout: Duration,
    /// Time for a response to begin; a call may set a shorter one. When it is over, tonic answers
    /// `CANCELLED` with the message "Timeout expired".
    pub deadline: Duration,
    /// How often the peer is probed while calls are open.
    pub keep_alive_interval: Duration,
    /// How long a probed peer may take to answer.
    pub keep_alive_timeout: Duration,
    /// Probe also without open calls, to notice a dead peer before the next one.
    pub keep_alive_while_idle: bool,
    /// Told about each new TLS connection.
    pub on_connected: Option<Arc<dyn Fn(Connected) + Send + Sync>>,
}

impl Default for ChannelOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            deadline: Duration::from_secs(30),
            keep_alive_interval: Duration::from_secs(20),
            keep_alive_timeout: Duration::from_secs(10),
            keep_alive_while_idle: false,
            on_connected: None,
        }
    }
}

impl fmt::Debug for ChannelOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelOptions")
            .field("connect_timeout", &self.connect_timeout)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

/// A channel that connects on first use and again whenever its connection is lost. To be called
/// from inside a runtime: tonic runs a task for each channel, which ends with its last clone.
#[must_use]
pub fn channel(network: Arc<dyn Network>, target: Target, options: ChannelOptions) -> Channel {
    let endpoint = endpoint(&target)
        // The dialer bounds its two steps; this bounds HTTP/2's beginning as well.
        .connect_timeout(options.connect_timeout.saturating_mul(3))
        .timeout(options.deadline)
        .http2_keep_alive_interval(options.keep_alive_interval)
        .keep_alive_timeout(options.keep_alive_timeout)
        .keep_alive_while_idle(options.keep_alive_while_idle);
    let dialer = Arc::new(Dialer {
        network,
        target,
        options,
    });
    endpoint.connect_with_connector_lazy(tower::service_fn(move |_: http::Uri| {
        let dialer = Arc::clone(&dialer);
        async move { dialer.dial().await.map(TokioIo::new) }
    }))
}

/// The endpoint only carries what requests say about their authority; the dialer ignores it.
fn endpoint(target: &Target) -> Endpoint {
    let (authority, scheme) = match target {
        Target::Tcp { address, tls } => {
            let scheme = if tls.is_some() { "https" } else { "http" };
            (address.to_string(), scheme)
        }
        // As gRPC's own clients name a Unix target.
        Target::Unix(_) => (String::from("localhost"), "http"),
    };
    // An `Address` is a valid authority; were it not, the name in the request is all that is lost.
    let endpoint = Endpoint::from_shared(format!("http://{authority}"))
        .unwrap_or_else(|_| Endpoint::from_static("http://localhost"));
    match format!("{scheme}://{authority}").parse() {
        Ok(origin) => endpoint.origin(origin),
        Err(_) => endpoint,
    }
}

struct Dialer {
    network: Arc<dyn Network>,
    target: Target,
    options: ChannelOptions,
}

impl Dialer {
    async fn dial(&self) -> io::Result<BoxStream> {
        let limit = self.options.connect_timeout;
        let connecting = async {
            match &self.target {
                Target::Tcp { address, .. } => self.network.connect(address).await,
                Target::Unix(path) => self.network.connect_unix(path).await,
            }
        };
        let stream = match tokio::time::timeout(limit, connecting).await {
            Ok(connected) => connected?,
            Err(_) => {
                let message = format!("connecting to {} took too long", self.target);
                return Err(io::Error::new(io::ErrorKind::TimedOut, message));
            }
        };
        match &self.target {
            Target::Tcp {
                address,
                tls: Some(source),
            } => self.secure(stream, address, source).await,
            _ => Ok(stream),
        }
    }

    async fn secure(
        &self,
        stream: BoxStream,
        address: &Address,
        source: &ClientConfigSource,
    ) -> io::Result<BoxStream> {
        let name = ServerName::try_from(address.host().to_owned()).map_err(|_| {
            let message = format!("{} cannot be a server name in TLS", address.host());
            io::Error::new(io::ErrorKind::InvalidInput, message)
        })?;
        let config = tls::with_client_protocol(source(), ALPN_H2);
        let limit = self.options.connect_timeout;
        let established = tls::connect(stream, config, name, limit).await?;
        if let Some(on_connected) = &self.options.on_connected {
            on_connected(Connected {
                peer_certificates: established.peer_certificates.into(),
                tls_exporter: established.exporter,
            });
        }
        Ok(established.stream)
    }
}
