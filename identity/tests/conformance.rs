//! The conformance page says the truth about the sources.
//!
//! It is read as it is, and compared with what the specifications have and with every test of the
//! workspace: no row is missing, no test that it names is, and no test claims a row in vain.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Each specification: how its rows are called, and how many there are with a keyword and without.
const SPECIFICATIONS: [(&str, u32, u32); 10] = [
    ("ID", 20, 6),
    ("X509", 30, 6),
    ("JWT", 20, 7),
    ("WIT", 46, 5),
    ("WLE", 25, 3),
    ("WLA", 55, 11),
    ("TDB", 21, 5),
    ("FED", 55, 6),
    ("BRE", 17, 4),
    ("BRA", 81, 5),
];
/// Decisions are numbered from A-1 to this.
const DECISIONS: u32 = 30;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn expected_rows() -> Vec<String> {
    let mut rows = Vec::new();
    for (name, numbered, extra) in SPECIFICATIONS {
        rows.extend((1..=numbered).map(|n| format!("{name}-{n:02}")));
        rows.extend((1..=extra).map(|n| format!("{name}-N{n}")));
    }
    rows
}

/// One row of the page.
struct Row {
    id: String,
    applies: bool,
    tests: BTreeSet<String>,
    status: String,
}

fn page() -> Vec<Row> {
    let text = fs::read_to_string(root().join("docs/conformance.md")).unwrap();
    text.lines().filter_map(row).collect()
}

fn row(line: &str) -> Option<Row> {
    let cells: Vec<&str> = line
        .strip_prefix("| ")?
        .strip_suffix(" |")?
        .split(" | ")
        .collect();
    let family = cells[0].split_once('-')?.0;
    if !SPECIFICATIONS.iter().any(|(name, _, _)| *name == family) {
        return None;
    }
    let [id, _rule, applies, tests, status] = cells[..] else {
        panic!("five columns: {line}");
    };
    let applies = match applies {
        "yes" => true,
        "no" => false,
        other => panic!("{id} applies {other:?}"),
    };
    // The names stand between backquotes.
    let tests = tests
        .split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect();
    let (id, status) = (id.to_owned(), status.to_owned());
    Some(Row {
        id,
        applies,
        tests,
        status,
    })
}

/// The rows that a test claims by how its name begins: `wle_n2_wla_42_the_wit…` claims WLE-N2 and
/// WLA-42.
fn claims(test: &str) -> BTreeSet<String> {
    let mut family = None;
    let mut rows = BTreeSet::new();
    for word in test.split('_') {
        let upper = word.to_uppercase();
        let digits = word.strip_prefix('n').unwrap_or(word);
        let number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        match family {
            _ if SPECIFICATIONS.iter().any(|(name, _, _)| *name == upper) => family = Some(upper),
            Some(ref family) if number => {
                rows.insert(format!("{family}-{upper}"));
            }
            _ => break,
        }
    }
    rows
}

/// Names of the tests in a source: functions that follow a `test` attribute.
fn tests_in(source: &str, found: &mut BTreeSet<String>) {
    let mut marked = false;
    for line in source.lines().map(str::trim) {
        let name = line
            .strip_prefix("async fn ")
            .or_else(|| line.strip_prefix("fn "))
            .and_then(|rest| rest.split(['(', '<']).next());
        if let Some(name) = name {
            if marked {
                found.insert(name.to_owned());
            }
            marked = false;
        } else if line == "#[test]" || line.starts_with("#[tokio::test") {
            marked = true;
        } else if !line.starts_with("#[") && !line.starts_with("//") {
            marked = false;
        }
    }
}

fn all_tests() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders: Vec<PathBuf> = fs::read_dir(root())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("Cargo.toml").is_file())
        .flat_map(|member| [member.join("src"), member.join("tests")])
        .filter(|folder| folder.is_dir())
        .collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                tests_in(&fs::read_to_string(path).unwrap(), &mut found);
            }
        }
    }
    found
}

#[test]
fn the_page_has_every_row_once_and_in_order() {
    let found: Vec<String> = page().into_iter().map(|row| row.id).collect();
    assert_eq!(found, expected_rows());
}

#[test]
fn every_row_that_applies_names_tests_that_exist_and_carry_it() {
    let tests = all_tests();
    assert!(tests.len() > 500, "the sources were found");
    for row in page() {
        assert_eq!(row.applies, !row.tests.is_empty(), "{}", row.id);
        if !row.applies {
            assert!(
                row.status.len() > 10,
                "{}: say why it does not apply",
                row.id
            );
        }
        for test in &row.tests {
            assert!(
                tests.contains(test),
                "{}: there is no test `{test}`",
                row.id
            );
            assert!(
                claims(test).contains(&row.id),
                "`{test}` does not carry {}",
                row.id
            );
        }
    }
}

#[test]
fn every_test_that_claims_a_row_is_named_by_it() {
    let page: BTreeMap<String, BTreeSet<String>> =
        page().into_iter().map(|row| (row.id, row.tests)).collect();
    for test in all_tests() {
        for id in claims(&test) {
            let row = page
                .get(&id)
                .unwrap_or_else(|| panic!("`{test}`: there is no row {id}"));
            assert!(
                row.contains(&test),
                "docs/conformance.md: {id} lacks `{test}`"
            );
        }
    }
}

#[test]
fn the_decisions_leave_no_question_open() {
    let path = root().join("docs/decisions/0003-spec-ambiguities.md");
    let text = fs::read_to_string(path).unwrap();
    for number in 1..=DECISIONS {
        let rows = text
            .lines()
            .filter(|line| line.starts_with(&format!("| A-{number} |")));
        assert_eq!(rows.count(), 1, "A-{number}");
    }
}

#[test]
fn names_claim_what_they_begin_with_and_nothing_else() {
    let claimed = |test: &str| claims(test).into_iter().collect::<Vec<_>>();
    assert_eq!(
        claimed("wla_27_28_n1_tokens_for_2"),
        ["WLA-27", "WLA-28", "WLA-N1"]
    );
    assert_eq!(
        claimed("wle_n2_wla_42_the_wit_44_profile"),
        ["WLA-42", "WLE-N2"]
    );
    assert_eq!(claimed("id_13_an_id_of_2048_bytes"), ["ID-13"]);
    assert!(claimed("a_wla_27_test").is_empty() && claimed("tls_13_only").is_empty());
    let mut found = BTreeSet::new();
    let source = "#[test]\n#[cfg(unix)]\nfn one() {\n}\nfn two() {}\n#[tokio::test(x)]\nasync fn three() {}\n#[test]\nconst X: u8 = 1;\nfn four() {}";
    tests_in(source, &mut found);
    assert_eq!(found, ["one", "three"].map(str::to_owned).into());
}
