//! The tokio runtime as openraft sees it, with seeded randomness.
//!
//! Responsible for: giving the consensus library its election draws from a seed that
//! comes out of `Host.entropy`, so that a simulated cluster replays. Always holds: what
//! runs inside [`SeededRuntime::scope`] draws only from the seed, and every task that it
//! spawns gets a fork of it. Not here: anything secret; these draws only space elections.

use std::cell::RefCell;
use std::future::Future;
use std::time::Duration;

use openraft::{AsyncRuntime, OptionalSend, TokioRuntime};
use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};

tokio::task_local! {
    static DRAWS: RefCell<SmallRng>;
}

/// Tokio, but for the source of random numbers.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct SeededRuntime;

impl SeededRuntime {
    /// Runs `future`, and what it spawns through openraft, with draws from `seed`.
    pub fn scope<F: Future>(seed: u64, future: F) -> impl Future<Output = F::Output> {
        DRAWS.scope(RefCell::new(SmallRng::seed_from_u64(seed)), future)
    }
}

/// A new seed from the draws of the running task, if it stands in a scope.
fn fork() -> Option<u64> {
    DRAWS.try_with(|draws| draws.borrow_mut().next_u64()).ok()
}

type Tokio = TokioRuntime;

impl AsyncRuntime for SeededRuntime {
    type JoinError = <Tokio as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <Tokio as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <Tokio as AsyncRuntime>::Sleep;
    type Instant = <Tokio as AsyncRuntime>::Instant;
    type TimeoutError = <Tokio as AsyncRuntime>::TimeoutError;
    type Timeout<R, F: Future<Output = R> + OptionalSend> = <Tokio as AsyncRuntime>::Timeout<R, F>;
    type ThreadLocalRng = SmallRng;
    type OneshotSender<T: OptionalSend> = <Tokio as AsyncRuntime>::OneshotSender<T>;
    type OneshotReceiverError = <Tokio as AsyncRuntime>::OneshotReceiverError;
    type OneshotReceiver<T: OptionalSend> = <Tokio as AsyncRuntime>::OneshotReceiver<T>;

    fn spawn<F>(future: F) -> Self::JoinHandle<F::Output>
    where
        F: Future + OptionalSend + 'static,
        F::Output: OptionalSend + 'static,
    {
        match fork() {
            Some(seed) => Tokio::spawn(Self::scope(seed, future)),
            None => Tokio::spawn(future),
        }
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        Tokio::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        Tokio::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        Tokio::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Self::Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        Tokio::timeout_at(deadline, future)
    }

    fn is_panic(error: &Self::JoinError) -> bool {
        Tokio::is_panic(error)
    }

    #[allow(
        clippy::expect_used,
        reason = "openraft draws once, in `Raft::new`, which `Consensus::open` runs in a scope"
    )]
    fn thread_rng() -> Self::ThreadLocalRng {
        SmallRng::seed_from_u64(fork().expect("openraft draws only inside of a scope"))
    }

    fn oneshot<T: OptionalSend>() -> (Self::OneshotSender<T>, Self::OneshotReceiver<T>) {
        Tokio::oneshot()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn draws_of(seed: u64) -> Vec<u64> {
        SeededRuntime::scope(seed, async {
            let own = SeededRuntime::thread_rng().next_u64();
            let spawned = SeededRuntime::spawn(async { SeededRuntime::thread_rng().next_u64() });
            let next = SeededRuntime::thread_rng().next_u64();
            vec![own, spawned.await.unwrap(), next]
        })
        .await
    }

    #[tokio::test]
    async fn equal_seeds_draw_equally_and_every_fork_differs() {
        let first = draws_of(7).await;
        assert_eq!(first, draws_of(7).await);
        assert_ne!(first, draws_of(8).await);
        assert!(first[0] != first[1] && first[1] != first[2]);
    }
}
