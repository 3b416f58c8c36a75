//! Tile names and bytes of C2SP tlog-tiles.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use mintmark_tlog::tile::{
    BundleError, TileId, TileLevel, decode_bundle, decode_hashes, encode_bundle, encode_hashes,
    entries_path, tile_path, tiles_added,
};
use proptest::prelude::*;

#[test]
fn paths_are_those_of_the_specification() {
    assert_eq!(tile_path(0, 0, 0), "tile/0/000");
    assert_eq!(tile_path(1, 999, 256), "tile/1/999");
    assert_eq!(tile_path(0, 1000, 0), "tile/0/x001/000");
    assert_eq!(tile_path(0, 1_234_067, 0), "tile/0/x001/x234/067");
    assert_eq!(tile_path(2, 5, 17), "tile/2/005.p/17");
    assert_eq!(entries_path(1_234_067, 0), "tile/entries/x001/x234/067");
    assert_eq!(entries_path(0, 255), "tile/entries/000.p/255");
}

#[test]
fn second_spellings_and_foreign_paths_name_no_tile() {
    for path in [
        "",
        "tile",
        "tile/",
        "tile/0",
        "tile/0/",
        "tile/0/0",
        "tile/0/00",
        "tile/0/0000",
        "tile/00/000",
        "tile/+0/000",
        "tile/8/000",
        "tile/x/000",
        "tile/data/000",
        "tile/0/x000/001",
        "tile/0/001/000",
        "tile/0/x001/x000",
        "tile/0/x001",
        "tile/0/-01",
        "tile/0/000.p/0",
        "tile/0/000.p/256",
        "tile/0/000.p/257",
        "tile/0/000.p/01",
        "tile/0/000.p/",
        "tile/0/000.p/+1",
        "tile/0/000/",
        "/tile/0/000",
        "tile/0/000.p/1/2",
        "tile/0/x018/x446/x744/x073/x709/x551/616", // 2^64
    ] {
        assert!(path.parse::<TileId>().is_err(), "{path:?} was accepted");
    }
}

#[test]
fn a_tile_knows_which_nodes_it_holds() {
    let tile: TileId = "tile/2/003.p/9".parse().unwrap();
    assert_eq!(tile.nodes(), (16, 768, 9));
    let bundle: TileId = "tile/entries/001".parse().unwrap();
    assert_eq!(bundle.nodes(), (0, 256, 256));
}

#[test]
fn growth_adds_full_tiles_and_the_partial_one_at_each_edge() {
    let paths = |since, size| {
        tiles_added(since, size)
            .map(|t| t.to_string())
            .collect::<Vec<_>>()
    };
    assert!(paths(0, 0).is_empty());
    assert!(paths(70, 70).is_empty());
    assert_eq!(paths(0, 1), ["tile/entries/000.p/1", "tile/0/000.p/1"]);
    assert_eq!(
        paths(255, 256),
        ["tile/entries/000", "tile/0/000", "tile/1/000.p/1"]
    );
    assert_eq!(paths(256, 257), ["tile/entries/001.p/1", "tile/0/001.p/1"]);
    let all = paths(0, 70_000);
    assert_eq!(all.len(), 274 + 274 + 2 + 1);
    for path in [
        "tile/entries/273.p/112",
        "tile/0/273.p/112",
        "tile/1/000",
        "tile/1/001.p/17",
        "tile/2/000.p/1",
    ] {
        assert!(all.iter().any(|p| p == path), "{path} is missing");
    }
}

#[test]
fn a_bundle_prefixes_each_entry_with_its_length() {
    let bytes = encode_bundle(&[&b"abc"[..], b"", b"z"]).unwrap();
    assert_eq!(bytes, b"\x00\x03abc\x00\x00\x00\x01z");
    assert_eq!(decode_bundle(&bytes).unwrap(), [&b"abc"[..], b"", b"z"]);
}

#[test]
fn bundles_beyond_their_limits_are_refused() {
    let long = vec![0u8; 65_536];
    assert_eq!(
        encode_bundle(&[&b"a"[..], &long]),
        Err(BundleError::EntryTooLong(1))
    );
    assert!(encode_bundle(&[&long[1..]]).is_ok());
    assert_eq!(encode_bundle(&vec![b"a"; 257]), Err(BundleError::TooMany));
    assert_eq!(
        decode_bundle(&[0, 0].repeat(257)),
        Err(BundleError::TooMany)
    );
    assert_eq!(decode_bundle(&[0, 0].repeat(256)).unwrap().len(), 256);
    assert_eq!(
        decode_bundle(b"\x00\x01a\x00"),
        Err(BundleError::Truncated(1))
    );
    assert_eq!(decode_bundle(b"\x00\x02a"), Err(BundleError::Truncated(0)));
}

#[test]
fn a_hash_tile_is_1_to_256_whole_hashes() {
    let hashes = [[1u8; 32], [2; 32]];
    assert_eq!(decode_hashes(&encode_hashes(&hashes)).unwrap(), hashes);
    for length in [0, 31, 33, 257 * 32] {
        assert!(decode_hashes(&vec![0; length]).is_none(), "{length} bytes");
    }
    assert!(decode_hashes(&[0; 256 * 32]).is_some());
}

proptest! {
    #[test]
    fn a_path_parses_to_the_tile_that_wrote_it(
        level in 0u8..=7, entries: bool, index: u64, width in 1u16..=256
    ) {
        let level = if entries { TileLevel::Entries } else { TileLevel::Hashes(level) };
        let tile = TileId { level, index, width };
        prop_assert_eq!(tile.to_string().parse::<TileId>().unwrap(), tile);
    }

    #[test]
    fn what_parses_writes_the_same_path(path in "tile/(entries|[0-9])/(x?[0-9]{3}/?){1,3}(\\.p/[0-9]{1,3})?") {
        if let Ok(tile) = path.parse::<TileId>() {
            prop_assert_eq!(tile.to_string(), path);
        }
    }

    #[test]
    fn bundles_round_trip(
        entries in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..256)
    ) {
        let bytes = encode_bundle(&entries).unwrap();
        prop_assert_eq!(decode_bundle(&bytes).unwrap(), entries);
    }

    #[test]
    fn decoding_a_bundle_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(entries) = decode_bundle(&bytes) {
            prop_assert_eq!(encode_bundle(&entries).unwrap(), bytes);
        }
    }

    #[test]
    fn tiles_added_in_two_steps_cover_those_added_in_one(a in 0u64..3000, b in 0u64..3000) {
        let (a, b) = (a.min(b), a.max(b));
        let mut stepwise: std::collections::BTreeSet<TileId> = tiles_added(0, a).collect();
        stepwise.extend(tiles_added(a, b));
        for tile in tiles_added(0, b) {
            prop_assert!(stepwise.contains(&tile), "{} is missing", tile);
        }
    }
}
