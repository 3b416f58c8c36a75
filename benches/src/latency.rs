//! Times that a person or a deployment waits for.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use chaos_tests::real::binary;
use chaos_tests::real::dev::Dev;
use mintmark_workload_api::client::Client;
use mintmark_workload_api::client::x509::X509Stream;
use mintmark_workload_api::endpoint::Endpoint;

/// From the start of `mintmark dev` to the moment that a command with an identity may run.
pub fn first_svid(arguments: &[&str]) -> Duration {
    let program = binary::mintmark();
    let started = Instant::now();
    let status = Command::new(program)
        .arg("dev")
        .args(arguments)
        .args(["--exec", "--", "true"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    // Includes stopping the cluster; see `first_svid_ready` for the time without.
    started.elapsed()
}

/// The same, measured by the command that runs: its start is the moment.
pub fn first_svid_ready(arguments: &[&str]) -> Duration {
    let directory = tempfile::tempdir().unwrap();
    let mark = directory.path().join("mark");
    // It is built when it is not there.
    let program = binary::mintmark();
    let started = Instant::now();
    let wall = std::time::SystemTime::now();
    let status = Command::new(program)
        .arg("dev")
        .args(arguments)
        .args(["--exec", "--", "touch"])
        .arg(&mark)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    let touched = std::fs::metadata(&mark).unwrap().modified().unwrap();
    touched
        .duration_since(wall)
        .unwrap_or_else(|_| started.elapsed())
}

/// On a stream that was open before: from the request to create an entry to its SVID, and from the
/// request to delete it to an update without it.
pub async fn entry_to_stream(dev: &Dev, rounds: usize) -> (Vec<Duration>, Vec<Duration>) {
    let endpoints = dev.endpoints();
    let endpoint: Endpoint = endpoints.workload_socket.parse().unwrap();
    let mut client = Client::connect(&endpoint).await.unwrap();
    let mut stream = client.watch_x509().await.unwrap();
    stream.next().await.unwrap();
    let uid = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap());
    let mut entries = crate::issuance::entry_client(&endpoints.servers[0].admin_socket);
    let (mut created, mut deleted) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let id = format!("spiffe://{}/latency/{round}", endpoints.trust_domain);
        let started = Instant::now();
        let entry = crate::issuance::create_entry(
            &mut entries,
            &id,
            &format!("spiffe://{}/node/dev", endpoints.trust_domain),
            &format!("unix:uid:{uid}"),
        )
        .await;
        until(&mut stream, &id, true).await;
        created.push(started.elapsed());
        // Every second one stays, so that the stream carries more and more.
        if round % 2 == 0 {
            let started = Instant::now();
            crate::issuance::delete_entry(&mut entries, &entry).await;
            until(&mut stream, &id, false).await;
            deleted.push(started.elapsed());
        }
    }
    (created, deleted)
}

/// Reads updates until one has this identity, or has it no more.
async fn until(stream: &mut X509Stream, id: &str, present: bool) {
    loop {
        let update = stream.next().await.unwrap();
        let mut all = update.identities.iter();
        if all.any(|identity| identity.spiffe_id.as_str() == id) == present {
            return;
        }
    }
}
