//! Sources of X.509-SVIDs and of X.509 bundles.

use std::sync::Arc;
use std::time::Duration;

use mintmark_identity::svid::x509::verify::{Usage, X509SvidError};
use mintmark_identity::tls::BundleSource as _;
use mintmark_proto::spiffe::workload::X509svidResponse;
use mintmark_workload_api::error::{ClientError, SourceError};
use mintmark_workload_api::source::bundles::BundleSource;
use mintmark_workload_api::source::x509::{X509Context, X509Source};
use mintmark_workload_api::source::{Event, Settings, Watch};
use tokio::time::Instant;
use tonic::Status;

use crate::fake_agent::{Answer, FakeAgent, pass};
use crate::pki::{Domain, HOUR, id};

const METHOD: &str = "FetchX509SVID";

async fn start(agent: &FakeAgent) -> X509Source {
    X509Source::start(agent.settings()).await.unwrap()
}

/// The next event, which must be a value.
async fn value(events: &mut Watch<X509Context>) -> Arc<X509Context> {
    match events.next().await {
        Some(Event::Value(context)) => context,
        other => panic!("{other:?}"),
    }
}

async fn trouble(events: &mut Watch<X509Context>) -> Arc<ClientError> {
    match events.next().await {
        Some(Event::Trouble(error)) => error,
        other => panic!("{other:?}"),
    }
}

fn paths(context: &X509Context) -> Vec<String> {
    let path = |identity: &mintmark_workload_api::source::x509::HeldIdentity| {
        identity.svid.spiffe_id().path().to_owned()
    };
    context.identities().iter().map(path).collect()
}

#[tokio::test(start_paused = true)]
async fn wla_03_one_stream_is_kept_for_a_day_of_silence() {
    let (agent, domain) = (FakeAgent::new(), Domain::new("example.org"));
    agent.say_x509(vec![domain.svid("/w", "")], &[]);
    let source = start(&agent).await;
    let mut events = source.watch();
    value(&mut events).await;
    pass(Duration::from_secs(86_400)).await;
    agent.say_x509(vec![domain.svid("/w2", "")], &[]);
    assert_eq!(paths(&*value(&mut events).await), ["/w2"]);
    assert_eq!(
        agent.calls_of(METHOD).len(),
        1,
        "the stream of the day before"
    );
    assert_eq!(agent.connections.lock().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn wla_04_wle_07_a_stream_that_ends_is_opened_again_at_once_with_the_header() {
    let (agent, domain) = (FakeAgent::new(), Domain::new("example.org"));
    agent.say_x509(vec![domain.svid("/w", "")], &[]);
    let source = start(&agent).await;
    pass(HOUR).await;
    let ended = Instant::now();
    agent.end_streams();
    let calls = agent.called(METHOD, 2).await;
    assert!(calls[1].at - ended < Duration::from_secs(1));
    assert!(source.svid().is_ok(), "meanwhile nothing is lost");
    for call in agent.calls() {
        assert_eq!(call.header, ["true"]);
    }
}

#[tokio::test(start_paused = true)]
async fn wla_04_wle_n1_an_agent_that_stays_away_is_called_with_growing_pauses_and_found_again() {
    let (agent, domain) = (FakeAgent::new(), Domain::new("example.org"));
    agent.say_x509(vec![domain.svid("/w", "")], &[]);
    let source = start(&agent).await;
    pass(HOUR).await;
    *agent.away.lock().unwrap() = true;
    agent.end_streams();
    pass(Duration::from_secs(60)).await;
    let tries = agent.connections.lock().unwrap().clone();
    let pauses: Vec<Duration> = tries.windows(2).skip(1).map(|w| w[1] - w[0]).collect();
    assert!(pauses[0] >= Duration::from_millis(50), "{pauses:?}");
    assert!(
        pauses.iter().all(|pause| *pause <= Duration::from_secs(5)),
        "{pauses:?}"
    );
    assert!(
        (15..40).contains(&pauses.len()),
        "neither silent nor spinning: {pauses:?}"
    );
    let problem = source.problem().unwrap();
    assert!(matches!(*problem, ClientError::NoAgent { .. }), "{problem}");
    assert!(
        source.svid().is_ok(),
        "A-30: a lost agent withdraws nothing"
    );
    *agent.away.lock().unwrap() = false;
    agent.called(METHOD, 2).await;
    pass(Duration::from_secs(1)).await;
    assert!(source.problem().is_none(), "all is well again");
}

#[tokio::test(start_paused = true)]
async fn wle_20_invalid_argument_is_asked_once_and_never_again() {
    let (agent, domain) = (FakeAgent::new(), Domain::new("example.org"));
    agent
        .x509
        .send_replace(Answer::Failure(Status::invalid_argument("no")));
    let error = X509Source::start(agent.settings()).await.unwrap_err();
    assert!(error.is_refused() && !error.is_retryable(), "{error:?}");
    pass(HOUR).await;
    assert_eq!(agent.calls_of(METHOD).len(), 1);
    // The same when a running stream ends with it.
    let agent = FakeAgent::new();
    agent.say_x509(vec![domain.svid("/w", "")], &[]);
    let source = start(&agent).await;
    let mut events = source.watch();
    value(&mut events).await;
    agent
        .x509
        .send_replace(Answer::Failure(Status::invalid_argument("no")));
    let error = trouble(&mut events).await;
    assert!(matches!(*error, ClientError::Invalid(_)), "{error}");
    assert!(events.next().await.is_none(), "the source has ended");
    pass(HOUR).await;
    assert_eq!(agent.calls_of(METHOD).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn wle_n2_unimplemented_ends_that_watch_and_no_other() {
    let (agent, domain) = (FakeAgent::new(), Domain::new("example.org"));
    agent.say_x509(vec![domain.svid("/w", "")], &[]);
    agent
        .x509_bundles
        .send_replace(Answer::Failure(Status::unimplemented("off")));
    let source = start(&agent).await;
    let error = BundleSource::start(agent.settings()).await.unwrap_err();
    assert!(error.is_refused(), "{error:?}");
    pass(HOUR).await;
    assert_eq!(agent.calls_of("FetchX509Bundles").len(), 1);
    let mut events = source.watch();
    value(&mut events).await;
    agent.say_x509(vec![domain.svid("/w2", "")], &[]);
    assert_eq!(paths(&*value(&mut events).await), ["/w2"]);
}

#[tokio::test(start_paused = true)]
async fn wle_n3_permission_denied_is_retried_slowly_and_without_end() {
    let (agent, domain) = (FakeAgent::new(), Domain::new("example.org"));
    agent
        .x509
        .send_replace(Answer::Failure(Status::permission_denied(
            "no identity issued",
        )));
    let settings = Settings {
        first_value: Some(Duration::from_secs(600)),
        ..agent.settings()
    };
    let error = X509Source::start(settings).await.unwrap_err();
    assert!(error.is_no_identity() && error.is_retryable(), "{error:?}");
    let calls = agent.calls_of(METHOD);
    let pauses: Vec<Duration> = calls.windows(2).map(|w| w[1].at - w[0].at).collect();
    assert!(
        pauses.iter().all(|pause| *pause >= Duration::from_secs(1)),
        "{pauses:?}"
    );
    assert!(
        pauses.iter().all(|pause| *pause <= Duration::from_secs(31)),
        "{pauses:?}"
    );
    assert!((20..60).contains(&pauses.len()), "{pauses:?}");
    // And when the entry comes, so does the SVID.
    let settings = Settings {
        first_value: None,
        ..agent.settings()
    };
    let waiting = tokio::spawn(X509Source::start(settings));
    pass(HOUR).await;
    agent.say_x509(vec![domain.svid_for("/w", "", HOUR * 24)], &[]);
    assert!(waiting.await.unwrap().unwrap().svid().is_ok());
}

#[tokio::test(start_paused = true)]
async fn wla_22_denied_the_svid_is_withdrawn_at_once_and_comes_back_with_the_entry() {
    let (agent, domain) = (FakeAgent::new(), Domain::new("example.org"));
    agent.say_x509(vec![domain.svid("/w", "")], &[]);
    let source = start(&agent).await;
    let mut events = source.watch();
    value(&mut events).await;
    // Unavailable withdraws nothing (decision A-30) …
    agent
        .x509
        .send_replace(Answer::Failure(Status::unavailable("restarting")));
    trouble(&mut events).await;
    assert!(source.svid().is_ok());
    // … and PermissionDenied does.
    agent
        .x509
        .send_replace(Answer::Failure(Status::permission_denied(
            "no identity issued",
        )));
    let event = loop {
        match events.next().await.unwrap() {
            Event::Trouble(_) => {}
            other => break other,
        }
    };
    assert!(matches!(event, Event::Withdrawn(_)), "{event:?}");
    assert!(matches!(source.svid(), Err(SourceError::Withdrawn(_))));
    assert!(source.svid().unwrap_err().is_no_identity());
    assert!(
        mintmark_identity::tls::SvidSource::svid(&source).is_none(),
        "TLS has none to show"
    );
    assert!(source.bundles().is_empty(), "and believes nobody");
    agent.say_x509(vec![domain.svid("/again", "")], &[]);
    while source.svid().is_err() {
        pass(Duration::from_secs(1)).await;
    }
    assert_eq!(source.svid().unwrap().spiffe_id().path(), "/again");
}

#[tokio::test(start_paused = true)]
async fn wla_09_10_11_12_what_is_no_longer_sent_is_gone() {
    let (agent, own, partner) = (
        FakeAgent::new(),
        Domain::new("example.org"),
        Domain::new("partner.test"),
    );
    let first = own.svid("/a", "internal");
    agent.say_x509(vec![first.clone(), own.svid("/b", "other")], &[&partner]);
    let source = start(&agent).await;
    let mut events = source.watch();
    value(&mut events).await;
    assert!(source.svid_with_hint("internal").is_ok() && source.svid_with_hint("other").is_ok());
    assert!(source.verify(&partner.peer(), Usage::Server).is_ok());
    // The second message has neither the hint, nor the second SVID, nor the partner's bundle.
    let bare = mintmark_proto::spiffe::workload::X509svid {
        hint: String::new(),
        ..first
    };
    agent.say_x509(vec![bare], &[]);
    let context = value(&mut events).await;
    assert_eq!(paths(&context), ["/a"]);
    assert_eq!(
        context.bundles().trust_domains().collect::<Vec<_>>(),
        [&own.name]
    );
    for hint in ["internal", "other"] {
        let error = source.svid_with_hint(hint).unwrap_err();
        assert!(matches!(error, SourceError::NoSuchHint(_)), "{error:?}");
    }
    let error = source.verify(&partner.peer(), Usage::Server).unwrap_err();
    let none =
        matches!(&error, SourceError::NotAnSvid(X509SvidError::NoBundle(d)) if *d == partner.name);
    assert!(none, "{error:?}");
    assert!(source.verify(&own.peer(), Usage::Server).is_ok());
}

#[tokio::test(start_paused = true)]
async fn wla_26_a_bundle_that_is_no_longer_sent_verifies_nobody() {
    let (agent, own, partner) = (
        FakeAgent::new(),
        Domain::new("example.org"),
        Domain::new("partner.test"),
    );
    agent.say_x509_bundles(&[&own, &partner]);
    let source = BundleSource::start(agent.settings()).await.unwrap();
    let mut events = source.watch();
    assert!(matches!(events.next().await, Some(Event::Value(_))));
    let now = mintmark_identity::clock::Clock::now(&*agent.clock);
    let verify = |domain: &Domain| {
        let bundles = BundleSource::bundles(&source).unwrap();
        bundles.verify(&domain.peer(), now, Usage::Client)
    };
    assert!(verify(&own).is_ok() && verify(&partner).is_ok());
    agent.say_x509_bundles(&[&own]);
    assert!(matches!(events.next().await, Some(Event::Value(_))));
    assert!(verify(&own).is_ok());
    assert_eq!(
        verify(&partner),
        Err(X509SvidError::NoBundle(partner.name.clone()))
    );
    // Denied, all of them go.
    agent
        .x509_bundles
        .send_replace(Answer::Failure(Status::permission_denied("")));
    assert!(matches!(events.next().await, Some(Event::Withdrawn(_))));
    assert!(BundleSource::bundles(&source).unwrap_err().is_no_identity());
    assert!(mintmark_identity::tls::BundleSource::bundles(&source).is_empty());
}

#[tokio::test(start_paused = true)]
async fn wla_17_23_x509_bundles_hold_x509_authorities_and_verify_no_token() {
    let (agent, own) = (FakeAgent::new(), Domain::new("example.org"));
    agent.say_x509(vec![own.svid("/w", "")], &[]);
    agent.say_x509_bundles(&[&own]);
    let source = start(&agent).await;
    let bundles = BundleSource::start(agent.settings()).await.unwrap();
    let sets = [
        source.bundles(),
        mintmark_identity::tls::BundleSource::bundles(&bundles),
    ];
    for set in sets {
        let bundle = set.get(&own.name).unwrap();
        assert_eq!(bundle.x509.len(), 1);
        assert!(bundle.jwt.is_empty() && bundle.wit.is_empty());
        let now = mintmark_identity::clock::Clock::now(&*agent.clock);
        let verdict = mintmark_identity::svid::jwt::verify_jwt_svid(
            &own.token("/w"),
            &crate::pki::audience(),
            &set,
            now,
            Duration::ZERO,
        );
        let unknown = mintmark_identity::svid::jwt::JwtSvidError::UnknownKey {
            trust_domain: own.name.clone(),
            kid: own.kid.clone(),
        };
        assert_eq!(verdict.unwrap_err().to_string(), unknown.to_string());
    }
}

#[tokio::test(start_paused = true)]
async fn wla_n2_a_hint_that_no_identity_has_is_an_error_and_not_the_default() {
    let (agent, own) = (FakeAgent::new(), Domain::new("example.org"));
    agent.say_x509(vec![own.svid("/a", "first"), own.svid("/b", "second")], &[]);
    let source = start(&agent).await;
    let path = |hint| {
        source
            .svid_with_hint(hint)
            .map(|svid| svid.spiffe_id().path().to_owned())
    };
    assert_eq!(path("second").unwrap(), "/b");
    for hint in ["third", "", "Second"] {
        let error = path(hint).unwrap_err();
        assert!(
            matches!(&error, SourceError::NoSuchHint(h) if h == hint),
            "{error:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn wla_n1_n3_the_default_is_the_first_and_peers_are_judged_by_their_own_trust_domain() {
    let (agent, own) = (FakeAgent::new(), Domain::new("example.org"));
    let stranger = Domain::new("stranger.test");
    agent.say_x509(vec![own.svid("/a", ""), own.svid("/b", "")], &[]);
    let source = start(&agent).await;
    assert_eq!(
        source.svid().unwrap().spiffe_id(),
        &id("spiffe://example.org/a")
    );
    let peer = source.verify(&own.peer(), Usage::Either).unwrap();
    assert_eq!(peer.spiffe_id, id("spiffe://example.org/peer"));
    let error = source.verify(&stranger.peer(), Usage::Either).unwrap_err();
    assert!(
        matches!(error, SourceError::NotAnSvid(X509SvidError::NoBundle(_))),
        "{error:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn wla_14_a_malformed_update_is_reported_discarded_and_does_not_end_the_stream() {
    let (agent, own) = (FakeAgent::new(), Domain::new("example.org"));
    agent.say_x509(vec![own.svid("/w", "")], &[]);
    let source = start(&agent).await;
    let mut events = source.watch();
    value(&mut events).await;
    let other = Domain::new("example.org");
    let mut foreign_key = own.svid("/w", "");
    foreign_key.x509_svid_key = own.svid("/w", "").x509_svid_key;
    let mut other_bundle = own.svid("/w", "");
    other_bundle.bundle = other.anchor();
    for svids in [vec![], vec![foreign_key], vec![other_bundle]] {
        agent.x509.send_replace(Answer::Message(X509svidResponse {
            svids,
            ..X509svidResponse::default()
        }));
        assert!(trouble(&mut events).await.is_malformed());
        assert_eq!(source.svid().unwrap().spiffe_id().path(), "/w");
        assert!(source.problem().is_some());
    }
    agent.say_x509(vec![own.svid("/next", "")], &[]);
    assert_eq!(paths(&*value(&mut events).await), ["/next"]);
    assert!(source.problem().is_none());
    assert_eq!(agent.calls_of(METHOD).len(), 1, "one stream all the time");
}

#[tokio::test(start_paused = true)]
async fn an_svid_that_expired_is_neither_taken_nor_given() {
    let (agent, own) = (FakeAgent::new(), Domain::new("example.org"));
    agent.say_x509(vec![own.svid("/w", "")], &[]);
    let source = start(&agent).await;
    let mut events = source.watch();
    value(&mut events).await;
    let old = own.svid_for("/short", "", Duration::from_secs(60));
    agent.clock.advance(Duration::from_secs(61));
    agent.say_x509(vec![old], &[]);
    assert!(trouble(&mut events).await.is_malformed());
    assert_eq!(
        source.svid().unwrap().spiffe_id().path(),
        "/w",
        "still good"
    );
    agent.clock.advance(HOUR);
    let error = source.svid().unwrap_err();
    assert!(
        matches!(error, SourceError::Expired { .. }) && error.is_retryable(),
        "{error:?}"
    );
    assert!(mintmark_identity::tls::SvidSource::svid(&source).is_none());
}

#[tokio::test(start_paused = true)]
async fn the_same_update_again_is_no_event() {
    let (agent, own) = (FakeAgent::new(), Domain::new("example.org"));
    let svid = own.svid("/w", "");
    agent.say_x509(vec![svid.clone()], &[]);
    let source = start(&agent).await;
    let mut events = source.watch();
    value(&mut events).await;
    agent.say_x509(vec![svid], &[]);
    let nothing = tokio::time::timeout(HOUR, events.next()).await;
    assert!(nothing.is_err(), "{nothing:?}");
    agent.say_x509(vec![own.svid("/w", "")], &[]);
    value(&mut events).await;
}

#[tokio::test(start_paused = true)]
async fn a_source_ends_with_its_last_handle_and_its_watchers_learn_it() {
    let (agent, own) = (FakeAgent::new(), Domain::new("example.org"));
    agent.say_x509(vec![own.svid("/w", "")], &[]);
    let source = start(&agent).await;
    let again = source.clone();
    let mut events = source.watch();
    value(&mut events).await;
    drop(source);
    assert!(again.svid().is_ok());
    drop(again);
    assert!(events.next().await.is_none());
    agent.end_streams();
    pass(HOUR).await;
    assert_eq!(
        agent.calls_of(METHOD).len(),
        1,
        "nobody opens another stream"
    );
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_says_nothing_is_not_ready_and_that_is_said_in_time() {
    let agent = FakeAgent::new();
    let begun = Instant::now();
    let error = X509Source::start(agent.settings()).await.unwrap_err();
    assert!(
        matches!(error, SourceError::NotReady { last: None, .. }),
        "{error:?}"
    );
    assert_eq!(begun.elapsed(), Duration::from_secs(30));
    assert!(error.is_retryable() && !error.is_no_identity());
    pass(HOUR).await;
    assert_eq!(
        agent.connections.lock().unwrap().len(),
        1,
        "and the task is gone"
    );
}

#[tokio::test(start_paused = true)]
async fn a_source_that_was_not_waited_for_tells_from_its_first_failure_on() {
    let (agent, own, partner) = (
        FakeAgent::new(),
        Domain::new("example.org"),
        Domain::new("partner.test"),
    );
    *agent.away.lock().unwrap() = true;
    let source = X509Source::spawn(agent.settings());
    let mut events = source.watch();
    let error = trouble(&mut events).await;
    assert!(matches!(*error, ClientError::NoAgent { .. }), "{error}");
    let error = source.svid().unwrap_err();
    assert!(matches!(error, SourceError::NotReady { .. }), "{error:?}");
    *agent.away.lock().unwrap() = false;
    let sent = vec![own.svid("/w", "h")];
    agent.say_x509(sent.clone(), &[&partner]);
    let context = loop {
        if let Some(Event::Value(context)) = events.next().await {
            break context;
        }
    };
    // And what it holds can be written down as it was sent.
    let update = context.to_update();
    assert_eq!(update.identities.len(), 1);
    let identity = &update.identities[0];
    assert_eq!(identity.chain.concat(), sent[0].x509_svid);
    assert_eq!(identity.private_key.expose(), sent[0].x509_svid_key);
    assert_eq!(identity.bundle.concat(), sent[0].bundle);
    assert_eq!(identity.hint, "h");
    let federated = [(partner.name.clone(), vec![partner.anchor()])];
    assert_eq!(update.federated, federated.into());
}
