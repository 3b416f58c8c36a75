//! What every API for local workloads stands on: who calls, what it may have, what changed.
//!
//! Responsible for: attesting the caller of a request, deciding its identities from the present
//! state, limiting streams per user, and the one loop by which every stream follows the state.
//! Always holds: entitlement is decided anew, on a fresh look at the process, before every push;
//! the first message goes out at once and later ones only when they differ. Not here: what the
//! messages look like (`workload_api`, `sds`).

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::Stream;
use mintmark_identity::{clock::Timestamp, entropy::draw_u64, entry::EntryId, selector::Selectors};
use mintmark_runtime::{Host, backoff::fraction, drain::DrainWatch, grpc::ConnectInfo, unix::Peer};
use prometheus_client::metrics::gauge::Gauge;
use tonic::{Code, Extensions, Status};

use crate::{
    cache::{
        Cache, Want,
        state::{Identity, State},
        tokens::Tokens,
    },
    code,
    issuer::Issuer,
    metrics::Metrics,
    status,
    workload::Workloads,
};

/// How long a first message waits for SVIDs that are still being issued, when others are there.
const PENDING_GRACE: Duration = Duration::from_secs(2);

/// For how long a look at a process is good enough to give it something.
const LOOK_AGE_MAX: Duration = Duration::from_secs(1);

/// A stream of messages of one kind.
pub type Messages<M> = Pin<Box<dyn Stream<Item = Result<M, Status>> + Send>>;

/// What all local APIs share.
#[derive(Clone, Debug)]
pub struct Surface {
    /// The machine.
    pub host: Host,
    /// What is served.
    pub cache: Cache,
    /// JWT-SVIDs.
    pub tokens: Tokens,
    /// Whom to ask for more.
    pub issuer: Arc<dyn Issuer>,
    /// Who is calling.
    pub workloads: Workloads,
    /// How many streams each user has.
    pub streams: Streams,
    /// Over how long pushes that carry no new SVID are spread.
    pub push_splay: Duration,
    /// When the agent goes away.
    pub drain: DrainWatch,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// A process that was attested.
#[derive(Clone, Debug)]
pub struct Caller {
    peer: Peer,
    selectors: Selectors,
    looked_at: tokio::time::Instant,
}

impl Caller {
    /// The user it runs as.
    #[must_use]
    pub fn uid(&self) -> u32 {
        self.peer.uid
    }

    /// Whether the process may be another program, or gone, since it was looked at.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.looked_at.elapsed() >= LOOK_AGE_MAX
    }
}

impl Surface {
    /// The time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.host.clock.now()
    }

    /// Attests the process that sent a request.
    ///
    /// # Errors
    /// `Unavailable` when it cannot be attested (SPIRE's answer; clients ask again).
    pub async fn caller(&self, extensions: &Extensions) -> Result<Caller, Status> {
        let peer = extensions
            .get::<ConnectInfo>()
            .and_then(|info| info.peer.unix())
            .ok_or_else(|| Status::internal("not a local connection"))?;
        let looked_at = tokio::time::Instant::now();
        let selectors = self.attest(peer).await?;
        Ok(Caller {
            peer: peer.clone(),
            selectors,
            looked_at,
        })
    }

    /// Attests a caller anew.
    ///
    /// # Errors
    /// As [`Self::caller`].
    pub async fn renew(&self, caller: &mut Caller) -> Result<(), Status> {
        let looked_at = tokio::time::Instant::now();
        caller.selectors = self.attest(&caller.peer).await?;
        caller.looked_at = looked_at;
        Ok(())
    }

    async fn attest(&self, peer: &Peer) -> Result<Selectors, Status> {
        match self.workloads.attest(peer).await {
            Ok(attested) => {
                tracing::debug!(%peer, missing = attested.unreadable.len(), "attested");
                Ok(attested.selectors)
            }
            Err(error) => {
                self.metrics.attestations_failed.inc();
                tracing::info!(%peer, %error, code = %code::CALLER_NOT_ATTESTED, "not attested");
                let text = error.to_string();
                Err(status::status(
                    Code::Unavailable,
                    code::CALLER_NOT_ATTESTED,
                    &text,
                ))
            }
        }
    }

    /// What the caller may have now; at least one identity.
    ///
    /// # Errors
    /// `PermissionDenied` when it may have nothing (WLE-21), `Unavailable` while nothing is known.
    pub fn entitled(&self, state: &State, caller: &Caller) -> Result<Vec<Identity>, Status> {
        if let Some(denial) = state.denied {
            return Err(status::denied(denial));
        }
        if state.position.is_none() {
            return Err(status::not_synced());
        }
        let identities = state.identities(&caller.selectors, self.now());
        if identities.is_empty() {
            self.metrics.denied.inc();
            return Err(status::no_identity());
        }
        Ok(identities)
    }

    /// Follows the state for one caller. `render` makes the message of a moment; it is called
    /// again on every change, and the message is sent if it differs from the last.
    pub fn follow<R: Render>(&self, caller: Caller, slot: Slot, render: R) -> Messages<R::Message> {
        let surface = self.clone();
        Box::pin(async_stream::try_stream! {
            let mut follower = Follower::new(surface, caller, slot, render);
            loop {
                let message = follower.next().await?;
                yield message;
            }
        })
    }
}

/// Makes a stream's message from what the caller may have.
pub trait Render: Send + Sync + 'static {
    /// The message.
    type Message: Clone + PartialEq + Send + Sync + 'static;
    /// The message of this moment; `None` when it needs an SVID that is not there yet.
    ///
    /// # Errors
    /// Ends the stream.
    fn render(
        &self,
        state: &State,
        identities: &[Identity],
    ) -> Result<Option<Self::Message>, Status>;
    /// Whether the message shows the SVIDs, so that they must be there and fresh.
    fn needs_svids(&self) -> bool;
}

struct Follower<R: Render> {
    surface: Surface,
    caller: Caller,
    render: R,
    changes: tokio::sync::watch::Receiver<Arc<State>>,
    want: Option<Want>,
    last: Option<(R::Message, Vec<String>)>,
    give_up_waiting: tokio::time::Instant,
    splay: Duration,
    _slot: Slot,
}

enum Look<M> {
    Nothing,
    Waiting,
    Message(M, Vec<String>),
}

impl<R: Render> Follower<R> {
    fn new(surface: Surface, caller: Caller, slot: Slot, render: R) -> Self {
        let mut changes = surface.cache.watch();
        changes.mark_changed();
        let splay = fraction(surface.push_splay, draw_u64(surface.host.entropy.as_ref()));
        let now = tokio::time::Instant::now();
        Self {
            changes,
            want: None,
            last: None,
            give_up_waiting: now.checked_add(PENDING_GRACE).unwrap_or(now),
            splay,
            surface,
            caller,
            render,
            _slot: slot,
        }
    }

    async fn next(&mut self) -> Result<R::Message, Status> {
        loop {
            match self.look()? {
                Look::Nothing => self.changed(None).await?,
                Look::Waiting => self.changed(Some(self.give_up_waiting)).await?,
                Look::Message(message, serials) => {
                    // The first message may have waited for long as well.
                    let same = self.last.as_ref().map(|(_, before)| *before == serials);
                    if (same.is_some() || self.caller.is_stale())
                        && !self.may_push(same.unwrap_or(false)).await?
                    {
                        continue;
                    }
                    self.last = Some((message.clone(), serials));
                    self.surface.metrics.pushes.inc();
                    return Ok(message);
                }
            }
        }
    }

    /// Looks at the present state.
    fn look(&mut self) -> Result<Look<R::Message>, Status> {
        let state = Arc::clone(&self.changes.borrow_and_update());
        let identities = self.surface.entitled(&state, &self.caller)?;
        if self.render.needs_svids() {
            self.want(&identities);
            let pending = identities.iter().any(|identity| identity.svid.is_none());
            let patient = tokio::time::Instant::now() < self.give_up_waiting;
            if self.last.is_none() && pending && patient {
                return Ok(Look::Waiting);
            }
        }
        let Some(message) = self.render.render(&state, &identities)? else {
            return Ok(Look::Nothing);
        };
        if self.last.as_ref().is_some_and(|(last, _)| *last == message) {
            return Ok(Look::Nothing);
        }
        Ok(Look::Message(message, serials(&identities)))
    }

    fn want(&mut self, identities: &[Identity]) {
        let ids: BTreeSet<EntryId> = identities
            .iter()
            .map(|identity| identity.held.entry.id.clone())
            .collect();
        if !self.want.as_ref().is_some_and(|want| want.is_for(&ids)) {
            // The new wish comes before the old one ends, so that nothing is dropped between.
            self.want = Some(self.surface.cache.want(ids));
        }
    }

    /// Before a push the process is looked at again: it may be gone, or be another program by
    /// now. Pushes that carry no new SVID are spread. Returns whether the look that led to the
    /// push still holds.
    async fn may_push(&mut self, same_svids: bool) -> Result<bool, Status> {
        if same_svids && !self.splay.is_zero() {
            tokio::time::sleep(self.splay).await;
        }
        let before = self.caller.selectors.clone();
        self.surface.renew(&mut self.caller).await?;
        Ok(before == self.caller.selectors && !self.changes.has_changed().unwrap_or(false))
    }

    async fn changed(&mut self, until: Option<tokio::time::Instant>) -> Result<(), Status> {
        let patience = async {
            match until {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = self.changes.changed() => changed.map_err(|_| status::shutting_down()),
            () = patience => Ok(()),
            () = self.surface.drain.started() => Err(status::shutting_down()),
        }
    }
}

fn serials(identities: &[Identity]) -> Vec<String> {
    let svids = identities
        .iter()
        .filter_map(|identity| identity.svid.as_ref());
    svids.map(|svid| svid.serial.clone()).collect()
}

/// Counts open streams per user, so that one user cannot take what others need.
#[derive(Clone, Debug)]
pub struct Streams {
    open: Arc<Mutex<BTreeMap<u32, usize>>>,
    per_uid: usize,
    counted: Gauge,
}

impl Streams {
    /// At most this many streams for each user; `counted` shows how many there are in all.
    #[must_use]
    pub fn new(per_uid: usize, counted: Gauge) -> Self {
        Self {
            open: Arc::default(),
            per_uid,
            counted,
        }
    }

    /// Takes a place for a stream.
    ///
    /// # Errors
    /// `ResourceExhausted` when the user has its share.
    pub fn open(&self, uid: u32) -> Result<Slot, Status> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(uid).or_insert(0);
        if *count >= self.per_uid {
            let text = format!("uid {uid} has {count} open streams already");
            return Err(status::status(
                Code::ResourceExhausted,
                code::TOO_MANY_STREAMS,
                &text,
            ));
        }
        *count = count.saturating_add(1);
        self.counted.inc();
        Ok(Slot {
            streams: self.clone(),
            uid,
        })
    }

    /// How many are open.
    #[must_use]
    pub fn count(&self) -> usize {
        self.open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .sum()
    }
}

/// An open stream's place; dropping it gives it back.
#[derive(Debug)]
pub struct Slot {
    streams: Streams,
    uid: u32,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.streams.counted.dec();
        let mut open = self
            .streams
            .open
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.uid) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                open.remove(&self.uid);
            }
        }
    }
}

#[cfg(test)]
mod tests;
