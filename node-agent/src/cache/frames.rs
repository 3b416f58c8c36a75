//! Sealed frames: a file of encrypted pieces that only ever grows or is replaced whole.
//!
//! Responsible for: the layout of the cache file and its encryption (AES-256-GCM). Each file
//! begins with a version and a random salt; its key is derived from the cache key and that
//! salt, so that the frame's number can serve as the nonce. Always holds: frames are read back
//! in their order and unchanged, or not at all; a tail that was torn by a crash (cut short, or with
//! blocks of zeros that never reached the disk) is dropped, anything else that does not open is
//! damage; a file that was read is never continued, so that no nonce is used twice. Not here: what the
//! frames say (`record`).

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf::{HKDF_SHA256, KeyType, Salt},
};
use mintmark_runtime::mutation::{self, Bug};
use zeroize::Zeroizing;

/// Version of the layout; another one is treated like damage, and the cache is built anew.
pub const VERSION: u16 = 1;
/// Bytes of the cache key and of a file's salt.
pub const KEY_LEN: usize = 32;
/// The smallest piece that a disk writes whole.
const BLOCK: usize = 512;
/// The largest frame that is read back: a whole agent's cache fits several times.
pub const FRAME_MAX: usize = 64 << 20;

const MAGIC: [u8; 6] = *b"MMKAGC";
const LENGTH_LEN: usize = 4;
const TAG_LEN: usize = 16;
/// Bytes before the first frame.
pub const HEADER_LEN: usize = MAGIC.len() + 2 + KEY_LEN;

/// Why a file does not open.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FrameError {
    /// It does not begin as such a file does.
    #[error("not a cache file")]
    NotACache,
    /// It was written in another layout.
    #[error("layout version {0}, expected {VERSION}")]
    Version(u16),
    /// A piece was altered, moved, or sealed with another key or for another agent.
    #[error("frame {0} does not open")]
    Damaged(u64),
    /// A piece is too large to be one of ours.
    #[error("a frame of {0} bytes")]
    TooLarge(usize),
    /// The cryptographic library refused.
    #[error("sealing failed")]
    Seal,
}

/// Seals the frames of one file.
pub struct Sealer {
    key: LessSafeKey,
    context: Vec<u8>,
    salt: [u8; KEY_LEN],
    next: u64,
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sealer")
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}

struct SealingKey;

impl KeyType for SealingKey {
    fn len(&self) -> usize {
        KEY_LEN
    }
}

impl Sealer {
    /// Begins a file. `salt` must be fresh for each file; `context` names whose cache it is and
    /// must be the same when it is read.
    ///
    /// # Errors
    /// [`FrameError::Seal`] when the cryptographic library refuses.
    pub fn new(
        key: &[u8; KEY_LEN],
        salt: [u8; KEY_LEN],
        context: &[u8],
    ) -> Result<Self, FrameError> {
        let mut derived = Zeroizing::new([0_u8; KEY_LEN]);
        Salt::new(HKDF_SHA256, &salt)
            .extract(key)
            .expand(&[b"mintmark-agent-cache", context], SealingKey)
            .and_then(|okm| okm.fill(derived.as_mut_slice()))
            .map_err(|_| FrameError::Seal)?;
        let key =
            UnboundKey::new(&AES_256_GCM, derived.as_slice()).map_err(|_| FrameError::Seal)?;
        Ok(Self {
            key: LessSafeKey::new(key),
            context: context.to_vec(),
            salt,
            next: 0,
        })
    }

    /// The first bytes of the file.
    #[must_use]
    pub fn header(&self) -> Vec<u8> {
        let mut header = MAGIC.to_vec();
        header.extend(VERSION.to_be_bytes());
        header.extend(self.salt);
        header
    }

    /// The next frame, to be appended.
    ///
    /// # Errors
    /// [`FrameError::TooLarge`] beyond [`FRAME_MAX`].
    pub fn seal(&mut self, plain: &[u8]) -> Result<Vec<u8>, FrameError> {
        let sealed_len = plain.len().saturating_add(TAG_LEN);
        if sealed_len > FRAME_MAX {
            return Err(FrameError::TooLarge(sealed_len));
        }
        let length = u32::try_from(sealed_len).map_err(|_| FrameError::TooLarge(sealed_len))?;
        let mut sealed = plain.to_vec();
        let (nonce, aad) = self.frame(self.next, length);
        if mutation::is(Bug::KeyInClear) {
            sealed.extend([0xff; TAG_LEN]);
        } else {
            self.key
                .seal_in_place_append_tag(nonce, aad, &mut sealed)
                .map_err(|_| FrameError::Seal)?;
        }
        self.next = self.next.saturating_add(1);
        let mut frame = length.to_be_bytes().to_vec();
        frame.append(&mut sealed);
        Ok(frame)
    }

    fn open(&self, number: u64, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, FrameError> {
        let length = u32::try_from(sealed.len()).map_err(|_| FrameError::TooLarge(sealed.len()))?;
        let (nonce, aad) = self.frame(number, length);
        let mut opened = Zeroizing::new(sealed.to_vec());
        if mutation::is(Bug::KeyInClear) {
            opened.truncate(sealed.len().saturating_sub(TAG_LEN));
            return Ok(opened);
        }
        let plain = self
            .key
            .open_in_place(nonce, aad, &mut opened)
            .map_err(|_| FrameError::Damaged(number))?
            .len();
        opened.truncate(plain);
        Ok(opened)
    }

    /// Nonce and additional data of a frame: its number, its length, the version and whose
    /// cache it is.
    fn frame(&self, number: u64, length: u32) -> (Nonce, Aad<Vec<u8>>) {
        let mut nonce = [0_u8; NONCE_LEN];
        for (to, from) in nonce.iter_mut().rev().zip(number.to_le_bytes()) {
            *to = from;
        }
        let mut aad = VERSION.to_be_bytes().to_vec();
        aad.extend(number.to_be_bytes());
        aad.extend(length.to_be_bytes());
        aad.extend(&self.context);
        (Nonce::assume_unique_for_key(nonce), Aad::from(aad))
    }
}

/// What a file held.
#[derive(Debug)]
pub struct Opened {
    /// The frames, in order.
    pub frames: Vec<Zeroizing<Vec<u8>>>,
    /// Whether a torn tail was dropped.
    pub torn: bool,
}

/// Opens a whole file.
///
/// # Errors
/// When it is not a cache file of this version, key and context, or was altered.
pub fn open(file: &[u8], key: &[u8; KEY_LEN], context: &[u8]) -> Result<Opened, FrameError> {
    let (header, mut rest) = file
        .split_at_checked(HEADER_LEN)
        .ok_or(FrameError::NotACache)?;
    let rest_of_header = header.strip_prefix(&MAGIC).ok_or(FrameError::NotACache)?;
    let (version, salt) = rest_of_header
        .split_first_chunk::<2>()
        .ok_or(FrameError::NotACache)?;
    if u16::from_be_bytes(*version) != VERSION {
        return Err(FrameError::Version(u16::from_be_bytes(*version)));
    }
    let salt = <[u8; KEY_LEN]>::try_from(salt).map_err(|_| FrameError::NotACache)?;
    let mut sealer = Sealer::new(key, salt, context)?;
    let mut frames = Vec::new();
    let mut torn = false;
    while !rest.is_empty() {
        let Some((sealed, after)) = next_frame(rest)? else {
            torn = true;
            break;
        };
        match sealer.open(sealer.next, sealed) {
            Ok(plain) => frames.push(plain),
            Err(_) if is_torn(file.len().saturating_sub(rest.len()), rest, after) => {
                torn = true;
                break;
            }
            Err(error) => return Err(error),
        }
        sealer.next = sealer.next.saturating_add(1);
        rest = after;
    }
    Ok(Opened { frames, torn })
}

/// A sealed frame, and what follows it.
type Split<'a> = (&'a [u8], &'a [u8]);

/// Splits the first frame off; `None` when the file ends inside it.
fn next_frame(rest: &[u8]) -> Result<Option<Split<'_>>, FrameError> {
    let Some((length, body)) = rest.split_first_chunk::<LENGTH_LEN>() else {
        return Ok(None);
    };
    let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
    if length > FRAME_MAX {
        return Err(FrameError::TooLarge(length));
    }
    Ok(body.split_at_checked(length))
}

/// Whether a frame that does not open, at `offset` of the file, is one that a power cut kept from
/// reaching the disk. The file may have its new length all the same; blocks that never came then
/// read as zeros, which a block of a sealed frame never is. Only the last frame can be torn: one
/// that is followed by others was durable.
fn is_torn(offset: usize, rest: &[u8], after: &[u8]) -> bool {
    let (in_first_block, others) =
        rest.split_at(rest.len().min(BLOCK.saturating_sub(offset % BLOCK)));
    let is_lost = |block: &[u8]| !block.is_empty() && block.iter().all(|byte| *byte == 0);
    // The upper bytes of a length are zeros anyway.
    let first_lost = in_first_block.len() >= LENGTH_LEN && is_lost(in_first_block);
    let second_lost = others.chunks(BLOCK).next().is_some_and(is_lost);
    let length_lost = first_lost || in_first_block.len() < LENGTH_LEN && second_lost;
    length_lost || after.is_empty() && others.chunks(BLOCK).any(is_lost)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;
    use proptest::prelude::*;

    const KEY: [u8; KEY_LEN] = [7; KEY_LEN];

    fn file(frames: &[&[u8]]) -> Vec<u8> {
        let mut sealer = Sealer::new(&KEY, [3; KEY_LEN], b"agent").unwrap();
        let mut file = sealer.header();
        for frame in frames {
            file.extend(sealer.seal(frame).unwrap());
        }
        file
    }

    fn plain(opened: &Opened) -> Vec<Vec<u8>> {
        opened.frames.iter().map(|frame| frame.to_vec()).collect()
    }

    #[test]
    fn frames_come_back_in_order() {
        let bytes = file(&[b"one", b"two"]);
        let opened = open(&bytes, &KEY, b"agent").unwrap();
        assert_eq!(plain(&opened), [b"one".to_vec(), b"two".to_vec()]);
        assert!(!opened.torn);
    }

    #[test]
    fn nothing_of_the_content_is_visible_in_the_file() {
        let bytes = file(&[b"a secret that must not show"]);
        assert!(!bytes.windows(6).any(|window| window == b"secret"));
    }

    #[test]
    fn another_key_another_agent_another_version_and_other_files_are_refused() {
        let bytes = file(&[b"one"]);
        assert_eq!(
            open(&bytes, &[8; KEY_LEN], b"agent").unwrap_err(),
            FrameError::Damaged(0)
        );
        assert_eq!(
            open(&bytes, &KEY, b"other").unwrap_err(),
            FrameError::Damaged(0)
        );
        assert_eq!(
            open(b"PK\x03\x04", &KEY, b"agent").unwrap_err(),
            FrameError::NotACache
        );
        assert_eq!(
            open(b"", &KEY, b"agent").unwrap_err(),
            FrameError::NotACache
        );
        let mut newer = bytes.clone();
        newer[MAGIC.len() + 1] = 9;
        assert_eq!(
            open(&newer, &KEY, b"agent").unwrap_err(),
            FrameError::Version(9)
        );
    }

    #[test]
    fn frames_that_were_swapped_or_left_out_are_damage() {
        let mut sealer = Sealer::new(&KEY, [3; KEY_LEN], b"agent").unwrap();
        let header = sealer.header();
        let (one, two) = (sealer.seal(b"one").unwrap(), sealer.seal(b"two").unwrap());
        let swapped = [header.clone(), two.clone(), one].concat();
        assert_eq!(
            open(&swapped, &KEY, b"agent").unwrap_err(),
            FrameError::Damaged(0)
        );
        let gap = [header, two].concat();
        assert_eq!(
            open(&gap, &KEY, b"agent").unwrap_err(),
            FrameError::Damaged(0)
        );
    }

    #[test]
    fn blocks_that_never_reached_the_disk_are_a_torn_tail_and_zeros_elsewhere_are_damage() {
        let frames: [&[u8]; 3] = [&[1; 700], &[2; 700], &[3; 2_000]];
        let (two, all) = (file(&frames[..2]), file(&frames));
        let lose = |from: usize, to: usize| {
            let mut bytes = all.clone();
            bytes[from..to].fill(0);
            open(&bytes, &KEY, b"agent")
        };
        let blocks: Vec<usize> = (two.len()..all.len())
            .filter(|at| *at == two.len() || at % BLOCK == 0)
            .chain([all.len()])
            .collect();
        for block in blocks.windows(2) {
            let opened = lose(block[0], block[1]).unwrap();
            assert!(opened.torn, "{block:?}");
            assert_eq!(opened.frames.len(), 2, "{block:?}");
        }
        assert!(lose(two.len(), all.len()).unwrap().torn);
        // In a frame that others follow, and in a part of a block, no crash leaves zeros.
        assert_eq!(lose(1024, 1536).unwrap_err(), FrameError::Damaged(1));
        let middle = blocks[2];
        assert_eq!(
            lose(middle + 1, middle + BLOCK).unwrap_err(),
            FrameError::Damaged(2)
        );
    }

    #[test]
    fn an_absurd_length_is_refused_before_anything_is_allocated() {
        let mut bytes = file(&[]);
        bytes.extend(u32::MAX.to_be_bytes());
        assert!(matches!(
            open(&bytes, &KEY, b"agent").unwrap_err(),
            FrameError::TooLarge(_)
        ));
    }

    proptest! {
        #[test]
        fn a_crash_at_any_byte_keeps_the_whole_frames_before_it(
            frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..5),
            cut in any::<prop::sample::Index>(),
        ) {
            let all: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
            let bytes = file(&all);
            let cut = HEADER_LEN + cut.index(bytes.len() - HEADER_LEN + 1);
            let opened = open(&bytes[..cut], &KEY, b"agent").unwrap();
            let kept = opened.frames.len();
            prop_assert_eq!(plain(&opened), frames[..kept].to_vec());
            prop_assert_eq!(file(&all[..kept]).len() == cut, !opened.torn);
        }

        #[test]
        fn an_altered_byte_never_yields_other_content(
            position in any::<prop::sample::Index>(), flip in 1_u8..,
        ) {
            let frames: [&[u8]; 2] = [b"first frame", b"second"];
            let mut bytes = file(&frames);
            let at = position.index(bytes.len());
            bytes[at] ^= flip;
            if let Ok(opened) = open(&bytes, &KEY, b"agent") {
                for (read, written) in plain(&opened).iter().zip(frames) {
                    prop_assert_eq!(read.as_slice(), written);
                }
                prop_assert!(opened.torn, "only a longer length can look like a torn tail");
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = open(&bytes, &KEY, b"agent");
        }
    }
}
