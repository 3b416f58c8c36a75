//! Randomness, and the only place where it enters.
//!
//! Responsible for: the [`Entropy`] seam, the operating system's source behind it, and the
//! shapes that callers draw from it.
//! Always holds: the same seed gives the same sequence, so a simulated cluster replays.
//! Not here: the randomness that the cryptographic library uses inside key generation and
//! signing; it stays the library's own.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::secret::SecretBytes;

/// A source of random bytes.
pub trait Entropy: Send + Sync + fmt::Debug {
    /// Fills `out` completely.
    fn fill(&self, out: &mut [u8]);
}

/// The operating system's generator, through the cryptographic library.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    #[expect(
        clippy::expect_used,
        reason = "no identity may be made from predictable bytes, and there is no other source"
    )]
    fn fill(&self, out: &mut [u8]) {
        aws_lc_rs::rand::fill(out).expect("the operating system provides random bytes");
    }
}

/// A reproducible sequence; for tests and the simulator, never for keys that matter.
pub struct SeededEntropy {
    seed: u64,
    drawn: AtomicU64,
}

impl SeededEntropy {
    /// The sequence that belongs to `seed`.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self {
            seed,
            drawn: AtomicU64::new(0),
        }
    }

    /// A sequence of its own for `purpose`, so that one user's draws do not shift another's.
    #[must_use]
    pub fn fork(&self, purpose: &str) -> Self {
        let seed = purpose
            .bytes()
            .fold(mix(self.seed), |seed, byte| mix(seed ^ u64::from(byte)));
        Self::new(seed)
    }

    fn next(&self) -> u64 {
        // Splitmix64: a counter that advances by the golden ratio, and a finaliser.
        let position = self.drawn.fetch_add(1, Ordering::SeqCst).wrapping_add(1);
        mix(self
            .seed
            .wrapping_add(position.wrapping_mul(0x9E37_79B9_7F4A_7C15)))
    }
}

fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}

impl fmt::Debug for SeededEntropy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SeededEntropy")
            .field("seed", &self.seed)
            .finish_non_exhaustive()
    }
}

impl Entropy for SeededEntropy {
    fn fill(&self, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            for (byte, random) in chunk.iter_mut().zip(self.next().to_le_bytes()) {
                *byte = random;
            }
        }
    }
}

/// Draws a fixed number of bytes.
#[must_use]
pub fn draw_bytes<const N: usize>(entropy: &dyn Entropy) -> [u8; N] {
    let mut bytes = [0; N];
    entropy.fill(&mut bytes);
    bytes
}

/// Draws a number, uniform over all of `u64`.
#[must_use]
pub fn draw_u64(entropy: &dyn Entropy) -> u64 {
    u64::from_le_bytes(draw_bytes(entropy))
}

/// Draws secret bytes that are wiped when they are dropped.
#[must_use]
pub fn draw_secret(entropy: &dyn Entropy, length: usize) -> SecretBytes {
    let mut bytes = vec![0; length];
    entropy.fill(&mut bytes);
    SecretBytes::new(bytes)
}

/// Draws a version 4 UUID in its text form.
#[must_use]
pub fn draw_uuid(entropy: &dyn Entropy) -> String {
    let random = u128::from_be_bytes(draw_bytes(entropy));
    let version_4 = (random & !(0xF << 76)) | (0x4 << 76);
    let bits = (version_4 & !(0x3 << 62)) | (0x2 << 62);
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        bits >> 96,
        (bits >> 80) & 0xFFFF,
        (bits >> 64) & 0xFFFF,
        (bits >> 48) & 0xFFFF,
        bits & 0xFFFF_FFFF_FFFF,
    )
}

/// Draws a join token: a bearer secret of 122 random bits in the form of a UUID, as SPIRE's
/// tools expect it.
#[must_use]
pub fn draw_token(entropy: &dyn Entropy) -> String {
    draw_uuid(entropy)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_sequence() {
        let (one, two) = (SeededEntropy::new(7), SeededEntropy::new(7));
        let draws: Vec<u64> = (0..100).map(|_| draw_u64(&one)).collect();
        assert_eq!(draws, (0..100).map(|_| draw_u64(&two)).collect::<Vec<_>>());
        assert_eq!(draws.iter().collect::<BTreeSet<_>>().len(), 100);
        assert_ne!(
            draws.first().copied(),
            Some(draw_u64(&SeededEntropy::new(8)))
        );
    }

    #[test]
    fn a_fork_does_not_depend_on_what_its_parent_drew() {
        let parent = SeededEntropy::new(7);
        let before = draw_u64(&parent.fork("raft"));
        let _ = draw_u64(&parent);
        assert_eq!(before, draw_u64(&parent.fork("raft")));
        assert_ne!(before, draw_u64(&parent.fork("disk")));
    }

    #[test]
    fn every_byte_of_an_odd_length_is_filled() {
        let entropy = SeededEntropy::new(1);
        let seen_non_zero = (0..64).fold([false; 13], |mut seen, _| {
            for (seen, byte) in seen.iter_mut().zip(draw_bytes::<13>(&entropy)) {
                *seen |= byte != 0;
            }
            seen
        });
        assert_eq!(seen_non_zero, [true; 13]);
    }

    #[test]
    fn a_uuid_has_its_version_and_variant() {
        for entropy in [&SystemEntropy as &dyn Entropy, &SeededEntropy::new(3)] {
            for _ in 0..50 {
                let uuid = draw_uuid(entropy);
                let groups: Vec<&str> = uuid.split('-').collect();
                assert_eq!(
                    groups.iter().map(|g| g.len()).collect::<Vec<_>>(),
                    [8, 4, 4, 4, 12]
                );
                assert!(
                    groups.concat().bytes().all(|b| b.is_ascii_hexdigit()),
                    "{uuid}"
                );
                assert!(groups[2].starts_with('4'), "{uuid}");
                assert!(groups[3].starts_with(['8', '9', 'a', 'b']), "{uuid}");
            }
        }
        assert_ne!(draw_token(&SystemEntropy), draw_token(&SystemEntropy));
    }

    #[test]
    fn a_secret_has_the_length_asked_for() {
        assert_eq!(draw_secret(&SystemEntropy, 32).expose().len(), 32);
    }
}
