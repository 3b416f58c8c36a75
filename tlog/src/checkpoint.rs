//! Checkpoints (C2SP tlog-checkpoint): what a log says its tree is.
//!
//! Always holds: a checkpoint writes exactly one text, and only that text
//! parses to it, so two checkpoints of one tree cannot differ in bytes.
//!
//! Not here: signatures (see [`crate::note`]).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use thiserror::Error;

use crate::note::{NoteError, NoteMismatch, NoteVerifier, SignedNote};
use crate::tree::Hash;

/// Size and root of a log's tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which log: for ours `<trust domain>/audit/<epoch>`.
    pub origin: String,
    /// Number of leaves.
    pub size: u64,
    /// Root over them.
    pub root: Hash,
}

/// A text that is not a checkpoint's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CheckpointError {
    /// The origin line is empty or missing.
    #[error("the checkpoint has no origin")]
    Origin,
    /// The size is not a decimal number without leading zeros.
    #[error("the tree size is not a decimal number")]
    Size,
    /// The root is not base64 of 32 bytes.
    #[error("the root is not base64 of 32 bytes")]
    Root,
    /// An extension line is empty, or the text does not end in a newline.
    #[error("the checkpoint does not end as it should")]
    End,
}

/// Why a signed checkpoint is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum OpenError {
    /// The note is malformed.
    #[error("the signed note is malformed")]
    Note(#[source] NoteError),
    /// The signature is missing or wrong.
    #[error("the checkpoint is not signed by the log")]
    Signature(#[source] NoteMismatch),
    /// The signed text is not a checkpoint.
    #[error("the signed note is not a checkpoint")]
    Checkpoint(#[source] CheckpointError),
    /// It is another log's checkpoint.
    #[error("the checkpoint belongs to another log")]
    Origin,
}

impl Checkpoint {
    /// The text that is signed. Extension lines are never written: witnesses'
    /// cosignatures do not all cover them.
    #[must_use]
    pub fn to_text(&self) -> String {
        format!(
            "{}\n{}\n{}\n",
            self.origin,
            self.size,
            BASE64.encode(self.root)
        )
    }

    /// Parses the text of a checkpoint. Extension lines are accepted, as the
    /// specification asks, and ignored.
    ///
    /// # Errors
    /// What is malformed.
    pub fn parse(text: &str) -> Result<Self, CheckpointError> {
        let body = text.strip_suffix('\n').ok_or(CheckpointError::End)?;
        let mut lines = body.split('\n');
        let origin = lines
            .next()
            .filter(|line| !line.is_empty())
            .ok_or(CheckpointError::Origin)?;
        let digits = lines.next().ok_or(CheckpointError::Size)?;
        let size = digits.parse::<u64>().map_err(|_| CheckpointError::Size)?;
        if size.to_string() != digits {
            return Err(CheckpointError::Size);
        }
        let root = lines.next().ok_or(CheckpointError::Root)?;
        let root = BASE64.decode(root).map_err(|_| CheckpointError::Root)?;
        let root = Hash::try_from(root).map_err(|_| CheckpointError::Root)?;
        if lines.any(str::is_empty) {
            return Err(CheckpointError::End);
        }
        Ok(Self {
            origin: origin.to_owned(),
            size,
            root,
        })
    }

    /// Parses a signed note, verifies it by the log's key, and returns the
    /// checkpoint. The key's name must be the origin.
    ///
    /// # Errors
    /// Why the checkpoint is not believed.
    pub fn open(note: &str, verifier: &NoteVerifier) -> Result<Self, OpenError> {
        let note = SignedNote::parse(note).map_err(OpenError::Note)?;
        let text = note.verify(verifier).map_err(OpenError::Signature)?;
        let checkpoint = Self::parse(text).map_err(OpenError::Checkpoint)?;
        if checkpoint.origin != verifier.name() {
            return Err(OpenError::Origin);
        }
        Ok(checkpoint)
    }
}
