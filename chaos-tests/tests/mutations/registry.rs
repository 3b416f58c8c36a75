//! The registry agrees with the sources.

use std::path::{Path, PathBuf};

use mintmark_runtime::mutation::Bug;

/// Where daemons may have bugs.
const SOURCES: [&str; 2] = ["ca-server/src", "node-agent/src"];

fn text_below(folder: &Path) -> String {
    let mut text = String::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            text.push_str(&text_below(&path));
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            text.push_str(&std::fs::read_to_string(path).unwrap());
        }
    }
    text
}

#[test]
fn every_registered_bug_stands_in_the_sources() {
    let root: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let sources: String = SOURCES
        .map(|folder| text_below(&root.join(folder)))
        .concat();
    for bug in Bug::ALL {
        let question = format!("mutation::is(Bug::{bug:?})");
        assert!(sources.contains(&question), "{bug:?} stands nowhere");
    }
}
