//! Signed notes (C2SP signed-note): a text, and who signed it.
//!
//! Always holds: a [`SignedNote`] is well formed (text ends in a newline, at
//! least one signature line); a text is only handed out by
//! [`SignedNote::verify`], after the signature was checked; a signature is
//! checked before it is attached.
//!
//! Not here: what the text means, and keys (signing comes in as a closure).

use std::error::Error as StdError;
use std::fmt;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha2::{Digest, Sha256};
use thiserror::Error;

/// Signature type byte of Ed25519 (C2SP signed-note).
const ALGORITHM_ED25519: u8 = 0x01;

/// Length of an Ed25519 public key.
const PUBLIC_KEY_LENGTH: usize = 32;

/// Length of an Ed25519 signature.
const SIGNATURE_LENGTH: usize = 64;

/// Longest note that is parsed. Ours are a few hundred bytes; the bound keeps a
/// hostile peer from making us search megabytes.
pub const NOTE_LENGTH_MAX: usize = 64 * 1024;

/// Most signature lines that are parsed: witnesses of one log, with room.
pub const SIGNATURES_MAX: usize = 64;

/// What every signature line begins with: an em dash and a space.
const SIGNATURE_PREFIX: &str = "\u{2014} ";

/// A note with its signature lines, well formed but not verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedNote {
    text: String,
    signatures: Vec<NoteSignature>,
}

/// One signature line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoteSignature {
    /// Name of the key, as the line says it.
    pub name: String,
    /// Key id, as the line says it.
    pub key_id: u32,
    /// The signature itself.
    pub signature: Vec<u8>,
}

/// Text or key that cannot be a note's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NoteError {
    /// Longer than [`NOTE_LENGTH_MAX`].
    #[error("the note is too long")]
    TooLong,
    /// No blank line between text and signatures, an empty text, or one that
    /// does not end in a newline.
    #[error("the note has no text before its signatures")]
    Text,
    /// Control characters other than newline.
    #[error("the note contains a control character")]
    ControlCharacter,
    /// A signature line that is not one, none, or more than [`SIGNATURES_MAX`].
    #[error("a signature line is malformed")]
    SignatureLine,
    /// An empty key name, or one with white space or a plus sign.
    #[error("the key name is empty or contains white space or a plus sign")]
    KeyName,
    /// A verifier key text that is not one, or whose key id is wrong.
    #[error("the verifier key is malformed")]
    VerifierKey,
    /// The algorithm is not Ed25519.
    #[error("the verifier key has an unknown algorithm")]
    Algorithm,
}

/// Why a note is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NoteMismatch {
    /// No signature line names this key.
    #[error("the note is not signed by this key")]
    NotSigned,
    /// A line names this key and its signature is wrong.
    #[error("the signature on the note is wrong")]
    WrongSignature,
}

/// Why a note could not be signed.
#[derive(Debug, Error)]
pub enum SignError {
    /// The text cannot be a note's.
    #[error("the text cannot be signed as a note")]
    Text(#[source] NoteError),
    /// The signer failed.
    #[error("the signer failed")]
    Signer(#[source] Box<dyn StdError + Send + Sync>),
    /// The signer's output does not verify under the key it was made for.
    #[error("the signer made a signature that does not verify")]
    Unverifiable,
    /// A seed that is not an Ed25519 key.
    #[error("the seed is not an Ed25519 key")]
    Seed,
}

/// A named Ed25519 public key that verifies notes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoteVerifier {
    name: String,
    public_key: [u8; PUBLIC_KEY_LENGTH],
}

impl NoteVerifier {
    /// A verifier for this key under this name.
    ///
    /// # Errors
    /// When the name is empty or contains white space or a plus sign.
    pub fn new(name: &str, public_key: [u8; PUBLIC_KEY_LENGTH]) -> Result<Self, NoteError> {
        if !is_key_name(name) {
            return Err(NoteError::KeyName);
        }
        Ok(Self {
            name: name.to_owned(),
            public_key,
        })
    }

    /// Reads the text form `<name>+<key id>+<key>`.
    ///
    /// # Errors
    /// When the text is malformed, the key id does not follow from name and
    /// key, or the algorithm is not Ed25519.
    pub fn parse(vkey: &str) -> Result<Self, NoteError> {
        let mut parts = vkey.splitn(3, '+');
        let (Some(name), Some(key_id), Some(key)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(NoteError::VerifierKey);
        };
        let key = BASE64.decode(key).map_err(|_| NoteError::VerifierKey)?;
        let (algorithm, key) = key.split_first().ok_or(NoteError::VerifierKey)?;
        if *algorithm != ALGORITHM_ED25519 {
            return Err(NoteError::Algorithm);
        }
        let key = <[u8; PUBLIC_KEY_LENGTH]>::try_from(key).map_err(|_| NoteError::VerifierKey)?;
        let verifier = Self::new(name, key)?;
        if format!("{:08x}", verifier.key_id()) != key_id {
            return Err(NoteError::VerifierKey);
        }
        Ok(verifier)
    }

    /// Name of the key.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The Ed25519 public key.
    #[must_use]
    pub fn public_key(&self) -> &[u8; PUBLIC_KEY_LENGTH] {
        &self.public_key
    }

    /// First four bytes of SHA-256 of name, newline, algorithm and key.
    #[must_use]
    pub fn key_id(&self) -> u32 {
        let mut hasher = Sha256::new();
        hasher.update(self.name.as_bytes());
        hasher.update([b'\n', ALGORITHM_ED25519]);
        hasher.update(self.public_key);
        let digest: [u8; 32] = hasher.finalize().into();
        let [a, b, c, d, ..] = digest;
        u32::from_be_bytes([a, b, c, d])
    }

    /// Signs `text` with whoever holds the private key: the closure gets the
    /// bytes to sign. The result was verified under this key.
    ///
    /// # Errors
    /// When the text cannot be a note, the signer fails, or its signature does
    /// not verify.
    pub fn sign_with<E>(
        &self,
        text: &str,
        signer: impl FnOnce(&[u8]) -> Result<Vec<u8>, E>,
    ) -> Result<SignedNote, SignError>
    where
        E: Into<Box<dyn StdError + Send + Sync>>,
    {
        check_text(text).map_err(SignError::Text)?;
        let signature = signer(text.as_bytes()).map_err(|error| SignError::Signer(error.into()))?;
        self.attach(text, signature)
    }

    /// Makes a note of a text and a signature over its bytes that was made
    /// elsewhere (a remote key, for example).
    ///
    /// # Errors
    /// When the text cannot be a note or the signature does not verify.
    pub fn attach(&self, text: &str, signature: Vec<u8>) -> Result<SignedNote, SignError> {
        check_text(text).map_err(SignError::Text)?;
        if !self.is_signature_of(text, &signature) {
            return Err(SignError::Unverifiable);
        }
        let line = NoteSignature {
            name: self.name.clone(),
            key_id: self.key_id(),
            signature,
        };
        Ok(SignedNote {
            text: text.to_owned(),
            signatures: vec![line],
        })
    }

    fn is_signature_of(&self, text: &str, signature: &[u8]) -> bool {
        signature.len() == SIGNATURE_LENGTH
            && UnparsedPublicKey::new(&ED25519, self.public_key)
                .verify(text.as_bytes(), signature)
                .is_ok()
    }
}

impl fmt::Display for NoteVerifier {
    /// The vkey text `<name>+<key id>+<key>`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut key = vec![ALGORITHM_ED25519];
        key.extend_from_slice(&self.public_key);
        write!(
            f,
            "{}+{:08x}+{}",
            self.name,
            self.key_id(),
            BASE64.encode(key)
        )
    }
}

/// A named Ed25519 key pair in memory that signs notes.
pub struct NoteSigner {
    verifier: NoteVerifier,
    key: Ed25519KeyPair,
}

impl fmt::Debug for NoteSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NoteSigner")
            .field("verifier", &self.verifier)
            .finish_non_exhaustive()
    }
}

impl NoteSigner {
    /// A signer from the 32-byte Ed25519 seed (RFC 8032 section 5.1.5).
    ///
    /// # Errors
    /// When the name or the seed cannot be used.
    pub fn from_seed(name: &str, seed: &[u8; 32]) -> Result<Self, SignError> {
        use aws_lc_rs::signature::KeyPair as _;
        let key = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| SignError::Seed)?;
        let public_key = key
            .public_key()
            .as_ref()
            .try_into()
            .map_err(|_| SignError::Seed)?;
        let verifier = NoteVerifier::new(name, public_key).map_err(SignError::Text)?;
        Ok(Self { verifier, key })
    }

    /// The public half.
    #[must_use]
    pub fn verifier(&self) -> &NoteVerifier {
        &self.verifier
    }

    /// Signs a text.
    ///
    /// # Errors
    /// When the text cannot be a note.
    pub fn sign(&self, text: &str) -> Result<SignedNote, SignError> {
        self.verifier.sign_with(text, |message| {
            Ok::<_, std::convert::Infallible>(self.key.sign(message).as_ref().to_vec())
        })
    }
}

impl SignedNote {
    /// Parses a note without verifying it.
    ///
    /// # Errors
    /// What is malformed.
    pub fn parse(note: &str) -> Result<Self, NoteError> {
        if note.len() > NOTE_LENGTH_MAX {
            return Err(NoteError::TooLong);
        }
        // The last blank line parts text and signatures: the text may hold some.
        let split = note.rfind("\n\n").ok_or(NoteError::Text)?;
        let (text, rest) = note
            .split_at_checked(split.saturating_add(1))
            .ok_or(NoteError::Text)?;
        check_text(text)?;
        let lines = rest
            .strip_prefix('\n')
            .and_then(|lines| lines.strip_suffix('\n'));
        let mut signatures = Vec::new();
        for line in lines.ok_or(NoteError::SignatureLine)?.split('\n') {
            if signatures.len() == SIGNATURES_MAX {
                return Err(NoteError::SignatureLine);
            }
            signatures.push(parse_signature_line(line)?);
        }
        Ok(Self {
            text: text.to_owned(),
            signatures,
        })
    }

    /// The text, once a signature by `verifier` was found and is right. Other
    /// keys' signatures are ignored.
    ///
    /// # Errors
    /// When this key did not sign, or any line in its name is wrong.
    pub fn verify(&self, verifier: &NoteVerifier) -> Result<&str, NoteMismatch> {
        let key_id = verifier.key_id();
        let mut signed = false;
        for line in &self.signatures {
            if line.name != verifier.name || line.key_id != key_id {
                continue;
            }
            if !verifier.is_signature_of(&self.text, &line.signature) {
                return Err(NoteMismatch::WrongSignature);
            }
            signed = true;
        }
        if signed {
            Ok(&self.text)
        } else {
            Err(NoteMismatch::NotSigned)
        }
    }

    /// Adds the signature lines of another note over the same text (a
    /// witness's, for example) and says whether the texts were the same.
    /// Lines that are there already are not repeated.
    #[must_use]
    pub fn merge(&mut self, other: &Self) -> bool {
        if self.text != other.text {
            return false;
        }
        for line in &other.signatures {
            if !self.signatures.contains(line) && self.signatures.len() < SIGNATURES_MAX {
                self.signatures.push(line.clone());
            }
        }
        true
    }

    /// The text, although nobody verified it: for display and for finding out
    /// which key to verify with.
    #[must_use]
    pub fn unverified_text(&self) -> &str {
        &self.text
    }

    /// The signature lines, in order.
    #[must_use]
    pub fn signatures(&self) -> &[NoteSignature] {
        &self.signatures
    }
}

impl fmt::Display for SignedNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        for line in &self.signatures {
            let mut value = line.key_id.to_be_bytes().to_vec();
            value.extend_from_slice(&line.signature);
            writeln!(
                f,
                "{SIGNATURE_PREFIX}{} {}",
                line.name,
                BASE64.encode(value)
            )?;
        }
        Ok(())
    }
}

fn parse_signature_line(line: &str) -> Result<NoteSignature, NoteError> {
    let rest = line
        .strip_prefix(SIGNATURE_PREFIX)
        .ok_or(NoteError::SignatureLine)?;
    let (name, value) = rest.split_once(' ').ok_or(NoteError::SignatureLine)?;
    let value = BASE64.decode(value).map_err(|_| NoteError::SignatureLine)?;
    let (key_id, signature) = value
        .split_first_chunk::<4>()
        .ok_or(NoteError::SignatureLine)?;
    if !is_key_name(name) || signature.is_empty() {
        return Err(NoteError::SignatureLine);
    }
    Ok(NoteSignature {
        name: name.to_owned(),
        key_id: u32::from_be_bytes(*key_id),
        signature: signature.to_vec(),
    })
}

/// Whether the name fits in a signature line and a vkey. Non-ASCII white space
/// counts too, as in the specification.
fn is_key_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c.is_control() || c == '+')
}

fn check_text(text: &str) -> Result<(), NoteError> {
    if text.len() > NOTE_LENGTH_MAX {
        return Err(NoteError::TooLong);
    }
    if text.len() < 2 || !text.ends_with('\n') {
        return Err(NoteError::Text);
    }
    if text.contains(|c: char| c.is_ascii_control() && c != '\n') {
        return Err(NoteError::ControlCharacter);
    }
    Ok(())
}
