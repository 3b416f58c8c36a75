//! A small disk of its own: an ext4 file system in a file, on a loop device.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::tools::{Tool, provide};
use super::{as_root, is_left_behind, name, words};

/// What has to be installed.
const TOOLS: [Tool; 3] = [
    Tool {
        file: "mkfs.ext4",
        package: "e2fsprogs",
    },
    Tool {
        file: "mount",
        package: "mount",
    },
    Tool {
        file: "losetup",
        package: "mount",
    },
];
/// The file that takes the space.
const FILLER: &str = "filler";

/// A mounted file system; it is unmounted, and the loop device given back, with the value.
#[derive(Debug)]
pub struct Image {
    directory: PathBuf,
}

impl Image {
    /// Makes and mounts one of so many megabytes.
    ///
    /// # Errors
    /// Why this machine does not allow it.
    pub fn make(megabytes: u64) -> Result<Self, String> {
        static MADE: AtomicU64 = AtomicU64::new(0);
        as_root()?;
        provide(&TOOLS)?;
        clear();
        let name = name(MADE.fetch_add(1, Ordering::Relaxed));
        let image = Self {
            directory: std::env::temp_dir().join(name),
        };
        image.mount(megabytes)?;
        Ok(image)
    }

    fn mount(&self, megabytes: u64) -> Result<(), String> {
        let said = |error: std::io::Error| error.to_string();
        std::fs::create_dir_all(self.root()).map_err(said)?;
        let file = self.directory.join("image");
        let made = std::fs::File::create(&file).map_err(said)?;
        made.set_len(megabytes << 20).map_err(said)?;
        let file = file.to_str().ok_or("a path that is not text")?;
        let root = self.root();
        let root = root.to_str().ok_or("a path that is not text")?;
        // Without blocks in reserve, which root could use when nobody else can.
        words("mkfs.ext4", &["-q", "-m", "0", "-b", "1024", file])?;
        // The kernel gives a loop device back that `mount` made when it is unmounted.
        words("mount", &["-o", "loop", file, root]).map(|_| ())
    }

    /// The root of the file system.
    pub fn root(&self) -> PathBuf {
        self.directory.join("root")
    }

    /// Moves a folder here, under this name; where it is now.
    ///
    /// # Panics
    /// When that is not possible.
    pub fn take(&self, folder: &Path, name: &str) -> PathBuf {
        let place = self.root().join(name);
        let texts = [folder.to_str().unwrap(), place.to_str().unwrap()];
        words("cp", &["-a", texts[0], texts[1]]).unwrap();
        std::fs::remove_dir_all(folder).unwrap();
        place
    }

    /// Uses up every block that is free.
    ///
    /// # Panics
    /// When the file system is not full in the end.
    pub fn fill(&self) {
        let mut options = std::fs::OpenOptions::new();
        let opened = options
            .create(true)
            .append(true)
            .open(self.root().join(FILLER));
        let mut file = opened.unwrap();
        let mut size = 1 << 20;
        while size > 0 {
            match file.write(&vec![0xA5; size]) {
                Ok(written) if written > 0 => {}
                _ => size /= 2,
            }
        }
        let full = file.sync_all().and_then(|()| file.write(&[0; 2048]));
        let full = full.expect_err("a full disk takes nothing");
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    }

    /// Gives the blocks back.
    ///
    /// # Panics
    /// When it was not filled.
    pub fn make_room(&self) {
        std::fs::remove_file(self.root().join(FILLER)).unwrap();
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        unmount(&self.directory);
    }
}

/// Unmounts an image, also when somebody still uses it, and removes it.
fn unmount(directory: &Path) {
    if let Some(root) = directory.join("root").to_str() {
        let _ = words("umount", &["--lazy", root]);
    }
    // Not `remove_dir_all`: if the mount were still there, that would empty it first.
    let _ = std::fs::remove_dir(directory.join("root"));
    let _ = std::fs::remove_file(directory.join("image"));
    let _ = std::fs::remove_dir(directory);
}

/// Removes the images of tests that were killed.
fn clear() {
    let entries = std::fs::read_dir(std::env::temp_dir());
    for entry in entries.into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(is_left_behind) {
            unmount(&entry.path());
        }
    }
}
