//! A server that is killed at each durable step of making a cluster makes it at its next start.

use chaos_tests::real::crash::CrashCluster;
use mintmark_runtime::failpoint::Step;

use crate::{Group, steps_of};

const SERVER: &str = "server-1";

/// The first authorities of a cluster are made without anybody who could acknowledge them.
const COLD_START: [Step; 4] = [
    Step::AuthorityKeyMade,
    Step::AuthorityKeySealed,
    Step::AuthorityPrepared,
    Step::AuthorityActivating,
];

#[test]
fn a_cluster_whose_making_is_interrupted_anywhere_is_made_once() {
    let mut cluster = CrashCluster::make(&[]);
    for step in steps_of(Group::Making).into_iter().chain(COLD_START) {
        cluster.wipe(SERVER);
        cluster.forget();
        let _ = std::fs::remove_file(cluster.directory().join("audit.jsonl"));
        let _ = std::fs::remove_file(cluster.directory().join("audit.jsonl.cursor"));
        cluster.arm(SERVER, step);
        cluster.start(SERVER);
        cluster.dies(SERVER, step, |_| {});
        cluster.start(SERVER);
        cluster.check(&[SERVER]);
        cluster.make_noise(None);
        cluster.check(&[SERVER]);
        let made = cluster.ledger.leaves().iter();
        let made = made.filter(|leaf| leaf["action"] == "cluster.initialize");
        assert_eq!(made.count(), 1, "made once, after {step:?}");
        cluster.kill(SERVER);
    }
}
