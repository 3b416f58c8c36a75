//! Every command that prints data prints it as JSON and as YAML when it is asked to, and the two say the
//! same.

use chaos_tests::real::dev::Dev;
use serde_json::Value;

use crate::{code, complaint};

fn printed(dev: &Dev, command: &[&str], format: &str) -> String {
    let output = dev.run(&[command, &["-o", format]].concat());
    assert_eq!(code(&output), 0, "{command:?}: {}", complaint(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn json(dev: &Dev, command: &[&str]) -> Value {
    let text = printed(dev, command, "json");
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{command:?}: {e}: {text}"))
}

fn yaml(dev: &Dev, command: &[&str]) -> Value {
    let text = printed(dev, command, "yaml");
    assert!(serde_json::from_str::<Value>(&text).is_err(), "{text}");
    serde_saphyr::from_str(&text).unwrap_or_else(|e| panic!("{command:?}: {e}: {text}"))
}

/// The names of all fields, at any depth.
fn fields(value: &Value, into: &mut std::collections::BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                into.insert(name.clone());
                fields(value, into);
            }
        }
        Value::Array(array) => array.iter().for_each(|value| fields(value, into)),
        _ => {}
    }
}

#[test]
fn every_command_prints_json_and_yaml_that_say_the_same() {
    // Nothing is renewed meanwhile.
    let dev = Dev::start(&["--x509-ttl", "1h"]);
    let endpoints = dev.endpoints();
    let id = endpoints.workload_spiffe_id.as_str();
    let entry = json(&dev, &["entry", "list", "--spiffe-id", id])[0]["id"].clone();
    let agent = json(&dev, &["agent", "list"])[0]["id"].clone();
    let (entry, agent) = (entry.as_str().unwrap(), agent.as_str().unwrap());
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name).to_str().unwrap().to_owned();
    let (tls, svid) = (at("tls"), at("tls/svid.0.pem"));
    json(&dev, &["x509", "fetch", "--write", &tls]);
    let bundle = endpoints.bundle.to_str().unwrap();
    let token = json(&dev, &["jwt", "fetch", "--audience", "reports"])[0]["token"].clone();
    let token = token.as_str().unwrap();

    let same: [&[&str]; 12] = [
        &["agent", "list"],
        &["agent", "show", agent],
        &["bundle", "show"],
        &["bundle", "show", "--format", "spiffe"],
        &["entry", "count"],
        &["entry", "list"],
        &["entry", "show", entry],
        &["jwt", "validate", "--audience", "reports", token],
        &["version"],
        &["x509", "fetch"],
        &["x509", "inspect", &svid],
        &["x509", "verify", &svid, "--bundle", bundle],
    ];
    for command in same {
        assert_eq!(json(&dev, command), yaml(&dev, command), "{command:?}");
    }
    // What may be different each time has the same fields.
    let names = |value: Value| {
        let mut names = std::collections::BTreeSet::new();
        fields(&value, &mut names);
        assert!(!names.is_empty());
        names
    };
    let mint = format!("spiffe://{}/ops", endpoints.trust_domain);
    let (file, minted) = (at("token"), at("minted"));
    let alike: [&[&str]; 12] = [
        &["audit", "verify"],
        &["authority", "list"],
        &["cluster", "authorities"],
        &["cluster", "status"],
        &["explain", "--spiffe-id", id],
        &["jwt", "fetch", "--audience", "reports"],
        &["jwt", "mint", "--spiffe-id", &mint, "--audience", "reports"],
        &["token", "generate"],
        &["token", "generate", "--write", &file],
        &["token", "server"],
        &["x509", "mint", "--spiffe-id", &mint],
        &["x509", "mint", "--spiffe-id", &mint, "--write", &minted],
    ];
    for command in alike {
        let (json, yaml) = (names(json(&dev, command)), names(yaml(&dev, command)));
        assert_eq!(json, yaml, "{command:?}");
    }
    let denied = json(&dev, &["agent", "ban", agent]);
    assert_eq!(denied, serde_json::json!({"banned": agent}));
    let denied = yaml(&dev, &["agent", "evict", agent]);
    assert_eq!(denied, serde_json::json!({"evicted": agent}));
}

#[test]
fn the_end_of_the_log_is_as_long_as_asked() {
    let dev = Dev::start(&["--x509-ttl", "1h"]);
    let tail = |flags: &[&str]| -> Vec<u64> {
        let text = printed(&dev, &[&["audit", "tail"], flags].concat(), "json");
        let leaves = text.lines().map(|line| {
            let leaf: Value = serde_json::from_str(line).unwrap();
            leaf["index"].as_u64().unwrap()
        });
        leaves.collect()
    };
    let all = tail(&["--from", "0"]);
    let end = |count: usize| all.split_at(all.len() - count).1.to_vec();
    assert_eq!(tail(&["--limit", "3"]), end(3));
    assert_eq!(tail(&["--limit", "1"]), end(1));
    assert_eq!(tail(&["--limit", "5000"]), all, "there are no more");
    assert_eq!(tail(&["--from", "2", "--limit", "3"]), [2, 3, 4]);
    assert_eq!(
        tail(&["--follow", "--from", "2", "--limit", "3"]),
        [2, 3, 4]
    );
    let refused = dev.run(&["audit", "tail", "--limit", "0"]);
    assert_eq!(code(&refused), 2, "nothing is no end of the log");

    // The next leaf, and not one of those that are there.
    let next = dev.command(&["audit", "tail", "--follow", "--limit", "1", "-o", "json"]);
    let mut next = { next }
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let status = chaos_tests::real::wait::until("a new leaf", crate::PATIENCE, || {
        dev.json(&["token", "generate"]);
        next.try_wait().unwrap()
    });
    assert!(status.success());
    let shown = next.wait_with_output().unwrap().stdout;
    let shown: Value = serde_json::from_slice(&shown).unwrap();
    assert!(
        shown["index"].as_u64().unwrap() > *all.last().unwrap(),
        "{shown}"
    );
}
