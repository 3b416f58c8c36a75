//! The client, call by call.

use mintmark_identity::key_manager::{KeyAlgorithm, SigningKey};
use mintmark_proto::spiffe::workload::{
    JwtsvidResponse, ValidateJwtsvidResponse, X509svid, X509svidResponse,
};
use mintmark_workload_api::client::Client;
use mintmark_workload_api::connector::Connector as _;
use mintmark_workload_api::endpoint::Endpoint;
use mintmark_workload_api::error::ClientError;
use mintmark_workload_api::limits::Limits;
use mintmark_workload_api::source::x509::X509Context;
use tonic::Status;

use crate::fake_agent::{Answer, FakeAgent};
use crate::pki::{Domain, id, now, signed};

async fn client(agent: &FakeAgent) -> Client {
    agent.connect().await.unwrap()
}

/// Runs in a process of its own, because the environment belongs to all tests of this one.
#[test]
fn wle_10_the_variable_is_spiffe_endpoint_socket() {
    const EXPECTED: &str = "MINTMARK_TEST_EXPECTS";
    if let Ok(expected) = std::env::var(EXPECTED) {
        let found = match Endpoint::resolve(None) {
            Ok(endpoint) => endpoint.to_string(),
            Err(error) => format!("{error:?}"),
        };
        assert_eq!(found, expected);
        return;
    }
    let cases = [
        (
            Some("unix:///from/the/variable"),
            "unix:///from/the/variable",
        ),
        (Some(""), "Scheme"),
        (None, "Missing"),
    ];
    for (variable, expected) in cases {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        child.args([
            "--exact",
            "client::wle_10_the_variable_is_spiffe_endpoint_socket",
        ]);
        child
            .env_remove("SPIFFE_ENDPOINT_SOCKET")
            .env(EXPECTED, expected);
        if let Some(variable) = variable {
            child.env("SPIFFE_ENDPOINT_SOCKET", variable);
        }
        let output = child.output().unwrap();
        assert!(output.status.success(), "{variable:?}: {output:?}");
        assert!(
            String::from_utf8_lossy(&output.stdout).contains("1 passed"),
            "{output:?}"
        );
    }
}

fn tokens(agent: &FakeAgent, svids: Vec<mintmark_proto::spiffe::workload::Jwtsvid>) {
    agent
        .jwt
        .send_replace(Answer::Message(JwtsvidResponse { svids }));
}

fn here() -> Vec<String> {
    vec!["here".to_owned()]
}

#[tokio::test]
async fn wle_04_09_the_client_speaks_plain_grpc_on_the_socket_that_it_is_given() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let agent = FakeAgent::new();
    let domain = Domain::new("example.org");
    agent.say_x509(vec![domain.svid("/w", "")], &[]);
    let serving = agent.clone();
    tokio::spawn(async move {
        serving
            .serve(tokio_stream::wrappers::UnixListenerStream::new(listener))
            .await;
    });
    let endpoint: Endpoint = format!("unix://{}", path.display()).parse().unwrap();
    let mut client = Client::connect(&endpoint).await.unwrap();
    let update = client.fetch_x509().await.unwrap();
    assert_eq!(update.identities[0].spiffe_id, id("spiffe://example.org/w"));
    assert_eq!(agent.calls()[0].path, "/SpiffeWorkloadAPI/FetchX509SVID");
    // The negative: nobody listens there.
    let nobody: Endpoint = format!("unix://{}.not", path.display()).parse().unwrap();
    let error = Client::connect(&nobody).await.unwrap_err();
    assert!(matches!(error, ClientError::NoAgent { .. }), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn wle_07_every_call_carries_the_security_header_exactly_once() {
    let agent = FakeAgent::new();
    let domain = Domain::new("example.org");
    agent.say_x509(vec![domain.svid("/w", "")], &[]);
    agent.say_x509_bundles(&[&domain]);
    agent.say_jwt_bundles([(domain.id(), domain.jwks())]);
    tokens(&agent, vec![domain.jwt_svid("/w", "")]);
    agent
        .validate
        .send_replace(Answer::Message(ValidateJwtsvidResponse {
            spiffe_id: "spiffe://example.org/w".to_owned(),
            claims: Some(prost_types::Struct::default()),
        }));
    let mut client = client(&agent).await;
    client.fetch_x509().await.unwrap();
    client
        .watch_x509_bundles()
        .await
        .unwrap()
        .next()
        .await
        .unwrap();
    client.fetch_jwt(&here(), None).await.unwrap();
    client.fetch_jwt_bundles().await.unwrap();
    client.validate_jwt("here", "a.b.c").await.unwrap();
    let calls = agent.calls();
    assert_eq!(calls.len(), 5);
    for call in calls {
        assert_eq!(call.header, ["true"], "{}", call.path);
    }
}

#[tokio::test(start_paused = true)]
async fn wla_31_of_several_tokens_with_one_hint_the_first_counts() {
    let agent = FakeAgent::new();
    let domain = Domain::new("example.org");
    let sent = [
        ("/a", "h"),
        ("/b", "h"),
        ("/c", ""),
        ("/d", ""),
        ("/e", "i"),
    ];
    let sent = sent.map(|(path, hint)| domain.jwt_svid(path, hint));
    tokens(&agent, sent.to_vec());
    let got = client(&agent).await.fetch_jwt(&here(), None).await.unwrap();
    let paths: Vec<_> = got.iter().map(|t| t.spiffe_id.path().to_owned()).collect();
    assert_eq!(paths, ["/a", "/c", "/d", "/e"]);
}

#[tokio::test(start_paused = true)]
async fn wla_55_a_hint_of_more_than_1024_bytes_spoils_the_message() {
    let agent = FakeAgent::new();
    let domain = Domain::new("example.org");
    let mut client = client(&agent).await;
    for (hint, good) in [("é".repeat(512), true), ("é".repeat(513), false)] {
        agent.say_x509(vec![domain.svid("/w", &hint)], &[]);
        tokens(&agent, vec![domain.jwt_svid("/w", &hint)]);
        let x509 = client.fetch_x509().await;
        let jwt = client.fetch_jwt(&here(), None).await;
        assert_eq!((x509.is_ok(), jwt.is_ok()), (good, good));
        if let Err(error) = x509 {
            assert!(error.is_malformed(), "{error}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn wla_n11_id_19_a_token_speaks_of_the_identity_that_the_agent_names() {
    let agent = FakeAgent::new();
    let domain = Domain::new("example.org");
    let mut client = client(&agent).await;
    let mut svid = domain.jwt_svid("/w", "");
    tokens(&agent, vec![svid.clone()]);
    assert!(client.fetch_jwt(&here(), None).await.is_ok());
    let asked = id("spiffe://example.org/other");
    let error = client.fetch_jwt(&here(), Some(&asked)).await.unwrap_err();
    assert!(error.is_malformed(), "not what was asked for: {error}");
    svid.spiffe_id = asked.to_string();
    tokens(&agent, vec![svid]);
    let error = client.fetch_jwt(&here(), None).await.unwrap_err();
    assert!(error.is_malformed(), "{error}");
}

#[tokio::test(start_paused = true)]
async fn wla_14_a_token_that_is_missing_or_no_token_is_malformed() {
    let agent = FakeAgent::new();
    let domain = Domain::new("example.org");
    let mut client = client(&agent).await;
    let mut empty = domain.jwt_svid("/w", "");
    empty.svid.clear();
    let mut nameless = domain.jwt_svid("/w", "");
    nameless.spiffe_id.clear();
    let mut text = domain.jwt_svid("/w", "");
    text.svid = "x.y.z".to_owned();
    for svids in [vec![], vec![empty], vec![nameless], vec![text]] {
        tokens(&agent, svids);
        let error = client.fetch_jwt(&here(), None).await.unwrap_err();
        assert!(error.is_malformed(), "{error}");
    }
    agent.say_x509_bundles(&[]);
    agent.say_jwt_bundles([]);
    let mut x509 = client.watch_x509_bundles().await.unwrap();
    assert!(x509.next().await.unwrap_err().is_malformed());
    assert!(client.fetch_jwt_bundles().await.unwrap_err().is_malformed());
}

#[tokio::test(start_paused = true)]
async fn each_status_has_its_meaning_and_only_some_may_be_retried() {
    let agent = FakeAgent::new();
    let mut client = client(&agent).await;
    type Is = fn(&ClientError) -> bool;
    let meanings: [(Status, bool, Is); 6] = [
        (Status::invalid_argument(""), false, |e| {
            matches!(e, ClientError::Invalid(_))
        }),
        (Status::unimplemented(""), false, |e| {
            matches!(e, ClientError::Unsupported(_))
        }),
        (
            Status::permission_denied(""),
            true,
            ClientError::is_no_identity,
        ),
        (Status::unavailable(""), true, |e| {
            matches!(e, ClientError::Unavailable(_))
        }),
        (Status::deadline_exceeded(""), true, |e| {
            matches!(e, ClientError::Late(_))
        }),
        (Status::internal(""), true, |e| {
            matches!(e, ClientError::Other(_))
        }),
    ];
    for (status, retryable, is) in meanings {
        agent.jwt.send_replace(Answer::Failure(status.clone()));
        let error = client.fetch_jwt(&here(), None).await.unwrap_err();
        assert!(
            is(&error) && error.is_retryable() == retryable,
            "{status}: {error:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_does_not_answer_a_single_call_is_given_up_after_half_a_minute() {
    let agent = FakeAgent::new();
    let begun = tokio::time::Instant::now();
    let error = client(&agent)
        .await
        .fetch_jwt(&here(), None)
        .await
        .unwrap_err();
    assert!(matches!(error, ClientError::Timeout(_)), "{error:?}");
    assert_eq!(begun.elapsed().as_secs(), 30);
}

/// What the checks say of one identity after a change to it.
async fn spoiled(domain: &Domain, change: impl FnOnce(&mut X509svid)) -> Result<(), String> {
    let agent = FakeAgent::new();
    let mut svid = domain.svid("/w", "");
    change(&mut svid);
    agent.x509.send_replace(Answer::Message(X509svidResponse {
        svids: vec![svid],
        ..X509svidResponse::default()
    }));
    let update = client(&agent).await.fetch_x509().await;
    let checked = update.and_then(|update| X509Context::check(update, &Limits::default(), now()));
    match checked {
        Ok(context) => {
            assert_eq!(context.identities().len(), 1);
            Ok(())
        }
        Err(error) => {
            assert!(error.is_malformed(), "{error:?}");
            Err(error.to_string())
        }
    }
}

#[tokio::test(start_paused = true)]
async fn wla_15_16_n7_n11_an_svid_is_der_leaf_first_with_its_own_pkcs8_key_and_its_own_name() {
    let domain = Domain::new("example.org");
    let other = Domain::new("example.org");
    assert_eq!(spoiled(&domain, |_| {}).await, Ok(()));
    let key = SigningKey::generate(KeyAlgorithm::EcP384).unwrap();
    let p384 = |svid: &mut X509svid| {
        svid.x509_svid = domain.leaf("/w", &key, crate::pki::HOUR);
        svid.x509_svid_key = key.to_pkcs8().unwrap().to_vec();
    };
    assert_eq!(spoiled(&domain, p384).await, Ok(()), "another kind of key");
    let authority_first = |svid: &mut X509svid| {
        svid.x509_svid = [domain.anchor(), svid.x509_svid.clone()].concat();
    };
    assert!(spoiled(&domain, authority_first).await.is_err());
    let pem = |svid: &mut X509svid| {
        svid.x509_svid_key =
            b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----".to_vec();
    };
    assert!(spoiled(&domain, pem).await.is_err());
    // SEC1: the ECPrivateKey inside the PKCS#8 structure.
    let sec1 = |svid: &mut X509svid| {
        let inner = svid
            .x509_svid_key
            .windows(3)
            .rposition(|w| w == [2, 1, 1])
            .unwrap();
        svid.x509_svid_key.drain(..inner - 2);
        assert_eq!(svid.x509_svid_key[0], 0x30);
    };
    assert!(spoiled(&domain, sec1).await.is_err());
    let foreign_key =
        |svid: &mut X509svid| svid.x509_svid_key = domain.svid("/w", "").x509_svid_key;
    assert!(
        spoiled(&domain, foreign_key)
            .await
            .unwrap_err()
            .contains("private key")
    );
    let renamed = |svid: &mut X509svid| svid.spiffe_id = "spiffe://example.org/v".to_owned();
    assert!(
        spoiled(&domain, renamed)
            .await
            .unwrap_err()
            .contains("spiffe_id")
    );
    let unknown_authority = |svid: &mut X509svid| svid.bundle = other.anchor();
    assert!(spoiled(&domain, unknown_authority).await.is_err());
    let no_path = |svid: &mut X509svid| svid.spiffe_id = "spiffe://example.org".to_owned();
    assert!(spoiled(&domain, no_path).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn limits_discard_what_exceeds_them() {
    let agent = FakeAgent::new();
    let (own, partner) = (Domain::new("example.org"), Domain::new("partner.test"));
    agent.say_x509(vec![own.svid("/a", ""), own.svid("/b", "")], &[&partner]);
    let mut client = client(&agent).await;
    for (identities, bundles, authorities, good) in [
        (2, 2, 1, true),
        (1, 2, 1, false),
        (2, 1, 1, false),
        (2, 2, 0, false),
    ] {
        let limits = Limits {
            identities,
            bundles,
            authorities,
        };
        let update = client.fetch_x509().await.unwrap();
        let checked = X509Context::check(update, &limits, now());
        assert_eq!(checked.is_ok(), good, "{limits:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn two_identities_cannot_disagree_about_the_bundle_of_their_trust_domain() {
    let agent = FakeAgent::new();
    let own = Domain::new("example.org");
    let mut second = own.svid("/b", "");
    second.bundle = [own.anchor(), Domain::new("example.org").anchor()].concat();
    agent.say_x509(vec![own.svid("/a", ""), second], &[]);
    let update = client(&agent).await.fetch_x509().await.unwrap();
    let error = X509Context::check(update, &Limits::default(), now()).unwrap_err();
    assert!(error.is_malformed(), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_token_signed_by_nobody_in_particular_is_still_delivered_to_its_owner() {
    // A workload cannot verify its own token without the bundle, and need not: its peers do.
    let agent = FakeAgent::new();
    let stranger = SigningKey::generate(KeyAlgorithm::EcP256).unwrap();
    let subject = id("spiffe://example.org/w");
    tokens(
        &agent,
        vec![mintmark_proto::spiffe::workload::Jwtsvid {
            spiffe_id: subject.to_string(),
            svid: signed(&stranger, "k", &subject),
            hint: String::new(),
        }],
    );
    let got = client(&agent)
        .await
        .fetch_jwt(&here(), Some(&subject))
        .await;
    assert_eq!(got.unwrap()[0].spiffe_id, subject);
}
