//! A daemon's socket behind which every method answers alike: what clients see of a broken daemon.

use std::sync::Arc;

use axum::Router;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, HeaderValue, Uri, header};
use http_body_util::{BodyExt as _, Full};
use mintmark_runtime::Host;
use mintmark_runtime::drain::{DrainTrigger, drain};
use mintmark_runtime::grpc::GrpcServer;
use mintmark_runtime::network::UnixMode;
use mintmark_runtime::task::Tasks;
use tonic::Code;
use tonic::service::Routes;

/// What a method answers.
#[derive(Debug, Clone)]
pub enum Answer {
    /// A status, and nothing else.
    Status(Code),
    /// One message, encoded, and that all is well.
    Message(Vec<u8>),
    /// Nothing, ever.
    Silence,
}

/// A socket that answers; it goes away with the value.
pub struct BrokenDaemon {
    path: String,
    _drain: DrainTrigger,
    tasks: Tasks,
    _folder: tempfile::TempDir,
}

impl BrokenDaemon {
    /// Listens on a socket of its own; `answer` is asked with the name of the method.
    pub async fn start(answer: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("daemon.sock");
        let host = Host::os();
        let listening = host.network.listen_unix(&path, UnixMode::PRIVATE);
        let listener = listening.await.unwrap();
        let answer = Arc::new(answer);
        let router = Router::new().fallback(move |uri: Uri| {
            let method = uri.path().rsplit('/').next().unwrap_or_default();
            let answer = answer(method);
            async move {
                match answer {
                    Answer::Status(code) => failed(code),
                    Answer::Message(message) => answered(&message),
                    Answer::Silence => std::future::pending().await,
                }
            }
        });
        let (trigger, watch) = drain();
        let tasks = Tasks::new();
        let server = GrpcServer::new(Routes::from(router), Arc::clone(&host.entropy));
        let own = tasks.clone();
        tasks.spawn("broken daemon", async move {
            server.serve(listener, &own, watch).await;
        });
        Self {
            path: path.to_str().unwrap().to_owned(),
            _drain: trigger,
            tasks,
            _folder: folder,
        }
    }

    /// Where it listens.
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl Drop for BrokenDaemon {
    fn drop(&mut self) {
        self.tasks.token().cancel();
    }
}

fn failed(code: Code) -> Response {
    let status = tonic::Status::new(code, "MM-1999: it is broken");
    status
        .into_http::<tonic::body::Body>()
        .map(axum::body::Body::new)
}

fn answered(message: &[u8]) -> Response {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    let framed = [&[0], length.as_slice(), message].concat();
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let end = async move { Some(Ok(trailers)) };
    let body = Full::new(axum::body::Bytes::from(framed)).with_trailers(end);
    let kind = [(header::CONTENT_TYPE, "application/grpc")];
    (kind, axum::body::Body::new(body)).into_response()
}
