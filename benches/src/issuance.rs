//! What a server issues, as an agent asks for it: over mTLS, with proofs of possession.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chaos_tests::real::dev::Dev;
use mintmark_identity::bundle::{Bundle, BundleSet};
use mintmark_identity::clock::{Clock, SystemClock};
use mintmark_identity::key_manager::{KeyAlgorithm, SigningKey};
use mintmark_identity::secret::SecretBytes;
use mintmark_identity::svid::x509::verify::VerificationPolicy;
use mintmark_identity::svid::x509::x509_svid::X509Svid;
use mintmark_identity::tls::{Authorizer, SvidTrust, mtls_client_config, tls_client_config};
use mintmark_proto::spire::agent as agent_api;
use mintmark_proto::spire::agent::agent_client::AgentClient;
use mintmark_proto::spire::bundle::GetBundleRequest;
use mintmark_proto::spire::bundle::bundle_client::BundleClient;
use mintmark_proto::spire::entry as entry_api;
use mintmark_proto::spire::entry::entry_client::EntryClient;
use mintmark_proto::spire::svid as svid_api;
use mintmark_proto::spire::svid::svid_client::SvidClient;
use mintmark_proto::spire::types;
use mintmark_runtime::grpc::{ChannelOptions, Target, channel};
use mintmark_runtime::host::Host;
use tonic::transport::Channel;

/// A client of the Entry service on an admin socket.
pub fn entry_client(socket: &Path) -> EntryClient<Channel> {
    EntryClient::new(admin(socket))
}

fn admin(socket: &Path) -> Channel {
    channel(
        Host::os().network,
        Target::Unix(socket.to_owned()),
        ChannelOptions::default(),
    )
}

fn id(text: &str) -> Option<types::Spiffeid> {
    let (trust_domain, path) = text
        .strip_prefix("spiffe://")
        .unwrap()
        .split_once('/')
        .unwrap();
    Some(types::Spiffeid {
        trust_domain: trust_domain.to_owned(),
        path: format!("/{path}"),
    })
}

/// Creates an entry and returns its id.
pub async fn create_entry(
    client: &mut EntryClient<Channel>,
    spiffe_id: &str,
    parent_id: &str,
    selector: &str,
) -> String {
    let (kind, value) = selector.split_once(':').unwrap();
    let entry = types::Entry {
        spiffe_id: id(spiffe_id),
        parent_id: id(parent_id),
        selectors: vec![types::Selector {
            r#type: kind.to_owned(),
            value: value.to_owned(),
        }],
        ..Default::default()
    };
    let asked = entry_api::BatchCreateEntryRequest {
        entries: vec![entry],
        output_mask: None,
    };
    let made = client.batch_create_entry(asked).await.unwrap().into_inner();
    let result = made.results.into_iter().next().unwrap();
    assert_eq!(result.status.unwrap().code, 0);
    result.entry.unwrap().id
}

/// Deletes an entry.
pub async fn delete_entry(client: &mut EntryClient<Channel>, id: &str) {
    let asked = entry_api::BatchDeleteEntryRequest {
        ids: vec![id.to_owned()],
    };
    let gone = client.batch_delete_entry(asked).await.unwrap().into_inner();
    let result = gone.results.into_iter().next().unwrap();
    assert_eq!(result.status.unwrap().code, 0);
}

/// An attested agent with one entry, connected to one server.
#[derive(Clone)]
pub struct Agent {
    svids: SvidClient<Channel>,
    entry: String,
    csr: Vec<u8>,
}

impl Agent {
    /// Attests by a join token, as an agent of SPIRE's does.
    pub async fn attest(dev: &Dev) -> Self {
        let endpoints = dev.endpoints();
        let server = &endpoints.servers[0];
        let bundle = BundleClient::new(admin(&server.admin_socket))
            .get_bundle(GetBundleRequest::default())
            .await
            .unwrap()
            .into_inner();
        let bundle = Bundle::try_from(&bundle).unwrap();
        let mut bundles = BundleSet::default();
        bundles.insert(bundle);
        let bundles: Arc<BundleSet> = Arc::new(bundles);
        let trust = || SvidTrust {
            bundles: Arc::new(Arc::clone(&bundles)),
            policy: VerificationPolicy::default(),
            authorizer: Authorizer::any(),
        };
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let token = AgentClient::new(admin(&server.admin_socket))
            .create_join_token(agent_api::CreateJoinTokenRequest {
                ttl: 600,
                ..Default::default()
            })
            .await
            .unwrap()
            .into_inner()
            .value;
        let config = Arc::new(tls_client_config(Arc::clone(&clock), trust()).unwrap());
        let anonymous = tcp(&server.api, config);
        let key = SigningKey::generate(KeyAlgorithm::EcP256).unwrap();
        let chain = attest(anonymous, &token, csr(&key)).await;
        let pkcs8 = key.to_pkcs8().unwrap();
        let svid = X509Svid::parse(&chain.concat(), SecretBytes::new(pkcs8.to_vec())).unwrap();
        let agent_id = svid.spiffe_id().to_string();
        let svid: Arc<X509Svid> = Arc::new(svid);
        let config = Arc::new(mtls_client_config(clock, Arc::new(svid), trust()).unwrap());
        let mut entries = entry_client(&server.admin_socket);
        let workload = format!("spiffe://{}/bench", endpoints.trust_domain);
        let entry = create_entry(&mut entries, &workload, &agent_id, "unix:uid:4242").await;
        let svids = SvidClient::new(tcp(&server.api, config));
        Self {
            svids,
            entry,
            csr: csr(&SigningKey::generate(KeyAlgorithm::EcP256).unwrap()),
        }
    }

    async fn issue(&mut self, batch: usize) -> usize {
        let params = (0..batch)
            .map(|_| svid_api::NewX509svidParams {
                entry_id: self.entry.clone(),
                csr: self.csr.clone(),
            })
            .collect();
        let asked = svid_api::BatchNewX509svidRequest { params };
        let response = self
            .svids
            .batch_new_x509svid(asked)
            .await
            .unwrap()
            .into_inner();
        let issued = response
            .results
            .iter()
            .filter(|result| result.svid.is_some())
            .count();
        // A refused item costs less than an issued one: the figure would be of something else.
        let refused = response.results.iter().find(|r| r.svid.is_none());
        assert!(refused.is_none(), "refused: {refused:?}");
        issued
    }
}

/// What agents got in `span`, each asking again as soon as it is answered, with batches of `batch`:
/// SVIDs, wall time, latencies of requests. A server limits what one agent may ask for.
pub async fn load(
    agents: &[Agent],
    batch: usize,
    span: Duration,
) -> (usize, Duration, Vec<Duration>) {
    let started = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for mut agent in agents.iter().cloned() {
        tasks.spawn(async move {
            let mut issued = 0;
            let mut latencies = Vec::new();
            while started.elapsed() < span {
                let asked = Instant::now();
                issued += agent.issue(batch).await;
                latencies.push(asked.elapsed());
            }
            (issued, latencies)
        });
    }
    let mut total = 0;
    let mut all = Vec::new();
    while let Some(done) = tasks.join_next().await {
        let (issued, latencies) = done.unwrap();
        total += issued;
        all.extend(latencies);
    }
    (total, started.elapsed(), all)
}

fn tcp(address: &str, config: Arc<rustls::ClientConfig>) -> Channel {
    let source = Arc::new(move || Arc::clone(&config));
    let target = Target::Tcp {
        address: address.parse().unwrap(),
        tls: Some(source),
    };
    channel(Host::os().network, target, ChannelOptions::default())
}

fn csr(key: &SigningKey) -> Vec<u8> {
    let pkcs8 = key.to_pkcs8().unwrap();
    let pair = rcgen::KeyPair::try_from(pkcs8.as_slice()).unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.serialize_request(&pair).unwrap().der().to_vec()
}

async fn attest(channel: Channel, token: &str, csr: Vec<u8>) -> Vec<Vec<u8>> {
    use agent_api::attest_agent_request::{Params, Step};
    use agent_api::attest_agent_response::Step as Answer;
    let request = agent_api::AttestAgentRequest {
        step: Some(Step::Params(Params {
            data: Some(types::AttestationData {
                r#type: "join_token".to_owned(),
                payload: token.as_bytes().to_vec(),
            }),
            params: Some(agent_api::AgentX509svidParams { csr }),
        })),
    };
    let requests = tokio_stream::iter([request]);
    let mut answers = AgentClient::new(channel)
        .attest_agent(requests)
        .await
        .unwrap()
        .into_inner();
    let answer = answers.message().await.unwrap().unwrap();
    let Some(Answer::Result(result)) = answer.step else {
        panic!("a challenge for a join token")
    };
    result.svid.unwrap().cert_chain
}
