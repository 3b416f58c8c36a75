//! What whoever runs an agent is told: codes of `docs/errors.md` in errors and in the log.

use std::{
    io::Write,
    sync::{Arc, Mutex},
};

use mintmark_proto::mintmark::agent::v1 as pb;
use mintmark_runtime::{Host, disk::MODE_SECRET};
use node_agent::{Agent, RunError, config::Evidence};
use tracing::subscriber::DefaultGuard;

use crate::harness::{Bed, entry, wait_state, within};

/// What is logged on this thread, which is where everything of a test runs.
struct Log {
    text: Text,
    _guard: DefaultGuard,
}

#[derive(Clone, Default)]
struct Text(Arc<Mutex<Vec<u8>>>);

impl Write for Text {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn new() -> Self {
        let text = Text::default();
        let writer = text.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        Self {
            text,
            _guard: tracing::subscriber::set_default(subscriber),
        }
    }

    /// Waits until a line has these texts.
    async fn has(&self, texts: &[&str]) {
        let waiting = async {
            loop {
                let log = String::from_utf8(self.text.0.lock().unwrap().clone()).unwrap();
                let is_it = |line: &str| texts.iter().all(|text| line.contains(text));
                if log.lines().any(is_it) {
                    return;
                }
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        within(waiting).await;
    }
}

#[tokio::test]
async fn an_agent_without_servers_says_so_after_some_attempts() {
    let mut bed = Bed::new().await;
    let log = Log::new();
    let _agent = bed.start().await;
    bed.stop_server().await;
    log.has(&["WARN", "MM-2024", "no server answers"]).await;
}

#[tokio::test]
async fn an_entry_that_means_nothing_is_told_and_not_served() {
    let bed = Bed::new().await;
    let log = Log::new();
    let agent = bed.start().await;
    let malformed = mintmark_proto::mintmark::state::v1::Entry {
        id: "bad".into(),
        ..Default::default()
    };
    bed.world.push(pb::Update {
        entries: vec![malformed],
        ..pb::Update::default()
    });
    log.has(&["ERROR", "MM-2030", "bad"]).await;
    bed.world.put_entry(entry("good", "/good"));
    let state = wait_state(&agent, |state| state.svids.len() == 1).await;
    assert_eq!(state.svids.len(), 1);
}

#[tokio::test]
async fn a_sealed_cache_that_was_altered_is_discarded_and_told() {
    let bed = Bed::new().await;
    bed.world.put_entry(entry("a", "/a"));
    let agent = bed.start().await;
    wait_state(&agent, |state| state.svids.len() == 1).await;
    agent.stop().await;
    let file = bed.config.data_dir.join("cache.sealed");
    let disk = Host::os().disk;
    let mut bytes = disk.read(&file).unwrap();
    bytes[80] ^= 1;
    disk.write_atomic(&file, &bytes, MODE_SECRET).unwrap();
    let log = Log::new();
    let again = bed.start().await;
    log.has(&["MM-2028", "cache.sealed"]).await;
    // Nothing is lost but time: the server gives another SVID.
    wait_state(&again, |state| state.svids.len() == 1).await;
}

#[tokio::test]
async fn a_data_directory_that_cannot_be_made_ends_the_start() {
    let mut bed = Bed::new().await;
    let file = bed.dir.path().join("file");
    let disk = Host::os().disk;
    disk.write_atomic(&file, b"no folder", MODE_SECRET).unwrap();
    bed.config.data_dir = file.join("data");
    let error = Agent::start(bed.host(), bed.config.clone())
        .await
        .unwrap_err();
    assert!(error.to_string().starts_with("MM-2027: "), "{error}");
    assert_eq!(error.exit_code(), 73);
}

#[tokio::test]
async fn an_agent_that_nobody_invited_says_what_to_give_it() {
    let mut bed = Bed::new().await;
    bed.config.evidence = Evidence::None;
    let mut agent = bed.launch().await;
    let RunError::Agent(error) = within(agent.failed()).await else {
        panic!()
    };
    assert!(error.to_string().starts_with("MM-2029: "), "{error}");
}
