//! `mintmark` as a user who owns nothing, whoever runs the tests.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use chaos_tests::real::binary;

/// The user that owns nothing.
const NOBODY: u32 = 65_534;

/// A folder in which everybody may write.
pub fn open_folder(path: PathBuf) -> PathBuf {
    std::fs::create_dir_all(&path).unwrap();
    mode(&path, 0o777);
    path
}

/// Sets the permissions of a file or folder.
pub fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// A command that runs `mintmark` without any right, and with nothing in its environment but a search path
/// and a place for temporary files. `scratch` becomes readable for everybody.
pub fn mintmark(scratch: &Path) -> Command {
    // The build directory need not be readable for everybody. Another process copies: one that has a file
    // open for writing hands it on to whatever other tests start meanwhile, and it cannot be run then.
    let mintmark = scratch.join("mintmark");
    if !mintmark.exists() {
        let copied = Command::new("cp")
            .arg(binary::mintmark())
            .arg(&mintmark)
            .status();
        assert!(copied.unwrap().success());
    }
    mode(scratch, 0o755);
    mode(&mintmark, 0o755);
    let mut command = Command::new(&mintmark);
    command
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("TMPDIR", open_folder(scratch.join("tmp")))
        .current_dir("/")
        .stdin(Stdio::null());
    if is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().unwrap();
    id.stdout.trim_ascii() == b"0"
}
