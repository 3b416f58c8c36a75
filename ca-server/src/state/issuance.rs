//! Which SVIDs may be signed.
//!
//! Responsible for: accepting or denying each intent of a batch, and what an
//! accepted one changes (live serials, the agent's serial, the authority's
//! last use).
//! Always holds: the subject of an accepted intent is what replicated state
//! says it is; every intent that is not stale leaves exactly one leaf; intents
//! are decided one after the other, so two in one batch see each other.
//! Not here: building and signing what was accepted.

use std::collections::{BTreeMap, BTreeSet};

use mintmark_identity::clock::Timestamp;
use mintmark_identity::entry::EntryId;
use mintmark_identity::spiffe_id::SpiffeId;
use mintmark_identity::validity::{SVID_BACKDATE, leaf_limit};
use mintmark_proto::mintmark::audit::v1::{Issuance, Leaf};
use mintmark_proto::mintmark::raft::v1::actor::Kind as ActorKind;
use mintmark_proto::mintmark::raft::v1::intent::{
    AgentSubject, EntrySubject, Kind, ServerSubject, Subject,
};
use mintmark_proto::mintmark::raft::v1::{CommandResult, Intent, IssueBatch, ItemResult, Refusal};
use mintmark_proto::mintmark::state::v1::AuthorityKind;
use mintmark_runtime::mutation::{self, Bug};

use super::State;
use super::turn::{Decided, Refused, Turn, digest};

/// Intents of one command. Batches close at 256; an agent's request may bring 500.
pub const INTENTS_MAX: usize = 1_024;

/// How far the issuing server's clock may be from command time, in either direction.
pub const ISSUE_SKEW_MAX: std::time::Duration = std::time::Duration::from_secs(5);

/// Length of a serial number in bytes: 128 random bits.
pub const SERIAL_LENGTH: usize = 16;

/// Serial numbers of SVIDs that have not expired.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Serials {
    by_serial: BTreeMap<[u8; SERIAL_LENGTH], i64>,
    by_expiry: BTreeSet<(i64, [u8; SERIAL_LENGTH])>,
}

impl Serials {
    pub(super) fn contains(&self, serial: &[u8; SERIAL_LENGTH]) -> bool {
        self.by_serial.contains_key(serial)
    }

    pub(super) fn insert(&mut self, serial: [u8; SERIAL_LENGTH], not_after_ms: i64) {
        self.by_serial.insert(serial, not_after_ms);
        self.by_expiry.insert((not_after_ms, serial));
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8; SERIAL_LENGTH], i64)> {
        self.by_serial.iter().map(|(serial, at)| (serial, *at))
    }

    pub(super) fn len(&self) -> usize {
        self.by_serial.len()
    }

    /// Drops serials of SVIDs that ended before `now`.
    pub(super) fn prune(&mut self, now: Timestamp) {
        while let Some((at, serial)) = self.by_expiry.first().copied() {
            if at >= now.unix_millis() {
                break;
            }
            self.by_expiry.remove(&(at, serial));
            self.by_serial.remove(&serial);
        }
    }
}

/// What an accepted intent changes about its agent.
enum Handover {
    /// Not an agent's own SVID.
    None,
    /// First SVID after attestation, for the attested key.
    First(SpiffeId),
    /// A later one: it counts once the agent is seen with it. `promote` says
    /// that the agent was just seen with the one that was pending.
    Next { agent: SpiffeId, promote: bool },
}

/// What the subject of an intent decides.
struct Subjected {
    /// Longest lifetime, without the backdate.
    ttl_max: std::time::Duration,
    handover: Handover,
}

impl State {
    pub(super) fn issue_batch(
        &mut self,
        turn: &mut Turn<'_>,
        body: &IssueBatch,
    ) -> Decided<CommandResult> {
        if body.intents.is_empty() {
            return Err(Refused::invalid("the batch has no intents"));
        }
        if body.intents.len() > INTENTS_MAX {
            let detail = format!("more than {INTENTS_MAX} intents in one batch");
            return Err(Refused::new(Refusal::Limit, detail));
        }
        let items = body
            .intents
            .iter()
            .map(|intent| self.issue(turn, intent))
            .collect();
        Ok(CommandResult {
            items,
            ..CommandResult::default()
        })
    }

    fn issue(&mut self, turn: &mut Turn<'_>, intent: &Intent) -> ItemResult {
        let leaf = self.issue_leaf(intent);
        match self.decide_intent(turn, intent) {
            Ok(handover) => {
                self.take_effect(turn.now, intent, handover);
                let leaf_index = self.append_leaf(turn, leaf);
                ItemResult {
                    leaf_index,
                    ..ItemResult::default()
                }
            }
            Err(refused) => {
                let leaf_index = self.append_denial(turn, leaf, &refused);
                refused.into_item(leaf_index)
            }
        }
    }

    /// Changes nothing: every rule about one intent.
    fn decide_intent(&self, turn: &Turn<'_>, intent: &Intent) -> Decided<Handover> {
        check_digests(intent)?;
        let spiffe_id = SpiffeId::parse(&intent.spiffe_id)
            .map_err(|error| Refused::invalid(error.to_string()))?;
        let Some(subject) = &intent.subject else {
            return Err(Refused::invalid("the intent has no subject"));
        };
        check_actor(turn, intent, subject)?;
        let subjected = match subject {
            Subject::Entry(subject) => self.entry_subject(turn.now, intent, subject, &spiffe_id),
            Subject::Agent(subject) => self.agent_subject(intent, subject, &spiffe_id),
            Subject::Server(subject) => self.server_subject(intent, *subject, &spiffe_id),
            Subject::AdminMint(_) => self.mint_subject(&spiffe_id),
        }?;
        self.check_authority(turn.now, intent)?;
        check_clock(turn.now, intent, subjected.ttl_max)?;
        if let Some(serial) = serial(intent)
            && self.serials.contains(&serial)
            && !mutation::is(Bug::SerialReused)
        {
            let detail = "the serial number belongs to an SVID that has not expired";
            return Err(Refused::new(Refusal::SerialReused, detail));
        }
        Ok(subjected.handover)
    }

    fn entry_subject(
        &self,
        now: Timestamp,
        intent: &Intent,
        subject: &EntrySubject,
        spiffe_id: &SpiffeId,
    ) -> Decided<Subjected> {
        let agent = self.agent_id(&intent.requesting_agent)?;
        self.active_agent(&agent)?;
        let id = EntryId::parse(&*subject.id).map_err(|e| Refused::invalid(e.to_string()))?;
        let live = |at: Option<Timestamp>| at.is_none_or(|at| now < at);
        let Some(entry) = self.entries.get(&id).filter(|entry| live(entry.expires_at)) else {
            if mutation::is(Bug::DeletionIgnored) {
                return self.mint_subject(spiffe_id);
            }
            return Err(Refused::not_found(format!("there is no entry {id}")));
        };
        if entry.revision != subject.revision && !mutation::is(Bug::RevisionIgnored) {
            let detail = format!(
                "entry {id} is at revision {}, not {}",
                entry.revision, subject.revision
            );
            return Err(Refused::new(Refusal::Stale, detail));
        }
        if !self.is_authorized(&agent, entry) {
            let detail = format!("entry {id} is not under {agent}");
            return Err(Refused::new(Refusal::NotAuthorized, detail));
        }
        check_same_id(spiffe_id, &entry.spiffe_id)?;
        let policy = self.ttl_policy_or_refuse()?;
        let ttl_max = match intent.kind() {
            Kind::X509 => policy.x509_svid_for(entry.x509_svid_ttl),
            _ => policy.jwt_svid_for(entry.jwt_svid_ttl),
        };
        Ok(Subjected {
            ttl_max,
            handover: Handover::None,
        })
    }

    fn agent_subject(
        &self,
        intent: &Intent,
        subject: &AgentSubject,
        spiffe_id: &SpiffeId,
    ) -> Decided<Subjected> {
        x509_only(intent)?;
        let agent = self.agent_id(&subject.agent_id)?;
        let record = self.active_agent(&agent)?;
        check_same_id(spiffe_id, &agent)?;
        let presented = &subject.presented_serial;
        let refuse = |detail: &str| {
            Err(Refused::new(
                Refusal::AgentSerial,
                format!("{detail} of {agent}"),
            ))
        };
        let handover = if presented.is_empty() {
            // Right after an attestation or a resume, which cleared the serials
            // and recorded the keys that the new SVID may have.
            if !record.current_serial.is_empty() || !record.pending_serial.is_empty() {
                return refuse("an SVID has to be presented to renew that");
            }
            if intent.spki_sha256 == record.key_spki_sha256 {
                Handover::First(agent)
            } else if intent.spki_sha256 == record.pending_key_spki_sha256 {
                Handover::Next {
                    agent,
                    promote: false,
                }
            } else {
                return refuse("the key is not an attested one");
            }
        } else if *presented == record.pending_serial {
            Handover::Next {
                agent,
                promote: true,
            }
        } else if *presented == record.current_serial {
            Handover::Next {
                agent,
                promote: false,
            }
        } else {
            return refuse("the SVID presented is not the current one");
        };
        Ok(Subjected {
            ttl_max: self.ttl_policy_or_refuse()?.agent_svid,
            handover,
        })
    }

    fn server_subject(
        &self,
        intent: &Intent,
        subject: ServerSubject,
        spiffe_id: &SpiffeId,
    ) -> Decided<Subjected> {
        x509_only(intent)?;
        if self.server(subject.node_id).is_none() {
            return Err(Refused::not_found(format!(
                "there is no server {}",
                subject.node_id
            )));
        }
        check_same_id(
            spiffe_id,
            &SpiffeId::server_id(self.trust_domain_or_refuse()?),
        )?;
        let policy = self.ttl_policy_or_refuse()?;
        let ttl_max = policy.x509_svid.max(policy.agent_svid);
        Ok(Subjected {
            ttl_max,
            handover: Handover::None,
        })
    }

    fn mint_subject(&self, spiffe_id: &SpiffeId) -> Decided<Subjected> {
        let is_workload = spiffe_id.has_path() && !spiffe_id.is_reserved();
        if !is_workload || !spiffe_id.is_member_of(self.trust_domain_or_refuse()?) {
            return Err(Refused::invalid(format!(
                "{spiffe_id} is not a workload's ID here"
            )));
        }
        let ttl_max = leaf_limit(self.ttl_policy_or_refuse()?.ca);
        Ok(Subjected {
            ttl_max,
            handover: Handover::None,
        })
    }

    /// The authority has to be the active one of its kind, untainted, and
    /// outlast the SVID.
    fn check_authority(&self, now: Timestamp, intent: &Intent) -> Decided<()> {
        let refuse = |detail: &str| Err(Refused::new(Refusal::Authority, detail));
        let Some(authority) = self.authorities.get(&intent.authority_id) else {
            return refuse("there is no such authority");
        };
        if Some(authority.kind()) != authority_kind(intent.kind()) {
            return refuse("the authority is of another kind");
        }
        if !self.authorities.may_sign(authority, now) {
            return refuse("the authority is not active, or tainted, or expired");
        }
        if intent.not_before_ms < authority.not_before_ms
            || intent.not_after_ms > authority.not_after_ms
        {
            return refuse("the SVID would outlast its authority or begin before it");
        }
        Ok(())
    }

    fn take_effect(&mut self, now: Timestamp, intent: &Intent, handover: Handover) {
        if let Some(serial) = serial(intent) {
            self.serials.insert(serial, intent.not_after_ms);
        }
        self.authorities
            .note_use(&intent.authority_id, intent.not_after_ms);
        let (agent, first, promote) = match handover {
            Handover::None => return,
            Handover::First(agent) => (agent, true, false),
            Handover::Next { agent, promote } => (agent, false, promote),
        };
        let Some(record) = self.nodes.get_mut(&agent) else {
            return;
        };
        if promote {
            super::agents::promote(record);
        }
        if first {
            record.current_serial.clone_from(&intent.serial);
            record.pending_key_spki_sha256.clear();
        } else {
            record.pending_serial.clone_from(&intent.serial);
            record
                .pending_key_spki_sha256
                .clone_from(&intent.spki_sha256);
        }
        record.svid_not_after_ms = record.svid_not_after_ms.max(intent.not_after_ms);
        record.last_issued_at_ms = now.unix_millis();
    }

    fn issue_leaf(&self, intent: &Intent) -> Leaf {
        let kind = match intent.kind() {
            Kind::X509 => "x509",
            Kind::Jwt => "jwt",
            Kind::Wit => "wit",
            Kind::Unspecified => "unspecified",
        };
        let mut issuance = Issuance {
            kind: kind.to_owned(),
            serial: intent.serial.clone(),
            svid_hash: intent.svid_hash.clone(),
            authority_id: intent.authority_id.clone(),
            not_before_ms: intent.not_before_ms,
            not_after_ms: intent.not_after_ms,
            spki_sha256: intent.spki_sha256.clone(),
            agent: intent.requesting_agent.clone(),
            profile_version: intent.profile_version,
            audience_sha256: intent.audience_sha256.clone(),
            ..Issuance::default()
        };
        let basis = match &intent.subject {
            Some(Subject::Entry(subject)) => {
                issuance.entry_id.clone_from(&subject.id);
                issuance.entry_revision = subject.revision;
                "entry"
            }
            Some(Subject::Agent(subject)) => {
                issuance.agent.clone_from(&subject.agent_id);
                "agent"
            }
            Some(Subject::Server(_)) => "server",
            Some(Subject::AdminMint(_)) => "admin-mint",
            None => "none",
        };
        issuance.basis = basis.to_owned();
        Leaf {
            action: format!("{kind}.issue"),
            subject: intent.spiffe_id.clone(),
            issuance: Some(issuance),
            ..Leaf::default()
        }
    }
}

/// Who may ask for what. A server batches what its callers asked for; alone, an
/// agent asks for itself, nobody for the agent that just attested, and only an
/// operator mints.
fn check_actor(turn: &Turn<'_>, intent: &Intent, subject: &Subject) -> Decided<()> {
    let actor = turn.actor;
    let allowed = match (actor.kind(), subject) {
        (ActorKind::Local | ActorKind::Admin, Subject::AdminMint(_)) => true,
        (_, Subject::AdminMint(_)) | (ActorKind::Admin, _) => false,
        (ActorKind::Local, _) => true,
        (ActorKind::Server, Subject::Server(subject)) => subject.node_id == actor.node_id,
        (ActorKind::Server, _) => true,
        (ActorKind::Agent, Subject::Entry(_)) => intent.requesting_agent == actor.spiffe_id,
        (ActorKind::Agent, Subject::Agent(subject)) => subject.agent_id == actor.spiffe_id,
        (ActorKind::Nobody, Subject::Agent(subject)) => subject.presented_serial.is_empty(),
        _ => false,
    };
    if allowed {
        return Ok(());
    }
    Err(Refused::new(
        Refusal::NotAuthorized,
        "the caller may not ask for this SVID",
    ))
}

fn check_digests(intent: &Intent) -> Decided<()> {
    digest("svid_hash", &intent.svid_hash)?;
    match intent.kind() {
        Kind::X509 => {
            digest("spki_sha256", &intent.spki_sha256)?;
            match serial(intent) {
                Some(serial) if serial != [0; SERIAL_LENGTH] => Ok(()),
                _ => Err(Refused::invalid(
                    "the serial number must be 16 bytes and not zero",
                )),
            }
        }
        Kind::Jwt | Kind::Wit if !intent.serial.is_empty() => {
            Err(Refused::invalid("only an X.509-SVID has a serial number"))
        }
        Kind::Jwt => digest("audience_sha256", &intent.audience_sha256).map(drop),
        Kind::Wit => digest("spki_sha256", &intent.spki_sha256).map(drop),
        Kind::Unspecified => Err(Refused::invalid("the intent has no kind")),
    }
}

/// The serial number, if it has the right length.
fn serial(intent: &Intent) -> Option<[u8; SERIAL_LENGTH]> {
    <[u8; SERIAL_LENGTH]>::try_from(&*intent.serial).ok()
}

fn x509_only(intent: &Intent) -> Decided<()> {
    match intent.kind() {
        Kind::X509 => Ok(()),
        _ => Err(Refused::invalid("agents and servers have X.509-SVIDs only")),
    }
}

fn check_same_id(asked: &SpiffeId, real: &SpiffeId) -> Decided<()> {
    if asked == real {
        return Ok(());
    }
    Err(Refused::invalid(format!(
        "the subject is {real}, not {asked}"
    )))
}

fn authority_kind(kind: Kind) -> Option<AuthorityKind> {
    match kind {
        Kind::X509 => Some(AuthorityKind::X509),
        Kind::Jwt => Some(AuthorityKind::Jwt),
        Kind::Wit => Some(AuthorityKind::Wit),
        Kind::Unspecified => None,
    }
}

/// The issuing server sets the validity by its own clock: the time of issue has
/// to be near command time, and the lifetime counted from it within policy.
/// Tokens carry no notBefore, so theirs may be backdated or not.
fn check_clock(now: Timestamp, intent: &Intent, ttl_max: std::time::Duration) -> Decided<()> {
    let millis = |duration: std::time::Duration| i128::try_from(duration.as_millis());
    let wide = |duration| millis(duration).unwrap_or(i128::MAX / 4);
    let backdate = wide(SVID_BACKDATE);
    let (now, skew) = (i128::from(now.unix_millis()), wide(ISSUE_SKEW_MAX));
    let (not_before, not_after) = (
        i128::from(intent.not_before_ms),
        i128::from(intent.not_after_ms),
    );
    let latest_begin = match intent.kind() {
        Kind::X509 => now - backdate + skew,
        _ => now + skew,
    };
    if not_before < now - backdate - skew || not_before > latest_begin {
        let detail = "the issuing server's clock is more than 5 s from the cluster's";
        return Err(Refused::new(Refusal::Clock, detail));
    }
    if not_after <= now || not_after <= not_before {
        return Err(Refused::invalid("the SVID would have expired already"));
    }
    if not_after - not_before > wide(ttl_max) + backdate {
        let detail = format!("the SVID would live longer than {} s", ttl_max.as_secs());
        return Err(Refused::invalid(detail));
    }
    Ok(())
}
