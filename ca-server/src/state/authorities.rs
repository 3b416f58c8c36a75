//! The life of an authority.
//!
//! Responsible for: prepared, published, active, old, retired, revoked and
//! tainted, and the commands that move between them.
//! Always holds: states only go forward; of one kind at most one authority is
//! active and at most one is on its way there; no two share a key; the bundle
//! changes in the same command as the authority; the active one leaves the bundle
//! only after another took its place.
//! Not here: who must have acknowledged a bundle before an authority signs
//! (`acknowledgements`), and when a job moves an authority.

use std::collections::BTreeMap;
use std::time::Duration;

use mintmark_identity::clock::Timestamp;
use mintmark_identity::validity::SVID_BACKDATE;
use mintmark_proto::mintmark::audit::v1::{AuthorityChange, Leaf};
use mintmark_proto::mintmark::raft::v1::{
    CommandResult, PrepareAuthority, ProveAuthority, PublishAuthority, Refusal, RetireAuthority,
    RevokeAuthority, TaintAuthority,
};
use mintmark_proto::mintmark::state::v1::{Authority, AuthorityKind, AuthorityState, PqMode};
use mintmark_runtime::mutation::{self, Bug};
use sha2::{Digest as _, Sha256};

use super::State;
use super::bundles::check_bundled;
use super::event::Event;
use super::issuance::ISSUE_SKEW_MAX;
use super::turn::{Decided, Refused, Turn};

/// Longest id: 64 hex digits would be a SHA-256, and ours are shorter.
const AUTHORITY_ID_MAX: usize = 128;

/// Longest certificate or key: an ML-DSA-65 pair with its signature fits twice.
const AUTHORITY_PART_MAX: usize = 32 * 1024;

/// Longest proof that a server can send.
const PROOF_MAX: usize = 16 * 1024;

/// All authorities that are not pruned yet.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Authorities {
    by_id: BTreeMap<String, Authority>,
}

impl Authorities {
    pub(super) fn get(&self, id: &str) -> Option<&Authority> {
        self.by_id.get(id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Authority> {
        self.by_id.values()
    }

    pub(super) fn put(&mut self, authority: Authority) {
        self.by_id.insert(authority.id.clone(), authority);
    }

    pub(super) fn of_kind(&self, kind: AuthorityKind) -> impl Iterator<Item = &Authority> {
        self.iter()
            .filter(move |authority| authority.kind() == kind)
    }

    /// The one in state active, tainted or expired as it may be.
    pub(super) fn active(&self, kind: AuthorityKind) -> Option<&Authority> {
        self.of_kind(kind)
            .find(|authority| authority.state() == AuthorityState::Active)
    }

    /// Whether it may sign now.
    pub(super) fn may_sign(&self, authority: &Authority, now: Timestamp) -> bool {
        authority.state() == AuthorityState::Active
            && !authority.tainted
            && authority.not_after_ms > now.unix_millis()
    }

    /// Remembers until when something that it signed is valid.
    pub(super) fn note_use(&mut self, id: &str, not_after_ms: i64) {
        if let Some(authority) = self.by_id.get_mut(id) {
            authority.last_svid_not_after_ms = authority.last_svid_not_after_ms.max(not_after_ms);
        }
    }

    /// Remembers the first sequence of a bundle that had each authority.
    pub(super) fn note_published(&mut self, sequence: u64) {
        for authority in self.by_id.values_mut() {
            if in_bundle(authority) && authority.published_sequence == 0 {
                authority.published_sequence = sequence;
            }
        }
    }

    /// Forgets authorities that are out of the bundle and expired.
    pub(super) fn prune(&mut self, now: Timestamp) {
        self.by_id.retain(|_, authority| {
            in_progress_or_bundle(authority) || authority.not_after_ms >= now.unix_millis()
        });
    }
}

/// Whether the trust bundle has it.
pub(super) fn in_bundle(authority: &Authority) -> bool {
    use AuthorityState::{Active, Old, Published, Revoked};
    match authority.state() {
        Published | Active | Old => true,
        Revoked => mutation::is(Bug::RevokedKept),
        _ => false,
    }
}

fn in_progress_or_bundle(authority: &Authority) -> bool {
    authority.state() == AuthorityState::Prepared || in_bundle(authority)
}

impl State {
    pub(super) fn prepare_authority(
        &mut self,
        turn: &mut Turn<'_>,
        body: &PrepareAuthority,
    ) -> Decided<CommandResult> {
        let asked = body.authority.clone().unwrap_or_default();
        self.check_prepared(turn.now, &asked, body)?;
        let mut authority = Authority {
            state: AuthorityState::Prepared.into(),
            prepared_at_ms: turn.now.unix_millis(),
            cold_start: body.cold_start,
            tainted: false,
            published_at_ms: 0,
            activated_at_ms: 0,
            published_sequence: 0,
            last_svid_not_after_ms: 0,
            proven_by: Vec::new(),
            ..asked
        };
        if let Some(key) = &body.key {
            self.check_vault_record(key)?;
            authority.vault_record.clone_from(&key.name);
            self.vault.put_record(key.clone());
            turn.emit(Event::VaultChanged);
        }
        let id = authority.id.clone();
        self.authorities.put(authority);
        self.authority_moved(turn, &id, "authority.prepare", "none", "");
        Ok(CommandResult::default())
    }

    fn check_prepared(
        &self,
        now: Timestamp,
        asked: &Authority,
        body: &PrepareAuthority,
    ) -> Decided<()> {
        check_authority_form(asked)?;
        let settings = self.settings_or_refuse()?;
        let hybrid = settings.pq() == PqMode::Hybrid;
        if asked.kind() == AuthorityKind::X509 && asked.hybrid != hybrid {
            let detail = "the post-quantum setting asks for another kind of key";
            return Err(Refused::conflict(detail));
        }
        check_bundled(asked)?;
        let validity_max = i128::from(settings.ca_ttl_seconds) * 1_000
            + millis(SVID_BACKDATE)
            + millis(ISSUE_SKEW_MAX);
        let begin = i128::from(asked.not_before_ms);
        let end = i128::from(asked.not_after_ms);
        let now_ms = i128::from(now.unix_millis());
        if begin > now_ms + millis(ISSUE_SKEW_MAX) || end <= now_ms {
            return Err(Refused::new(
                Refusal::Clock,
                "the authority is not valid now",
            ));
        }
        if end - begin > validity_max {
            return Err(Refused::invalid(
                "the authority would live longer than ca_ttl",
            ));
        }
        for other in self.authorities.iter() {
            if other.id == asked.id || other.public_key_spki == asked.public_key_spki {
                let detail = format!("authority {} has this id or key", other.id);
                return Err(Refused::new(Refusal::AlreadyExists, detail));
            }
            let on_its_way = matches!(
                other.state(),
                AuthorityState::Prepared | AuthorityState::Published
            );
            if other.kind() == asked.kind() && on_its_way && !other.tainted {
                let detail = format!("authority {} is being prepared already", other.id);
                return Err(Refused::conflict(detail));
            }
        }
        if body.cold_start && !self.cold_start_needed(asked.kind(), now) {
            return Err(Refused::conflict(
                "an authority of this kind is active: no cold start",
            ));
        }
        Ok(())
    }

    pub(super) fn prove_authority(
        &mut self,
        turn: &mut Turn<'_>,
        body: &ProveAuthority,
    ) -> Decided<CommandResult> {
        if body.signature.is_empty() || body.signature.len() > PROOF_MAX {
            return Err(Refused::invalid(
                "the proof has no signature, or too long a one",
            ));
        }
        if self.server(body.node_id).is_none() {
            return Err(Refused::not_found(format!(
                "there is no server {}",
                body.node_id
            )));
        }
        let mut authority = self.authority_or_refuse(&body.authority_id)?;
        if !matches!(
            authority.state(),
            AuthorityState::Prepared | AuthorityState::Published | AuthorityState::Active
        ) {
            return Err(Refused::conflict(
                "nothing will be signed with this authority any more",
            ));
        }
        if let Err(place) = authority.proven_by.binary_search(&body.node_id) {
            authority.proven_by.insert(place, body.node_id);
        }
        self.authorities.put(authority);
        let leaf = Leaf {
            action: "authority.prove".to_owned(),
            subject: body.authority_id.clone(),
            reason: format!("server/{}", body.node_id),
            request_sha256: turn.request_sha256.to_vec(),
            ..Leaf::default()
        };
        self.append_leaf(turn, leaf);
        turn.emit(Event::AuthorityChanged {
            id: body.authority_id.clone(),
        });
        Ok(CommandResult::default())
    }

    pub(super) fn publish_authority(
        &mut self,
        turn: &mut Turn<'_>,
        body: &PublishAuthority,
    ) -> Decided<CommandResult> {
        let mut authority = self.authority_or_refuse(&body.authority_id)?;
        if authority.state() != AuthorityState::Prepared || authority.tainted {
            return Err(wrong_state(&authority, "published"));
        }
        authority.state = AuthorityState::Published.into();
        authority.published_at_ms = turn.now.unix_millis();
        self.authorities.put(authority);
        self.authority_moved(
            turn,
            &body.authority_id,
            "authority.publish",
            "prepared",
            "",
        );
        Ok(CommandResult::default())
    }

    pub(super) fn retire_authority(
        &mut self,
        turn: &mut Turn<'_>,
        body: &RetireAuthority,
    ) -> Decided<CommandResult> {
        let mut authority = self.authority_or_refuse(&body.authority_id)?;
        let before = state_name(&authority);
        match authority.state() {
            // One that never signed may be given up at any time.
            AuthorityState::Prepared | AuthorityState::Published => {}
            AuthorityState::Old if authority.last_svid_not_after_ms < turn.now.unix_millis() => {}
            AuthorityState::Old if mutation::is(Bug::RetiredAtOnce) => {}
            AuthorityState::Old => {
                let last = Timestamp::from_unix_millis(authority.last_svid_not_after_ms);
                let detail = format!("an SVID of this authority is valid until {last}");
                return Err(Refused::conflict(detail));
            }
            _ => return Err(wrong_state(&authority, "retired")),
        }
        authority.state = AuthorityState::Retired.into();
        self.end_authority(turn, authority, "authority.retire", before);
        Ok(CommandResult::default())
    }

    pub(super) fn taint_authority(
        &mut self,
        turn: &mut Turn<'_>,
        body: &TaintAuthority,
    ) -> Decided<CommandResult> {
        let mut authority = self.authority_or_refuse(&body.authority_id)?;
        if authority.tainted || !in_progress_or_bundle(&authority) {
            let wrong = wrong_state(&authority, "tainted");
            return Err(Refused::new(Refusal::AuthorityState, wrong.detail));
        }
        authority.tainted = true;
        let before = state_name(&authority);
        self.authorities.put(authority);
        turn.emit(Event::AuthorityTainted {
            id: body.authority_id.clone(),
        });
        self.authority_moved(
            turn,
            &body.authority_id,
            "authority.taint",
            before,
            "tainted",
        );
        Ok(CommandResult::default())
    }

    pub(super) fn revoke_authority(
        &mut self,
        turn: &mut Turn<'_>,
        body: &RevokeAuthority,
    ) -> Decided<CommandResult> {
        let mut authority = self.authority_or_refuse(&body.authority_id)?;
        if let Some(refusal) = why_not_revoked(&authority) {
            let wish = match refusal {
                Refusal::AuthorityNotTainted => "revoked before it is tainted",
                Refusal::AuthorityInUse => "revoked before another one of its kind is active",
                _ => "revoked",
            };
            return Err(Refused::new(refusal, wrong_state(&authority, wish).detail));
        }
        let before = state_name(&authority);
        authority.state = AuthorityState::Revoked.into();
        self.end_authority(turn, authority, "authority.revoke", before);
        Ok(CommandResult::default())
    }

    /// Takes an authority out of use for good: its private key goes too.
    fn end_authority(
        &mut self,
        turn: &mut Turn<'_>,
        authority: Authority,
        action: &str,
        before: &str,
    ) {
        let id = authority.id.clone();
        if self.vault.remove_record(&authority.vault_record) {
            turn.emit(Event::VaultChanged);
        }
        self.authorities.put(authority);
        self.authority_moved(turn, &id, action, before, "");
    }

    /// After every step: brings the bundle in line, leaves the leaf, tells.
    pub(super) fn authority_moved(
        &mut self,
        turn: &mut Turn<'_>,
        id: &str,
        action: &str,
        from: &str,
        reason: &str,
    ) {
        self.refresh_bundle(turn);
        let leaf = self.authority_leaf(turn, id, action, from, reason);
        self.append_leaf(turn, leaf);
        turn.emit(Event::AuthorityChanged { id: id.to_owned() });
    }

    pub(super) fn authority_leaf(
        &self,
        turn: &Turn<'_>,
        id: &str,
        action: &str,
        from: &str,
        reason: &str,
    ) -> Leaf {
        let authority = self.authorities.get(id);
        let change = authority.map(|authority| AuthorityChange {
            authority_id: id.to_owned(),
            kind: kind_name(authority.kind()).to_owned(),
            from: from.to_owned(),
            to: state_name(authority).to_owned(),
            public_key_sha256: Sha256::digest(&authority.public_key_spki).to_vec(),
            bundle_sequence: self.bundle_sequence(),
        });
        Leaf {
            action: action.to_owned(),
            subject: id.to_owned(),
            reason: reason.to_owned(),
            authority: change,
            request_sha256: turn.request_sha256.to_vec(),
            ..Leaf::default()
        }
    }

    pub(super) fn authority_or_refuse(&self, id: &str) -> Decided<Authority> {
        let found = self.authorities.get(id).cloned();
        found.ok_or_else(|| Refused::not_found("there is no such authority"))
    }
}

fn check_authority_form(asked: &Authority) -> Decided<()> {
    if asked.id.is_empty() || asked.id.len() > AUTHORITY_ID_MAX {
        return Err(Refused::invalid("the authority's id is empty or too long"));
    }
    if asked.kind() == AuthorityKind::Unspecified {
        return Err(Refused::invalid("the authority has no kind"));
    }
    let has_certificate = !asked.certificate.is_empty();
    if has_certificate != (asked.kind() == AuthorityKind::X509) {
        return Err(Refused::invalid(
            "an X.509 authority has a certificate, and only one has",
        ));
    }
    if asked.hybrid && asked.kind() != AuthorityKind::X509 {
        return Err(Refused::invalid("only an X.509 authority is a hybrid pair"));
    }
    if asked.public_key_spki.is_empty()
        || asked.public_key_spki.len() > AUTHORITY_PART_MAX
        || asked.certificate.len() > AUTHORITY_PART_MAX
    {
        return Err(Refused::invalid(
            "the authority's key or certificate has no sane length",
        ));
    }
    Ok(())
}

/// What stands against revoking it.
fn why_not_revoked(authority: &Authority) -> Option<Refusal> {
    if !in_progress_or_bundle(authority) {
        Some(Refusal::AuthorityState)
    } else if !authority.tainted {
        // Tainting first makes agents replace what the authority signed.
        Some(Refusal::AuthorityNotTainted)
    } else if authority.state() == AuthorityState::Active && !mutation::is(Bug::ActiveRevoked) {
        // The bundle would be left with nothing by which to verify what comes next.
        Some(Refusal::AuthorityInUse)
    } else {
        None
    }
}

fn wrong_state(authority: &Authority, wish: &str) -> Refused {
    let tainted = if authority.tainted {
        " and tainted"
    } else {
        ""
    };
    Refused::conflict(format!(
        "authority {} is {}{tainted} and cannot be {wish}",
        authority.id,
        state_name(authority)
    ))
}

/// The field's word for a state.
pub(super) fn state_name(authority: &Authority) -> &'static str {
    match authority.state() {
        AuthorityState::Unspecified => "none",
        AuthorityState::Prepared => "prepared",
        AuthorityState::Published => "published",
        AuthorityState::Active => "active",
        AuthorityState::Old => "old",
        AuthorityState::Retired => "retired",
        AuthorityState::Revoked => "revoked",
    }
}

/// The field's word for a kind.
pub(super) fn kind_name(kind: AuthorityKind) -> &'static str {
    match kind {
        AuthorityKind::Unspecified => "unspecified",
        AuthorityKind::X509 => "x509",
        AuthorityKind::Jwt => "jwt",
        AuthorityKind::Wit => "wit",
    }
}

fn millis(duration: Duration) -> i128 {
    i128::try_from(duration.as_millis()).unwrap_or(i128::MAX / 4)
}
