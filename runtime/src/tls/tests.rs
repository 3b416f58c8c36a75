//! Handshakes over a pipe in memory.
#![allow(clippy::unwrap_used, reason = "tests")]

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::pki::Pki;
use super::*;

const LIMIT: Duration = Duration::from_secs(10);

fn localhost() -> ServerName<'static> {
    ServerName::try_from("localhost").unwrap()
}

fn pipe() -> (BoxStream, BoxStream) {
    let (a, b) = tokio::io::duplex(64 * 1024);
    (Box::new(a), Box::new(b))
}

async fn handshake(
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
) -> (io::Result<TlsServerStream>, io::Result<TlsClientStream>) {
    let (a, b) = pipe();
    tokio::join!(
        accept(a, server, LIMIT),
        connect(b, client, localhost(), LIMIT)
    )
}

#[tokio::test(start_paused = true)]
async fn both_sides_see_the_other_and_share_one_value() {
    let pki = Pki::new();
    let (server, client) = handshake(pki.server("localhost"), pki.client(Some("agent"))).await;
    let (mut server, mut client) = (server.unwrap(), client.unwrap());
    assert_eq!(server.peer_certificates.len(), 1);
    assert_eq!(client.peer_certificates.len(), 1);
    assert!(server.exporter.is_some());
    assert_eq!(server.exporter, client.exporter);
    client.stream.write_all(b"hello").await.unwrap();
    client.stream.flush().await.unwrap();
    let mut received = [0; 5];
    server.stream.read_exact(&mut received).await.unwrap();
    assert_eq!(&received, b"hello");
    assert!(!format!("{server:?}").contains("exporter"));
}

#[tokio::test(start_paused = true)]
async fn the_shared_value_differs_between_connections() {
    let pki = Pki::new();
    let (server, client) = (pki.server("localhost"), pki.client(None));
    let (first, _) = handshake(Arc::clone(&server), Arc::clone(&client)).await;
    let (second, _) = handshake(server, client).await;
    assert_ne!(first.unwrap().exporter, second.unwrap().exporter);
}

#[tokio::test(start_paused = true)]
async fn a_client_without_a_certificate_presents_none() {
    let pki = Pki::new();
    let (server, _) = handshake(pki.server("localhost"), pki.client(None)).await;
    assert!(server.unwrap().peer_certificates.is_empty());
}

#[tokio::test(start_paused = true)]
async fn certificates_of_a_foreign_authority_fail_the_handshake() {
    let (ours, theirs) = (Pki::new(), Pki::new());
    let (_, client) = handshake(theirs.server("localhost"), ours.client(None)).await;
    assert_eq!(client.unwrap_err().kind(), io::ErrorKind::InvalidData);
    // The client trusts the server here, but presents a certificate the server does not know.
    let chain = theirs.client(Some("agent"));
    let (server, _) = handshake(ours.server("localhost"), chain).await;
    server.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_given_up_on_either_side() {
    let pki = Pki::new();
    let (a, _b) = pipe();
    let error = accept(a, pki.server("localhost"), LIMIT).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    let (a, _b) = pipe();
    let connecting = connect(a, pki.client(None), localhost(), LIMIT);
    assert_eq!(
        connecting.await.unwrap_err().kind(),
        io::ErrorKind::TimedOut
    );
}

#[test]
fn protocols_are_only_added_where_none_are_named() {
    let pki = Pki::new();
    let config = with_server_protocol(pki.server("localhost"), b"h2");
    assert_eq!(config.alpn_protocols, [b"h2".to_vec()]);
    let config = with_server_protocol(config, b"http/1.1");
    assert_eq!(config.alpn_protocols, [b"h2".to_vec()]);
    let config = with_client_protocol(pki.client(None), b"h2");
    assert_eq!(config.alpn_protocols, [b"h2".to_vec()]);
    let config = with_client_protocol(config, b"http/1.1");
    assert_eq!(config.alpn_protocols, [b"h2".to_vec()]);
}
