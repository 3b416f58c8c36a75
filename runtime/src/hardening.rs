//! What a process that holds keys asks of its machine.
//!
//! Responsible for: keeping the memory of a daemon out of core dumps and away from other processes of
//! the same user. Always holds: it never keeps a daemon from running. Not here: swap, which is the
//! machine's to encrypt or switch off.

use nix::sys::{
    prctl::set_dumpable,
    resource::{Resource, setrlimit},
};

/// Leaves no core dump, and lets no process of the same user attach: memory holds private keys. Call it
/// once, as early as there is a log to say that it failed.
pub fn keep_memory_private() {
    let done = setrlimit(Resource::RLIMIT_CORE, 0, 0).and_then(|()| set_dumpable(false));
    if let Err(error) = done {
        tracing::warn!(%error, "the memory of this process can be dumped");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use nix::sys::{prctl::get_dumpable, resource::getrlimit};

    use super::*;

    #[test]
    fn nothing_dumps_a_process_that_holds_keys() {
        keep_memory_private();
        assert_eq!(getrlimit(Resource::RLIMIT_CORE).unwrap(), (0, 0));
        assert!(!get_dumpable().unwrap());
    }
}
