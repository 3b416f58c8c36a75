//! Whom the agent believes to be a server of its trust domain.
//!
//! Responsible for: the bundle that servers are verified with, from the configuration at first
//! and from servers later, kept in a file; and the pin of the trust-domain key, which outlives
//! every bundle. Always holds: the bundle is replaced whole and only by one from a verified
//! server or a verified statement; the file is replaced in one step. Not here: statements
//! themselves (`statement`).

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use mintmark_identity::{
    bundle::{Bundle, BundleSet, X509Anchor},
    clock::Timestamp,
    pem,
    svid::x509::X509Authority,
    tls::BundleSource,
    trust_domain::TrustDomain,
};
use mintmark_runtime::disk::{Disk, MODE_PUBLIC};
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{cache::Cache, code};

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

/// The bundle that servers are verified with. A clone is another handle of the same.
#[derive(Clone, Debug)]
pub struct Trust {
    trust_domain: TrustDomain,
    bundles: Arc<ArcSwap<BundleSet>>,
    replaced: Arc<watch::Sender<u64>>,
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
        let bundles: BundleSet = [bundle].into_iter().collect();
        let bundles = Arc::new(ArcSwap::from_pointee(bundles));
        Ok(Self {
            trust_domain,
            bundles,
            replaced: Arc::new(watch::Sender::new(0)),
            file,
            disk,
        })
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

    /// Takes a bundle that was verified, and keeps it.
    pub async fn replace(&self, bundle: Arc<Bundle>) {
        let current = self.bundles.load();
        if current
            .get(&self.trust_domain)
            .is_some_and(|own| **own == *bundle)
        {
            return;
        }
        let document = bundle.to_document();
        self.bundles.store(Arc::new([bundle].into_iter().collect()));
        self.replaced
            .send_modify(|count| *count = count.saturating_add(1));
        let (disk, file) = (Arc::clone(&self.disk), self.file.clone());
        let kept = self
            .disk
            .run(move || disk.write_atomic(&file, &document, MODE_PUBLIC))
            .await;
        if let Ok(Err(error)) | Err(error) = kept {
            tracing::error!(code = %code::DISK, %error, "the trust bundle cannot be kept");
        }
    }

    /// Takes each new bundle that servers send. What the cache held at the start is older than,
    /// or the same as, what was kept.
    pub async fn follow(self, cache: Cache, stop: CancellationToken) {
        let mut changes = cache.watch();
        let mut seen = changes.borrow_and_update().own_bundle().cloned();
        loop {
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = stop.cancelled() => return,
            }
            let own = changes.borrow_and_update().own_bundle().cloned();
            let same = match (&own, &seen) {
                (Some(own), Some(seen)) => Arc::ptr_eq(own, seen),
                _ => false,
            };
            if let Some(bundle) = own.clone().filter(|_| !same) {
                self.replace(bundle).await;
            }
            seen = own;
        }
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
