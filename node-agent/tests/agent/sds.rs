//! Secret discovery as Envoy speaks it.

use mintmark_identity::{
    bundle::{Bundle, X509Anchor},
    trust_domain::TrustDomain,
};
use mintmark_proto::{
    envoy::{
        config::core::v3::{
            BuildVersion, DataSource, Node, data_source::Specifier, node::UserAgentVersionType,
        },
        extensions::transport_sockets::tls::v3::{Secret, SpiffeCertValidatorConfig, secret::Type},
        service::{
            discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest, DiscoveryResponse},
            secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient,
        },
        r#type::v3::SemanticVersion,
    },
    google::rpc,
};
use node_agent::status::code_of;
use prost::{Message, Name};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::{
    fake_server::Authority,
    harness::{Bed, entry, next, silent, wait_state, within},
};

/// One Envoy stream.
struct Envoy {
    requests: mpsc::Sender<DiscoveryRequest>,
    answers: Streaming<DiscoveryResponse>,
}

fn request(names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest {
        type_url: Secret::type_url(),
        resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
        ..DiscoveryRequest::default()
    }
}

fn node(minor: u32, metadata: &[(&str, prost_types::value::Kind)]) -> Node {
    let fields = metadata.iter().map(|(name, kind)| {
        (
            (*name).to_owned(),
            prost_types::Value {
                kind: Some(kind.clone()),
            },
        )
    });
    Node {
        metadata: Some(prost_types::Struct {
            fields: fields.collect(),
        }),
        user_agent_version_type: Some(UserAgentVersionType::UserAgentBuildVersion(BuildVersion {
            version: Some(SemanticVersion {
                major_number: 1,
                minor_number: minor,
                patch: 0,
            }),
            metadata: None,
        })),
        ..Node::default()
    }
}

impl Envoy {
    async fn open(bed: &Bed, first: DiscoveryRequest) -> Self {
        let (requests, receiver) = mpsc::channel(8);
        requests.send(first).await.unwrap();
        let mut client = SecretDiscoveryServiceClient::new(bed.channel());
        let answers = within(client.stream_secrets(ReceiverStream::new(receiver))).await;
        Self {
            requests,
            answers: answers.unwrap().into_inner(),
        }
    }

    async fn next(&mut self) -> Result<DiscoveryResponse, Status> {
        next(&mut self.answers).await
    }

    async fn acknowledge(&self, answer: &DiscoveryResponse, names: &[&str]) {
        let request = DiscoveryRequest {
            version_info: answer.version_info.clone(),
            response_nonce: answer.nonce.clone(),
            ..request(names)
        };
        self.requests.send(request).await.unwrap();
    }
}

fn secrets(answer: &DiscoveryResponse) -> Vec<Secret> {
    assert_eq!(answer.type_url, Secret::type_url());
    let decode = |any: &prost_types::Any| {
        assert_eq!(any.type_url, Secret::type_url());
        Secret::decode(any.value.as_slice()).unwrap()
    };
    answer.resources.iter().map(decode).collect()
}

fn names(answer: &DiscoveryResponse) -> Vec<String> {
    secrets(answer)
        .into_iter()
        .map(|secret| secret.name)
        .collect()
}

fn text(source: Option<&DataSource>) -> String {
    match &source.unwrap().specifier {
        Some(Specifier::InlineBytes(bytes)) => String::from_utf8(bytes.clone()).unwrap(),
        other => panic!("{other:?}"),
    }
}

/// Certificate chain and key of a TLS certificate secret.
fn certificate(secret: &Secret) -> (String, String) {
    match secret.r#type.as_ref().unwrap() {
        Type::TlsCertificate(certificate) => (
            text(certificate.certificate_chain.as_ref()),
            text(certificate.private_key.as_ref()),
        ),
        other => panic!("{other:?}"),
    }
}

/// Trust domains of a SPIFFE validator, with the number of their authorities.
fn validator(secret: &Secret) -> Vec<(String, usize)> {
    let Type::ValidationContext(context) = secret.r#type.as_ref().unwrap() else {
        panic!()
    };
    assert!(context.trusted_ca.is_none());
    let custom = context.custom_validator_config.as_ref().unwrap();
    assert_eq!(custom.name, "envoy.tls.cert_validator.spiffe");
    let any = custom.typed_config.as_ref().unwrap();
    assert_eq!(any.type_url, SpiffeCertValidatorConfig::type_url());
    let config = SpiffeCertValidatorConfig::decode(any.value.as_slice()).unwrap();
    let count = |bundle: &Option<DataSource>| text(bundle.as_ref()).matches("BEGIN CERT").count();
    config
        .trust_domains
        .iter()
        .map(|d| (d.name.clone(), count(&d.trust_bundle)))
        .collect()
}

async fn federate(bed: &Bed) {
    let authority = Authority::new(mintmark_identity::clock::Clock::now(&*bed.clock), false);
    let mut bundle = Bundle::empty(TrustDomain::parse("partner.test").unwrap());
    bundle.x509 = vec![X509Anchor::parse(authority.x509.certificate_der()).unwrap()];
    bed.world.put_federated(bundle);
    let mut one = entry("a", "/a");
    one.federates_with = [TrustDomain::parse("partner.test").unwrap()].into();
    bed.world.put_entry(one);
}

#[tokio::test]
async fn all_names_answer_without_a_header_each_with_its_kind() {
    let bed = Bed::new().await;
    federate(&bed).await;
    let _agent = bed.start().await;
    let asked = [
        "default",
        "ROOTCA",
        "ALL",
        "spiffe://example.org/a",
        "spiffe://example.org",
        "spiffe://partner.test",
    ];
    let first = DiscoveryRequest {
        node: Some(node(30, &[])),
        ..request(&asked)
    };
    let mut envoy = Envoy::open(&bed, first).await;
    let answer = envoy.next().await.unwrap();
    let secrets = secrets(&answer);
    assert_eq!(secrets.len(), 6);
    for secret in &secrets {
        match secret.name.as_str() {
            "default" | "spiffe://example.org/a" => {
                let (chain, key) = certificate(secret);
                assert!(
                    chain.starts_with("-----BEGIN CERTIFICATE-----\n"),
                    "{chain}"
                );
                assert!(key.starts_with("-----BEGIN PRIVATE KEY-----\n"));
            }
            "ROOTCA" | "spiffe://example.org" => {
                assert_eq!(validator(secret), [("example.org".to_owned(), 1)]);
            }
            "spiffe://partner.test" => {
                assert_eq!(validator(secret), [("partner.test".to_owned(), 1)]);
            }
            "ALL" => assert_eq!(
                validator(secret),
                [
                    ("example.org".to_owned(), 1),
                    ("partner.test".to_owned(), 1)
                ]
            ),
            other => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn no_name_at_all_means_everything() {
    let bed = Bed::new().await;
    federate(&bed).await;
    let _agent = bed.start().await;
    let mut envoy = Envoy::open(&bed, request(&[])).await;
    let mut got = names(&envoy.next().await.unwrap());
    got.sort();
    assert_eq!(
        got,
        [
            "spiffe://example.org",
            "spiffe://example.org/a",
            "spiffe://partner.test"
        ]
    );
}

#[tokio::test]
async fn an_old_envoy_or_one_that_asks_for_it_gets_plain_authorities() {
    use prost_types::value::Kind;
    let bed = Bed::new().await;
    federate(&bed).await;
    let _agent = bed.start().await;
    let off = "disable_spiffe_cert_validation";
    let nodes = [
        node(17, &[]),
        node(30, &[(off, Kind::BoolValue(true))]),
        node(30, &[(off, Kind::StringValue("true".to_owned()))]),
    ];
    for node in nodes {
        let first = DiscoveryRequest {
            node: Some(node.clone()),
            ..request(&["ROOTCA"])
        };
        let mut envoy = Envoy::open(&bed, first).await;
        let secret = secrets(&envoy.next().await.unwrap()).remove(0);
        let Type::ValidationContext(context) = secret.r#type.unwrap() else {
            panic!()
        };
        assert!(context.custom_validator_config.is_none());
        assert_eq!(
            text(context.trusted_ca.as_ref())
                .matches("BEGIN CERT")
                .count(),
            1
        );
        let first = DiscoveryRequest {
            node: Some(node),
            ..request(&["ALL"])
        };
        let mut envoy = Envoy::open(&bed, first).await;
        let refused = envoy.next().await.unwrap_err();
        assert_eq!(
            refused.code(),
            Code::InvalidArgument,
            "ALL needs the validator"
        );
    }
    let on = node(30, &[(off, Kind::BoolValue(false))]);
    let first = DiscoveryRequest {
        node: Some(on),
        ..request(&["ALL"])
    };
    assert!(Envoy::open(&bed, first).await.next().await.is_ok());
}

#[tokio::test]
async fn rotation_is_pushed_with_a_new_version_and_an_acknowledgement_is_no_question() {
    let bed = Bed::new().await;
    bed.world.put_entry(entry("a", "/a"));
    let _agent = bed.start().await;
    let mut envoy = Envoy::open(&bed, request(&["default"])).await;
    let first = envoy.next().await.unwrap();
    assert_eq!(first.nonce.len(), 8, "four bytes in hex");
    envoy.acknowledge(&first, &["default"]).await;
    assert!(silent(&mut envoy.answers).await);
    let mut changed = entry("a", "/a");
    changed.revision = 1;
    changed.dns_names = vec!["a.example.org".to_owned()];
    bed.world.put_entry(changed);
    let second = envoy.next().await.unwrap();
    assert_ne!(second.version_info, first.version_info);
    assert_ne!(second.nonce, first.nonce);
    let (before, after) = (
        certificate(&secrets(&first)[0]),
        certificate(&secrets(&second)[0]),
    );
    assert!(before.0 != after.0 && before.1 != after.1);
}

#[tokio::test]
async fn a_refusal_is_noted_and_the_next_change_is_sent_all_the_same() {
    let bed = Bed::new().await;
    bed.world.put_entry(entry("a", "/a"));
    let _agent = bed.start().await;
    let mut envoy = Envoy::open(&bed, request(&["default"])).await;
    let first = envoy.next().await.unwrap();
    let refusal = DiscoveryRequest {
        response_nonce: first.nonce.clone(),
        error_detail: Some(rpc::Status {
            code: 13,
            message: "bad key".into(),
            details: vec![],
        }),
        ..request(&["default"])
    };
    envoy.requests.send(refusal).await.unwrap();
    assert!(
        silent(&mut envoy.answers).await,
        "the same secret is not sent again"
    );
    let mut changed = entry("a", "/a");
    changed.revision = 1;
    changed.dns_names = vec!["a.example.org".to_owned()];
    bed.world.put_entry(changed);
    assert_eq!(names(&envoy.next().await.unwrap()), ["default"]);
}

#[tokio::test]
async fn a_request_about_an_old_answer_is_ignored_and_other_names_are_answered() {
    let bed = Bed::new().await;
    bed.world.put_entry(entry("a", "/a"));
    let _agent = bed.start().await;
    let mut envoy = Envoy::open(&bed, request(&["default"])).await;
    let first = envoy.next().await.unwrap();
    let outdated = DiscoveryRequest {
        response_nonce: "00000000".into(),
        ..request(&["ROOTCA"])
    };
    envoy.requests.send(outdated).await.unwrap();
    assert!(silent(&mut envoy.answers).await);
    envoy.acknowledge(&first, &["default", "ROOTCA"]).await;
    let mut got = names(&envoy.next().await.unwrap());
    got.sort();
    assert_eq!(got, ["ROOTCA", "default"]);
}

#[tokio::test]
async fn a_stream_without_identity_waits_and_is_served_when_the_entry_lands() {
    let bed = Bed::new().await;
    let _agent = bed.start().await;
    let mut envoy = Envoy::open(&bed, request(&["default"])).await;
    assert!(
        silent(&mut envoy.answers).await,
        "no entry, no answer, no error"
    );
    bed.world.put_entry(entry("a", "/a"));
    assert_eq!(names(&envoy.next().await.unwrap()), ["default"]);
    bed.world.remove_entry("a");
    let end = within(envoy.answers.message()).await.unwrap_err();
    assert_eq!(
        end.code(),
        Code::PermissionDenied,
        "what was given and taken back ends the stream"
    );
}

#[tokio::test]
async fn unknown_names_and_other_types_are_invalid_arguments() {
    let bed = Bed::new().await;
    bed.world.put_entry(entry("a", "/a"));
    let agent = bed.start().await;
    wait_state(&agent, |state| state.svids.len() == 1).await;
    for name in [
        "nothing",
        "spiffe://example.org/other",
        "spiffe://partner.test",
    ] {
        let mut envoy = Envoy::open(&bed, request(&["default", name])).await;
        let status = envoy.next().await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{name}");
        assert_eq!(code_of(&status).unwrap(), "MM-2010");
    }
    let other = DiscoveryRequest {
        type_url: "type.googleapis.com/envoy.config.cluster.v3.Cluster".into(),
        ..request(&[])
    };
    let status = Envoy::open(&bed, other).await.next().await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn fetch_answers_once_or_denies_and_delta_is_unimplemented() {
    let bed = Bed::new().await;
    let agent = bed.start().await;
    let mut client = SecretDiscoveryServiceClient::new(bed.channel());
    let denied = within(client.fetch_secrets(request(&["default"])))
        .await
        .unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied);
    bed.world.put_entry(entry("a", "/a"));
    wait_state(&agent, |state| state.entries.len() == 1).await;
    let answer = within(client.fetch_secrets(request(&["default"])))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(names(&answer), ["default"]);
    let delta = tokio_stream::once(DeltaDiscoveryRequest::default());
    let refused = within(client.delta_secrets(delta)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
}
