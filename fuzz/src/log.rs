//! What must hold for any bytes that claim to be part of a transparency log.
//!
//! Responsible for: one function per fuzz target, which panics when its property is broken.
//! Always holds: the functions are deterministic, so an input that failed once fails again.
//! Not here: the fuzzer. `tlog/tests/fuzz_seeds.rs` runs the same functions over the seeds.

use mintmark_tlog::note::{NoteVerifier, SignedNote};
use mintmark_tlog::tile::{TileId, decode_bundle, encode_bundle};
use mintmark_tlog::{Checkpoint, Frontier, leaf_hash};

/// A text that parses as a note, a checkpoint or a verifier key prints as itself; nobody but the
/// holder of a key has signed anything.
pub fn signed_note(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let stranger = NoteVerifier::new("stranger", [1; 32]);
    if let (Ok(note), Ok(stranger)) = (SignedNote::parse(text), stranger) {
        assert_eq!(note.to_string(), text);
        assert!(note.verify(&stranger).is_err());
        assert!(!note.signatures().is_empty());
    }
    if let Ok(checkpoint) = Checkpoint::parse(text) {
        let own = checkpoint.to_text();
        assert!(
            text.starts_with(&own),
            "extension lines are all that may follow"
        );
        assert_eq!(Checkpoint::parse(&own), Ok(checkpoint));
    }
    if let Ok(verifier) = NoteVerifier::parse(text) {
        assert_eq!(verifier.to_string(), text);
    }
    if let Ok(tile) = text.parse::<TileId>() {
        assert_eq!(tile.to_string(), text);
    }
}

/// Bytes that decode as a frontier or an entry bundle encode to themselves, and a frontier goes on.
pub fn tree_bytes(data: &[u8]) {
    if let Ok(mut frontier) = Frontier::decode(data) {
        assert_eq!(frontier.encode(), data);
        let size = frontier.size();
        let completed = frontier.push(leaf_hash(data));
        assert_eq!(completed.is_empty(), size == u64::MAX);
        assert_eq!(
            frontier.nodes().len(),
            frontier.size().count_ones() as usize
        );
    }
    if let Ok(entries) = decode_bundle(data) {
        assert_eq!(encode_bundle(&entries).as_deref(), Ok(data));
    }
}
