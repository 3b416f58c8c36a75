//! P7: the audit log of a real server, verified by a program that shares nothing with it: leaves, tree,
//! signed checkpoints and inclusion proofs (`audit_proof/verify_log.py`, with PyPI `cryptography`).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests"
)]

use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use chaos_tests::real::dev::Dev;
use chaos_tests::real::venv::Venv;
use chaos_tests::real::wait;
use mintmark_proto::mintmark::audit::v1::audit_client::AuditClient;
use mintmark_proto::mintmark::audit::v1::{
    GetCheckpointRequest, GetCheckpointResponse, GetInclusionProofRequest, GetLogInfoRequest,
    TailRequest,
};
use mintmark_runtime::Host;
use mintmark_runtime::grpc::{ChannelOptions, Target, channel};
use serde_json::{Value, json};
use tonic::transport::Channel;

const PATIENCE: Duration = Duration::from_secs(90);

type Client = AuditClient<Channel>;

/// The last checkpoint, once it covers more than so many leaves.
async fn checkpoint_beyond(client: &mut Client, size: u64) -> GetCheckpointResponse {
    let waiting = async {
        loop {
            let last = client.get_checkpoint(GetCheckpointRequest {}).await;
            match last.map(tonic::Response::into_inner) {
                Ok(last) if last.size > size => return last,
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    let found = tokio::time::timeout(PATIENCE, waiting).await;
    found.expect("a checkpoint is signed")
}

/// The canonical bytes of the first leaves.
async fn leaves(client: &mut Client, count: u64) -> Vec<Vec<u8>> {
    let asked = TailRequest {
        limit: count,
        ..TailRequest::default()
    };
    let mut stream = client.tail(asked).await.unwrap().into_inner();
    let mut leaves = Vec::new();
    while let Some(chunk) = stream.message().await.unwrap() {
        leaves.extend(chunk.leaves);
    }
    leaves.truncate(usize::try_from(count).unwrap());
    leaves
}

/// Every leaf's proof in the tree of a size.
async fn proofs(client: &mut Client, size: u64) -> Vec<Value> {
    let mut proofs = Vec::new();
    for leaf in 0..size {
        let asked = GetInclusionProofRequest {
            leaf_index: leaf,
            tree_size: size,
        };
        let proof = client.get_inclusion_proof(asked).await.unwrap();
        let proof = proof.into_inner();
        assert_eq!(proof.tree_size, size);
        proofs.push(json!({
            "leaf": leaf,
            "size": size,
            "hashes": proof.hashes.iter().map(hex::encode).collect::<Vec<_>>(),
            "root": hex::encode(proof.root),
        }));
    }
    proofs
}

/// Leaves of many kinds: entries, tokens, attestations, SVIDs of both kinds, a denial.
fn make_history(dev: &Dev) {
    let endpoints = dev.endpoints();
    let id = format!("spiffe://{}/audited", endpoints.trust_domain);
    let create = [
        "entry",
        "create",
        "--parent-id",
        &endpoints.node_alias(),
        "--spiffe-id",
        &id,
        "--selector",
        "unix:uid:4242",
    ];
    let made = dev.json(&create);
    assert!(!dev.run(&create).status.success(), "it exists already");
    dev.json(&["entry", "delete", made["id"].as_str().unwrap()]);
    dev.json(&["x509", "mint", "--spiffe-id", &id]);
    dev.json(&["jwt", "fetch", "--audience", "reports"]);
    dev.json(&["token", "generate"]);
}

fn lines(text: &str, count: usize) -> Vec<Value> {
    let lines = text.lines().take(count);
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_log_verifies_with_other_tools_and_its_public_key_alone() {
    let venv = Venv::with("x509", &["cryptography==50.0.2", "pkilint==0.13.3"]);
    let dev = Dev::start(&[]);
    let socket = dev.endpoints().servers[0].admin_socket.clone();
    let options = ChannelOptions::default();
    let channel = channel(Host::os().network, Target::Unix(socket), options);
    let mut client = AuditClient::new(channel);
    let vkey = client.get_log_info(GetLogInfoRequest {}).await.unwrap();
    let vkey = vkey.into_inner().vkey;

    let first = checkpoint_beyond(&mut client, 0).await;
    make_history(&dev);
    let second = checkpoint_beyond(&mut client, first.size + 4).await;
    let count = usize::try_from(second.size).unwrap();
    let canonical = leaves(&mut client, second.size).await;
    let tail = dev.run(&["audit", "tail", "--from", "0", "-o", "json"]);
    let documents = lines(&String::from_utf8(tail.stdout).unwrap(), count);
    // The copy on disk has the same, line by line.
    let copy = wait::until("the copy has every leaf", PATIENCE, || {
        let text = std::fs::read_to_string(dev.directory().join("audit.jsonl")).unwrap();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        (whole.lines().count() >= count).then(|| lines(whole, count))
    });
    assert_eq!(copy, documents);

    let mut all = proofs(&mut client, first.size).await;
    all.extend(proofs(&mut client, second.size).await);
    let given = json!({
        "vkey": vkey,
        "leaves": canonical.iter().map(hex::encode).collect::<Vec<_>>(),
        "documents": documents,
        "checkpoints": [first.note, second.note],
        "proofs": all,
    });
    let seen = verified(&venv, &given).unwrap_or_else(|said| panic!("{said}"));
    assert_eq!(seen["leaves"], second.size);
    assert_eq!(seen["checkpoints"], 2);
    assert_eq!(seen["proofs"], first.size + second.size);

    // A log that was rewritten does not.
    let mut rewritten = given.clone();
    let leaves = rewritten["leaves"].as_array_mut().unwrap();
    leaves.swap(0, 1);
    assert!(verified(&venv, &rewritten).is_err());
}

/// What the other program says, or its complaint.
fn verified(venv: &Venv, given: &Value) -> Result<Value, String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/audit_proof/verify_log.py");
    let mut child = venv
        .python()
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(given.to_string().as_bytes()).unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    if output.status.success() {
        Ok(serde_json::from_slice(&output.stdout).unwrap())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}
