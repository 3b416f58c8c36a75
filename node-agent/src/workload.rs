//! Who is calling: from a connected process to its selectors.
//!
//! Responsible for: running the workload attestors for the process behind a connection, and
//! tying what they find to that very process. Always holds: the process that connected was
//! alive before and after everything that was read about it, so a reused pid yields nothing.
//! Not here: what the selectors entitle to (`cache`).

use std::sync::Arc;

use mintmark_identity::selector::Selectors;
use mintmark_runtime::unix::Peer;

use self::attestor::{AttestError, Attested, WorkloadAttestor};

pub mod attestor;
pub mod procfs;
pub mod unix;

/// All workload attestors of this agent.
#[derive(Clone, Debug)]
pub struct Workloads(Arc<Vec<Box<dyn WorkloadAttestor>>>);

impl Workloads {
    /// Attests with all of these.
    #[must_use]
    pub fn new(attestors: Vec<Box<dyn WorkloadAttestor>>) -> Self {
        Self(Arc::new(attestors))
    }

    /// The selectors of the process behind a connection.
    ///
    /// # Errors
    /// When it is gone, cannot be seen, or nothing at all can be found out about it.
    pub async fn attest(&self, peer: &Peer) -> Result<Attested, AttestError> {
        let pid = peer.pid.ok_or(AttestError::Invisible)?;
        if !peer.is_alive() {
            return Err(AttestError::Gone);
        }
        let attested = self.attest_pid(pid).await;
        // Only now is it certain that `pid` meant this process all the while.
        if !peer.is_alive() {
            return Err(AttestError::Gone);
        }
        attested
    }

    /// The selectors of whatever process has this pid now: for explanations only.
    ///
    /// # Errors
    /// As [`Self::attest`].
    pub async fn attest_pid(&self, pid: u32) -> Result<Attested, AttestError> {
        let mut all = Attested {
            selectors: Selectors::new(),
            unreadable: Vec::new(),
        };
        for attestor in self.0.iter() {
            let found = attestor.attest(pid).await?;
            all.selectors.extend(found.selectors);
            all.unreadable.extend(found.unreadable);
        }
        Ok(all)
    }

    /// What is known of any process of this user, without looking at one: for explanations only.
    pub async fn describe_user(&self, uid: u32) -> Attested {
        let mut all = Attested {
            selectors: Selectors::new(),
            unreadable: Vec::new(),
        };
        for attestor in self.0.iter() {
            let found = attestor.describe_user(uid).await;
            all.selectors.extend(found.selectors);
            all.unreadable.extend(found.unreadable);
        }
        all
    }
}
