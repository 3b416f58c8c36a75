//! Signed checkpoints of the audit log.
//!
//! Responsible for: accepting a checkpoint into the replicated state.
//! Always holds: an accepted checkpoint is signed by the log's key, is larger
//! than the last one, and is about the root that the tree had at that size; so
//! all accepted checkpoints extend each other.
//! Not here: making checkpoints, and witnesses.

use mintmark_proto::mintmark::raft::v1::{CommandResult, Refusal, SignCheckpoint};
use mintmark_proto::mintmark::state::v1::Checkpoint;

use super::State;
use super::event::Event;
use super::settings::not_initialized;
use super::turn::{Decided, Refused, Turn, digest};

impl State {
    /// Leaves no leaf when it is accepted: the tree would grow for being signed.
    pub(super) fn sign_checkpoint(
        &mut self,
        turn: &mut Turn<'_>,
        body: &SignCheckpoint,
    ) -> Decided<CommandResult> {
        let mut checkpoint = body.checkpoint.clone().unwrap_or_default();
        self.check_checkpoint(&checkpoint)?;
        checkpoint.signed_at_ms = turn.now.unix_millis();
        self.audit.last_checkpoint = Some(checkpoint);
        turn.emit(Event::CheckpointSigned);
        Ok(CommandResult::default())
    }

    fn check_checkpoint(&self, asked: &Checkpoint) -> Decided<()> {
        let root = digest("root", &asked.root)?;
        let last = self.last_checkpoint().map_or(0, |last| last.size);
        if asked.size <= last {
            let detail = format!("a checkpoint of {last} leaves is signed already");
            return Err(Refused::new(Refusal::Stale, detail));
        }
        match self.audit.root_of(asked.size) {
            Some(known) if known == root => {}
            Some(_) => return Err(Refused::invalid("the tree had another root at that size")),
            None if asked.size > self.audit_size() => {
                return Err(Refused::invalid("the tree is not that large"));
            }
            None => {
                let detail = "the root at that size is no longer remembered";
                return Err(Refused::new(Refusal::Stale, detail));
            }
        }
        let verifier = self.log_verifier().ok_or_else(not_initialized)?;
        let opened = mintmark_tlog::Checkpoint::open(&asked.note, verifier)
            .map_err(|error| Refused::invalid(error.to_string()))?;
        if opened.size != asked.size || opened.root != root {
            return Err(Refused::invalid("the note is about another tree"));
        }
        Ok(())
    }
}
