//! Tools that are not on every machine, installed by the test that needs them.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::as_root;

/// How long the package manager may take, seconds.
const INSTALL_LIMIT: &str = "120";
/// Where programs are.
const PROGRAMS: [&str; 4] = ["/usr/bin", "/usr/sbin", "/bin", "/sbin"];

/// A file that a test needs, and the Debian package that has it.
#[derive(Debug, Clone, Copy)]
pub struct Tool {
    /// Name of a program, or path of a library below `/usr/lib` or below an architecture's folder there.
    pub file: &'static str,
    /// The package.
    pub package: &'static str,
}

impl Tool {
    /// Where it is, if it is there.
    pub fn find(&self) -> Option<PathBuf> {
        let libraries = || {
            let folders = std::fs::read_dir("/usr/lib").into_iter().flatten();
            let folders = folders.flatten().map(|folder| folder.path());
            std::iter::once(PathBuf::from("/usr/lib")).chain(folders)
        };
        let places = PROGRAMS.iter().map(PathBuf::from);
        let mut files = places
            .chain(libraries())
            .map(|folder| folder.join(self.file));
        files.find(|file| file.is_file())
    }
}

/// Installs those of the tools that are missing.
///
/// # Errors
/// Why one cannot be had here.
pub fn provide(tools: &[Tool]) -> Result<(), String> {
    static INSTALLING: Mutex<()> = Mutex::new(());
    let _one_at_a_time = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
    let missing = || tools.iter().filter(|tool| tool.find().is_none());
    let packages: Vec<&str> = missing().map(|tool| tool.package).collect();
    if packages.is_empty() {
        return Ok(());
    }
    let install = || apt_get(&["install", "-y", "--no-install-recommends"], &packages);
    // The lists of packages may never have been fetched, or be old.
    install().or_else(|_| apt_get(&["update"], &[]).and_then(|()| install()))?;
    missing().next().map_or(Ok(()), |tool| {
        Err(format!("{} has no {}", tool.package, tool.file))
    })
}

fn apt_get(arguments: &[&str], packages: &[&str]) -> Result<(), String> {
    if !Path::new("/usr/bin/apt-get").exists() {
        let wanted = packages.join(", ");
        return Err(format!("{wanted} is missing, and there is no apt-get"));
    }
    let mut words = Vec::new();
    if as_root().is_err() {
        words.extend(["sudo", "-n"]);
    }
    words.extend(["env", "DEBIAN_FRONTEND=noninteractive"]);
    words.extend(["timeout", INSTALL_LIMIT]);
    words.extend(["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=60"]);
    words.extend(arguments);
    words.extend(packages);
    super::words(words[0], &words[1..]).map(|_| ())
}
