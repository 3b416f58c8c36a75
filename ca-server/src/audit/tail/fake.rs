//! A log in memory.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::sync::Mutex;

use mintmark_proto::mintmark::audit::v1::Leaf;
use mintmark_tlog::Frontier;
use prost::Message as _;
use tokio::sync::watch;

use super::*;

/// Leaves that a test appends.
#[derive(Debug)]
pub(crate) struct FakeLog {
    leaves: Mutex<Vec<Bytes>>,
    size: watch::Sender<u64>,
    absent: Mutex<Option<u64>>,
    /// Leaves that are counted and not stored yet, one fewer after each read.
    unstored: Mutex<u64>,
    pub(crate) origin: Mutex<Option<String>>,
}

/// The canonical bytes of some leaf.
pub(crate) fn leaf(index: u64) -> Bytes {
    let leaf = Leaf {
        version: 1,
        index,
        log_index: index + 10,
        time_ms: 1_000 + i64::try_from(index).unwrap(),
        actor: "local".into(),
        action: "entry.create".into(),
        subject: format!("entry-{index}"),
        decision: "accepted".into(),
        ..Leaf::default()
    };
    leaf.encode_to_vec().into()
}

impl FakeLog {
    pub(crate) fn new(leaves: u64) -> Arc<Self> {
        let log = Self {
            leaves: Mutex::default(),
            size: watch::Sender::new(0),
            absent: Mutex::default(),
            unstored: Mutex::default(),
            origin: Mutex::new(Some("example.org/audit/1".into())),
        };
        log.append(leaves);
        Arc::new(log)
    }

    pub(crate) fn append(&self, count: u64) {
        let mut leaves = self.leaves.lock().unwrap();
        for _ in 0..count {
            let index = leaves.len() as u64;
            leaves.push(leaf(index));
        }
        self.size.send_replace(leaves.len() as u64);
    }

    /// Replaces a stored leaf, as somebody with a hex editor would.
    pub(crate) fn alter(&self, index: usize, bytes: &'static [u8]) {
        self.leaves.lock().unwrap()[index] = Bytes::from_static(bytes);
    }

    pub(crate) fn set_unstored(&self, count: u64) {
        *self.unstored.lock().unwrap() = count;
    }

    pub(crate) fn set_absent(&self, from: Option<u64>) {
        *self.absent.lock().unwrap() = from;
    }
}

#[async_trait]
impl CommittedLeaves for FakeLog {
    fn origin(&self) -> Option<String> {
        self.origin.lock().unwrap().clone()
    }

    fn head(&self) -> Head {
        let mut frontier = Frontier::new();
        for leaf in self.leaves.lock().unwrap().iter() {
            frontier.push(leaf_hash(leaf));
        }
        Head {
            size: frontier.size(),
            root: frontier.root(),
        }
    }

    async fn grown(&self, size: u64) {
        let mut sizes = self.size.subscribe();
        sizes.wait_for(|now| *now > size).await.unwrap();
    }

    async fn read(
        &self,
        start: u64,
        end: u64,
        bytes_max: usize,
    ) -> Result<Vec<Bytes>, LeavesError> {
        assert!(start < end, "nobody asks for nothing");
        if let Some(absent) = *self.absent.lock().unwrap()
            && absent < end
        {
            return Err(LeavesError::Absent(absent));
        }
        let leaves = self.leaves.lock().unwrap();
        let mut unstored = self.unstored.lock().unwrap();
        let size = leaves.len() as u64 - *unstored;
        if end > size {
            *unstored = unstored.saturating_sub(1);
            return Err(LeavesError::Beyond { size });
        }
        let range = usize::try_from(start).unwrap()..usize::try_from(end).unwrap();
        let mut bytes = 0;
        let mut read = Vec::new();
        for leaf in &leaves[range] {
            bytes += leaf.len();
            read.push(leaf.clone());
            if bytes >= bytes_max {
                break;
            }
        }
        Ok(read)
    }
}
