//! The life of accepted connections, whatever is spoken on them.
//!
//! Responsible for accepting, limits per listener and per local user, the TLS handshake, maximum
//! age and draining. Always holds: nothing a peer does ends a listener; every wait for a peer is
//! bounded; a connection beyond a limit is closed at once, never queued. Not here: the protocol
//! ([`crate::grpc`], [`crate::http`]).

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use rustls_pki_types::CertificateDer;

use crate::backoff::Backoff;
use crate::drain::DrainWatch;
use crate::network::{BoxStream, Listener, Peer};
use crate::tls::{self, ServerConfigSource};

/// What handlers may know about the connection that a request came over. It is in every
/// request's extensions.
#[derive(Clone)]
pub struct ConnectInfo {
    /// Address or local process of the peer.
    pub peer: Peer,
    /// The certificates that the peer presented and the TLS verifier accepted, leaf first.
    pub peer_certificates: Arc<[CertificateDer<'static>]>,
    /// A value that both ends of this TLS connection share and nobody else; see
    /// [`tls::EXPORTER_LABEL`].
    pub tls_exporter: Option<[u8; 32]>,
}

impl fmt::Debug for ConnectInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectInfo")
            .field("peer", &self.peer)
            .field("peer_certificates", &self.peer_certificates.len())
            .finish_non_exhaustive()
    }
}

/// Bounds on the connections of one listener.
#[derive(Clone, Debug)]
pub struct ConnectionLimits {
    /// Connections at one time.
    pub max_connections: usize,
    /// Connections at one time from one local user (Unix sockets only).
    pub max_connections_per_uid: usize,
    /// Time for the TLS handshake, and again for the first bytes of the protocol.
    pub handshake_timeout: Duration,
    /// A connection this old is drained, so that load spreads and certificates are seen anew.
    /// Lengthened by up to a tenth at random.
    pub max_connection_age: Option<Duration>,
    /// How long the requests of a connection that is drained for its age may still run.
    pub max_connection_age_grace: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            // Descriptors are the scarce thing; services run with a limit of at least 65536.
            max_connections: 16_384,
            max_connections_per_uid: 1024,
            handshake_timeout: Duration::from_secs(10),
            max_connection_age: None,
            max_connection_age_grace: Duration::from_secs(30),
        }
    }
}

/// What happened on a listener. A clone counts into the same numbers.
#[derive(Clone, Debug, Default)]
pub struct ListenerMetrics {
    /// Connections open now.
    pub open: Gauge,
    /// Connections accepted and served.
    pub accepted: Counter,
    /// Connections closed because of a limit.
    pub refused: Counter,
    /// Connections that failed or timed out before the first request.
    pub handshakes_failed: Counter,
    /// Failures to accept, such as too many open files.
    pub accept_errors: Counter,
}

impl ListenerMetrics {
    /// Registers the numbers, usually under a sub-registry that names the listener.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("connections_open", "Open connections", self.open.clone());
        registry.register(
            "connections_accepted",
            "Connections accepted and served",
            self.accepted.clone(),
        );
        registry.register(
            "connections_refused",
            "Connections closed because of a limit",
            self.refused.clone(),
        );
        registry.register(
            "handshakes_failed",
            "Connections that failed before the first request",
            self.handshakes_failed.clone(),
        );
        registry.register(
            "accept_errors",
            "Failures to accept a connection",
            self.accept_errors.clone(),
        );
    }
}

/// Counts connections against the limits of a listener.
#[derive(Clone)]
pub(crate) struct Admission {
    max: usize,
    max_per_uid: usize,
    counts: Arc<Mutex<Counts>>,
    metrics: ListenerMetrics,
}

#[derive(Default)]
struct Counts {
    total: usize,
    by_uid: BTreeMap<u32, usize>,
}

impl Admission {
    pub(crate) fn new(limits: &ConnectionLimits, metrics: ListenerMetrics) -> Self {
        Self {
            max: limits.max_connections,
            max_per_uid: limits.max_connections_per_uid,
            counts: Arc::default(),
            metrics,
        }
    }

    /// A place for one connection, or none.
    fn admit(&self, peer: &Peer) -> Option<Admitted> {
        let uid = peer.unix().map(|peer| peer.uid);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let of_uid = uid.and_then(|uid| counts.by_uid.get(&uid).copied());
        if counts.total >= self.max || of_uid.is_some_and(|count| count >= self.max_per_uid) {
            self.metrics.refused.inc();
            return None;
        }
        counts.total = counts.total.saturating_add(1);
        if let Some(uid) = uid {
            let count = counts.by_uid.entry(uid).or_insert(0);
            *count = count.saturating_add(1);
        }
        self.metrics.accepted.inc();
        self.metrics.open.inc();
        Some(Admitted {
            uid,
            admission: self.clone(),
        })
    }
}

/// The place of one connection; dropping it frees the place.
pub(crate) struct Admitted {
    uid: Option<u32>,
    admission: Admission,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut counts = self
            .admission
            .counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        counts.total = counts.total.saturating_sub(1);
        if let Some(uid) = self.uid
            && let Some(count) = counts.by_uid.get_mut(&uid)
        {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.by_uid.remove(&uid);
            }
        }
        self.admission.metrics.open.dec();
    }
}

/// First and longest wait after a failure to accept. Short: such failures pass when any
/// connection closes.
const ACCEPT_RETRY_MIN: Duration = Duration::from_millis(10);
const ACCEPT_RETRY_MAX: Duration = Duration::from_secs(1);

/// Accepts until the drain begins, handing each admitted connection to `start`.
pub(crate) async fn accept_loop(
    listener: &mut dyn Listener,
    admission: &Admission,
    drain: &DrainWatch,
    start: impl Fn(BoxStream, Peer, Admitted),
) {
    let mut backoff = Backoff::new(ACCEPT_RETRY_MIN, ACCEPT_RETRY_MAX);
    loop {
        let accepted = tokio::select! {
            biased;
            () = drain.started() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                backoff.reset();
                match admission.admit(&peer) {
                    Some(admitted) => start(stream, peer, admitted),
                    None => tracing::debug!(%peer, "connection refused: too many connections"),
                }
            }
            Err(error) => {
                admission.metrics.accept_errors.inc();
                // One listener retries; there is no herd to spread, so no jitter.
                let delay = backoff.next_delay(u64::MAX);
                if backoff.failures() == 1 {
                    let listener = listener.local_address();
                    tracing::warn!(%error, listener, "cannot accept a connection");
                }
                tokio::select! {
                    () = drain.started() => return,
                    () = tokio::time::sleep(delay) => {}
                }
            }
        }
    }
}

/// Brings an accepted stream to the point where the protocol begins.
pub(crate) async fn establish(
    stream: BoxStream,
    peer: Peer,
    tls: Option<&ServerConfigSource>,
    alpn: &'static [u8],
    handshake_timeout: Duration,
) -> io::Result<(BoxStream, ConnectInfo)> {
    let Some(source) = tls else {
        let info = ConnectInfo {
            peer,
            peer_certificates: Arc::from([]),
            tls_exporter: None,
        };
        return Ok((stream, info));
    };
    let config = tls::with_server_protocol(source(), alpn);
    let established = tls::accept(stream, config, handshake_timeout).await?;
    let info = ConnectInfo {
        peer,
        peer_certificates: established.peer_certificates.into(),
        tls_exporter: established.exporter,
    };
    Ok((established.stream, info))
}

/// When a connection must end.
pub(crate) struct Lifetime {
    pub(crate) age: Option<Duration>,
    pub(crate) age_grace: Duration,
    pub(crate) drain: DrainWatch,
}

/// Serves a connection until it ends by itself, grows too old, or the process drains; in the
/// last two cases its requests get a grace period.
pub(crate) async fn drive<C: Future>(
    connection: C,
    begin_shutdown: impl Fn(Pin<&mut C>),
    lifetime: Lifetime,
) -> Option<C::Output> {
    let Lifetime {
        age,
        age_grace,
        drain,
    } = lifetime;
    let mut connection = pin!(connection);
    let _guard = drain.guard();
    tokio::select! {
        output = &mut connection => return Some(output),
        () = drain.started() => {}
        () = sleep_or_forever(age) => {}
    }
    begin_shutdown(connection.as_mut());
    let old = async {
        // A drain of the process has its own deadline.
        if drain.is_started() {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(age_grace).await;
    };
    tokio::select! {
        output = &mut connection => Some(output),
        () = drain.expired() => None,
        () = old => None,
    }
}

async fn sleep_or_forever(duration: Option<Duration>) {
    match duration {
        Some(duration) => tokio::time::sleep(duration).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::drain::drain;
    use crate::unix::{self, Liveness};

    #[derive(Debug)]
    struct Alive;
    impl Liveness for Alive {
        fn is_alive(&self) -> bool {
            true
        }
    }

    fn local(uid: u32) -> Peer {
        Peer::Unix(unix::Peer::new(Some(1), uid, uid, Arc::new(Alive)))
    }

    fn admission(max_connections: usize, max_connections_per_uid: usize) -> Admission {
        let limits = ConnectionLimits {
            max_connections,
            max_connections_per_uid,
            ..ConnectionLimits::default()
        };
        Admission::new(&limits, ListenerMetrics::default())
    }

    #[test]
    fn one_user_cannot_take_the_places_of_another() {
        let admission = admission(3, 2);
        let first = admission.admit(&local(1)).unwrap();
        let _second = admission.admit(&local(1)).unwrap();
        assert!(admission.admit(&local(1)).is_none(), "per-user limit");
        let _other = admission.admit(&local(2)).unwrap();
        assert!(admission.admit(&local(3)).is_none(), "listener limit");
        drop(first);
        let _again = admission.admit(&local(1)).unwrap();
        assert_eq!(admission.metrics.refused.get(), 2);
        assert_eq!(admission.metrics.open.get(), 3);
    }

    #[test]
    fn freed_places_leave_no_trace() {
        let admission = admission(10, 10);
        let places: Vec<_> = (0..5).map(|uid| admission.admit(&local(uid))).collect();
        drop(places);
        let counts = admission.counts.lock().unwrap();
        assert_eq!(counts.total, 0);
        assert!(counts.by_uid.is_empty());
    }

    #[derive(Default)]
    struct Failing(usize);

    #[async_trait::async_trait]
    impl Listener for Failing {
        async fn accept(&mut self) -> io::Result<(BoxStream, Peer)> {
            if self.0 == 0 {
                let (stream, _other) = tokio::io::duplex(1);
                self.0 = usize::MAX;
                return Ok((Box::new(stream), local(1)));
            }
            self.0 = self.0.saturating_sub(1);
            Err(io::Error::other("too many open files"))
        }
        fn local_address(&self) -> String {
            String::from("test")
        }
    }

    #[tokio::test(start_paused = true)]
    async fn accept_errors_are_waited_out() {
        let (trigger, watch) = drain();
        let admission = admission(10, 10);
        let began = tokio::time::Instant::now();
        accept_loop(&mut Failing(12), &admission, &watch, |_, _, _| {
            trigger.start(Duration::ZERO);
        })
        .await;
        assert_eq!(admission.metrics.accept_errors.get(), 12);
        assert_eq!(admission.metrics.accepted.get(), 1);
        // 10, 20, … 640 ms, then five seconds of one each.
        let waited = began.elapsed();
        assert!(waited > Duration::from_secs(6) && waited < Duration::from_secs(7));
    }

    fn lifetime(age: Option<u64>, drain: &DrainWatch) -> Lifetime {
        Lifetime {
            age: age.map(Duration::from_secs),
            age_grace: Duration::from_secs(5),
            drain: drain.clone(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_old_connection_gets_its_grace_and_no_more() {
        let (_trigger, watch) = drain();
        let began = tokio::time::Instant::now();
        let asked = std::cell::Cell::new(0);
        let output = drive(
            std::future::pending::<()>(),
            |_| asked.set(began.elapsed().as_secs()),
            lifetime(Some(60), &watch),
        )
        .await;
        assert_eq!((output, asked.get()), (None, 60));
        assert_eq!(began.elapsed(), Duration::from_secs(65));
    }

    #[tokio::test(start_paused = true)]
    async fn a_draining_process_waits_for_connections_until_its_deadline() {
        let (trigger, watch) = drain();
        let began = tokio::time::Instant::now();
        trigger.start(Duration::from_secs(20));
        let connection = std::future::pending::<()>();
        let (output, finished) = tokio::join!(
            drive(connection, |_| {}, lifetime(None, &watch)),
            trigger.finished()
        );
        assert_eq!((output, finished), (None, false));
        assert_eq!(began.elapsed(), Duration::from_secs(20));
    }
}
