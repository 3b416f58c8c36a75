//! From a command to the decision about it.
//!
//! Responsible for: what a command is called in the log, who may send it, and
//! handing it to the module that decides.
//! Always holds: an actor that may not send a command changes nothing by it; an
//! operator counts as one only while an admin entry says so.
//! Not here: the decisions, and permissions finer than the kind of actor.

use mintmark_identity::clock::Timestamp;
use mintmark_identity::spiffe_id::SpiffeId;
use mintmark_proto::mintmark::audit::v1::{AuthorityChange, Leaf};
use mintmark_proto::mintmark::raft::v1::actor::Kind;
use mintmark_proto::mintmark::raft::v1::command::Body;
use mintmark_proto::mintmark::raft::v1::{
    Actor, Command, CommandResult, PruneExpired, RecordDenial, Refusal,
};

use super::State;
use super::agents::attest_leaf;
use super::audit::{ACCEPTED, DENIED};
use super::settings::plain_leaf;
use super::tokens::token_subject;
use super::turn::{Decided, Refused, Turn};

/// Version of the commands that this build makes and understands.
pub const COMMAND_VERSION: u32 = 1;

/// Entries that one pruning removes: each leaves a leaf, and the next pruning
/// takes the rest.
const PRUNED_ENTRIES_MAX: usize = 1_000;

/// Whether this build knows what the command means. A server that meets one
/// that it does not understand must stop: others may apply it.
#[must_use]
pub fn understands(command: &Command) -> bool {
    command.version == COMMAND_VERSION && command.body.is_some()
}

impl State {
    /// Hands the command to the module that decides about it.
    pub(super) fn dispatch(&mut self, turn: &mut Turn<'_>, body: &Body) -> Decided<CommandResult> {
        match body {
            Body::InitializeCluster(body) => self.initialize_cluster(turn, body),
            Body::CreateEntries(body) => self.create_entries(turn, body),
            Body::UpdateEntries(body) => self.update_entries(turn, body),
            Body::DeleteEntries(body) => self.delete_entries(turn, body),
            Body::CreateJoinToken(body) => self.create_join_token(turn, body),
            Body::AttestNode(body) => self.attest_node(turn, body),
            Body::RecordResume(body) => self.record_resume(turn, body),
            Body::BanAgent(body) => self.ban_agent(turn, body),
            Body::EvictAgent(body) => self.evict_agent(turn, body),
            Body::IssueBatch(body) => self.issue_batch(turn, body),
            Body::PrepareAuthority(body) => self.prepare_authority(turn, body),
            Body::ProveAuthority(body) => self.prove_authority(turn, body),
            Body::PublishAuthority(body) => self.publish_authority(turn, body),
            Body::ActivateAuthority(body) => self.activate_authority(turn, body),
            Body::RetireAuthority(body) => self.retire_authority(turn, body),
            Body::TaintAuthority(body) => self.taint_authority(turn, body),
            Body::RevokeAuthority(body) => self.revoke_authority(turn, body),
            Body::AcknowledgeBundle(body) => self.acknowledge_bundle(body),
            Body::AdmitServer(body) => self.admit_server(turn, body),
            Body::RemoveServer(body) => self.remove_server(turn, body),
            Body::WrapDataKey(body) => self.wrap_data_key(turn, body),
            Body::PutVaultRecord(body) => self.put_vault_record(turn, body),
            Body::SignCheckpoint(body) => self.sign_checkpoint(turn, body),
            Body::ChangeSettings(body) => self.change_settings(turn, body),
            Body::RecordDenial(body) => self.record_denial(turn, body),
            Body::PruneExpired(PruneExpired {}) => self.prune_expired(turn),
        }
    }

    /// Whether an actor of this kind may send a command of this kind.
    pub(super) fn check_actor(&self, now: Timestamp, actor: &Actor, body: &Body) -> Decided<()> {
        let allowed = match actor.kind() {
            Kind::Local => true,
            Kind::Server => {
                let first = matches!(body, Body::InitializeCluster(_));
                first || self.server(actor.node_id).is_some()
            }
            Kind::Admin => is_for_operators(body) && self.is_admin(now, &actor.spiffe_id),
            Kind::Agent => is_of_agent(body, &actor.spiffe_id),
            Kind::Nobody => matches!(
                body,
                Body::AttestNode(_)
                    | Body::RecordResume(_)
                    | Body::IssueBatch(_)
                    | Body::AdmitServer(_)
                    | Body::RecordDenial(_)
            ),
            Kind::Unspecified => false,
        };
        if allowed {
            return Ok(());
        }
        Err(Refused::new(
            Refusal::NotAuthorized,
            "the caller may not do this",
        ))
    }

    /// Whether an entry that has not expired makes this identity an operator's.
    fn is_admin(&self, now: Timestamp, id: &str) -> bool {
        let Ok(id) = SpiffeId::parse(id) else {
            return false;
        };
        self.entries
            .of_spiffe_id(&id)
            .any(|entry| entry.admin && entry.expires_at.is_none_or(|at| now < at))
    }

    fn record_denial(
        &mut self,
        turn: &mut Turn<'_>,
        body: &RecordDenial,
    ) -> Decided<CommandResult> {
        let leaf = Leaf {
            action: body.action.clone(),
            subject: body.subject.clone(),
            decision: DENIED.to_owned(),
            reason: body.reason.clone(),
            ..Leaf::default()
        };
        self.append_leaf(turn, leaf);
        Ok(CommandResult::default())
    }

    fn prune_expired(&mut self, turn: &mut Turn<'_>) -> Decided<CommandResult> {
        self.tokens.prune(turn.now);
        self.idempotency.prune(turn.now);
        self.serials.prune(turn.now);
        self.authorities.prune(turn.now);
        for id in self.entries.expired(turn.now, PRUNED_ENTRIES_MAX) {
            self.delete_entry(turn, id.as_str(), "expired");
        }
        Ok(CommandResult::default())
    }
}

/// Commands that operators send; the others are jobs' and agents'.
fn is_for_operators(body: &Body) -> bool {
    matches!(
        body,
        Body::CreateEntries(_)
            | Body::UpdateEntries(_)
            | Body::DeleteEntries(_)
            | Body::CreateJoinToken(_)
            | Body::BanAgent(_)
            | Body::EvictAgent(_)
            | Body::IssueBatch(_)
            | Body::PrepareAuthority(_)
            | Body::PublishAuthority(_)
            | Body::ActivateAuthority(_)
            | Body::RetireAuthority(_)
            | Body::TaintAuthority(_)
            | Body::RevokeAuthority(_)
            | Body::AdmitServer(_)
            | Body::RemoveServer(_)
            | Body::ChangeSettings(_)
            | Body::RecordDenial(_)
    )
}

/// Commands that an agent sends about itself.
fn is_of_agent(body: &Body, agent: &str) -> bool {
    match body {
        Body::AttestNode(body) => body.agent_id == agent,
        Body::RecordResume(body) => body.agent_id == agent,
        Body::AcknowledgeBundle(body) => body
            .acknowledgements
            .iter()
            .all(|item| item.agent_id == agent),
        // Each intent is checked by itself.
        Body::IssueBatch(_) | Body::RecordDenial(_) => true,
        _ => false,
    }
}

/// The leaf of a command that was refused as a whole.
pub(super) fn refused_leaf(turn: &Turn<'_>, body: &Body) -> Leaf {
    let plain = |action: &str, subject: &str| plain_leaf(turn, action, subject.to_owned());
    let server = |action: &str, id: u64| plain(action, &format!("server/{id}"));
    let authority = |action: &str, id: &str| Leaf {
        authority: Some(AuthorityChange {
            authority_id: id.to_owned(),
            ..Default::default()
        }),
        ..plain(action, id)
    };
    match body {
        Body::InitializeCluster(body) => plain("cluster.initialize", &body.trust_domain),
        Body::CreateEntries(_) => plain("entry.create", ""),
        Body::UpdateEntries(_) => plain("entry.update", ""),
        Body::DeleteEntries(_) => plain("entry.delete", ""),
        Body::CreateJoinToken(body) => {
            let hash = body
                .token
                .as_ref()
                .map(|token| token_subject(&token.token_sha256));
            plain("token.create", &hash.unwrap_or_default())
        }
        Body::AttestNode(body) => attest_leaf(turn, body),
        Body::RecordResume(body) => plain("agent.resume", &body.agent_id),
        Body::BanAgent(body) => plain("agent.ban", &body.agent_id),
        Body::EvictAgent(body) => plain("agent.evict", &body.agent_id),
        Body::IssueBatch(_) => plain("svid.issue", ""),
        Body::PrepareAuthority(body) => {
            let id = body
                .authority
                .as_ref()
                .map_or("", |authority| &authority.id);
            authority("authority.prepare", id)
        }
        Body::ProveAuthority(body) => authority("authority.prove", &body.authority_id),
        Body::PublishAuthority(body) => authority("authority.publish", &body.authority_id),
        Body::ActivateAuthority(body) => authority("authority.activate", &body.authority_id),
        Body::RetireAuthority(body) => authority("authority.retire", &body.authority_id),
        Body::TaintAuthority(body) => authority("authority.taint", &body.authority_id),
        Body::RevokeAuthority(body) => authority("authority.revoke", &body.authority_id),
        Body::AcknowledgeBundle(_) => plain("bundle.acknowledge", ""),
        Body::AdmitServer(body) => {
            let id = body.server.as_ref().map_or(0, |server| server.node_id);
            server("server.admit", id)
        }
        Body::RemoveServer(body) => server("server.remove", body.node_id),
        Body::WrapDataKey(body) => {
            server("vault.wrap", body.key.as_ref().map_or(0, |key| key.node_id))
        }
        Body::PutVaultRecord(body) => plain(
            "vault.put",
            body.record.as_ref().map_or("", |record| &record.name),
        ),
        Body::SignCheckpoint(body) => {
            let size = body
                .checkpoint
                .as_ref()
                .map_or(0, |checkpoint| checkpoint.size);
            plain("checkpoint.sign", &format!("size/{size}"))
        }
        Body::ChangeSettings(_) => plain("settings.change", "settings"),
        Body::RecordDenial(body) => plain(&body.action, &body.subject),
        Body::PruneExpired(_) => plain("state.prune", ""),
    }
}

/// Whether a decision text in a leaf says that it was accepted.
#[must_use]
pub fn is_accepted(leaf: &Leaf) -> bool {
    leaf.decision == ACCEPTED
}
