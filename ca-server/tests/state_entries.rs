//! Registration entries: making, changing, deleting, finding, authorising, explaining.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::too_many_lines,
    reason = "tests"
)]

mod state_support;

use std::collections::BTreeSet;

use ca_server::state::{DEPTH_MAX, ENTRY_BATCH_MAX, Event};
use mintmark_identity::selector::{Selector, Selectors};
use mintmark_identity::spiffe_id::SpiffeId;
use mintmark_proto::mintmark::raft::v1::command::Body;
use mintmark_proto::mintmark::raft::v1::{
    CreateEntries, DeleteEntries, EvictAgent, ItemResult, PruneExpired, Refusal, UpdateEntries,
    update_entries::Update,
};
use mintmark_proto::mintmark::state::v1::Entry;
use state_support::*;

const AGENT: &str = "/spire/agent/test/a";

fn web() -> Entry {
    entry("web", AGENT, "/web", &["unix:uid:1000"])
}

fn update(cluster: &mut Cluster, entry: Entry, expected_revision: u64) -> ItemResult {
    let update = Update {
        entry: Some(entry),
        expected_revision,
    };
    let body = Body::UpdateEntries(UpdateEntries {
        updates: vec![update],
    });
    cluster.apply(local(), body).result.items.remove(0)
}

fn delete(cluster: &mut Cluster, ids: &[&str]) -> Vec<ItemResult> {
    let ids = ids.iter().map(|id| (*id).to_owned()).collect();
    cluster
        .apply(local(), Body::DeleteEntries(DeleteEntries { ids }))
        .result
        .items
}

fn have(texts: &[&str]) -> Selectors {
    texts
        .iter()
        .map(|text| Selector::parse(text).unwrap())
        .collect()
}

fn authorized(cluster: &Cluster, agent: &str) -> Vec<String> {
    let entries = cluster.state.authorized_entries(&spiffe(agent));
    entries.iter().map(|entry| entry.id.to_string()).collect()
}

#[test]
fn a_created_entry_gets_revision_and_time_from_the_state() {
    let mut cluster = Cluster::running();
    let asked = Entry {
        revision: 77,
        created_at_seconds: 5,
        ..web()
    };
    let item = cluster.create(asked);
    assert_eq!(item.refusal(), Refusal::Unspecified, "{}", item.detail);
    let stored = item.entry.unwrap();
    assert_eq!(
        (stored.revision, stored.created_at_seconds),
        (1, cluster.now / 1000)
    );
    assert_eq!(
        Entry::from(cluster.state.entry(&"web".parse().unwrap()).unwrap()),
        stored
    );
    let leaf = cluster.decoded_leaves().pop().unwrap();
    assert_eq!(item.leaf_index, leaf.index);
    let change = leaf.entry.unwrap();
    assert_eq!(
        (leaf.action.as_str(), leaf.decision.as_str()),
        ("entry.create", "accepted")
    );
    assert_eq!((change.entry_id.as_str(), change.revision), ("web", 1));
    assert_eq!(
        (change.spiffe_id, change.parent_id),
        (id("/web"), id(AGENT))
    );
    assert_eq!(leaf.actor, "local");
}

#[test]
fn an_entry_that_says_the_same_is_returned_instead() {
    let mut cluster = Cluster::running();
    let first = cluster.create(web()).entry.unwrap();
    let again = Entry {
        id: "other".into(),
        hint: "another".into(),
        ..web()
    };
    let item = cluster.create(again);
    assert_eq!(item.refusal(), Refusal::AlreadyExists);
    assert_eq!(item.entry.as_ref(), Some(&first));
    assert_eq!(cluster.state.entry_count(), 1);
    let leaf = cluster.decoded_leaves().pop().unwrap();
    assert_eq!(
        (leaf.decision.as_str(), leaf.reason.as_str()),
        ("denied", "already_exists")
    );

    // The same id with another content is refused too.
    let other = Entry {
        spiffe_id: id("/db"),
        ..web()
    };
    let item = cluster.create(other);
    assert_eq!(item.refusal(), Refusal::AlreadyExists);
    assert_eq!(item.entry.as_ref(), Some(&first));
    // Each of the three parts alone makes another entry.
    for (n, other) in [
        Entry {
            spiffe_id: id("/db"),
            ..web()
        },
        Entry {
            parent_id: id("/spire/agent/test/b"),
            ..web()
        },
        Entry {
            selectors: selectors(&["unix:uid:1001"]),
            ..web()
        },
    ]
    .into_iter()
    .enumerate()
    {
        let item = cluster.create(Entry {
            id: format!("e{n}"),
            ..other
        });
        assert_eq!(item.refusal(), Refusal::Unspecified, "{}", item.detail);
    }
}

#[test]
fn each_item_of_a_batch_is_decided_for_itself() {
    let mut cluster = Cluster::running();
    let bad = Entry {
        selectors: Vec::new(),
        ..web()
    };
    let second = entry("db", AGENT, "/db", &["unix:uid:1001"]);
    let entries = vec![bad, web(), web(), second];
    let applied = cluster.apply(local(), Body::CreateEntries(CreateEntries { entries }));
    let outcomes: Vec<Refusal> = applied
        .result
        .items
        .iter()
        .map(ItemResult::refusal)
        .collect();
    use Refusal::{AlreadyExists, Invalid, Unspecified};
    assert_eq!(outcomes, [Invalid, Unspecified, AlreadyExists, Unspecified]);
    assert_eq!(applied.leaves.len(), 4);
    let indexes: Vec<u64> = applied
        .result
        .items
        .iter()
        .map(|item| item.leaf_index)
        .collect();
    let first = applied.first_leaf_index;
    assert_eq!(indexes, [first, first + 1, first + 2, first + 3]);
}

#[test]
fn entries_that_break_a_rule_are_refused_and_say_which() {
    let mut cluster = Cluster::running();
    for (word, bad) in [
        (
            "id",
            Entry {
                id: String::new(),
                ..web()
            },
        ),
        (
            "id",
            Entry {
                id: "a b".into(),
                ..web()
            },
        ),
        (
            "spiffe_id",
            Entry {
                spiffe_id: "http://example.org/web".into(),
                ..web()
            },
        ),
        (
            "trust domain",
            Entry {
                spiffe_id: "spiffe://other.org/web".into(),
                ..web()
            },
        ),
        (
            "reserved",
            Entry {
                spiffe_id: id("/spire/server"),
                ..web()
            },
        ),
        (
            "reserved",
            Entry {
                spiffe_id: id("/spire/agent/test/b"),
                ..web()
            },
        ),
        (
            "path",
            Entry {
                spiffe_id: id(""),
                ..web()
            },
        ),
        (
            "trust domain",
            Entry {
                parent_id: "spiffe://other.org/p".into(),
                ..web()
            },
        ),
        (
            "parent_id",
            Entry {
                parent_id: String::new(),
                ..web()
            },
        ),
        (
            "selector",
            Entry {
                selectors: Vec::new(),
                ..web()
            },
        ),
        (
            "selectors",
            Entry {
                selectors: vec![Default::default()],
                ..web()
            },
        ),
        (
            "hint",
            Entry {
                hint: "h".repeat(1025),
                ..web()
            },
        ),
        (
            "DNS",
            Entry {
                dns_names: vec!["-bad".into()],
                ..web()
            },
        ),
        (
            "ttl",
            Entry {
                x509_svid_ttl_seconds: u64::MAX,
                ..web()
            },
        ),
        (
            "federates",
            Entry {
                federates_with: vec![TD.into()],
                ..web()
            },
        ),
        (
            "expires",
            Entry {
                expires_at_seconds: -1,
                ..web()
            },
        ),
    ] {
        let before = cluster.state.entry_count();
        let item = cluster.create(bad.clone());
        assert_eq!(item.refusal(), Refusal::Invalid, "{bad:?}");
        assert!(
            item.detail.contains(word),
            "{word:?} is not in {:?}",
            item.detail
        );
        assert_eq!(cluster.state.entry_count(), before);
    }
}

#[test]
fn a_batch_has_1_to_1000_entries() {
    let mut cluster = Cluster::running();
    let create = |count: usize| {
        let one = |n: usize| entry(&format!("e{n}"), AGENT, &format!("/w{n}"), &["unix:uid:1"]);
        Body::CreateEntries(CreateEntries {
            entries: (0..count).map(one).collect(),
        })
    };
    cluster.refuse(local(), create(0), Refusal::Invalid);
    cluster.refuse(local(), create(ENTRY_BATCH_MAX + 1), Refusal::Limit);
    cluster.accept(local(), create(ENTRY_BATCH_MAX));
    assert_eq!(cluster.state.entry_count(), ENTRY_BATCH_MAX);
    cluster.refuse(
        local(),
        Body::DeleteEntries(DeleteEntries { ids: vec![] }),
        Refusal::Invalid,
    );
    cluster.refuse(
        local(),
        Body::UpdateEntries(UpdateEntries::default()),
        Refusal::Invalid,
    );
}

#[test]
fn an_update_needs_the_current_revision_or_none() {
    let mut cluster = Cluster::running();
    let first = cluster.create(web()).entry.unwrap();
    cluster.sleep(HOUR);
    let second = update(
        &mut cluster,
        Entry {
            hint: "two".into(),
            ..web()
        },
        1,
    )
    .entry
    .unwrap();
    assert_eq!((second.revision, second.hint.as_str()), (2, "two"));
    assert_eq!(
        second.created_at_seconds, first.created_at_seconds,
        "creation stays"
    );

    let leaves = cluster.leaves.len();
    let stale = update(
        &mut cluster,
        Entry {
            hint: "three".into(),
            ..web()
        },
        1,
    );
    assert_eq!(stale.refusal(), Refusal::Stale);
    assert_eq!(
        stale.entry,
        Some(second),
        "the current one helps to try again"
    );
    assert_eq!(cluster.leaves.len(), leaves, "stale leaves no leaf");

    let third = update(
        &mut cluster,
        Entry {
            hint: "three".into(),
            ..web()
        },
        0,
    )
    .entry
    .unwrap();
    assert_eq!(third.revision, 3);
}

#[test]
fn an_update_of_nothing_or_into_another_entry_is_refused() {
    let mut cluster = Cluster::running();
    let item = update(&mut cluster, web(), 0);
    assert_eq!(item.refusal(), Refusal::NotFound);
    cluster.create(web());
    cluster.create(entry("db", AGENT, "/db", &["unix:uid:1001"]));
    let item = update(
        &mut cluster,
        Entry {
            id: "db".into(),
            ..web()
        },
        0,
    );
    assert_eq!(item.refusal(), Refusal::AlreadyExists);
    let item = update(
        &mut cluster,
        Entry {
            selectors: Vec::new(),
            ..web()
        },
        0,
    );
    assert_eq!(item.refusal(), Refusal::Invalid);
    let body = Body::UpdateEntries(UpdateEntries {
        updates: vec![Update::default()],
    });
    let item = cluster.apply(local(), body).result.items.remove(0);
    assert_eq!(
        item.refusal(),
        Refusal::Invalid,
        "an update without an entry"
    );
}

#[test]
fn an_update_that_moves_an_entry_denies_the_old_place_first() {
    let mut cluster = Cluster::running();
    cluster.create(web());
    let hint = Entry {
        hint: "same place".into(),
        ..web()
    };
    let body = |entry: Entry| {
        let updates = vec![Update {
            entry: Some(entry),
            expected_revision: 0,
        }];
        Body::UpdateEntries(UpdateEntries { updates })
    };
    let applied = cluster.accept(local(), body(hint));
    assert_eq!(
        applied.events,
        [Event::EntryChanged("web".parse().unwrap())]
    );

    let moved = Entry {
        parent_id: id("/spire/agent/test/b"),
        ..web()
    };
    let applied = cluster.accept(local(), body(moved));
    let [
        Event::EntryRemoved {
            id: removed,
            parent,
            ..
        },
        Event::EntryChanged(changed),
    ] = &applied.events[..]
    else {
        panic!("{:?}", applied.events);
    };
    assert_eq!((removed.as_str(), changed.as_str()), ("web", "web"));
    assert_eq!(*parent, spiffe(AGENT));
    assert!(applied.events[0].is_denial() && !applied.events[1].is_denial());
    assert!(authorized(&cluster, AGENT).is_empty());
}

#[test]
fn a_deletion_is_a_denial_and_leaves_nothing_in_any_index() {
    let mut cluster = Cluster::running();
    cluster.create(web());
    let body = Body::DeleteEntries(DeleteEntries {
        ids: vec!["web".into()],
    });
    let applied = cluster.accept(local(), body);
    let [
        Event::EntryRemoved {
            id: removed,
            parent,
            spiffe_id,
            selectors,
        },
    ] = &applied.events[..]
    else {
        panic!("{:?}", applied.events);
    };
    assert_eq!(removed.as_str(), "web");
    assert_eq!((parent, spiffe_id), (&spiffe(AGENT), &spiffe("/web")));
    assert_eq!(*selectors, have(&["unix:uid:1000"]));
    let state = &cluster.state;
    assert_eq!(state.entry_count(), 0);
    assert_eq!(state.entries_by_parent(&spiffe(AGENT)).count(), 0);
    assert_eq!(state.entries_by_spiffe_id(&spiffe("/web")).count(), 0);
    assert_eq!(
        state
            .entries_by_selector(&Selector::parse("unix:uid:1000").unwrap())
            .count(),
        0
    );
    assert!(authorized(&cluster, AGENT).is_empty());
    let again = delete(&mut cluster, &["web", "", "no such id!"]);
    assert!(again.iter().all(|item| item.refusal() == Refusal::NotFound));
}

#[test]
fn an_entry_that_takes_a_deleted_id_has_a_higher_revision() {
    let mut cluster = Cluster::running();
    cluster.create(web());
    update(
        &mut cluster,
        Entry {
            hint: "2".into(),
            ..web()
        },
        0,
    );
    update(
        &mut cluster,
        Entry {
            hint: "3".into(),
            ..web()
        },
        0,
    );
    let made_before = cluster.entry_intent(AGENT, "web");
    delete(&mut cluster, &["web"]);
    let again = cluster.create(Entry {
        dns_names: vec!["new.example.org".into()],
        ..web()
    });
    assert_eq!(again.entry.unwrap().revision, 4);
    assert_eq!(cluster.issue(made_before).refusal(), Refusal::Stale);
}

#[test]
fn lookups_find_what_they_name_and_pages_continue() {
    let mut cluster = Cluster::running();
    for n in 0..5 {
        let path = format!("/w{}", n % 2);
        let uid = format!("unix:uid:{n}");
        cluster.create(entry(&format!("e{n}"), AGENT, &path, &["k:v", &uid]));
    }
    let ids = |entries: &mut dyn Iterator<Item = &mintmark_identity::entry::RegistrationEntry>| {
        entries
            .map(|entry| entry.id.to_string())
            .collect::<Vec<_>>()
    };
    let state = &cluster.state;
    assert_eq!(
        ids(&mut state.entries_by_spiffe_id(&spiffe("/w1"))),
        ["e1", "e3"]
    );
    assert_eq!(ids(&mut state.entries_by_parent(&spiffe(AGENT))).len(), 5);
    let one = Selector::parse("unix:uid:4").unwrap();
    assert_eq!(ids(&mut state.entries_by_selector(&one)), ["e4"]);
    let after = "e1".parse().unwrap();
    assert_eq!(
        ids(&mut state.entries_after(Some(&after)).take(2)),
        ["e2", "e3"]
    );
    assert_eq!(ids(&mut state.entries_after(None).take(1)), ["e0"]);
    assert_eq!(ids(&mut state.entries()), ["e0", "e1", "e2", "e3", "e4"]);
}

#[test]
fn expired_entries_are_pruned_with_a_leaf_and_a_denial_each() {
    let mut cluster = Cluster::running();
    let at = cluster.now / 1000 + 60;
    cluster.create(Entry {
        expires_at_seconds: at,
        ..web()
    });
    cluster.create(entry("stays", AGENT, "/stays", &["unix:uid:7"]));
    let applied = cluster.accept(by_server(1), Body::PruneExpired(PruneExpired {}));
    assert!(applied.events.is_empty() && applied.leaves.is_empty());
    cluster.sleep(MINUTE);
    let applied = cluster.accept(by_server(1), Body::PruneExpired(PruneExpired {}));
    assert!(
        matches!(&applied.events[..], [Event::EntryRemoved { id, .. }] if id.as_str() == "web")
    );
    let leaf = last_leaf(&applied);
    assert_eq!(
        (leaf.action.as_str(), leaf.reason.as_str()),
        ("entry.delete", "expired")
    );
    assert_eq!(cluster.state.entry_count(), 1);
}

// ---- who may serve what ------------------------------------------------------

#[test]
fn an_agent_serves_its_own_entries_and_no_others() {
    let mut cluster = Cluster::running();
    cluster.join("/spire/agent/test/b", &["node:b"]);
    cluster.create(web());
    cluster.create(entry(
        "other",
        "/spire/agent/test/b",
        "/other",
        &["unix:uid:1"],
    ));
    assert_eq!(authorized(&cluster, AGENT), ["web"]);
    assert_eq!(authorized(&cluster, "/spire/agent/test/b"), ["other"]);
    assert!(authorized(&cluster, "/spire/agent/test/unknown").is_empty());
}

#[test]
fn entries_nest_recursively_and_cycles_end() {
    let mut cluster = Cluster::running();
    cluster.create(entry("one", AGENT, "/one", &["a:1"]));
    cluster.create(entry("two", "/one", "/two", &["a:2"]));
    cluster.create(entry("three", "/two", "/three", &["a:3"]));
    cluster.create(entry("cycle", "/three", "/one", &["a:4"]));
    cluster.create(entry("apart", "/elsewhere", "/apart", &["a:5"]));
    assert_eq!(
        authorized(&cluster, AGENT),
        ["cycle", "one", "three", "two"]
    );
}

#[test]
fn nesting_is_followed_to_its_bound_and_all_walks_agree() {
    let mut cluster = Cluster::running();
    let mut parent = AGENT.to_owned();
    for n in 0..DEPTH_MAX + 3 {
        let path = format!("/level{n:02}");
        cluster.create(entry(&format!("e{n:02}"), &parent, &path, &["a:1"]));
        parent = path;
    }
    let found: BTreeSet<String> = authorized(&cluster, AGENT).into_iter().collect();
    assert_eq!(found.len(), DEPTH_MAX);
    let agent = spiffe(AGENT);
    for entry in cluster.state.entries() {
        let down = found.contains(entry.id.as_str());
        assert_eq!(
            cluster.state.is_authorized(&agent, entry),
            down,
            "{}",
            entry.id
        );
        let concerned = cluster
            .state
            .agents_concerned(&entry.parent_id, &entry.selectors);
        assert_eq!(concerned.contains(&agent), down, "{}", entry.id);
    }
}

#[test]
fn a_node_alias_covers_agents_whose_nodes_have_all_its_selectors() {
    let mut cluster = Cluster::running();
    cluster.join("/spire/agent/test/b", &["rack:1", "node:b"]);
    cluster.join("/spire/agent/test/c", &["rack:1", "gpu:yes"]);
    cluster.create(entry(
        "alias",
        "/spire/server",
        "/rack1",
        &["rack:1", "gpu:yes"],
    ));
    cluster.create(entry("job", "/rack1", "/job", &["unix:uid:5"]));
    assert_eq!(
        authorized(&cluster, "/spire/agent/test/c"),
        ["job"],
        "the alias itself is no SVID"
    );
    assert!(
        authorized(&cluster, "/spire/agent/test/b").is_empty(),
        "one selector is missing"
    );
    let job = cluster.state.entry(&"job".parse().unwrap()).unwrap();
    assert!(
        cluster
            .state
            .is_authorized(&spiffe("/spire/agent/test/c"), job)
    );
    assert!(
        !cluster
            .state
            .is_authorized(&spiffe("/spire/agent/test/b"), job)
    );
    let alias = cluster.state.entry(&"alias".parse().unwrap()).unwrap();
    assert!(
        !cluster
            .state
            .is_authorized(&spiffe("/spire/agent/test/c"), alias)
    );

    let c = BTreeSet::from([spiffe("/spire/agent/test/c")]);
    assert_eq!(
        cluster
            .state
            .agents_concerned(&alias.parent_id, &alias.selectors),
        c
    );
    assert_eq!(
        cluster
            .state
            .agents_concerned(&job.parent_id, &job.selectors),
        c
    );
    delete(&mut cluster, &["alias"]);
    assert!(authorized(&cluster, "/spire/agent/test/c").is_empty());
}

#[test]
fn an_alias_follows_the_selectors_of_a_node_that_attests_again() {
    let mut cluster = Cluster::running();
    cluster.create(entry("alias", "/spire/server", "/rack1", &["rack:1"]));
    cluster.create(entry("job", "/rack1", "/job", &["unix:uid:5"]));
    assert!(authorized(&cluster, AGENT).is_empty());
    cluster.join(AGENT, &["rack:1"]);
    assert_eq!(authorized(&cluster, AGENT), ["job"]);
    cluster.join(AGENT, &["rack:2"]);
    assert!(authorized(&cluster, AGENT).is_empty());
    cluster.accept(
        local(),
        Body::EvictAgent(EvictAgent {
            agent_id: id(AGENT),
        }),
    );
    let nobody = cluster
        .state
        .agents_concerned(&spiffe("/spire/server"), &have(&["rack:2"]));
    assert!(nobody.is_empty(), "an evicted node is in no index");
}

// ---- explain -----------------------------------------------------------------

#[test]
fn near_matches_name_what_is_missing_and_who_could_serve() {
    let mut cluster = Cluster::running();
    cluster.create(entry("hit", AGENT, "/hit", &["u:1"]));
    cluster.create(entry("near", AGENT, "/near", &["u:1", "p:x"]));
    cluster.create(entry("far", AGENT, "/far", &["u:1", "p:x", "q:y"]));
    cluster.create(entry("none", AGENT, "/none", &["z:z"]));
    cluster.create(entry("lost", "/nowhere", "/hit", &["u:1", "p:y"]));
    let state = &cluster.state;
    let found = state.explain_selectors(&have(&["u:1", "other:1"]), 1, 10);
    let shown: Vec<(&str, usize, usize)> = found
        .iter()
        .map(|near| {
            (
                near.entry.id.as_str(),
                near.missing.len(),
                near.agents.len(),
            )
        })
        .collect();
    assert_eq!(shown, [("hit", 0, 1), ("lost", 1, 0), ("near", 1, 1)]);
    assert_eq!(found[2].missing, [Selector::parse("p:x").unwrap()]);
    assert_eq!(
        state.explain_selectors(&have(&["u:1"]), 5, 2).len(),
        2,
        "bounded"
    );

    let of_id = state.explain_spiffe_id(&spiffe("/hit"), &have(&["u:1"]), 10);
    let ids: Vec<&str> = of_id.iter().map(|near| near.entry.id.as_str()).collect();
    assert_eq!(ids, ["hit", "lost"]);
    assert_eq!(of_id[0].agents, BTreeSet::from([spiffe(AGENT)]));
    assert!(
        state
            .explain_spiffe_id(&spiffe("/unknown"), &have(&[]), 10)
            .is_empty()
    );
}

#[test]
fn a_banned_agent_serves_nothing() {
    use mintmark_proto::mintmark::raft::v1::BanAgent;
    let mut cluster = Cluster::running();
    cluster.create(web());
    cluster.accept(
        local(),
        Body::BanAgent(BanAgent {
            agent_id: id(AGENT),
        }),
    );
    assert!(authorized(&cluster, AGENT).is_empty());
    let entry = cluster.state.entry(&"web".parse().unwrap()).unwrap();
    assert!(
        !cluster
            .state
            .is_authorized(&SpiffeId::parse(&id(AGENT)).unwrap(), entry)
    );
}
