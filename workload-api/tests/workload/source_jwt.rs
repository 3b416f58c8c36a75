//! The source of JWT-SVIDs and JWT bundles.

use std::collections::BTreeSet;
use std::time::Duration;

use mintmark_identity::bundle::{Bundle, JwtAuthority};
use mintmark_identity::key_manager::{KeyAlgorithm, SigningKey};
use mintmark_identity::spiffe_id::SpiffeId;
use mintmark_identity::svid::jwt::JwtSvidError;
use mintmark_proto::spiffe::workload::{JwtsvidResponse, ValidateJwtsvidResponse};
use mintmark_workload_api::error::{ClientError, SourceError};
use mintmark_workload_api::source::bundles::{BundleSource, JwtBundles};
use mintmark_workload_api::source::jwt::JwtSource;
use mintmark_workload_api::source::x509::X509Source;
use mintmark_workload_api::source::{Event, Watch};
use serde_json::{Value, json};
use tonic::Status;

use crate::fake_agent::{Answer, FakeAgent, pass};
use crate::pki::{Domain, HOUR, audience, signed};

async fn start(agent: &FakeAgent) -> JwtSource {
    JwtSource::start(agent.settings()).await.unwrap()
}

async fn value(events: &mut Watch<JwtBundles>) {
    let event = events.next().await;
    assert!(matches!(event, Some(Event::Value(_))), "{event:?}");
}

fn validated(agent: &FakeAgent) {
    agent
        .validate
        .send_replace(Answer::Message(ValidateJwtsvidResponse {
            spiffe_id: "spiffe://example.org/w".to_owned(),
            claims: Some(prost_types::Struct::default()),
        }));
}

fn unknown_key(
    verdict: Result<mintmark_identity::svid::jwt::VerifiedJwtSvid, SourceError>,
) -> bool {
    matches!(
        verdict,
        Err(SourceError::NotAToken(JwtSvidError::UnknownKey { .. }))
    )
}

#[tokio::test(start_paused = true)]
async fn wla_37_keys_and_bundles_that_are_no_longer_sent_verify_nothing() {
    let (agent, own, partner) = (
        FakeAgent::new(),
        Domain::new("example.org"),
        Domain::new("partner.test"),
    );
    agent.say_jwt_bundles([(own.id(), own.jwks()), (partner.id(), partner.jwks())]);
    let source = start(&agent).await;
    let mut events = source.watch();
    value(&mut events).await;
    assert!(source.verify(&own.token("/w"), &audience()).is_ok());
    assert!(source.verify(&partner.token("/w"), &audience()).is_ok());
    // The own key is replaced, and the partner is no longer sent.
    let next = Domain {
        kid: "example.org-2".to_owned(),
        ..Domain::new("example.org")
    };
    agent.say_jwt_bundles([(own.id(), next.jwks())]);
    value(&mut events).await;
    assert!(source.verify(&next.token("/w"), &audience()).is_ok());
    assert!(unknown_key(source.verify(&own.token("/w"), &audience())));
    let error = source
        .verify(&partner.token("/w"), &audience())
        .unwrap_err();
    let none = matches!(error, SourceError::NotAToken(JwtSvidError::NoBundle { .. }));
    assert!(none, "{error:?}");
    // Denied, everything goes; unavailable, nothing does.
    agent
        .jwt_bundles
        .send_replace(Answer::Failure(Status::unavailable("")));
    let event = events.next().await.unwrap();
    assert!(matches!(event, Event::Trouble(_)), "{event:?}");
    assert!(source.verify(&next.token("/w"), &audience()).is_ok());
    agent
        .jwt_bundles
        .send_replace(Answer::Failure(Status::permission_denied("")));
    while source.bundles().is_ok() {
        pass(Duration::from_millis(100)).await;
    }
    assert!(
        source
            .verify(&next.token("/w"), &audience())
            .unwrap_err()
            .is_no_identity()
    );
}

#[tokio::test(start_paused = true)]
async fn wla_33_jwt_bundles_hold_jwt_keys_and_verify_nothing_signed_by_others() {
    let (agent, own) = (FakeAgent::new(), Domain::new("example.org"));
    let wit = SigningKey::generate(KeyAlgorithm::EcP256).unwrap();
    // An agent that sends keys of every use, as one that filters badly would.
    let mut everything = Bundle::empty(own.name.clone());
    everything
        .jwt
        .push(JwtAuthority::parse(&own.kid, own.jwt.spki_der()).unwrap());
    everything
        .wit
        .push(JwtAuthority::parse("wit-1", wit.spki_der()).unwrap());
    let mut document: Value = serde_json::from_slice(&everything.to_document()).unwrap();
    let mut as_x509 = document["keys"][0].clone();
    as_x509["use"] = json!("x509-svid");
    as_x509["kid"] = json!("x509-1");
    document["keys"].as_array_mut().unwrap().push(as_x509);
    assert_eq!(document["keys"].as_array().unwrap().len(), 3);
    agent.say_jwt_bundles([(own.id(), document.to_string().into_bytes())]);
    let source = start(&agent).await;
    let subject = SpiffeId::from_path(&own.name, "/w").unwrap();
    assert!(source.verify(&own.token("/w"), &audience()).is_ok());
    let by_wit = signed(&wit, "wit-1", &subject);
    assert!(unknown_key(source.verify(&by_wit, &audience())));
    let by_x509 = signed(&own.jwt, "x509-1", &subject);
    assert!(unknown_key(source.verify(&by_x509, &audience())));
}

#[tokio::test(start_paused = true)]
async fn wla_40_validating_a_token_asks_the_agent() {
    let (agent, own) = (FakeAgent::new(), Domain::new("example.org"));
    agent.say_jwt_bundles([(own.id(), own.jwks())]);
    validated(&agent);
    let source = start(&agent).await;
    let valid = source
        .validate("here", "whatever the agent says")
        .await
        .unwrap();
    assert_eq!(valid.spiffe_id.as_str(), "spiffe://example.org/w");
    assert_eq!(agent.calls_of("ValidateJWTSVID").len(), 1);
    // The agent's word counts, even against what could be verified here.
    let good = own.token("/w");
    agent
        .validate
        .send_replace(Answer::Failure(Status::invalid_argument("not valid")));
    let error = source.validate("here", &good).await.unwrap_err();
    assert!(
        matches!(&error, SourceError::Call(ClientError::Invalid(_))),
        "{error:?}"
    );
    assert!(source.verify(&good, &audience()).is_ok());
}

#[tokio::test(start_paused = true)]
async fn wle_25_wla_43_nothing_is_called_but_the_methods_that_every_agent_has() {
    let (agent, own) = (FakeAgent::new(), Domain::new("example.org"));
    agent.say_x509(vec![own.svid_for("/w", "", HOUR * 24)], &[]);
    agent.say_x509_bundles(&[&own]);
    agent.say_jwt_bundles([(own.id(), own.jwks())]);
    validated(&agent);
    let svids = vec![own.jwt_svid("/w", "")];
    agent
        .jwt
        .send_replace(Answer::Message(JwtsvidResponse { svids }));
    let _x509 = X509Source::start(agent.settings()).await.unwrap();
    let _bundles = BundleSource::start(agent.settings()).await.unwrap();
    let jwt = start(&agent).await;
    jwt.fetch(&audience()).await.unwrap();
    jwt.validate("here", "x").await.unwrap();
    pass(HOUR).await;
    let called: BTreeSet<String> = agent.calls().into_iter().map(|call| call.path).collect();
    let methods = [
        "FetchX509SVID",
        "FetchX509Bundles",
        "FetchJWTSVID",
        "FetchJWTBundles",
        "ValidateJWTSVID",
    ];
    let methods = methods.map(|method| format!("/SpiffeWorkloadAPI/{method}"));
    assert_eq!(
        called,
        BTreeSet::from(methods),
        "no reflection, no WIT, no other service"
    );
}

#[tokio::test(start_paused = true)]
async fn wla_n2_a_token_for_a_hint_that_no_identity_has_is_an_error() {
    let (agent, own) = (FakeAgent::new(), Domain::new("example.org"));
    agent.say_jwt_bundles([(own.id(), own.jwks())]);
    let svids = vec![own.jwt_svid("/a", "first"), own.jwt_svid("/b", "second")];
    agent
        .jwt
        .send_replace(Answer::Message(JwtsvidResponse { svids }));
    let source = start(&agent).await;
    assert_eq!(
        source.fetch(&audience()).await.unwrap().spiffe_id.path(),
        "/a"
    );
    let second = source.fetch_with_hint(&audience(), "second").await.unwrap();
    assert_eq!(second.spiffe_id.path(), "/b");
    let error = source
        .fetch_with_hint(&audience(), "third")
        .await
        .unwrap_err();
    assert!(
        matches!(&error, SourceError::NoSuchHint(hint) if hint == "third"),
        "{error:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn single_calls_share_a_connection_until_it_fails() {
    let (agent, own) = (FakeAgent::new(), Domain::new("example.org"));
    agent.say_jwt_bundles([(own.id(), own.jwks())]);
    let source = start(&agent).await;
    let connections = || agent.connections.lock().unwrap().len();
    validated(&agent);
    for _ in 0..3 {
        source.validate("here", "x").await.unwrap();
    }
    assert_eq!(connections(), 2, "one for the stream, one for the calls");
    agent
        .validate
        .send_replace(Answer::Failure(Status::invalid_argument("")));
    source.validate("here", "x").await.unwrap_err();
    agent
        .validate
        .send_replace(Answer::Failure(Status::unavailable("")));
    source.validate("here", "x").await.unwrap_err();
    validated(&agent);
    source.validate("here", "x").await.unwrap();
    assert_eq!(
        connections(),
        3,
        "a verdict keeps the connection, a failure does not"
    );
}

#[tokio::test(start_paused = true)]
async fn wla_14_a_key_set_that_cannot_be_read_is_discarded_as_a_whole() {
    let (agent, own, partner) = (
        FakeAgent::new(),
        Domain::new("example.org"),
        Domain::new("partner.test"),
    );
    agent.say_jwt_bundles([(own.id(), own.jwks())]);
    let source = start(&agent).await;
    let mut events = source.watch();
    value(&mut events).await;
    agent.say_jwt_bundles([(own.id(), own.jwks()), (partner.id(), b"not json".to_vec())]);
    match events.next().await.unwrap() {
        Event::Trouble(error) => assert!(error.is_malformed(), "{error}"),
        other => panic!("{other:?}"),
    }
    assert!(source.verify(&own.token("/w"), &audience()).is_ok());
    assert_eq!(source.bundles().unwrap().trust_domains().count(), 1);
}

#[tokio::test(start_paused = true)]
async fn tdb_09_an_empty_key_set_that_is_pushed_ends_every_token() {
    let (agent, own) = (FakeAgent::new(), Domain::new("example.org"));
    agent.say_jwt_bundles([(own.id(), own.jwks())]);
    let source = start(&agent).await;
    let mut events = source.watch();
    value(&mut events).await;
    assert!(source.verify(&own.token("/w"), &audience()).is_ok());
    agent.say_jwt_bundles([(own.id(), br#"{"keys":[]}"#.to_vec())]);
    value(&mut events).await;
    assert!(unknown_key(source.verify(&own.token("/w"), &audience())));
}
