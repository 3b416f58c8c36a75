//! Who waits for which command.
//!
//! Responsible for: handing the result of a command to its proposer when it is applied
//! here. Always holds: a ticket is answered once; tickets of an earlier run of this
//! server, met again when the log is replayed, answer nobody. Not here: how the command
//! gets into the log ([`super::propose`]).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::state::Position;
use mintmark_identity::entropy::{Entropy, draw_u64};
use mintmark_proto::mintmark::raft::v1 as pb;
use tokio::sync::oneshot;

/// Marks a command among all of all servers and runs.
pub type Ticket = [u8; 16];

/// A command was applied on this server.
#[derive(Debug, Clone, PartialEq)]
pub struct LocallyApplied {
    /// What apply returned here.
    pub result: pb::CommandResult,
    /// Where the state stood then.
    pub position: Position,
}

/// The open tickets of this server. A clone shares them.
#[derive(Debug, Clone)]
pub struct Waiters(Arc<Mutex<Open>>);

#[derive(Debug)]
struct Open {
    run: u64,
    next: u64,
    waiting: BTreeMap<Ticket, oneshot::Sender<LocallyApplied>>,
}

/// An open ticket; dropping it closes it.
#[derive(Debug)]
pub struct Waiting {
    ticket: Ticket,
    applied: oneshot::Receiver<LocallyApplied>,
    waiters: Waiters,
}

impl Waiters {
    /// No tickets, of a new run.
    #[must_use]
    pub fn new(entropy: &dyn Entropy) -> Self {
        Self(Arc::new(Mutex::new(Open {
            run: draw_u64(entropy),
            next: 0,
            waiting: BTreeMap::new(),
        })))
    }

    /// A new ticket.
    #[must_use]
    pub fn open(&self) -> Waiting {
        let (send, applied) = oneshot::channel();
        let mut open = self.lock();
        let ticket: Ticket = {
            let mut ticket = [0; 16];
            let (run, number) = ticket.split_at_mut(8);
            run.copy_from_slice(&open.run.to_be_bytes());
            number.copy_from_slice(&open.next.to_be_bytes());
            ticket
        };
        open.next = open.next.wrapping_add(1);
        open.waiting.insert(ticket, send);
        Waiting {
            ticket,
            applied,
            waiters: self.clone(),
        }
    }

    /// Tells whoever waits for this ticket, if it is one of ours.
    pub fn applied(&self, ticket: &[u8], applied: impl FnOnce() -> LocallyApplied) {
        let Ok(ticket) = Ticket::try_from(ticket) else {
            return;
        };
        let waiter = self.lock().waiting.remove(&ticket);
        if let Some(waiter) = waiter {
            // A proposer that gave up has said "unknown" already.
            let _ = waiter.send(applied());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// The ticket, for the command.
    #[must_use]
    pub fn ticket(&self) -> Ticket {
        self.ticket
    }

    /// Waits until the command was applied here. Cancel safe.
    pub async fn applied(&mut self) -> LocallyApplied {
        match (&mut self.applied).await {
            Ok(applied) => applied,
            // The sender goes only with an answer or with this value.
            Err(_) => std::future::pending().await,
        }
    }

    /// The answer, if it is there.
    pub fn try_applied(&mut self) -> Option<LocallyApplied> {
        self.applied.try_recv().ok()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.waiters.lock().waiting.remove(&self.ticket);
    }
}
