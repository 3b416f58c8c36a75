//! Authorities over hours and days, on a clock that is set forward.

use std::time::Duration;

use ca_server::RunningServer;
use mintmark_identity::key_manager::SigningKey;
use mintmark_proto::mintmark::agent::v1 as wire;
use mintmark_proto::mintmark::state::v1::{Authority, AuthorityKind, AuthorityState};
use mintmark_runtime::grpc::{ChannelOptions, Target, channel};
use rcgen::KeyPair;
use tonic::Code;

use crate::harness::*;

const HOUR: Duration = Duration::from_secs(3600);

fn authorities(server: &RunningServer, kind: AuthorityKind) -> Vec<Authority> {
    server
        .services()
        .consensus
        .read(|state| state.authorities(kind).cloned().collect())
}

fn in_state(server: &RunningServer, kind: AuthorityKind, state: AuthorityState) -> Vec<String> {
    let all = authorities(server, kind).into_iter();
    all.filter(|authority| authority.state() == state)
        .map(|authority| authority.id)
        .collect()
}

fn active(server: &RunningServer, kind: AuthorityKind) -> String {
    in_state(server, kind, AuthorityState::Active).remove(0)
}

async fn in_bundle(server: &RunningServer, ids: &[String]) -> bool {
    let count = bundle(server).await.x509.len();
    count == ids.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn authorities_follow_each_other_and_wait_for_an_agent_that_has_not_acknowledged() {
    let mut home = Home::new();
    let server = home.ready().await;
    let kind = AuthorityKind::X509;
    let first = active(&server, kind);

    home.advance(&server, 12 * HOUR + HOUR / 2).await;
    eventually("a successor is published", || async {
        in_state(&server, kind, AuthorityState::Published).len() == 1
    })
    .await;
    let second = in_state(&server, kind, AuthorityState::Published).remove(0);
    assert_eq!(active(&server, kind), first, "publishing is not activating");
    assert!(in_bundle(&server, &[first.clone(), second.clone()]).await);

    // An agent that is attested now counts until its SVID ends, and it has said nothing.
    home.advance(&server, 5 * HOUR + HOUR / 4).await;
    let agent = Agent::new(&server).await;
    let entry = entry(&server, agent.id(), "/db").await;
    let before = agent.issue(&entry.id, &Key::new()).await.unwrap();
    assert_eq!(verify(&server, &before).await.anchor_id, first);
    let mut cluster = cluster(&server);
    let listed =
        cluster.list_authorities(mintmark_proto::mintmark::cluster::v1::ListAuthoritiesRequest {});
    let missing = listed.await.unwrap().into_inner().missing;
    assert!(missing.contains(&agent.id().to_string()), "{missing:?}");

    // From one quarter of its life on it could turn, if the agent agreed.
    acknowledge(&server, &agent).await;
    home.advance(&server, HOUR / 2).await;
    eventually("the successor signs", || async {
        active(&server, kind) == second
    })
    .await;
    assert_eq!(
        in_state(&server, kind, AuthorityState::Old),
        std::slice::from_ref(&first)
    );
    let after = agent.issue(&entry.id, &Key::new()).await.unwrap();
    assert_eq!(verify(&server, &after).await.anchor_id, second);
    verify(&server, &before).await;
    let log = leaves(&server).await;
    let activation = log
        .iter()
        .rev()
        .find(|leaf| leaf.action == "authority.activate" && leaf.subject == second);
    assert!(activation.unwrap().missing.is_empty(), "{activation:?}");

    home.advance(&server, 2 * HOUR).await;
    eventually(
        "the old authority leaves the bundle after its last SVID",
        || async { in_state(&server, kind, AuthorityState::Old).is_empty() },
    )
    .await;
    assert!(in_bundle(&server, std::slice::from_ref(&second)).await);
    stop(server).await;
}

/// Says over the push stream that the agent serves the bundle of now.
async fn acknowledge(server: &RunningServer, agent: &Agent) {
    let sequence = server
        .services()
        .consensus
        .read(|state| state.bundle_sequence());
    let body = |body| wire::AgentMessage { body: Some(body) };
    let begin = wire::agent_message::Begin {
        resume_from: None,
        version: String::new(),
    };
    let said = wire::agent_message::Acknowledge {
        position: None,
        bundle_sequence: sequence,
    };
    let messages = [
        body(wire::agent_message::Body::Begin(begin)),
        body(wire::agent_message::Body::Acknowledge(said)),
    ];
    let mut stream = agent
        .push()
        .sync(tokio_stream::iter(messages))
        .await
        .unwrap()
        .into_inner();
    while let Ok(Some(_)) = stream.message().await {}
    eventually("the acknowledgement is recorded", || async {
        server.services().consensus.read(|state| {
            state
                .attested_node(agent.id())
                .unwrap()
                .acknowledged_bundle_sequence
                == sequence
        })
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_never_acknowledges_holds_a_rotation_up_until_the_deadline_only() {
    let mut home = Home::new();
    home.raw.ttl.agent_svid = Some("4h".to_owned());
    let server = home.ready().await;
    let kind = AuthorityKind::X509;
    let first = active(&server, kind);
    home.advance(&server, 12 * HOUR + HOUR / 2).await;
    eventually("a successor is published", || async {
        in_state(&server, kind, AuthorityState::Published).len() == 1
    })
    .await;
    home.advance(&server, 5 * HOUR + HOUR / 4).await;
    let agent = Agent::new(&server).await;
    // Later than one quarter, before one sixth: it may turn only if everybody agrees.
    home.advance(&server, HOUR).await;
    server.services().rotation.wake();
    let entry = entry(&server, agent.id(), "/db").await;
    agent.issue(&entry.id, &Key::new()).await.unwrap();
    assert_eq!(active(&server, kind), first);
    home.advance(&server, HOUR * 3 / 2).await;
    eventually("the deadline decides", || async {
        active(&server, kind) != first
    })
    .await;
    let log = leaves(&server).await;
    let second = active(&server, kind);
    let activation = log
        .iter()
        .find(|leaf| leaf.action == "authority.activate" && leaf.subject == second)
        .unwrap();
    assert_eq!(
        activation.missing,
        [agent.id().to_string()],
        "the leaf names who was missing"
    );
    stop(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_every_authority_has_expired_the_servers_start_anew_and_agents_come_back() {
    let mut home = Home::new();
    let server = home.ready().await;
    let token = token(&server, None).await;
    let key_pair = KeyPair::generate().unwrap();
    let key = Key::of(&key_pair, None);
    let svid = attest(anonymous(&server).await, &token, &key)
        .await
        .unwrap();
    let entry = entry(&server, svid.spiffe_id(), "/db").await;
    let before = bundle(&server).await;
    stop(server).await;

    home.clock.advance(72 * HOUR);
    let server = home.ready().await;
    let after = bundle(&server).await;
    assert!(after.sequence > before.sequence);
    let kind = AuthorityKind::X509;
    assert!(
        authorities(&server, kind)
            .iter()
            .any(|authority| authority.cold_start)
    );
    let log = leaves(&server).await;
    let cold = log
        .iter()
        .rfind(|leaf| leaf.action == "authority.activate")
        .unwrap();
    assert!(cold.reason.contains("cold"), "{cold:?}");

    let agent_id = svid.spiffe_id().to_string();
    let (mut client, exporter) = resuming(&server).await;
    let next = Key::new();
    let request = |key: &SigningKey, nonce: &[u8], exporter: [u8; 32]| {
        let message = ca_server::api::resume::proof_message(&exporter, nonce, &next.csr);
        wire::ResumeRequest {
            agent_id: agent_id.clone(),
            csr: next.csr.clone(),
            nonce: nonce.to_vec(),
            signature: key.sign(&message).unwrap(),
            public_key_spki: key.spki_der().to_vec(),
        }
    };
    let own = SigningKey::from_any_pkcs8(&key_pair.serialize_der()).unwrap();
    let other = SigningKey::from_any_pkcs8(&Key::new().pkcs8).unwrap();
    let first = nonce(&mut client, &agent_id).await;
    let used = exporter();
    for (what, request, says) in [
        ("another key", request(&other, &first, used), "MM-1211"),
        ("a used nonce", request(&own, &first, used), "MM-1210"),
        (
            "another session",
            request(&own, &nonce(&mut client, &agent_id).await, [0; 32]),
            "MM-1211",
        ),
    ] {
        let refused = client.resume(request).await.unwrap_err();
        assert!(refused.message().starts_with(says), "{what}: {refused:?}");
    }
    let fresh = nonce(&mut client, &agent_id).await;
    let resumed = client.resume(request(&own, &fresh, used)).await.unwrap();
    let svid = next.svid(&resumed.into_inner().svid.unwrap().chain);
    assert_eq!(svid.spiffe_id().as_str(), agent_id);
    let channel = identified(&server, &svid).await;
    let chain = issue(channel, &entry.id, &Key::new()).await.unwrap();
    verify(&server, &chain).await;
    stop(server).await;
}

async fn nonce(client: &mut PushClient, agent_id: &str) -> Vec<u8> {
    let asked = wire::GetResumeNonceRequest {
        agent_id: agent_id.to_owned(),
    };
    client
        .get_resume_nonce(asked)
        .await
        .unwrap()
        .into_inner()
        .nonce
}

type PushClient = wire::agent_client::AgentClient<tonic::transport::Channel>;

/// A client without an identity, and what its TLS session exports.
async fn resuming(server: &RunningServer) -> (PushClient, impl Fn() -> [u8; 32] + use<>) {
    let exported = std::sync::Arc::new(std::sync::Mutex::new(None));
    let seen = exported.clone();
    let options = ChannelOptions {
        on_connected: Some(std::sync::Arc::new(move |connected| {
            *seen.lock().unwrap() = connected.tls_exporter;
        })),
        ..ChannelOptions::default()
    };
    let clock = server.services().host.clock.clone();
    let tls = mintmark_identity::tls::bootstrap::unverified_client_config(clock).unwrap();
    let tls = std::sync::Arc::new(tls);
    let address = server.api_address().parse().unwrap();
    let target = Target::Tcp {
        address,
        tls: Some(std::sync::Arc::new(move || tls.clone())),
    };
    let network = server.services().host.network.clone();
    let client = PushClient::new(channel(network, target, options));
    (client, move || {
        exported.lock().unwrap().expect("a TLS session")
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn turning_hybrid_on_replaces_the_authority() {
    let mut home = Home::new();
    let server = home.ready().await;
    let agent = Agent::new(&server).await;
    let entry = entry(&server, agent.id(), "/db").await;
    let classical = agent.issue(&entry.id, &Key::new()).await.unwrap();
    assert!(!verify(&server, &classical).await.hybrid);
    let svid = agent.svid.clone();
    stop(server).await;

    home.raw.settings.pq = Some("hybrid".to_owned());
    let server = home.ready().await;
    let kind = AuthorityKind::X509;
    eventually("a hybrid authority is published", || async {
        let all = authorities(&server, kind);
        all.iter()
            .any(|one| one.hybrid && one.state() == AuthorityState::Published)
    })
    .await;
    // The agent has yet to serve the new bundle.
    assert!(
        authorities(&server, kind)
            .iter()
            .any(|one| { !one.hybrid && one.state() == AuthorityState::Active })
    );
    let agent = Agent {
        channel: identified(&server, &svid).await,
        ..agent
    };
    acknowledge(&server, &agent).await;
    eventually("the hybrid authority signs", || async {
        let all = authorities(&server, kind);
        all.iter()
            .any(|one| one.hybrid && one.state() == AuthorityState::Active)
    })
    .await;
    let hybrid = agent.issue(&entry.id, &Key::new()).await.unwrap();
    assert!(verify(&server, &hybrid).await.hybrid);
    verify(&server, &classical).await;
    stop(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_prepares_and_activation_stays_gated() {
    let mut home = Home::new();
    let server = home.ready().await;
    let mut client = cluster(&server);
    let request = |kind: AuthorityKind| {
        mintmark_proto::mintmark::cluster::v1::PrepareAuthorityRequest { kind: kind.into() }
    };
    let kind = AuthorityKind::Jwt;
    let id = client
        .prepare_authority(request(kind))
        .await
        .unwrap()
        .into_inner()
        .authority_id;
    eventually("it is published", || async {
        in_state(&server, kind, AuthorityState::Published) == std::slice::from_ref(&id)
    })
    .await;
    assert_ne!(active(&server, kind), id);
    let again = client.prepare_authority(request(kind)).await.unwrap_err();
    assert_eq!(again.code(), Code::FailedPrecondition, "{again:?}");
    let wit = client
        .prepare_authority(request(AuthorityKind::Wit))
        .await
        .unwrap_err();
    assert_eq!(wit.code(), Code::InvalidArgument, "{wit:?}");
    stop(server).await;
}
