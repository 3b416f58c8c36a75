#![allow(clippy::unwrap_used, reason = "tests")]

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;

use super::*;
use crate::api::fixture::Fixture;
use crate::api::status::ApiError;
use crate::code;
use crate::issuance::IssueError;

struct Asked(Intent);

impl Prepared for Asked {
    fn intent(&self) -> &Intent {
        &self.0
    }
}

#[tokio::test(start_paused = true)]
async fn beyond_the_queue_a_server_says_at_once_that_it_is_overloaded() {
    const BEYOND: usize = 100;
    let fixture = Fixture::new().await;
    let tasks = Tasks::new();
    let batcher = Batcher::start(fixture.services.consensus.clone(), 1, &tasks);
    // The worker runs only when this task waits, so that everything is asked for before it looks.
    let calls: Vec<_> = (0..QUEUE_MAX + BEYOND)
        .map(|_| Box::pin(batcher.commit(None, vec![Asked(Intent::default())])))
        .collect();
    let mut overloaded = 0;
    let mut waiting = FuturesUnordered::new();
    for mut call in calls {
        match futures_util::poll!(&mut call) {
            std::task::Poll::Pending => waiting.push(call),
            std::task::Poll::Ready(outcome) => {
                let error = outcome.into_iter().next().unwrap().err().unwrap();
                let error = ApiError::from(IssueError::from(error));
                let told = (code::OVERLOADED, tonic::Code::ResourceExhausted);
                assert_eq!(error.codes(), told, "{error}");
                overloaded += 1;
            }
        }
    }
    assert_eq!(overloaded, BEYOND);
    // Whoever got a place is answered.
    let mut answered = 0;
    while let Some(outcome) = waiting.next().await {
        let error = outcome.into_iter().next().unwrap().err().unwrap();
        assert!(matches!(error, CommitError::Refused { .. }), "{error:?}");
        answered += 1;
    }
    assert_eq!(answered, QUEUE_MAX);
}
