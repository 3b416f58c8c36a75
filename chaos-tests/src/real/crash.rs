//! A cluster of processes that are killed at failpoints, and what must be true of it afterwards.
//!
//! `mintmark dev` makes the directory and is gone then: each daemon is started by itself and follows a
//! file of failpoints of its own (`FAILPOINTS=@…`), so that a test arms it when it is where it should be.
//! A daemon counts as killed at a step only if it said so and died of it.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use mintmark_identity::clock::{Clock, SystemClock};
use mintmark_runtime::failpoint::Step;
use serde_json::Value;

use super::collector::{Collector, Held};
use super::daemon::Daemon;
use super::dev::{Endpoints, signal};
use super::ledger::Ledger;
use super::{binary, wait};

/// How long anything may take on a busy machine. Not a promise about speed.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// A user that is nobody here: entries for it make log, and no SVID.
const NOBODY: u32 = 4242;
/// The signal by which a failpoint ends its process.
const SIGKILL: i32 = 9;

/// The cluster.
#[derive(Debug)]
pub struct CrashCluster {
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

impl CrashCluster {
    /// Makes a cluster with the arguments of `mintmark dev`, and stops it.
    pub fn make(arguments: &[&str]) -> Self {
        let temporary = tempfile::Builder::new().prefix("mm").tempdir().unwrap();
        let directory = temporary.path().to_owned();
        let log = std::fs::File::create(directory.join("dev.log")).unwrap();
        let mut dev = Command::new(binary::mintmark_with_failpoints())
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
        Self {
            directory,
            endpoints: serde_json::from_str(&text).unwrap(),
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

    /// Starts a daemon. One that ran before has to be gone.
    pub fn start(&mut self, name: &str) {
        let mut program = Command::new(binary::mintmark_with_failpoints());
        program.env(
            "FAILPOINTS",
            format!("@{}", self.failpoints(name).display()),
        );
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

    fn failpoints(&self, name: &str) -> PathBuf {
        self.directory.join(format!("failpoints-{name}"))
    }

    /// What a daemon wrote to its log.
    pub fn log_of(&self, name: &str) -> String {
        let file = self.directory.join("log").join(format!("{name}.log"));
        std::fs::read_to_string(file).unwrap_or_default()
    }

    /// Lets a daemon die when it comes to a step, from now on.
    pub fn arm(&self, name: &str, step: Step) {
        let file = self.failpoints(name);
        std::fs::write(&file, format!("{}=kill", step.name())).unwrap();
    }

    /// Waits until the daemon died at the step, calling `provoke` again and again; disarms it then.
    ///
    /// # Panics
    /// When it does not come there, or dies of something else.
    pub fn dies(&mut self, name: &str, step: Step, mut provoke: impl FnMut(&mut Self)) {
        let begin = Instant::now();
        let status = loop {
            provoke(self);
            let ended = self.daemons.get_mut(name).unwrap().ended();
            if let Some(status) = ended {
                break status;
            }
            assert!(
                begin.elapsed() < PATIENCE,
                "{name} did not come to {step:?}\n{}",
                self.log_of(name)
            );
            std::thread::sleep(Duration::from_millis(10));
        };
        self.daemons.remove(name);
        std::fs::remove_file(self.failpoints(name)).unwrap();
        let log = self.log_of(name);
        let told = format!("failpoint {} reached: this process ends", step.name());
        let times = log.matches(&told).count();
        assert_eq!(status.signal(), Some(SIGKILL), "{name}: {status}\n{log}");
        assert!(times > 0, "{name} died elsewhere than at {step:?}\n{log}");
        eprintln!("{name} died at {} after {:?}", step.name(), begin.elapsed());
    }

    /// Arms a daemon that runs, waits for its death, checks that workloads keep what they have, and
    /// starts it again.
    pub fn kill_at(&mut self, name: &str, step: Step, provoke: impl FnMut(&mut Self)) {
        self.arm(name, step);
        self.dies(name, step, provoke);
        if let Some(workload) = self.collector.as_ref().filter(|_| name != "agent") {
            let served = workload.ask();
            let served = served.unwrap_or_else(|error| panic!("P5, at {step:?}: {error}"));
            self.ledger.note(served);
        }
        self.start(name);
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
        let mut command = Command::new(binary::mintmark_with_failpoints());
        command.args(arguments).args(["-o", "json"]);
        if let Some(server) = server {
            let socket = self.directory.join("admin").join(format!("{server}.sock"));
            command.arg("--server-socket").arg(socket);
        }
        let output = command
            .env("MINTMARK_DIR", &self.directory)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        output.status.success().then_some(text)
    }

    /// Runs a command until it succeeds.
    pub fn json_at_last(&self, server: Option<&str>, arguments: &[&str]) -> Value {
        wait::until(&format!("{arguments:?}"), PATIENCE, || {
            self.json_on(server, arguments)
        })
    }

    /// Makes an entry that gives this process an SVID.
    pub fn make_entry(&mut self, server: Option<&str>) -> Option<String> {
        let uid = std::fs::metadata("/proc/self").unwrap().uid();
        self.make_entry_for(uid, server)
    }

    /// Makes an entry for nobody: one more entry of the log.
    pub fn make_noise(&mut self, server: Option<&str>) {
        self.make_entry_for(NOBODY, server);
    }

    fn make_entry_for(&mut self, uid: u32, server: Option<&str>) -> Option<String> {
        self.made += 1;
        let id = format!("entry-{}", self.made);
        let arguments = [
            "entry",
            "create",
            "--entry-id",
            &id,
            "--parent-id",
            &self.endpoints.node_alias(),
            "--spiffe-id",
            &format!("spiffe://{}/{id}", self.endpoints.trust_domain),
            "--selector",
            &format!("unix:uid:{uid}"),
        ];
        self.json_on(server, &arguments)?;
        self.ledger.entries.insert(id.clone());
        Some(id)
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

    /// Everything that must be true whenever the cluster stands again.
    ///
    /// # Panics
    /// When a promise is broken.
    pub fn check(&mut self, servers: &[&str]) {
        for server in servers {
            self.issues_again(Some(server));
        }
        self.ledger.note(self.held());
        for server in servers {
            self.check_server(server);
        }
        self.agree(servers);
        self.check_workload();
    }

    fn check_server(&mut self, server: &str) {
        let mut verify = vec!["audit", "verify"];
        let vkey = self.vkey.clone();
        if let Some(vkey) = &vkey {
            verify.extend(["--vkey", vkey]);
        }
        let verified = self.json_at_last(Some(server), &verify);
        assert_eq!(verified["valid"], true, "P7: {verified}");
        self.vkey = verified["vkey"].as_str().map(str::to_owned);
        let tail = ["audit", "tail", "--from", "0"];
        let known = self.ledger.leaf_count();
        let leaves = wait::until("a server has the whole log", PATIENCE, || {
            let text = self.run(Some(server), &tail)?;
            let leaves = text.lines().map(|line| serde_json::from_str(line).unwrap());
            let leaves: Vec<Value> = leaves.collect();
            (leaves.len() >= known).then_some(leaves)
        });
        self.ledger.check_log(leaves);
        let listed = self.json_at_last(Some(server), &["entry", "list"]);
        self.ledger.check_entries(&listed);
        for agent in &self.ledger.banned {
            let shown = self.json_at_last(Some(server), &["agent", "show", agent]);
            assert_eq!(shown["banned"], true, "P3: {agent} is no longer banned");
        }
    }

    /// Servers have the same log, root and size, as soon as they stand at the same place.
    fn agree(&self, servers: &[&str]) {
        if servers.len() < 2 {
            return;
        }
        wait::until("the servers agree", PATIENCE, || {
            let statuses: Option<Vec<Value>> = servers
                .iter()
                .map(|server| self.json_on(Some(server), &["cluster", "status"]))
                .collect();
            let statuses = statuses?;
            let first = statuses.first()?;
            let sizes_agree = statuses
                .iter()
                .all(|one| one["audit_size"] == first["audit_size"]);
            if !sizes_agree {
                return None;
            }
            for one in &statuses {
                assert_eq!(one["audit_root"], first["audit_root"], "the servers differ");
            }
            Some(())
        });
    }

    /// What the workload was given verified, and it never was without a valid SVID.
    fn check_workload(&self) {
        let Some(collector) = &self.collector else {
            return;
        };
        assert_eq!(collector.refused(), Vec::<String>::new(), "P5");
        if !self.outlives_restarts {
            return;
        }
        let held = collector.held();
        let own = held
            .iter()
            .filter(|one| one.spiffe_id == self.endpoints.workload_spiffe_id);
        let own: Vec<&Held> = own.collect();
        for pair in own.windows(2) {
            assert!(
                pair[1].seen_at <= pair[0].not_after,
                "P5: the workload was without a valid SVID: {pair:?}"
            );
        }
        let last = own.last().expect("the workload has an SVID");
        assert!(SystemClock.now() <= last.not_after, "P5: {last:?} ran out");
    }
}
