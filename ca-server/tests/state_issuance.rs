//! Which intents are accepted, and which are not.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::too_many_lines,
    reason = "tests"
)]

mod state_support;

use ca_server::state::{INTENTS_MAX, refusal_code};
use mintmark_proto::mintmark::raft::v1::command::Body;
use mintmark_proto::mintmark::raft::v1::intent::{AgentSubject, EntrySubject, Kind, Subject};
use mintmark_proto::mintmark::raft::v1::{
    BanAgent, DeleteEntries, EvictAgent, Intent, IssueBatch, PruneExpired, Refusal, TaintAuthority,
    UpdateEntries, activate_authority, update_entries::Update,
};
use mintmark_proto::mintmark::state::v1::{AuthorityKind, Entry};
use state_support::*;

const AGENT: &str = "/spire/agent/test/a";
const OTHER: &str = "/spire/agent/test/b";

/// A running cluster with entry `web` under the agent.
fn with_entry() -> Cluster {
    let mut cluster = Cluster::running();
    cluster.create(entry("web", AGENT, "/web", &["unix:uid:1000"]));
    cluster
}

fn jwt(intent: Intent) -> Intent {
    Intent {
        kind: Kind::Jwt.into(),
        serial: Vec::new(),
        spki_sha256: Vec::new(),
        authority_id: "j0".into(),
        not_after_ms: intent.not_before_ms + 10_000 + 300_000,
        audience_sha256: sha("audience"),
        ..intent
    }
}

/// Issues what `change` makes of a good intent for entry `web`.
fn outcome(cluster: &mut Cluster, change: impl FnOnce(&mut Intent)) -> Refusal {
    let mut intent = cluster.entry_intent(AGENT, "web");
    change(&mut intent);
    let before = cluster.state.live_serial_count();
    let item = cluster.issue(intent);
    let leaf = cluster.decoded_leaves().pop().unwrap();
    if item.refusal() == Refusal::Unspecified {
        assert_eq!(leaf.decision, "accepted");
    } else {
        assert!(!item.detail.is_empty());
        assert_eq!(
            cluster.state.live_serial_count(),
            before,
            "a denial takes no serial"
        );
        if item.refusal() != Refusal::Stale {
            assert_eq!(leaf.decision, "denied");
            assert_eq!(leaf.reason, refusal_code(item.refusal()));
        }
    }
    item.refusal()
}

// ---- entries -------------------------------------------------------------------

#[test]
fn an_intent_for_an_authorised_entry_is_accepted_and_logged() {
    let mut cluster = with_entry();
    let intent = cluster.entry_intent(AGENT, "web");
    let item = cluster.issue(intent.clone());
    assert_eq!(item.refusal(), Refusal::Unspecified, "{}", item.detail);
    let leaf = cluster.decoded_leaves().pop().unwrap();
    assert_eq!(leaf.index, item.leaf_index);
    assert_eq!(
        (leaf.action.as_str(), leaf.subject),
        ("x509.issue", id("/web"))
    );
    assert_eq!(leaf.actor, "server/1");
    let issuance = leaf.issuance.unwrap();
    assert_eq!(
        (issuance.kind.as_str(), issuance.basis.as_str()),
        ("x509", "entry")
    );
    assert_eq!(
        (issuance.serial, issuance.svid_hash),
        (intent.serial, intent.svid_hash)
    );
    assert_eq!(
        (issuance.entry_id.as_str(), issuance.entry_revision),
        ("web", 1)
    );
    assert_eq!(
        (issuance.agent, issuance.authority_id.as_str()),
        (id(AGENT), "x0")
    );
    assert_eq!(
        (issuance.not_before_ms, issuance.not_after_ms),
        (intent.not_before_ms, intent.not_after_ms)
    );
    assert_eq!(
        (issuance.spki_sha256, issuance.profile_version),
        (intent.spki_sha256, 1)
    );
    let authority = cluster.state.authority("x0").unwrap();
    assert!(authority.last_svid_not_after_ms >= intent.not_after_ms);
}

#[test]
fn the_subject_comes_from_the_entry_and_not_from_the_intent() {
    let mut cluster = with_entry();
    assert_eq!(
        outcome(&mut cluster, |i| i.spiffe_id = id("/db")),
        Refusal::Invalid
    );
    assert_eq!(
        outcome(&mut cluster, |i| i.spiffe_id = id(AGENT)),
        Refusal::Invalid
    );
    assert_eq!(
        outcome(&mut cluster, |i| i.spiffe_id = "nonsense".into()),
        Refusal::Invalid
    );
    assert_eq!(
        outcome(&mut cluster, |i| i.spiffe_id.clear()),
        Refusal::Invalid
    );
    assert_eq!(outcome(&mut cluster, |_| {}), Refusal::Unspecified);
}

#[test]
fn an_intent_made_from_an_outdated_entry_is_stale_and_leaves_nothing() {
    let mut cluster = with_entry();
    let made_before = cluster.entry_intent(AGENT, "web");
    let changed = entry("web", AGENT, "/web", &["unix:uid:1001"]);
    let updates = vec![Update {
        entry: Some(changed),
        expected_revision: 0,
    }];
    cluster.accept(local(), Body::UpdateEntries(UpdateEntries { updates }));
    let leaves = cluster.leaves.len();
    assert_eq!(cluster.issue(made_before).refusal(), Refusal::Stale);
    assert_eq!(cluster.leaves.len(), leaves);
}

#[test]
fn after_a_deletion_nothing_is_accepted_for_the_entry() {
    let mut cluster = with_entry();
    let made_before = cluster.entry_intent(AGENT, "web");
    let ids = vec!["web".to_owned()];
    cluster.accept(local(), Body::DeleteEntries(DeleteEntries { ids }));
    assert_eq!(cluster.issue(made_before).refusal(), Refusal::NotFound);
}

#[test]
fn an_expired_entry_gives_nothing_even_before_it_is_pruned() {
    let mut cluster = with_entry();
    let at = cluster.now / 1000 + 60;
    let expiring = entry("soon", AGENT, "/soon", &["unix:uid:7"]);
    cluster.create(Entry {
        expires_at_seconds: at,
        ..expiring
    });
    let intent = cluster.entry_intent(AGENT, "soon");
    assert_eq!(cluster.issue(intent).refusal(), Refusal::Unspecified);
    cluster.sleep(MINUTE);
    let intent = cluster.entry_intent(AGENT, "soon");
    assert_eq!(cluster.issue(intent).refusal(), Refusal::NotFound);
}

#[test]
fn an_agent_gets_only_what_is_under_it() {
    let mut cluster = with_entry();
    cluster.join(OTHER, &["node:b"]);
    let foreign = |intent: &mut Intent| intent.requesting_agent = id(OTHER);
    assert_eq!(outcome(&mut cluster, foreign), Refusal::NotAuthorized);
    let unknown = |intent: &mut Intent| intent.requesting_agent = id("/spire/agent/test/no");
    assert_eq!(outcome(&mut cluster, unknown), Refusal::AgentNotAttested);
    let nobody = |intent: &mut Intent| intent.requesting_agent.clear();
    assert_eq!(outcome(&mut cluster, nobody), Refusal::Invalid);
    let workload = |intent: &mut Intent| intent.requesting_agent = id("/web");
    assert_eq!(outcome(&mut cluster, workload), Refusal::Invalid);
}

#[test]
fn after_a_ban_or_an_eviction_nothing_is_accepted_for_the_agent() {
    let ban = Body::BanAgent(BanAgent {
        agent_id: id(AGENT),
    });
    let evict = Body::EvictAgent(EvictAgent {
        agent_id: id(AGENT),
    });
    for (end, refusal) in [(ban, Refusal::Banned), (evict, Refusal::AgentNotAttested)] {
        let mut cluster = with_entry();
        let serial = cluster.node(AGENT).current_serial;
        let entry = cluster.entry_intent(AGENT, "web");
        let own = cluster.agent_intent(AGENT, &serial, "k2");
        cluster.accept(local(), end);
        assert_eq!(cluster.issue(entry).refusal(), refusal);
        assert_eq!(cluster.issue(own).refusal(), refusal);
    }
}

#[test]
fn a_ban_between_two_intents_counts_for_the_second() {
    let mut cluster = with_entry();
    let first = cluster.entry_intent(AGENT, "web");
    let second = cluster.entry_intent(AGENT, "web");
    assert_eq!(cluster.issue(first).refusal(), Refusal::Unspecified);
    cluster.accept(
        local(),
        Body::BanAgent(BanAgent {
            agent_id: id(AGENT),
        }),
    );
    assert_eq!(cluster.issue(second).refusal(), Refusal::Banned);
}

#[test]
fn lifetimes_are_bounded_by_policy_and_entry() {
    let mut cluster = with_entry();
    assert_eq!(
        outcome(&mut cluster, |_| {}),
        Refusal::Unspecified,
        "one hour is the default"
    );
    assert_eq!(
        outcome(&mut cluster, |i| i.not_after_ms += 1),
        Refusal::Invalid
    );
    let short = entry("short", AGENT, "/short", &["unix:uid:1"]);
    cluster.create(Entry {
        x509_svid_ttl_seconds: 60,
        jwt_svid_ttl_seconds: 30,
        ..short
    });
    let long = entry("long", AGENT, "/long", &["unix:uid:2"]);
    cluster.create(Entry {
        x509_svid_ttl_seconds: 4 * 3600 + 1,
        ..long
    });
    for (name, ttl_max) in [("short", MINUTE), ("long", 4 * HOUR)] {
        let mut intent = cluster.entry_intent(AGENT, name);
        intent.not_after_ms = intent.not_before_ms + 10_000 + ttl_max;
        assert_eq!(
            cluster.issue(intent.clone()).refusal(),
            Refusal::Unspecified,
            "{name}"
        );
        intent.serial = cluster.next_serial();
        intent.not_after_ms += 1;
        assert_eq!(cluster.issue(intent).refusal(), Refusal::Invalid, "{name}");
    }
    let mut token = jwt(cluster.entry_intent(AGENT, "short"));
    assert_eq!(
        cluster.issue(token.clone()).refusal(),
        Refusal::Invalid,
        "5 min"
    );
    token.not_after_ms = token.not_before_ms + 10_000 + 30_000;
    assert_eq!(cluster.issue(token).refusal(), Refusal::Unspecified);
}

#[test]
fn the_issuing_servers_clock_may_be_5_seconds_off() {
    for (off, refusal) in [
        (-6_000, Refusal::Clock),
        (-5_000, Refusal::Unspecified),
        (0, Refusal::Unspecified),
        (5_000, Refusal::Unspecified),
        (6_000, Refusal::Clock),
        (i64::MAX / 2, Refusal::Clock),
        (i64::MIN / 2, Refusal::Clock),
    ] {
        let mut cluster = with_entry();
        // So that the authority's own beginning is not what refuses.
        cluster.sleep(MINUTE);
        let moved = |intent: &mut Intent| {
            intent.not_before_ms = intent.not_before_ms.saturating_add(off);
            intent.not_after_ms = intent.not_before_ms.saturating_add(HOUR + 10_000);
        };
        // The good intent begins in the second of command time, which is whole.
        assert_eq!(cluster.now % 1000, 0);
        // Far off, the authority's own validity refuses first.
        let allowed = [refusal, Refusal::Authority];
        let found = outcome(&mut cluster, moved);
        let far = off.abs() > HOUR;
        assert!(
            if far {
                allowed.contains(&found)
            } else {
                found == refusal
            },
            "{off}: {found:?}"
        );
    }
}

#[test]
fn an_svid_that_ends_before_it_begins_or_now_is_refused() {
    let mut cluster = with_entry();
    assert_eq!(
        outcome(&mut cluster, |i| i.not_after_ms = i.not_before_ms),
        Refusal::Invalid
    );
    assert_eq!(
        outcome(&mut cluster, |i| i.not_after_ms = i.not_before_ms - 1),
        Refusal::Invalid
    );
    assert_eq!(
        outcome(&mut cluster, |i| i.not_after_ms = i.not_before_ms + 1),
        Refusal::Invalid
    );
    let ends = |not_after_ms| move |intent: &mut Intent| intent.not_after_ms = not_after_ms;
    assert_eq!(outcome(&mut cluster, ends(i64::MIN)), Refusal::Invalid);
    assert_eq!(outcome(&mut cluster, ends(i64::MAX)), Refusal::Authority);
}

// ---- form ------------------------------------------------------------------------

#[test]
fn malformed_intents_are_refused() {
    let mut cluster = with_entry();
    let cases: [fn(&mut Intent); 9] = [
        |i| i.kind = Kind::Unspecified.into(),
        |i| i.kind = 99,
        |i| i.subject = None,
        |i| i.svid_hash.clear(),
        |i| i.spki_sha256.truncate(31),
        |i| i.serial = vec![0; 16],
        |i| i.serial.push(1),
        |i| i.serial.clear(),
        |i| {
            i.subject = Some(Subject::Entry(EntrySubject {
                id: "a b".into(),
                revision: 1,
            }));
        },
    ];
    for change in cases {
        assert_eq!(outcome(&mut cluster, change), Refusal::Invalid);
    }
}

#[test]
fn a_batch_has_1_to_1024_intents_and_a_leaf_for_each() {
    let mut cluster = with_entry();
    cluster.refuse(by_server(1), batch(Vec::new()), Refusal::Invalid);
    let good = cluster.entry_intent(AGENT, "web");
    let many = vec![good; INTENTS_MAX + 1];
    cluster.refuse(by_server(1), batch(many), Refusal::Limit);
    let mut intents: Vec<Intent> = (0..5).map(|_| cluster.entry_intent(AGENT, "web")).collect();
    intents[1].spiffe_id = id("/other");
    intents[3].serial = intents[2].serial.clone();
    let applied = cluster.apply(by_server(1), batch(intents));
    let outcomes: Vec<Refusal> = applied
        .result
        .items
        .iter()
        .map(|item| item.refusal())
        .collect();
    let expected = [
        Refusal::Unspecified,
        Refusal::Invalid,
        Refusal::Unspecified,
        Refusal::SerialReused,
        Refusal::Unspecified,
    ];
    assert_eq!(outcomes, expected);
    assert_eq!(applied.leaves.len(), 5);
}

#[test]
fn a_serial_is_taken_until_its_svid_ends() {
    let mut cluster = with_entry();
    let first = cluster.entry_intent(AGENT, "web");
    assert_eq!(cluster.issue(first.clone()).refusal(), Refusal::Unspecified);
    let taken = first.serial.clone();
    let reuse = |cluster: &mut Cluster| {
        let serial = taken.clone();
        outcome(cluster, |intent| intent.serial = serial)
    };
    assert_eq!(reuse(&mut cluster), Refusal::SerialReused);
    cluster.sleep(HOUR);
    cluster.accept(by_server(1), Body::PruneExpired(PruneExpired {}));
    assert_eq!(
        reuse(&mut cluster),
        Refusal::SerialReused,
        "valid until the end of the instant"
    );
    cluster.sleep(1);
    cluster.accept(by_server(1), Body::PruneExpired(PruneExpired {}));
    assert_eq!(cluster.state.live_serial_count(), 0);
    assert_eq!(reuse(&mut cluster), Refusal::Unspecified);
}

// ---- authorities -------------------------------------------------------------------

#[test]
fn only_the_active_untainted_authority_of_the_kind_signs() {
    let mut cluster = with_entry();
    assert_eq!(
        outcome(&mut cluster, |i| i.authority_id = "j0".into()),
        Refusal::Authority
    );
    assert_eq!(
        outcome(&mut cluster, |i| i.authority_id = "none".into()),
        Refusal::Authority
    );
    assert_eq!(
        outcome(&mut cluster, |i| i.authority_id.clear()),
        Refusal::Authority
    );
    let prepare = cluster.prepare("x1", AuthorityKind::X509, 2);
    cluster.accept(by_server(1), prepare);
    assert_eq!(
        outcome(&mut cluster, |i| i.authority_id = "x1".into()),
        Refusal::Authority
    );
    cluster.accept(by_server(1), publish("x1"));
    assert_eq!(
        outcome(&mut cluster, |i| i.authority_id = "x1".into()),
        Refusal::Authority
    );
    cluster.accept(
        local(),
        activate("x1", activate_authority::Ground::Operator),
    );
    assert_eq!(
        outcome(&mut cluster, |_| {}),
        Refusal::Authority,
        "x0 is old now"
    );
    assert_eq!(
        outcome(&mut cluster, |i| i.authority_id = "x1".into()),
        Refusal::Unspecified
    );
    let taint = TaintAuthority {
        authority_id: "x1".into(),
    };
    cluster.accept(local(), Body::TaintAuthority(taint));
    assert_eq!(
        outcome(&mut cluster, |i| i.authority_id = "x1".into()),
        Refusal::Authority
    );
}

#[test]
fn an_svid_lies_within_its_authority() {
    let mut cluster = with_entry();
    let end = cluster.state.authority("x0").unwrap().not_after_ms;
    cluster.sleep(CA_TTL - 10 * MINUTE);
    assert_eq!(
        outcome(&mut cluster, |_| {}),
        Refusal::Authority,
        "it would live 50 min longer"
    );
    assert_eq!(
        outcome(&mut cluster, |i| i.not_after_ms = end),
        Refusal::Unspecified
    );
    assert_eq!(
        outcome(&mut cluster, |i| i.not_after_ms = end + 1),
        Refusal::Authority
    );
    cluster.sleep(10 * MINUTE);
    assert_eq!(
        outcome(&mut cluster, |i| i.not_after_ms = end),
        Refusal::Authority,
        "expired"
    );
}

// ---- tokens --------------------------------------------------------------------------

#[test]
fn jwt_intents_have_an_audience_and_no_serial() {
    let mut cluster = with_entry();
    let good = jwt(cluster.entry_intent(AGENT, "web"));
    let item = cluster.issue(good.clone());
    assert_eq!(item.refusal(), Refusal::Unspecified, "{}", item.detail);
    let leaf = cluster.decoded_leaves().pop().unwrap();
    assert_eq!(leaf.action, "jwt.issue");
    assert_eq!(leaf.issuance.unwrap().audience_sha256, sha("audience"));
    assert_eq!(
        cluster.issue(good.clone()).refusal(),
        Refusal::Unspecified,
        "no serial to reuse"
    );
    for bad in [
        Intent {
            audience_sha256: Vec::new(),
            ..good.clone()
        },
        Intent {
            serial: vec![1; 16],
            ..good.clone()
        },
        Intent {
            not_after_ms: good.not_after_ms + 1,
            ..good.clone()
        },
    ] {
        assert_eq!(cluster.issue(bad).refusal(), Refusal::Invalid);
    }
    let wrong = Intent {
        authority_id: "x0".into(),
        ..good.clone()
    };
    assert_eq!(cluster.issue(wrong).refusal(), Refusal::Authority);
    // Issued at, not backdated.
    let at = Intent {
        not_before_ms: cluster.now + 5_000,
        ..good.clone()
    };
    assert_eq!(cluster.issue(at).refusal(), Refusal::Unspecified);
    let ahead = Intent {
        not_before_ms: cluster.now + 5_001,
        ..good
    };
    assert_eq!(cluster.issue(ahead).refusal(), Refusal::Clock);
}

// ---- agents ----------------------------------------------------------------------------

#[test]
fn a_renewal_counts_once_the_agent_is_seen_with_it() {
    let mut cluster = Cluster::running();
    let first = cluster.node(AGENT).current_serial;
    let intent = cluster.agent_intent(AGENT, &first, "k2");
    let second = intent.serial.clone();
    assert_eq!(cluster.issue(intent).refusal(), Refusal::Unspecified);
    let node = cluster.node(AGENT);
    assert_eq!(
        (&node.current_serial, &node.pending_serial),
        (&first, &second)
    );
    assert_eq!(node.key_spki_sha256, sha("/spire/agent/test/a key"));
    assert_eq!(node.pending_key_spki_sha256, sha("k2"));

    // The reply was lost: the agent comes with its old SVID, and again.
    let intent = cluster.agent_intent(AGENT, &first, "k3");
    let third = intent.serial.clone();
    assert_eq!(cluster.issue(intent).refusal(), Refusal::Unspecified);
    let intent = cluster.agent_intent(AGENT, &second, "k4");
    assert_eq!(
        cluster.issue(intent).refusal(),
        Refusal::AgentSerial,
        "replaced before it was seen"
    );

    let intent = cluster.agent_intent(AGENT, &third, "k4");
    let fourth = intent.serial.clone();
    assert_eq!(cluster.issue(intent).refusal(), Refusal::Unspecified);
    let node = cluster.node(AGENT);
    assert_eq!((node.current_serial, node.pending_serial), (third, fourth));
    assert_eq!(
        (node.key_spki_sha256, node.pending_key_spki_sha256),
        (sha("k3"), sha("k4"))
    );
    let intent = cluster.agent_intent(AGENT, &first, "k5");
    assert_eq!(
        cluster.issue(intent).refusal(),
        Refusal::AgentSerial,
        "superseded for good"
    );
}

#[test]
fn an_agents_svid_is_its_own_and_x509() {
    let mut cluster = Cluster::running();
    cluster.join(OTHER, &["node:b"]);
    let serial = cluster.node(AGENT).current_serial;
    let good = cluster.agent_intent(AGENT, &serial, "k2");
    let other = Subject::Agent(AgentSubject {
        agent_id: id(OTHER),
        presented_serial: serial.clone(),
    });
    for (bad, refusal) in [
        (
            Intent {
                spiffe_id: id(OTHER),
                ..good.clone()
            },
            Refusal::Invalid,
        ),
        (
            Intent {
                spiffe_id: id("/spire/server"),
                ..good.clone()
            },
            Refusal::Invalid,
        ),
        (
            Intent {
                subject: Some(other),
                spiffe_id: id(OTHER),
                ..good.clone()
            },
            Refusal::AgentSerial,
        ),
        (jwt(good.clone()), Refusal::Invalid),
        (
            Intent {
                not_after_ms: good.not_after_ms + 1,
                ..good.clone()
            },
            Refusal::Invalid,
        ),
    ] {
        assert_eq!(cluster.issue(bad).refusal(), refusal);
    }
    let without = cluster.agent_intent(AGENT, &[], "/spire/agent/test/a key");
    assert_eq!(
        cluster.issue(without).refusal(),
        Refusal::AgentSerial,
        "it has one to present"
    );
    assert_eq!(cluster.issue(good).refusal(), Refusal::Unspecified);
}

#[test]
fn the_first_svid_is_for_the_attested_key() {
    let mut cluster = Cluster::running();
    let attest = cluster.attest(OTHER, &[], "attested");
    cluster.accept(nobody(), Body::AttestNode(attest));
    let intent = cluster.agent_intent(OTHER, &[], "another");
    assert_eq!(cluster.issue(intent).refusal(), Refusal::AgentSerial);
    let intent = cluster.agent_intent(OTHER, &[], "attested");
    let not_after = intent.not_after_ms;
    assert_eq!(cluster.issue(intent).refusal(), Refusal::Unspecified);
    let node = cluster.node(OTHER);
    assert_eq!(
        (node.svid_not_after_ms, node.last_issued_at_ms),
        (not_after, cluster.now)
    );
    let leaf = cluster.decoded_leaves().pop().unwrap();
    let issuance = leaf.issuance.unwrap();
    assert_eq!(
        (issuance.basis.as_str(), issuance.agent),
        ("agent", id(OTHER))
    );
}

// ---- servers and operators ----------------------------------------------------------------

#[test]
fn a_server_gets_the_servers_id_for_itself() {
    let mut cluster = Cluster::running();
    let good = cluster.server_intent(1);
    assert_eq!(
        cluster.issue_by(by_server(1), good.clone()).refusal(),
        Refusal::Unspecified
    );
    let good = Intent {
        serial: cluster.next_serial(),
        ..good
    };
    let renamed = Intent {
        spiffe_id: id("/spire/server/1"),
        ..good.clone()
    };
    assert_eq!(cluster.issue(renamed).refusal(), Refusal::Invalid);
    let unknown = cluster.server_intent(2);
    assert_eq!(
        cluster.issue_by(local(), unknown.clone()).refusal(),
        Refusal::NotFound
    );
    assert_eq!(
        cluster.issue(unknown).refusal(),
        Refusal::NotAuthorized,
        "another server's"
    );
    let token = jwt(good);
    assert_eq!(cluster.issue(token).refusal(), Refusal::Invalid);
}

#[test]
fn only_operators_mint_and_only_workload_ids() {
    let mut cluster = with_entry();
    let admin = entry("admin", AGENT, "/admin", &["unix:uid:0"]);
    cluster.create(Entry {
        admin: true,
        ..admin
    });
    let mint = cluster.mint_intent("/anything");
    for actor in [by_server(1), by_agent(AGENT), nobody()] {
        let item = cluster.issue_by(actor, mint.clone());
        assert_eq!(item.refusal(), Refusal::NotAuthorized);
    }
    assert_eq!(
        cluster.issue_by(local(), mint.clone()).refusal(),
        Refusal::Unspecified
    );
    let mint = cluster.mint_intent("/anything");
    assert_eq!(
        cluster.issue_by(by_admin("/admin"), mint).refusal(),
        Refusal::Unspecified
    );
    let leaf = cluster.decoded_leaves().pop().unwrap();
    assert_eq!(
        (leaf.actor, leaf.issuance.unwrap().basis),
        (id("/admin"), "admin-mint".into())
    );

    for spiffe_id in [
        id(""),
        id("/spire/server"),
        id("/spire/agent/test/a"),
        "spiffe://other.org/x".to_owned(),
        "nonsense".to_owned(),
    ] {
        let bad = Intent {
            spiffe_id,
            ..cluster.mint_intent("/x")
        };
        assert_eq!(cluster.issue_by(local(), bad).refusal(), Refusal::Invalid);
    }
    let token = jwt(cluster.mint_intent("/anything"));
    assert_eq!(
        cluster.issue_by(local(), token).refusal(),
        Refusal::Unspecified
    );
    let mut long = cluster.mint_intent("/anything");
    long.not_after_ms = long.not_before_ms + 10_000 + CA_TTL / 6;
    assert_eq!(
        cluster.issue_by(local(), long.clone()).refusal(),
        Refusal::Unspecified
    );
    let longer = Intent {
        not_after_ms: long.not_after_ms + 1,
        serial: cluster.next_serial(),
        ..long
    };
    assert_eq!(
        cluster.issue_by(local(), longer).refusal(),
        Refusal::Invalid
    );
}

#[test]
fn an_actor_asks_for_itself() {
    let mut cluster = with_entry();
    cluster.join(OTHER, &["node:b"]);
    let for_a = cluster.entry_intent(AGENT, "web");
    assert_eq!(
        cluster.issue_by(by_agent(OTHER), for_a.clone()).refusal(),
        Refusal::NotAuthorized
    );
    assert_eq!(
        cluster.issue_by(nobody(), for_a.clone()).refusal(),
        Refusal::NotAuthorized
    );
    assert_eq!(
        cluster.issue_by(by_agent(AGENT), for_a).refusal(),
        Refusal::Unspecified
    );

    let serial = cluster.node(AGENT).current_serial;
    let own = cluster.agent_intent(AGENT, &serial, "k2");
    assert_eq!(
        cluster.issue_by(by_agent(OTHER), own.clone()).refusal(),
        Refusal::NotAuthorized
    );
    assert_eq!(
        cluster.issue_by(nobody(), own.clone()).refusal(),
        Refusal::NotAuthorized
    );
    assert_eq!(
        cluster.issue_by(by_agent(AGENT), own).refusal(),
        Refusal::Unspecified
    );
    let server = cluster.server_intent(1);
    assert_eq!(
        cluster.issue_by(by_agent(AGENT), server).refusal(),
        Refusal::NotAuthorized
    );
}

#[test]
fn an_idempotency_key_means_nothing_for_issuance() {
    let mut cluster = with_entry();
    let intent = cluster.entry_intent(AGENT, "web");
    let body = Body::IssueBatch(IssueBatch {
        intents: vec![intent],
    });
    let mut command = cluster.command(by_server(1), body);
    command.idempotency_key = vec![5; 16];
    let first = cluster.apply_command(&command);
    let second = cluster.apply_command(&command);
    assert_eq!(first.result.items[0].refusal(), Refusal::Unspecified);
    assert_eq!(second.result.items[0].refusal(), Refusal::SerialReused);
    assert!(!second.result.replayed);
}
