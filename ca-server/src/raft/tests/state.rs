//! A small replicated state: it collects names and writes a leaf for each.

use std::error::Error;

use mintmark_proto::mintmark::raft::v1 as pb;
use mintmark_tlog::{Frontier, leaf_hash};
use prost::Message;

use crate::raft::replicated_state::{Applied, ReplicatedState};
use crate::state::Position;

/// Names in the order of their commands.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Names {
    pub index: u64,
    pub names: Vec<String>,
    pub time_ms: i64,
    keys: Vec<Vec<u8>>,
    frontier: Frontier,
}

impl Names {
    /// As if the first leaf had been another one.
    pub fn corrupt_tree(&mut self) {
        self.frontier = Frontier::new();
        self.frontier.push(leaf_hash(b"rot"));
        for name in self.names.iter().skip(1) {
            self.frontier.push(leaf_hash(name.as_bytes()));
        }
    }

    /// As if a name had been another one, whose leaf nobody sees any more.
    pub fn corrupt_name(&mut self) {
        self.names[0].push_str(" with rot");
    }
}

/// The command that adds a name.
pub fn add(name: &str) -> pb::command::Body {
    pb::command::Body::RecordDenial(pb::RecordDenial {
        subject: name.to_owned(),
        ..Default::default()
    })
}

impl ReplicatedState for Names {
    fn initial() -> Self {
        Self::default()
    }

    fn understands(command: &pb::Command) -> bool {
        command.version <= 1
    }

    fn apply(&mut self, index: u64, command: &pb::Command) -> Applied {
        assert_eq!(index, self.index + 1, "every command is applied once");
        self.index = index;
        self.time_ms = self.time_ms.max(command.time_ms);
        let Some(pb::command::Body::RecordDenial(denial)) = &command.body else {
            return Applied::default();
        };
        assert_ne!(denial.subject, "panic", "a poisoned command");
        if !command.idempotency_key.is_empty() && self.keys.contains(&command.idempotency_key) {
            return Applied {
                result: pb::CommandResult {
                    replayed: true,
                    ..Default::default()
                },
                ..Applied::default()
            };
        }
        self.keys.push(command.idempotency_key.clone());
        self.names.push(denial.subject.clone());
        let leaf = denial.subject.clone().into_bytes();
        let first_leaf_index = self.frontier.size();
        self.frontier.push(leaf_hash(&leaf));
        Applied {
            result: pb::CommandResult {
                detail: denial.subject.clone(),
                first_leaf_index,
                ..Default::default()
            },
            leaves: vec![leaf],
            first_leaf_index,
        }
    }

    fn encode(&self) -> Vec<u8> {
        let denials = self.names.iter().zip(&self.keys);
        pb::CommandBatch {
            commands: denials
                .map(|(name, key)| pb::Command {
                    idempotency_key: key.clone(),
                    body: Some(add(name)),
                    time_ms: self.time_ms,
                    proposer: self.index,
                    ..Default::default()
                })
                .collect(),
        }
        .encode_to_vec()
    }

    fn decode(bytes: &[u8]) -> Result<Self, Box<dyn Error + Send + Sync>> {
        let mut state = Self::default();
        for command in pb::CommandBatch::decode(bytes)?.commands {
            state.index = command.proposer;
            state.time_ms = command.time_ms;
            let Some(pb::command::Body::RecordDenial(denial)) = command.body else {
                return Err("no name".into());
            };
            state.frontier.push(leaf_hash(denial.subject.as_bytes()));
            state.names.push(denial.subject);
            state.keys.push(command.idempotency_key);
        }
        Ok(state)
    }

    fn position(&self) -> Position {
        Position {
            epoch: 1,
            index: self.index,
        }
    }

    fn audit_size(&self) -> u64 {
        self.frontier.size()
    }

    fn audit_root(&self) -> [u8; 32] {
        self.frontier.root()
    }
}
