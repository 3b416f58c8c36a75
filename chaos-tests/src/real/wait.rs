//! Level-triggered waiting: look at the thing itself, again and again, until it is so or time is up.

use std::time::{Duration, Instant};

/// Looks every 20 ms until `look` returns something; panics with `what` after `limit`.
pub fn until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < limit, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
