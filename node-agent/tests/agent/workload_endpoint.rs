//! SPIFFE Workload Endpoint, section by section.

use std::collections::BTreeSet;

use mintmark_proto::{
    descriptors,
    spiffe::workload::{
        JwtBundlesRequest, JwtsvidRequest, ValidateJwtsvidRequest, WitBundlesRequest,
        WitsvidRequest, X509BundlesRequest, X509svidRequest,
        spiffe_workload_api_client::SpiffeWorkloadApiClient,
    },
};
use node_agent::status::code_of;
use prost::Message;
use tonic::{Code, Request, Status, metadata::MetadataValue, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::{v1, v1alpha};

use crate::{
    child,
    harness::{Bed, entry, entry_for, ids, my_uid, next, wait_state, wait_world, within},
};

/// Calls each of the seven methods with these header values and returns the codes.
async fn call_all(channel: &Channel, values: &[&str]) -> Vec<(&'static str, Status)> {
    let mut client = SpiffeWorkloadApiClient::new(channel.clone());
    fn with<T>(values: &[&str], message: T) -> Request<T> {
        let mut request = Request::new(message);
        for value in values {
            let value = MetadataValue::try_from(*value).unwrap();
            request.metadata_mut().append("workload.spiffe.io", value);
        }
        request
    }
    let jwt = JwtsvidRequest {
        audience: vec!["a".into()],
        spiffe_id: String::new(),
    };
    let validate = ValidateJwtsvidRequest {
        audience: "a".into(),
        svid: "x".into(),
    };
    let mut codes = Vec::new();
    macro_rules! call {
        ($method:ident, $message:expr) => {
            let answer = within(client.$method(with(values, $message))).await;
            let status = answer.map(|_| ()).err().unwrap_or_else(|| Status::ok(""));
            codes.push((stringify!($method), status));
        };
    }
    call!(fetch_x509svid, X509svidRequest {});
    call!(fetch_x509_bundles, X509BundlesRequest {});
    call!(fetch_jwtsvid, jwt);
    call!(fetch_jwt_bundles, JwtBundlesRequest {});
    call!(validate_jwtsvid, validate);
    call!(fetch_witsvid, WitsvidRequest::default());
    call!(fetch_wit_bundles, WitBundlesRequest {});
    codes
}

#[tokio::test]
async fn wle_01_05_the_endpoint_is_a_unix_socket_that_every_user_may_connect_to() {
    use std::os::unix::fs::{FileTypeExt, PermissionsExt};
    let bed = Bed::new().await;
    let agent = bed.start().await;
    let metadata = std::fs::symlink_metadata(bed.socket()).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o777);
    let folder = std::fs::metadata(bed.socket().parent().unwrap()).unwrap();
    assert_eq!(folder.permissions().mode() & 0o777, 0o755);
    let admin = std::fs::symlink_metadata(&bed.config.admin_socket_path).unwrap();
    assert_eq!(admin.permissions().mode() & 0o777, 0o600);
    let private = std::fs::metadata(bed.config.admin_socket_path.parent().unwrap()).unwrap();
    assert_eq!(private.permissions().mode() & 0o777, 0o700);
    agent.stop().await;
    assert!(!bed.socket().exists(), "a stopped agent leaves no socket");
}

#[tokio::test]
async fn wle_02_06_two_agents_cannot_share_a_socket_and_there_is_no_tcp_listener() {
    let bed = Bed::new().await;
    let _agent = bed.start().await;
    let mut second = bed.config.clone();
    second.data_dir = bed.dir.path().join("second");
    let error = node_agent::Agent::start(bed.host(), second)
        .await
        .unwrap_err();
    assert!(error.to_string().starts_with("MM-2025"), "{error}");
    assert_eq!(error.exit_code(), 69);
    // The configuration has no key by which the Workload API could be bound to TCP.
    let raw = r#"socket_address = "0.0.0.0:1""#;
    let path = std::path::Path::new("a.toml");
    let format = mintmark_runtime::config::ConfigFormat::Toml;
    let parsed =
        mintmark_runtime::config::parse::<node_agent::config::RawConfig>(raw, format, path);
    assert!(parsed.is_err());
}

#[tokio::test]
async fn wle_03_09_16_18_plain_grpc_without_tls_or_credentials_gets_an_svid() {
    let bed = Bed::new().await;
    bed.world.put_entry(entry("a", "/a"));
    let _agent = bed.start().await;
    assert_eq!(ids(&bed.first_x509().await.unwrap()), ["/a"]);
}

#[tokio::test]
async fn wle_08_19_anything_but_exactly_one_true_is_refused_before_attestation() {
    let bed = Bed::new().await;
    bed.world.put_entry(entry("a", "/a"));
    let _agent = bed.start().await;
    let channel = bed.channel();
    let wrong: [&[&str]; 11] = [
        &[],
        &["True"],
        &["TRUE"],
        &["1"],
        &[""],
        &["false"],
        &["true "],
        &[" true"],
        &["true", "true"],
        &["true,true"],
        &["true", "false"],
    ];
    for values in wrong {
        for (method, status) in call_all(&channel, values).await {
            assert_eq!(
                status.code(),
                Code::InvalidArgument,
                "{method} {values:?}: {status}"
            );
            assert_eq!(code_of(&status).unwrap(), "MM-2001", "{method} {values:?}");
        }
    }
    for (method, status) in call_all(&channel, &["true"]).await {
        assert_ne!(code_of(&status).as_deref(), Some("MM-2001"), "{method}");
    }
}

#[tokio::test]
async fn wle_17_two_processes_of_one_user_get_what_their_own_selectors_give() {
    let bed = Bed::new().await;
    let one = bed.dir.path().join("one");
    let two = bed.dir.path().join("two");
    let me = std::env::current_exe().unwrap();
    for link in [&one, &two] {
        std::fs::hard_link(&me, link)
            .or_else(|_| std::fs::copy(&me, link).map(|_| ()))
            .unwrap();
    }
    for (id, path) in [("one", &one), ("two", &two)] {
        let selector = format!("unix:path:{}", path.display());
        let uid = format!("unix:uid:{}", my_uid());
        bed.world
            .put_entry(entry_for(id, &format!("/{id}"), &[&uid, &selector]));
    }
    let _agent = bed.start().await;
    for (path, id) in [(&one, "/one"), (&two, "/two")] {
        let said = child::say(child::command(path, "fetch", &bed.socket())).await;
        assert_eq!(said, [format!("spiffe://example.org{id}")]);
    }
    let said = child::say(child::command(&me, "fetch", &bed.socket())).await;
    assert_eq!(
        said,
        ["PermissionDenied"],
        "the same program by another path"
    );
}

#[tokio::test]
async fn wle_21_wla_21_25_36_a_process_without_entry_is_denied_and_served_once_it_has_one() {
    let bed = Bed::new().await;
    bed.world
        .put_entry(entry_for("other", "/other", &["unix:uid:4294967294"]));
    let agent = bed.start().await;
    let channel = bed.channel();
    let codes = call_all(&channel, &["true"]).await;
    for (method, status) in codes.iter().filter(|(method, _)| !method.contains("wit")) {
        assert_eq!(status.code(), Code::PermissionDenied, "{method}: {status}");
        assert!(
            status.message().starts_with("no identity issued (MM-2003"),
            "{method}: {status}"
        );
    }
    bed.world.put_entry(entry("a", "/a"));
    wait_state(&agent, |state| state.svids.len() == 2).await;
    assert_eq!(ids(&bed.first_x509().await.unwrap()), ["/a"]);
}

/// Everything that reflection tells about the service, by the protocol of one version.
macro_rules! reflect {
    ($version:ident, $channel:expr, $request:expr) => {{
        use $version::server_reflection_client::ServerReflectionClient;
        let request = $version::ServerReflectionRequest {
            host: String::new(),
            message_request: Some($request),
        };
        let mut client = ServerReflectionClient::new($channel);
        let requests = tokio_stream::once(request);
        let mut answers = within(client.server_reflection_info(requests))
            .await
            .unwrap()
            .into_inner();
        next(&mut answers).await.unwrap().message_response.unwrap()
    }};
}

#[tokio::test]
async fn wle_23_24_reflection_lists_the_workload_api_in_both_versions_and_needs_no_header() {
    let bed = Bed::new().await;
    let _agent = bed.start().await;
    let new = reflect!(
        v1,
        bed.channel(),
        v1::server_reflection_request::MessageRequest::ListServices(String::new())
    );
    let old = reflect!(
        v1alpha,
        bed.channel(),
        v1alpha::server_reflection_request::MessageRequest::ListServices(String::new())
    );
    let v1::server_reflection_response::MessageResponse::ListServicesResponse(new) = new else {
        panic!("{new:?}");
    };
    let v1alpha::server_reflection_response::MessageResponse::ListServicesResponse(old) = old
    else {
        panic!("{old:?}");
    };
    let new: BTreeSet<String> = new
        .service
        .into_iter()
        .map(|service| service.name)
        .collect();
    let old: BTreeSet<String> = old
        .service
        .into_iter()
        .map(|service| service.name)
        .collect();
    let served = |own: &str| {
        [
            "SpiffeWorkloadAPI",
            "envoy.service.secret.v3.SecretDiscoveryService",
            "grpc.health.v1.Health",
            own,
        ]
        .map(str::to_owned)
        .into()
    };
    assert_eq!(new, served("grpc.reflection.v1.ServerReflection"));
    assert_eq!(old, served("grpc.reflection.v1alpha.ServerReflection"));
}

#[tokio::test]
async fn reflection_on_the_private_socket_lists_what_is_served_there_and_nothing_more() {
    let bed = Bed::new().await;
    let _agent = bed.start().await;
    let answer = reflect!(
        v1,
        bed.admin_channel(),
        v1::server_reflection_request::MessageRequest::ListServices(String::new())
    );
    let v1::server_reflection_response::MessageResponse::ListServicesResponse(listed) = answer
    else {
        panic!("{answer:?}");
    };
    let listed: BTreeSet<String> = listed
        .service
        .into_iter()
        .map(|service| service.name)
        .collect();
    let served = [
        "mintmark.agentadmin.v1.AgentAdmin",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
    ];
    assert_eq!(listed, served.map(str::to_owned).into());
}

#[tokio::test]
async fn wle_22_wla_02_n10_the_service_is_the_published_one_and_nothing_more() {
    let bed = Bed::new().await;
    let _agent = bed.start().await;
    let symbol = "SpiffeWorkloadAPI".to_owned();
    let answer = reflect!(
        v1,
        bed.channel(),
        v1::server_reflection_request::MessageRequest::FileContainingSymbol(symbol)
    );
    let v1::server_reflection_response::MessageResponse::FileDescriptorResponse(files) = answer
    else {
        panic!("{answer:?}");
    };
    let served: Vec<prost_types::FileDescriptorProto> = files
        .file_descriptor_proto
        .iter()
        .map(|bytes| prost_types::FileDescriptorProto::decode(bytes.as_slice()).unwrap())
        .collect();
    let published = prost_types::FileDescriptorSet::decode(descriptors::WORKLOAD_API).unwrap();
    let file = served.iter().find(|file| !file.service.is_empty()).unwrap();
    assert!(
        published.file.contains(file),
        "the descriptor served is the published one"
    );
    let service = &file.service[0];
    let methods: Vec<(&str, bool, bool)> = service
        .method
        .iter()
        .map(|m| (m.name(), m.client_streaming(), m.server_streaming()))
        .collect();
    let expected = [
        ("FetchX509SVID", false, true),
        ("FetchX509Bundles", false, true),
        ("FetchJWTSVID", false, false),
        ("FetchJWTBundles", false, true),
        ("ValidateJWTSVID", false, false),
        ("FetchWITSVID", false, true),
        ("FetchWITBundles", false, true),
    ];
    assert_eq!(
        methods.iter().collect::<BTreeSet<_>>(),
        expected.iter().collect::<BTreeSet<_>>()
    );
    assert_eq!(file.package(), "", "the proto has no package");
}

#[tokio::test]
async fn health_answers_without_the_header() {
    let bed = Bed::new().await;
    let _agent = bed.start().await;
    let mut client = HealthClient::new(bed.channel());
    let request = HealthCheckRequest {
        service: "SpiffeWorkloadAPI".to_owned(),
    };
    let answer = within(client.check(request)).await.unwrap().into_inner();
    assert_eq!(answer.status, 1, "SERVING");
}

#[tokio::test]
async fn wle_n1_before_the_first_update_the_answer_is_unavailable_and_then_all_is_well() {
    let mut bed = Bed::new().await;
    bed.world.put_entry(entry("a", "/a"));
    bed.stop_server().await;
    let agent = bed.launch().await;
    for (method, status) in call_all(&bed.channel(), &["true"]).await {
        if !method.contains("wit") {
            assert_eq!(status.code(), Code::Unavailable, "{method}: {status}");
            assert_eq!(code_of(&status).unwrap(), "MM-2005", "{method}");
        }
    }
    bed.restart_server().await;
    wait_state(&agent, |state| state.svids.len() == 1).await;
    assert_eq!(ids(&bed.first_x509().await.unwrap()), ["/a"]);
}

#[tokio::test]
async fn wle_n2_wla_42_the_wit_profile_is_unimplemented_after_the_header_check() {
    let bed = Bed::new().await;
    bed.world.put_entry(entry("a", "/a"));
    let _agent = bed.start().await;
    for (method, status) in call_all(&bed.channel(), &["true"]).await {
        if method.contains("wit") {
            assert_eq!(status.code(), Code::Unimplemented, "{method}");
            assert_eq!(code_of(&status).unwrap(), "MM-2007");
        }
    }
    for (method, status) in call_all(&bed.channel(), &[]).await {
        if method.contains("wit") {
            assert_eq!(status.code(), Code::InvalidArgument, "{method}");
        }
    }
}

#[tokio::test]
async fn one_user_cannot_open_more_streams_than_its_share() {
    let mut bed = Bed::new().await;
    bed.config.limits.streams_per_uid = 2;
    bed.world.put_entry(entry("a", "/a"));
    let _agent = bed.start().await;
    let mut first = bed.x509().await.unwrap();
    let mut second = bed.x509().await.unwrap();
    next(&mut first).await.unwrap();
    next(&mut second).await.unwrap();
    let refused = bed.x509().await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert_eq!(code_of(&refused).unwrap(), "MM-2006");
    drop(first);
    // The place is free when the agent notices the end of the stream.
    let again = async {
        loop {
            if let Ok(stream) = bed.x509().await {
                return stream;
            }
            tokio::task::yield_now().await;
        }
    };
    next(&mut within(again).await).await.unwrap();
}

#[tokio::test]
async fn an_oversized_request_is_refused_and_the_next_one_served() {
    let bed = Bed::new().await;
    bed.world.put_entry(entry("a", "/a"));
    let _agent = bed.start().await;
    let huge = ValidateJwtsvidRequest {
        audience: "a".into(),
        svid: "x".repeat(200 << 10),
    };
    let status = within(bed.client().validate_jwtsvid(huge))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
    assert_eq!(ids(&bed.first_x509().await.unwrap()), ["/a"]);
    wait_world(&bed.world, |inner| !inner.acknowledged.is_empty()).await;
}

/// Decisions A-15, A-16, A-25 (WIT-SVIDs) and A-29 (the Broker API) hold by the door being shut.
#[tokio::test]
async fn a_15_16_25_29_profiles_that_are_decided_but_not_offered_answer_unimplemented() {
    let bed = Bed::new().await;
    bed.world.put_entry(entry("a", "/a"));
    let _agent = bed.start().await;
    let call = async |path: &'static str| {
        let mut grpc = tonic::client::Grpc::new(bed.channel());
        within(grpc.ready()).await.unwrap();
        let codec = tonic_prost::ProstCodec::<(), ()>::default();
        let mut request = Request::new(());
        let header = MetadataValue::from_static("true");
        request.metadata_mut().insert("workload.spiffe.io", header);
        let path = http::uri::PathAndQuery::from_static(path);
        within(grpc.unary(request, path, codec)).await.map(|_| ())
    };
    for path in [
        "/SpiffeWorkloadAPI/FetchWITSVID",
        "/SpiffeWorkloadAPI/FetchWITBundles",
        "/spiffe.broker.API/SubscribeToX509SVID",
        "/spiffe.broker.API/SubscribeToX509Bundles",
        "/spiffe.broker.API/FetchJWTSVID",
        "/spiffe.broker.API/SubscribeToJWTBundles",
    ] {
        let status = call(path).await.unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented, "{path}: {status}");
    }
    // What is offered answers otherwise to the very same call.
    let status = call("/SpiffeWorkloadAPI/FetchJWTSVID").await.unwrap_err();
    assert_eq!(
        status.code(),
        Code::InvalidArgument,
        "no audience: {status}"
    );
}
