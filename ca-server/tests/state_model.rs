//! Random histories: replicas agree, snapshots are invisible, and what must
//! never happen does not happen.
//!
//! A history is a list of small actions over a few agents, entries, tokens and
//! authorities. An observer outside of the state follows commands and results
//! and keeps its own books.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::too_many_lines,
    reason = "tests"
)]

mod state_support;

use std::collections::{BTreeMap, BTreeSet};

use ca_server::state::{Applied, Event, State, missing_acknowledgements};
use mintmark_proto::mintmark::audit::v1::Leaf;
use mintmark_proto::mintmark::raft::v1::activate_authority::Ground;
use mintmark_proto::mintmark::raft::v1::command::Body;
use mintmark_proto::mintmark::raft::v1::intent::Subject;
use mintmark_proto::mintmark::raft::v1::{
    AdmitServer, AttestNode, BanAgent, ChangeSettings, Command, CreateEntries, CreateJoinToken,
    DeleteEntries, EvictAgent, Intent, PrepareAuthority, PruneExpired, RecordResume, Refusal,
    RemoveServer, RetireAuthority, RevokeAuthority, SignCheckpoint, TaintAuthority, UpdateEntries,
    update_entries::Update,
};
use mintmark_proto::mintmark::state::v1::{
    AuthorityKind, AuthorityState, Checkpoint, Entry, JoinToken, Snapshot,
};
use mintmark_tlog::{Frontier, leaf_hash};
use proptest::prelude::*;
use prost::Message as _;
use state_support::*;

/// One step of a history. Numbers pick from small sets.
#[derive(Debug, Clone)]
enum Action {
    Sleep(u8),
    Create {
        entry: u8,
        parent: u8,
        path: u8,
        expires: bool,
    },
    Update {
        entry: u8,
        path: u8,
        stale: bool,
    },
    Delete {
        entry: u8,
    },
    Token {
        token: u8,
        alias: bool,
    },
    AttestByToken {
        token: u8,
        key: u8,
    },
    Attest {
        agent: u8,
        key: u8,
        rack: u8,
    },
    Resume {
        agent: u8,
        key: u8,
        new_key: u8,
    },
    Ban {
        agent: u8,
    },
    Evict {
        agent: u8,
    },
    Issue(Vec<(u8, u8, u8)>),
    Renew {
        agent: u8,
        presented: u8,
        key: u8,
    },
    Prepare {
        kind: u8,
    },
    Publish {
        authority: u8,
    },
    Prove {
        authority: u8,
        node: u8,
    },
    Activate {
        authority: u8,
        ground: u8,
    },
    Retire {
        authority: u8,
    },
    Taint {
        authority: u8,
    },
    Revoke {
        authority: u8,
    },
    Acknowledge {
        agent: u8,
        behind: u8,
        streams: bool,
    },
    Admit {
        name: u8,
    },
    Remove {
        node: u8,
    },
    Settings {
        short: bool,
    },
    Checkpoint {
        honest: bool,
    },
    Prune,
    /// The last command again, as it was, under its idempotency key.
    Repeat,
}

fn action() -> impl Strategy<Value = Action> {
    let n = || 0u8..4;
    prop_oneof![
        4 => (0u8..60).prop_map(Action::Sleep),
        3 => (n(), 0u8..6, n(), any::<bool>())
            .prop_map(|(entry, parent, path, expires)| Action::Create { entry, parent, path, expires }),
        2 => (n(), n(), any::<bool>())
            .prop_map(|(entry, path, stale)| Action::Update { entry, path, stale }),
        1 => n().prop_map(|entry| Action::Delete { entry }),
        1 => (0u8..3, any::<bool>()).prop_map(|(token, alias)| Action::Token { token, alias }),
        2 => (0u8..3, 0u8..2).prop_map(|(token, key)| Action::AttestByToken { token, key }),
        2 => (n(), 0u8..3, 0u8..2)
            .prop_map(|(agent, key, rack)| Action::Attest { agent, key, rack }),
        1 => (n(), 0u8..3, 0u8..3)
            .prop_map(|(agent, key, new_key)| Action::Resume { agent, key, new_key }),
        1 => n().prop_map(|agent| Action::Ban { agent }),
        1 => n().prop_map(|agent| Action::Evict { agent }),
        6 => prop::collection::vec((n(), n(), 0u8..16), 1..5).prop_map(Action::Issue),
        3 => (n(), 0u8..4, 0u8..3)
            .prop_map(|(agent, presented, key)| Action::Renew { agent, presented, key }),
        2 => (1u8..4).prop_map(|kind| Action::Prepare { kind }),
        2 => (0u8..8).prop_map(|authority| Action::Publish { authority }),
        2 => (0u8..8, 1u8..4).prop_map(|(authority, node)| Action::Prove { authority, node }),
        3 => (0u8..8, 0u8..5)
            .prop_map(|(authority, ground)| Action::Activate { authority, ground }),
        2 => (0u8..8).prop_map(|authority| Action::Retire { authority }),
        2 => (0u8..8).prop_map(|authority| Action::Taint { authority }),
        2 => (0u8..8).prop_map(|authority| Action::Revoke { authority }),
        3 => (n(), 0u8..3, any::<bool>())
            .prop_map(|(agent, behind, streams)| Action::Acknowledge { agent, behind, streams }),
        1 => n().prop_map(|name| Action::Admit { name }),
        1 => (1u8..5).prop_map(|node| Action::Remove { node }),
        1 => any::<bool>().prop_map(|short| Action::Settings { short }),
        1 => any::<bool>().prop_map(|honest| Action::Checkpoint { honest }),
        1 => Just(Action::Prune),
        1 => Just(Action::Repeat),
    ]
}

fn agent(n: u8) -> String {
    if n < 3 {
        format!("/spire/agent/test/{n}")
    } else {
        token_agent("t0")
    }
}

/// Turns actions into commands, by looking at the state as a server would.
struct World {
    cluster: Cluster,
    prepared: usize,
    last: Option<Command>,
}

impl World {
    fn new() -> Self {
        let mut cluster = Cluster::new();
        cluster.start_authority("x0", AuthorityKind::X509, 0);
        cluster.start_authority("j0", AuthorityKind::Jwt, 1);
        Self {
            cluster,
            prepared: 2,
            last: None,
        }
    }

    fn command(&mut self, action: &Action, serial: u64) -> Option<Command> {
        if let Action::Repeat = action {
            return self.last.clone();
        }
        let body = self.body(action)?;
        let actor = match &body {
            Body::AttestNode(_) | Body::RecordResume(_) => nobody(),
            Body::CreateEntries(_) | Body::DeleteEntries(_) => local(),
            Body::ActivateAuthority(body) if body.ground() == Ground::Operator => local(),
            _ => by_server(1),
        };
        let mut command = self.cluster.command(actor, body);
        command.idempotency_key = [[3; 8], serial.to_be_bytes()].concat();
        self.last = Some(command.clone());
        Some(command)
    }

    fn body(&mut self, action: &Action) -> Option<Body> {
        if let Action::Sleep(minutes) = action {
            self.cluster.sleep(i64::from(*minutes) * MINUTE + 1);
            return None;
        }
        self.entry_body(action)
            .or_else(|| self.agent_body(action))
            .or_else(|| self.issue_body(action))
            .or_else(|| self.authority_body(action))
            .or_else(|| self.cluster_body(action))
    }

    fn entry_body(&self, action: &Action) -> Option<Body> {
        let expires_at_seconds = self.cluster.now / 1000 + 1800;
        Some(match *action {
            Action::Create {
                entry: n,
                parent,
                path,
                expires,
            } => {
                let parent = match parent {
                    0..=3 => agent(parent),
                    4 => "/spire/server".to_owned(),
                    _ => "/w0".to_owned(),
                };
                let with = if parent == "/spire/server" {
                    "rack:1"
                } else {
                    "a:1"
                };
                let mut made = entry(&format!("e{n}"), &parent, &format!("/w{path}"), &[with]);
                if expires {
                    made.expires_at_seconds = expires_at_seconds;
                }
                Body::CreateEntries(CreateEntries {
                    entries: vec![made],
                })
            }
            Action::Update {
                entry: n,
                path,
                stale,
            } => {
                let known = self.cluster.state.entry(&format!("e{n}").parse().unwrap());
                let mut wire = known.map_or_else(Entry::default, Entry::from);
                let expected_revision = wire.revision + u64::from(stale);
                wire.spiffe_id = id(&format!("/w{path}"));
                let updates = vec![Update {
                    entry: Some(wire),
                    expected_revision,
                }];
                Body::UpdateEntries(UpdateEntries { updates })
            }
            Action::Delete { entry: n } => Body::DeleteEntries(DeleteEntries {
                ids: vec![format!("e{n}")],
            }),
            _ => return None,
        })
    }

    fn agent_body(&self, action: &Action) -> Option<Body> {
        Some(match *action {
            Action::Token { token, alias } => {
                let token = JoinToken {
                    token_sha256: sha(&format!("t{token}")),
                    expires_at_ms: self.cluster.now + HOUR,
                    alias_spiffe_id: if alias { id("/alias") } else { String::new() },
                    ..JoinToken::default()
                };
                Body::CreateJoinToken(CreateJoinToken {
                    token: Some(token),
                    alias_entry: None,
                })
            }
            Action::AttestByToken { token, key } => {
                let path = token_agent(&format!("t{token}"));
                let body = self.cluster.attest(&path, &[], &format!("k{key}"));
                let join_token_sha256 = sha(&format!("t{token}"));
                Body::AttestNode(AttestNode {
                    join_token_sha256,
                    can_reattest: false,
                    ..body
                })
            }
            Action::Attest {
                agent: n,
                key,
                rack,
            } => {
                let rack = format!("rack:{rack}");
                let path = format!("/spire/agent/test/{}", n % 3);
                let body = self.cluster.attest(&path, &[&rack], &format!("k{key}"));
                Body::AttestNode(body)
            }
            Action::Resume {
                agent: n,
                key,
                new_key,
            } => Body::RecordResume(RecordResume {
                agent_id: id(&agent(n)),
                key_spki_sha256: sha(&format!("k{key}")),
                new_key_spki_sha256: sha(&format!("k{new_key}")),
            }),
            Action::Ban { agent: n } => Body::BanAgent(BanAgent {
                agent_id: id(&agent(n)),
            }),
            Action::Evict { agent: n } => Body::EvictAgent(EvictAgent {
                agent_id: id(&agent(n)),
            }),
            Action::Acknowledge {
                agent: n,
                behind,
                streams,
            } => {
                let sequence = self.cluster.state.bundle_sequence() - u64::from(behind);
                acknowledge_by(&agent(n), sequence, streams)
            }
            _ => return None,
        })
    }

    fn issue_body(&mut self, action: &Action) -> Option<Body> {
        match action {
            Action::Issue(items) => {
                let intents = items
                    .iter()
                    .filter_map(|item| self.entry_intent(*item))
                    .collect();
                Some(batch(intents))
            }
            Action::Renew {
                agent: n,
                presented,
                key,
            } => {
                let path = agent(*n);
                let node = self.cluster.state.attested_node(&spiffe(&path)).cloned();
                let node = node.unwrap_or_default();
                let presented = match presented {
                    0 => Vec::new(),
                    1 => node.current_serial,
                    2 => node.pending_serial,
                    _ => vec![9; 16],
                };
                let intent = self
                    .cluster
                    .agent_intent(&path, &presented, &format!("k{key}"));
                Some(batch(vec![self.under_active(intent, AuthorityKind::X509)]))
            }
            _ => None,
        }
    }

    /// An intent for an entry that exists, with one thing wrong now and then.
    fn entry_intent(&mut self, (n, agent_n, wrong): (u8, u8, u8)) -> Option<Intent> {
        let name = format!("e{n}");
        self.cluster.state.entry(&name.parse().unwrap())?;
        let intent = self.cluster.entry_intent(&agent(agent_n), &name);
        let mut intent = self.under_active(intent, AuthorityKind::X509);
        match wrong {
            0 => intent.spiffe_id = id("/other"),
            1 => intent.not_before_ms -= 20_000,
            2 => intent.not_after_ms += 2 * HOUR,
            3 => intent.serial = vec![0x42; 16],
            4 => intent.authority_id = "x1".into(),
            5 => {
                if let Some(Subject::Entry(subject)) = &mut intent.subject {
                    subject.revision += 1;
                }
            }
            _ => {}
        }
        Some(intent)
    }

    fn under_active(&self, intent: Intent, kind: AuthorityKind) -> Intent {
        let active = self.cluster.state.active_authority(kind);
        let ttl = self.cluster.state.settings().unwrap().x509_svid_ttl_seconds as i64 * 1000;
        Intent {
            authority_id: active.map_or_else(|| "x0".to_owned(), |active| active.id.clone()),
            not_after_ms: intent.not_before_ms + 10_000 + ttl,
            ..intent
        }
    }

    fn nth_authority(&self, n: u8) -> String {
        let all: Vec<_> = self
            .cluster
            .state
            .all_authorities()
            .map(|a| a.id.clone())
            .collect();
        all.get(usize::from(n))
            .cloned()
            .unwrap_or_else(|| "none".to_owned())
    }

    fn authority_body(&mut self, action: &Action) -> Option<Body> {
        Some(match *action {
            Action::Prepare { kind } => {
                let kind = AuthorityKind::try_from(i32::from(kind)).unwrap();
                let n = self.prepared;
                self.prepared += 1;
                let mut body = self.cluster.prepare(&format!("{n:02}"), kind, n);
                let ttl = self.cluster.state.settings().unwrap().ca_ttl_seconds as i64 * 1000;
                if let Body::PrepareAuthority(PrepareAuthority {
                    authority: Some(a), ..
                }) = &mut body
                {
                    a.not_after_ms = self.cluster.now + ttl;
                }
                body
            }
            Action::Publish { authority } => publish(&self.nth_authority(authority)),
            Action::Prove { authority, node } => {
                prove(&self.nth_authority(authority), u64::from(node))
            }
            Action::Activate { authority, ground } => {
                let ground = Ground::try_from(i32::from(ground)).unwrap();
                activate(&self.nth_authority(authority), ground)
            }
            Action::Retire { authority } => Body::RetireAuthority(RetireAuthority {
                authority_id: self.nth_authority(authority),
            }),
            Action::Taint { authority } => Body::TaintAuthority(TaintAuthority {
                authority_id: self.nth_authority(authority),
            }),
            Action::Revoke { authority } => Body::RevokeAuthority(RevokeAuthority {
                authority_id: self.nth_authority(authority),
            }),
            _ => return None,
        })
    }

    fn cluster_body(&self, action: &Action) -> Option<Body> {
        Some(match *action {
            Action::Admit { name } => {
                let server = Some(server(0, &format!("server {name}")));
                Body::AdmitServer(AdmitServer {
                    server,
                    ..AdmitServer::default()
                })
            }
            // The first server stays: it proposes.
            Action::Remove { node } => Body::RemoveServer(RemoveServer {
                node_id: u64::from(node) + 1,
            }),
            Action::Settings { short } => {
                let mut settings = settings();
                if short {
                    settings.ca_ttl_seconds = 7200;
                    settings.x509_svid_ttl_seconds = 600;
                    settings.agent_svid_ttl_seconds = 600;
                }
                let settings = Some(settings);
                Body::ChangeSettings(ChangeSettings {
                    settings,
                    expected_revision: 0,
                })
            }
            Action::Checkpoint { honest } => {
                let size = self.cluster.state.audit_size();
                let root = if honest {
                    self.cluster.state.audit_root()
                } else {
                    [1; 32]
                };
                let tree = mintmark_tlog::Checkpoint {
                    origin: ORIGIN.into(),
                    size,
                    root,
                };
                let note = log_signer().sign(&tree.to_text()).unwrap().to_string();
                let checkpoint = Checkpoint {
                    size,
                    root: root.to_vec(),
                    note,
                    signed_at_ms: 0,
                };
                Body::SignCheckpoint(SignCheckpoint {
                    checkpoint: Some(checkpoint),
                })
            }
            Action::Prune => Body::PruneExpired(PruneExpired {}),
            _ => return None,
        })
    }
}

/// What an outsider knows from commands, results and leaves.
#[derive(Default)]
struct Observer {
    frontier: Frontier,
    live_serials: BTreeMap<Vec<u8>, i64>,
    denied_agents: BTreeSet<String>,
    deleted_entries: BTreeSet<String>,
    token_keys: BTreeMap<Vec<u8>, BTreeSet<Vec<u8>>>,
    authority_states: BTreeMap<String, AuthorityState>,
    node_ids: BTreeSet<u64>,
    checkpoint: u64,
}

impl Observer {
    fn watch(&mut self, before: &State, command: &Command, applied: &Applied, after: &State) {
        let body = command.body.as_ref().unwrap();
        self.check_leaves(body, applied, after);
        if applied.result.replayed {
            assert!(same_content(before, after), "a replay changes nothing");
            return;
        }
        if applied.result.refusal() != Refusal::Unspecified {
            assert!(
                same_content(before, after),
                "a refusal changes nothing: {body:?}"
            );
            assert!(applied.events.is_empty());
        }
        self.check_agents(body, applied);
        self.check_issuance(before, body, applied, after);
        self.check_authorities(before, applied, after);
        self.check_servers(body, applied, after);
    }

    /// Leaf count = tree size, root = root of the leaves, one leaf for each
    /// decision.
    fn check_leaves(&mut self, body: &Body, applied: &Applied, after: &State) {
        assert_eq!(applied.first_leaf_index, self.frontier.size());
        for bytes in &applied.leaves {
            let leaf = Leaf::decode(&**bytes).unwrap();
            assert_eq!(leaf.index, self.frontier.size());
            assert!(bytes.len() <= 1023);
            self.frontier.push(leaf_hash(bytes));
        }
        assert_eq!(after.audit_size(), self.frontier.size());
        assert_eq!(after.audit_root(), self.frontier.root());
        let result = &applied.result;
        let audited = !matches!(
            body,
            Body::AcknowledgeBundle(_) | Body::SignCheckpoint(_) | Body::PruneExpired(_)
        );
        if result.replayed || !audited || result.refusal() == Refusal::Stale {
            return;
        }
        let owed = if result.items.is_empty() {
            1
        } else {
            result
                .items
                .iter()
                .filter(|item| item.refusal() != Refusal::Stale)
                .count()
        };
        assert!(
            applied.leaves.len() >= owed,
            "{} leaves for {body:?}",
            applied.leaves.len()
        );
        for item in result
            .items
            .iter()
            .filter(|item| item.refusal() != Refusal::Stale)
        {
            let offset = (item.leaf_index - applied.first_leaf_index) as usize;
            let leaf = Leaf::decode(&*applied.leaves[offset]).unwrap();
            let accepted = item.refusal() == Refusal::Unspecified;
            assert_eq!(leaf.decision == "accepted", accepted);
        }
    }

    fn check_agents(&mut self, body: &Body, applied: &Applied) {
        for event in &applied.events {
            match event {
                Event::AgentBanned(agent) | Event::AgentRemoved(agent) => {
                    self.denied_agents.insert(agent.to_string());
                }
                Event::EntryRemoved { id, .. } => {
                    self.deleted_entries.insert(id.to_string());
                }
                Event::EntryChanged(id) => {
                    self.deleted_entries.remove(id.as_str());
                }
                _ => {}
            }
        }
        if applied.result.refusal() != Refusal::Unspecified {
            return;
        }
        if let Body::AttestNode(attest) = body {
            assert!(
                applied
                    .result
                    .node
                    .as_ref()
                    .is_some_and(|node| !node.banned),
                "a ban survives attestation"
            );
            self.denied_agents.remove(&attest.agent_id);
            if !attest.join_token_sha256.is_empty() {
                let keys = self
                    .token_keys
                    .entry(attest.join_token_sha256.clone())
                    .or_default();
                keys.insert(attest.csr_spki_sha256.clone());
                assert_eq!(keys.len(), 1, "a token serves one key");
            }
        }
        if let Body::CreateJoinToken(created) = body {
            // An operator who makes the same token again, after it was pruned,
            // makes another token.
            self.token_keys
                .remove(&created.token.as_ref().unwrap().token_sha256);
        }
        if let Body::RecordResume(resume) = body {
            assert!(
                !self.denied_agents.contains(&resume.agent_id),
                "resumed after a denial"
            );
        }
    }

    fn check_issuance(&mut self, before: &State, body: &Body, applied: &Applied, after: &State) {
        let now = after.command_time().unix_millis();
        self.live_serials.retain(|_, not_after| *not_after >= now);
        let Body::IssueBatch(batch) = body else {
            return;
        };
        for (intent, item) in batch.intents.iter().zip(&applied.result.items) {
            if item.refusal() != Refusal::Unspecified {
                continue;
            }
            let old = self
                .live_serials
                .insert(intent.serial.clone(), intent.not_after_ms);
            assert!(old.is_none(), "a live serial was given twice");
            let authority = before.authority(&intent.authority_id).unwrap();
            assert_eq!(authority.state(), AuthorityState::Active);
            assert!(!authority.tainted);
            assert!(intent.not_after_ms <= authority.not_after_ms);
            let agent = match intent.subject.as_ref().unwrap() {
                Subject::Entry(subject) => {
                    assert!(
                        !self.deleted_entries.contains(&subject.id),
                        "after a deletion"
                    );
                    let entry = before.entry(&subject.id.parse().unwrap()).unwrap();
                    assert_eq!(entry.spiffe_id.as_str(), intent.spiffe_id);
                    assert_eq!(entry.revision, subject.revision);
                    let agent = intent.requesting_agent.parse().unwrap();
                    let allowed = before.authorized_entries(&agent);
                    assert!(allowed.iter().any(|allowed| allowed.id == entry.id));
                    &intent.requesting_agent
                }
                Subject::Agent(subject) => &subject.agent_id,
                _ => continue,
            };
            assert!(
                !self.denied_agents.contains(agent),
                "after a ban or an eviction"
            );
        }
    }

    fn check_authorities(&mut self, before: &State, applied: &Applied, after: &State) {
        use AuthorityState::{Active, Old, Published, Revoked};
        let now = after.command_time();
        for kind in [AuthorityKind::X509, AuthorityKind::Jwt, AuthorityKind::Wit] {
            let active = after
                .authorities(kind)
                .filter(|a| a.state() == Active)
                .count();
            assert!(active <= 1, "{active} active authorities");
        }
        let mut keys = BTreeSet::new();
        for authority in after.all_authorities() {
            assert!(
                keys.insert(&authority.public_key_spki),
                "two authorities share a key"
            );
            let state = authority.state();
            let old = self.authority_states.insert(authority.id.clone(), state);
            assert!(
                old.is_none_or(|old| old as i32 <= state as i32),
                "{old:?} to {state:?}"
            );
        }
        // The bundle is what the states say, and nothing else.
        let bundle = after.own_bundle().unwrap();
        let members = after
            .all_authorities()
            .filter(|authority| matches!(authority.state(), Published | Active | Old));
        let members: BTreeSet<&str> = members.map(|authority| authority.id.as_str()).collect();
        assert_eq!(
            bundle.x509.len() + bundle.jwt.len() + bundle.wit.len(),
            members.len()
        );
        let old_bundle = before.own_bundle().unwrap();
        let changed = bundle.differs_from(&old_bundle);
        let step = u64::from(changed);
        assert_eq!(after.bundle_sequence(), before.bundle_sequence() + step);
        assert_eq!(applied.events.contains(&Event::BundleChanged), changed);
        for authority in before.all_authorities() {
            let was = matches!(authority.state(), Published | Active | Old);
            if was && !members.contains(authority.id.as_str()) {
                let revoked = after.authority(&authority.id).unwrap().state() == Revoked;
                let over = authority.last_svid_not_after_ms < now.unix_millis();
                assert!(revoked || over, "removed while an SVID of it is valid");
            }
            let activated = authority.state() != Active
                && after
                    .authority(&authority.id)
                    .is_some_and(|a| a.state() == Active);
            if activated {
                let leaf = Leaf::decode(&*applied.leaves[0]).unwrap();
                let missing = missing_acknowledgements(before, &authority.id, now);
                let waited = leaf.reason == "acknowledged";
                assert!(!waited || missing.is_empty(), "{missing:?} missing");
                assert!(waited || !leaf.reason.is_empty());
            }
        }
    }

    fn check_servers(&mut self, body: &Body, applied: &Applied, after: &State) {
        assert!(after.server(1).is_some());
        let is_admission = matches!(body, Body::AdmitServer(_));
        let leaf = applied
            .leaves
            .last()
            .map(|bytes| Leaf::decode(&**bytes).unwrap());
        if is_admission && leaf.is_some_and(|leaf| leaf.action == "server.admit") {
            assert!(
                self.node_ids.insert(applied.result.node_id),
                "a node id was used twice"
            );
        }
        if applied.events.contains(&Event::CheckpointSigned) {
            let last = after.last_checkpoint().unwrap();
            assert!(last.size > self.checkpoint);
            assert_eq!(
                last.root,
                self.frontier.root(),
                "signed at the end of the tree"
            );
            self.checkpoint = last.size;
        }
    }
}

/// Equal but for traces: position, time, audit tree, remembered results.
fn same_content(a: &State, b: &State) -> bool {
    let strip = |state: &State| {
        let mut snapshot = Snapshot::decode(&*state.encode()).unwrap();
        snapshot.applied_index = 0;
        snapshot.command_time_ms = 0;
        snapshot.audit_frontier.clear();
        snapshot.recent_roots.clear();
        snapshot.idempotency.clear();
        snapshot
    };
    strip(a) == strip(b)
}

/// Plays a history on one state, watched, and gives back its commands.
fn play(actions: &[Action]) -> (World, Vec<(u64, Command)>, Vec<Applied>) {
    let mut world = World::new();
    let mut observer = Observer::default();
    observer.node_ids.insert(1);
    for leaf in &world.cluster.leaves {
        observer.frontier.push(leaf_hash(leaf));
    }
    let (mut commands, mut outcomes) = (Vec::new(), Vec::new());
    for (serial, action) in actions.iter().enumerate() {
        let Some(command) = world.command(action, serial as u64) else {
            continue;
        };
        let before = world.cluster.state.clone();
        let applied = world.cluster.apply_command(&command);
        observer.watch(&before, &command, &applied, &world.cluster.state);
        commands.push((world.cluster.index, command));
        outcomes.push(applied);
    }
    (world, commands, outcomes)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn no_history_breaks_an_invariant(actions in prop::collection::vec(action(), 1..120)) {
        play(&actions);
    }

    #[test]
    fn replicas_that_apply_the_same_commands_are_equal(
        actions in prop::collection::vec(action(), 1..80)
    ) {
        let (world, commands, outcomes) = play(&actions);
        let mut replica = World::new().cluster.state;
        for ((index, command), outcome) in commands.iter().zip(&outcomes) {
            // Over the wire, as followers get it.
            let command = Command::decode(&*command.encode_to_vec()).unwrap();
            prop_assert_eq!(&replica.apply(*index, &command), outcome);
        }
        prop_assert!(replica == world.cluster.state);
        prop_assert_eq!(replica.encode(), world.cluster.state.encode());
        prop_assert_eq!(replica.audit_root(), world.cluster.state.audit_root());
    }

    #[test]
    fn a_snapshot_at_any_point_makes_no_difference(
        actions in prop::collection::vec(action(), 1..80), at in any::<prop::sample::Index>()
    ) {
        let (world, commands, outcomes) = play(&actions);
        let at = at.index(commands.len().max(1));
        let mut restored = World::new().cluster.state;
        for (step, ((index, command), outcome)) in commands.iter().zip(&outcomes).enumerate() {
            if step == at {
                let decoded = State::decode(&restored.encode()).unwrap();
                prop_assert!(decoded == restored);
                restored = decoded;
            }
            prop_assert_eq!(&restored.apply(*index, command), outcome);
        }
        prop_assert!(restored == world.cluster.state);
        prop_assert_eq!(restored.encode(), world.cluster.state.encode());
    }

    #[test]
    fn walks_down_and_up_agree_in_any_history(
        actions in prop::collection::vec(action(), 1..80)
    ) {
        let (world, ..) = play(&actions);
        let state = &world.cluster.state;
        let agents: Vec<_> =
            state.attested_nodes().map(|node| node.agent_id.parse().unwrap()).collect();
        for agent in &agents {
            let down: BTreeSet<_> =
                state.authorized_entries(agent).iter().map(|entry| entry.id.clone()).collect();
            let banned = state.attested_node(agent).unwrap().banned;
            for entry in state.entries() {
                let up = state.is_authorized(agent, entry);
                prop_assert_eq!(down.contains(&entry.id), up);
                if !banned && !entry.parent_id.is_server() {
                    let concerned = state.agents_concerned(&entry.parent_id, &entry.selectors);
                    prop_assert_eq!(concerned.contains(agent), up);
                }
            }
        }
    }

    #[test]
    fn decoding_damaged_snapshots_never_panics(
        actions in prop::collection::vec(action(), 1..30),
        at in any::<prop::sample::Index>(), flip in 1u8..=255, cut: bool,
    ) {
        let (world, ..) = play(&actions);
        let mut bytes = world.cluster.state.encode();
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at); } else { bytes[at] ^= flip; }
        if let Ok(state) = State::decode(&bytes) {
            let _ = state.encode();
        }
    }
}

/// Histories must reach what they are about, or they prove nothing.
#[test]
fn random_histories_reach_acceptances_of_every_kind() {
    use proptest::strategy::ValueTree as _;
    use proptest::test_runner::{Config, TestRunner};
    let mut runner = TestRunner::new_with_rng(
        Config::default(),
        proptest::test_runner::TestRng::deterministic_rng(
            proptest::test_runner::RngAlgorithm::ChaCha,
        ),
    );
    let mut seen: BTreeMap<(String, bool), usize> = BTreeMap::new();
    for _ in 0..40 {
        let strategy = prop::collection::vec(action(), 100..120);
        let actions = strategy.new_tree(&mut runner).unwrap().current();
        let (world, ..) = play(&actions);
        for leaf in world.cluster.decoded_leaves() {
            *seen
                .entry((leaf.action, leaf.decision == "accepted"))
                .or_default() += 1;
        }
    }
    for action in [
        "entry.create",
        "entry.update",
        "entry.delete",
        "token.create",
        "agent.attest",
        "agent.resume",
        "agent.ban",
        "agent.evict",
        "x509.issue",
        "authority.prepare",
        "authority.publish",
        "authority.prove",
        "authority.activate",
        "authority.retire",
        "authority.taint",
        "authority.revoke",
        "server.admit",
        "server.remove",
    ] {
        for accepted in [true, false] {
            let has_no_denial = action == "server.admit";
            let found = seen.contains_key(&(action.to_owned(), accepted));
            assert!(
                found || (has_no_denial && !accepted),
                "{action} {accepted} in {seen:?}"
            );
        }
    }
}
