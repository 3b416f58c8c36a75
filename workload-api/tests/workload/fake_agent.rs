//! A Workload API that answers as it is told, and remembers what it was asked.
//!
//! Always holds: it speaks real gRPC; each stream begins with what the method says now and follows every
//! change; every request is recorded with its path, its security header and its instant, whatever the
//! path.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use mintmark_identity::clock::ManualClock;
use mintmark_identity::entropy::SeededEntropy;
use mintmark_proto::spiffe::workload::spiffe_workload_api_server::{
    SpiffeWorkloadApi, SpiffeWorkloadApiServer,
};
use mintmark_proto::spiffe::workload::{
    JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, WitBundlesRequest, WitBundlesResponse, WitsvidRequest,
    WitsvidResponse, X509BundlesRequest, X509BundlesResponse, X509svid, X509svidRequest,
    X509svidResponse,
};
use mintmark_workload_api::client::Client;
use mintmark_workload_api::connector::{Connecting, Connector};
use mintmark_workload_api::error::ClientError;
use mintmark_workload_api::source::Settings;
use tokio::io::DuplexStream;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use crate::pki::{Domain, now};

/// What a method says.
#[derive(Clone, Debug)]
pub enum Answer<M> {
    /// Nothing yet: the stream is open and silent.
    Silence,
    Message(M),
    Failure(Status),
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Call {
    pub path: String,
    /// All values of `workload.spiffe.io`.
    pub header: Vec<String>,
    pub at: Instant,
}

/// The agent; clones are the same one.
#[derive(Clone, Debug)]
pub struct FakeAgent {
    pub x509: Arc<watch::Sender<Answer<X509svidResponse>>>,
    pub x509_bundles: Arc<watch::Sender<Answer<X509BundlesResponse>>>,
    pub jwt: Arc<watch::Sender<Answer<JwtsvidResponse>>>,
    pub jwt_bundles: Arc<watch::Sender<Answer<JwtBundlesResponse>>>,
    pub validate: Arc<watch::Sender<Answer<ValidateJwtsvidResponse>>>,
    /// Raised, it ends all open streams without a word.
    ends: Arc<watch::Sender<u64>>,
    /// Whether nobody listens.
    pub away: Arc<Mutex<bool>>,
    calls: Arc<Mutex<Vec<Call>>>,
    /// When each connection was asked for.
    pub connections: Arc<Mutex<Vec<Instant>>>,
    changed: Arc<watch::Sender<u64>>,
    pub clock: Arc<ManualClock>,
}

impl FakeAgent {
    pub fn new() -> Self {
        fn silence<M>() -> Arc<watch::Sender<Answer<M>>> {
            Arc::new(watch::Sender::new(Answer::Silence))
        }
        Self {
            x509: silence(),
            x509_bundles: silence(),
            jwt: silence(),
            jwt_bundles: silence(),
            validate: silence(),
            ends: Arc::new(watch::Sender::new(0)),
            away: Arc::default(),
            calls: Arc::default(),
            connections: Arc::default(),
            changed: Arc::new(watch::Sender::new(0)),
            clock: Arc::new(ManualClock::new(now())),
        }
    }

    /// Sends these identities, with bundles of these federated domains.
    pub fn say_x509(&self, svids: Vec<X509svid>, federated: &[&Domain]) {
        let federated_bundles = federated.iter().map(|d| (d.id(), d.anchor())).collect();
        self.x509.send_replace(Answer::Message(X509svidResponse {
            svids,
            federated_bundles,
            ..X509svidResponse::default()
        }));
    }

    pub fn say_x509_bundles(&self, domains: &[&Domain]) {
        let bundles = domains.iter().map(|d| (d.id(), d.anchor())).collect();
        let message = X509BundlesResponse {
            bundles,
            ..X509BundlesResponse::default()
        };
        self.x509_bundles.send_replace(Answer::Message(message));
    }

    pub fn say_jwt_bundles(&self, bundles: impl IntoIterator<Item = (String, Vec<u8>)>) {
        let bundles: BTreeMap<String, Vec<u8>> = bundles.into_iter().collect();
        let message = JwtBundlesResponse { bundles };
        self.jwt_bundles.send_replace(Answer::Message(message));
    }

    pub fn end_streams(&self) {
        self.ends.send_modify(|count| *count += 1);
    }

    pub fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap().clone()
    }

    pub fn calls_of(&self, method: &str) -> Vec<Call> {
        let path = format!("/SpiffeWorkloadAPI/{method}");
        let mut calls = self.calls();
        calls.retain(|call| call.path == path);
        calls
    }

    /// Waits until a method was called this often.
    pub async fn called(&self, method: &str, times: usize) -> Vec<Call> {
        let mut changes = self.changed.subscribe();
        loop {
            let calls = self.calls_of(method);
            if calls.len() >= times {
                return calls;
            }
            changes.changed().await.unwrap();
        }
    }

    /// Settings with this agent, its clock, and jitter that is the same each time.
    pub fn settings(&self) -> Settings {
        Settings {
            clock: Arc::clone(&self.clock) as _,
            entropy: Arc::new(SeededEntropy::new(7)),
            ..Settings::new(self.clone())
        }
    }

    fn record(&self, path: &str, headers: &http::HeaderMap) {
        let header = headers.get_all("workload.spiffe.io").iter();
        let call = Call {
            path: path.to_owned(),
            header: header.map(|v| v.to_str().unwrap().to_owned()).collect(),
            at: Instant::now(),
        };
        self.calls.lock().unwrap().push(call);
        self.changed.send_modify(|count| *count += 1);
    }

    /// Serves connections of any kind until there are no more.
    pub async fn serve<I, IO>(&self, incoming: I)
    where
        I: Stream<Item = std::io::Result<IO>>,
        IO: tokio::io::AsyncRead
            + tokio::io::AsyncWrite
            + tonic::transport::server::Connected
            + Unpin
            + Send
            + 'static,
    {
        let recorder = self.clone();
        let layer = tower::layer::layer_fn(move |service| {
            let recorder = recorder.clone();
            tower::util::MapRequest::new(
                service,
                move |request: http::Request<tonic::body::Body>| {
                    recorder.record(request.uri().path(), request.headers());
                    request
                },
            )
        });
        tonic::transport::Server::builder()
            .layer(layer)
            .add_service(SpiffeWorkloadApiServer::new(Service(self.clone())))
            .serve_with_incoming(incoming)
            .await
            .unwrap();
    }
}

impl Connector for FakeAgent {
    fn connect(&self) -> Connecting<'_> {
        Box::pin(async move {
            self.connections.lock().unwrap().push(Instant::now());
            let near = if *self.away.lock().unwrap() {
                None
            } else {
                let (near, far) = tokio::io::duplex(1 << 16);
                let (sender, receiver) = mpsc::channel::<std::io::Result<DuplexStream>>(1);
                sender.try_send(Ok(far)).unwrap();
                let agent = self.clone();
                tokio::spawn(async move {
                    agent
                        .serve(tokio_stream::wrappers::ReceiverStream::new(receiver))
                        .await;
                    drop(sender);
                });
                Some(near)
            };
            let near = Mutex::new(near);
            let connector = tower::service_fn(move |_: http::Uri| {
                let near = near.lock().unwrap().take();
                async move {
                    near.map(TokioIo::new)
                        .ok_or_else(|| std::io::Error::other("nobody listens"))
                }
            });
            tonic::transport::Endpoint::from_static("http://localhost")
                .connect_with_connector(connector)
                .await
                .map(Client::over)
                .map_err(|cause| ClientError::NoAgent {
                    endpoint: "memory".to_owned(),
                    cause,
                })
        })
    }
}

struct Service(FakeAgent);

type Messages<M> = Pin<Box<dyn Stream<Item = Result<M, Status>> + Send>>;

impl Service {
    fn stream<M: Clone + Send + Sync + 'static>(
        &self,
        answers: &watch::Sender<Answer<M>>,
    ) -> Result<Response<Messages<M>>, Status> {
        let mut answers = answers.subscribe();
        let mut ends = self.0.ends.subscribe();
        Ok(Response::new(Box::pin(async_stream::stream! {
            loop {
                let answer = answers.borrow_and_update().clone();
                match answer {
                    Answer::Silence => {}
                    Answer::Message(message) => yield Ok(message),
                    Answer::Failure(status) => {
                        yield Err(status);
                        return;
                    }
                }
                tokio::select! {
                    _ = ends.changed() => return,
                    changed = answers.changed() => changed.unwrap(),
                }
            }
        })))
    }
}

async fn single<M: Clone>(answers: &watch::Sender<Answer<M>>) -> Result<Response<M>, Status> {
    let answer = answers.borrow().clone();
    match answer {
        Answer::Silence => std::future::pending().await,
        Answer::Message(message) => Ok(Response::new(message)),
        Answer::Failure(status) => Err(status),
    }
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for Service {
    type FetchX509SVIDStream = Messages<X509svidResponse>;
    type FetchX509BundlesStream = Messages<X509BundlesResponse>;
    type FetchJWTBundlesStream = Messages<JwtBundlesResponse>;
    type FetchWITSVIDStream = Messages<WitsvidResponse>;
    type FetchWITBundlesStream = Messages<WitBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        _: Request<X509svidRequest>,
    ) -> Result<Response<Messages<X509svidResponse>>, Status> {
        self.stream(&self.0.x509)
    }

    async fn fetch_x509_bundles(
        &self,
        _: Request<X509BundlesRequest>,
    ) -> Result<Response<Messages<X509BundlesResponse>>, Status> {
        self.stream(&self.0.x509_bundles)
    }

    async fn fetch_jwtsvid(
        &self,
        _: Request<JwtsvidRequest>,
    ) -> Result<Response<JwtsvidResponse>, Status> {
        single(&self.0.jwt).await
    }

    async fn fetch_jwt_bundles(
        &self,
        _: Request<JwtBundlesRequest>,
    ) -> Result<Response<Messages<JwtBundlesResponse>>, Status> {
        self.stream(&self.0.jwt_bundles)
    }

    async fn validate_jwtsvid(
        &self,
        _: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        single(&self.0.validate).await
    }

    async fn fetch_witsvid(
        &self,
        _: Request<WitsvidRequest>,
    ) -> Result<Response<Messages<WitsvidResponse>>, Status> {
        Err(Status::unimplemented("no WIT-SVIDs"))
    }

    async fn fetch_wit_bundles(
        &self,
        _: Request<WitBundlesRequest>,
    ) -> Result<Response<Messages<WitBundlesResponse>>, Status> {
        Err(Status::unimplemented("no WIT-SVIDs"))
    }
}

/// Lets everything that can happen now happen, and this much time pass.
pub async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}
