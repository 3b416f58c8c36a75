#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::pin::pin;

use futures_util::{FutureExt as _, StreamExt as _};

use super::fake::{FakeLog, leaf};
use super::*;

fn log(leaves: &Arc<FakeLog>) -> Log {
    let leaves: Arc<dyn CommittedLeaves> = Arc::<FakeLog>::clone(leaves);
    Log {
        leaves,
        hashes: None,
    }
}

async fn indices(leaves: &Arc<FakeLog>, request: TailRequest) -> Vec<u64> {
    let stream = log(leaves).tail(request, CancellationToken::new()).unwrap();
    let chunks: Vec<Chunk> = stream.map(Result::unwrap).collect().await;
    let mut indices = Vec::new();
    for chunk in chunks {
        for (index, bytes) in (chunk.first_index..).zip(&chunk.leaves) {
            assert_eq!(*bytes, leaf(index));
            indices.push(index);
        }
    }
    indices
}

#[tokio::test]
async fn a_reader_gets_what_it_asks_for() {
    let leaves = FakeLog::new(5);
    let request = |start, limit, from_end| TailRequest {
        start,
        limit,
        from_end,
        follow: false,
    };
    assert_eq!(
        indices(&leaves, request(0, 0, false)).await,
        [0, 1, 2, 3, 4]
    );
    assert_eq!(indices(&leaves, request(2, 2, false)).await, [2, 3]);
    assert_eq!(indices(&leaves, request(5, 0, false)).await, [0_u64; 0]);
    assert_eq!(indices(&leaves, request(2, 0, true)).await, [3, 4]);
    assert_eq!(indices(&leaves, request(9, 1, true)).await, [0]);
    let limited = TailRequest {
        start: 3,
        limit: 2,
        follow: true,
        from_end: false,
    };
    assert_eq!(indices(&leaves, limited).await, [3, 4]);
}

#[tokio::test]
async fn a_start_beyond_the_end_is_refused_even_when_following() {
    let leaves = FakeLog::new(5);
    for follow in [false, true] {
        let request = TailRequest {
            start: 6,
            follow,
            ..TailRequest::default()
        };
        let refused = log(&leaves)
            .tail(request, CancellationToken::new())
            .err()
            .unwrap();
        assert!(
            matches!(refused, TailError::OutOfRange { start: 6, size: 5 }),
            "{refused:?}"
        );
    }
}

#[tokio::test]
async fn chunks_are_bounded_and_leave_no_gap() {
    let leaves = FakeLog::new(CHUNK_LEAVES_MAX * 2 + 3);
    let stream = log(&leaves)
        .tail(TailRequest::default(), CancellationToken::new())
        .unwrap();
    let chunks: Vec<Chunk> = stream.map(Result::unwrap).collect().await;
    let cut: Vec<_> = chunks
        .iter()
        .map(|chunk| (chunk.first_index, chunk.leaves.len()))
        .collect();
    assert_eq!(cut, [(0, 1_000), (1_000, 1_000), (2_000, 3)]);
    assert!(
        chunks
            .iter()
            .all(|chunk| chunk.leaf_hashes.len() == chunk.leaves.len())
    );
}

#[tokio::test]
async fn a_follower_gets_leaves_as_they_are_committed_and_ends_with_the_server() {
    let leaves = FakeLog::new(1);
    let ending = CancellationToken::new();
    let request = TailRequest {
        start: 0,
        follow: true,
        ..TailRequest::default()
    };
    let mut stream = pin!(log(&leaves).tail(request, ending.clone()).unwrap());
    assert_eq!(stream.next().await.unwrap().unwrap().leaves.len(), 1);
    assert!(
        stream.next().now_or_never().is_none(),
        "nothing is committed"
    );
    leaves.append(2);
    let chunk = stream.next().await.unwrap().unwrap();
    assert_eq!(
        (chunk.first_index, chunk.leaves.len(), chunk.tree_size),
        (1, 2, 3)
    );
    ending.cancel();
    assert!(matches!(
        stream.next().await,
        Some(Err(TailError::ShuttingDown))
    ));
    assert!(stream.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_leaf_that_is_counted_is_read_as_soon_as_it_is_stored() {
    let leaves = FakeLog::new(5);
    leaves.set_unstored(5);
    assert_eq!(
        indices(&leaves, TailRequest::default()).await,
        [0, 1, 2, 3, 4]
    );
}

#[tokio::test]
async fn an_absent_leaf_is_an_error_and_not_an_end() {
    let leaves = FakeLog::new(3);
    leaves.set_absent(Some(1));
    let mut stream = pin!(
        log(&leaves)
            .tail(TailRequest::default(), CancellationToken::new())
            .unwrap()
    );
    let error = stream.next().await.unwrap().unwrap_err();
    assert!(
        matches!(error, TailError::Leaves(LeavesError::Absent(1))),
        "{error:?}"
    );
}

/// Remembers the hashes of the first leaves.
#[derive(Debug)]
struct Remembered(Vec<Hash>);

#[async_trait]
impl RecordedHashes for Remembered {
    async fn leaf_hashes(&self, start: u64, end: u64) -> Result<Vec<Hash>, LeavesError> {
        let take = usize::try_from(end - start).unwrap();
        Ok(self
            .0
            .iter()
            .skip(usize::try_from(start).unwrap())
            .take(take)
            .copied()
            .collect())
    }
}

#[tokio::test]
async fn an_altered_leaf_comes_with_the_hash_that_was_recorded() {
    let leaves = FakeLog::new(4);
    let original: Vec<Hash> = (0..4).map(|index| leaf_hash(&leaf(index))).collect();
    leaves.alter(1, b"altered");
    let hashes = Some(Arc::new(Remembered(original[..2].to_vec())) as Arc<dyn RecordedHashes>);
    let log = Log {
        hashes,
        ..log(&leaves)
    };
    let stream = log
        .tail(TailRequest::default(), CancellationToken::new())
        .unwrap();
    let chunks: Vec<Chunk> = stream.map(Result::unwrap).collect().await;
    assert_eq!(
        chunks[0].leaf_hashes, original,
        "recorded for two, computed for the others"
    );
    assert_ne!(leaf_hash(&chunks[0].leaves[1]), original[1]);
}
