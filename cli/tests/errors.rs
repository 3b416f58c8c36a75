//! Every error code of the command line stands in the error index, and the index has no others.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

use std::collections::BTreeSet;
use std::path::Path;

fn codes(text: &str, before: &str) -> BTreeSet<String> {
    text.match_indices(&format!("{before}MM-3"))
        .map(|(at, found)| {
            text[at + found.len()..]
                .chars()
                .take_while(char::is_ascii_digit)
                .collect()
        })
        .filter(|digits: &String| digits.len() == 3)
        .collect()
}

fn sources(directory: &Path, found: &mut String) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push_str(&std::fs::read_to_string(path).unwrap());
        }
    }
}

#[test]
fn every_code_is_in_the_error_index_and_no_other() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut source = String::new();
    sources(&root.join("src"), &mut source);
    let index = std::fs::read_to_string(root.join("../docs/errors.md")).unwrap();
    assert_eq!(codes(&source, "\""), codes(&index, "| "));
}
