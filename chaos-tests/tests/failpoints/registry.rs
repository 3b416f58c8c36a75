//! The registry agrees with the sources.

use std::path::{Path, PathBuf};

use mintmark_runtime::failpoint::Step;

/// Where daemons may have failpoints.
const SOURCES: [&str; 2] = ["ca-server/src", "node-agent/src"];

fn files_below(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_below(&path, files);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            files.push(path);
        }
    }
}

/// How often a step stands in a source. `Step` may have another name where that one is taken.
fn times(text: &str, step: Step) -> usize {
    let name = format!("::{step:?}");
    let ends = |at: &usize| {
        let after = text.get(at + name.len()..).unwrap();
        !after.starts_with(|next: char| next.is_alphanumeric() || next == '_')
    };
    text.match_indices(&name)
        .map(|(at, _)| at)
        .filter(ends)
        .filter(|at| {
            let before = text.get(..*at).unwrap();
            ["Step", "At"].iter().any(|name| before.ends_with(name))
        })
        .count()
}

#[test]
fn every_registered_failpoint_stands_in_the_sources_exactly_once() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files = Vec::new();
    for folder in SOURCES {
        files_below(&root.join(folder), &mut files);
    }
    let sources: Vec<(PathBuf, String)> = files
        .into_iter()
        .map(|path| (path.clone(), std::fs::read_to_string(path).unwrap()))
        .collect();
    for step in Step::ALL {
        let places: Vec<&Path> = sources
            .iter()
            .flat_map(|(path, text)| std::iter::repeat_n(path.as_path(), times(text, *step)))
            .collect();
        assert_eq!(places.len(), 1, "{step:?} stands in {places:?}");
    }
}

#[test]
fn only_whole_names_of_steps_are_counted() {
    let text = "reach(Step::LogMade); reach(Step::LogMadeTwice); Other::LogMade; At::LogMade";
    assert_eq!(times(text, Step::LogMade), 2);
}
