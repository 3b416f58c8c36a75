//! A cluster of processes that are killed at failpoints.
//!
//! Each daemon follows a file of failpoints of its own (`FAILPOINTS=@…`), so that a test arms it when it is
//! where it should be. A daemon counts as killed at a step only if it said so and died of it.

use std::ops::{Deref, DerefMut};
use std::os::unix::process::ExitStatusExt as _;
use std::time::{Duration, Instant};

use mintmark_runtime::failpoint::Step;

use super::binary;
use super::cluster::{Cluster, PATIENCE};

/// The signal by which a failpoint ends its process.
const SIGKILL: i32 = 9;

/// A cluster whose binary has failpoints.
#[derive(Debug)]
pub struct CrashCluster(Cluster);

impl Deref for CrashCluster {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.0
    }
}

impl DerefMut for CrashCluster {
    fn deref_mut(&mut self) -> &mut Cluster {
        &mut self.0
    }
}

impl CrashCluster {
    /// Makes a cluster with the arguments of `mintmark dev`, and stops it.
    pub fn make(arguments: &[&str]) -> Self {
        Self(Cluster::make(binary::mintmark_with_failpoints(), arguments))
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
            if let Some(status) = self.ended(name) {
                break status;
            }
            assert!(
                begin.elapsed() < PATIENCE,
                "{name} did not come to {step:?}\n{}",
                self.log_of(name)
            );
            std::thread::sleep(Duration::from_millis(10));
        };
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
        if let Some(workload) = self.workload().filter(|_| name != "agent") {
            let served = workload.ask();
            let served = served.unwrap_or_else(|error| panic!("P5, at {step:?}: {error}"));
            self.ledger.note(served);
        }
        self.start(name);
    }
}
