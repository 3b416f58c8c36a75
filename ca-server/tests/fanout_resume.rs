//! An agent that resumes ends up with what it may serve, whatever happened meanwhile.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod state_support;

use std::collections::BTreeMap;

use ca_server::fanout::update::Told;
use mintmark_proto::mintmark::agent::v1::Update;
use mintmark_proto::mintmark::raft::v1::command::Body;
use mintmark_proto::mintmark::raft::v1::{
    CreateEntries, DeleteEntries, UpdateEntries, update_entries,
};
use mintmark_proto::mintmark::state::v1::Entry;
use proptest::prelude::*;
use state_support::*;

const A: &str = "/spire/agent/test/a";
const B: &str = "/spire/agent/test/b";

/// What an agent holds: revisions by entry.
type Held = BTreeMap<String, u64>;

fn take(held: &mut Held, update: &Update) {
    if update.complete {
        held.clear();
    }
    for id in &update.removed_entry_ids {
        held.remove(id);
    }
    let new = update.entries.iter();
    held.extend(new.map(|entry| (entry.id.clone(), entry.revision)));
}

fn authorized(cluster: &Cluster, agent: &str) -> Held {
    let entries = cluster.state.authorized_entries(&spiffe(agent));
    let entries = entries.into_iter();
    entries
        .map(|entry| (entry.id.to_string(), entry.revision))
        .collect()
}

/// What `agent` holds after a first connection now.
fn connected(cluster: &Cluster, agent: &str) -> Held {
    let mut held = Held::new();
    let (_, update) = Told::begin(&cluster.state, &spiffe(agent), None).unwrap();
    take(&mut held, &update);
    held
}

fn create(entry: Entry) -> Body {
    Body::CreateEntries(CreateEntries {
        entries: vec![entry],
    })
}

fn delete(ids: &[&str]) -> Body {
    let ids = ids.iter().map(|id| (*id).to_owned()).collect();
    Body::DeleteEntries(DeleteEntries { ids })
}

#[test]
fn a_resuming_agent_hears_of_removed_entries_whose_parents_were_removed_too() {
    for order in [["alias", "child"], ["child", "alias"]] {
        let mut cluster = Cluster::running();
        cluster.accept(local(), create(entry("alias", A, "/node/a", &["node:a"])));
        cluster.accept(
            local(),
            create(entry("child", "/node/a", "/db", &["unix:uid:1"])),
        );
        let seen = cluster.state.applied_position();
        let mut held = connected(&cluster, A);
        assert_eq!(held.len(), 2);
        cluster.accept(local(), delete(&order));
        let (_, update) = Told::begin(&cluster.state, &spiffe(A), Some(seen)).unwrap();
        take(&mut held, &update);
        assert_eq!(held, Held::new(), "{order:?}: {update:?}");
    }
}

#[test]
fn a_resuming_agent_hears_nothing_of_entries_that_never_were_its_own() {
    let mut cluster = Cluster::running();
    cluster.join(B, &["node:b"]);
    cluster.accept(local(), create(entry("mine", A, "/mine", &["unix:uid:1"])));
    cluster.accept(local(), create(entry("alias", B, "/node/b", &["node:b"])));
    cluster.accept(
        local(),
        create(entry("child", "/node/b", "/db", &["unix:uid:1"])),
    );
    let seen = cluster.state.applied_position();
    cluster.accept(local(), delete(&["child"]));
    cluster.accept(local(), delete(&["alias"]));
    let (_, update) = Told::begin(&cluster.state, &spiffe(A), Some(seen)).unwrap();
    assert!(
        !update.complete,
        "another agent's changes cost this one nothing"
    );
    assert!(update.entries.is_empty() && update.removed_entry_ids.is_empty());
}

#[test]
fn a_resuming_agent_hears_of_an_entry_that_moved_away_before_its_parent_did() {
    let mut cluster = Cluster::running();
    cluster.join(B, &["node:b"]);
    cluster.accept(
        local(),
        create(entry("above", B, "/above", &["unix:uid:1"])),
    );
    cluster.accept(
        local(),
        create(entry("below", "/above", "/db", &["unix:uid:1"])),
    );
    let seen = cluster.state.applied_position();
    let mut held = connected(&cluster, B);
    assert_eq!(held.len(), 2);
    for (id, path) in [("below", "/db"), ("above", "/above")] {
        let moved = Body::UpdateEntries(UpdateEntries {
            updates: vec![update_entries::Update {
                expected_revision: held[id],
                entry: Some(entry(id, A, path, &["unix:uid:1"])),
            }],
        });
        cluster.accept(local(), moved);
    }
    let (_, update) = Told::begin(&cluster.state, &spiffe(B), Some(seen)).unwrap();
    take(&mut held, &update);
    assert_eq!(held, Held::new(), "{update:?}");
}

/// One change of a small world: entries 0 to 2, each of which may be the parent of the others.
#[derive(Debug, Clone)]
struct Step {
    entry: usize,
    parent: usize,
    alias_of: usize,
    remove: bool,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (0..3_usize, 0..6_usize, 0..2_usize, any::<bool>());
    let step = step.prop_map(|(entry, parent, alias_of, remove)| Step {
        entry,
        parent,
        alias_of,
        remove,
    });
    prop::collection::vec(step, 0..10)
}

fn run(cluster: &mut Cluster, step: &Step) {
    let id = format!("e{}", step.entry);
    let parent = match step.parent {
        0 => A.to_owned(),
        1 => B.to_owned(),
        2 => "/spire/server".to_owned(),
        n => format!("/n{}", n - 3),
    };
    let selector = ["node:a", "node:b"][step.alias_of];
    let wanted = entry(&id, &parent, &format!("/n{}", step.entry), &[selector]);
    let known = cluster
        .state
        .entry(&mintmark_identity::entry::EntryId::parse(&id).unwrap());
    let body = match (known, step.remove) {
        (Some(_), true) => delete(&[&id]),
        (Some(known), false) => Body::UpdateEntries(UpdateEntries {
            updates: vec![update_entries::Update {
                expected_revision: known.revision,
                entry: Some(wanted),
            }],
        }),
        (None, _) => create(wanted),
    };
    // Some are refused, such as an entry that is its own parent; that is a step as well.
    cluster.apply(local(), body);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn resuming_leads_to_what_a_first_connection_leads_to(before in steps(), after in steps()) {
        let mut cluster = Cluster::running();
        cluster.join(B, &["node:b"]);
        for step in &before {
            run(&mut cluster, step);
        }
        let seen = cluster.state.applied_position();
        let held = [A, B].map(|agent| connected(&cluster, agent));
        for step in &after {
            run(&mut cluster, step);
        }
        for (agent, mut held) in [A, B].into_iter().zip(held) {
            let (_, update) = Told::begin(&cluster.state, &spiffe(agent), Some(seen)).unwrap();
            take(&mut held, &update);
            prop_assert_eq!(&held, &authorized(&cluster, agent), "{} by {:?}", agent, update);
        }
    }
}
