//! Serving HTTP/1.1: probes, metrics, and whatever else is an axum router.
//!
//! Responsible for running a router on a [`Listener`] and for `/live`, `/ready`, `/metrics`.
//! Always holds: a slow peer is given up, headers and requests have time limits, and requests
//! carry [`ConnectInfo`]. Not here: limits of bodies, which extractors set.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use ::http::{Request, Response, StatusCode, header};
use axum::Router;
use axum::body::Body;
use axum::response::IntoResponse as _;
use axum::routing::get;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tower::ServiceExt as _;

use crate::drain::DrainWatch;
use crate::metrics::{self, Metrics};
use crate::network::{BoxStream, Listener, Peer};
use crate::readiness::Readiness;
use crate::serve::{Admission, Admitted, Lifetime, accept_loop, drive, establish};
pub use crate::serve::{ConnectInfo, ConnectionLimits, ListenerMetrics};
use crate::task::Tasks;
use crate::tls::ServerConfigSource;

/// A router, ready to be served on a listener.
pub struct HttpServer {
    /// What is served.
    pub router: Router,
    /// Bounds on connections.
    pub limits: ConnectionLimits,
    /// Time for a response to begin.
    pub request_timeout: Duration,
    /// TLS; without it, plain text.
    pub tls: Option<ServerConfigSource>,
    /// Counts connections.
    pub metrics: ListenerMetrics,
}

impl std::fmt::Debug for HttpServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpServer")
            .field("limits", &self.limits)
            .field("tls", &self.tls.is_some())
            .finish_non_exhaustive()
    }
}

/// ALPN name of HTTP/1.1.
const ALPN_HTTP1: &[u8] = b"http/1.1";

/// Most headers of one request; hyper's own default, stated.
const HEADERS_MAX: usize = 100;

impl HttpServer {
    /// A router with default limits and without TLS.
    #[must_use]
    pub fn new(router: Router) -> Self {
        Self {
            router,
            limits: ConnectionLimits {
                // Probes, scrapers, bundle readers: far fewer than API clients.
                max_connections: 1024,
                ..ConnectionLimits::default()
            },
            request_timeout: Duration::from_secs(30),
            tls: None,
            metrics: ListenerMetrics::default(),
        }
    }

    /// Serves until the drain begins. Returns when no further connection is taken; those that are
    /// open run on in `tasks`, hold a guard of the drain, and end with it.
    pub async fn serve(self, mut listener: Box<dyn Listener>, tasks: &Tasks, drain: DrainWatch) {
        let admission = Admission::new(&self.limits, self.metrics.clone());
        let shared = Arc::new((self, drain.clone()));
        accept_loop(
            &mut *listener,
            &admission,
            &drain,
            |stream, peer, admitted| {
                let (shared, admitted) = (Arc::clone(&shared), admitted);
                tasks.spawn_isolated("http connection", async move {
                    let (server, drain) = &*shared;
                    server.connection(stream, peer, admitted, drain).await;
                });
            },
        )
        .await;
    }

    async fn connection(
        &self,
        stream: BoxStream,
        peer: Peer,
        _admitted: Admitted,
        drain: &DrainWatch,
    ) {
        let name = peer.to_string();
        let limit = self.limits.handshake_timeout;
        let established = tokio::select! {
            established = establish(stream, peer, self.tls.as_ref(), ALPN_HTTP1, limit) => established,
            () = drain.started() => return,
        };
        let (stream, info) = match established {
            Ok(established) => established,
            Err(error) => {
                self.metrics.handshakes_failed.inc();
                tracing::debug!(%error, peer = name, "connection failed before the first request");
                return;
            }
        };
        let service = hyper::service::service_fn(|mut request: Request<Incoming>| {
            request.extensions_mut().insert(info.clone());
            self.call(request.map(Body::new))
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .auto_date_header(false)
            .header_read_timeout(limit)
            .max_headers(HEADERS_MAX)
            .serve_connection(TokioIo::new(stream), service);
        let lifetime = Lifetime {
            age: self.limits.max_connection_age,
            age_grace: self.limits.max_connection_age_grace,
            drain: drain.clone(),
        };
        match drive(connection, http1::Connection::graceful_shutdown, lifetime).await {
            Some(Err(error)) => tracing::debug!(%error, peer = name, "connection failed"),
            Some(Ok(())) => {}
            None => tracing::debug!(peer = name, "connection closed with a request in progress"),
        }
    }

    async fn call(&self, request: Request<Body>) -> Result<Response<Body>, Infallible> {
        let handled = self.router.clone().oneshot(request);
        match tokio::time::timeout(self.request_timeout, handled).await {
            Ok(response) => response,
            Err(_) => Ok(StatusCode::SERVICE_UNAVAILABLE.into_response()),
        }
    }
}

/// `/live` (the process runs), `/ready` (it takes work; otherwise 503 and what is missing) and
/// `/metrics`.
pub fn probes(readiness: Readiness, drain: DrainWatch, metrics: Metrics) -> Router {
    let ready = move || {
        let mut pending = readiness.pending();
        if drain.is_started() {
            pending.push("draining");
        }
        async move { ready_response(&pending) }
    };
    let text = move || {
        let text = metrics.text();
        async move {
            match text {
                Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
                Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
            }
        }
    };
    Router::new()
        .route(
            "/live",
            get(|| async { axum::Json(serde_json::json!({"status": "live"})) }),
        )
        .route("/ready", get(ready))
        .route("/metrics", get(text))
}

fn ready_response(pending: &[&'static str]) -> axum::response::Response {
    let (code, status) = if pending.is_empty() {
        (StatusCode::OK, "ready")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready")
    };
    let detail = serde_json::json!({"status": status, "pending": pending});
    (code, axum::Json(detail)).into_response()
}

#[cfg(test)]
mod tests;
