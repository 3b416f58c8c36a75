//! The monotonic clock that libraries read by themselves (`std::time::Instant`).
//!
//! Always: in a thread that simulates, it shows the simulation's time and stands still between two steps; in
//! every other thread it is the system's.
//!
//! Not here: tokio's timers, which the simulator advances itself; wall time (`clock`).

#![allow(
    unsafe_code,
    reason = "a symbol of the C library is replaced: docs/decisions/0041"
)]

use std::cell::Cell;
use std::ffi::c_int;
use std::marker::PhantomData;
use std::time::Duration;

use libc::{CLOCK_MONOTONIC, SYS_clock_gettime, clockid_t, timespec};

/// What the clock shows when a simulation begins; libraries may subtract from it.
const BEGINNING: Duration = Duration::from_secs(3_600);

thread_local! {
    static SHOWN: Cell<Option<Duration>> = const { Cell::new(None) };
}

/// While it lives, this thread's `Instant`s are the simulation's.
#[derive(Debug)]
pub struct SimulatedInstants {
    /// It belongs to its thread.
    _thread: PhantomData<*const ()>,
}

impl SimulatedInstants {
    /// The simulation begins.
    pub fn begin() -> Self {
        SHOWN.set(Some(BEGINNING));
        Self {
            _thread: PhantomData,
        }
    }

    /// It has come so far.
    pub fn reached(&self, elapsed: Duration) {
        SHOWN.set(Some(BEGINNING + elapsed));
    }
}

impl Drop for SimulatedInstants {
    fn drop(&mut self) {
        SHOWN.set(None);
    }
}

/// What the standard library reads for `Instant::now`.
///
/// # Safety
/// As of the C library's function: `time` is null or may be written.
// SAFETY: the name is the C library's, and so are the signature and the meaning of both arguments and of what is
// returned, so whoever calls that function may be given this one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: clockid_t, time: *mut timespec) -> c_int {
    let shown = (clock == CLOCK_MONOTONIC).then(|| SHOWN.get()).flatten();
    if let Some(shown) = shown
        && !time.is_null()
    {
        let shown = timespec {
            tv_sec: i64::try_from(shown.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(shown.subsec_nanos()),
        };
        // SAFETY: the caller gives a pointer that may be written, and it is not null.
        unsafe { time.write(shown) };
        return 0;
    }
    // SAFETY: the arguments are the caller's, and the kernel checks them.
    let result = unsafe { libc::syscall(SYS_clock_gettime, clock, time) };
    c_int::try_from(result).unwrap_or(-1)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods, reason = "it is about the real clock")]
    fn instants_follow_the_simulation_and_then_the_system_again() {
        const MOMENT: Duration = Duration::from_millis(2);
        let instants = SimulatedInstants::begin();
        let beginning = Instant::now();
        std::thread::sleep(MOMENT);
        assert_eq!(Instant::now(), beginning);
        instants.reached(Duration::from_millis(5));
        assert_eq!(beginning.elapsed(), Duration::from_millis(5));
        let elsewhere = std::thread::spawn(|| {
            let before = Instant::now();
            std::thread::sleep(MOMENT);
            before.elapsed()
        });
        assert!(elsewhere.join().unwrap() >= MOMENT);

        drop(instants);
        let before = Instant::now();
        std::thread::sleep(MOMENT);
        assert!(before.elapsed() >= MOMENT);
    }
}
