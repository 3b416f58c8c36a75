//! A workload that keeps every X.509-SVID it is given, and checks each as a relying party would.
//!
//! It is this very process, so the agent tells it by its user id. It follows the Workload API for as long
//! as it lives and connects again whenever the agent is gone.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mintmark_identity::bundle::{Bundle, BundleSet, X509Anchor};
use mintmark_identity::clock::{Clock, SystemClock, Timestamp};
use mintmark_identity::svid::x509::{Usage, svid_hash_of_certificate, verify_x509_svid};
use mintmark_workload_api::client::Client;
use mintmark_workload_api::client::x509::{X509Identity, X509Update};
use mintmark_workload_api::endpoint::Endpoint;
use rustls_pki_types::CertificateDer;

/// Pause before the agent is tried again.
const PAUSE: Duration = Duration::from_millis(20);

/// An SVID that somebody was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Whose it is.
    pub spiffe_id: String,
    /// Its serial number, hexadecimal.
    pub serial: String,
    /// What its audit leaf has to say of it, hexadecimal.
    pub svid_hash: String,
    /// When it ends.
    pub not_after: Timestamp,
    /// When it came.
    pub seen_at: Timestamp,
}

impl Held {
    /// Verifies a chain against the anchors that came with it.
    ///
    /// # Errors
    /// Why a relying party would refuse it.
    pub fn verify(identity: &X509Identity, now: Timestamp) -> Result<Self, String> {
        let domain = identity.spiffe_id.trust_domain().clone();
        let anchors = identity.bundle.iter().map(|der| X509Anchor::parse(der));
        let mut bundle = Bundle::empty(domain);
        bundle.x509 = anchors
            .collect::<Result<_, _>>()
            .map_err(|error| format!("the bundle of {}: {error}", identity.spiffe_id))?;
        let bundles: BundleSet = [bundle].into_iter().collect();
        let chain: Vec<CertificateDer<'_>> = identity
            .chain
            .iter()
            .map(|der| CertificateDer::from(der.as_slice()))
            .collect();
        let refused = |error: &dyn std::fmt::Display| format!("{}: {error}", identity.spiffe_id);
        let verified = verify_x509_svid(&chain, &bundles, now, Usage::Either)
            .map_err(|error| refused(&error))?;
        if verified.spiffe_id != identity.spiffe_id {
            return Err(refused(&format!("the SVID is {}'s", verified.spiffe_id)));
        }
        let leaf = identity.chain.first().ok_or("no certificate")?;
        let hash = svid_hash_of_certificate(leaf).map_err(|error| refused(&error))?;
        Ok(Self {
            spiffe_id: verified.spiffe_id.to_string(),
            serial: verified.serial,
            svid_hash: hex::encode(hash),
            not_after: verified.validity.not_after,
            seen_at: now,
        })
    }
}

/// What was seen so far.
#[derive(Debug, Default)]
struct Seen {
    held: Vec<Held>,
    refused: Vec<String>,
}

/// The workload.
#[derive(Debug)]
pub struct Collector {
    socket: PathBuf,
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Collector {
    /// Follows the agent behind this socket.
    pub fn follow(socket: &Path) -> Self {
        let (seen, stop) = (Arc::new(Mutex::default()), Arc::new(AtomicBool::new(false)));
        let (sink, ends, from) = (Arc::clone(&seen), Arc::clone(&stop), socket.to_owned());
        let thread = std::thread::spawn(move || runtime().block_on(follow(&from, &sink, &ends)));
        Self {
            socket: socket.to_owned(),
            seen,
            stop,
            thread: Some(thread),
        }
    }

    /// Every SVID that came so far.
    pub fn held(&self) -> Vec<Held> {
        self.seen.lock().unwrap().held.clone()
    }

    /// What came and would be refused by a relying party.
    pub fn refused(&self) -> Vec<String> {
        self.seen.lock().unwrap().refused.clone()
    }

    /// Asks the agent once, over a new connection.
    ///
    /// # Errors
    /// When it gives nothing, or something that does not verify.
    pub fn ask(&self) -> Result<Vec<Held>, String> {
        runtime().block_on(async {
            let asking = async {
                let endpoint = Endpoint::Unix(self.socket.clone());
                let mut client = Client::connect(&endpoint).await?;
                client.fetch_x509().await
            };
            let asked = tokio::time::timeout(Duration::from_secs(5), asking).await;
            let update = asked
                .map_err(|_| "no answer".to_owned())?
                .map_err(|error| error.to_string())?;
            let now = SystemClock.now();
            let identities = update.identities.iter();
            identities.map(|one| Held::verify(one, now)).collect()
        })
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

async fn follow(socket: &Path, seen: &Mutex<Seen>, stop: &AtomicBool) {
    let endpoint = Endpoint::Unix(socket.to_owned());
    while !stop.load(Ordering::Relaxed) {
        if let Ok(mut client) = Client::connect(&endpoint).await
            && let Ok(mut stream) = client.watch_x509().await
        {
            while !stop.load(Ordering::Relaxed) {
                match tokio::time::timeout(PAUSE, stream.next()).await {
                    Err(_) => {}
                    Ok(Ok(update)) => take(&update, seen),
                    Ok(Err(_)) => break,
                }
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn take(update: &X509Update, seen: &Mutex<Seen>) {
    let now = SystemClock.now();
    let mut seen = seen.lock().unwrap();
    for identity in &update.identities {
        match Held::verify(identity, now) {
            Ok(held) => {
                let known = |one: &Held| one.svid_hash == held.svid_hash;
                if !seen.held.iter().any(known) {
                    seen.held.push(held);
                }
            }
            Err(refused) => seen.refused.push(refused),
        }
    }
}
