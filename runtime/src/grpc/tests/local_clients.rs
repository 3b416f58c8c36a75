//! Clients on Unix sockets that send the socket's path for an authority, frame by frame: hyper's
//! own client would refuse to.

use super::*;
use crate::grpc::hpack::encoder::{Encoder, Representation, Style};
use crate::grpc::hpack::{Decoder, HpackError, TABLE_SIZE};

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// How a server answers a request.
#[derive(Debug, PartialEq)]
enum Answer {
    /// The last value of each header and trailer.
    Headers(std::collections::BTreeMap<String, String>),
    /// The code of RST_STREAM or GOAWAY.
    Refused(u32),
    /// The connection ended without another word.
    Closed,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        match self {
            Self::Headers(headers) => headers.get(name).map_or("", String::as_str),
            other => panic!("{other:?}"),
        }
    }
}

/// A client that writes and reads frames.
struct Client {
    stream: BoxStream,
    encoder: Encoder,
    decoder: Decoder,
    next_stream: u32,
    /// The server's SETTINGS, by identifier.
    settings: std::collections::BTreeMap<u16, u32>,
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

impl Client {
    async fn begin(mut stream: BoxStream) -> Self {
        stream.write_all(preface::PREFACE).await.unwrap();
        let settings = frame(SETTINGS, 0, 0, &[]);
        stream.write_all(&settings).await.unwrap();
        Self {
            stream,
            encoder: Encoder::new(TABLE_SIZE),
            decoder: Decoder::new(TABLE_SIZE),
            next_stream: 1,
            settings: std::collections::BTreeMap::new(),
        }
    }

    /// A call as gRPC's C core writes it: all into the table, in Huffman code.
    async fn call(&mut self, method: &str, authority: &str) -> Answer {
        let style = Style {
            representation: Representation::Incremental,
            by_index: true,
            huffman: true,
            resize: None,
        };
        let path = format!("/test/{method}");
        let fields = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", &path),
            (":authority", authority),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
        ];
        let block = self.encoder.encode(
            fields
                .iter()
                .map(|(name, value)| (name.as_bytes(), value.as_bytes(), style)),
        );
        self.send(HEADERS, END_HEADERS | END_STREAM, &block).await
    }

    /// Sends one frame on the next stream and waits for the answer.
    async fn send(&mut self, kind: u8, flags: u8, payload: &[u8]) -> Answer {
        let stream = self.next_stream;
        self.next_stream += 2;
        let bytes = frame(kind, flags, stream, payload);
        self.stream.write_all(&bytes).await.unwrap();
        self.answer(stream).await
    }

    async fn answer(&mut self, wanted: u32) -> Answer {
        let mut headers = std::collections::BTreeMap::new();
        loop {
            let mut head = [0; 9];
            if self.stream.read_exact(&mut head).await.is_err() {
                return Answer::Closed;
            }
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let (kind, flags) = (head[3], head[4]);
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            let mut payload = vec![0; usize::try_from(length).unwrap()];
            self.stream.read_exact(&mut payload).await.unwrap();
            match kind {
                SETTINGS if flags & ACK == 0 => {
                    for setting in payload.chunks(6) {
                        let value = u32::from_be_bytes(setting[2..].try_into().unwrap());
                        let id = u16::from_be_bytes([setting[0], setting[1]]);
                        self.settings.insert(id, value);
                    }
                    let ack = frame(SETTINGS, ACK, 0, &[]);
                    self.stream.write_all(&ack).await.unwrap();
                }
                HEADERS => {
                    assert!(flags & END_HEADERS != 0);
                    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                    let decoded = self.decoder.decode::<HpackError>(&payload, |field| {
                        headers.insert(text(field.name), text(field.value));
                        Ok(())
                    });
                    assert_eq!(decoded, Ok(()), "the server's headers can be read");
                }
                RST_STREAM if stream == wanted => {
                    return Answer::Refused(u32::from_be_bytes(payload[..4].try_into().unwrap()));
                }
                GOAWAY => {
                    return Answer::Refused(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
                }
                _ => {}
            }
            if stream == wanted && kind <= HEADERS && flags & END_STREAM != 0 {
                return Answer::Headers(headers);
            }
        }
    }
}

const PATH: &str = "/run/agent.sock";

async fn local() -> Running {
    let network = MemoryNetwork::new();
    let listener = network.listen_unix(Path::new(PATH), UnixMode::PUBLIC).await;
    let workload = network.for_process(&MemoryProcess::new(4711, 1000, 1000));
    start(Arc::new(workload), listener.unwrap(), server())
}

impl Running {
    async fn local_client(&self) -> Client {
        let stream = self.network.connect_unix(Path::new(PATH)).await.unwrap();
        Client::begin(stream).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_local_client_may_send_the_path_of_the_socket_for_an_authority() {
    let running = local().await;
    for authority in [
        // gRPC's C core, grpc-java, tonic, and one that says nothing.
        "%2Frun%2Fagent.sock",
        "/run/agent.sock",
        "localhost",
        "",
    ] {
        let mut client = running.local_client().await;
        // The second call refers to the table that the first one filled.
        for _ in 0..2 {
            let answer = client.call("who", authority).await;
            assert_eq!(answer.header("grpc-status"), "0", "{authority}");
            assert_eq!(answer.header("peer"), "pid 4711 uid 1000");
        }
        let answer = client.call("bad", authority).await;
        let internal = (Code::Internal as i32).to_string();
        assert_eq!(answer.header("grpc-status"), internal);
    }
}

#[tokio::test(start_paused = true)]
async fn one_connection_may_send_hosts_and_paths_in_turn() {
    let running = local().await;
    let mut client = running.local_client().await;
    for authority in ["localhost", "%2Fa", "localhost", "/a", "%2Fa", "b.example"] {
        let answer = client.call("who", authority).await;
        assert_eq!(answer.header("grpc-status"), "0", "{authority}");
    }
}

/// PROTOCOL_ERROR, RFC 9113 section 7.
const PROTOCOL_ERROR: u32 = 1;

#[tokio::test(start_paused = true)]
async fn over_tcp_an_authority_has_to_be_one() {
    let running = tcp(MemoryNetwork::new(), server()).await;
    let stream = running.network.connect(&running.address()).await.unwrap();
    let mut client = Client::begin(stream).await;
    let answer = client.call("who", "%2Frun%2Fagent.sock").await;
    assert_eq!(answer, Answer::Refused(PROTOCOL_ERROR));
}

#[tokio::test(start_paused = true)]
async fn malformed_headers_end_one_connection_and_no_other() {
    let running = local().await;
    let mut bystander = running.local_client().await;
    assert_eq!(bystander.call("who", "/a").await.header("grpc-status"), "0");
    for (kind, flags, payload) in [
        // An index beyond the table, padding beyond the frame, a block that was never begun, a
        // promise.
        (HEADERS, END_HEADERS, &[0xff, 0x70][..]),
        (HEADERS, END_HEADERS | 0x8, &[9]),
        (9, END_HEADERS, &[]),
        (5, END_HEADERS, &[0; 4]),
    ] {
        let mut client = running.local_client().await;
        assert_eq!(client.call("who", "/a").await.header("grpc-status"), "0");
        assert_eq!(client.send(kind, flags, payload).await, Answer::Closed);
    }
    assert_eq!(bystander.call("who", "/a").await.header("grpc-status"), "0");
}

/// The filter relies on it: frames and tables are of the default sizes.
#[tokio::test(start_paused = true)]
async fn the_server_asks_for_no_larger_frames_or_tables() {
    const HEADER_TABLE_SIZE: u16 = 1;
    const MAX_FRAME_SIZE: u16 = 5;
    const MAX_HEADER_LIST_SIZE: u16 = 6;
    let running = local().await;
    let mut client = running.local_client().await;
    client.call("who", "/a").await;
    let setting = |id| client.settings.get(&id).copied();
    assert_eq!(setting(HEADER_TABLE_SIZE), None);
    assert!(matches!(setting(MAX_FRAME_SIZE), None | Some(16_384)));
    assert_eq!(setting(MAX_HEADER_LIST_SIZE), Some(16_384));
}

/// Too large a list is answered, not punished: the filter leaves that to the server.
#[tokio::test(start_paused = true)]
async fn headers_a_little_beyond_the_limit_are_answered_with_a_status() {
    let running = local().await;
    let mut client = running.local_client().await;
    let plain = Style {
        representation: Representation::Without,
        by_index: false,
        huffman: false,
        resize: None,
    };
    let value = [b'x'; 8_100];
    let block = client.encoder.encode([
        (&b":method"[..], &b"POST"[..], plain),
        (b":scheme", b"http", plain),
        (b":path", b"/test/who", plain),
        (b":authority", b"%2Fa", plain),
        (b"a", &value, plain),
        (b"b", &value, plain),
    ]);
    let answer = client.send(HEADERS, END_HEADERS | END_STREAM, &block).await;
    assert_eq!(answer.header(":status"), "431");
}
