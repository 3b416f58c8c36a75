//! What the servers of a simulation are, between two steps.
//!
//! Always: it is looked at anew only when a server applied something or its part changed; every change
//! is told for the trace.
//!
//! Not here: what must hold of it (`crate::invariant`).

use std::collections::BTreeMap;

use ca_server::cluster::reconcile::VOTERS_MAX;
use ca_server::raft::{RaftStatus, Role};
use ca_server::state::Position;
use mintmark_proto::mintmark::state::v1::{AttestedNode, Authority};

use crate::sim::world::World;

/// One running server.
#[derive(Debug, Clone)]
pub struct ServerView {
    /// Which life of its machine.
    pub life: u64,
    /// Its id.
    pub node_id: u64,
    /// Consensus.
    pub status: RaftStatus,
    /// Through which command its state is.
    pub position: Position,
    /// Leaves of the audit log.
    pub audit_size: u64,
    /// Root over them.
    pub audit_root: Vec<u8>,
    /// Sequence of the bundle.
    pub bundle_sequence: u64,
    /// How many snapshots of others it installed in this life.
    pub snapshots_installed: u64,
    /// How many entries, join tokens, live serials and remembered results there are.
    pub table_sizes: [usize; 4],
    /// Authorities that the state knows.
    pub authorities: Vec<Authority>,
    /// Agents that the state knows.
    pub agents: Vec<AttestedNode>,
    /// Command time.
    pub command_time_ms: i64,
}

/// Whether it says that it leads.
pub fn is_leader(view: &ServerView) -> bool {
    view.status.role == Role::Leader
}

/// All running servers.
#[derive(Debug, Default)]
pub struct Views {
    servers: BTreeMap<String, ServerView>,
    /// Which of them were looked at anew in this step.
    changed: Vec<String>,
}

impl Views {
    /// The servers, by machine.
    pub fn servers(&self) -> &BTreeMap<String, ServerView> {
        &self.servers
    }

    /// The servers that are not as they were one step ago, by machine.
    pub fn changed(&self) -> impl Iterator<Item = (&String, &ServerView)> {
        let changed = self.changed.iter();
        changed.filter_map(|name| self.servers.get_key_value(name))
    }

    /// Looks again; tells what changed.
    pub fn look(&mut self, world: &World) -> Vec<(String, String)> {
        let world = world.lock();
        let running = &world.servers;
        let mut told = Vec::new();
        self.changed.clear();
        self.servers.retain(|name, _| running.contains_key(name));
        for (name, services) in running {
            let life = world.machines[name].lives();
            let position = *services.consensus.applied().borrow();
            let status = services.consensus.status();
            let known = self.servers.get(name);
            let same = known.is_some_and(|known| {
                let status = status.borrow();
                known.life == life && known.position == position && known.status == *status
            });
            if same {
                continue;
            }
            let view = view(services, life, position, status.borrow().clone());
            let part = |view: &ServerView| (view.status.role, view.status.term, view.status.leader);
            if known.is_none_or(|known| part(known) != part(&view)) {
                let (role, term, leader) = part(&view);
                told.push((
                    name.clone(),
                    format!("{role:?} of {leader:?} in term {term}"),
                ));
            }
            if known.is_none_or(|known| known.position != position) {
                let (index, size) = (position.index, view.audit_size);
                told.push((name.clone(), format!("applied {index}, log has {size}")));
            }
            self.changed.push(name.clone());
            self.servers.insert(name.clone(), view);
        }
        told
    }

    /// Whether these servers, of so many members, all run, follow one leader, and have equal states.
    ///
    /// # Errors
    /// In words, what is not so.
    pub fn agreement(&self, names: &[String], members: usize) -> Result<(), String> {
        let mut views = Vec::new();
        for name in names {
            views.push(
                self.servers
                    .get(name)
                    .ok_or_else(|| format!("{name} does not run"))?,
            );
        }
        let leaders: Vec<u64> = views
            .iter()
            .filter(|view| is_leader(view))
            .map(|view| view.node_id)
            .collect();
        let [leader] = leaders[..] else {
            return Err(format!("leaders are {leaders:?}"));
        };
        for (name, view) in names.iter().zip(&views) {
            if view.status.leader != Some(leader) {
                return Err(format!(
                    "{name} follows {:?}, not {leader}",
                    view.status.leader
                ));
            }
            if view.status.voters.len() != members.min(VOTERS_MAX) || view.status.joint {
                return Err(format!("{name} knows voters {:?}", view.status.voters));
            }
            if (view.position, &view.audit_root) != (views[0].position, &views[0].audit_root) {
                return Err(format!(
                    "{name} is at {:?}, {} at {:?}",
                    view.position, names[0], views[0].position
                ));
            }
        }
        Ok(())
    }
}

fn view(
    services: &ca_server::api::Services,
    life: u64,
    position: Position,
    status: RaftStatus,
) -> ServerView {
    services.consensus.read(|state| ServerView {
        life,
        node_id: services.consensus.node_id(),
        status,
        position,
        snapshots_installed: services.consensus.snapshots_installed(),
        audit_size: state.audit_size(),
        audit_root: state.audit_root().to_vec(),
        bundle_sequence: state.bundle_sequence(),
        table_sizes: [
            state.entry_count(),
            state.join_token_count(),
            state.live_serial_count(),
            state.remembered_result_count(),
        ],
        authorities: state.all_authorities().cloned().collect(),
        agents: state.attested_nodes().cloned().collect(),
        command_time_ms: state.command_time().unix_millis(),
    })
}
