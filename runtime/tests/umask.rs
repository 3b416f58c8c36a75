//! The umask belongs to the whole process, so this test has a process of its own.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use mintmark_runtime::Host;
use mintmark_runtime::disk::MODE_PUBLIC;
use mintmark_runtime::network::UnixMode;
use nix::sys::stat::{Mode, umask};

#[tokio::test]
async fn modes_are_exact_whatever_the_umask() {
    let folder = tempfile::tempdir().unwrap();
    umask(Mode::from_bits_truncate(0o077));
    let host = Host::os();
    let run = folder.path().join("run").join("agent");
    let path = run.join("api.sock");
    let listener = host.network.listen_unix(&path, UnixMode::PUBLIC).await;
    let _listener = listener.unwrap();
    assert_eq!(mode(&path), 0o777);
    assert_eq!(mode(&run), 0o755);
    assert_eq!(mode(run.parent().unwrap()), 0o755);
    let bundle = run.join("bundle.pem");
    host.disk.write_atomic(&bundle, b"", MODE_PUBLIC).unwrap();
    assert_eq!(mode(&bundle), MODE_PUBLIC);
    let deep = run.join("a").join("b");
    host.disk.create_dir_all(&deep, 0o750).unwrap();
    assert_eq!(mode(&deep), 0o750);
    assert_eq!(mode(deep.parent().unwrap()), 0o750);
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}
