//! The key-encryption key of a server, from each place where it may be: the right one, another one, none.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use chaos_tests::real::daemon::Daemon;
use chaos_tests::real::{binary, wait};

use crate::{PATIENCE, code, complaint, contents};

const NAME: &str = "server-1";
const VARIABLE: &str = "MINTMARK_TEST_PASSPHRASE";

/// Where the secret is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    KeyFile,
    Credential,
    PassphraseFile,
    PassphraseCredential,
    PassphraseVariable,
}

impl Source {
    /// What the configuration says of it.
    fn section(self, directory: &Path) -> String {
        let file = self.file(directory);
        let file = file.display();
        match self {
            Self::KeyFile => format!("file = '{file}'"),
            Self::Credential => "credential = 'secret'".to_owned(),
            Self::PassphraseFile => format!("passphrase_file = '{file}'"),
            Self::PassphraseCredential => "passphrase_credential = 'secret'".to_owned(),
            Self::PassphraseVariable => format!("passphrase_env = '{VARIABLE}'"),
        }
    }

    fn file(self, directory: &Path) -> PathBuf {
        directory.join("credentials/secret")
    }

    /// The right secret, and another one that could be.
    fn secrets(self) -> (String, String) {
        match self {
            Self::KeyFile | Self::Credential => ("ab".repeat(32), "cd".repeat(32)),
            _ => ("correct horse".to_owned(), "wrong horse".to_owned()),
        }
    }

    /// Puts the secret where it belongs, or takes it away; the command has the environment for it.
    fn provide(self, directory: &Path, secret: Option<&str>) -> Command {
        let mut command = Command::new(binary::mintmark());
        command.env("CREDENTIALS_DIRECTORY", directory.join("credentials"));
        command.env_remove(VARIABLE);
        let file = self.file(directory);
        match secret {
            Some(secret) if self == Self::PassphraseVariable => {
                command.env(VARIABLE, secret);
            }
            Some(secret) => {
                std::fs::write(&file, secret).unwrap();
                std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
            }
            None => {
                let _ = std::fs::remove_file(&file);
            }
        }
        command
    }
}

/// A server's directory with its configuration, and nothing made yet.
fn planned(source: Source) -> tempfile::TempDir {
    let temporary = tempfile::Builder::new().prefix("mm").tempdir().unwrap();
    let directory = temporary.path();
    for folder in ["config", "log", "admin", "credentials"] {
        std::fs::create_dir(directory.join(folder)).unwrap();
    }
    let free = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let [api, peer] = free.map(|listener| listener.local_addr().unwrap());
    let text = format!(
        "trust_domain = 'kek.test'\n\
         data_dir = '{root}/data'\n\
         keys_dir = '{root}/keys'\n\
         [listen]\n\
         api = '{api}'\n\
         peer = '{peer}'\n\
         admin_socket = '{root}/admin/{NAME}.sock'\n\
         [kek]\n\
         {kek}\n",
        root = directory.display(),
        kek = source.section(directory),
    );
    std::fs::write(directory.join(format!("config/{NAME}.toml")), text).unwrap();
    temporary
}

/// Runs a server that must end by itself.
fn run(mut command: Command, directory: &Path) -> Output {
    let mut child = command
        .args(["server", "run", "--config"])
        .arg(directory.join(format!("config/{NAME}.toml")))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait::until("the server ends by itself", PATIENCE, || {
        child.try_wait().unwrap()
    });
    child.wait_with_output().unwrap()
}

fn operate(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(binary::mintmark())
        .args(arguments)
        .args(["-o", "json", "--server-socket"])
        .arg(directory.join(format!("admin/{NAME}.sock")))
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

const MINT: [&str; 4] = ["x509", "mint", "--spiffe-id", "spiffe://kek.test/ops"];

fn issues(directory: &Path) {
    wait::until("the server issues", PATIENCE, || {
        operate(directory, &MINT).status.success().then_some(())
    });
}

fn is_sealed(directory: &Path) {
    wait::until("the server says that it is sealed", PATIENCE, || {
        let status = operate(directory, &["cluster", "status"]);
        let status: serde_json::Value = serde_json::from_slice(&status.stdout).ok()?;
        (status["sealed"] == true).then_some(())
    });
    // It leads and logs, and what it says of itself can be verified.
    wait::until("a sealed server has the log", PATIENCE, || {
        let verified = operate(directory, &["audit", "verify"]);
        verified.status.success().then_some(())
    });
    let refused = operate(directory, &MINT);
    let said = complaint(&refused);
    assert_eq!(code(&refused), 5, "{said}");
    assert!(said.contains("MM-1303"), "{said}");
    assert!(refused.stdout.is_empty());
}

fn a_life_with(source: Source) {
    let temporary = planned(source);
    let directory = temporary.path();
    let (right, wrong) = source.secrets();
    let start = |secret: Option<&str>| {
        Daemon::start_with(source.provide(directory, secret), directory, NAME)
    };

    // Nothing can be sealed without a key, but a key file makes itself.
    if source != Source::KeyFile {
        let output = run(source.provide(directory, None), directory);
        let said = complaint(&output);
        assert_eq!(code(&output), 78, "{source:?}: {said}");
        assert!(said.contains("MM-1007"), "{source:?}: {said}");
    }
    let server = start(Some(&right));
    issues(directory);
    server.stop();

    let (data, keys) = (directory.join("data"), directory.join("keys"));
    let before = (contents(&data), contents(&keys));
    let output = run(source.provide(directory, Some(&wrong)), directory);
    let said = complaint(&output);
    assert_eq!(code(&output), 77, "{source:?}: {said}");
    for part in ["MM-1006", "key-encryption key", "  next: "] {
        assert!(said.contains(part), "{source:?}: no {part} in: {said}");
    }
    assert!(!said.contains(&wrong), "a secret was told");
    assert!(
        (contents(&data), contents(&keys)) == before,
        "{source:?}: something changed"
    );

    let server = start(None);
    is_sealed(directory);
    if source == Source::PassphraseVariable {
        server.stop();
    } else {
        source.provide(directory, Some(&right));
        issues(directory);
        server.kill();
    }
    let server = start(Some(&right));
    issues(directory);
    server.stop();
}

#[test]
fn a_key_file_unlocks_the_server() {
    a_life_with(Source::KeyFile);
}

#[test]
fn a_systemd_credential_unlocks_the_server() {
    a_life_with(Source::Credential);
}

#[test]
fn a_passphrase_in_a_file_unlocks_the_server() {
    a_life_with(Source::PassphraseFile);
}

#[test]
fn a_passphrase_in_a_systemd_credential_unlocks_the_server() {
    a_life_with(Source::PassphraseCredential);
}

#[test]
fn a_passphrase_in_the_environment_unlocks_the_server() {
    a_life_with(Source::PassphraseVariable);
}
