#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use futures_util::StreamExt;
use mintmark_identity::selector::Selector;
use mintmark_runtime::{
    drain::{DrainTrigger, drain},
    unix::Liveness,
};

use super::*;
use crate::{
    cache::{
        entries::Held,
        state::{Denial, Position, Update},
    },
    issuer::{CsrItem, IssueError, IssuedChain, IssuedToken},
    testing::{at, entry, put, state, svid},
    workload::attestor::{AttestError, Attested, WorkloadAttestor},
};

#[test]
fn one_user_cannot_take_the_streams_of_another() {
    let counted = Gauge::default();
    let streams = Streams::new(2, counted.clone());
    let first = streams.open(1).unwrap();
    let _second = streams.open(1).unwrap();
    let refused = streams.open(1).unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert_eq!(status::code_of(&refused).unwrap(), "MM-2006");
    let other = streams.open(2).unwrap();
    drop(first);
    let _again = streams.open(1).unwrap();
    drop(other);
    assert_eq!((streams.count(), counted.get()), (2, 2));
}

/// A process that turns into another program when it is told to.
#[derive(Clone, Debug, Default)]
struct Process {
    other_program: Arc<AtomicBool>,
    dead: Arc<AtomicBool>,
}

impl Liveness for Process {
    fn is_alive(&self) -> bool {
        !self.dead.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl WorkloadAttestor for Process {
    async fn attest(&self, _pid: u32) -> Result<Attested, AttestError> {
        let other = self.other_program.load(Ordering::SeqCst);
        let path = if other {
            "unix:path:/other"
        } else {
            "unix:path:/app"
        };
        let selectors = [path, "unix:uid:7"].map(|text| Selector::parse(text).unwrap());
        Ok(Attested {
            selectors: selectors.into(),
            unreadable: Vec::new(),
        })
    }

    async fn describe_user(&self, _uid: u32) -> Attested {
        Attested {
            selectors: Selectors::new(),
            unreadable: Vec::new(),
        }
    }
}

#[derive(Debug)]
struct Nobody;

#[async_trait]
impl Issuer for Nobody {
    async fn issue_x509(
        &self,
        _items: Vec<CsrItem>,
    ) -> Result<Vec<Result<IssuedChain, IssueError>>, IssueError> {
        Err(IssueError::no_answer())
    }
    async fn issue_jwt(
        &self,
        _held: &Held,
        _audience: &mintmark_identity::svid::jwt::Audience,
    ) -> Result<IssuedToken, IssueError> {
        Err(IssueError::no_answer())
    }
}

/// Shows serials of SVIDs, and the number of bundles.
struct Serials;

impl Render for Serials {
    type Message = (Vec<String>, usize);
    fn render(
        &self,
        state: &State,
        identities: &[Identity],
    ) -> Result<Option<Self::Message>, Status> {
        let serials = serials(identities);
        Ok((!serials.is_empty()).then(|| (serials, state.bundles.len())))
    }
    fn needs_svids(&self) -> bool {
        true
    }
}

struct Scene {
    process: Process,
    surface: Surface,
    drain: DrainTrigger,
    clock: Arc<mintmark_identity::clock::ManualClock>,
}

impl Scene {
    /// One entry for `/app`, with an SVID from second 100 to 1100; it is second 150.
    fn new() -> Self {
        let process = Process::default();
        let (drain, watch) = drain();
        let clock = Arc::new(mintmark_identity::clock::ManualClock::new(at(150)));
        let host = Host {
            clock: Arc::<mintmark_identity::clock::ManualClock>::clone(&clock),
            ..Host::os()
        };
        let app = entry("app", "/app", &["unix:path:/app"]);
        let mut state = state(vec![app.clone()]);
        put(&mut state, svid(&app, 100, 500, 1_100));
        let surface = Surface {
            host,
            cache: Cache::new(state),
            tokens: Tokens::new(1),
            issuer: Arc::new(Nobody),
            workloads: Workloads::new(vec![Box::new(process.clone())]),
            streams: Streams::new(10, Gauge::default()),
            push_splay: Duration::ZERO,
            drain: watch,
            metrics: Arc::default(),
        };
        Self {
            process,
            surface,
            drain,
            clock,
        }
    }

    async fn stream(&self) -> Messages<(Vec<String>, usize)> {
        let peer = Peer::new(Some(1), 7, 7, Arc::new(self.process.clone()));
        let selectors = self.surface.attest(&peer).await.unwrap();
        let slot = self.surface.streams.open(7).unwrap();
        let caller = Caller {
            peer,
            selectors,
            looked_at: tokio::time::Instant::now(),
        };
        self.surface.follow(caller, slot, Serials)
    }

    fn renew(&self, from: i64) {
        let app = entry("app", "/app", &["unix:path:/app"]);
        self.surface
            .cache
            .change(|state| put(state, svid(&app, from, 500, 1_100)));
    }
}

async fn next(stream: &mut Messages<(Vec<String>, usize)>) -> Result<(Vec<String>, usize), Status> {
    let waited = tokio::time::timeout(Duration::from_secs(5), stream.next()).await;
    waited
        .expect("a message is due")
        .expect("the stream goes on")
}

async fn is_silent(stream: &mut Messages<(Vec<String>, usize)>) -> bool {
    futures_util::poll!(stream.next()).is_pending()
}

#[tokio::test]
async fn a_change_is_sent_once_and_what_stays_equal_never() {
    let scene = Scene::new();
    let mut stream = scene.stream().await;
    assert_eq!(
        next(&mut stream).await.unwrap(),
        (vec!["app-100".to_owned()], 1)
    );
    assert!(is_silent(&mut stream).await);
    scene.renew(200);
    assert_eq!(next(&mut stream).await.unwrap().0, ["app-200"]);
    let update = Update {
        position: Position { epoch: 1, index: 9 },
        ..Update::default()
    };
    scene
        .surface
        .cache
        .try_change(|state| state.apply(update, at(160)))
        .unwrap();
    assert!(
        is_silent(&mut stream).await,
        "nothing that this caller sees has changed"
    );
}

#[tokio::test]
async fn wla_n9_a_process_that_became_another_program_gets_no_push() {
    let scene = Scene::new();
    let mut stream = scene.stream().await;
    next(&mut stream).await.unwrap();
    scene.process.other_program.store(true, Ordering::SeqCst);
    assert!(
        is_silent(&mut stream).await,
        "it is looked at before a push, not all the time"
    );
    scene.renew(200);
    let end = next(&mut stream).await.unwrap_err();
    assert_eq!(end.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn wle_17_a_process_that_died_gets_no_push() {
    let scene = Scene::new();
    let mut stream = scene.stream().await;
    next(&mut stream).await.unwrap();
    scene.process.dead.store(true, Ordering::SeqCst);
    scene.renew(200);
    let end = next(&mut stream).await.unwrap_err();
    assert_eq!(end.code(), Code::Unavailable);
    assert_eq!(status::code_of(&end).unwrap(), "MM-2004");
}

#[tokio::test(start_paused = true)]
async fn wla_n6_a_push_without_a_new_svid_waits_for_its_splay_and_one_with_it_does_not() {
    let mut scene = Scene::new();
    scene.surface.push_splay = Duration::from_secs(60);
    let mut stream = scene.stream().await;
    let begun = tokio::time::Instant::now();
    next(&mut stream).await.unwrap();
    scene.renew(200);
    next(&mut stream).await.unwrap();
    assert_eq!(
        begun.elapsed(),
        Duration::ZERO,
        "neither the first nor a rotation waits"
    );
    let partner = mintmark_identity::trust_domain::TrustDomain::parse("partner.test").unwrap();
    let bundle = Arc::new(mintmark_identity::bundle::Bundle::empty(partner));
    let bundles = vec![crate::cache::state::BundleChange {
        bundle,
        sequence: 1,
    }];
    let update = Update {
        position: Position { epoch: 1, index: 9 },
        bundles,
        ..Update::default()
    };
    scene
        .surface
        .cache
        .try_change(|state| state.apply(update, at(160)))
        .unwrap();
    let pushed = tokio::time::timeout(Duration::from_secs(61), stream.next()).await;
    assert_eq!(pushed.unwrap().unwrap().unwrap().1, 2);
    assert!(begun.elapsed() > Duration::ZERO, "spread");
}

#[tokio::test(start_paused = true)]
async fn a_first_message_waits_for_missing_svids_but_not_for_ever() {
    let scene = Scene::new();
    let late = entry("late", "/late", &["unix:uid:7"]);
    let position = Position { epoch: 1, index: 9 };
    let update = Update {
        position,
        entries: vec![late.clone()],
        ..Update::default()
    };
    scene
        .surface
        .cache
        .try_change(|state| state.apply(update, at(160)))
        .unwrap();
    let mut patient = scene.stream().await;
    assert!(is_silent(&mut patient).await);
    assert!(
        scene.surface.cache.wanted().contains(&late.id),
        "the stream wants it"
    );
    let mut impatient = scene.stream().await;
    let begun = tokio::time::Instant::now();
    assert_eq!(next(&mut impatient).await.unwrap().0, ["app-100"]);
    assert_eq!(begun.elapsed(), PENDING_GRACE);
    scene
        .surface
        .cache
        .change(|state| put(state, svid(&late, 170, 500, 1_100)));
    assert_eq!(
        next(&mut impatient).await.unwrap().0,
        ["app-100", "late-170"]
    );
    drop((patient, impatient));
    assert!(scene.surface.cache.wanted().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_process_that_died_before_its_first_message_gets_none() {
    let scene = Scene::new();
    let late = entry("late", "/late", &["unix:uid:7"]);
    let update = Update {
        position: Position { epoch: 1, index: 9 },
        entries: vec![late.clone()],
        ..Update::default()
    };
    scene
        .surface
        .cache
        .try_change(|state| state.apply(update, at(160)))
        .unwrap();
    let mut stream = scene.stream().await;
    assert!(is_silent(&mut stream).await, "it waits for the late SVID");
    scene.process.dead.store(true, Ordering::SeqCst);
    tokio::time::advance(Duration::from_millis(1_500)).await;
    scene
        .surface
        .cache
        .change(|state| put(state, svid(&late, 170, 500, 1_100)));
    let end = next(&mut stream).await.unwrap_err();
    assert_eq!(status::code_of(&end).unwrap(), "MM-2004");
}

#[tokio::test]
async fn a_denied_agent_an_ended_entry_and_a_stopping_agent_end_streams() {
    let scene = Scene::new();
    let mut stream = scene.stream().await;
    next(&mut stream).await.unwrap();
    scene
        .surface
        .cache
        .change(|state| state.deny(Denial::Banned));
    let end = next(&mut stream).await.unwrap_err();
    assert_eq!(
        (end.code(), status::code_of(&end).unwrap().as_str()),
        (Code::PermissionDenied, "MM-2011")
    );

    let scene = Scene::new();
    let mut ending = entry("app", "/app", &["unix:path:/app"]);
    ending.expires_at = Some(at(300));
    ending.revision = 1;
    let position = Position { epoch: 1, index: 9 };
    let update = Update {
        position,
        entries: vec![ending],
        ..Update::default()
    };
    scene
        .surface
        .cache
        .try_change(|state| state.apply(update, at(160)))
        .unwrap();
    let mut stream = scene.stream().await;
    next(&mut stream).await.unwrap();
    scene.clock.set(at(300));
    scene.surface.cache.told_until(at(300));
    assert_eq!(
        next(&mut stream).await.unwrap_err().code(),
        Code::PermissionDenied
    );

    let scene = Scene::new();
    let mut stream = scene.stream().await;
    next(&mut stream).await.unwrap();
    assert!(is_silent(&mut stream).await);
    scene.drain.start(Duration::from_secs(1));
    let end = next(&mut stream).await.unwrap_err();
    assert_eq!(status::code_of(&end).unwrap(), "MM-2014");
}
