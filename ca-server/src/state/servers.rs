//! Servers of the cluster.
//!
//! Responsible for: admission, change and removal of servers, and their ids.
//! Always holds: an id is assigned here and never used twice; a server that
//! joins by token consumes it; the last server cannot be removed.
//! Not here: Raft membership, which the consensus layer keeps.

use std::collections::BTreeMap;

use mintmark_identity::clock::Timestamp;
use mintmark_proto::mintmark::audit::v1::Leaf;
use mintmark_proto::mintmark::raft::v1::actor::Kind as ActorKind;
use mintmark_proto::mintmark::raft::v1::{AdmitServer, CommandResult, Refusal, RemoveServer};
use mintmark_proto::mintmark::state::v1::Server;

use super::State;
use super::event::Event;
use super::turn::{Decided, Refused, Turn, digest};

/// Servers of one cluster: a handful of voters, and learners that also sign.
pub const SERVERS_MAX: usize = 256;

/// Longest name or address.
const TEXT_MAX: usize = 256;

/// Longest peer certificate or vault public key.
const PART_MAX: usize = 32 * 1024;

/// Length of a store's incarnation.
const INCARNATION_LENGTH: usize = 16;

/// All servers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Servers {
    pub(super) by_id: BTreeMap<u64, Server>,
    /// The next id that is assigned.
    pub(super) next_id: u64,
}

impl Servers {
    /// Assigns an id that was never used. From the second epoch on it carries
    /// the epoch in its upper half, because a restored cluster may have
    /// forgotten ids that were assigned after its back-up.
    fn assign(&mut self, epoch: u64) -> u64 {
        let epoch_floor = (epoch.saturating_sub(1) << 32).saturating_add(1);
        let id = self.next_id.max(epoch_floor);
        self.next_id = id.saturating_add(1);
        id
    }

    /// Takes note of an id that was chosen elsewhere.
    pub(super) fn reserve(&mut self, id: u64) {
        self.next_id = self.next_id.max(id.saturating_add(1));
    }
}

impl State {
    pub(super) fn admit_server(
        &mut self,
        turn: &mut Turn<'_>,
        body: &AdmitServer,
    ) -> Decided<CommandResult> {
        let mut server = body.server.clone().unwrap_or_default();
        check_server(&server)?;
        let token = self.check_admission(turn, body, &server)?;
        let known = self.known_server(&server)?;
        if known.is_none() && self.servers.by_id.len() >= SERVERS_MAX {
            let detail = format!("the cluster has {SERVERS_MAX} servers already");
            return Err(Refused::new(Refusal::Limit, detail));
        }
        if let Some(key) = &body.wrapped_data_key {
            super::vault::check_wrapped(key)?;
        }
        let (id, admitted_at_ms, action) = match known {
            Some(known) => {
                // A server that repeats its admission does not know its certificate yet.
                if server.peer_certificate.is_empty() {
                    server.peer_certificate.clone_from(&known.peer_certificate);
                }
                (known.node_id, known.admitted_at_ms, "server.change")
            }
            None => {
                let epoch = self.epoch();
                (
                    self.servers.assign(epoch),
                    turn.now.unix_millis(),
                    "server.admit",
                )
            }
        };
        server.node_id = id;
        server.admitted_at_ms = admitted_at_ms;
        if let Some(token) = token {
            let key = digest("peer_spki_sha256", &server.peer_spki_sha256)?;
            self.tokens.consume(&token, &key, &format!("server/{id}"));
        }
        self.servers.by_id.insert(id, server);
        if let Some(key) = &body.wrapped_data_key {
            let mut key = key.clone();
            key.node_id = id;
            self.vault.put_wrapped(key);
            turn.emit(Event::VaultChanged);
        }
        self.append_leaf(turn, server_leaf(turn, action, id));
        turn.emit(Event::ServersChanged);
        Ok(CommandResult {
            node_id: id,
            ..CommandResult::default()
        })
    }

    /// A server that nobody vouches for needs a token that admits servers.
    fn check_admission(
        &self,
        turn: &Turn<'_>,
        body: &AdmitServer,
        server: &Server,
    ) -> Decided<Option<[u8; 32]>> {
        if body.join_token_sha256.is_empty() {
            return match turn.actor.kind() {
                ActorKind::Nobody => Err(Refused::new(
                    Refusal::TokenUnknown,
                    "a server joins with a token",
                )),
                _ => Ok(None),
            };
        }
        let hash = digest("join_token_sha256", &body.join_token_sha256)?;
        let key = digest("peer_spki_sha256", &server.peer_spki_sha256)?;
        let token = self.usable_token(&hash, &key, turn.now)?;
        if !self.admits_servers(token) {
            return Err(Refused::new(
                Refusal::TokenUnknown,
                "the token admits an agent",
            ));
        }
        Ok(Some(hash))
    }

    /// The server as it is known already. A repeated admission finds itself by
    /// its key and incarnation; nobody takes another's place.
    fn known_server(&self, asked: &Server) -> Decided<Option<&Server>> {
        let same = |known: &Server| {
            known.peer_spki_sha256 == asked.peer_spki_sha256
                && known.incarnation == asked.incarnation
        };
        if asked.node_id != 0 {
            return match self.server(asked.node_id) {
                Some(known) if same(known) => Ok(Some(known)),
                Some(_) => Err(Refused::conflict("the server has another key or store")),
                None => Err(Refused::not_found(format!(
                    "there is no server {}",
                    asked.node_id
                ))),
            };
        }
        let mut servers = self.servers();
        match servers.find(|known| {
            known.peer_spki_sha256 == asked.peer_spki_sha256
                || known.incarnation == asked.incarnation
        }) {
            Some(known) if same(known) => Ok(Some(known)),
            Some(known) => {
                let detail = format!("server {} has this key or store", known.node_id);
                Err(Refused::new(Refusal::AlreadyExists, detail))
            }
            None => Ok(None),
        }
    }

    pub(super) fn remove_server(
        &mut self,
        turn: &mut Turn<'_>,
        body: &RemoveServer,
    ) -> Decided<CommandResult> {
        if self.server(body.node_id).is_none() {
            return Err(Refused::not_found(format!(
                "there is no server {}",
                body.node_id
            )));
        }
        if self.servers.by_id.len() == 1 {
            return Err(Refused::conflict("the last server cannot be removed"));
        }
        self.servers.by_id.remove(&body.node_id);
        if self.vault.remove_wrapped(body.node_id) {
            turn.emit(Event::VaultChanged);
        }
        self.append_leaf(turn, server_leaf(turn, "server.remove", body.node_id));
        turn.emit(Event::ServersChanged);
        Ok(CommandResult::default())
    }

    /// The server with this id.
    #[must_use]
    pub fn server(&self, node_id: u64) -> Option<&Server> {
        self.servers.by_id.get(&node_id)
    }

    /// The lowest id that was never assigned: whoever has a lower one and is not listed was removed.
    #[must_use]
    pub fn next_server_id(&self) -> u64 {
        self.servers.next_id
    }

    /// All servers, in order of their ids.
    pub fn servers(&self) -> impl Iterator<Item = &Server> {
        self.servers.by_id.values()
    }
}

/// Form of a server record, of the first one too.
pub(super) fn check_server(server: &Server) -> Decided<()> {
    digest("peer_spki_sha256", &server.peer_spki_sha256)?;
    if server.incarnation.len() != INCARNATION_LENGTH {
        return Err(Refused::invalid("incarnation must have 16 bytes"));
    }
    let texts = [&server.name, &server.peer_address, &server.api_address];
    if texts
        .iter()
        .any(|text| text.len() > TEXT_MAX || text.contains(char::is_control))
    {
        return Err(Refused::invalid(
            "a name or address of the server is too long or not text",
        ));
    }
    if server.peer_certificate.len() > PART_MAX || server.vault_public_key.len() > PART_MAX {
        return Err(Refused::invalid(
            "a certificate or key of the server is too long",
        ));
    }
    Ok(())
}

/// The first server, as the cluster's first command brings it.
pub(super) fn first_server(server: Option<&Server>, now: Timestamp) -> Decided<Server> {
    let mut server = server.cloned().unwrap_or_default();
    check_server(&server)?;
    if server.node_id == 0 {
        return Err(Refused::invalid("the first server has no node id"));
    }
    server.admitted_at_ms = now.unix_millis();
    Ok(server)
}

fn server_leaf(turn: &Turn<'_>, action: &str, id: u64) -> Leaf {
    Leaf {
        action: action.to_owned(),
        subject: format!("server/{id}"),
        request_sha256: turn.request_sha256.to_vec(),
        ..Leaf::default()
    }
}
