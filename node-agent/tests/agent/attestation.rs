//! The unix attestor on real processes.

use std::{
    io::Read,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use mintmark_identity::selector::Selector;
use mintmark_runtime::{
    Host,
    network::{Peer as NetworkPeer, UnixMode},
    unix::{Liveness, Peer},
};
use node_agent::workload::{
    Workloads,
    attestor::{AttestError, WorkloadAttestor},
    procfs::{Account, FileId, Ids, OsProc, Proc},
    unix::{UnixAttestor, UnixOptions},
};
use sha2::Digest;

use crate::{
    child,
    harness::{my_uid, within},
};

fn attestor(options: UnixOptions) -> UnixAttestor {
    let disk = Host::os().disk;
    UnixAttestor::new(Arc::clone(&disk), Arc::new(OsProc::new(disk)), options)
}

fn selector(text: String) -> Selector {
    Selector::parse(&text).unwrap()
}

#[tokio::test]
async fn a_process_has_its_user_groups_path_and_hash() {
    let mut process = child::idle();
    let found = attestor(UnixOptions::default())
        .attest(process.id())
        .await
        .unwrap();
    let path = std::fs::read_link(format!("/proc/{}/exe", process.id())).unwrap();
    let hash = hex::encode(sha2::Sha256::digest(std::fs::read(&path).unwrap()));
    let gid = nix::unistd::getegid().as_raw();
    let mut expected = vec![
        format!("unix:uid:{}", my_uid()),
        format!("unix:gid:{gid}"),
        format!("unix:path:{}", path.display()),
        format!("unix:sha256:{hash}"),
    ];
    if let Some(user) = nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap() {
        expected.push(format!("unix:user:{}", user.name));
    }
    for group in nix::unistd::getgroups().unwrap() {
        expected.push(format!("unix:supplementary_gid:{group}"));
    }
    for text in expected {
        assert!(
            found.selectors.contains(&selector(text.clone())),
            "{text}: {found:?}"
        );
    }
    process.kill().unwrap();
    process.wait().unwrap();
    let gone = attestor(UnixOptions::default())
        .attest(process.id())
        .await
        .unwrap_err();
    assert_eq!(gone, AttestError::Gone);
}

#[tokio::test]
async fn a_large_executable_is_not_hashed_and_that_is_said() {
    let mut process = child::idle();
    let options = UnixOptions {
        hash_size_max: Some(10),
        ..UnixOptions::default()
    };
    let found = attestor(options).attest(process.id()).await.unwrap();
    process.kill().unwrap();
    process.wait().unwrap();
    assert!(
        !found
            .selectors
            .iter()
            .any(|s| s.value().starts_with("sha256:"))
    );
    let missing = found
        .unreadable
        .iter()
        .find(|u| u.selector == "unix:sha256")
        .unwrap();
    assert!(missing.reason.contains("hash_size_max"), "{missing:?}");
    let off = UnixOptions {
        discover_path: false,
        ..UnixOptions::default()
    };
    let mut process = child::idle();
    let found = attestor(off).attest(process.id()).await.unwrap();
    process.kill().unwrap();
    process.wait().unwrap();
    assert!(
        found
            .selectors
            .iter()
            .all(|s| !s.value().starts_with("path:"))
    );
}

#[derive(Debug)]
struct AliveFor(AtomicUsize);

impl Liveness for AliveFor {
    fn is_alive(&self) -> bool {
        self.0
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                left.checked_sub(1)
            })
            .is_ok()
    }
}

#[tokio::test]
async fn wle_17_a_peer_that_dies_before_or_while_it_is_looked_at_yields_nothing() {
    let workloads = Workloads::new(vec![Box::new(attestor(UnixOptions::default()))]);
    let me = std::process::id();
    for (looks, alive) in [(0, false), (1, false), (2, true)] {
        let liveness = Arc::new(AliveFor(AtomicUsize::new(looks)));
        let peer = Peer::new(Some(me), my_uid(), 0, liveness);
        let attested = workloads.attest(&peer).await;
        assert_eq!(
            attested.is_ok(),
            alive,
            "alive for {looks} looks: {attested:?}"
        );
        if !alive {
            assert_eq!(attested.unwrap_err(), AttestError::Gone);
        }
    }
    let hidden = Peer::new(None, my_uid(), 0, Arc::new(AliveFor(AtomicUsize::new(9))));
    assert_eq!(
        workloads.attest(&hidden).await.unwrap_err(),
        AttestError::Invisible
    );
}

#[tokio::test]
async fn a_process_that_connected_and_exited_is_not_mistaken_for_another_with_its_pid() {
    let dir = tempfile::TempDir::with_prefix("mm").unwrap();
    let socket = dir.path().join("s");
    let mut listener = Host::os()
        .network
        .listen_unix(&socket, UnixMode::PUBLIC)
        .await
        .unwrap();
    let command = child::command(
        &std::env::current_exe().unwrap(),
        "connect and exit",
        &socket,
    );
    child::say(command).await;
    let (_stream, peer) = within(listener.accept()).await.unwrap();
    let NetworkPeer::Unix(peer) = peer else {
        panic!("{peer}")
    };
    let workloads = Workloads::new(vec![Box::new(attestor(UnixOptions::default()))]);
    assert_eq!(
        workloads.attest(&peer).await.unwrap_err(),
        AttestError::Gone
    );
}

/// A system on which everything about executables is refused, as for processes of other users.
#[derive(Debug)]
struct Unprivileged;

impl Proc for Unprivileged {
    fn ids(&self, _pid: u32) -> std::io::Result<Ids> {
        Ok(Ids {
            uid: 7,
            gid: 8,
            groups: vec![8, 9],
        })
    }
    fn executable_path(&self, _pid: u32) -> std::io::Result<PathBuf> {
        Err(std::io::ErrorKind::PermissionDenied.into())
    }
    fn executable_id(&self, _pid: u32) -> std::io::Result<FileId> {
        Err(std::io::ErrorKind::PermissionDenied.into())
    }
    fn open_executable(&self, _pid: u32) -> std::io::Result<Box<dyn Read + Send>> {
        Err(std::io::ErrorKind::PermissionDenied.into())
    }
    fn user(&self, _uid: u32) -> std::io::Result<Option<Account>> {
        Ok(None)
    }
    fn group_name(&self, gid: u32) -> std::io::Result<Option<String>> {
        Ok((gid == 8).then(|| "eight".to_owned()))
    }
}

#[tokio::test]
async fn what_may_not_be_read_is_left_out_and_named_with_the_reason() {
    let attestor = UnixAttestor::new(
        Host::os().disk,
        Arc::new(Unprivileged),
        UnixOptions::default(),
    );
    let found = attestor.attest(1).await.unwrap();
    let texts: Vec<String> = found.selectors.iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [
            "unix:gid:8",
            "unix:group:eight",
            "unix:supplementary_gid:8",
            "unix:supplementary_gid:9",
            "unix:supplementary_group:eight",
            "unix:uid:7",
        ]
    );
    let missing: Vec<&str> = found
        .unreadable
        .iter()
        .map(|u| u.selector.as_str())
        .collect();
    assert_eq!(
        missing,
        [
            "unix:user",
            "unix:supplementary_group",
            "unix:path",
            "unix:sha256"
        ]
    );
    let path = found
        .unreadable
        .iter()
        .find(|u| u.selector == "unix:path")
        .unwrap();
    assert!(path.reason.contains("permission denied"), "{path:?}");
}
