//! `docs/configuration.md` names every key that the daemons know, no other, and true defaults.
//!
//! The keys are asked of the parsers themselves: a key that does not exist is refused with those that do.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use mintmark_identity::validity::TtlPolicy;
use mintmark_proto::mintmark::state::v1::PqMode;
use mintmark_runtime::config::{ConfigError, ConfigFormat, parse};
use serde::de::DeserializeOwned;

/// A key that no daemon has.
const NO_KEY: &str = "no_such_key";

fn parsed<T: DeserializeOwned>(text: &str) -> Result<T, ConfigError> {
    parse(text, ConfigFormat::Toml, Path::new("test.toml"))
}

/// The keys below a key; `None` when it is a value.
fn below<T: DeserializeOwned>(key: &str) -> Option<Vec<String>> {
    let texts = if key.is_empty() {
        vec![format!("{NO_KEY} = 1")]
    } else {
        let table = format!("[{key}]\n{NO_KEY} = 1");
        vec![table, format!("[[{key}]]\n{NO_KEY} = 1")]
    };
    texts.iter().find_map(|text| match parsed::<T>(text) {
        Err(ConfigError::UnknownKey { key, known, .. }) if key.ends_with(NO_KEY) => Some(known),
        _ => None,
    })
}

/// Every key that has a value, with the path to it.
fn keys<T: DeserializeOwned>() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut open = vec![String::new()];
    while let Some(outer) = open.pop() {
        for inner in below::<T>(&outer).expect("a table") {
            let key = match outer.as_str() {
                "" => inner,
                outer => format!("{outer}.{inner}"),
            };
            if below::<T>(&key).is_some() {
                open.push(key);
            } else {
                found.insert(key);
            }
        }
    }
    found
}

/// The documented keys of a daemon, each with its default where one is written as a value.
fn documented(heading: &str) -> BTreeMap<String, Option<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    let page = std::fs::read_to_string(path).unwrap();
    let (_, section) = page.split_once(&format!("\n## {heading}\n")).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let mut found = BTreeMap::new();
    for line in section.lines() {
        let cells: Vec<&str> = line.split(" | ").collect();
        let Some(first) = cells[0].strip_prefix("| `") else {
            continue;
        };
        let names = names(&format!("`{first}"));
        let defaults = values(cells[1], names.len());
        for (name, default) in names.into_iter().zip(defaults) {
            let twice = found.insert(name.clone(), default);
            assert!(twice.is_none(), "{name} is documented twice");
        }
    }
    found
}

/// The keys of a first cell: `` `a`, `b.c` ``, or `` `[[table]]` `key` ``.
fn names(cell: &str) -> Vec<String> {
    let quoted: Vec<&str> = cell.split('`').skip(1).step_by(2).collect();
    let table = quoted[0]
        .strip_prefix("[[")
        .and_then(|rest| rest.strip_suffix("]]"));
    match table {
        Some(table) => quoted[1..]
            .iter()
            .map(|key| format!("{table}.{key}"))
            .collect(),
        None => quoted.into_iter().map(str::to_owned).collect(),
    }
}

/// One value for each key, when the cell holds nothing but values: numbers, or words in backquotes.
fn values(cell: &str, count: usize) -> Vec<Option<String>> {
    let value = |part: &str| {
        let quoted = part.strip_prefix('`')?.strip_suffix('`')?;
        (!quoted.contains('`')).then(|| quoted.to_owned())
    };
    let number = |part: &str| part.parse::<u64>().ok().map(|number| number.to_string());
    let parts: Vec<&str> = cell.trim().split(", ").collect();
    let read: Option<Vec<String>> = parts
        .iter()
        .map(|part| value(part).or_else(|| number(part)))
        .collect();
    match read {
        Some(read) if read.len() == count => read.into_iter().map(Some).collect(),
        _ => vec![None; count],
    }
}

/// A value as TOML has it.
fn literal(value: &str) -> String {
    if value.parse::<u64>().is_ok() || ["true", "false"].contains(&value) {
        value.to_owned()
    } else {
        format!("\"{value}\"")
    }
}

/// Each documented default, written out, leads to the same configuration as its absence.
fn check_defaults(
    documented: &BTreeMap<String, Option<String>>,
    base: &str,
    effective: impl Fn(&str) -> String,
) -> usize {
    let without = effective(base);
    let mut compared = 0;
    for (key, default) in documented {
        let Some(default) = default else { continue };
        let with = effective(&format!("{key} = {}\n{base}", literal(default)));
        assert_eq!(with, without, "{key} = {default} is not the default");
        compared += 1;
    }
    compared
}

fn server(text: &str) -> String {
    let raw: ca_server::config::RawConfig =
        parsed(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let mut config = raw
        .check(&|_| None)
        .unwrap_or_else(|error| panic!("{error}\n{text}"));
    // What a new cluster makes of what the file does not say.
    let ttl = TtlPolicy::resolve(std::mem::take(&mut config.ttl)).unwrap();
    config.pq = Some(config.pq.unwrap_or(PqMode::Off));
    format!("{config:?} {ttl:?}")
}

#[test]
fn every_key_of_the_server_is_documented_with_its_default() {
    let documented = documented("Server");
    let known = keys::<ca_server::config::RawConfig>();
    assert!(known.contains("audit.file.path"), "{known:?}");
    assert_eq!(documented.keys().cloned().collect::<BTreeSet<_>>(), known);
    let base = "trust_domain = \"example.org\"\ndata_dir = \"/data\"\n\
                listen.advertise_api = \"a:1\"\nlisten.advertise_peer = \"a:2\"\n";
    let compared = check_defaults(&documented, base, server);
    assert!(compared >= 10, "{compared}: {documented:?}");
}

fn agent(text: &str) -> String {
    let raw = parsed(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let config = node_agent::Config::check(raw, None);
    format!(
        "{:?}",
        config.unwrap_or_else(|error| panic!("{error}\n{text}"))
    )
}

#[test]
fn every_key_of_the_agent_is_documented_with_its_default() {
    let documented = documented("Agent");
    let known = keys::<node_agent::config::RawConfig>();
    assert!(known.contains("limits.x509_svids"), "{known:?}");
    assert_eq!(documented.keys().cloned().collect::<BTreeSet<_>>(), known);
    let base = "trust_domain = \"example.org\"\nserver_addresses = [\"a:1\"]\n\
                data_dir = \"/data\"\nkeys_dir = \"/keys\"\nsocket_path = \"/public.sock\"\n\
                admin_socket_path = \"/private.sock\"\n";
    let compared = check_defaults(&documented, base, agent);
    assert!(compared >= 10, "{compared}: {documented:?}");
}
