//! A cluster of daemons that are started one by one, and what must be true of it whenever it stands.
//!
//! `mintmark dev` makes the directory and is gone then, or `site` lays it out by hand. Each daemon may run
//! inside something (a network namespace, a preloaded library) that its test chose. Where a failpoint is
//! armed, which only a binary that has them reads, is in `crash`.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use mintmark_identity::clock::{Clock, SystemClock};
use serde_json::Value;

use super::collector::{Collector, Held};
use super::daemon::Daemon;
use super::dev::{Endpoints, signal};
use super::fresh::Reader;
use super::ledger::Ledger;
use super::wait;

mod promises;

/// How long anything may take on a busy machine. Not a promise about speed.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// A user that is nobody here: entries for it make log, and no SVID.
const NOBODY: u32 = 4242;

/// What a daemon runs in.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// A command that runs the daemon's command as the same process, such as `nsenter`.
    pub wrapper: Vec<String>,
    /// Variables of its environment.
    pub environment: BTreeMap<String, String>,
}

impl Surroundings {
    /// The program in these surroundings, its arguments still to come.
    fn around(&self, program: &Path) -> Command {
        let mut command = match self.wrapper.split_first() {
            None => Command::new(program),
            Some((first, rest)) => {
                let mut wrapper = Command::new(first);
                wrapper.args(rest).arg(program);
                wrapper
            }
        };
        command.envs(&self.environment);
        command
    }
}

fn this_user() -> u32 {
    std::fs::metadata("/proc/self").unwrap().uid()
}

fn texts(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

/// A directory whose name is short enough for Unix sockets.
pub(super) fn temporary() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("mm").tempdir().unwrap()
}

/// The cluster.
#[derive(Debug)]
pub struct Cluster {
    binary: PathBuf,
    surroundings: BTreeMap<String, Surroundings>,
    directory: PathBuf,
    endpoints: Endpoints,
    daemons: BTreeMap<String, Daemon>,
    collector: Option<Collector>,
    made: u64,
    vkey: Option<String>,
    /// What it acknowledged.
    pub ledger: Ledger,
    /// Whether SVIDs live longer than twice any restart, so that a workload must never be without.
    pub outlives_restarts: bool,
    _temporary: tempfile::TempDir,
}

impl Cluster {
    /// Makes a cluster with the arguments of `mintmark dev`, and stops it.
    pub fn make(binary: &Path, arguments: &[&str]) -> Self {
        let temporary = temporary();
        let directory = temporary.path().to_owned();
        let log = std::fs::File::create(directory.join("dev.log")).unwrap();
        let mut dev = Command::new(binary)
            .args(["dev", "--dir"])
            .arg(&directory)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let file = directory.join("endpoints.json");
        let text = wait::until("a cluster is made", PATIENCE, || {
            if let Some(status) = dev.try_wait().unwrap() {
                let said = std::fs::read_to_string(directory.join("dev.log")).unwrap();
                panic!("mintmark dev ended with {status}:\n{said}");
            }
            std::fs::read_to_string(&file).ok()
        });
        signal(dev.id(), "INT");
        wait::until("mintmark dev ends", PATIENCE, || dev.try_wait().unwrap());
        std::fs::write(&file, &text).unwrap();
        Self::at(binary, temporary)
    }

    /// A cluster of which no daemon was started yet, by the `endpoints.json` in its directory.
    pub(super) fn at(binary: &Path, temporary: tempfile::TempDir) -> Self {
        let directory = temporary.path().to_owned();
        let text = std::fs::read(directory.join("endpoints.json")).unwrap();
        Self {
            binary: binary.to_owned(),
            surroundings: BTreeMap::new(),
            directory,
            endpoints: serde_json::from_slice(&text).unwrap(),
            daemons: BTreeMap::new(),
            collector: None,
            made: 0,
            vkey: None,
            ledger: Ledger::default(),
            outlives_restarts: true,
            _temporary: temporary,
        }
    }

    /// Its directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where everything is.
    pub fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }

    /// Changes the configuration of a daemon for its next start.
    pub fn configure(&self, name: &str, change: impl FnOnce(String) -> String) {
        let file = self.directory.join("config").join(format!("{name}.toml"));
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, change(text)).unwrap();
    }

    /// Decides what a daemon runs in from its next start on.
    pub fn surround(&mut self, name: &str, surroundings: Surroundings) {
        self.surroundings.insert(name.to_owned(), surroundings);
    }

    /// Starts a daemon. One that ran before has to be gone.
    pub fn start(&mut self, name: &str) {
        let surroundings = self.surroundings.get(name).cloned().unwrap_or_default();
        let mut program = surroundings.around(&self.binary);
        let failpoints = self.failpoints(name);
        program.env("FAILPOINTS", format!("@{}", failpoints.display()));
        let daemon = Daemon::start_with(program, &self.directory, name);
        let before = self.daemons.insert(name.to_owned(), daemon);
        assert!(before.is_none(), "{name} runs already");
    }

    /// Kills a daemon from outside.
    pub fn kill(&mut self, name: &str) {
        self.daemons.remove(name).unwrap().kill();
    }

    /// Kills every daemon.
    pub fn kill_all(&mut self) {
        self.daemons.clear();
    }

    /// Whether a daemon runs.
    pub fn runs(&mut self, name: &str) -> bool {
        self.daemons.get_mut(name).is_some_and(Daemon::runs)
    }

    /// How a daemon ended by itself, if it has; it can be started again then.
    pub fn ended(&mut self, name: &str) -> Option<ExitStatus> {
        let status = self.daemons.get_mut(name)?.ended()?;
        self.daemons.remove(name);
        Some(status)
    }

    /// The process id of a daemon that runs.
    pub fn pid(&self, name: &str) -> u32 {
        self.daemons[name].pid()
    }

    /// Lets a daemon drain and end.
    pub fn stop(&mut self, name: &str) {
        self.daemons.remove(name).unwrap().stop();
    }

    /// The file that a daemon follows if its binary has failpoints.
    pub(super) fn failpoints(&self, name: &str) -> PathBuf {
        self.directory.join(format!("failpoints-{name}"))
    }

    /// What a daemon wrote to its log.
    pub fn log_of(&self, name: &str) -> String {
        let file = self.directory.join("log").join(format!("{name}.log"));
        std::fs::read_to_string(file).unwrap_or_default()
    }

    /// Takes away all that a daemon has on disk.
    pub fn wipe(&mut self, name: &str) {
        assert!(!self.daemons.contains_key(name), "{name} runs");
        for kind in ["data", "keys"] {
            let folder = self.directory.join(kind).join(name);
            if folder.exists() {
                std::fs::remove_dir_all(folder).unwrap();
            }
        }
    }

    /// Forgets what was acknowledged: the cluster is made anew.
    pub fn forget(&mut self) {
        self.ledger = Ledger::default();
        self.vkey = None;
    }

    /// Gives a wiped agent, or a further one, the configuration and the token to attest with.
    pub fn invite_agent(&mut self, name: &str) {
        let alias = self.endpoints.node_alias();
        let token = self.json_at_last(None, &["token", "generate", "--spiffe-id", &alias]);
        let config = self.directory.join("config");
        let token = token["token"].as_str().unwrap();
        std::fs::write(config.join(format!("{name}.token")), token).unwrap();
        let text = std::fs::read_to_string(config.join("agent.toml")).unwrap();
        let own = text
            .replace("data/agent\"", &format!("data/{name}\""))
            .replace("keys/agent\"", &format!("keys/{name}\""))
            .replace("agent.token", &format!("{name}.token"))
            .replace("admin/agent.sock", &format!("admin/{name}.sock"))
            .replace("public/api.sock", &format!("public/{name}.sock"));
        if name != "agent" {
            std::fs::write(config.join(format!("{name}.toml")), own).unwrap();
        }
    }

    /// Starts a further agent and waits until it is attested. Returns its SPIFFE ID.
    pub fn attach_agent(&mut self, name: &str) -> String {
        let before = self.agents();
        self.invite_agent(name);
        self.start(name);
        self.new_agent(&before)
    }

    /// The attested agents.
    pub fn agents(&self) -> BTreeSet<String> {
        let listed = self.json_at_last(None, &["agent", "list"]);
        let ids = listed.as_array().unwrap().iter();
        ids.map(|agent| agent["id"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Waits for an agent that has an SVID and is not among these.
    pub fn new_agent(&self, before: &BTreeSet<String>) -> String {
        wait::until("another agent attests", PATIENCE, || {
            let listed = self.json(&["agent", "list"])?;
            let listed = listed.as_array().unwrap();
            let new = listed.iter().find(|agent| {
                let id = agent["id"].as_str().unwrap();
                !before.contains(id) && agent["x509_svid_serial_number"] != ""
            });
            new.map(|agent| agent["id"].as_str().unwrap().to_owned())
        })
    }

    /// The socket of an agent.
    pub fn socket(&self, agent: &str) -> PathBuf {
        let name = if agent == "agent" { "api" } else { agent };
        self.directory.join("public").join(format!("{name}.sock"))
    }

    /// Runs a command against the cluster; `None` when it fails.
    pub fn json(&self, arguments: &[&str]) -> Option<Value> {
        self.json_on(None, arguments)
    }

    /// Runs a command against one server, if one is named; `None` when it fails.
    pub fn json_on(&self, server: Option<&str>, arguments: &[&str]) -> Option<Value> {
        let output = self.run(server, arguments)?;
        if output.is_empty() {
            // Some commands have nothing to say but that they are done.
            return Some(Value::Null);
        }
        Some(serde_json::from_str(&output).unwrap())
    }

    fn run(&self, server: Option<&str>, arguments: &[&str]) -> Option<String> {
        let output = self.output(server, arguments);
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            eprintln!("{arguments:?}: {said}");
            return None;
        }
        Some(String::from_utf8(output.stdout).unwrap())
    }

    fn output(&self, server: Option<&str>, arguments: &[&str]) -> Output {
        let mut command = Command::new(&self.binary);
        command.args(arguments).args(["-o", "json"]);
        if let Some(server) = server {
            let socket = self.admin_socket(server);
            command.arg("--server-socket").arg(socket);
        }
        command
            .env("MINTMARK_DIR", &self.directory)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    fn admin_socket(&self, server: &str) -> PathBuf {
        self.directory.join("admin").join(format!("{server}.sock"))
    }

    /// Runs a command until it succeeds.
    pub fn json_at_last(&self, server: Option<&str>, arguments: &[&str]) -> Value {
        wait::until(&format!("{arguments:?}"), PATIENCE, || {
            self.json_on(server, arguments)
        })
    }

    /// Makes an entry that gives this process an SVID.
    pub fn make_entry(&mut self, server: Option<&str>) -> Option<String> {
        self.make_entry_for(this_user(), server)
    }

    /// Makes an entry for nobody: one more entry of the log.
    pub fn make_noise(&mut self, server: Option<&str>) {
        let _ = self.make_change(server);
    }

    /// The same; its id, if it was acknowledged.
    pub fn make_change(&mut self, server: Option<&str>) -> Option<String> {
        self.make_entry_for(NOBODY, server)
    }

    /// Makes the entry by which this user is the workload of the endpoints.
    pub(super) fn make_workload_entry(&mut self) {
        let id = "workload";
        let spiffe_id = self.endpoints.workload_spiffe_id.clone();
        let arguments = self.entry(id, &spiffe_id, this_user());
        self.json_at_last(None, &texts(&arguments));
        self.ledger.entries.insert(id.to_owned());
    }

    fn make_entry_for(&mut self, uid: u32, server: Option<&str>) -> Option<String> {
        let (id, arguments) = self.next_entry(uid);
        self.json_on(server, &texts(&arguments))?;
        self.ledger.entries.insert(id.clone());
        Some(id)
    }

    /// The command that makes one more entry, and its id.
    fn next_entry(&mut self, uid: u32) -> (String, Vec<String>) {
        self.made += 1;
        let id = format!("entry-{}", self.made);
        let spiffe_id = format!("spiffe://{}/{id}", self.endpoints.trust_domain);
        let arguments = self.entry(&id, &spiffe_id, uid);
        (id, arguments)
    }

    fn entry(&self, id: &str, spiffe_id: &str, uid: u32) -> Vec<String> {
        let parent = self.endpoints.node_alias();
        let selector = format!("unix:uid:{uid}");
        let words = [
            "entry",
            "create",
            "--entry-id",
            id,
            "--spiffe-id",
            spiffe_id,
        ];
        let more = ["--parent-id", &parent, "--selector", &selector];
        [&words[..], &more]
            .concat()
            .iter()
            .map(|word| (*word).to_owned())
            .collect()
    }

    /// Asks a server that must not act now to change something and to sign. Returns how it refused.
    ///
    /// # Panics
    /// When it does one of them.
    pub fn refuses_to_act(&mut self, server: &str) -> [String; 2] {
        let (entry, create) = self.next_entry(NOBODY);
        let minted = format!("spiffe://{}/refused/{entry}", self.endpoints.trust_domain);
        let mint = ["x509", "mint", "--spiffe-id", &minted];
        let this = &*self;
        std::thread::scope(|scope| {
            let changed = scope.spawn(|| this.fails(server, &texts(&create)));
            let signed = scope.spawn(|| this.fails(server, &mint));
            [changed, signed].map(|asked| asked.join().unwrap())
        })
    }

    /// Runs a command that has to fail; what it says.
    fn fails(&self, server: &str, arguments: &[&str]) -> String {
        let output = self.output(Some(server), arguments);
        assert!(!output.status.success(), "{server} did {arguments:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Who asks a server for entries as they are now.
    pub fn fresh(&self, server: &str) -> Reader {
        Reader::at(&self.admin_socket(server))
    }

    /// Waits until a daemon ended by itself, calling `provoke` again and again.
    ///
    /// # Panics
    /// When it goes on.
    pub fn ends(&mut self, name: &str, mut provoke: impl FnMut(&mut Self)) -> ExitStatus {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.ended(name) {
                return status;
            }
            assert!(begin.elapsed() < PATIENCE, "{name} goes on");
            provoke(self);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The server among these that says that it leads.
    pub fn leader(&self, among: &[&str]) -> String {
        let leads = |server: &&&str| {
            let status = self.json_on(Some(server), &["cluster", "status"]);
            status.is_some_and(|status| status["role"] == "leader")
        };
        wait::until("a server leads", PATIENCE, || {
            among.iter().find(leads).map(|leader| (*leader).to_owned())
        })
    }

    /// Deletes an entry; whether that was acknowledged or not, nobody may rely on it any more.
    pub fn delete_entry(&mut self, id: &str) {
        self.ledger.entries.remove(id);
        if self.json(&["entry", "delete", id]).is_some() {
            self.ledger.deleted.insert(id.to_owned());
        }
    }

    /// Follows the agent as a workload does.
    pub fn follow(&mut self) {
        self.collector = Some(Collector::follow(&self.socket("agent")));
        wait::until("the workload has an SVID", PATIENCE, || {
            (!self.held().is_empty()).then_some(())
        });
    }

    /// The workload that follows the agent, if there is one.
    pub fn workload(&self) -> Option<&Collector> {
        self.collector.as_ref()
    }

    /// Every SVID that the workload was given.
    pub fn held(&self) -> Vec<Held> {
        self.collector
            .as_ref()
            .map_or_else(Vec::new, Collector::held)
    }

    /// Asks the agent once.
    ///
    /// # Errors
    /// Why it gives nothing.
    pub fn ask(&self) -> Result<Vec<Held>, String> {
        self.collector.as_ref().unwrap().ask()
    }

    /// Waits until the workload was given an SVID for an entry.
    pub fn is_served(&self, entry: &str) {
        let wanted = format!("spiffe://{}/{entry}", self.endpoints.trust_domain);
        wait::until("the workload gets an SVID", PATIENCE, || {
            self.held()
                .iter()
                .any(|one| one.spiffe_id == wanted)
                .then_some(())
        });
    }

    /// Waits until a server issues again, and makes it do so.
    pub fn issues_again(&mut self, server: Option<&str>) {
        self.made += 1;
        let id = format!(
            "spiffe://{}/minted/{}",
            self.endpoints.trust_domain, self.made
        );
        let minted = self.json_at_last(server, &["x509", "mint", "--spiffe-id", &id]);
        let held = super::ledger::minted(&minted, SystemClock.now());
        self.ledger.note([held.unwrap()]);
    }
}
