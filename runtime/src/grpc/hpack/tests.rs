//! The examples of RFC 7541, appendix C; random blocks; damaged ones.
#![allow(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;

use super::encoder::{Encoder, Representation, Style, code_of, huffman_code};
use super::*;

type Fields = Vec<(String, String)>;

fn bytes(text: &str) -> Vec<u8> {
    hex(&text.replace(' ', ""))
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().map(|c| c.to_digit(16).unwrap()).collect();
    digits
        .chunks(2)
        .map(|pair| u8::try_from(pair[0] * 16 + pair[1]).unwrap())
        .collect()
}

fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<Fields, HpackError> {
    let mut fields = Vec::new();
    decoder.decode::<HpackError>(block, |field| {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        fields.push((text(field.name), text(field.value)));
        Ok(())
    })?;
    Ok(fields)
}

fn fails(block: &[u8]) -> HpackError {
    decode(&mut Decoder::new(TABLE_SIZE), block).unwrap_err()
}

/// A block, its fields, and the size of the table after it.
type Example<'a> = (&'a str, &'a [(&'a str, &'a str)], usize);

/// Decodes blocks in order.
fn check(table_size: usize, blocks: &[Example<'_>]) {
    let mut decoder = Decoder::new(table_size);
    for (block, expected, size) in blocks {
        let fields = decode(&mut decoder, &bytes(block)).unwrap();
        let expected: Fields = expected
            .iter()
            .map(|(name, value)| (String::from(*name), String::from(*value)))
            .collect();
        assert_eq!(fields, expected);
        assert_eq!(decoder.table.size(), *size);
    }
}

#[test]
fn integers_of_appendix_c_1_are_read_and_written() {
    for (prefix, value, octets) in [
        (5, 10, &[0x0a][..]),
        (5, 1337, &[0x1f, 0x9a, 0x0a]),
        (8, 42, &[0x2a]),
    ] {
        let mut reader = Reader(octets);
        assert_eq!(reader.integer(prefix), Ok(value));
        assert!(reader.0.is_empty());
        let mut written = Vec::new();
        write_integer(&mut written, prefix, 0, value);
        assert_eq!(written, octets);
    }
}

#[test]
fn representations_of_appendix_c_2_are_read() {
    check(
        TABLE_SIZE,
        &[(
            "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572",
            &[("custom-key", "custom-header")],
            55,
        )],
    );
    let without = "040c 2f73 616d 706c 652f 7061 7468";
    check(TABLE_SIZE, &[(without, &[(":path", "/sample/path")], 0)]);
    let never = "1008 7061 7373 776f 7264 0673 6563 7265 74";
    check(TABLE_SIZE, &[(never, &[("password", "secret")], 0)]);
    check(TABLE_SIZE, &[("82", &[(":method", "GET")], 0)]);
}

const REQUEST_1: &[(&str, &str)] = &[
    (":method", "GET"),
    (":scheme", "http"),
    (":path", "/"),
    (":authority", "www.example.com"),
];
const REQUEST_2: &[(&str, &str)] = &[
    (":method", "GET"),
    (":scheme", "http"),
    (":path", "/"),
    (":authority", "www.example.com"),
    ("cache-control", "no-cache"),
];
const REQUEST_3: &[(&str, &str)] = &[
    (":method", "GET"),
    (":scheme", "https"),
    (":path", "/index.html"),
    (":authority", "www.example.com"),
    ("custom-key", "custom-value"),
];

#[test]
fn requests_of_appendix_c_3_are_read() {
    check(
        TABLE_SIZE,
        &[
            (
                "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
                REQUEST_1,
                57,
            ),
            ("8286 84be 5808 6e6f 2d63 6163 6865", REQUEST_2, 110),
            (
                "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
                REQUEST_3,
                164,
            ),
        ],
    );
}

#[test]
fn requests_of_appendix_c_4_are_read() {
    check(
        TABLE_SIZE,
        &[
            ("8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff", REQUEST_1, 57),
            ("8286 84be 5886 a8eb 1064 9cbf", REQUEST_2, 110),
            (
                "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
                REQUEST_3,
                164,
            ),
        ],
    );
}

const RESPONSE_1: &[(&str, &str)] = &[
    (":status", "302"),
    ("cache-control", "private"),
    ("date", "Mon, 21 Oct 2013 20:13:21 GMT"),
    ("location", "https://www.example.com"),
];
const RESPONSE_2: &[(&str, &str)] = &[
    (":status", "307"),
    ("cache-control", "private"),
    ("date", "Mon, 21 Oct 2013 20:13:21 GMT"),
    ("location", "https://www.example.com"),
];
const RESPONSE_3: &[(&str, &str)] = &[
    (":status", "200"),
    ("cache-control", "private"),
    ("date", "Mon, 21 Oct 2013 20:13:22 GMT"),
    ("location", "https://www.example.com"),
    ("content-encoding", "gzip"),
    (
        "set-cookie",
        "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
    ),
];

#[test]
fn responses_of_appendix_c_5_evict_and_are_read() {
    check(
        256,
        &[
            (
                "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 \
                 2032 303a 3133 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 \
                 6c65 2e63 6f6d",
                RESPONSE_1,
                222,
            ),
            ("4803 3330 37c1 c0bf", RESPONSE_2, 222),
            (
                "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d \
                 54c0 5a04 677a 6970 7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 \
                 5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b 2076 6572 7369 6f6e \
                 3d31",
                RESPONSE_3,
                215,
            ),
        ],
    );
}

#[test]
fn responses_of_appendix_c_6_evict_and_are_read() {
    check(
        256,
        &[
            (
                "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 \
                 2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
                RESPONSE_1,
                222,
            ),
            ("4883 640e ffc1 c0bf", RESPONSE_2, 222),
            (
                "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab \
                 77ad 94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f \
                 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
                RESPONSE_3,
                215,
            ),
        ],
    );
}

/// Rows of RFC 7541 appendix B: one for each length of a code, the first and last of some.
#[test]
fn huffman_codes_are_those_of_appendix_b() {
    for (symbol, code, length) in [
        (u16::from(b'0'), 0x0, 5),
        (u16::from(b't'), 0x9, 5),
        (u16::from(b' '), 0x14, 6),
        (u16::from(b':'), 0x5c, 7),
        (u16::from(b'z'), 0x7b, 7),
        (u16::from(b'&'), 0xf8, 8),
        (u16::from(b'Z'), 0xfd, 8),
        (u16::from(b'!'), 0x3f8, 10),
        (u16::from(b'\''), 0x7fa, 11),
        (u16::from(b'#'), 0xffa, 12),
        (0, 0x1ff8, 13),
        (u16::from(b'^'), 0x3ffc, 14),
        (u16::from(b'{'), 0x7ffe, 15),
        (u16::from(b'\\'), 0x7_fff0, 19),
        (128, 0xf_ffe6, 20),
        (153, 0x1f_ffdc, 21),
        (129, 0x3f_ffd2, 22),
        (1, 0x7f_ffd8, 23),
        (9, 0xff_ffea, 24),
        (199, 0x1ff_ffec, 25),
        (192, 0x3ff_ffe0, 26),
        (203, 0x7ff_ffde, 27),
        (2, 0xfff_ffe2, 28),
        (249, 0xfff_fffe, 28),
        (10, 0x3fff_fffc, 30),
        (22, 0x3fff_fffe, 30),
        (256, 0x3fff_ffff, 30),
    ] {
        assert_eq!(code_of(symbol), (code << (32 - length), length), "{symbol}");
    }
}

#[test]
fn every_octet_is_read_from_its_huffman_code() {
    let all: Vec<u8> = (0..=u8::MAX).collect();
    let mut read = Vec::new();
    huffman::decode(&huffman_code(&all), &mut read).unwrap();
    assert_eq!(read, all);
}

#[test]
fn strings_that_are_not_huffman_code_are_refused() {
    for wrong in [
        &[0xff][..],               // Eight bits of padding.
        &[0x07],                   // `0`, then padding of three ones: right.
        &[0x06],                   // Padding that is not all ones.
        &[0x00],                   // `0`, then three zeros.
        &[0xff, 0xff, 0xff, 0xff], // The end-of-string symbol, and more.
        &[0xff, 0xff, 0xff, 0xfc], // The same with zeros after it.
        &[0x1f, 0xff],             // Padding of eleven bits.
    ] {
        let mut text = Vec::new();
        let read = huffman::decode(wrong, &mut text);
        let expected = if wrong == [0x07] {
            Ok(())
        } else {
            Err(HpackError::Huffman)
        };
        assert_eq!(read, expected, "{wrong:x?}");
    }
}

#[test]
fn malformed_blocks_are_refused() {
    for (block, error) in [
        (&[0x80][..], HpackError::Index),
        (&[0xbe], HpackError::Index),
        (&[0x7e, 0x00], HpackError::Index),
        (&[0x0f, 0x2f, 0x00], HpackError::Index),
        (&[0xff, 0xff, 0xff, 0xff, 0x7f], HpackError::Index),
        (&[0xff, 0xff, 0xff, 0xff, 0xff, 0x01], HpackError::Integer),
        (&[0xff], HpackError::Truncated),
        (&[0xff, 0x80], HpackError::Truncated),
        (&[0x40], HpackError::Truncated),
        (&[0x00, 0x01], HpackError::Truncated),
        (&[0x00, 0x01, b'a'], HpackError::Truncated),
        (&[0x00, 0x01, b'a', 0x02, b'b'], HpackError::Truncated),
        (&[0x00, 0x81, 0xff, 0x00], HpackError::Huffman),
        (&[0x82, 0x20], HpackError::Resize),
        (&[0x3f, 0xe2, 0x1f], HpackError::Resize),
        (&[0x3f], HpackError::Truncated),
    ] {
        assert_eq!(fails(block), error, "{block:x?}");
    }
}

#[test]
fn the_table_is_resized_between_blocks_and_never_beyond_what_was_allowed() {
    let mut decoder = Decoder::new(TABLE_SIZE);
    let block = bytes("400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572");
    decode(&mut decoder, &block).unwrap();
    assert_eq!(decode(&mut decoder, &[0xbe]).unwrap().len(), 1);
    // Down to nothing, and up to 4096 again: the entry is gone.
    assert_eq!(decode(&mut decoder, &[0x20, 0x3f, 0xe1, 0x1f]), Ok(vec![]));
    assert_eq!(decoder.table.size(), 0);
    assert_eq!(decode(&mut decoder, &[0xbe]), Err(HpackError::Index));
}

#[test]
fn an_entry_larger_than_the_table_empties_it() {
    let mut decoder = Decoder::new(64);
    decode(&mut decoder, &[0x40, 0x01, b'a', 0x01, b'b']).unwrap();
    assert_eq!(decoder.table.size(), 34);
    let mut block = vec![0x40, 0x01, b'a', 0x40];
    block.extend([b'c'; 64]);
    assert_eq!(decode(&mut decoder, &block).unwrap().len(), 1);
    assert_eq!(decoder.table.size(), 0);
}

fn text() -> impl Strategy<Value = Vec<u8>> {
    let word = prop::sample::select(vec![
        ":authority",
        ":path",
        "te",
        "trailers",
        "a",
        "grpc-timeout",
        "/",
        "",
    ]);
    prop_oneof![
        3 => word.prop_map(|word| word.as_bytes().to_vec()),
        2 => prop::collection::vec(any::<u8>(), 0..40),
        1 => prop::collection::vec(any::<u8>(), 0..400),
    ]
}

pub(crate) fn style() -> impl Strategy<Value = Style> {
    let representation = prop::sample::select(vec![
        Representation::Incremental,
        Representation::Without,
        Representation::Never,
    ]);
    let resize = prop::option::weighted(0.1, 0..=TABLE_SIZE);
    (representation, any::<bool>(), any::<bool>(), resize).prop_map(
        |(representation, by_index, huffman, resize)| Style {
            representation,
            by_index,
            huffman,
            resize,
        },
    )
}

type Styled = Vec<(Vec<u8>, Vec<u8>, Style)>;

fn blocks() -> impl Strategy<Value = Vec<Styled>> {
    let block = prop::collection::vec((text(), text(), style()), 0..8);
    prop::collection::vec(block, 0..8)
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded_and_written_plainly(blocks in blocks()) {
        let (mut encoder, mut decoder) = (Encoder::new(TABLE_SIZE), Decoder::new(TABLE_SIZE));
        for fields in blocks {
            let block = encoder.encode(fields.iter().map(|(n, v, s)| (&n[..], &v[..], *s)));
            let mut expected = fields.iter();
            let mut plain = Vec::new();
            let mut size = 0;
            decoder.decode::<HpackError>(&block, |field| {
                let (name, value, style) = expected.next().unwrap();
                assert_eq!((field.name, field.value), (&name[..], &value[..]));
                let never = style.representation == Representation::Never;
                assert_eq!(field.never_indexed, never);
                field.write(&mut plain);
                size += field.size();
                Ok(())
            }).unwrap();
            prop_assert!(expected.next().is_none());
            prop_assert!(plain.len() <= size);
            // Any decoder can read it: a new one.
            let mut again = fields.iter();
            let mut fresh = Decoder::new(0);
            fresh.decode::<HpackError>(&plain, |field| {
                let (name, value, style) = again.next().unwrap();
                assert_eq!((field.name, field.value), (&name[..], &value[..]));
                let never = style.representation == Representation::Never;
                assert_eq!(field.never_indexed, never);
                Ok(())
            }).unwrap();
            prop_assert!(again.next().is_none());
            prop_assert_eq!(fresh.table.size(), 0);
        }
    }

    #[test]
    fn no_bytes_make_the_decoder_panic_or_its_table_grow(
        blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..8)
    ) {
        let mut decoder = Decoder::new(256);
        for block in blocks {
            if decode(&mut decoder, &block).is_err() {
                break;
            }
            prop_assert!(decoder.table.size() <= 256);
        }
    }

    #[test]
    fn huffman_code_is_read_back(text in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut read = Vec::new();
        huffman::decode(&huffman_code(&text), &mut read).unwrap();
        prop_assert_eq!(read, text);
    }
}
