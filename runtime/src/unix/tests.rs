//! Binding and peers against the real kernel.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "the tests arrange files and sockets behind the back of the code"
)]

use std::process::{Command, Stdio};

use super::*;

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn mode_of(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[tokio::test]
async fn the_socket_gets_its_mode_and_is_removed() {
    let folder = folder();
    let path = folder.path().join("run").join("agent").join("api.sock");
    let mode = UnixMode {
        socket: 0o777,
        directory: 0o755,
    };
    let listener = UnixListener::bind(&path, mode).await.unwrap();
    assert_eq!(mode_of(&path), 0o777);
    drop(listener);
    let listener = UnixListener::bind(&path, UnixMode::PRIVATE).await.unwrap();
    assert_eq!(mode_of(&path), 0o600);
    drop(listener);
    assert!(!path.exists(), "our socket is removed");
}

#[tokio::test]
async fn a_stale_socket_is_replaced() {
    let folder = folder();
    let path = folder.path().join("api.sock");
    // A std listener leaves its file behind, as a killed process does.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let _listener = UnixListener::bind(&path, UnixMode::PRIVATE).await.unwrap();
    tokio::net::UnixStream::connect(&path).await.unwrap();
}

#[tokio::test]
async fn a_socket_in_use_is_left_alone() {
    let folder = folder();
    let path = folder.path().join("api.sock");
    let _other = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let error = UnixListener::bind(&path, UnixMode::PRIVATE)
        .await
        .unwrap_err();
    assert!(matches!(error, BindError::InUse { .. }), "{error}");
    tokio::net::UnixStream::connect(&path).await.unwrap();
}

#[tokio::test]
async fn other_files_are_left_alone() {
    let folder = folder();
    let (file, link) = (folder.path().join("file"), folder.path().join("link"));
    std::fs::write(&file, "precious").unwrap();
    std::os::unix::fs::symlink(&file, &link).unwrap();
    for path in [&file, &link, &folder.path().to_owned()] {
        let error = UnixListener::bind(path, UnixMode::PRIVATE)
            .await
            .unwrap_err();
        assert!(matches!(error, BindError::NotASocket { .. }), "{error}");
    }
    assert_eq!(std::fs::read(&link).unwrap(), b"precious");
}

#[tokio::test]
async fn a_path_that_is_too_long_says_so() {
    let folder = folder();
    let base = folder.path().as_os_str().len() + 1;
    let path = folder.path().join("x".repeat(SOCKET_PATH_LEN_MAX - base));
    let _fits = UnixListener::bind(&path, UnixMode::PRIVATE).await.unwrap();
    let path = folder
        .path()
        .join("x".repeat(SOCKET_PATH_LEN_MAX + 1 - base));
    let error = UnixListener::bind(&path, UnixMode::PRIVATE)
        .await
        .unwrap_err();
    assert!(matches!(error, BindError::PathTooLong { length: 108, .. }));
}

#[tokio::test]
async fn a_folder_that_cannot_be_made_is_named() {
    let folder = folder();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = UnixListener::bind(&file.join("run").join("api.sock"), UnixMode::PRIVATE)
        .await
        .unwrap_err();
    assert!(matches!(error, BindError::Directory { .. }), "{error}");
    assert!(error.to_string().contains("file/run"), "{error}");
}

#[tokio::test]
async fn a_socket_that_is_not_ours_any_more_stays() {
    let folder = folder();
    let path = folder.path().join("api.sock");
    let listener = UnixListener::bind(&path, UnixMode::PRIVATE).await.unwrap();
    std::fs::remove_file(&path).unwrap();
    let _successor = std::os::unix::net::UnixListener::bind(&path).unwrap();
    drop(listener);
    assert!(path.exists());
}

/// A child process that connects to `path`. It says so on its output, then waits for its input
/// to end.
fn connecting_child(path: &Path) -> std::process::Child {
    let script = "import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); \
                  print('x', flush=True); sys.stdin.read()";
    Command::new("python3")
        .args(["-c", script])
        .arg(path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

async fn accept(listener: &mut UnixListener) -> (BoxStream, Peer) {
    match listener.accept().await.unwrap() {
        (stream, network::Peer::Unix(peer)) => (stream, peer),
        _ => panic!("a Unix peer was expected"),
    }
}

#[tokio::test]
async fn a_peer_is_alive_until_its_process_ends_although_the_socket_is_open() {
    let folder = folder();
    let path = folder.path().join("api.sock");
    let mut listener = UnixListener::bind(&path, UnixMode::PRIVATE).await.unwrap();
    let mut child = connecting_child(&path);
    let (_stream, peer) = accept(&mut listener).await;
    assert_eq!(peer.pid, Some(child.id()));
    assert_eq!(peer.uid, nix::unistd::geteuid().as_raw());
    assert!(peer.is_alive());
    let copy = peer.clone();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!peer.is_alive());
    assert!(!copy.is_alive());
}

#[tokio::test]
async fn a_peer_that_died_before_it_was_accepted_is_not_alive() {
    let folder = folder();
    let path = folder.path().join("api.sock");
    let mut listener = UnixListener::bind(&path, UnixMode::PRIVATE).await.unwrap();
    let mut child = connecting_child(&path);
    let mut said = [0];
    io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut said).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let (_stream, peer) = accept(&mut listener).await;
    assert_eq!(peer.pid, Some(child.id()));
    assert!(!peer.is_alive());
}

#[test]
fn a_folder_in_which_others_can_replace_a_socket_is_told_from_one_in_which_they_cannot() {
    for (mode, owner, exposed) in [
        (0o755, 7, false),
        (0o755, 0, false),
        (0o1777, 0, false),
        (0o755, 8, true),
        (0o777, 7, true),
        (0o775, 0, true),
        (0o1777, 8, true),
    ] {
        assert_eq!(is_exposed(mode, owner, 7), exposed, "{mode:o} of {owner}");
    }
}
