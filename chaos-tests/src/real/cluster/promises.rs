//! What must be true of a cluster whenever it stands again, looked at from outside.

use mintmark_identity::clock::{Clock, SystemClock};
use serde_json::Value;

use super::super::collector::Held;
use super::super::wait;
use super::{Cluster, PATIENCE};

impl Cluster {
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
                assert_eq!(one["differing_members"], 0, "the servers' states differ");
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
