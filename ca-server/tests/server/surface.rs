//! What anybody finds on a server without knowing it: health, reflection, probes and numbers.

use std::collections::BTreeSet;

use mintmark_runtime::host::Host;
use mintmark_runtime::network::Address;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_stream::StreamExt as _;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::{v1, v1alpha};

use ca_server::RunningServer;

use crate::harness::*;

/// SPIRE's services that a client of SPIRE may look for here, and ours.
const SERVICES: [&str; 7] = [
    "spire.api.server.agent.v1.Agent",
    "spire.api.server.bundle.v1.Bundle",
    "spire.api.server.entry.v1.Entry",
    "spire.api.server.svid.v1.SVID",
    "mintmark.agent.v1.Agent",
    "mintmark.audit.v1.Audit",
    "mintmark.cluster.v1.Cluster",
];

/// The whole answer to one HTTP request.
pub async fn get(server: &RunningServer, path: &str) -> String {
    let address = Address::parse(server.http_address().unwrap()).unwrap();
    let mut stream = Host::os().network.connect(&address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// What `grpc.health.v1` says of a service.
pub async fn health(channel: Channel, service: &str) -> Result<ServingStatus, tonic::Status> {
    let service = service.to_owned();
    let answer = HealthClient::new(channel)
        .check(HealthCheckRequest { service })
        .await?;
    Ok(answer.into_inner().status())
}

/// Follows the health of the whole server.
pub async fn health_changes(
    channel: Channel,
) -> impl tokio_stream::Stream<Item = ServingStatus> + Unpin {
    let service = String::new();
    let answer = HealthClient::new(channel)
        .watch(HealthCheckRequest { service })
        .await;
    let changes = answer.unwrap().into_inner();
    changes.map(|change| change.unwrap().status())
}

/// One question to reflection, in the protocol of one version.
macro_rules! reflect {
    ($version:ident, $channel:expr, $request:ident($text:expr)) => {{
        use $version::server_reflection_request::MessageRequest;
        let request = $version::ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::$request($text.to_owned())),
        };
        let mut client =
            $version::server_reflection_client::ServerReflectionClient::new($channel.clone());
        let answers = client.server_reflection_info(tokio_stream::once(request));
        let mut answers = answers.await.unwrap().into_inner();
        let answer = answers.next().await.unwrap().unwrap();
        answer.message_response.unwrap()
    }};
}

macro_rules! listed {
    ($version:ident, $channel:expr) => {{
        use $version::server_reflection_response::MessageResponse;
        match reflect!($version, $channel, ListServices("")) {
            MessageResponse::ListServicesResponse(listed) => listed
                .service
                .into_iter()
                .map(|service| service.name)
                .collect::<BTreeSet<String>>(),
            other => panic!("{other:?}"),
        }
    }};
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_reflection_answer_on_the_port_and_on_the_private_socket() {
    let mut home = Home::new();
    let server = home.ready().await;
    for channel in [anonymous(&server).await, admin(&server)] {
        for service in [""].iter().chain(&SERVICES) {
            eventually("the service is said to be served", || async {
                health(channel.clone(), service).await.unwrap() == ServingStatus::Serving
            })
            .await;
        }
        let unknown = health(channel.clone(), "no.such.Service")
            .await
            .unwrap_err();
        assert_eq!(unknown.code(), tonic::Code::NotFound);

        let (new, old) = (listed!(v1, channel), listed!(v1alpha, channel));
        // Nothing is listed that is not served, such as what servers call of each other.
        let served = |own: &str| -> BTreeSet<String> {
            let others = ["grpc.health.v1.Health", own];
            let names = SERVICES.iter().chain(&others).copied();
            names.map(str::to_owned).collect()
        };
        assert_eq!(new, served("grpc.reflection.v1.ServerReflection"));
        assert_eq!(old, served("grpc.reflection.v1alpha.ServerReflection"));
        let entry = "spire.api.server.entry.v1.Entry";
        let v1::server_reflection_response::MessageResponse::FileDescriptorResponse(files) =
            reflect!(v1, channel, FileContainingSymbol(entry))
        else {
            panic!("{entry} is not described");
        };
        let described = files.file_descriptor_proto.concat();
        for method in [
            "BatchCreateEntry",
            "GetAuthorizedEntries",
            "SyncAuthorizedEntries",
        ] {
            let found = described
                .windows(method.len())
                .any(|window| window == method.as_bytes());
            assert!(found, "{method} is not described");
        }
    }
    stop(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_and_numbers_follow_what_the_server_does() {
    let mut home = Home::new();
    let server = home.ready().await;
    assert!(get(&server, "/live").await.starts_with("HTTP/1.1 200"));
    assert!(get(&server, "/ready").await.starts_with("HTTP/1.1 200"));
    let agent = Agent::new(&server).await;
    let entry = entry(&server, agent.id(), "/db").await;
    agent.issue(&entry.id, &Key::new()).await.unwrap();
    let leaves = leaves(&server).await.len();
    // Gauges are shown every other second.
    eventually("the numbers are there", || async {
        let text = get(&server, "/metrics").await;
        let shown = |name: &str| value_of(&text, name);
        shown("mintmark_entries") == Some(1.0)
            && shown("mintmark_attested_agents") == Some(1.0)
            && shown("mintmark_audit_leaves").is_some_and(|shown| shown >= leaves as f64)
            && shown("mintmark_raft_is_leader") == Some(1.0)
    })
    .await;
    let text = get(&server, "/metrics").await;
    assert!(text.trim_end().ends_with("# EOF"), "{text}");
    assert_eq!(shape_faults(&text), Vec::<String>::new());
    stop(server).await;
}

/// The value of a number without labels.
fn value_of(text: &str, name: &str) -> Option<f64> {
    let value = |line: &str| {
        line.strip_prefix(name)?
            .strip_prefix(' ')
            .map(str::to_owned)
    };
    text.lines().find_map(value)?.trim().parse().ok()
}

/// What a scraper would refuse: samples without a description, or with a value that is no number.
fn shape_faults(text: &str) -> Vec<String> {
    let (_, body) = text.split_once("\r\n\r\n").expect("a header and a body");
    let described: BTreeSet<&str> = body
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .collect();
    let is_sound = |line: &str| {
        let name = line.split(['{', ' ']).next().unwrap_or_default();
        let value = line.rsplit(' ').next().unwrap_or_default();
        let family = ["_total", "_bucket", "_sum", "_count", "_info", ""]
            .iter()
            .filter_map(|suffix| name.strip_suffix(suffix))
            .any(|family| described.contains(family));
        family && value.parse::<f64>().is_ok()
    };
    body.lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .filter(|line| !is_sound(line))
        .map(str::to_owned)
        .collect()
}
