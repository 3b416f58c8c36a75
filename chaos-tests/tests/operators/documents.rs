//! What the quickstart, the README and the screen of `mintmark dev` tell a newcomer to type is typed here,
//! as it stands, from an empty directory.
//!
//! Three things are different: the repository is not cloned and not built anew (`STOOD_IN` has the lines,
//! and a line that is no longer in the documents fails), a cluster runs until the text is over instead of in
//! another terminal, and what goes on until Ctrl-C is ended after its first line.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use chaos_tests::real::dev::signal;
use chaos_tests::real::{binary, wait};

use crate::{PATIENCE, without_root};

/// Lines that are not run.
const STOOD_IN: [&str; 2] = [
    "git clone <this repository> mintmark && cd mintmark",
    "cargo test --workspace",
];
/// How the documents run what they have built.
const BUILT: &str = "cargo run --release -p mintmark -- ";
/// The line that a cluster prints for other terminals, as the documents abbreviate it.
const EXPORT: &str = "export MINTMARK_DIR=… SPIFFE_ENDPOINT_SOCKET=unix://…";
/// A program that the text names in passing.
const OTHERS: &str = "openssl ";
/// The last line of a cluster's screen.
const READY: &str = "Ctrl-C ends it.";

fn document(name: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    std::fs::read_to_string(root.join(name)).unwrap()
}

/// The lines of all blocks of code, indented or fenced, and what the text says of other programs; a line
/// that ends in a backslash goes on.
fn commands(markdown: &str) -> Vec<String> {
    let (mut commands, mut fenced, mut begun) = (Vec::new(), false, String::new());
    for line in markdown.lines() {
        if line.starts_with("```") {
            fenced = !fenced;
            continue;
        }
        let Some(code) = line.strip_prefix("    ").or(fenced.then_some(line)) else {
            let spans = line.split('`').skip(1).step_by(2);
            commands.extend(
                spans
                    .filter(|span| span.starts_with(OTHERS))
                    .map(str::to_owned),
            );
            continue;
        };
        match code.strip_suffix('\\') {
            Some(part) => begun.push_str(part),
            None => commands.push(std::mem::take(&mut begun) + code),
        }
    }
    commands
}

/// A running `mintmark dev`, and its screen.
struct Cluster {
    child: Child,
    screen: PathBuf,
}

impl Cluster {
    fn screen(&self) -> String {
        std::fs::read_to_string(&self.screen).unwrap()
    }

    /// The line that points other terminals at it.
    fn export(&self) -> String {
        let screen = self.screen();
        let line = screen.lines().find(|line| line.contains("export "));
        line.expect("the screen has the line").trim().to_owned()
    }

    fn stop(mut self) {
        signal(self.child.id(), "INT");
        let status = wait::until("the cluster ends", PATIENCE, || {
            self.child.try_wait().unwrap()
        });
        assert!(status.success(), "{status}\n{}", self.screen());
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            signal(self.child.id(), "TERM");
            let _ = self.child.wait();
        }
    }
}

/// A terminal in a directory of its own.
struct Terminal {
    temporary: tempfile::TempDir,
    /// What was exported or assigned.
    said: Vec<String>,
    clusters: usize,
}

impl Terminal {
    fn open() -> Self {
        let temporary = tempfile::Builder::new().prefix("mm").tempdir().unwrap();
        let built = temporary.path().join("target/release");
        std::fs::create_dir_all(&built).unwrap();
        std::os::unix::fs::symlink(binary::mintmark(), built.join("mintmark")).unwrap();
        Self {
            temporary,
            said: Vec::new(),
            clusters: 0,
        }
    }

    fn command(&self, line: &str) -> Command {
        let script = format!("{}\n{line}", self.said.join("\n"));
        let mut command = Command::new("sh");
        command
            .args(["-eu", "-c", &script])
            .current_dir(self.temporary.path())
            .env_remove("MINTMARK_DIR")
            .env_remove("SPIFFE_ENDPOINT_SOCKET")
            .stdin(Stdio::null());
        command
    }

    /// Starts a cluster, and waits for its screen.
    fn cluster(&mut self, line: &str) -> Cluster {
        self.clusters += 1;
        let name = format!("screen-{}", self.clusters);
        let screen = self.temporary.path().join(name);
        let file = std::fs::File::create(&screen).unwrap();
        let child = self.command(&format!("exec {line}"));
        let child = { child }.stdout(file).spawn().unwrap();
        let mut cluster = Cluster { child, screen };
        wait::until("the cluster's screen", PATIENCE, || {
            let ended = cluster.child.try_wait().unwrap();
            assert!(ended.is_none(), "{line}: {ended:?}");
            cluster.screen().contains(READY).then_some(())
        });
        cluster
    }

    /// Types a line, and reads what it prints; of one that goes on, the first line.
    fn types(&mut self, line: &str) -> String {
        if line.starts_with("export ") || line.starts_with("TOKEN=") {
            self.said.push(line.to_owned());
            return String::new();
        }
        let goes_on = ["--watch", "--follow"]
            .iter()
            .any(|flag| line.contains(flag));
        let mut child = self.command(line);
        let mut child = child
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut printed = String::new();
        if goes_on {
            output.read_line(&mut printed).unwrap();
            drop(output);
        } else {
            output.read_to_string(&mut printed).unwrap();
        }
        let ended = child.wait_with_output().unwrap();
        let complaint = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(ended.status.success(), "`{line}`: {complaint}");
        printed
    }
}

fn is_cluster(line: &str) -> bool {
    line.starts_with("mintmark dev") && !line.contains("--exec")
}

/// Follows a document from its first to its last command, and returns all that was printed.
fn follow(name: &str) -> Vec<(String, String)> {
    let text = document(name);
    let mut terminal = Terminal::open();
    let script = terminal.temporary.path().join("run-tests.sh");
    std::fs::write(&script, "#!/bin/sh\nexec mintmark x509 fetch\n").unwrap();
    without_root::mode(&script, 0o755);
    let mut first = None;
    let mut printed = Vec::new();
    let all = commands(&text).into_iter();
    for line in all.filter(|line| !line.is_empty() && !STOOD_IN.contains(&line.as_str())) {
        if let Some(built) = line.strip_prefix(BUILT) {
            // Known by its place, because the search path is exported later.
            let line = format!("./target/release/mintmark {built}");
            if is_cluster(&format!("mintmark {built}")) {
                first = Some(terminal.cluster(&line));
            } else {
                printed.push((line.clone(), terminal.types(&line)));
            }
        } else if line == EXPORT {
            let export = first.as_ref().expect("a cluster runs").export();
            printed.push((line, terminal.types(&export)));
        } else if is_cluster(&line) {
            terminal.cluster(&line).stop();
        } else {
            let output = terminal.types(&line);
            printed.push((line, output));
        }
    }
    if let Some(first) = first {
        first.stop();
    }
    printed
}

#[test]
fn the_quickstart_does_what_it_says() {
    let printed = follow("docs/quickstart.md");
    assert!(printed.len() > 12, "{printed:?}");
    let of = |command: &str| -> &str {
        let found = printed.iter().find(|(line, _)| line.starts_with(command));
        &found.unwrap_or_else(|| panic!("{command} was not typed")).1
    };
    assert!(of("mintmark x509 fetch").contains("spiffe://demo.test/"));
    assert!(of("mintmark x509 fetch --watch").contains("verified"));
    assert!(of("openssl verify").contains("OK"));
    assert!(of("mintmark jwt validate").contains("spiffe://demo.test/"));
    assert!(of("mintmark explain --spiffe-id").contains("sleeper"));
    assert!(of("mintmark audit verify").contains("each at its place"));
    assert!(of("mintmark dev --exec").contains("verified"));
}

#[test]
fn the_readme_does_what_it_says() {
    let printed = follow("README.md");
    let fetched = printed.iter().find(|(line, _)| line.contains("--exec"));
    assert!(fetched.unwrap().1.contains("verified"), "{printed:?}");
}

#[test]
fn every_line_that_is_stood_in_for_is_in_the_documents() {
    let texts = document("docs/quickstart.md") + &document("README.md");
    let lines: BTreeSet<String> = commands(&texts).into_iter().collect();
    for line in STOOD_IN.iter().chain([&EXPORT]) {
        assert!(lines.contains(*line), "{line}");
    }
}

#[test]
fn the_steps_on_the_screen_of_a_cluster_can_be_typed() {
    let mut terminal = Terminal::open();
    terminal.types("export PATH=$PWD/target/release:$PATH");
    let cluster = terminal.cluster("mintmark dev --servers 3");
    terminal.types(&cluster.export());
    let screen = cluster.screen();
    let mut lines = screen.lines();
    let mut steps = Vec::new();
    while let Some(line) = lines.next() {
        let number = line.trim_start().split_once(". ").map(|(number, _)| number);
        if number.is_some_and(|number| number.parse::<u8>().is_ok()) {
            steps.push(lines.next().unwrap().trim().to_owned());
        }
    }
    assert_eq!(steps.len(), 7, "{screen}");
    let (kill, others) = steps.split_last().unwrap();
    for step in others {
        assert!(!terminal.types(step).is_empty(), "`{step}` printed nothing");
    }
    assert!(kill.starts_with("kill -9 "), "{kill}");
    terminal.types(kill);
    wait::until("the others go on", PATIENCE, || {
        let verify = terminal.command("mintmark audit verify").output().unwrap();
        verify.status.success().then_some(())
    });
    assert!(terminal.types("mintmark x509 fetch").contains("verified"));
    cluster.stop();
}
