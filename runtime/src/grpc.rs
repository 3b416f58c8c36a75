//! Serving and calling gRPC.
//!
//! Responsible for running tonic services on any [`Listener`] and for channels over any
//! [`Network`](crate::network::Network). tonic's own server is not used: it adds a `date` header
//! from the real clock, which breaks replay in the simulator, and fixes TLS identities at build
//! time. Always holds: every call has a deadline or is a stream whose peer is probed; a panicking
//! handler costs one caller an `INTERNAL`, not the process. Not here: message size limits, which
//! each service sets, and authorisation.

use std::convert::Infallible;
use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use mintmark_identity::entropy::{Entropy, draw_u64};
use tonic::Status;
use tonic::body::Body;
use tonic::service::Routes;
use tower::ServiceExt as _;

use self::deadline::Deadlines;
use self::preface::read_preface;
use crate::backoff::fraction;
use crate::drain::DrainWatch;
use crate::network::{BoxStream, Listener, Peer};
use crate::serve::{Admission, Admitted, Lifetime, accept_loop, drive, establish};
pub use crate::serve::{ConnectInfo, ConnectionLimits, ListenerMetrics};
use crate::task::{TaskExecutor, Tasks, panic_message};
use crate::tls::ServerConfigSource;

pub mod authority;
mod channel;
mod deadline;
mod hpack;
mod preface;

pub use self::channel::{ChannelOptions, Connected, Target, channel};

/// Bounds on one gRPC listener.
#[derive(Clone, Debug)]
pub struct GrpcLimits {
    /// Bounds on its connections.
    pub connections: ConnectionLimits,
    /// Calls at one time on one connection.
    pub max_concurrent_streams: u32,
    /// How often an idle peer is probed.
    pub keep_alive_interval: Duration,
    /// How long a probed peer may take to answer.
    pub keep_alive_timeout: Duration,
    /// Deadline for the response to begin, for calls that bring none of their own.
    pub default_deadline: Option<Duration>,
    /// Bytes of request headers.
    pub max_header_list_size: u32,
}

impl Default for GrpcLimits {
    fn default() -> Self {
        Self {
            connections: ConnectionLimits::default(),
            max_concurrent_streams: 256,
            keep_alive_interval: Duration::from_secs(20),
            keep_alive_timeout: Duration::from_secs(10),
            default_deadline: Some(Duration::from_secs(30)),
            max_header_list_size: 16 * 1024,
        }
    }
}

/// A set of gRPC services, ready to be served on a listener.
pub struct GrpcServer {
    /// The services.
    pub routes: Routes,
    /// Bounds.
    pub limits: GrpcLimits,
    /// TLS; without it, plain text (Unix sockets).
    pub tls: Option<ServerConfigSource>,
    /// Draws the jitter of connection ages.
    pub entropy: Arc<dyn Entropy>,
    /// Counts connections.
    pub metrics: ListenerMetrics,
}

impl std::fmt::Debug for GrpcServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GrpcServer")
            .field("limits", &self.limits)
            .field("tls", &self.tls.is_some())
            .finish_non_exhaustive()
    }
}

/// What every connection of a listener shares.
struct Shared {
    routes: Routes,
    limits: GrpcLimits,
    tls: Option<ServerConfigSource>,
    entropy: Arc<dyn Entropy>,
    metrics: ListenerMetrics,
    tasks: Tasks,
    drain: DrainWatch,
}

impl GrpcServer {
    /// Services with default limits and without TLS.
    #[must_use]
    pub fn new(routes: Routes, entropy: Arc<dyn Entropy>) -> Self {
        Self {
            routes,
            limits: GrpcLimits::default(),
            tls: None,
            entropy,
            metrics: ListenerMetrics::default(),
        }
    }

    /// With other limits.
    #[must_use]
    pub fn with_limits(mut self, limits: GrpcLimits) -> Self {
        self.limits = limits;
        self
    }

    /// With TLS. The source is asked for each connection.
    #[must_use]
    pub fn with_tls(mut self, tls: ServerConfigSource) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Counting into `metrics`.
    #[must_use]
    pub fn with_metrics(mut self, metrics: ListenerMetrics) -> Self {
        self.metrics = metrics;
        self
    }

    /// Serves until the drain begins. Returns when no further connection is taken; those that are
    /// open run on in `tasks`, hold a guard of the drain, and end with it.
    pub async fn serve(self, mut listener: Box<dyn Listener>, tasks: &Tasks, drain: DrainWatch) {
        let admission = Admission::new(&self.limits.connections, self.metrics.clone());
        let shared = Arc::new(Shared {
            routes: self.routes.prepare(),
            limits: self.limits,
            tls: self.tls,
            entropy: self.entropy,
            metrics: self.metrics,
            tasks: tasks.clone(),
            drain: drain.clone(),
        });
        accept_loop(
            &mut *listener,
            &admission,
            &drain,
            |stream, peer, admitted| {
                let connection = Arc::clone(&shared).connection(stream, peer, admitted);
                tasks.spawn_isolated("grpc connection", connection);
            },
        )
        .await;
    }
}

/// ALPN name of HTTP/2.
const ALPN_H2: &[u8] = b"h2";

impl Shared {
    async fn connection(self: Arc<Self>, stream: BoxStream, peer: Peer, _admitted: Admitted) {
        let name = peer.to_string();
        let established = tokio::select! {
            established = self.establish(stream, peer) => established,
            () = self.drain.started() => return,
        };
        match established {
            Ok((stream, info)) => self.serve(stream, info, &name).await,
            Err(error) => {
                self.metrics.handshakes_failed.inc();
                tracing::debug!(%error, peer = name, "connection failed before the first request");
            }
        }
    }

    async fn establish(
        &self,
        stream: BoxStream,
        peer: Peer,
    ) -> io::Result<(BoxStream, ConnectInfo)> {
        let limit = self.limits.connections.handshake_timeout;
        let (stream, info) = establish(stream, peer, self.tls.as_ref(), ALPN_H2, limit).await?;
        let stream = read_preface(stream, limit).await?;
        // Over TCP an authority names the host that was dialled.
        let stream = match info.peer {
            Peer::Unix(_) => authority::filtered(stream, self.limits.max_header_list_size),
            Peer::Tcp(_) => stream,
        };
        Ok((stream, info))
    }

    async fn serve(self: Arc<Self>, stream: BoxStream, info: ConnectInfo, name: &str) {
        let lifetime = self.lifetime();
        let limits = &self.limits;
        let executor = TaskExecutor::new(self.tasks.clone(), "grpc call");
        let mut builder = http2::Builder::new(executor);
        builder
            .timer(TokioTimer::new())
            .auto_date_header(false)
            .max_concurrent_streams(limits.max_concurrent_streams)
            .max_header_list_size(limits.max_header_list_size)
            .max_frame_size(authority::FRAME_SIZE_MAX)
            .keep_alive_interval(limits.keep_alive_interval)
            .keep_alive_timeout(limits.keep_alive_timeout);
        let shared = Arc::clone(&self);
        let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(info.clone());
            Arc::clone(&shared).call(request.map(Body::new))
        });
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        match drive(connection, http2::Connection::graceful_shutdown, lifetime).await {
            Some(Ok(())) => {}
            Some(Err(error)) => tracing::debug!(%error, peer = name, "connection failed"),
            None => tracing::debug!(peer = name, "connection closed with calls in progress"),
        }
    }

    fn lifetime(&self) -> Lifetime {
        let limits = &self.limits.connections;
        let age = limits.max_connection_age.map(|age| {
            let jitter = fraction(age / 10, draw_u64(&*self.entropy));
            age.saturating_add(jitter)
        });
        Lifetime {
            age,
            age_grace: limits.max_connection_age_grace,
            drain: self.drain.clone(),
        }
    }

    async fn call(self: Arc<Self>, request: Request<Body>) -> Result<Response<Body>, Infallible> {
        let deadlines = match Deadlines::of(request.headers(), self.limits.default_deadline) {
            Ok(deadlines) => deadlines,
            Err(status) => return Ok(status.into_http()),
        };
        let handled = AssertUnwindSafe(self.routes.clone().oneshot(request)).catch_unwind();
        match deadlines.bound(handled).await {
            Err(status) => Ok(status.into_http()),
            Ok(Ok(Ok(response))) => Ok(deadlines.bound_body(response)),
            Ok(Err(panic)) => {
                let message = panic_message(panic.as_ref());
                self.tasks.record_panic("grpc call", &message);
                Ok(Status::internal("internal error").into_http())
            }
        }
    }
}

#[cfg(test)]
mod tests;
