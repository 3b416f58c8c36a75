//! Signals of the operating system.
//!
//! Responsible for turning `SIGTERM` and `SIGINT` into a drain, a second one into an immediate
//! end, and `SIGHUP` into a wake-up. Always holds: from the call on, none of them kills the
//! process by default. Not here: what draining means.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::drain::DrainTrigger;
use crate::task::Tasks;
use crate::task::periodic::Wake;

/// Starts listening. The first `SIGTERM` or `SIGINT` drains with `grace`, the next one without.
/// `SIGHUP` wakes the returned [`Wake`] (re-read the configuration, re-open files).
///
/// # Errors
/// When the handlers cannot be installed.
pub fn listen(tasks: &Tasks, drain: DrainTrigger, grace: Duration) -> io::Result<Wake> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let (wake, token) = (Wake::new(), tasks.token());
    let woken = wake.clone();
    tasks.spawn("signals", async move {
        let mut grace = grace;
        loop {
            let name = tokio::select! {
                biased;
                () = token.cancelled() => return,
                () = received(&mut terminate) => "SIGTERM",
                () = received(&mut interrupt) => "SIGINT",
                () = received(&mut hang_up) => {
                    tracing::info!("SIGHUP: reloading");
                    woken.wake();
                    continue;
                }
            };
            tracing::info!(signal = name, grace = ?grace, "shutting down");
            drain.start(grace);
            grace = Duration::ZERO;
        }
    });
    Ok(wake)
}

async fn received(signal: &mut Signal) {
    if signal.recv().await.is_none() {
        // The runtime's signal driver is gone; there is nothing left to wait for.
        std::future::pending().await
    }
}
