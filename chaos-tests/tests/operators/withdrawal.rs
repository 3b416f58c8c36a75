//! An authority whose key others may know is withdrawn: tainted, replaced, revoked.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Output;

use chaos_tests::real::dev::Dev;
use chaos_tests::real::wait;
use serde_json::Value;

use crate::{PATIENCE, code, complaint, refused};

fn listed(dev: &Dev, id: &str) -> Value {
    let all = dev.json(&["authority", "list"]);
    let mut all = all.as_array().unwrap().iter();
    let found = all.find(|one| one["id"] == id).cloned();
    found.unwrap_or_else(|| panic!("authority {id} is listed"))
}

fn active(dev: &Dev, kind: &str) -> String {
    let all = dev.json(&["authority", "list"]);
    let is_it = |one: &&Value| one["kind"] == kind && one["state"] == "active";
    let found = all.as_array().unwrap().iter().find(is_it);
    found.unwrap()["id"].as_str().unwrap().to_owned()
}

/// Asks for the workload's SVID and writes it below `into`; which authority signed it.
fn fetched(dev: &Dev, into: &Path) -> String {
    let files = into.to_str().unwrap();
    let svids = dev.json(&["x509", "fetch", "--write", files]);
    svids[0]["authority_id"].as_str().unwrap().to_owned()
}

fn verified(dev: &Dev, svid: &Path) -> Output {
    let (svid, bundle) = (svid.join("svid.0.pem"), dev.endpoints().bundle);
    let (svid, bundle) = (svid.to_str().unwrap(), bundle.to_str().unwrap());
    dev.run(&["x509", "verify", svid, "--bundle", bundle])
}

/// How many leaves say that an operator at the private socket did this.
fn accepted_leaves(dev: &Dev, action: &str, subject: &str) -> usize {
    let log = dev.run(&["audit", "tail", "--from", "0", "-o", "json"]);
    let log = String::from_utf8(log.stdout).unwrap();
    let leaves = log
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let says = |leaf: &Value, field: &str, what: &str| leaf[field] == what;
    leaves
        .filter(|leaf| {
            says(leaf, "action", action)
                && says(leaf, "subject", subject)
                && says(leaf, "decision", "accepted")
                && says(leaf, "actor", "local")
        })
        .count()
}

#[test]
fn a_withdrawn_authority_is_replaced_under_a_workload_and_then_believed_by_nobody() {
    // Nothing is renewed because it is due.
    let dev = Dev::start(&["--servers", "3", "--x509-ttl", "1h"]);
    let scratch = tempfile::tempdir().unwrap();
    let (before, after) = (scratch.path().join("before"), scratch.path().join("after"));
    let first = fetched(&dev, &before);
    assert_eq!(active(&dev, "x509"), first);
    refused(&dev, &["authority", "revoke", &first], 6, "MM-1215");
    refused(&dev, &["authority", "taint", "none"], 3, "MM-1203");

    let tainted = dev.json(&["authority", "taint", &first]);
    assert_eq!(
        (&tainted["id"], &tainted["tainted"]),
        (&Value::from(&*first), &Value::from(true))
    );
    refused(&dev, &["authority", "taint", &first], 6, "MM-1214");
    let second = wait::until("the workload has an SVID of another", PATIENCE, || {
        let signed_by = fetched(&dev, &after);
        (signed_by != first).then_some(signed_by)
    });
    assert_eq!(active(&dev, "x509"), second);
    let stands = listed(&dev, &first);
    assert_eq!(
        (&stands["state"], &stands["tainted"]),
        (&Value::from("old"), &Value::from(true))
    );
    assert_eq!(
        code(&verified(&dev, &before)),
        0,
        "until it is revoked nothing breaks"
    );

    let revoked = dev.json(&["authority", "revoke", &first]);
    assert_eq!(revoked["state"], "revoked");
    refused(&dev, &["authority", "revoke", &first], 6, "MM-1214");
    wait::until("what it signed does not verify any more", PATIENCE, || {
        (code(&verified(&dev, &before)) == 8).then_some(())
    });
    let verified = verified(&dev, &after);
    assert_eq!(code(&verified), 0, "{}", complaint(&verified));

    // The agent's own SVID was of the first one too. It goes on.
    let endpoints = dev.endpoints();
    let uid = std::fs::metadata(&before).unwrap().uid();
    let alias = endpoints.node_alias();
    let id = format!("spiffe://{}/later", endpoints.trust_domain);
    let selector = format!("unix:uid:{uid}");
    let entry = [
        "--parent-id",
        &alias,
        "--spiffe-id",
        &id,
        "--selector",
        &selector,
    ];
    dev.json(&[&["entry", "create"][..], &entry].concat());
    wait::until("a new entry has an SVID", PATIENCE, || {
        let svids = dev.json(&["x509", "fetch"]);
        let mut svids = svids.as_array().unwrap().iter();
        svids
            .any(|svid| svid["spiffe_id"] == *id && svid["authority_id"] == *second)
            .then_some(())
    });

    for action in ["authority.taint", "authority.revoke"] {
        assert_eq!(accepted_leaves(&dev, action, &first), 1, "{action}");
    }
}

#[test]
fn tokens_of_a_withdrawn_authority_are_not_accepted_any_more() {
    let dev = Dev::start(&[]);
    let token = || {
        let token = dev.json(&["jwt", "fetch", "--audience", "reports"])[0]["token"].clone();
        token.as_str().unwrap().to_owned()
    };
    let validate = |token: &str| dev.run(&["jwt", "validate", "--audience", "reports", token]);
    let (before, first) = (token(), active(&dev, "jwt"));
    assert_eq!(code(&validate(&before)), 0);

    let says = |arguments: &[&str], what: &str| {
        let output = dev.run(arguments);
        assert_eq!(code(&output), 0, "{}", complaint(&output));
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains(what), "{text}");
    };
    // The next step stands where a person looks.
    says(
        &["authority", "taint", &first],
        &format!("mintmark authority revoke {first}"),
    );
    wait::until("another authority signs tokens", PATIENCE, || {
        (listed(&dev, &first)["state"] == "old").then_some(())
    });
    says(&["authority", "list"], "old tainted");
    says(&["authority", "revoke", &first], "mintmark bundle show");
    wait::until("the agent refuses the token", PATIENCE, || {
        let refused = validate(&before);
        (code(&refused) == 8).then(|| complaint(&refused))
    });
    assert_ne!(active(&dev, "jwt"), first);
    let after = validate(&token());
    assert_eq!(code(&after), 0, "{}", complaint(&after));
}

#[test]
fn an_operator_prepares_an_authority_and_another_one_is_not_prepared_beside_it() {
    let dev = Dev::start(&["--x509-ttl", "1h"]);
    let made = dev.json(&["authority", "prepare", "x509"]);
    let id = made["authority_id"].as_str().unwrap();
    assert_eq!(listed(&dev, id)["kind"], "x509");
    refused(&dev, &["authority", "prepare", "x509"], 6, "MM-1313");
    // It has signed nothing: tainted, it is given up without anybody asking.
    dev.json(&["authority", "taint", id]);
    wait::until("it is given up", PATIENCE, || {
        (listed(&dev, id)["state"] == "retired").then_some(())
    });
}
