//! Signed notes and checkpoints, with a published note as foreign vector.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use mintmark_tlog::Checkpoint;
use mintmark_tlog::checkpoint::{CheckpointError, OpenError};
use mintmark_tlog::note::{
    NoteError, NoteMismatch, NoteSigner, NoteVerifier, SIGNATURES_MAX, SignError, SignedNote,
};
use proptest::prelude::*;

/// The example of Go's `golang.org/x/mod/sumdb/note`.
const FOREIGN_VKEY: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
const FOREIGN_TEXT: &str = "If you think cryptography is the answer to your problem,\n\
    then you don't know what your problem is.\n";
const FOREIGN_SIGNATURE: &str = "\u{2014} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";

fn signer(name: &str, seed: u8) -> NoteSigner {
    NoteSigner::from_seed(name, &[seed; 32]).unwrap()
}

fn checkpoint() -> Checkpoint {
    Checkpoint {
        origin: "example.org/audit/1".into(),
        size: 20_852_163,
        root: [7; 32],
    }
}

#[test]
fn a_published_note_verifies_under_its_published_key() {
    let verifier = NoteVerifier::parse(FOREIGN_VKEY).unwrap();
    assert_eq!(verifier.name(), "PeterNeumann");
    assert_eq!(verifier.to_string(), FOREIGN_VKEY);
    let text = format!("{FOREIGN_TEXT}\n{FOREIGN_SIGNATURE}");
    let note = SignedNote::parse(&text).unwrap();
    assert_eq!(note.verify(&verifier), Ok(FOREIGN_TEXT));
    assert_eq!(note.to_string(), text);
}

#[test]
fn an_altered_note_does_not_verify() {
    let verifier = NoteVerifier::parse(FOREIGN_VKEY).unwrap();
    let altered = FOREIGN_TEXT.replace("answer", "Answer");
    let note = SignedNote::parse(&format!("{altered}\n{FOREIGN_SIGNATURE}")).unwrap();
    assert_eq!(note.verify(&verifier), Err(NoteMismatch::WrongSignature));
}

#[test]
fn another_key_or_name_does_not_verify() {
    let note = signer("log", 1).sign("text\n").unwrap();
    assert_eq!(note.verify(signer("log", 1).verifier()), Ok("text\n"));
    assert_eq!(
        note.verify(signer("log", 2).verifier()),
        Err(NoteMismatch::NotSigned)
    );
    assert_eq!(
        note.verify(signer("other", 1).verifier()),
        Err(NoteMismatch::NotSigned)
    );
}

#[test]
fn one_wrong_line_spoils_a_right_one_of_the_same_key() {
    let signer = signer("log", 1);
    let right = signer.sign("text\n").unwrap().to_string();
    let wrong = signer.sign("other\n").unwrap().to_string();
    let wrong_line = wrong.lines().last().unwrap();
    let note = SignedNote::parse(&format!("{right}{wrong_line}\n")).unwrap();
    assert_eq!(note.signatures().len(), 2);
    assert_eq!(
        note.verify(signer.verifier()),
        Err(NoteMismatch::WrongSignature)
    );
}

#[test]
fn witnesses_add_their_lines_to_the_same_text_only() {
    let (log, witness) = (signer("log", 1), signer("witness", 2));
    let mut note = log.sign("text\n").unwrap();
    assert!(note.merge(&witness.sign("text\n").unwrap()));
    assert!(
        note.merge(&witness.sign("text\n").unwrap()),
        "again, without a second line"
    );
    assert!(!note.merge(&witness.sign("other\n").unwrap()));
    assert_eq!(note.signatures().len(), 2);
    let parsed = SignedNote::parse(&note.to_string()).unwrap();
    assert_eq!(parsed.verify(log.verifier()), Ok("text\n"));
    assert_eq!(parsed.verify(witness.verifier()), Ok("text\n"));
}

#[test]
fn malformed_notes_are_refused() {
    let line = FOREIGN_SIGNATURE;
    let many = line.repeat(SIGNATURES_MAX + 1);
    let long = "x".repeat(70_000);
    let cases: Vec<(String, NoteError)> = vec![
        (String::new(), NoteError::Text),
        ("text\n".into(), NoteError::Text),
        (format!("text\n{line}"), NoteError::Text),
        (format!("\n{line}"), NoteError::Text),
        (format!("\n\n{line}"), NoteError::Text),
        (format!("te\rxt\n\n{line}"), NoteError::ControlCharacter),
        (format!("te\0xt\n\n{line}"), NoteError::ControlCharacter),
        (format!("{long}\n\n{line}"), NoteError::TooLong),
        ("text\n\n".into(), NoteError::SignatureLine),
        (
            format!("text\n\n{}", line.trim_end()),
            NoteError::SignatureLine,
        ),
        (
            format!("text\n\n{}", line.replace('\u{2014}', "-")),
            NoteError::SignatureLine,
        ),
        (
            format!("text\n\n{}", line.replace("PeterNeumann ", "")),
            NoteError::SignatureLine,
        ),
        (
            format!("text\n\n{}", line.replace("PeterNeumann", "P+N")),
            NoteError::SignatureLine,
        ),
        (
            format!("text\n\n{}", line.replace("x08", "!08")),
            NoteError::SignatureLine,
        ),
        (
            "text\n\n\u{2014} name AAAAAA==\n".into(),
            NoteError::SignatureLine,
        ),
        (format!("text\n\n{many}"), NoteError::SignatureLine),
    ];
    for (note, error) in cases {
        assert_eq!(SignedNote::parse(&note), Err(error), "{note:.60}");
    }
}

#[test]
fn malformed_verifier_keys_are_refused() {
    for (vkey, error) in [
        ("", NoteError::VerifierKey),
        ("name", NoteError::VerifierKey),
        ("PeterNeumann+c74f20a3", NoteError::VerifierKey),
        (
            &FOREIGN_VKEY.replace("c74f", "c74e"),
            NoteError::VerifierKey,
        ),
        (
            &FOREIGN_VKEY.replace("c74f", "C74F"),
            NoteError::VerifierKey,
        ),
        (
            &FOREIGN_VKEY.replace("Peter", "peter"),
            NoteError::VerifierKey,
        ),
        (&FOREIGN_VKEY.replace("+AR", "+BR"), NoteError::Algorithm),
        (
            &FOREIGN_VKEY[..FOREIGN_VKEY.len() - 4],
            NoteError::VerifierKey,
        ),
        (
            &FOREIGN_VKEY.replace("PeterNeumann", ""),
            NoteError::KeyName,
        ),
        (
            &FOREIGN_VKEY.replace("PeterN", "Peter N"),
            NoteError::KeyName,
        ),
    ] {
        assert_eq!(NoteVerifier::parse(vkey), Err(error), "{vkey}");
    }
}

#[test]
fn a_signature_is_checked_before_it_is_attached() {
    let key = signer("log", 1);
    let verifier = key.verifier();
    let wrong = verifier.sign_with("text\n", |_| Ok::<_, std::io::Error>(vec![0; 64]));
    assert!(matches!(wrong, Err(SignError::Unverifiable)), "{wrong:?}");
    let failed = verifier.sign_with("text\n", |_| Err(std::io::Error::other("sealed")));
    assert!(matches!(failed, Err(SignError::Signer(_))), "{failed:?}");
    for text in ["", "\n", "text", "a\tb\n"] {
        let refused = verifier.sign_with(text, |_| -> Result<_, std::io::Error> {
            panic!("the signer must not see a text that is no note's")
        });
        assert!(matches!(refused, Err(SignError::Text(_))), "{refused:?}");
    }
    let elsewhere = key.sign("text\n").unwrap().signatures()[0]
        .signature
        .clone();
    assert!(verifier.attach("text\n", elsewhere.clone()).is_ok());
    assert!(verifier.attach("other\n", elsewhere).is_err());
}

#[test]
fn a_signer_shows_nothing_of_its_seed() {
    let shown = format!("{:?}", signer("log", 0xab));
    assert!(shown.contains("log"));
    assert!(
        !shown.contains("abab") && !shown.contains("171, 171"),
        "{shown}"
    );
}

#[test]
fn a_checkpoint_has_one_text() {
    let text = "example.org/audit/1\n20852163\nBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=\n";
    assert_eq!(checkpoint().to_text(), text);
    assert_eq!(Checkpoint::parse(text).unwrap(), checkpoint());
}

#[test]
fn extension_lines_are_accepted_and_ignored() {
    let text = format!("{}extension\n", checkpoint().to_text());
    assert_eq!(Checkpoint::parse(&text).unwrap(), checkpoint());
}

#[test]
fn malformed_checkpoints_are_refused() {
    let root = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";
    for (text, error) in [
        (String::new(), CheckpointError::End),
        ("\n".into(), CheckpointError::Origin),
        (format!("\n1\n{root}\n"), CheckpointError::Origin),
        ("origin\n".into(), CheckpointError::Size),
        (format!("origin\n-1\n{root}\n"), CheckpointError::Size),
        (format!("origin\n+1\n{root}\n"), CheckpointError::Size),
        (format!("origin\n01\n{root}\n"), CheckpointError::Size),
        (
            format!("origin\n18446744073709551616\n{root}\n"),
            CheckpointError::Size,
        ),
        ("origin\n1\n".into(), CheckpointError::Root),
        ("origin\n1\nAAAA\n".into(), CheckpointError::Root),
        (
            format!("origin\n1\n{}\n", &root[..43]),
            CheckpointError::Root,
        ),
        (format!("origin\n1\n{root}"), CheckpointError::End),
        (format!("origin\n1\n{root}\n\n"), CheckpointError::End),
    ] {
        assert_eq!(Checkpoint::parse(&text), Err(error), "{text:?}");
    }
}

#[test]
fn a_checkpoint_opens_only_under_the_key_of_its_origin() {
    let log = signer("example.org/audit/1", 1);
    let note = log.sign(&checkpoint().to_text()).unwrap().to_string();
    assert_eq!(Checkpoint::open(&note, log.verifier()), Ok(checkpoint()));

    let other_key = signer("example.org/audit/1", 2);
    let refused = Checkpoint::open(&note, other_key.verifier());
    assert_eq!(refused, Err(OpenError::Signature(NoteMismatch::NotSigned)));
    let tampered = note.replace("20852163", "20852164");
    let refused = Checkpoint::open(&tampered, log.verifier());
    assert_eq!(
        refused,
        Err(OpenError::Signature(NoteMismatch::WrongSignature))
    );
    // The key of another log signs our origin.
    let foreign = signer("example.org/audit/2", 1);
    let note = foreign.sign(&checkpoint().to_text()).unwrap().to_string();
    assert_eq!(
        Checkpoint::open(&note, foreign.verifier()),
        Err(OpenError::Origin)
    );
    let note = log.sign("example.org/audit/1\nmany\n").unwrap().to_string();
    let refused = Checkpoint::open(&note, log.verifier());
    assert_eq!(refused, Err(OpenError::Checkpoint(CheckpointError::Size)));
    let refused = Checkpoint::open("", log.verifier());
    assert_eq!(refused, Err(OpenError::Note(NoteError::Text)));
}

proptest! {
    #[test]
    fn signed_texts_round_trip(text in "[ -~\u{e9}\n]{1,80}", seed: u8) {
        let text = format!("{text}\n");
        let signer = signer("example.org/audit/1", seed);
        let note = signer.sign(&text).unwrap();
        let parsed = SignedNote::parse(&note.to_string()).unwrap();
        prop_assert_eq!(parsed.verify(signer.verifier()), Ok(text.as_str()));
        let vkey = NoteVerifier::parse(&signer.verifier().to_string()).unwrap();
        prop_assert_eq!(&vkey, signer.verifier());
    }

    #[test]
    fn parsing_never_panics_and_writes_what_it_read(text in "(.|\n|\u{2014} a AAAAAAAA\n){0,60}") {
        if let Ok(note) = SignedNote::parse(&text) {
            prop_assert_eq!(note.to_string(), text.clone());
        }
        let _ = Checkpoint::parse(&text);
        let _ = NoteVerifier::parse(&text);
    }
}
