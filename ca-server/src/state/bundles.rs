//! The trust bundle that follows from the authorities.
//!
//! Responsible for: which authorities are in it, and its sequence number.
//! Always holds: the sequence is epoch · 2^40 + n; n rises by one exactly when
//! anything else of the bundle changes.
//! Not here: documents and other formats of a bundle (`mintmark_identity`).

use std::sync::Arc;
use std::time::Duration;

use mintmark_identity::bundle::{Bundle, DEFAULT_REFRESH, JwtAuthority, X509Anchor};
use mintmark_identity::jose::jwk::Jwk;
use mintmark_identity::trust_domain::TrustDomain;
use mintmark_proto::mintmark::state::v1::{Authority, AuthorityKind, Settings};

use super::State;
use super::authorities::{Authorities, in_bundle};
use super::event::Event;
use super::turn::{Decided, Refused, Turn};

/// Bits of a sequence number below the epoch.
const COUNTER_BITS: u32 = 40;

/// The shortest refresh hint: shorter than this is a flood, not a refresh.
const REFRESH_MIN: Duration = Duration::from_secs(1);

/// The bundle as it stands, and how often it changed in this epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OwnBundle {
    pub(super) bundle: Arc<Bundle>,
    pub(super) counter: u64,
}

impl OwnBundle {
    /// The bundle of these authorities after `counter` changes.
    pub(super) fn of(
        trust_domain: &TrustDomain,
        authorities: &Authorities,
        settings: &Settings,
        epoch: u64,
        counter: u64,
    ) -> Self {
        let mut members: Vec<&Authority> = authorities
            .iter()
            .filter(|authority| in_bundle(authority))
            .collect();
        members.sort_by_key(|authority| (authority.prepared_at_ms, &authority.id));
        let mut bundle = Bundle::empty(trust_domain.clone());
        for authority in members {
            // Each was converted once before it was accepted.
            match authority.kind() {
                AuthorityKind::X509 => bundle.x509.extend(X509Anchor::try_from(authority).ok()),
                AuthorityKind::Jwt => bundle.jwt.extend(JwtAuthority::try_from(authority).ok()),
                AuthorityKind::Wit => bundle.wit.extend(JwtAuthority::try_from(authority).ok()),
                AuthorityKind::Unspecified => {}
            }
        }
        bundle.sequence = Some(sequence(epoch, counter));
        bundle.refresh_hint = Some(refresh_hint(settings));
        Self {
            bundle: Arc::new(bundle),
            counter,
        }
    }
}

/// Ten looks in the life of an authority, at most every second and at least
/// every five minutes.
fn refresh_hint(settings: &Settings) -> Duration {
    let tenth = Duration::from_secs(settings.ca_ttl_seconds / 10);
    tenth.clamp(REFRESH_MIN, DEFAULT_REFRESH)
}

fn sequence(epoch: u64, counter: u64) -> u64 {
    (epoch << COUNTER_BITS).saturating_add(counter)
}

/// Checks that an authority can stand in a bundle: its certificate is a signing
/// certificate for its key, or its key signs tokens.
pub(super) fn check_bundled(authority: &Authority) -> Decided<()> {
    let refuse = |error: mintmark_proto::convert::ConvertError| Refused::invalid(error.explain());
    if authority.kind() != AuthorityKind::X509 {
        return JwtAuthority::try_from(authority).map(drop).map_err(refuse);
    }
    let anchor = X509Anchor::try_from(authority).map_err(refuse)?;
    match Jwk::from_spki(&authority.public_key_spki) {
        Ok(key) if key == *anchor.public_key() => Ok(()),
        _ => Err(Refused::invalid(
            "the certificate is not one of the authority's key",
        )),
    }
}

impl State {
    /// The trust bundle of this trust domain; `None` before initialisation.
    #[must_use]
    pub fn own_bundle(&self) -> Option<Arc<Bundle>> {
        self.cluster
            .as_ref()
            .map(|cluster| Arc::clone(&cluster.bundle.bundle))
    }

    /// Sequence number of the trust bundle; 0 before initialisation.
    #[must_use]
    pub fn bundle_sequence(&self) -> u64 {
        self.own_bundle()
            .and_then(|bundle| bundle.sequence)
            .unwrap_or(0)
    }

    /// Brings the bundle in line with the authorities and settings.
    pub(super) fn refresh_bundle(&mut self, turn: &mut Turn<'_>) {
        let Some(cluster) = &mut self.cluster else {
            return;
        };
        let next = OwnBundle::of(
            &cluster.trust_domain,
            &self.authorities,
            &cluster.settings,
            cluster.epoch,
            cluster.bundle.counter.saturating_add(1),
        );
        if !next.bundle.differs_from(&cluster.bundle.bundle) {
            return;
        }
        cluster.bundle = next;
        let sequence = cluster.bundle.bundle.sequence.unwrap_or(0);
        self.authorities.note_published(sequence);
        turn.emit(Event::BundleChanged);
    }
}
