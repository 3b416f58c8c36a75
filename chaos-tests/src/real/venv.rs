//! Python environments for clients that others wrote. Each is made by the test that needs it, by
//! package name and version, beside the build output.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::Mutex;

/// A Python environment with some packages.
#[derive(Debug, Clone)]
pub struct Venv {
    directory: PathBuf,
}

impl Venv {
    /// Makes (or finds) the environment called `name` with exactly these requirements.
    ///
    /// # Panics
    /// When Python or a package cannot be had: a test that cannot run has to fail, not to pass.
    pub fn with(name: &str, requirements: &[&str]) -> Self {
        static MAKING: Mutex<()> = Mutex::new(());
        let _one_at_a_time = MAKING
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let directory = super::binary::target_directory().join(format!("venv-{name}"));
        let wanted = requirements.join("\n");
        let stamp = directory.join("requirements.done");
        if std::fs::read_to_string(&stamp).is_ok_and(|done| done == wanted) {
            return Self { directory };
        }
        let _ = std::fs::remove_dir_all(&directory);
        run(Command::new("python3")
            .arg("-m")
            .arg("venv")
            .arg(&directory));
        run(Command::new(directory.join("bin/python"))
            .args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
            ])
            .args(requirements));
        std::fs::write(&stamp, wanted).unwrap();
        Self { directory }
    }

    /// A program of the environment.
    pub fn program(&self, name: &str) -> PathBuf {
        self.directory.join("bin").join(name)
    }

    /// `python` of the environment.
    pub fn python(&self) -> Command {
        Command::new(self.program("python"))
    }
}

fn run(command: &mut Command) -> Output {
    let output = command
        .output()
        .unwrap_or_else(|e| panic!("{command:?} does not start: {e}"));
    assert!(
        output.status.success(),
        "{command:?} failed:\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}
