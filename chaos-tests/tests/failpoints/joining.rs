//! A second server joins, and it or the first is killed at each durable step of that.

use std::time::Duration;

use chaos_tests::real::crash::CrashCluster;
use chaos_tests::real::wait;
use mintmark_runtime::failpoint::Step;

use crate::{Group, steps_of};

const FIRST: &str = "server-1";
const SECOND: &str = "server-2";

/// Makes the first server's cluster anew and invites the second.
fn anew(cluster: &mut CrashCluster) {
    cluster.kill_all();
    cluster.forget();
    for server in [FIRST, SECOND] {
        cluster.wipe(server);
    }
    let _ = std::fs::remove_file(cluster.directory().join("audit.jsonl"));
    let _ = std::fs::remove_file(cluster.directory().join("audit.jsonl.cursor"));
    cluster.start(FIRST);
    let token = cluster.json_at_last(Some(FIRST), &["token", "server"]);
    let config = cluster.directory().join("config");
    let text = token["token"].as_str().unwrap();
    std::fs::write(config.join("server-2.token"), text).unwrap();
    cluster.configure(SECOND, |text| {
        let pin = token["pin"].as_str().unwrap();
        let lines = text.lines().map(|line| {
            if line.starts_with("pin = ") {
                format!("pin = \"{pin}\"\n")
            } else {
                format!("{line}\n")
            }
        });
        lines.collect()
    });
}

#[test]
fn a_server_whose_admission_is_interrupted_anywhere_is_admitted_once() {
    let mut cluster = CrashCluster::make(&["--servers", "2"]);
    for step in steps_of(Group::Joining) {
        let victim = match step {
            Step::JoinAnswered | Step::JoinRemembered => SECOND,
            _ => FIRST,
        };
        anew(&mut cluster);
        cluster.arm(victim, step);
        cluster.start(SECOND);
        cluster.dies(victim, step, |_| {});
        cluster.start(victim);
        wait::until("both servers vote", Duration::from_secs(60), || {
            let status = cluster.json_on(Some(SECOND), &["cluster", "status"])?;
            let members = status["members"].as_array().unwrap().clone();
            assert!(
                members.len() <= 2,
                "admitted once, after {step:?}: {status}"
            );
            let voters = members.iter().filter(|one| one["voter"] == true).count();
            (voters == 2).then_some(())
        });
        cluster.make_noise(Some(SECOND));
        cluster.check(&[FIRST, SECOND]);
    }
}
