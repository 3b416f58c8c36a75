//! Every command that this repository names exists: in error messages and comments, in documents, and in
//! the examples of `--help`. Commands are parsed, never run.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser as _};

use super::Cli;

/// Folders and files whose text may name commands.
const SOURCES: [&str; 13] = [
    "benches",
    "ca-server/src",
    "cli/src",
    "identity/src",
    "node-agent/src",
    "runtime/src",
    "tlog/src",
    "workload-api/src",
    "docs",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "README.md",
    "SECURITY.md",
];
const NAME: &str = "mintmark ";
/// Ends a command in prose, in a string or in a shell.
const ENDS: [&str; 11] = [
    "`", "\"", "\n", "\\n", "|", "&&", ";", ")", ">", " #", "   ",
];

/// A command as it stands somewhere.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Mention {
    place: String,
    words: Vec<String>,
}

impl Mention {
    fn parse(&self) -> Result<(), clap::Error> {
        Cli::try_parse_from(
            std::iter::once("mintmark").chain(self.words.iter().map(String::as_str)),
        )
        .map(drop)
    }

    /// What is wrong with it. In prose a command may stand without what it needs, as a name.
    fn fault(&self, complete: bool) -> Option<String> {
        let error = self.parse().err()?;
        let is_a_name = matches!(
            error.kind(),
            ErrorKind::DisplayHelp
                | ErrorKind::DisplayVersion
                | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
                | ErrorKind::MissingSubcommand
                | ErrorKind::MissingRequiredArgument
        );
        (complete || !is_a_name).then(|| format!("{}: {:?}\n{error}", self.place, self.words))
    }
}

/// All commands in a text. A line that ends in a backslash goes on.
fn mentions(place: &str, text: &str) -> Vec<Mention> {
    let mut joined = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let mut line = line.to_owned();
        while let Some(before) = line.strip_suffix('\\') {
            let before = before.trim_end_matches('\\').to_owned();
            line = before + " " + lines.next().unwrap_or_default().trim_start();
        }
        // `cargo run -p mintmark -- dev` runs `mintmark dev`.
        joined.push_str(&line.replace("mintmark -- ", NAME));
        joined.push('\n');
    }
    let places = joined.match_indices(NAME);
    let commands = places.filter_map(|(at, _)| {
        let before = joined[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || "-_./".contains(c)) {
            return None;
        }
        let rest = &joined[at + NAME.len()..];
        rest.starts_with(|c: char| c.is_ascii_lowercase())
            .then(|| words(rest))
    });
    commands
        .map(|words| Mention {
            place: place.to_owned(),
            words,
        })
        .collect()
}

fn words(rest: &str) -> Vec<String> {
    let end = ENDS.iter().filter_map(|end| rest.find(end)).min();
    let command = &rest[..end.unwrap_or(rest.len())];
    let words = command.split_whitespace();
    words
        .map(|word| word.trim_matches(|c| "\\\"'".contains(c)))
        // Something that is left to the reader.
        .filter(|word| *word != "…")
        .map(|word| match word {
            "PID" | "$$" => "1".to_owned(),
            word => word.replace("{}", "x"),
        })
        .collect()
}

fn texts(path: &Path, found: &mut Vec<PathBuf>) {
    if path.is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            texts(&entry.unwrap().path(), found);
        }
    } else if path.extension().is_some_and(|e| e == "rs" || e == "md") {
        found.push(path.to_owned());
    }
}

/// The tests of this file name commands that do not exist.
const THIS_FILE: &str = "mentions.rs";

#[test]
#[expect(clippy::disallowed_methods, reason = "tests")]
fn every_command_that_is_named_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files = Vec::new();
    for source in SOURCES {
        texts(&root.join(source), &mut files);
    }
    let mut named = BTreeSet::new();
    let mut faults = Vec::new();
    for file in files.iter().filter(|file| !file.ends_with(THIS_FILE)) {
        let text = std::fs::read_to_string(file).unwrap();
        for mention in mentions(&file.display().to_string(), &text) {
            faults.extend(mention.fault(false));
            named.insert(mention.words);
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(named.len() > 80, "{} commands were found", named.len());
    for known in ["token generate", "cluster authorities", "dev --servers 3"] {
        let words: Vec<String> = known.split(' ').map(str::to_owned).collect();
        assert!(named.contains(&words), "{known} was not found");
    }
}

fn examples(command: &clap::Command, path: &str, faults: &mut Vec<String>, count: &mut usize) {
    let help = command.get_after_help().map(ToString::to_string);
    for mention in mentions(path, &help.unwrap_or_default()) {
        *count += 1;
        faults.extend(mention.fault(true));
    }
    for inner in command.get_subcommands() {
        examples(
            inner,
            &format!("{path} {}", inner.get_name()),
            faults,
            count,
        );
    }
}

#[test]
fn every_example_of_the_help_can_be_given_as_it_stands() {
    let (mut faults, mut count) = (Vec::new(), 0);
    examples(&Cli::command(), "mintmark", &mut faults, &mut count);
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(count > 40, "{count} examples were found");
}

#[test]
fn a_command_is_found_wherever_it_stands() {
    let all = |text| -> Vec<String> {
        let found = mentions("", text);
        found.iter().map(|one| one.words.join(" ")).collect()
    };
    assert_eq!(all("see `mintmark ca list`."), ["ca list"]);
    assert_eq!(all("run: mintmark explain --pid $$\n"), ["explain --pid 1"]);
    assert_eq!(
        all("T=$(mintmark token generate -o json | jq -r .token)"),
        ["token generate -o json"]
    );
    assert_eq!(
        all("mintmark entry create \\\\\n      --hint x    # why"),
        ["entry create --hint x"]
    );
    assert_eq!(all("-p mintmark -- dev --servers 3"), ["dev --servers 3"]);
    assert!(all("Mintmark gives; cd mintmark && ls; not-mintmark x").is_empty());
}

#[test]
fn what_does_not_exist_is_told_from_what_is_only_named() {
    let fault = |command: &str, complete| {
        let [mention] = &mentions("", command)[..] else {
            panic!("{command}");
        };
        mention.fault(complete).is_some()
    };
    for wrong in [
        "mintmark ca list",
        "mintmark audit prove",
        "mintmark dev --server 3",
        "mintmark explain --pid never",
    ] {
        assert!(fault(wrong, false), "{wrong}");
    }
    assert!(!fault("mintmark x509 verify", false), "a name");
    assert!(fault("mintmark x509 verify", true), "no example");
    assert!(!fault("mintmark x509 inspect svid.0.pem", true));
}
