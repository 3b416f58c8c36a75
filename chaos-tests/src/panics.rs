//! Panics of a simulation, which would otherwise end one task quietly.
//!
//! Always: a panic is remembered by the thread it happened on, and a simulation has one thread.

use std::cell::RefCell;
use std::sync::Once;

thread_local! {
    static LAST: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Remembers panics from now on.
pub fn watch() {
    static WATCH: Once = Once::new();
    WATCH.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            LAST.with(|last| *last.borrow_mut() = Some(info.to_string()));
            before(info);
        }));
    });
}

/// The last panic of this thread, once.
pub fn take() -> Option<String> {
    LAST.with(|last| last.borrow_mut().take())
}
