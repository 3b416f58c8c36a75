//! Whom the agent believes to be a server of its trust domain.
//!
//! Responsible for: the bundle that servers are verified with, from the configuration at first
//! and from servers later, kept in a file; and the pin of the trust-domain key, which outlives
//! every bundle. Always holds: the bundle is replaced whole and only by one from a verified
//! server or a verified statement, and by none older than they told; the file is replaced in one step
//! and ends up as the bundle that is trusted; [`Trust::kept`] names no
//! bundle that a restart would not verify servers with. Not here: statements themselves
//! (`statement`).

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use mintmark_identity::{
    bundle::{Bundle, BundleSet, X509Anchor},
    clock::Timestamp,
    entropy::{Entropy, draw_u64},
    pem,
    svid::x509::X509Authority,
    tls::BundleSource,
    trust_domain::TrustDomain,
};
use mintmark_runtime::{
    backoff::Backoff,
    disk::{Disk, MODE_PUBLIC},
    failpoint::{Step, reach},
};
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    cache::{Cache, state::State},
    code,
};

/// When a bundle that could not be written is written again, at first and at most.
const KEEP_RETRY: Duration = Duration::from_millis(200);
const KEEP_RETRY_MAX: Duration = Duration::from_secs(30);

/// Why the trust of an agent cannot be established.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The bundle file cannot be read.
    #[error("{}: the trust bundle {} cannot be read", code::NO_TRUST_ANCHOR, path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The bundle file is neither a SPIFFE bundle document nor PEM certificates of authorities.
    #[error("{}: the trust bundle {} is neither a SPIFFE bundle nor PEM: {reason}", code::NO_TRUST_ANCHOR, path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// There is neither a bundle nor a pin.
    #[error(
        "{}: no trust bundle and no pin of the trust-domain key is given",
        code::NO_TRUST_ANCHOR
    )]
    Nothing,
}

/// What became of a bundle that was told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Taken {
    /// It is trusted from now on.
    New,
    /// It was trusted already.
    Same,
    /// It is older than what was told before, and not trusted.
    Older,
}

/// The bundle that servers are verified with. A clone is another handle of the same.
#[derive(Clone, Debug)]
pub struct Trust {
    trust_domain: TrustDomain,
    bundles: Arc<ArcSwap<BundleSet>>,
    replaced: Arc<watch::Sender<u64>>,
    /// Sequence of the servers' bundle up to which a restart would trust the same.
    kept: Arc<watch::Sender<u64>>,
    /// Sequence of the latest bundle that servers or a statement told. Held while the bundle changes.
    told: Arc<Mutex<u64>>,
    /// What the file holds, as far as is known. Held while the file is written.
    on_disk: Arc<tokio::sync::Mutex<Option<Arc<Bundle>>>>,
    /// An operator gave another bundle, which stands until servers tell of a change.
    given_anew: bool,
    file: PathBuf,
    disk: Arc<dyn Disk>,
}

impl BundleSource for Trust {
    fn bundles(&self) -> Arc<BundleSet> {
        self.bundles.load_full()
    }
}

impl Trust {
    /// Reads the kept bundle, or the configured one when that is another than before, none is
    /// kept, or all of its authorities have expired. A kept bundle that cannot be read counts as
    /// none.
    ///
    /// # Errors
    /// When the configured bundle cannot be read, or there is neither a bundle nor a pin.
    pub fn open(
        disk: Arc<dyn Disk>,
        trust_domain: TrustDomain,
        file: PathBuf,
        configured: Option<&Path>,
        pinned: bool,
        now: Timestamp,
    ) -> Result<Self, TrustError> {
        let kept = match read(disk.as_ref(), &file, &trust_domain) {
            Ok(kept) => Some(kept),
            Err(TrustError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                None
            }
            Err(error) => {
                tracing::warn!(%error, "the kept trust bundle is not used");
                None
            }
        };
        let kept = kept.filter(|bundle| has_valid_anchor(bundle, now));
        let given = match configured {
            Some(path) => Given::look(disk.as_ref(), path, &file),
            None => Given::AsBefore,
        };
        let given_anew = configured.is_some() && matches!(given, Given::Anew { .. });
        let on_disk = kept.clone().filter(|_| !given_anew).map(Arc::new);
        let bundle = match (kept, configured, given) {
            (Some(kept), _, Given::AsBefore) => kept,
            (_, Some(path), given) => {
                let bundle = read(disk.as_ref(), path, &trust_domain)?;
                given.note(disk.as_ref(), &file);
                bundle
            }
            (Some(kept), None, _) => kept,
            (None, None, _) if pinned => Bundle::empty(trust_domain.clone()),
            (None, None, _) => return Err(TrustError::Nothing),
        };
        // Only what servers told has their numbers; an operator's bundle may have any.
        let told = on_disk.as_ref().and_then(|kept| kept.sequence);
        let bundles: BundleSet = [bundle].into_iter().collect();
        let bundles = Arc::new(ArcSwap::from_pointee(bundles));
        Ok(Self {
            trust_domain,
            bundles,
            replaced: Arc::new(watch::Sender::new(0)),
            kept: Arc::new(watch::Sender::new(0)),
            told: Arc::new(Mutex::new(told.unwrap_or(0))),
            on_disk: Arc::new(tokio::sync::Mutex::new(on_disk)),
            given_anew,
            file,
            disk,
        })
    }

    /// Takes the bundle of the sealed cache when it is later than what was kept: the process may have
    /// ended between the two writes, and servers may show SVIDs that only the later one verifies.
    pub fn catch_up(&self, cached: &State) {
        if let Some(bundle) = cached
            .own_bundle()
            .filter(|bundle| self.is_overtaken(bundle))
        {
            tracing::info!("the sealed cache has a later trust bundle than was kept");
            self.take(Arc::clone(bundle));
        }
    }

    /// Whether a bundle that the cache held at the start is later than the one that is trusted.
    fn is_overtaken(&self, cached: &Bundle) -> bool {
        let own = self.own().and_then(|own| own.sequence);
        !self.given_anew && cached.sequence > own
    }

    fn own(&self) -> Option<Arc<Bundle>> {
        self.bundles.load().get(&self.trust_domain).cloned()
    }

    /// Takes a bundle that was verified, unless it is older than what was told before: several who ask
    /// are answered in any order, and a server may lag behind.
    pub fn take(&self, bundle: Arc<Bundle>) -> Taken {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let sequence = bundle.sequence.unwrap_or(0);
        if sequence < *told {
            return Taken::Older;
        }
        *told = sequence;
        if self.own().is_some_and(|own| *own == *bundle) {
            return Taken::Same;
        }
        self.bundles.store(Arc::new([bundle].into_iter().collect()));
        self.replaced
            .send_modify(|count| *count = count.saturating_add(1));
        Taken::New
    }

    /// Follows the sequence of the servers' bundle up to which a restart would trust the same.
    #[must_use]
    pub fn kept(&self) -> watch::Receiver<u64> {
        self.kept.subscribe()
    }

    /// Whether any authority in the bundle is valid now: otherwise no server can be verified.
    #[must_use]
    pub fn is_usable(&self, now: Timestamp) -> bool {
        let bundles = self.bundles.load();
        bundles
            .get(&self.trust_domain)
            .is_some_and(|bundle| has_valid_anchor(bundle, now))
    }

    /// Rises whenever the bundle is replaced.
    #[must_use]
    pub fn replaced(&self) -> watch::Receiver<u64> {
        self.replaced.subscribe()
    }

    /// Writes the bundle that is trusted now, if it is not on disk. Returns whether it is there.
    pub async fn keep(&self) -> bool {
        // One writes at a time, so that what was trusted last is written last.
        let mut on_disk = self.on_disk.lock().await;
        let Some(bundle) = self.own() else {
            return true;
        };
        if on_disk.as_ref().is_some_and(|on_disk| **on_disk == *bundle) {
            return true;
        }
        *on_disk = None;
        let document = bundle.to_document();
        reach(Step::TrustReplaced);
        let (disk, file) = (Arc::clone(&self.disk), self.file.clone());
        let kept = self
            .disk
            .run(move || disk.write_atomic(&file, &document, MODE_PUBLIC))
            .await;
        if let Ok(Err(error)) | Err(error) = kept {
            tracing::error!(code = %code::DISK, %error, "the trust bundle cannot be kept");
            return false;
        }
        reach(Step::TrustKept);
        *on_disk = Some(bundle);
        true
    }

    /// Takes each new bundle that servers send, and writes it until it is written.
    pub async fn follow(self, entropy: Arc<dyn Entropy>, cache: Cache, stop: CancellationToken) {
        let mut changes = cache.watch();
        let mut backoff = Backoff::new(KEEP_RETRY, KEEP_RETRY_MAX);
        // What the cache held at the start is not news: `catch_up` has taken it, or something later
        // stands in its place.
        let old = changes.borrow().own_bundle().cloned();
        let mut done = true;
        let mut taken = old.filter(|old| self.own().is_some_and(|own| *own != **old));
        loop {
            let (bundle, sequence) = {
                let state = changes.borrow_and_update();
                (state.own_bundle().cloned(), state.bundle_sequence)
            };
            // A bundle is taken once: a statement may have brought a later one since.
            if let Some(bundle) = bundle
                && taken.as_ref().is_none_or(|old| !Arc::ptr_eq(old, &bundle))
            {
                self.take(Arc::clone(&bundle));
                taken = Some(bundle);
                done = false;
            }
            if !done {
                done = self.keep().await;
            }
            let delay = if done {
                backoff.reset();
                self.kept
                    .send_if_modified(|kept| std::mem::replace(kept, sequence) != sequence);
                None
            } else {
                Some(backoff.next_delay(draw_u64(entropy.as_ref())))
            };
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = after(delay) => {}
                () = stop.cancelled() => return,
            }
        }
    }
}

/// Waits so long, or for ever.
async fn after(delay: Option<Duration>) {
    match delay {
        Some(delay) => tokio::time::sleep(delay).await,
        None => std::future::pending().await,
    }
}

/// Whether the configured bundle is the one that trust began with. An operator who puts another
/// one there means it; the same old one must not undo what servers told since.
enum Given {
    AsBefore,
    Anew { digest: String },
}

impl Given {
    fn look(disk: &dyn Disk, configured: &Path, kept: &Path) -> Self {
        let Ok(content) = disk.read(configured) else {
            return Self::AsBefore;
        };
        let digest = hex::encode(Sha256::digest(content));
        match disk.read(&Self::file(kept)) {
            Ok(known) if known == digest.as_bytes() => Self::AsBefore,
            _ => Self::Anew { digest },
        }
    }

    fn note(&self, disk: &dyn Disk, kept: &Path) {
        let Self::Anew { digest } = self else { return };
        tracing::info!("trust begins with the configured bundle");
        if let Err(error) = disk.write_atomic(&Self::file(kept), digest.as_bytes(), MODE_PUBLIC) {
            tracing::error!(code = %code::DISK, %error, "the origin of trust cannot be kept");
        }
    }

    fn file(kept: &Path) -> PathBuf {
        kept.with_extension("origin")
    }
}

fn has_valid_anchor(bundle: &Bundle, now: Timestamp) -> bool {
    bundle.x509.iter().any(|anchor| {
        X509Authority::parse(&anchor.certificate)
            .is_ok_and(|authority| authority.validity().contains(now))
    })
}

fn read(disk: &dyn Disk, path: &Path, domain: &TrustDomain) -> Result<Bundle, TrustError> {
    let read = |source| TrustError::Read {
        path: path.to_owned(),
        source,
    };
    let malformed = |reason: String| TrustError::Malformed {
        path: path.to_owned(),
        reason,
    };
    let content = disk.read(path).map_err(read)?;
    if content.trim_ascii_start().starts_with(b"{") {
        let (bundle, _skipped) = Bundle::from_document(domain, &content)
            .map_err(|error| malformed(error.to_string()))?;
        return Ok(bundle);
    }
    let certificates = pem::certificates(&content).map_err(|error| malformed(error.to_string()))?;
    if certificates.is_empty() {
        return Err(malformed("it holds no certificate".to_owned()));
    }
    let anchors = certificates
        .iter()
        .map(|der| X509Anchor::parse(der))
        .collect::<Result<Vec<_>, _>>();
    let mut bundle = Bundle::empty(domain.clone());
    bundle.x509 = anchors.map_err(|error| malformed(error.to_string()))?;
    Ok(bundle)
}

#[cfg(test)]
mod tests;
