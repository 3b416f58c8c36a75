//! Owned tasks.
//!
//! Responsible for starting every task of a process, knowing which still run, reporting panics
//! and ending them. Always holds: no task is detached; each has a name and ends with its
//! [`Tasks`]. Not here: what tasks do, and draining work in progress ([`crate::drain`]).

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

pub mod periodic;

/// The tasks of one process (or of one simulated one). A clone shares them.
#[derive(Clone)]
pub struct Tasks(Arc<Inner>);

struct Inner {
    token: CancellationToken,
    running: Mutex<Running>,
    changed: watch::Sender<()>,
    failure: watch::Sender<Option<TaskPanic>>,
    panics: AtomicU64,
}

#[derive(Default)]
struct Running {
    next_id: u64,
    tasks: BTreeMap<u64, Task>,
    /// Set when the stragglers of a shutdown are aborted: nothing starts after that.
    closed: bool,
}

struct Task {
    name: &'static str,
    /// Missing only for the moment between registering and spawning.
    abort: Option<AbortHandle>,
}

/// A task panicked: the process is in doubt and should end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("task {name} panicked: {message}")]
pub struct TaskPanic {
    /// The task's name.
    pub name: &'static str,
    /// The panic's message, if it was text.
    pub message: String,
}

/// What a panic means.
#[derive(Clone, Copy, PartialEq, Eq)]
enum OnPanic {
    /// The process cannot go on: [`Tasks::failed`] returns.
    Fail,
    /// One connection or request is lost; it is counted and logged.
    Count,
}

impl Default for Tasks {
    fn default() -> Self {
        Self::new()
    }
}

impl Tasks {
    /// No tasks yet.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Inner {
            token: CancellationToken::new(),
            running: Mutex::default(),
            changed: watch::Sender::new(()),
            failure: watch::Sender::new(None),
            panics: AtomicU64::new(0),
        }))
    }

    /// Starts a task that the process cannot do without. If it panics, [`Tasks::failed`] returns.
    pub fn spawn(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        self.start(name, OnPanic::Fail, future);
    }

    /// Starts a task on behalf of one caller (a connection, a request). If it panics, that is
    /// logged and counted in [`Tasks::panics`]; the process goes on.
    pub fn spawn_isolated(
        &self,
        name: &'static str,
        future: impl Future<Output = ()> + Send + 'static,
    ) {
        self.start(name, OnPanic::Count, future);
    }

    fn start(
        &self,
        name: &'static str,
        on_panic: OnPanic,
        future: impl Future<Output = ()> + Send + 'static,
    ) {
        let Some(registered) = self.register(name) else {
            tracing::debug!(task = name, "not started: shutting down");
            return;
        };
        let id = registered.id;
        let tasks = self.clone();
        // The registration lives inside the task, so that aborting ends it as well.
        let guarded = async move {
            let registered = registered;
            if let Err(panic) = AssertUnwindSafe(future).catch_unwind().await {
                tasks.report(registered.name, on_panic, panic.as_ref());
            }
        };
        #[expect(clippy::disallowed_methods, reason = "this is where tasks are owned")]
        let handle = tokio::spawn(guarded).abort_handle();
        // The lock is taken only now: a runtime that is going away drops the task, and with it
        // its registration, inside `spawn`.
        let mut running = self.0.lock();
        if running.closed {
            handle.abort();
        } else if let Some(task) = running.tasks.get_mut(&id) {
            task.abort = Some(handle);
        }
    }

    fn register(&self, name: &'static str) -> Option<Registered> {
        let mut running = self.0.lock();
        if running.closed {
            return None;
        }
        let id = running.next_id;
        running.next_id = running.next_id.wrapping_add(1);
        running.tasks.insert(id, Task { name, abort: None });
        Some(Registered {
            id,
            name,
            inner: Arc::clone(&self.0),
        })
    }

    fn report(&self, name: &'static str, on_panic: OnPanic, panic: &(dyn Any + Send)) {
        let message = panic_message(panic);
        self.record_panic(name, &message);
        if on_panic == OnPanic::Fail {
            self.0.failure.send_if_modified(|failure| {
                let first = failure.is_none();
                if first {
                    *failure = Some(TaskPanic { name, message });
                }
                first
            });
        }
    }

    /// Logs and counts a panic that was caught somewhere else (in a request handler, say).
    pub fn record_panic(&self, name: &'static str, message: &str) {
        self.0.panics.fetch_add(1, Ordering::Relaxed);
        tracing::error!(task = name, message, "panic");
    }

    /// Panics of any task so far. A simulator requires zero.
    #[must_use]
    pub fn panics(&self) -> u64 {
        self.0.panics.load(Ordering::Relaxed)
    }

    /// Cancelled when the tasks should end.
    #[must_use]
    pub fn token(&self) -> CancellationToken {
        self.0.token.clone()
    }

    /// The names of the tasks that run now, oldest first.
    #[must_use]
    pub fn running(&self) -> Vec<&'static str> {
        let running = self.0.lock();
        running.tasks.values().map(|task| task.name).collect()
    }

    /// Waits until a task started by [`Tasks::spawn`] panics. Cancel safe.
    pub async fn failed(&self) -> TaskPanic {
        let mut failures = self.0.failure.subscribe();
        match failures.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(failure)) => failure.clone(),
            // The sender is `self`, and only `Some` ends the wait.
            _ => std::future::pending().await,
        }
    }

    /// Asks all tasks to end (through the token), waits for them up to `deadline`, then aborts
    /// the rest. Returns the names of those that had to be aborted.
    pub async fn shutdown(&self, deadline: Duration) -> Vec<&'static str> {
        self.0.token.cancel();
        let _ = tokio::time::timeout(deadline, self.all_ended()).await;
        let mut running = self.0.lock();
        running.closed = true;
        let mut names = Vec::new();
        for task in running.tasks.values() {
            names.push(task.name);
            if let Some(abort) = &task.abort {
                abort.abort();
            }
        }
        names
    }

    /// Waits until no task runs. Cancel safe.
    pub async fn all_ended(&self) {
        let mut changes = self.0.changed.subscribe();
        loop {
            changes.mark_unchanged();
            if self.0.lock().tasks.is_empty() {
                return;
            }
            // The sender is `self`, so waiting for it cannot fail.
            let _ = changes.changed().await;
        }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tasks")
            .field("running", &self.running())
            .finish_non_exhaustive()
    }
}

/// The entry of a task in the list of running ones; removed when the task is gone.
struct Registered {
    id: u64,
    name: &'static str,
    inner: Arc<Inner>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.inner.lock().tasks.remove(&self.id);
        self.inner.changed.send_replace(());
    }
}

/// The text of a panic's payload.
#[must_use]
pub fn panic_message(panic: &(dyn Any + Send)) -> String {
    if let Some(text) = panic.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text.clone()
    } else {
        String::from("(no message)")
    }
}

/// Starts hyper's own futures as isolated tasks.
#[derive(Clone, Debug)]
pub(crate) struct TaskExecutor {
    tasks: Tasks,
    name: &'static str,
}

impl TaskExecutor {
    pub(crate) const fn new(tasks: Tasks, name: &'static str) -> Self {
        Self { tasks, name }
    }
}

impl<F> hyper::rt::Executor<F> for TaskExecutor
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, future: F) {
        self.tasks.spawn_isolated(self.name, async move {
            future.await;
        });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::panic, reason = "tests")]
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn shutdown_waits_for_tasks_that_end_by_themselves() {
        let tasks = Tasks::new();
        let token = tasks.token();
        tasks.spawn("polite", async move {
            token.cancelled().await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        });
        assert_eq!(tasks.running(), ["polite"]);
        let began = tokio::time::Instant::now();
        assert!(tasks.shutdown(Duration::from_secs(5)).await.is_empty());
        assert_eq!(began.elapsed(), Duration::from_secs(1));
        assert!(tasks.running().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn shutdown_names_and_aborts_the_rest() {
        let tasks = Tasks::new();
        tasks.spawn("stubborn", std::future::pending());
        tasks.spawn("quick", async {});
        assert_eq!(tasks.shutdown(Duration::from_secs(5)).await, ["stubborn"]);
        tasks.all_ended().await;
        tasks.spawn("late", std::future::pending());
        assert!(
            tasks.running().is_empty(),
            "nothing starts after a shutdown"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_is_reported_with_name_and_message() {
        let tasks = Tasks::new();
        tasks.spawn("doomed", async { panic!("number {}", 7) });
        assert_eq!(
            tasks.failed().await,
            TaskPanic {
                name: "doomed",
                message: String::from("number 7"),
            }
        );
        assert_eq!(tasks.panics(), 1);
        assert!(tasks.running().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn an_isolated_panic_is_counted_but_fails_nothing() {
        let tasks = Tasks::new();
        tasks.spawn_isolated("request", async { panic!("one caller's bad luck") });
        tasks.all_ended().await;
        assert_eq!(tasks.panics(), 1);
        let failed = tokio::time::timeout(Duration::from_secs(60), tasks.failed()).await;
        assert!(failed.is_err());
    }

    #[test]
    fn a_dead_runtime_leaves_no_task_behind() {
        let tasks = Tasks::new();
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let runtime = runtime.unwrap_or_else(|error| panic!("{error}"));
        let handle = runtime.handle().clone();
        runtime.block_on(async { tasks.spawn("pending", std::future::pending()) });
        drop(runtime);
        let _entered = handle.enter();
        tasks.spawn("too late", std::future::pending());
        assert!(tasks.running().is_empty());
    }
}
