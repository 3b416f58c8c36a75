#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use tokio::sync::Semaphore;

use super::*;
use crate::{
    cache::state::Denial,
    issuer::{CsrItem, IssuedChain},
    testing::{at, entry, state},
};

/// Issues tokens `t1`, `t2`, … from second 100 to 200, when it is let to.
#[derive(Debug)]
struct Fake {
    calls: AtomicUsize,
    let_through: Semaphore,
    fail: Mutex<Option<IssueError>>,
}

impl Fake {
    fn new() -> Self {
        let let_through = Semaphore::new(1_000);
        Self {
            calls: AtomicUsize::new(0),
            let_through,
            fail: Mutex::new(None),
        }
    }

    fn fail(&self, error: Option<IssueError>) {
        *self.fail.lock().unwrap() = error;
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Issuer for Fake {
    async fn issue_x509(
        &self,
        _items: Vec<CsrItem>,
    ) -> Result<Vec<Result<IssuedChain, IssueError>>, IssueError> {
        Err(IssueError::no_answer())
    }

    async fn issue_jwt(
        &self,
        _held: &Held,
        _audience: &Audience,
    ) -> Result<IssuedToken, IssueError> {
        self.let_through.acquire().await.unwrap().forget();
        let number = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        if let Some(error) = self.fail.lock().unwrap().clone() {
            return Err(error);
        }
        Ok(IssuedToken {
            token: format!("t{number}"),
            authority_id: "kid".to_owned(),
            issued_at: at(100),
            expires_at: at(200),
        })
    }
}

fn held() -> Held {
    let state = state(vec![entry("a", "/a", &["unix:uid:1"])]);
    state.entries.iter().next().unwrap().clone()
}

fn audience(values: &[&str]) -> Audience {
    Audience::new(values.iter().copied()).unwrap()
}

async fn get(
    tokens: &Tokens,
    fake: &Fake,
    values: &[&str],
    now: i64,
) -> Result<String, IssueError> {
    let got = tokens
        .get(fake, &held(), &audience(values), move || at(now))
        .await;
    got.map(|token| token.token)
}

#[tokio::test]
async fn a_token_is_kept_per_audience_until_half_of_its_life_is_over() {
    let (tokens, fake) = (Tokens::new(10), Fake::new());
    for (values, now, expected) in [
        (&["x"][..], 100, "t1"),
        (&["x"], 149, "t1"),
        (&["x", "y"], 149, "t2"),
        (&["y", "x"], 149, "t3"),
        (&["x"], 150, "t4"),
    ] {
        assert_eq!(
            get(&tokens, &fake, values, now).await.unwrap(),
            expected,
            "{values:?} at {now}"
        );
    }
}

#[tokio::test]
async fn an_old_token_serves_while_servers_are_away_but_not_against_their_word() {
    let (tokens, fake) = (Tokens::new(10), Fake::new());
    get(&tokens, &fake, &["x"], 100).await.unwrap();
    fake.fail(Some(IssueError::no_answer()));
    assert_eq!(get(&tokens, &fake, &["x"], 199).await.unwrap(), "t1");
    assert!(
        get(&tokens, &fake, &["x"], 200).await.is_err(),
        "it expired"
    );
    let (tokens, fake) = (Tokens::new(10), Fake::new());
    get(&tokens, &fake, &["x"], 100).await.unwrap();
    let denied = IssueError {
        code: tonic::Code::PermissionDenied,
        message: String::new(),
    };
    fake.fail(Some(denied.clone()));
    assert_eq!(get(&tokens, &fake, &["x"], 160).await.unwrap_err(), denied);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_answer_costs_a_bounded_wait() {
    let (tokens, fake) = (Tokens::new(10), Fake::new());
    get(&tokens, &fake, &["x"], 100).await.unwrap();
    fake.let_through.forget_permits(usize::MAX);
    let begun = tokio::time::Instant::now();
    assert_eq!(get(&tokens, &fake, &["x"], 160).await.unwrap(), "t1");
    assert_eq!(begun.elapsed(), REFRESH_TIMEOUT);
    assert!(get(&tokens, &fake, &["other"], 160).await.is_err());
}

#[tokio::test]
async fn callers_who_want_the_same_cause_one_request() {
    let (tokens, fake) = (Tokens::new(10), Arc::new(Fake::new()));
    fake.let_through.forget_permits(usize::MAX);
    let ask = || get(&tokens, &fake, &["x"], 100);
    let let_go = async {
        tokio::task::yield_now().await;
        fake.let_through.add_permits(1_000);
    };
    let (one, two, three, ()) = tokio::join!(ask(), ask(), ask(), let_go);
    assert_eq!(
        [one.unwrap(), two.unwrap(), three.unwrap()],
        ["t1", "t1", "t1"]
    );
    assert_eq!(fake.calls(), 1);
    assert!(
        tokens.with(|inner| inner.fetching.is_empty()),
        "nothing is left of the turn"
    );
}

#[tokio::test]
async fn the_cache_is_bounded_and_the_least_used_goes_first() {
    let (tokens, fake) = (Tokens::new(2), Fake::new());
    get(&tokens, &fake, &["a"], 100).await.unwrap();
    get(&tokens, &fake, &["b"], 100).await.unwrap();
    get(&tokens, &fake, &["a"], 100).await.unwrap();
    get(&tokens, &fake, &["c"], 100).await.unwrap();
    assert_eq!(tokens.len(), 2);
    assert_eq!(get(&tokens, &fake, &["a"], 100).await.unwrap(), "t1");
    assert_eq!(get(&tokens, &fake, &["b"], 100).await.unwrap(), "t4");
}

#[tokio::test]
async fn tokens_go_with_their_entry_their_authority_their_time_and_their_agent() {
    let fake = Fake::new();
    let filled = async || {
        let tokens = Tokens::new(10);
        get(&tokens, &fake, &["x"], 100).await.unwrap();
        tokens
    };
    let state = state(vec![entry("a", "/a", &["unix:uid:1"])]);
    let tokens = filled().await;
    tokens.purge(&state, at(199));
    assert_eq!(tokens.len(), 1);
    tokens.purge(&state, at(200));
    assert!(tokens.is_empty());

    let mut tainted = state.clone();
    tainted.tainted = Arc::new([("kid".to_owned(), at(1))].into());
    let mut without = state.clone();
    without.entries = Arc::default();
    let mut denied = state.clone();
    denied.denied = Some(Denial::Evicted);
    for changed in [tainted, without, denied] {
        let tokens = filled().await;
        tokens.purge(&changed, at(110));
        assert!(tokens.is_empty());
    }
}
