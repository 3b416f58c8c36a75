//! What every [`Network`] must do.
//!
//! Responsible for the conformance suite of the network seam. Always holds: it listens on free
//! loopback ports and on sockets below the folder it is given. Not here: modes and stale sockets,
//! which only real files have.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a conformance suite fails by panicking"
)]

use std::io::ErrorKind;
use std::path::Path;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::network::{Address, BoxStream, Listener, Network, Peer, UnixMode};

/// Runs the suite; `directory` is an existing empty folder with a short path.
pub async fn network_conformance(network: &dyn Network, directory: &Path) {
    tcp(network).await;
    unix(network, directory).await;
}

async fn tcp(network: &dyn Network) {
    let any = Address::new("127.0.0.1", 0).unwrap();
    let mut listener = network.listen(&any).await.unwrap();
    let address = Address::parse(&listener.local_address()).unwrap();
    assert_ne!(address.port(), 0, "the port that was picked is told");
    let error = network.listen(&address).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    assert!(error.to_string().contains(&address.to_string()), "{error}");

    let client = network.connect(&address).await.unwrap();
    let (server, peer) = listener.accept().await.unwrap();
    match peer {
        Peer::Tcp(peer) => assert!(peer.ip().is_loopback()),
        Peer::Unix(_) => panic!("a TCP peer was expected"),
    }
    both_ways(client, server).await;
    many(&mut *listener, async || {
        network.connect(&address).await.unwrap()
    })
    .await;

    drop(listener);
    let error = network.connect(&address).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    drop(network.listen(&address).await.unwrap());
}

async fn unix(network: &dyn Network, directory: &Path) {
    let path = directory.join("a.sock");
    let error = network.connect_unix(&path).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::NotFound);

    let mut listener = network.listen_unix(&path, UnixMode::PUBLIC).await.unwrap();
    assert_eq!(listener.local_address(), path.display().to_string());
    let error = network.listen_unix(&path, UnixMode::PUBLIC).await;
    let error = error.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    assert!(error.to_string().contains("a.sock"), "{error}");

    // The attempt to listen twice may have left a connection behind that asked who listens.
    let client = network.connect_unix(&path).await.unwrap();
    let (client, server, peer) = meet(client, &mut *listener).await;
    match peer {
        Peer::Unix(peer) => assert!(peer.is_alive()),
        Peer::Tcp(_) => panic!("a Unix peer was expected"),
    }
    both_ways(client, server).await;
    many(&mut *listener, async || {
        network.connect_unix(&path).await.unwrap()
    })
    .await;

    drop(listener);
    let error = network.connect_unix(&path).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    drop(network.listen_unix(&path, UnixMode::PRIVATE).await.unwrap());

    let long = directory.join("x".repeat(108));
    let error = network.listen_unix(&long, UnixMode::PUBLIC).await;
    assert_eq!(error.err().unwrap().kind(), ErrorKind::InvalidInput);
}

/// Finds the accepted end of `client` among the waiting connections.
async fn meet(mut client: BoxStream, listener: &mut dyn Listener) -> (BoxStream, BoxStream, Peer) {
    client.write_all(b"!").await.unwrap();
    for _ in 0..8 {
        let (mut server, peer) = listener.accept().await.unwrap();
        let mut mark = [0];
        if server.read(&mut mark).await.unwrap() == 1 {
            assert_eq!(mark, *b"!");
            return (client, server, peer);
        }
    }
    panic!("the connection was not accepted");
}

/// Bytes arrive in order, both ways; the end of one direction is seen, the other stays open.
async fn both_ways(mut client: BoxStream, mut server: BoxStream) {
    client.write_all(b"ping").await.unwrap();
    client.shutdown().await.unwrap();
    let mut received = Vec::new();
    server.read_to_end(&mut received).await.unwrap();
    assert_eq!(received, b"ping");
    server.write_all(b"pong").await.unwrap();
    drop(server);
    received.clear();
    client.read_to_end(&mut received).await.unwrap();
    assert_eq!(received, b"pong");
}

/// Waiting connections are accepted in order, and cancelling an `accept` loses none.
async fn many(listener: &mut dyn Listener, connect: impl AsyncFn() -> BoxStream) {
    let mut clients = Vec::new();
    for number in 0..10_u8 {
        let mut client = connect().await;
        client.write_all(&[number]).await.unwrap();
        clients.push(client);
    }
    for number in 0..10_u8 {
        // Polled once and dropped: a biased select takes the first branch that is ready.
        let (mut server, _) = tokio::select! {
            biased;
            accepted = listener.accept() => accepted.unwrap(),
            () = tokio::task::yield_now() => listener.accept().await.unwrap(),
        };
        let mut received = [0];
        server.read_exact(&mut received).await.unwrap();
        assert_eq!(received, [number]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::OsNetwork;
    use crate::testing::MemoryNetwork;

    #[tokio::test]
    async fn the_machines_network_conforms() {
        let directory = tempfile::tempdir().unwrap();
        network_conformance(&OsNetwork, directory.path()).await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_network_in_memory_conforms() {
        network_conformance(&MemoryNetwork::new(), Path::new("/run")).await;
    }
}
