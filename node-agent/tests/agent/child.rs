//! This test binary as another process: a workload of its own.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
};

use mintmark_proto::spiffe::workload::{
    X509svidRequest, spiffe_workload_api_client::SpiffeWorkloadApiClient,
};

use crate::harness::{header, next, unix_channel, within};

const SOCKET: &str = "MINTMARK_TEST_CHILD_SOCKET";
const ACT: &str = "MINTMARK_TEST_CHILD_ACT";

/// A command that runs this binary (or a link to it) as a workload.
pub fn command(executable: &Path, act: &str, socket: &Path) -> Command {
    let mut command = Command::new(executable);
    command
        .args(["child::acts", "--exact", "--nocapture", "--test-threads=1"])
        .env(SOCKET, socket)
        .env(ACT, act)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    command
}

/// Runs a workload to its end and returns the lines it said.
pub async fn say(mut command: Command) -> Vec<String> {
    let run = tokio::task::spawn_blocking(move || command.output().unwrap());
    let output = within(run).await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .filter_map(|line| line.split_once("child says "))
        .map(|(_, said)| said.to_owned())
        .collect()
}

/// A process that does nothing until it is killed.
pub fn idle() -> Child {
    Command::new("sleep")
        .arg("600")
        .stdin(Stdio::null())
        .spawn()
        .unwrap()
}

/// Does what the environment says; as a test of its own it does nothing.
#[tokio::test]
async fn acts() {
    let (Some(socket), Some(act)) = (std::env::var_os(SOCKET), std::env::var_os(ACT)) else {
        return;
    };
    let socket = std::path::PathBuf::from(socket);
    match act.to_str().unwrap() {
        "fetch" => {
            let channel = unix_channel(socket);
            let mut client = SpiffeWorkloadApiClient::with_interceptor(channel, header());
            match client.fetch_x509svid(X509svidRequest {}).await {
                Err(status) => println!("child says {:?}", status.code()),
                Ok(stream) => match next(&mut stream.into_inner()).await {
                    Err(status) => println!("child says {:?}", status.code()),
                    Ok(response) => {
                        for svid in response.svids {
                            println!("child says {}", svid.spiffe_id);
                        }
                    }
                },
            }
        }
        "connect and exit" => {
            let _connected = std::os::unix::net::UnixStream::connect(socket).unwrap();
        }
        other => panic!("unknown act {other}"),
    }
}
