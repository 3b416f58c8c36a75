//! Where the binaries are. Each is built here if need be, so that a test of this crate never
//! runs against one that is older than the sources.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// Path of a `mintmark` binary built from the present sources, in the profile of the test.
pub fn mintmark() -> &'static PathBuf {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let mut cargo = cargo();
        cargo.args(["-p", "mintmark"]);
        if !cfg!(debug_assertions) {
            cargo.arg("--release");
        }
        build(&mut cargo, "mintmark")
    })
}

/// Path of a `mintmark` binary with failpoints, always in the debug profile. It lies in a folder of its
/// own, so that nobody else meets it; what it is built from is shared.
pub fn mintmark_with_failpoints() -> &'static PathBuf {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let mut cargo = cargo();
        cargo.args(["-p", "mintmark"]);
        beside(&mut cargo, "failpoints");
        build(&mut cargo, "mintmark")
    })
}

/// Path of the binary that runs simulations, in the profile for that, able to give the product a bug.
pub fn fuzz_with_mutations() -> &'static PathBuf {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let mut cargo = cargo();
        cargo.args(["-p", "chaos-tests", "--bin", "fuzz"]);
        cargo.args(["--profile", "simulation"]);
        beside(&mut cargo, "mutations");
        build(&mut cargo, "fuzz")
    })
}

/// Builds with a feature that no release has, into a folder of its own; what it is built from is shared.
fn beside(cargo: &mut Command, feature: &str) {
    let shared = build_directory();
    cargo
        .args(["--features", feature, "--target-dir"])
        .arg(shared.join(feature))
        .env("CARGO_BUILD_BUILD_DIR", &shared);
}

fn cargo() -> Command {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--manifest-path", manifest]);
    cargo.arg("--message-format=json-render-diagnostics");
    cargo
}

fn build(cargo: &mut Command, name: &str) -> PathBuf {
    let output = cargo.output().expect("cargo starts");
    assert!(
        output.status.success(),
        "{name} does not build:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8_lossy(&output.stdout);
    let executable = text.lines().rev().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        (message["target"]["name"] == name && message["target"]["kind"][0] == "bin")
            .then(|| message["executable"].as_str().map(PathBuf::from))
            .flatten()
    });
    executable.expect("cargo names the executable it built")
}

/// The directory of build output, where test environments are kept.
pub fn target_directory() -> PathBuf {
    build_directory().join("tmp")
}

fn build_directory() -> PathBuf {
    let executable = std::env::current_exe().expect("a test knows its own path");
    executable
        .ancestors()
        .find(|directory| directory.join("CACHEDIR.TAG").exists())
        .map_or_else(std::env::temp_dir, PathBuf::from)
}
