//! JWT-SVIDs of local workloads, per entry and audience.
//!
//! Responsible for: handing out a token at least half of whose life is ahead, asking a server
//! when there is none, and falling back to one that still holds when no server answers. Always
//! holds: a token is handed out only for the arrival of the entry it was issued for, never after
//! it expired or its authority was tainted; two callers who want the same cause one request.
//! Not here: who may have it (`workload_api`).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use mintmark_identity::{clock::Timestamp, entry::EntryId, svid::jwt::Audience};

use super::{entries::Held, state::State};
use crate::issuer::{IssueError, IssuedToken, Issuer};

/// How long a caller waits for a server while an older token is at hand.
const REFRESH_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a caller waits for a server when there is no token.
const FETCH_TIMEOUT: Duration = Duration::from_secs(25);

// Audiences keep the order they were asked for: the token carries them so (WLA-27).
type Key = (EntryId, Audience);

/// A token in the cache.
#[derive(Clone)]
struct Cached {
    token: IssuedToken,
    arrival: u64,
    refetch_at: Timestamp,
    used: u64,
}

#[derive(Default)]
struct Inner {
    tokens: BTreeMap<Key, Cached>,
    fetching: BTreeMap<Key, Arc<tokio::sync::Mutex<()>>>,
    uses: u64,
}

/// The token cache. A clone is another handle of the same cache.
#[derive(Clone)]
pub struct Tokens {
    inner: Arc<Mutex<Inner>>,
    limit: usize,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens")
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

enum Found {
    Fresh(IssuedToken),
    Old(IssuedToken),
    Nothing,
}

impl Tokens {
    /// An empty cache of at most `limit` tokens.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            inner: Arc::default(),
            limit,
        }
    }

    fn with<R>(&self, look: impl FnOnce(&mut Inner) -> R) -> R {
        look(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Number of tokens held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.with(|inner| inner.tokens.len())
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A token for this entry and audience.
    ///
    /// # Errors
    /// What the server said, when there is no token that still holds.
    pub async fn get(
        &self,
        issuer: &dyn Issuer,
        held: &Held,
        audience: &Audience,
        now: impl Fn() -> Timestamp + Send + Sync,
    ) -> Result<IssuedToken, IssueError> {
        let fetch = |limit| within(limit, issuer.issue_jwt(held, audience));
        if held.entry.jwt_svid_include_jti {
            // Each such token is to be told from every other: never handed out twice.
            return fetch(FETCH_TIMEOUT).await;
        }
        let key = (held.entry.id.clone(), audience.clone());
        if let Found::Fresh(token) = self.find(&key, held.arrival, now()) {
            return Ok(token);
        }
        let turn = self.with(|inner| Arc::clone(inner.fetching.entry(key.clone()).or_default()));
        let _done = Done {
            tokens: self,
            key: &key,
        };
        let _turn = turn.lock().await;
        match self.find(&key, held.arrival, now()) {
            Found::Fresh(token) => Ok(token),
            Found::Old(old) => match fetch(REFRESH_TIMEOUT).await {
                Ok(token) => Ok(self.put(key.clone(), held.arrival, token)),
                Err(error) if error.is_passing() && now() < old.expires_at => {
                    tracing::warn!(%error, entry_id = %held.entry.id, "serving an older JWT-SVID");
                    Ok(old)
                }
                Err(error) => Err(error),
            },
            Found::Nothing => {
                let token = fetch(FETCH_TIMEOUT).await?;
                Ok(self.put(key.clone(), held.arrival, token))
            }
        }
    }

    fn find(&self, key: &Key, arrival: u64, now: Timestamp) -> Found {
        self.with(|inner| {
            inner.uses = inner.uses.saturating_add(1);
            let uses = inner.uses;
            let Some(cached) = inner.tokens.get_mut(key) else {
                return Found::Nothing;
            };
            if cached.arrival != arrival || cached.token.expires_at <= now {
                inner.tokens.remove(key);
                return Found::Nothing;
            }
            cached.used = uses;
            let token = cached.token.clone();
            if now < cached.refetch_at {
                Found::Fresh(token)
            } else {
                Found::Old(token)
            }
        })
    }

    fn put(&self, key: Key, arrival: u64, token: IssuedToken) -> IssuedToken {
        let half = token.expires_at.since(token.issued_at) / 2;
        let refetch_at = token.issued_at.saturating_add(half);
        self.with(|inner| {
            inner.uses = inner.uses.saturating_add(1);
            let used = inner.uses;
            let cached = Cached {
                token: token.clone(),
                arrival,
                refetch_at,
                used,
            };
            inner.tokens.insert(key, cached);
            while inner.tokens.len() > self.limit {
                let least = inner.tokens.iter().min_by_key(|(_, cached)| cached.used);
                let Some(least) = least.map(|(key, _)| key.clone()) else {
                    break;
                };
                inner.tokens.remove(&least);
            }
        });
        token
    }

    /// Forgets tokens that may not be handed out any more: expired, of an entry that is gone or
    /// changed, or under a tainted authority.
    pub fn purge(&self, state: &State, now: Timestamp) {
        self.with(|inner| {
            inner.tokens.retain(|(id, _), cached| {
                state.denied.is_none()
                    && now < cached.token.expires_at
                    && !state.tainted.contains_key(&cached.token.authority_id)
                    && state
                        .entries
                        .get(id)
                        .is_some_and(|held| held.arrival == cached.arrival)
            });
        });
    }
}

/// Removes a key from the fetching table when its last caller leaves.
struct Done<'a> {
    tokens: &'a Tokens,
    key: &'a Key,
}

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.tokens.with(|inner| {
            // Two handles are left when this is the last caller: the table's and its own.
            if inner
                .fetching
                .get(self.key)
                .is_some_and(|turn| Arc::strong_count(turn) <= 2)
            {
                inner.fetching.remove(self.key);
            }
        });
    }
}

async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, IssueError>>,
) -> Result<T, IssueError> {
    tokio::time::timeout(limit, call)
        .await
        .unwrap_or_else(|_| Err(IssueError::no_answer()))
}

#[cfg(test)]
mod tests;
