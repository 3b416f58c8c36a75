//! Probes and limits, over a network in memory.
#![allow(clippy::unwrap_used, reason = "tests")]

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::drain::{DrainTrigger, drain};
use crate::network::{Address, Network as _};
use crate::testing::MemoryNetwork;

struct Running {
    network: MemoryNetwork,
    address: Address,
    tasks: Tasks,
    drain: DrainTrigger,
    metrics: ListenerMetrics,
}

async fn serve(make: impl FnOnce(DrainWatch) -> HttpServer) -> Running {
    let network = MemoryNetwork::new();
    let listener = network
        .listen(&Address::parse("127.0.0.1:0").unwrap())
        .await
        .unwrap();
    let address = Address::parse(&listener.local_address()).unwrap();
    let (tasks, (drain, watch)) = (Tasks::new(), drain());
    let server = make(watch.clone());
    let metrics = server.metrics.clone();
    let owner = tasks.clone();
    tasks.spawn("http", async move {
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

impl Running {
    async fn connect(&self) -> BoxStream {
        self.network.connect(&self.address).await.unwrap()
    }

    /// The whole answer to one request on a connection of its own.
    async fn get(&self, path: &str) -> String {
        let mut stream = self.connect().await;
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }
}

#[tokio::test(start_paused = true)]
async fn probes_tell_life_readiness_and_numbers() {
    let readiness = Readiness::new();
    let gate = readiness.gate("leader");
    let metrics = Metrics::new("mintmark");
    let running = serve(|drain| HttpServer::new(probes(readiness, drain, metrics))).await;

    let live = running.get("/live").await;
    assert!(live.starts_with("HTTP/1.1 200 OK\r\n"), "{live}");
    assert!(!live.to_lowercase().contains("\r\ndate:"), "{live}");

    let ready = running.get("/ready").await;
    assert!(ready.starts_with("HTTP/1.1 503 "), "{ready}");
    assert!(
        ready.ends_with(r#"{"pending":["leader"],"status":"not ready"}"#),
        "{ready}"
    );
    gate.open();
    let ready = running.get("/ready").await;
    assert!(ready.starts_with("HTTP/1.1 200 "), "{ready}");
    assert!(
        ready.ends_with(r#"{"pending":[],"status":"ready"}"#),
        "{ready}"
    );

    let text = running.get("/metrics").await;
    assert!(text.contains(metrics::CONTENT_TYPE), "{text}");
    assert!(text.contains("# EOF"), "{text}");
    assert!(running.get("/else").await.starts_with("HTTP/1.1 404 "));
    assert_eq!(running.metrics.accepted.get(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_draining_process_is_not_ready_and_ends_idle_connections() {
    let metrics = Metrics::new("mintmark");
    let running = serve(|drain| HttpServer::new(probes(Readiness::new(), drain, metrics))).await;
    let mut open = running.connect().await;
    open.write_all(b"GET /ready HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    let mut start = [0; 12];
    open.read_exact(&mut start).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 200");
    running.drain.start(Duration::from_secs(30));
    let mut rest = String::new();
    open.read_to_string(&mut rest).await.unwrap();
    assert!(running.drain.finished().await);
    running.tasks.all_ended().await;
    assert!(running.network.connect(&running.address).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn slow_peers_and_slow_answers_are_given_up() {
    let slow = || async { std::future::pending::<()>().await };
    let router = Router::new().route("/slow", get(slow));
    let running = serve(|_| HttpServer::new(router)).await;
    let began = tokio::time::Instant::now();
    assert!(running.get("/slow").await.starts_with("HTTP/1.1 503 "));
    assert_eq!(began.elapsed(), Duration::from_secs(30));

    let mut silent = running.connect().await;
    silent.write_all(b"GET / HT").await.unwrap();
    let mut rest = String::new();
    let began = tokio::time::Instant::now();
    silent.read_to_string(&mut rest).await.unwrap();
    assert_eq!(began.elapsed(), Duration::from_secs(10));
}

#[tokio::test(start_paused = true)]
async fn a_panicking_handler_costs_one_connection() {
    async fn bad() -> &'static str {
        panic!("bad luck")
    }
    let router = Router::new()
        .route("/bad", get(bad))
        .route("/good", get(|| async { "good" }));
    let running = serve(|_| HttpServer::new(router)).await;
    assert_eq!(running.get("/bad").await, "");
    assert!(running.get("/good").await.ends_with("good"));
    assert_eq!(running.tasks.panics(), 1);
}

#[tokio::test(start_paused = true)]
async fn handlers_know_who_connected_and_connections_are_bounded() {
    let who =
        |axum::Extension(info): axum::Extension<ConnectInfo>| async move { info.peer.to_string() };
    let router = Router::new().route("/who", get(who));
    let running = serve(|_| {
        let mut server = HttpServer::new(router);
        server.limits.max_connections = 1;
        server
    })
    .await;
    assert!(running.get("/who").await.contains("127.0.0.1:"));
    let mut first = running.connect().await;
    first
        .write_all(b"GET /who HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    let mut start = [0; 12];
    first.read_exact(&mut start).await.unwrap();
    let mut second = running.connect().await;
    let mut rest = Vec::new();
    second.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty(), "closed without an answer");
    assert_eq!(running.metrics.refused.get(), 1);
    drop(first);
}
