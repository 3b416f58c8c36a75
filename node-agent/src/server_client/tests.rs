//! Calls over a network: gRPC on connections that are refused, lost, or never answered.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{io, path::Path};

use async_trait::async_trait;
use mintmark_identity::clock::Timestamp;
use mintmark_runtime::{
    drain::drain,
    grpc::GrpcServer,
    network::{BoxStream, Listener, UnixMode},
    task::Tasks,
    testing::{MemoryHost, MemoryNetwork},
};
use tokio::time::Instant;
use tonic::service::Routes;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::*;

/// A network on which connecting to `lost` takes for ever.
#[derive(Clone, Debug)]
struct Lossy {
    inner: MemoryNetwork,
    lost: Address,
}

#[async_trait]
impl Network for Lossy {
    async fn connect(&self, address: &Address) -> io::Result<BoxStream> {
        if *address == self.lost {
            return std::future::pending().await;
        }
        self.inner.connect(address).await
    }

    async fn listen(&self, address: &Address) -> io::Result<Box<dyn Listener>> {
        self.inner.listen(address).await
    }

    async fn connect_unix(&self, path: &Path) -> io::Result<BoxStream> {
        self.inner.connect_unix(path).await
    }

    async fn listen_unix(&self, path: &Path, mode: UnixMode) -> io::Result<Box<dyn Listener>> {
        self.inner.listen_unix(path, mode).await
    }
}

fn address(name: &str) -> Address {
    Address::new(name, 1).unwrap()
}

/// One agent and a network with a good server and a silent one; to `lost` nothing gets through, and
/// at `nobody` nobody listens.
struct Bed {
    network: Arc<dyn Network>,
    servers: Servers,
    tasks: Tasks,
    metrics: Arc<Metrics>,
}

impl Bed {
    async fn new(configured: &[&str]) -> Self {
        let machine = MemoryHost::new(Timestamp::UNIX_EPOCH, 3);
        let tasks = Tasks::new();
        let (_, watch) = drain();
        let (_, health) = tonic_health::server::health_reporter();
        let good = GrpcServer::new(Routes::new(health), machine.entropy.clone());
        let listener = machine.network.listen(&address("good")).await.unwrap();
        let owner = tasks.clone();
        tasks.spawn("good", async move {
            good.serve(listener, &owner, watch).await;
        });
        let mut silent = machine.network.listen(&address("silent")).await.unwrap();
        tasks.spawn("silent", async move {
            let mut open = Vec::new();
            while let Ok(connection) = silent.accept().await {
                open.push(connection);
            }
        });
        let network: Arc<dyn Network> = Arc::new(Lossy {
            inner: machine.network.clone(),
            lost: address("lost"),
        });
        let host = Host {
            network: Arc::clone(&network),
            ..machine.host()
        };
        let metrics = Arc::new(Metrics::default());
        let known = configured.iter().map(|name| address(name)).collect();
        let tls: ClientConfigSource = Arc::new(|| unreachable!("these servers speak without TLS"));
        let servers = Servers::new(&host, tls, known, Arc::clone(&metrics));
        servers.prefer(&address(configured[0]));
        Self {
            network,
            servers,
            tasks,
            metrics,
        }
    }

    /// Asks whether the server is well, and returns who said so.
    async fn call(&self) -> Result<Address, Status> {
        let call = |server: Address| async move {
            let target = Target::Tcp {
                address: server.clone(),
                tls: None,
            };
            let options = ChannelOptions::default();
            let channel = channel(Arc::clone(&self.network), target, options);
            let request = HealthCheckRequest::default();
            let answer = HealthClient::new(channel).check(request).await?;
            assert_eq!(answer.into_inner().status(), ServingStatus::Serving);
            Ok(server)
        };
        self.servers.call(call).await
    }

    async fn end(self) {
        self.tasks.shutdown(Duration::ZERO).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_good_server_answers_whatever_is_wrong_with_the_others() {
    for bad in ["silent", "lost", "nobody"] {
        let bed = Bed::new(&[bad, "good"]).await;
        let turned = bed.metrics.failovers.get();
        let began = Instant::now();
        assert_eq!(bed.call().await.unwrap(), address("good"), "{bad}");
        assert!(began.elapsed() < Duration::from_secs(2), "{bad}");
        // The one that answered is asked first from then on: nothing is waited for.
        let again = Instant::now();
        assert_eq!(bed.call().await.unwrap(), address("good"));
        assert!(again.elapsed() < Duration::from_millis(100), "{bad}");
        assert_eq!(bed.metrics.failovers.get(), turned + 1, "{bad}");
        bed.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn two_servers_out_of_reach_are_passed_over_in_one_call() {
    let bed = Bed::new(&["silent", "lost", "good"]).await;
    let began = Instant::now();
    assert_eq!(bed.call().await.unwrap(), address("good"));
    assert!(began.elapsed() < Duration::from_secs(4));
    assert_eq!(bed.metrics.asked_too.get(), 2);
    assert_eq!(bed.servers.current(), Some(address("good")));
    bed.end().await;
}

#[tokio::test(start_paused = true)]
async fn when_no_server_answers_the_call_ends() {
    let bed = Bed::new(&["silent", "lost", "nobody"]).await;
    let began = Instant::now();
    let status = bed.call().await.unwrap_err();
    assert!(another_may_answer(&status), "{status}");
    assert!(began.elapsed() <= CALL_DEADLINE);
    bed.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_on_which_nothing_came_is_not_used_again() {
    let machine = MemoryHost::new(Timestamp::UNIX_EPOCH, 3);
    let tls: ClientConfigSource = Arc::new(|| unreachable!("nothing is sent"));
    let known = vec![address("a"), address("b")];
    let servers = Servers::new(&machine.host(), tls, known, Arc::default());
    servers.prefer(&address("a"));
    let has = |name: &str| servers.with(|known| known.channels.contains_key(&address(name)));
    let call = |server: Address| {
        let _channel = servers.channel(&server);
        async move {
            if server == address("a") {
                return std::future::pending().await;
            }
            Ok(server)
        }
    };
    assert_eq!(servers.call(call).await.unwrap(), address("b"));
    assert!(!has("a") && has("b"));
    assert_eq!(servers.round(), [address("b"), address("a")]);
}
