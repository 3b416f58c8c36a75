//! What every [`Disk`] must do.
//!
//! Responsible for the conformance suite of the disk seam. Always holds: it uses only files below
//! the folder it is given. Not here: durability, which only a simulator or a power cut can test.
#![allow(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "a conformance suite fails by panicking"
)]

use std::io::{ErrorKind, Read as _};
use std::path::Path;

use redb::{Database, ReadableDatabase as _, TableDefinition};

use crate::disk::{Disk, MODE_DIRECTORY, MODE_PUBLIC, MODE_SECRET};

/// Runs the suite in `root`, an existing empty folder.
pub async fn disk_conformance(disk: &dyn Disk, root: &Path) {
    whole_files(disk, root);
    appending(disk, root);
    folders(disk, root);
    locks(disk, root);
    stores(disk, root);
    assert_eq!(disk.run(|| 7).await.unwrap(), 7);
    // Nothing but what was asked for: no temporary files stay behind.
    assert_eq!(
        disk.list(root).unwrap(),
        ["a", "file", "journal", "lock", "store"]
    );
}

fn whole_files(disk: &dyn Disk, root: &Path) {
    let file = root.join("file");
    assert!(!disk.exists(&file).unwrap());
    assert_eq!(disk.read(&file).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(
        disk.open_read(&file).err().unwrap().kind(),
        ErrorKind::NotFound
    );
    assert_eq!(
        disk.metadata_mode(&file).unwrap_err().kind(),
        ErrorKind::NotFound
    );
    assert_eq!(
        disk.remove_file(&file).unwrap_err().kind(),
        ErrorKind::NotFound
    );

    disk.write_atomic(&file, b"first, and longer", MODE_SECRET)
        .unwrap();
    assert!(disk.exists(&file).unwrap());
    assert_eq!(disk.metadata_mode(&file).unwrap(), MODE_SECRET);
    let mut old = disk.open_read(&file).unwrap();
    // Replacing changes content and mode, and a reader keeps the file that it opened.
    disk.write_atomic(&file, b"second", MODE_PUBLIC).unwrap();
    assert_eq!(disk.read(&file).unwrap(), b"second");
    assert_eq!(disk.metadata_mode(&file).unwrap(), MODE_PUBLIC);
    let mut content = String::new();
    old.read_to_string(&mut content).unwrap();
    assert_eq!(content, "first, and longer");

    disk.write_atomic(&file, b"", MODE_PUBLIC).unwrap();
    assert_eq!(disk.read(&file).unwrap(), b"");
    disk.remove_file(&file).unwrap();
    assert!(!disk.exists(&file).unwrap());
    disk.write_atomic(&file, b"again", MODE_PUBLIC).unwrap();

    let orphan = root.join("missing").join("file");
    let error = disk.write_atomic(&orphan, b"", MODE_SECRET).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let below_a_file = file.join("file");
    let error = disk.write_atomic(&below_a_file, b"", MODE_SECRET);
    assert_eq!(error.unwrap_err().kind(), ErrorKind::NotADirectory);
    let error = disk.write_atomic(Path::new("/"), b"", MODE_SECRET);
    assert_eq!(error.unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(disk.read(root).unwrap_err().kind(), ErrorKind::IsADirectory);
}

fn appending(disk: &dyn Disk, root: &Path) {
    let journal = root.join("journal");
    disk.append(&journal, b"one\n").unwrap();
    assert_eq!(disk.metadata_mode(&journal).unwrap(), MODE_SECRET);
    disk.append(&journal, b"two\n").unwrap();
    assert_eq!(disk.read(&journal).unwrap(), b"one\ntwo\n");
    let error = disk.append(&root.join("missing").join("journal"), b"");
    assert_eq!(error.unwrap_err().kind(), ErrorKind::NotFound);

    assert_eq!(disk.length(&journal).unwrap(), 8);
    assert_eq!(disk.read_from(&journal, 4, 3).unwrap(), b"two");
    assert_eq!(disk.read_from(&journal, 6, 100).unwrap(), b"o\n");
    assert_eq!(disk.read_from(&journal, 9, 100).unwrap(), b"");
    disk.truncate(&journal, 100).unwrap();
    assert_eq!(disk.length(&journal).unwrap(), 8, "never longer");
    disk.truncate(&journal, 5).unwrap();
    assert_eq!(disk.read(&journal).unwrap(), b"one\nt");
    assert_eq!(disk.metadata_mode(&journal).unwrap(), MODE_SECRET);
    disk.append(&journal, b"hree\n").unwrap();
    assert_eq!(disk.read(&journal).unwrap(), b"one\nthree\n");
    let missing = root.join("missing");
    let outcomes = [
        disk.length(&missing).err(),
        disk.read_from(&missing, 0, 1).err(),
        disk.truncate(&missing, 0).err(),
    ];
    assert!(
        outcomes
            .into_iter()
            .all(|error| error.unwrap().kind() == ErrorKind::NotFound)
    );
}

fn folders(disk: &dyn Disk, root: &Path) {
    let deep = root.join("a").join("b").join("c");
    disk.create_dir_all(&deep, MODE_DIRECTORY).unwrap();
    assert_eq!(disk.metadata_mode(&deep).unwrap(), MODE_DIRECTORY);
    assert_eq!(disk.metadata_mode(&root.join("a")).unwrap(), MODE_DIRECTORY);
    disk.create_dir_all(&deep, 0o755).unwrap();
    assert_eq!(
        disk.metadata_mode(&deep).unwrap(),
        MODE_DIRECTORY,
        "an existing folder is left as it is"
    );
    for name in ["z", "y", "x"] {
        disk.write_atomic(&deep.join(name), b"", MODE_SECRET)
            .unwrap();
    }
    assert_eq!(disk.list(&deep).unwrap(), ["x", "y", "z"]);
    assert_eq!(disk.list(&root.join("a")).unwrap(), ["b"]);
    let error = disk.list(&root.join("missing")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let error = disk.list(&deep.join("x")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotADirectory);
    let error = disk.create_dir_all(&deep.join("x"), MODE_DIRECTORY);
    assert_eq!(error.unwrap_err().kind(), ErrorKind::AlreadyExists);
    let error = disk.create_dir_all(&deep.join("x").join("y"), MODE_DIRECTORY);
    assert_eq!(error.unwrap_err().kind(), ErrorKind::NotADirectory);
}

fn locks(disk: &dyn Disk, root: &Path) {
    let path = root.join("lock");
    let lock = disk.lock_exclusive(&path).unwrap();
    let error = disk.lock_exclusive(&path).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    drop(lock);
    drop(disk.lock_exclusive(&path).unwrap());
    let error = disk.lock_exclusive(&root.join("missing").join("lock"));
    assert_eq!(error.err().unwrap().kind(), ErrorKind::NotFound);
}

const TABLE: TableDefinition<'static, &str, u64> = TableDefinition::new("numbers");

fn stores(disk: &dyn Disk, root: &Path) {
    let path = root.join("store");
    let open = || -> Result<Database, String> {
        let backend = disk.open_store(&path).map_err(|error| error.to_string())?;
        Database::builder()
            .create_with_backend(backend)
            .map_err(|error| error.to_string())
    };
    let database = open().unwrap();
    assert_eq!(disk.metadata_mode(&path).unwrap(), MODE_SECRET);
    let transaction = database.begin_write().unwrap();
    transaction
        .open_table(TABLE)
        .unwrap()
        .insert("answer", 42)
        .unwrap();
    transaction.commit().unwrap();
    assert!(open().is_err(), "two owners of one store");
    drop(database);

    let database = open().unwrap();
    let transaction = database.begin_read().unwrap();
    let table = transaction.open_table(TABLE).unwrap();
    assert_eq!(table.get("answer").unwrap().unwrap().value(), 42);
    let error = disk.open_store(&root.join("missing").join("store"));
    assert_eq!(error.err().unwrap().kind(), ErrorKind::NotFound);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::OsDisk;
    use crate::testing::MemoryDisk;

    #[tokio::test]
    async fn the_machines_disk_conforms() {
        let root = tempfile::tempdir().unwrap();
        disk_conformance(&OsDisk, root.path()).await;
    }

    #[tokio::test]
    async fn the_disk_in_memory_conforms() {
        let disk = MemoryDisk::new();
        disk.create_dir_all(Path::new("/root"), MODE_DIRECTORY)
            .unwrap();
        disk_conformance(&disk, Path::new("/root")).await;
    }
}
