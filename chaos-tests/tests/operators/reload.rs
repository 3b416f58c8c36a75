//! `SIGHUP` makes a running daemon read its configuration again.

use std::path::Path;

use chaos_tests::real::dev::{Dev, signal};
use chaos_tests::real::wait;

use crate::PATIENCE;

/// Sets the filter of log messages in a daemon's file, and tells the daemon.
fn filter(directory: &Path, daemon: &str, pid: i32, key: &str, filter: &str) {
    let path = directory.join(format!("config/{daemon}.toml"));
    let text = std::fs::read_to_string(&path).unwrap();
    let mut file: toml::Table = text.parse().unwrap();
    let log = file.entry("log").or_insert(toml::Table::new().into());
    let log = log.as_table_mut().unwrap();
    log.insert(key.to_owned(), filter.into());
    std::fs::write(&path, file.to_string()).unwrap();
    signal(u32::try_from(pid).unwrap(), "HUP");
}

#[test]
fn a_daemon_that_is_told_takes_over_its_log_filter_and_refuses_a_wrong_one() {
    let dev = Dev::start(&[]);
    let endpoints = dev.endpoints();
    let directory = dev.directory();
    for (daemon, pid, key) in [
        ("agent", endpoints.agent_pid, "filter"),
        ("server-1", endpoints.servers[0].pid, "level"),
    ] {
        let log = directory.join(format!("log/{daemon}.log"));
        // Something to log about.
        let log = || {
            let asked = dev.run(&["x509", "fetch"]).status.success();
            let listed = dev.run(&["entry", "list"]).status.success();
            assert!(asked && listed, "{daemon} does not serve");
            std::fs::read_to_string(&log).unwrap()
        };
        assert!(log().contains(" INFO "), "{daemon}");
        assert!(!log().contains(" DEBUG "), "{daemon}");
        filter(directory, daemon, pid, key, "inof");
        wait::until("the wrong filter is refused", PATIENCE, || {
            log()
                .contains("the configuration stays as it was")
                .then_some(())
        });
        assert!(
            log().contains("inof"),
            "{daemon} does not say what is wrong"
        );
        assert!(!log().contains(" DEBUG "), "{daemon}");
        filter(directory, daemon, pid, key, "debug");
        wait::until("the new filter counts", PATIENCE, || {
            log().contains(" DEBUG ").then_some(())
        });
    }
}
