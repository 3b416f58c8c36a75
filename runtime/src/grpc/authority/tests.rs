//! What passes, what is replaced, what ends a connection; with real and with made-up clients.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use proptest::sample::Index;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::stream::through;
use super::*;
use crate::grpc::hpack::encoder::{Encoder, Representation, Style};
use crate::task::{TaskExecutor, Tasks};

/// The limit of the tests: that of the servers.
const LIST_MAX: usize = 16_384;

const DATA: u8 = 0;
const SETTINGS: u8 = 4;
const END_STREAM: u8 = 0x1;

const PLAIN: Style = Style {
    representation: Representation::Without,
    by_index: false,
    huffman: false,
    resize: None,
};
const INDEXED: Style = Style {
    representation: Representation::Incremental,
    by_index: true,
    huffman: true,
    resize: None,
};
const NEVER: Style = Style {
    representation: Representation::Never,
    ..PLAIN
};

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let head = Head {
        length: payload.len(),
        kind,
        flags,
        stream,
    };
    head.write(&mut bytes);
    bytes.extend(payload);
    bytes
}

/// HEADERS that are a whole block.
fn headers(flags: u8, stream: u32, block: &[u8]) -> Vec<u8> {
    frame(kind::HEADERS, flags | flag::END_HEADERS, stream, block)
}

/// A connection's bytes: the preface, SETTINGS, then these frames.
fn connection(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = PREFACE.to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    bytes.extend(frames.concat());
    bytes
}

fn request(authority: &[u8], style: Style) -> Vec<(&[u8], &[u8], Style)> {
    vec![
        (b":method", b"POST", style),
        (b":scheme", b"http", style),
        (b":path", b"/SpiffeWorkloadAPI/FetchX509SVID", style),
        (b":authority", authority, style),
        (b"te", b"trailers", style),
    ]
}

fn block(authority: &[u8], style: Style) -> Vec<u8> {
    Encoder::new(TABLE_SIZE).encode(request(authority, style))
}

/// What comes out, and how it ended, when the bytes come in pieces of this size.
fn filter_in_pieces(bytes: &[u8], size: usize) -> (Vec<u8>, Result<(), FilterError>) {
    let mut filter = AuthorityFilter::new(LIST_MAX);
    let mut out = Vec::new();
    for piece in bytes.chunks(size) {
        if let Err(error) = filter.push(piece, &mut out) {
            assert_eq!(filter.push(b"more", &mut out), Err(error));
            return (out, Err(error));
        }
    }
    (out, Ok(()))
}

fn filter(bytes: &[u8]) -> Result<Vec<u8>, FilterError> {
    let (out, end) = filter_in_pieces(bytes, usize::MAX);
    end.map(|()| out)
}

fn refused(frames: &[Vec<u8>]) -> FilterError {
    let bytes = connection(frames);
    let (out, end) = filter_in_pieces(&bytes, usize::MAX);
    assert_eq!(filter_in_pieces(&bytes, 1), (out, end));
    end.unwrap_err()
}

/// A frame, read back.
type Read = (u8, u8, u32, Vec<u8>);

fn frames_of(bytes: &[u8]) -> Vec<Read> {
    let mut rest = bytes.strip_prefix(PREFACE).unwrap();
    let mut frames = Vec::new();
    while !rest.is_empty() {
        let (head, after) = rest.split_first_chunk::<HEAD_LEN>().unwrap();
        let head = Head::parse(*head);
        let (payload, after) = after.split_at(head.length);
        frames.push((head.kind, head.flags, head.stream, payload.to_vec()));
        rest = after;
    }
    frames
}

type Fields = Vec<(Vec<u8>, Vec<u8>, bool)>;

/// The fields of a block that needs no table.
fn fields_of(block: &[u8]) -> Fields {
    let mut fields = Fields::new();
    let mut decoder = Decoder::new(0);
    decoder
        .decode::<HpackError>(block, |field| {
            let (name, value) = (field.name.to_vec(), field.value.to_vec());
            fields.push((name, value, field.never_indexed));
            Ok(())
        })
        .unwrap();
    fields
}

fn authority_of(block: &[u8]) -> Vec<u8> {
    let mut fields = fields_of(block).into_iter();
    fields.find(|(name, ..)| name == b":authority").unwrap().1
}

#[test]
fn a_connection_with_hosts_passes_byte_by_byte() {
    let mut encoder = Encoder::new(TABLE_SIZE);
    let first = encoder.encode(request(b"localhost", INDEXED));
    let second = encoder.encode(request(b"agent.example.org:8443", INDEXED));
    let third = encoder.encode(request(b"[::1]:1", INDEXED));
    let mut padded = vec![3, 0x80, 0, 0, 1, 7];
    padded.extend(&second);
    padded.extend([0; 3]);
    let (half, rest) = third.split_at(third.len() / 2);
    let bytes = connection(&[
        headers(END_STREAM, 1, &first),
        frame(0xfa, 0xff, 0x8000_0001, b"grease"),
        headers(flag::PADDED | flag::PRIORITY, 3, &padded),
        frame(DATA, END_STREAM, 3, &[7; 20_000]),
        frame(kind::HEADERS, END_STREAM, 5, half),
        frame(kind::CONTINUATION, 0, 5, &[]),
        frame(kind::CONTINUATION, flag::END_HEADERS, 5, rest),
    ]);
    for size in [1, 2, 7, 9, 33, usize::MAX] {
        assert_eq!(filter_in_pieces(&bytes, size), (bytes.clone(), Ok(())));
    }
}

#[test]
fn an_authority_that_is_no_host_is_replaced_and_nothing_else() {
    for authority in [
        &b"%2Frun%2Fmintmark%2Fagent.sock"[..],
        b"/run/mintmark/agent.sock",
        b"",
        b"a b",
        b"\xff\xfe",
        b"unix:/run/agent.sock",
    ] {
        for style in [PLAIN, INDEXED, NEVER] {
            let bytes = connection(&[headers(END_STREAM, 1, &block(authority, style))]);
            let frames = frames_of(&filter(&bytes).unwrap());
            let never = style.representation == Representation::Never;
            let expected: Fields = request(b"localhost", style)
                .into_iter()
                .map(|(name, value, _)| (name.to_vec(), value.to_vec(), never))
                .collect();
            let (kind, flags, stream, block) = &frames[1];
            assert_eq!((*kind, *stream), (kind::HEADERS, 1));
            assert_eq!(*flags, END_STREAM | flag::END_HEADERS);
            assert_eq!(fields_of(block), expected, "{authority:?}");
            assert_eq!(frames.len(), 2);
        }
    }
}

#[test]
fn after_a_replacement_no_block_needs_what_the_reader_has_in_its_table() {
    let mut encoder = Encoder::new(TABLE_SIZE);
    let resized = Style {
        resize: Some(512),
        ..INDEXED
    };
    let blocks = [
        encoder.encode(request(b"localhost", INDEXED)),
        encoder.encode(request(b"%2Fa", INDEXED)),
        encoder.encode(request(b"%2Fa", INDEXED)),
        encoder.encode(request(b"localhost", resized)),
        encoder.encode([(&b"trailer"[..], &b"1"[..], INDEXED)]),
    ];
    // The encoder does use its table.
    assert!(blocks[2].len() <= 5, "{:x?}", blocks[2]);
    let frames: Vec<_> = (1..)
        .zip(&blocks)
        .map(|(stream, block)| headers(0, stream, block))
        .collect();
    let out = filter(&connection(&frames)).unwrap();
    let read = frames_of(&out);
    assert_eq!(read[1].3, blocks[0], "untouched");
    for (_, _, stream, block) in &read[2..5] {
        assert_eq!(authority_of(block), b"localhost", "stream {stream}");
    }
    assert_eq!(
        fields_of(&read[5].3),
        [(b"trailer".to_vec(), b"1".to_vec(), false)]
    );
}

#[test]
fn stream_priority_and_end_of_stream_outlive_a_replacement_and_padding_does_not() {
    let priority = [0x80, 0, 0, 9, 42];
    let block = block(b"%2Fa", INDEXED);
    let mut payload = vec![11];
    payload.extend(priority);
    payload.extend(&block);
    payload.extend([0; 11]);
    let flags = flag::PADDED | flag::PRIORITY | END_STREAM;
    let out = filter(&connection(&[headers(flags, 0x8000_0007, &payload)])).unwrap();
    let (kind, flags, stream, payload) = frames_of(&out).remove(1);
    assert_eq!((kind, stream), (kind::HEADERS, 7));
    assert_eq!(flags, flag::PRIORITY | END_STREAM | flag::END_HEADERS);
    assert_eq!(payload[..PRIORITY_LEN], priority);
    assert_eq!(authority_of(&payload[PRIORITY_LEN..]), b"localhost");
}

#[test]
fn a_rewritten_block_is_cut_at_the_frame_size() {
    let long = vec![b'x'; 20_000];
    let mut fields = request(b"%2Fa", PLAIN);
    fields.push((b"long", &long, PLAIN));
    fields.push((b"longer", &long, PLAIN));
    let block = Encoder::new(TABLE_SIZE).encode(fields);
    let mut payload = vec![0, 0, 0, 0, 1];
    payload.extend(&block[..9_000]);
    let mut frames = vec![frame(
        kind::HEADERS,
        flag::PRIORITY | END_STREAM,
        1,
        &payload,
    )];
    let pieces: Vec<_> = block[9_000..].chunks(8_000).collect();
    for (at, piece) in pieces.iter().enumerate() {
        let last = at + 1 == pieces.len();
        let flags = if last { flag::END_HEADERS } else { 0 };
        frames.push(frame(kind::CONTINUATION, flags, 1, piece));
    }
    let read = frames_of(&filter(&connection(&frames)).unwrap());
    let shapes: Vec<_> = read[1..]
        .iter()
        .map(|(kind, flags, stream, payload)| (*kind, *flags, *stream, payload.len()))
        .collect();
    let total = fields_len(&read);
    assert_eq!(
        shapes,
        [
            (kind::HEADERS, flag::PRIORITY | END_STREAM, 1, PAYLOAD_MAX),
            (kind::CONTINUATION, 0, 1, PAYLOAD_MAX),
            (
                kind::CONTINUATION,
                flag::END_HEADERS,
                1,
                total - 2 * PAYLOAD_MAX
            ),
        ]
    );
    let joined: Vec<u8> = read[1..].iter().flat_map(|frame| frame.3.clone()).collect();
    let fields = fields_of(&joined[PRIORITY_LEN..]);
    assert_eq!(fields.last().unwrap().1, long);
}

fn fields_len(frames: &[Read]) -> usize {
    frames[1..].iter().map(|frame| frame.3.len()).sum()
}

#[test]
fn another_protocol_is_left_alone() {
    for bytes in [
        &b"GET / HTTP/1.1\r\nhost: %2Frun\r\n\r\n"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r.\x00\x00\x01\x09",
        b"",
        b"P",
    ] {
        for size in [1, 5, usize::MAX] {
            assert_eq!(filter_in_pieces(bytes, size), (bytes.to_vec(), Ok(())));
        }
    }
}

#[test]
fn a_block_interrupted_misplaced_or_endless_ends_the_connection() {
    let good = block(b"localhost", PLAIN);
    let open = frame(kind::HEADERS, 0, 1, &good);
    let endless = frame(kind::CONTINUATION, 0, 1, &[]);
    let mut flood = vec![open.clone()];
    flood.extend(vec![endless; 100]);
    let full = vec![frame(kind::CONTINUATION, 0, 1, &[0; PAYLOAD_MAX]); 6];
    for (frames, error) in [
        (
            vec![open.clone(), frame(DATA, 0, 1, b"x")],
            FilterError::Interrupted,
        ),
        (
            vec![open.clone(), headers(0, 3, &good)],
            FilterError::Interrupted,
        ),
        (
            vec![open.clone(), frame(SETTINGS, 0, 0, &[])],
            FilterError::Interrupted,
        ),
        (
            vec![open.clone(), frame(kind::CONTINUATION, 0, 3, &good)],
            FilterError::Interrupted,
        ),
        (
            vec![frame(kind::CONTINUATION, flag::END_HEADERS, 1, &good)],
            FilterError::Continuation,
        ),
        (
            vec![
                headers(0, 1, &good),
                frame(kind::CONTINUATION, flag::END_HEADERS, 1, &good),
            ],
            FilterError::Continuation,
        ),
        (
            vec![frame(
                kind::PUSH_PROMISE,
                flag::END_HEADERS,
                1,
                &[0, 0, 0, 2],
            )],
            FilterError::PushPromise,
        ),
        (flood, FilterError::TooManyContinuations),
        ([vec![open], full].concat(), FilterError::BlockTooLarge),
    ] {
        assert_eq!(refused(&frames), error);
    }
}

#[test]
fn a_frame_that_holds_no_header_block_ends_the_connection() {
    let good = block(b"localhost", PLAIN);
    for (frames, error) in [
        (
            vec![headers(0, 1, &[0; PAYLOAD_MAX + 1])],
            FilterError::FrameTooLarge,
        ),
        (vec![headers(flag::PADDED, 1, &[])], FilterError::Padding),
        (
            vec![headers(flag::PADDED, 1, &[2, 0x82])],
            FilterError::Padding,
        ),
        (
            vec![headers(flag::PRIORITY, 1, &[0; 4])],
            FilterError::Padding,
        ),
        (
            vec![headers(
                flag::PRIORITY | flag::PADDED,
                1,
                &[1, 0, 0, 0, 0, 0],
            )],
            FilterError::Padding,
        ),
        (
            vec![headers(0, 1, &[0xbe])],
            FilterError::Hpack(HpackError::Index),
        ),
        (
            vec![headers(0, 1, &good[..good.len() - 1])],
            FilterError::Hpack(HpackError::Truncated),
        ),
    ] {
        assert_eq!(refused(&frames), error);
    }
}

/// Each octet refers to four kilobytes in the table.
#[test]
fn a_header_bomb_ends_the_connection() {
    let value = vec![b'x'; 4000];
    let mut bomb = Encoder::new(TABLE_SIZE).encode([(&b"a"[..], &value[..], INDEXED)]);
    bomb.extend([0xbe; 8_000]);
    assert_eq!(refused(&[headers(0, 1, &bomb)]), FilterError::ListTooLarge);
}

#[test]
fn what_came_before_an_offending_frame_comes_out() {
    let first = headers(END_STREAM, 1, &block(b"%2Fa", PLAIN));
    let bytes = connection(&[first.clone(), frame(kind::CONTINUATION, 0, 1, &[])]);
    let (out, end) = filter_in_pieces(&bytes, 3);
    assert_eq!(end, Err(FilterError::Continuation));
    assert_eq!(out, filter(&connection(&[first])).unwrap());
}

#[test]
fn of_an_unfinished_block_only_so_much_is_kept() {
    let mut filter = AuthorityFilter::new(LIST_MAX);
    let mut out = Vec::new();
    let mut bytes = connection(&[frame(kind::HEADERS, 0, 1, &[0; PAYLOAD_MAX])]);
    for _ in 0..100 {
        bytes.extend(frame(kind::CONTINUATION, 0, 1, &[0; PAYLOAD_MAX]));
    }
    let mut most = 0;
    for piece in bytes.chunks(1000) {
        let end = filter.push(piece, &mut out);
        let open = filter.open.as_ref();
        most = most.max(open.map_or(0, |block| block.frames.len() + block.fragments.len()));
        if end.is_err() {
            break;
        }
    }
    assert_eq!(filter.error, Some(FilterError::BlockTooLarge));
    assert!(filter.open.is_none());
    assert!(most <= 2 * (4 * LIST_MAX + PAYLOAD_MAX), "{most}");
}

/// Reads everything through the stream, whose client writes pieces of this size.
async fn read_through(bytes: Vec<u8>, size: usize) -> (Vec<u8>, Option<std::io::ErrorKind>) {
    let (mut client, server) = tokio::io::duplex(size);
    let write = async move {
        // A refused connection is closed under the client's hands.
        let _ = client.write_all(&bytes).await;
    };
    let read = async move {
        let mut stream = filtered(Box::new(server), u32::try_from(LIST_MAX).unwrap());
        let mut all = Vec::new();
        let end = stream.read_to_end(&mut all).await;
        (all, end.err().map(|error| error.kind()))
    };
    tokio::join!(read, write).0
}

#[tokio::test]
async fn a_stream_yields_what_the_filter_lets_out() {
    let bytes = connection(&[
        headers(0, 1, &block(b"%2Fa", INDEXED)),
        frame(DATA, END_STREAM, 1, &[7; 10_000]),
    ]);
    for size in [1, 100, 100_000] {
        let expected = (filter(&bytes).unwrap(), None);
        assert_eq!(read_through(bytes.clone(), size).await, expected);
    }
}

#[tokio::test]
async fn a_stream_ends_in_an_error_when_it_must() {
    use std::io::ErrorKind;
    let good = headers(0, 1, &block(b"%2Fa", INDEXED));
    let passed = filter(&connection(std::slice::from_ref(&good))).unwrap();
    for (last, error) in [
        (
            frame(kind::CONTINUATION, 0, 1, &[]),
            Some(ErrorKind::InvalidData),
        ),
        (
            frame(kind::HEADERS, 0, 3, &[]),
            Some(ErrorKind::UnexpectedEof),
        ),
        (vec![0, 0], Some(ErrorKind::UnexpectedEof)),
        (vec![], None),
    ] {
        let bytes = connection(&[good.clone(), last]);
        assert_eq!(read_through(bytes, 64).await, (passed.clone(), error));
    }
}

/// What a client sends and a server has to see: headers and trailers of each request.
type Requests = Vec<(HeaderMap, HeaderMap)>;

/// Sends requests by hyper's client to hyper's server, through a filter that rewrites all.
async fn through_a_real_client_and_server(requests: Requests) -> Requests {
    let (client, server) = tokio::io::duplex(1 << 16);
    let tasks = Tasks::new();
    let mut filter = AuthorityFilter::new(LIST_MAX);
    filter.rewriting = true;
    let seen = Arc::new(Mutex::new(Requests::new()));
    let writer = Arc::clone(&seen);
    let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
        let writer = Arc::clone(&writer);
        async move {
            let (parts, body) = request.into_parts();
            let trailers = body.collect().await.unwrap().trailers().cloned();
            let trailers = trailers.unwrap_or_default();
            writer.lock().unwrap().push((parts.headers, trailers));
            Ok::<_, Infallible>(Response::new(http_body_util::Empty::<Bytes>::new()))
        }
    });
    let executor = TaskExecutor::new(tasks.clone(), "server");
    let stream = TokioIo::new(through(Box::new(server), filter));
    let connection = hyper::server::conn::http2::Builder::new(executor)
        .max_header_list_size(u32::try_from(LIST_MAX).unwrap())
        .serve_connection(stream, service);
    tasks.spawn("server", async {
        let _ = connection.await;
    });
    let executor = TaskExecutor::new(tasks.clone(), "client");
    let io = TokioIo::new(client);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io)
        .await
        .unwrap();
    tasks.spawn("client", async {
        let _ = connection.await;
    });
    for (headers, trailers) in requests {
        let frames = [
            Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"body"))),
            Ok(Frame::trailers(trailers)),
        ];
        let body = StreamBody::new(futures_util::stream::iter(frames));
        let mut request = Request::post("http://localhost/a/b").body(body).unwrap();
        *request.headers_mut() = headers;
        assert!(
            sender
                .send_request(request)
                .await
                .unwrap()
                .status()
                .is_success()
        );
    }
    std::mem::take(&mut *seen.lock().unwrap())
}

fn header_map() -> impl Strategy<Value = HeaderMap> {
    let name = prop::sample::select(vec![
        "grpc-timeout",
        "x-a",
        "x-b",
        "cookie",
        "authorization",
        "user-agent",
        "x-a-longer-name-that-is-in-no-table",
    ]);
    let octet = prop_oneof![3 => 0x20_u8..0x7f, 1 => 0x80_u8..=0xff, 1 => Just(b'\t')];
    let value = prop::collection::vec(octet, 0..60);
    let field = (name, value, prop::bool::weighted(0.2));
    prop::collection::vec(field, 0..10).prop_map(|fields| {
        let mut map = HeaderMap::new();
        for (name, value, sensitive) in fields {
            let mut value = HeaderValue::from_bytes(&value).unwrap();
            value.set_sensitive(sensitive);
            map.append(HeaderName::from_static(name), value);
        }
        map
    })
}

/// Authorities, some of which are hosts.
fn authority() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::sample::select(vec![
            "localhost",
            "a.example:1",
            "%2Frun%2Fa",
            "/run/a",
            "",
            "[::1]"
        ])
        .prop_map(|text| text.as_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 0..30),
    ]
}

#[derive(Clone, Debug)]
struct Sent {
    authority: Vec<u8>,
    style: Style,
    extra: Vec<(Vec<u8>, Vec<u8>, Style)>,
    padding: Option<u8>,
    priority: Option<[u8; PRIORITY_LEN]>,
    end_stream: bool,
    /// Where the block is cut into frames.
    cuts: Vec<Index>,
    data: Vec<u8>,
}

impl Sent {
    fn fields(&self) -> Vec<(&[u8], &[u8], Style)> {
        let extra = self.extra.iter();
        let mut fields = request(&self.authority, self.style);
        fields.extend(extra.map(|(name, value, style)| (&name[..], &value[..], *style)));
        fields
    }

    /// What has to be read in the end.
    fn expected(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let acceptable = Authority::try_from(&self.authority[..]).is_ok();
        self.fields()
            .into_iter()
            .map(|(name, value, _)| {
                let replaced = name == b":authority" && !acceptable;
                let value = if replaced { &b"localhost"[..] } else { value };
                (name.to_vec(), value.to_vec())
            })
            .collect()
    }

    fn frames(&self, encoder: &mut Encoder, stream: u32) -> Vec<Vec<u8>> {
        let block = encoder.encode(self.fields());
        let mut cuts: Vec<_> = self.cuts.iter().map(|cut| cut.index(block.len())).collect();
        cuts.extend([0, block.len()]);
        cuts.sort_unstable();
        let pieces: Vec<_> = cuts
            .windows(2)
            .map(|ends| &block[ends[0]..ends[1]])
            .collect();
        let mut frames = Vec::new();
        for (at, piece) in pieces.iter().enumerate() {
            let last = at + 1 == pieces.len();
            let mut flags = if last { flag::END_HEADERS } else { 0 };
            if at > 0 {
                frames.push(frame(kind::CONTINUATION, flags, stream, piece));
                continue;
            }
            let mut payload = Vec::new();
            if let Some(padding) = self.padding {
                flags |= flag::PADDED;
                payload.push(padding);
            }
            if let Some(priority) = self.priority {
                flags |= flag::PRIORITY;
                payload.extend(priority);
            }
            if self.end_stream {
                flags |= END_STREAM;
            }
            payload.extend(*piece);
            payload.extend(vec![0; usize::from(self.padding.unwrap_or(0))]);
            frames.push(frame(kind::HEADERS, flags, stream, &payload));
        }
        if !self.end_stream {
            frames.push(frame(DATA, END_STREAM, stream, &self.data));
        }
        frames
    }
}

fn sent() -> impl Strategy<Value = Sent> {
    use crate::grpc::hpack::tests::style;
    let text = || prop::collection::vec(any::<u8>(), 1..20);
    let extra = prop::collection::vec((text(), text(), style()), 0..5);
    (
        (authority(), style(), extra),
        prop::option::weighted(0.3, any::<u8>()),
        prop::option::weighted(0.3, any::<[u8; PRIORITY_LEN]>()),
        any::<bool>(),
        prop::collection::vec(any::<Index>(), 0..4),
        prop::collection::vec(any::<u8>(), 0..50),
    )
        .prop_map(
            |((authority, style, extra), padding, priority, end_stream, cuts, data)| Sent {
                authority,
                style,
                extra,
                padding,
                priority,
                end_stream,
                cuts,
                data,
            },
        )
}

/// What a reader makes of the bytes: its one decoder reads all blocks, in order.
#[derive(Debug, PartialEq)]
enum Event {
    Headers(
        u32,
        bool,
        Option<[u8; PRIORITY_LEN]>,
        Vec<(Vec<u8>, Vec<u8>)>,
    ),
    Data(u32, Vec<u8>),
}

fn events(bytes: &[u8]) -> Vec<Event> {
    let mut decoder = Decoder::new(TABLE_SIZE);
    let mut frames = frames_of(bytes).into_iter().skip(1).peekable();
    let mut events = Vec::new();
    while let Some((kind, flags, stream, mut payload)) = frames.next() {
        if kind == DATA {
            events.push(Event::Data(stream, payload));
            continue;
        }
        assert_eq!(kind, kind::HEADERS);
        if flags & flag::PADDED != 0 {
            let padding = usize::from(payload.remove(0));
            payload.truncate(payload.len() - padding);
        }
        let priority = (flags & flag::PRIORITY != 0)
            .then(|| payload.drain(..PRIORITY_LEN).collect::<Vec<_>>())
            .map(|bytes| <[u8; PRIORITY_LEN]>::try_from(bytes).unwrap());
        let mut last = flags;
        while last & flag::END_HEADERS == 0 {
            let (kind, flags, of, more) = frames.next().unwrap();
            assert_eq!((kind, of), (kind::CONTINUATION, stream));
            payload.extend(more);
            last = flags;
        }
        let mut fields = Vec::new();
        let read = decoder.decode::<HpackError>(&payload, |field| {
            fields.push((field.name.to_vec(), field.value.to_vec()));
            Ok(())
        });
        read.unwrap();
        events.push(Event::Headers(
            stream,
            flags & END_STREAM != 0,
            priority,
            fields,
        ));
    }
    events
}

proptest! {
    #[test]
    fn a_reader_sees_what_was_sent_with_hosts_for_authorities(
        all in prop::collection::vec(sent(), 1..6),
        size in 1_usize..200,
    ) {
        let mut encoder = Encoder::new(TABLE_SIZE);
        let (mut frames, mut expected) = (Vec::new(), Vec::new());
        for (stream, sent) in (1..).step_by(2).zip(&all) {
            frames.extend(sent.frames(&mut encoder, stream));
            let (end, priority) = (sent.end_stream, sent.priority);
            expected.push(Event::Headers(stream, end, priority, sent.expected()));
            if !end {
                expected.push(Event::Data(stream, sent.data.clone()));
            }
        }
        let bytes = connection(&frames);
        let out = filter(&bytes).unwrap();
        prop_assert_eq!(events(&out), expected);
        prop_assert_eq!(filter_in_pieces(&bytes, size), (out.clone(), Ok(())));
        prop_assert_eq!(filter(&out).unwrap(), out, "there is nothing left to replace");
    }

    #[test]
    fn no_bytes_make_the_filter_panic_and_no_cut_changes_what_it_does(
        heads in prop::collection::vec((0_u8..12, any::<u8>(), 0_u32..4, prop::collection::vec(any::<u8>(), 0..60)), 0..8),
        tail in prop::collection::vec(any::<u8>(), 0..60),
        size in 1_usize..40,
    ) {
        let mut frames: Vec<_> = heads
            .iter()
            .map(|(kind, flags, stream, payload)| frame(*kind, *flags, *stream, payload))
            .collect();
        frames.push(tail);
        let bytes = connection(&frames);
        let whole = filter_in_pieces(&bytes, usize::MAX);
        prop_assert_eq!(filter_in_pieces(&bytes, size), whole);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_real_server_reads_of_a_real_client_what_it_sent(
        requests in prop::collection::vec((header_map(), header_map()), 1..8)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let seen = runtime.block_on(through_a_real_client_and_server(requests.clone()));
        prop_assert_eq!(seen, requests);
    }
}
