//! Calls, deadlines and limits over a network in memory, and once over the real one.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Mutex;

use axum::Router;
use axum::routing::post;
use bytes::Bytes;
use http::HeaderMap;
use http_body_util::BodyExt as _;
use mintmark_identity::entropy::SeededEntropy;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::Code;
use tonic::transport::Channel;

use super::*;
use crate::drain::{DrainTrigger, drain};
use crate::network::{Address, Network, OsNetwork, UnixMode};
use crate::testing::{MemoryNetwork, MemoryProcess};
use crate::tls::pki::Pki;

mod local_clients;

/// What a handler learned about its connection, in the headers of its answer.
async fn who(info: axum::Extension<ConnectInfo>) -> Response<axum::body::Body> {
    let mut response = Response::new(axum::body::Body::empty());
    let headers = response.headers_mut();
    headers.insert("grpc-status", "0".parse().unwrap());
    headers.insert("peer", info.peer.to_string().parse().unwrap());
    headers.insert("certificates", info.peer_certificates.len().into());
    if let Some(exporter) = info.tls_exporter {
        headers.insert("exporter", format!("{exporter:?}").parse().unwrap());
    }
    response
}

async fn slow() -> StatusOnly {
    tokio::time::sleep(Duration::from_secs(3)).await;
    StatusOnly
}

struct StatusOnly;

impl axum::response::IntoResponse for StatusOnly {
    fn into_response(self) -> axum::response::Response {
        Status::ok("").into_http()
    }
}

async fn bad() -> StatusOnly {
    panic!("bad luck")
}

/// A stream that says one thing and then nothing more.
async fn stream() -> Response<axum::body::Body> {
    let endless = futures_util::stream::unfold(true, async |first| {
        if !first {
            std::future::pending::<()>().await;
        }
        Some((Ok::<_, Infallible>(Bytes::from_static(b"first")), false))
    });
    Response::new(axum::body::Body::from_stream(endless))
}

fn routes() -> Routes {
    Router::new()
        .route("/test/who", post(who))
        .route("/test/slow", post(slow))
        .route("/test/bad", post(bad))
        .route("/test/stream", post(stream))
        .fallback(async || {
            Response::from_parts(
                Status::unimplemented("").into_http::<()>().into_parts().0,
                axum::body::Body::empty(),
            )
        })
        .into()
}

fn server() -> GrpcServer {
    GrpcServer::new(routes(), Arc::new(SeededEntropy::new(1)))
}

struct Running {
    network: Arc<dyn Network>,
    address: String,
    tasks: Tasks,
    drain: DrainTrigger,
    metrics: ListenerMetrics,
}

fn start(network: Arc<dyn Network>, listener: Box<dyn Listener>, server: GrpcServer) -> Running {
    let (tasks, (drain, watch)) = (Tasks::new(), drain());
    let (address, metrics) = (listener.local_address(), server.metrics.clone());
    let owner = tasks.clone();
    tasks.spawn("grpc", async move {
        server.serve(listener, &owner, watch).await;
    });
    Running {
        network,
        address,
        tasks,
        drain,
        metrics,
    }
}

async fn tcp(network: impl Network + 'static, server: GrpcServer) -> Running {
    let listener = network
        .listen(&Address::parse("127.0.0.1:0").unwrap())
        .await;
    start(Arc::new(network), listener.unwrap(), server)
}

impl Running {
    fn address(&self) -> Address {
        Address::parse(&self.address).unwrap()
    }

    fn channel(&self) -> Channel {
        self.tls_channel(None, ChannelOptions::default())
    }

    fn tls_channel(
        &self,
        tls: Option<crate::tls::ClientConfigSource>,
        options: ChannelOptions,
    ) -> Channel {
        let address = Address::new("localhost", self.address().port()).unwrap();
        let address = if tls.is_some() {
            address
        } else {
            self.address()
        };
        channel(
            Arc::clone(&self.network),
            Target::Tcp { address, tls },
            options,
        )
    }
}

impl Running {
    /// A call by hyper's own client: a tonic channel would apply the deadline itself.
    async fn raw_call(&self, method: &str, timeout: Option<&str>) -> HeaderMap {
        let stream = self.network.connect(&self.address()).await.unwrap();
        let executor = TaskExecutor::new(self.tasks.clone(), "client");
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(executor, TokioIo::new(stream))
                .await
                .unwrap();
        self.tasks.spawn("client", async {
            let _ = connection.await;
        });
        let response = sender.send_request(request(method, timeout)).await.unwrap();
        let (parts, body) = response.into_parts();
        let mut headers = parts.headers;
        let trailers = body.collect().await.unwrap().trailers().cloned();
        headers.extend(trailers.unwrap_or_default());
        headers
    }
}

fn request(method: &str, timeout: Option<&str>) -> Request<Body> {
    let mut request = Request::post(format!("http://localhost/test/{method}"))
        .header("content-type", "application/grpc")
        .body(Body::empty())
        .unwrap();
    if let Some(timeout) = timeout {
        let timeout = timeout.parse().unwrap();
        request.headers_mut().insert("grpc-timeout", timeout);
    }
    request
}

async fn begin(channel: &Channel, method: &str) -> Result<Response<Body>, Status> {
    let response = channel.clone().oneshot(request(method, None)).await;
    response.map_err(|error| Status::from_error(Box::new(error)))
}

/// The headers of the answer, with the status among them.
async fn call(channel: &Channel, method: &str) -> Result<HeaderMap, Status> {
    let response = begin(channel, method).await?;
    let (parts, body) = response.into_parts();
    let mut headers = parts.headers;
    let collected = body.collect().await?;
    if let Some(trailers) = collected.trailers() {
        headers.extend(trailers.clone());
    }
    match Status::from_header_map(&headers) {
        Some(status) if status.code() != Code::Ok => Err(status),
        _ => Ok(headers),
    }
}

fn code(result: Result<HeaderMap, Status>) -> Code {
    result.err().map_or(Code::Ok, |status| status.code())
}

#[tokio::test(start_paused = true)]
async fn a_call_knows_its_peer_and_carries_no_date() {
    let running = tcp(MemoryNetwork::new(), server()).await;
    let headers = call(&running.channel(), "who").await.unwrap();
    assert!(headers["peer"].to_str().unwrap().starts_with("127.0.0.1:"));
    assert_eq!(headers["certificates"], "0");
    assert!(!headers.contains_key("exporter"));
    assert!(!headers.contains_key("date"), "{headers:?}");
    let missing = call(&running.channel(), "missing").await;
    assert_eq!(code(missing), Code::Unimplemented);
}

#[tokio::test(start_paused = true)]
async fn a_local_peer_is_named_by_its_process() {
    let network = MemoryNetwork::new();
    let path = Path::new("/run/agent.sock");
    let listener = network.listen_unix(path, UnixMode::PUBLIC).await.unwrap();
    let workload = network.for_process(&MemoryProcess::new(4711, 1000, 1000));
    let running = start(Arc::new(workload), listener, server());
    let target = Target::Unix(path.to_owned());
    let channel = channel(
        Arc::clone(&running.network),
        target,
        ChannelOptions::default(),
    );
    let headers = call(&channel, "who").await.unwrap();
    assert_eq!(headers["peer"], "pid 4711 uid 1000");
}

#[tokio::test(start_paused = true)]
async fn deadlines_end_calls_with_their_status() {
    let running = tcp(MemoryNetwork::new(), server()).await;
    for (method, timeout, expected, seconds) in [
        ("slow", None, Code::Ok, 3),
        ("slow", Some("5S"), Code::Ok, 3),
        ("slow", Some("1S"), Code::DeadlineExceeded, 1),
        ("stream", Some("1S"), Code::DeadlineExceeded, 1),
        ("slow", Some("1x"), Code::InvalidArgument, 0),
    ] {
        let began = tokio::time::Instant::now();
        let headers = running.raw_call(method, timeout).await;
        let status = Status::from_header_map(&headers).unwrap();
        assert_eq!(status.code(), expected, "{method} {timeout:?}");
        assert_eq!(began.elapsed(), Duration::from_secs(seconds));
        assert!(!headers.contains_key("date"), "{headers:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_servers_own_deadline_applies_without_the_callers() {
    let mut server = server();
    server.limits.default_deadline = Some(Duration::from_secs(2));
    let running = tcp(MemoryNetwork::new(), server).await;
    let began = tokio::time::Instant::now();
    let late = call(&running.channel(), "slow").await;
    assert_eq!(code(late), Code::DeadlineExceeded);
    assert_eq!(began.elapsed(), Duration::from_secs(2));
}

#[tokio::test(start_paused = true)]
async fn a_channel_bounds_calls_and_connecting() {
    let mut server = server();
    server.limits.default_deadline = None;
    let running = tcp(MemoryNetwork::new(), server).await;
    let options = ChannelOptions {
        deadline: Duration::from_secs(2),
        ..ChannelOptions::default()
    };
    let late = call(&running.tls_channel(None, options), "slow").await;
    assert!(late.is_err());

    #[derive(Debug)]
    struct BlackHole;
    #[async_trait::async_trait]
    impl Network for BlackHole {
        async fn connect(&self, _: &Address) -> io::Result<BoxStream> {
            std::future::pending().await
        }
        async fn listen(&self, _: &Address) -> io::Result<Box<dyn Listener>> {
            Err(io::ErrorKind::Unsupported.into())
        }
        async fn connect_unix(&self, _: &Path) -> io::Result<BoxStream> {
            std::future::pending().await
        }
        async fn listen_unix(&self, _: &Path, _: UnixMode) -> io::Result<Box<dyn Listener>> {
            Err(io::ErrorKind::Unsupported.into())
        }
    }
    let target = Target::Tcp {
        address: Address::parse("nowhere:1").unwrap(),
        tls: None,
    };
    let began = tokio::time::Instant::now();
    let channel = channel(Arc::new(BlackHole), target, ChannelOptions::default());
    assert_eq!(code(call(&channel, "who").await), Code::Unavailable);
    assert_eq!(began.elapsed(), Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn a_panicking_handler_costs_one_caller() {
    let running = tcp(MemoryNetwork::new(), server()).await;
    let channel = running.channel();
    let status = call(&channel, "bad").await.unwrap_err();
    assert_eq!(status.code(), Code::Internal);
    assert!(!status.message().contains("bad luck"), "{status}");
    assert_eq!(code(call(&channel, "who").await), Code::Ok);
    assert_eq!(running.tasks.panics(), 1);
    assert_eq!(running.metrics.accepted.get(), 1, "one connection");
}

#[tokio::test(start_paused = true)]
async fn peers_without_a_protocol_are_given_up() {
    let running = tcp(MemoryNetwork::new(), server()).await;
    let mut silent = running.network.connect(&running.address()).await.unwrap();
    let began = tokio::time::Instant::now();
    let mut rest = Vec::new();
    silent.read_to_end(&mut rest).await.unwrap();
    assert_eq!(began.elapsed(), Duration::from_secs(10));
    let mut wrong = running.network.connect(&running.address()).await.unwrap();
    wrong.write_all(&[b'x'; 64]).await.unwrap();
    wrong.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty());
    assert_eq!(running.metrics.handshakes_failed.get(), 2);
    assert_eq!(code(call(&running.channel(), "who").await), Code::Ok);
}

#[tokio::test(start_paused = true)]
async fn one_local_user_cannot_take_all_connections() {
    let network = MemoryNetwork::new();
    let path = Path::new("/run/agent.sock");
    let listener = network.listen_unix(path, UnixMode::PUBLIC).await.unwrap();
    let mut server = server();
    server.limits.connections.max_connections_per_uid = 2;
    let running = start(Arc::new(network.clone()), listener, server);
    let greedy = network.for_process(&MemoryProcess::new(10, 1000, 1000));
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(greedy.connect_unix(path).await.unwrap());
    }
    let mut rest = Vec::new();
    open.pop().unwrap().read_to_end(&mut rest).await.unwrap();
    assert_eq!(running.metrics.refused.get(), 1);
    let other = network.for_process(&MemoryProcess::new(11, 1001, 1001));
    let target = Target::Unix(path.to_owned());
    let channel = channel(Arc::new(other), target, ChannelOptions::default());
    assert_eq!(code(call(&channel, "who").await), Code::Ok);
}

#[tokio::test(start_paused = true)]
async fn an_old_connection_is_replaced_without_a_failed_call() {
    let mut server = server();
    server.limits.connections.max_connection_age = Some(Duration::from_secs(60));
    let running = tcp(MemoryNetwork::new(), server).await;
    let channel = running.channel();
    let mut peers = BTreeSet::new();
    for _ in 0..40 {
        let headers = call(&channel, "who").await.unwrap();
        peers.insert(headers["peer"].to_str().unwrap().to_owned());
        assert_eq!(code(call(&channel, "slow").await), Code::Ok);
    }
    assert!(peers.len() >= 2, "{peers:?}");
}

#[tokio::test(start_paused = true)]
async fn a_drain_lets_calls_finish_and_ends_streams_at_its_deadline() {
    let running = tcp(MemoryNetwork::new(), server()).await;
    let channel = running.channel();
    let began = tokio::time::Instant::now();
    let drain = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        running.drain.start(Duration::from_secs(10));
    };
    let (finished, ()) = tokio::join!(call(&channel, "slow"), drain);
    assert_eq!(code(finished), Code::Ok);
    assert!(running.drain.finished().await);
    assert_eq!(began.elapsed(), Duration::from_secs(3));
    running.tasks.all_ended().await;
    assert_eq!(code(call(&channel, "who").await), Code::Unavailable);

    let running = tcp(MemoryNetwork::new(), server()).await;
    let channel = running.channel();
    let open = begin(&channel, "stream").await.unwrap();
    let began = tokio::time::Instant::now();
    running.drain.start(Duration::from_secs(10));
    assert!(!running.drain.finished().await);
    assert_eq!(began.elapsed(), Duration::from_secs(10));
    let broken = open.into_body().collect().await;
    assert!(broken.is_err());
    running.tasks.all_ended().await;
}

#[tokio::test(start_paused = true)]
async fn tls_is_taken_anew_for_each_connection_on_both_sides() {
    let (old, new) = (Pki::new(), Pki::new());
    let server_config = Arc::new(Mutex::new(old.server("localhost")));
    let client_config = Arc::new(Mutex::new(old.client(Some("agent"))));
    let source = Arc::clone(&server_config);
    let server = server().with_tls(Arc::new(move || Arc::clone(&source.lock().unwrap())));
    let running = tcp(MemoryNetwork::new(), server).await;
    let source = Arc::clone(&client_config);
    let seen: Arc<Mutex<Vec<Connected>>> = Arc::default();
    let sink = Arc::clone(&seen);
    let options = ChannelOptions {
        on_connected: Some(Arc::new(move |connected| {
            sink.lock().unwrap().push(connected);
        })),
        ..ChannelOptions::default()
    };
    let tls: crate::tls::ClientConfigSource = Arc::new(move || Arc::clone(&source.lock().unwrap()));
    let channel = running.tls_channel(Some(Arc::clone(&tls)), options.clone());
    let headers = call(&channel, "who").await.unwrap();
    assert_eq!(headers["certificates"], "1");
    let exporter = seen.lock().unwrap()[0].tls_exporter.unwrap();
    assert_eq!(headers["exporter"], format!("{exporter:?}").as_str());

    // The server's certificate rotates: the open connection goes on, a new one sees it.
    *server_config.lock().unwrap() = new.server("localhost");
    assert_eq!(code(call(&channel, "who").await), Code::Ok);
    let another = running.tls_channel(Some(Arc::clone(&tls)), options.clone());
    assert_eq!(code(call(&another, "who").await), Code::Unavailable);
    *client_config.lock().unwrap() = new.client(None);
    let headers = call(&another, "who").await.unwrap();
    assert_eq!(headers["certificates"], "0");
    assert_eq!(seen.lock().unwrap().len(), 2);
    assert_eq!(running.metrics.handshakes_failed.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_plain_client_of_a_tls_listener_fails_alone() {
    let pki = Pki::new();
    let config = pki.server("localhost");
    let server = server().with_tls(Arc::new(move || Arc::clone(&config)));
    let running = tcp(MemoryNetwork::new(), server).await;
    assert!(call(&running.channel(), "who").await.is_err());
    assert!(running.metrics.handshakes_failed.get() >= 1);
    let client = pki.client(None);
    let tls: crate::tls::ClientConfigSource = Arc::new(move || Arc::clone(&client));
    let channel = running.tls_channel(Some(tls), ChannelOptions::default());
    assert_eq!(code(call(&channel, "who").await), Code::Ok);
}

#[tokio::test]
async fn it_works_over_the_real_network() {
    let running = tcp(OsNetwork, server()).await;
    assert_eq!(code(call(&running.channel(), "who").await), Code::Ok);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("api.sock");
    let listener = OsNetwork.listen_unix(&path, UnixMode::PRIVATE).await;
    let running = start(Arc::new(OsNetwork), listener.unwrap(), server());
    let channel = channel(
        Arc::clone(&running.network),
        Target::Unix(path),
        ChannelOptions::default(),
    );
    let headers = call(&channel, "who").await.unwrap();
    let us = format!(
        "pid {} uid {}",
        std::process::id(),
        nix::unistd::geteuid().as_raw()
    );
    assert_eq!(headers["peer"], us.as_str());
}
