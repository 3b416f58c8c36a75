//! Reads that must have everything that was acknowledged before, at one server's private socket.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ca_server::api::consistency::CONSISTENCY_HEADER;
use mintmark_proto::spire::entry::GetEntryRequest;
use mintmark_proto::spire::entry::entry_client::EntryClient;
use mintmark_runtime::grpc::{ChannelOptions, Target, channel};
use mintmark_runtime::network::OsNetwork;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Status};

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(10);
/// Pause between two questions of one who doubts.
const PAUSE: Duration = Duration::from_millis(5);

/// Who reads at one server.
#[derive(Debug, Clone)]
pub struct Reader {
    socket: PathBuf,
}

impl Reader {
    /// Reads at this socket.
    pub fn at(socket: &Path) -> Self {
        let socket = socket.to_owned();
        Self { socket }
    }

    /// Asks for an entry as it is now; its SPIFFE ID's path.
    ///
    /// # Errors
    /// What the server says, or that it says nothing.
    pub fn read(&self, id: &str) -> Result<String, Status> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut request = Request::new(GetEntryRequest {
                id: id.to_owned(),
                output_mask: None,
            });
            let fresh = MetadataValue::from_static("linearizable");
            request.metadata_mut().insert(CONSISTENCY_HEADER, fresh);
            let target = Target::Unix(self.socket.clone());
            let server = channel(Arc::new(OsNetwork), target, ChannelOptions::default());
            let mut client = EntryClient::new(server);
            let answer = tokio::time::timeout(LIMIT, client.get_entry(request)).await;
            let answer = answer.map_err(|_| Status::unavailable("no answer in time"))??;
            Ok(answer.into_inner().spiffe_id.unwrap_or_default().path)
        })
    }

    /// Asks again and again, for as long as the value lives, for the newest entry that was acknowledged.
    pub fn doubts(self) -> Doubter {
        let newest = Arc::new(Mutex::new(None));
        let ends = Arc::new(AtomicBool::new(false));
        let (asked, stop) = (Arc::clone(&newest), Arc::clone(&ends));
        let thread = std::thread::spawn(move || {
            let mut stale = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let id: Option<String> = asked.lock().unwrap().clone();
                let read = id.as_deref().map(|id| self.read(id));
                if let Some(Err(status)) = read
                    && status.code() == Code::NotFound
                {
                    stale.push(status.to_string());
                }
                std::thread::sleep(PAUSE);
            }
            stale
        });
        Doubter {
            newest,
            ends,
            thread,
        }
    }
}

/// Who asks a server again and again.
#[derive(Debug)]
pub struct Doubter {
    newest: Arc<Mutex<Option<String>>>,
    ends: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Vec<String>>,
}

impl Doubter {
    /// Tells of an entry that was acknowledged just now.
    pub fn acknowledged(&self, id: &str) {
        *self.newest.lock().unwrap() = Some(id.to_owned());
    }

    /// Ends it; what the server said although an entry had been acknowledged before it was asked.
    pub fn stale_answers(self) -> Vec<String> {
        self.ends.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}
