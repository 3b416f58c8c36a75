//! An authority whose key may be known to others is withdrawn when nothing is wrong.
//!
//! Always: once it is tainted another signs, and within the time in which agents spread their renewals every
//! workload holds an SVID of another; a second after it was revoked nobody is served a bundle that has it.
//!
//! Not here: the same under faults (`crate::sim::plan`), and what holds of it always (`crate::invariant`).

use std::time::Duration;

use mintmark_proto::mintmark::state::v1::{Authority as Record, AuthorityKind, AuthorityState};

use super::Simulation;
use crate::invariant::Violation;
use crate::sim::operator::{Authority, Order};

/// The first property.
const REPLACED: &str = "what a tainted authority signed is replaced";
/// The second.
const GONE: &str = "what is revoked is gone within a second";
/// Ten seconds for a server that cannot show that it can use the next authority, ten in which agents spread their
/// renewals, and ten for all else.
const REPLACED_WITHIN: Duration = Duration::from_secs(30);

impl Simulation<'_> {
    /// Taints the authority that signs, and revokes it when it is replaced; in some runs.
    pub(super) fn withdraw(&mut self) -> Result<(), Violation> {
        if !self.plan.shape.withdraws {
            return Ok(());
        }
        let Some(authority) = self.signing() else {
            return Ok(());
        };
        self.ask(Order::Taint(authority.clone()))?;
        self.until(REPLACED, REPLACED_WITHIN, |this| {
            this.is_healthy()?;
            this.is_replaced(&authority.0)
        })?;
        let given = self.world.lock().oracle.received.len();
        // Servers retire it by themselves once its last SVID has expired.
        if self.is_retired(&authority) {
            return Ok(());
        }
        let revoked = self.ask(Order::Revoke(authority.clone()))?;
        self.watch(GONE, revoked, |this| {
            let again = || this.given_again(given, &authority.0);
            this.still_in_a_bundle(&authority.0).or_else(again)
        })
    }

    /// The X.509 authority that signs, unless it is tainted, as the server knows it that is furthest.
    pub(super) fn signing(&self) -> Option<Authority> {
        self.oldest(|one| one.state() == AuthorityState::Active && !one.tainted)
    }

    /// The oldest one in the bundle that signs no more.
    pub(super) fn replaced(&self) -> Option<Authority> {
        self.oldest(|one| one.state() == AuthorityState::Old && !one.tainted)
    }

    /// The oldest one that is tainted and in the bundle, although it may be the one that is to be replaced.
    pub(super) fn tainted(&self) -> Option<Authority> {
        let in_bundle = [AuthorityState::Active, AuthorityState::Old];
        self.oldest(|one| one.tainted && in_bundle.contains(&one.state()))
    }

    fn oldest(&self, is_meant: impl Fn(&Record) -> bool) -> Option<Authority> {
        let mut known = self.x509_authorities();
        known
            .find(|one| is_meant(one))
            .map(|one| Authority(one.id.clone()))
    }

    /// Whether it is out of the bundle because nothing that it signed is valid.
    pub(super) fn is_retired(&self, authority: &Authority) -> bool {
        let mut known = self.x509_authorities();
        known.any(|one| one.id == authority.0 && one.state() == AuthorityState::Retired)
    }

    fn x509_authorities(&self) -> impl Iterator<Item = &Record> {
        let views = self.views.servers().values();
        let furthest = views.max_by_key(|view| view.position);
        let all = furthest.into_iter().flat_map(|view| &view.authorities);
        all.filter(|one| one.kind() == AuthorityKind::X509)
    }

    fn is_replaced(&self, id: &str) -> Result<(), String> {
        let mut views = self.views.servers().iter();
        let signs = |one: &Record| one.id == id && one.state() == AuthorityState::Active;
        if let Some((name, _)) = views.find(|(_, view)| view.authorities.iter().any(signs)) {
            return Err(format!("on {name} the tainted authority signs"));
        }
        let inner = self.world.lock();
        for ((machine, uid), held) in &inner.oracle.held {
            let of_it = |authority: &str| authority == id;
            let mut held = held.iter().filter_map(|one| one.verified.as_ref().ok());
            if !inner.banned.contains(machine) && held.any(|svid| of_it(&svid.authority_id)) {
                return Err(format!(
                    "user {uid} on {machine} holds an SVID of the tainted authority"
                ));
            }
        }
        Ok(())
    }

    /// Who was given an SVID of it, of those that were given after so many.
    fn given_again(&self, after: usize, id: &str) -> Option<String> {
        let inner = self.world.lock();
        let mut given = inner.oracle.received.iter().skip(after);
        let of_it = given.find(|one| {
            let verified = one.verified.as_ref();
            verified.is_ok_and(|svid| svid.authority_id == id)
        });
        of_it.map(|one| {
            format!(
                "user {} on {} was given an SVID of it",
                one.uid, one.machine
            )
        })
    }

    /// Who is served a bundle that has it.
    fn still_in_a_bundle(&self, id: &str) -> Option<String> {
        let inner = self.world.lock();
        for ((machine, uid), held) in &inner.oracle.held {
            let has_it = held
                .iter()
                .any(|one| one.bundle.iter().any(|known| known == id));
            if has_it && !inner.banned.contains(machine) {
                return Some(format!(
                    "user {uid} on {machine} has a bundle with the revoked authority"
                ));
            }
        }
        None
    }
}
