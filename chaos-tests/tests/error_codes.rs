//! Every stable code of `docs/errors.md` is produced by a test, or it says here why none can.
//!
//! A code counts as produced when a test's source names it: as text (`MM-1203`) or by its constant
//! (`code::NOT_FOUND`). Comments do not count, and neither do this file and those that make codes up.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Codes that no test produces, and why.
const NOT_PRODUCED: [(&str, &str); 9] = [
    (
        "MM-1009",
        "nothing refuses a new cluster's first commands but a defect",
    ),
    (
        "MM-1108",
        "join tokens are the only evidence so far, and agents that came by one renew",
    ),
    (
        "MM-3000",
        "the system would have to refuse threads or signal handlers",
    ),
    (
        "MM-3002",
        "every document that is printed can be written as JSON and YAML",
    ),
    (
        "MM-3104",
        "every configuration that is planned can be written as TOML",
    ),
    ("MM-3110", "the system would have to refuse a process"),
    ("MM-3111", "the machine would have to have no port left"),
    (
        "MM-3120",
        "a start that hangs for its whole limit would hold up every run",
    ),
    (
        "MM-3130",
        "the parser of the command line is asked first, and says MM-3004",
    ),
];

/// Sources whose tests make codes up: this one, the text of failures as such, and a stand-in for servers.
const MADE_UP: [&str; 3] = [
    "chaos-tests/tests/error_codes.rs",
    "cli/src/failure.rs",
    "node-agent/tests/agent/fake_server.rs",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// One row of the page: code, what happened, what to do.
fn rows() -> Vec<(String, String)> {
    let page = std::fs::read_to_string(root().join("docs/errors.md")).unwrap();
    let row = |line: &str| {
        let rest = line.strip_prefix("| MM-")?;
        let (number, what) = rest.split_once(" | ")?;
        Some((format!("MM-{number}"), what.to_owned()))
    };
    page.lines().filter_map(row).collect()
}

/// Every Rust source of the members, with its path below the root.
fn sources() -> Vec<(PathBuf, String)> {
    let mut folders: Vec<PathBuf> = std::fs::read_dir(root())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("Cargo.toml").is_file())
        .flat_map(|member| [member.join("src"), member.join("tests")])
        .filter(|folder| folder.is_dir())
        .collect();
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                let place = path.strip_prefix(root()).unwrap().to_owned();
                found.push((place, text));
            }
        }
    }
    found
}

/// The part of a source that is test: all of it below `tests`, else what follows `#[cfg(test)]`.
fn test_part<'s>(path: &Path, text: &'s str) -> &'s str {
    let parts: Vec<_> = path.components().map(|part| part.as_os_str()).collect();
    let is_test = |part: &&std::ffi::OsStr| *part == "tests" || *part == "tests.rs";
    if MADE_UP.iter().any(|made_up| path == Path::new(made_up)) {
        return "";
    }
    if parts.iter().any(is_test) {
        return text;
    }
    text.find("#[cfg(test)]").map_or("", |at| &text[at..])
}

/// `code::NAME` of a daemon's crate, and what it is.
fn constants(sources: &[(PathBuf, String)]) -> BTreeMap<(String, String), String> {
    let mut found = BTreeMap::new();
    for (path, text) in sources {
        if !path.ends_with("src/code.rs") {
            continue;
        }
        let of = crate_of(path);
        for line in text.lines() {
            let defined = line
                .trim()
                .strip_suffix(';')
                .and_then(|l| l.split_once(" = "));
            let Some((name, number)) = defined else {
                continue;
            };
            if let Ok(number) = number.parse::<u16>() {
                let code = format!("MM-{number:04}");
                found.insert((of.clone(), name.to_owned()), code);
            }
        }
    }
    found
}

fn crate_of(path: &Path) -> String {
    let first = path.components().next().unwrap();
    first.as_os_str().to_string_lossy().into_owned()
}

/// The codes that the tests of all sources name.
fn produced(sources: &[(PathBuf, String)]) -> BTreeSet<String> {
    let constants = constants(sources);
    assert!(constants.len() > 60, "the constants were found");
    let mut found = BTreeSet::new();
    for (path, text) in sources {
        for line in test_part(path, text).lines() {
            let line = line.split("//").next().unwrap_or_default();
            for (at, _) in line.match_indices("MM-") {
                let code = line.get(at..at + 7).unwrap_or_default();
                found.insert(code.to_owned());
            }
            for (at, _) in line.match_indices("code::") {
                let name: String = line[at + 6..]
                    .chars()
                    .take_while(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || *c == '_')
                    .collect();
                found.extend(constants.get(&(crate_of(path), name)).cloned());
            }
        }
    }
    found
}

#[test]
fn every_code_is_produced_by_a_test_or_says_why_it_is_not() {
    let sources = sources();
    let produced = produced(&sources);
    let excused: BTreeMap<&str, &str> = NOT_PRODUCED.into();
    assert_eq!(excused.len(), NOT_PRODUCED.len());
    let rows = rows();
    assert!(rows.len() > 130, "the page was read");
    let missing: Vec<&str> = rows
        .iter()
        .map(|(code, _)| code.as_str())
        .filter(|code| !produced.contains(*code) && !excused.contains_key(code))
        .collect();
    assert_eq!(missing, Vec::<&str>::new(), "no test produces these codes");
    for (code, why) in excused {
        assert!(rows.iter().any(|(row, _)| row == code), "{code} is no code");
        assert!(
            !produced.contains(code),
            "{code} is produced: excuse it no more"
        );
        assert!(why.len() > 20, "{code}: say why");
    }
}

/// Name and number of the command line's exit codes.
fn exits(sources: &[(PathBuf, String)]) -> BTreeMap<String, u8> {
    let (_, text) = sources
        .iter()
        .find(|(path, _)| path.ends_with("cli/src/failure.rs"))
        .unwrap();
    let number = |line: &str| {
        let (name, number) = line.trim().strip_suffix(',')?.split_once(" = ")?;
        Some((name.to_owned(), number.parse().ok()?))
    };
    text.lines().filter_map(number).collect()
}

#[test]
fn the_command_line_exits_with_the_documented_codes() {
    let sources = sources();
    let exits = exits(&sources);
    assert_eq!(exits.len(), 8, "{exits:?}");
    let rows: BTreeMap<String, String> = rows().into_iter().collect();
    let mut compared = BTreeSet::new();
    for (path, text) in &sources {
        if !path.starts_with("cli/src") {
            continue;
        }
        let program = text.split("#[cfg(test)]").next().unwrap_or_default();
        for (at, _) in program.match_indices("\"MM-3") {
            let code = &program[at + 1..at + 8];
            // The exit code stands right behind the code, as in `Failure::new("MM-3001", Exit::Failure, …`.
            let behind = program[at + 9..].trim_start_matches([',', ' ', '\n']);
            let Some(rest) = behind.strip_prefix("Exit::") else {
                continue;
            };
            let name: String = rest.chars().take_while(char::is_ascii_alphabetic).collect();
            let exit = format!("({})", exits[&name]);
            let row = rows
                .get(code)
                .unwrap_or_else(|| panic!("{code} is not on the page"));
            assert!(
                row.contains(&exit),
                "{}: {code} exits with {exit}, the page says: {row}",
                path.display()
            );
            compared.insert(code.to_owned());
        }
    }
    assert!(compared.len() > 50, "{compared:?}");
}
