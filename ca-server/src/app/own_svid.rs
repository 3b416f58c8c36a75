//! This server's API identity, `spiffe://<trust domain>/spire/server`.
//!
//! Always: it is issued through the log like any other SVID, verified by the bundle before it is shown,
//! and renewed at a time that is drawn once; while renewal fails, the old one stays as long as it is valid.
//!
//! Not here: issuing (`issuance`).

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use mintmark_identity::bundle::BundleSet;
use mintmark_identity::clock::Timestamp;
use mintmark_identity::entropy::draw_u64;
use mintmark_identity::rotation::renewal_due;
use mintmark_identity::svid::x509::X509Svid;
use mintmark_identity::tls::{BundleSource, SvidSource};
use mintmark_runtime::backoff::Backoff;
use mintmark_runtime::cause::chain;
use mintmark_runtime::readiness::Gate;
use mintmark_runtime::task::periodic::{Periodic, Wake};
use rustls_pki_types::CertificateDer;

use super::place::PeerKey;
use crate::Consensus;
use crate::api::Services;

/// How often the job looks.
const PERIOD: Duration = Duration::from_secs(1);
/// First and longest pause after a failure.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// The identity that the API listener shows.
#[derive(Debug, Clone, Default)]
pub struct OwnSvid(Arc<RwLock<Option<Arc<X509Svid>>>>);

impl SvidSource for OwnSvid {
    fn svid(&self) -> Option<Arc<X509Svid>> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl OwnSvid {
    fn set(&self, svid: X509Svid) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(svid));
    }
}

/// The bundle of our own trust domain, as it stands in the state now.
#[derive(Debug)]
pub struct OwnBundles {
    consensus: Consensus,
    last: Mutex<(u64, Arc<BundleSet>)>,
}

impl OwnBundles {
    /// Follows this consensus.
    #[must_use]
    pub fn new(consensus: Consensus) -> Self {
        Self {
            consensus,
            last: Mutex::default(),
        }
    }
}

impl BundleSource for OwnBundles {
    fn bundles(&self) -> Arc<BundleSet> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = self.consensus.read(|state| {
            let sequence = state.bundle_sequence();
            (sequence != last.0).then(|| (sequence, state.own_bundle()))
        });
        if let Some((sequence, bundle)) = changed {
            let mut set = BundleSet::new();
            if let Some(bundle) = bundle {
                set.insert(bundle);
            }
            *last = (sequence, Arc::new(set));
        }
        Arc::clone(&last.1)
    }
}

/// Keeps the identity fresh until the server ends. `gate` opens with the first one.
pub async fn keep(services: Services, own: OwnSvid, gate: Gate) {
    let mut gate = Some(gate);
    let mut due: Option<Timestamp> = None;
    let mut issued_by = String::new();
    let mut backoff = Backoff::new(RETRY.0, RETRY.1);
    let mut schedule = Periodic::new(PERIOD, Wake::new(), services.tasks.token());
    while schedule.next().await {
        let now = services.host.clock.now();
        // A tainted authority is the other reason to renew: agents will not believe it for long.
        let good = services.consensus.read(|state| {
            state
                .authority(&issued_by)
                .is_some_and(|authority| !authority.tainted)
        });
        if good && due.is_some_and(|due| now < due) {
            continue;
        }
        match renew(&services).await {
            Ok((svid, authority)) => {
                let draw = draw_u64(services.host.entropy.as_ref());
                due = Some(renewal_due(svid.validity(), draw));
                issued_by = authority;
                services
                    .metrics
                    .own_svid_until(svid.validity().not_after.unix_secs());
                own.set(svid);
                backoff.reset();
                if let Some(gate) = gate.take() {
                    gate.open();
                }
            }
            Err(error) => {
                tracing::debug!(%error, "the server's own SVID is not renewed yet");
                let draw = draw_u64(services.host.entropy.as_ref());
                schedule.next_in(backoff.next_delay(draw));
            }
        }
    }
}

async fn renew(services: &Services) -> Result<(X509Svid, String), String> {
    let key = PeerKey::generate().ok_or("a key cannot be made")?;
    let (private, csr) = key.into_parts();
    let issued = services
        .issuer
        .issue_server(csr)
        .await
        .map_err(|error| chain(&error))?;
    let certificates = issued.chain.into_iter().map(CertificateDer::from).collect();
    let svid = X509Svid::new(certificates, private).map_err(|error| error.to_string())?;
    Ok((svid, issued.authority_id))
}
