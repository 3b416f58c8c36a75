//! Signals reach the whole process, so this test has a process of its own.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use mintmark_runtime::drain::drain;
use mintmark_runtime::signals;
use mintmark_runtime::task::Tasks;
use nix::sys::signal::{Signal, raise};

#[tokio::test]
async fn the_first_signal_drains_and_the_second_ends() {
    let tasks = Tasks::new();
    let (trigger, watch) = drain();
    let reload = signals::listen(&tasks, trigger.clone(), Duration::from_secs(3600)).unwrap();

    raise(Signal::SIGHUP).unwrap();
    reload.woken().await;
    assert!(!watch.is_started());

    let _work = watch.guard();
    raise(Signal::SIGTERM).unwrap();
    watch.started().await;
    raise(Signal::SIGINT).unwrap();
    // The grace of an hour is over at once.
    assert!(!trigger.finished().await);

    let left = tasks.shutdown(Duration::from_secs(60)).await;
    assert!(left.is_empty(), "{left:?}");
}
