//! Agents: attestation, join tokens, resume, ban, eviction, acknowledgements.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::too_many_lines,
    reason = "tests"
)]

mod state_support;

use ca_server::state::{ACKNOWLEDGEMENTS_MAX, Event, JOIN_TOKENS_MAX};
use mintmark_proto::mintmark::raft::v1::command::Body;
use mintmark_proto::mintmark::raft::v1::{
    AcknowledgeBundle, AttestNode, BanAgent, CreateJoinToken, EvictAgent, PruneExpired,
    RecordResume, Refusal, acknowledge_bundle::Acknowledgement,
};
use mintmark_proto::mintmark::state::v1::{AuthorityKind, Entry, JoinToken};
use state_support::*;

const AGENT: &str = "/spire/agent/test/a";
const TOKEN: &str = "6f8e9f3a-0d8e-4f57-9d8e-2c1f6a7b8c9d";

fn token(cluster: &Cluster, text: &str) -> JoinToken {
    JoinToken {
        token_sha256: sha(text),
        expires_at_ms: cluster.now + 10 * MINUTE,
        ..JoinToken::default()
    }
}

fn create(token: JoinToken, alias_entry: Option<Entry>) -> Body {
    Body::CreateJoinToken(CreateJoinToken {
        token: Some(token),
        alias_entry,
    })
}

fn with_token(text: &str) -> Cluster {
    let mut cluster = Cluster::running();
    let body = create(token(&cluster, text), None);
    cluster.accept(local(), body);
    cluster
}

fn join(cluster: &Cluster, text: &str, key: &str) -> AttestNode {
    AttestNode {
        join_token_sha256: sha(text),
        can_reattest: false,
        ..cluster.attest(&token_agent(text), &[], key)
    }
}

fn attest(body: AttestNode) -> Body {
    Body::AttestNode(body)
}

fn ban(path: &str) -> Body {
    Body::BanAgent(BanAgent { agent_id: id(path) })
}

fn evict(path: &str) -> Body {
    Body::EvictAgent(EvictAgent { agent_id: id(path) })
}

fn resume(path: &str, key: &str, new_key: &str) -> Body {
    Body::RecordResume(RecordResume {
        agent_id: id(path),
        key_spki_sha256: sha(key),
        new_key_spki_sha256: if new_key.is_empty() {
            Vec::new()
        } else {
            sha(new_key)
        },
    })
}

// ---- join tokens -------------------------------------------------------------

#[test]
fn a_token_serves_one_key_which_may_repeat() {
    let mut cluster = with_token(TOKEN);
    let first = join(&cluster, TOKEN, "k1");
    let applied = cluster.accept(nobody(), attest(first.clone()));
    let node = applied.result.node.clone().unwrap();
    assert_eq!(node.agent_id, id(&token_agent(TOKEN)));
    assert_eq!(node.key_spki_sha256, sha("k1"));
    assert_eq!(
        applied.events,
        [Event::AgentChanged(spiffe(&token_agent(TOKEN)))]
    );
    cluster.accept(nobody(), attest(first));

    let other = join(&cluster, TOKEN, "k2");
    let result = cluster.refuse(nobody(), attest(other), Refusal::TokenUsed);
    assert!(!result.detail.contains(TOKEN), "a detail names no token");
    assert_eq!(cluster.node(&token_agent(TOKEN)).key_spki_sha256, sha("k1"));
}

#[test]
fn two_agents_that_race_for_one_token_get_one_winner() {
    let mut cluster = with_token(TOKEN);
    let (a, b) = (join(&cluster, TOKEN, "a"), join(&cluster, TOKEN, "b"));
    cluster.accept(nobody(), attest(b));
    cluster.refuse(nobody(), attest(a), Refusal::TokenUsed);
    let consumed = cluster
        .state
        .join_token(&sha(TOKEN).try_into().unwrap())
        .unwrap();
    assert_eq!(consumed.consumed_by_spki_sha256, sha("b"));
}

#[test]
fn a_token_that_is_unknown_or_over_serves_nobody() {
    let mut cluster = with_token(TOKEN);
    let unknown = join(&cluster, "unknown", "k");
    cluster.refuse(nobody(), attest(unknown), Refusal::TokenUnknown);
    let ours = join(&cluster, TOKEN, "k");
    cluster.sleep(10 * MINUTE);
    cluster.refuse(nobody(), attest(ours.clone()), Refusal::TokenUnknown);
    cluster.accept(by_server(1), Body::PruneExpired(PruneExpired {}));
    assert_eq!(cluster.state.join_token_count(), 0);
    cluster.refuse(nobody(), attest(ours), Refusal::TokenUnknown);
}

#[test]
fn the_same_key_cannot_repeat_after_the_token_ended() {
    let mut cluster = with_token(TOKEN);
    let body = join(&cluster, TOKEN, "k");
    cluster.accept(nobody(), attest(body.clone()));
    cluster.sleep(10 * MINUTE);
    cluster.refuse(nobody(), attest(body), Refusal::TokenUnknown);
}

#[test]
fn an_agent_that_renewed_cannot_be_set_back_to_its_first_key() {
    let mut cluster = with_token(TOKEN);
    let path = token_agent(TOKEN);
    let body = join(&cluster, TOKEN, "k1");
    cluster.accept(nobody(), attest(body.clone()));
    let intent = cluster.agent_intent(&path, &[], "k1");
    let first = intent.serial.clone();
    assert_eq!(cluster.issue(intent).refusal(), Refusal::Unspecified);
    let intent = cluster.agent_intent(&path, &first, "k2");
    let second = intent.serial.clone();
    assert_eq!(cluster.issue(intent).refusal(), Refusal::Unspecified);
    // The reply may be lost: the first key still counts.
    cluster.accept(nobody(), attest(body.clone()));
    // Again, and this time the agent is seen with its second SVID.
    let intent = cluster.agent_intent(&path, &[], "k1");
    let third = intent.serial.clone();
    assert_eq!(cluster.issue(intent).refusal(), Refusal::Unspecified);
    let intent = cluster.agent_intent(&path, &second, "k2");
    assert_eq!(
        cluster.issue(intent).refusal(),
        Refusal::AgentSerial,
        "forgotten by attesting"
    );
    let intent = cluster.agent_intent(&path, &third, "k3");
    let fourth = intent.serial.clone();
    assert_eq!(cluster.issue(intent).refusal(), Refusal::Unspecified);
    let intent = cluster.agent_intent(&path, &fourth, "k4");
    assert_eq!(cluster.issue(intent).refusal(), Refusal::Unspecified);
    cluster.refuse(nobody(), attest(body), Refusal::AlreadyExists);
}

#[test]
fn the_agents_path_ends_in_the_token_it_uses() {
    let mut cluster = with_token(TOKEN);
    let body = AttestNode {
        agent_id: id(&token_agent("another")),
        ..join(&cluster, TOKEN, "k")
    };
    cluster.refuse(nobody(), attest(body), Refusal::Invalid);
    let body = AttestNode {
        join_token_sha256: Vec::new(),
        ..join(&cluster, TOKEN, "k")
    };
    cluster.refuse(nobody(), attest(body), Refusal::Invalid);
    let body = AttestNode {
        join_token_sha256: sha(TOKEN),
        ..cluster.attest(AGENT, &[], "k")
    };
    cluster.refuse(nobody(), attest(body), Refusal::Invalid);
}

#[test]
fn new_tokens_that_make_no_sense_are_refused() {
    let mut cluster = with_token(TOKEN);
    let good = token(&cluster, "good");
    for (bad, refusal) in [
        (token(&cluster, TOKEN), Refusal::AlreadyExists),
        (
            JoinToken {
                token_sha256: vec![1],
                ..good.clone()
            },
            Refusal::Invalid,
        ),
        (
            JoinToken {
                expires_at_ms: cluster.now,
                ..good.clone()
            },
            Refusal::Invalid,
        ),
        (
            JoinToken {
                agent_id: id(AGENT),
                ..good.clone()
            },
            Refusal::Invalid,
        ),
        (
            JoinToken {
                consumed_by_spki_sha256: sha("k"),
                ..good.clone()
            },
            Refusal::Invalid,
        ),
        (
            JoinToken {
                alias_spiffe_id: "no id".into(),
                ..good.clone()
            },
            Refusal::Invalid,
        ),
        (
            JoinToken {
                alias_spiffe_id: id(AGENT),
                ..good.clone()
            },
            Refusal::Invalid,
        ),
        (
            JoinToken {
                alias_spiffe_id: id(""),
                ..good.clone()
            },
            Refusal::Invalid,
        ),
        (
            JoinToken {
                alias_spiffe_id: "spiffe://other.org/x".into(),
                ..good.clone()
            },
            Refusal::Invalid,
        ),
    ] {
        cluster.refuse(local(), create(bad, None), refusal);
    }
    cluster.refuse(
        local(),
        Body::CreateJoinToken(CreateJoinToken::default()),
        Refusal::Invalid,
    );
    cluster.accept(local(), create(good, None));
}

#[test]
fn tokens_are_bounded_in_number() {
    let mut cluster = Cluster::running();
    // Applied without the checks of the harness, which re-encode the state.
    for n in 0..JOIN_TOKENS_MAX {
        let body = create(token(&cluster, &format!("t{n}")), None);
        let command = cluster.command(local(), body);
        cluster.state.apply(cluster.index, &command);
    }
    assert_eq!(cluster.state.join_token_count(), JOIN_TOKENS_MAX);
    let command = cluster.command(local(), create(token(&cluster, "one more"), None));
    let applied = cluster.state.apply(cluster.index, &command);
    assert_eq!(applied.result.refusal(), Refusal::Limit);
}

#[test]
fn an_alias_is_made_when_the_token_is_consumed() {
    let mut cluster = Cluster::running();
    let aliased = JoinToken {
        alias_spiffe_id: id("/rack1"),
        ..token(&cluster, TOKEN)
    };
    cluster.accept(local(), create(aliased, None));
    assert_eq!(
        cluster.state.entry_count(),
        0,
        "nothing bears the token yet"
    );
    let path = token_agent(TOKEN);
    let body = join(&cluster, TOKEN, "k");
    let applied = cluster.accept(nobody(), attest(body.clone()));
    assert_eq!(applied.leaves.len(), 2, "the attestation and the entry");
    let alias = cluster.state.entries().next().unwrap();
    assert_eq!(
        (&alias.spiffe_id, &alias.parent_id),
        (&spiffe("/rack1"), &spiffe(&path))
    );
    assert_eq!(
        alias.selectors.first().unwrap().to_string(),
        format!("spiffe_id:{}", id(&path))
    );
    let alias_id = alias.id.clone();

    cluster.create(entry("job", "/rack1", "/job", &["unix:uid:5"]));
    let serves: Vec<_> = cluster.state.authorized_entries(&spiffe(&path));
    assert_eq!(serves.len(), 2);
    // An operator may delete the alias; repeating the attestation does not bring it back.
    use mintmark_proto::mintmark::raft::v1::DeleteEntries;
    let ids = vec![alias_id.to_string()];
    cluster.accept(local(), Body::DeleteEntries(DeleteEntries { ids }));
    cluster.accept(nobody(), attest(body));
    assert_eq!(cluster.state.entry_count(), 1);
}

#[test]
fn an_alias_entry_that_comes_with_the_token_is_made_at_once_or_nothing_is() {
    let mut cluster = Cluster::running();
    let path = token_agent(TOKEN);
    let selector = format!("spiffe_id:{}", id(&path));
    let alias = entry("alias", &path, "/rack1", &[&selector]);
    let bad = Entry {
        spiffe_id: "nonsense".into(),
        ..alias.clone()
    };
    let refused = cluster.apply(local(), create(token(&cluster, TOKEN), Some(bad)));
    assert_eq!(refused.result.refusal(), Refusal::Invalid);
    assert_eq!(cluster.state.join_token_count(), 0);

    let body = create(token(&cluster, TOKEN), Some(alias));
    let applied = cluster.accept(local(), body);
    assert_eq!(applied.result.items.len(), 1);
    let body = join(&cluster, TOKEN, "k");
    cluster.accept(nobody(), attest(body));
    assert_eq!(cluster.state.entry_count(), 1, "not made twice");
    // Evicting the agent takes its aliases along, and only those.
    cluster.create(entry("child", &path, "/child", &["unix:uid:1"]));
    cluster.create(entry("both", &path, "/both", &[&selector, "unix:uid:1"]));
    cluster.create(entry("else", "/elsewhere", "/else", &[&selector]));
    cluster.create(entry("node", "/spire/server", "/node", &[&selector]));
    let applied = cluster.accept(local(), evict(&path));
    let left: Vec<_> = cluster.state.entries().map(|e| e.id.to_string()).collect();
    assert_eq!(left, ["both", "child", "else"]);
    assert!(matches!(&applied.events[0], Event::EntryRemoved { id, .. } if id.as_str() == "alias"));
    assert!(matches!(&applied.events[2], Event::AgentRemoved(_)));
}

#[test]
fn no_leaf_shows_a_token_before_it_is_consumed() {
    let mut cluster = Cluster::running();
    let path = token_agent(TOKEN);
    cluster.create(entry("early", &path, "/early", &["unix:uid:1"]));
    let selector = format!("spiffe_id:{}", id(&path));
    let alias = entry("alias", &path, "/rack1", &[&selector]);
    let body = create(token(&cluster, TOKEN), Some(alias));
    cluster.accept(local(), body);
    cluster.refuse(local(), ban(&path), Refusal::NotFound);
    let wrong = join(&cluster, TOKEN, "k");
    let wrong = AttestNode {
        csr_spki_sha256: vec![1],
        ..wrong
    };
    cluster.refuse(nobody(), attest(wrong), Refusal::Invalid);
    let shown = |cluster: &Cluster| {
        cluster
            .leaves
            .iter()
            .filter(|leaf| {
                leaf.windows(TOKEN.len())
                    .any(|window| window == TOKEN.as_bytes())
            })
            .count()
    };
    assert_eq!(shown(&cluster), 0);
    let parent = &cluster
        .decoded_leaves()
        .iter()
        .find_map(|leaf| leaf.entry.clone())
        .unwrap();
    let committed = format!("sha256:{}", hex::encode(sha(&id(&path))));
    assert_eq!(
        parent.parent_id, committed,
        "an auditor who knows the path finds it"
    );
    let body = join(&cluster, TOKEN, "k");
    cluster.accept(nobody(), attest(body));
    assert_eq!(shown(&cluster), 1, "consumed, it is only a name");
}

#[test]
fn a_token_for_servers_attests_no_agent() {
    let mut cluster = Cluster::running();
    let body = JoinToken {
        alias_spiffe_id: id("/spire/server"),
        ..token(&cluster, TOKEN)
    };
    cluster.accept(local(), create(body, None));
    let body = join(&cluster, TOKEN, "k");
    cluster.refuse(nobody(), attest(body), Refusal::TokenUnknown);
}

// ---- attestation ---------------------------------------------------------------

#[test]
fn an_attestation_is_recorded_and_logged() {
    let mut cluster = Cluster::running();
    let body = cluster.attest("/spire/agent/x509pop/n", &["b:2", "a:1", "a:1"], "k");
    let applied = cluster.accept(nobody(), attest(body));
    let node = applied.result.node.clone().unwrap();
    assert_eq!(node, cluster.node("/spire/agent/x509pop/n"));
    assert_eq!(
        node.selectors,
        selectors(&["a:1", "b:2"]),
        "sorted, without duplicates"
    );
    assert_eq!(
        (node.attestation_type.as_str(), node.can_reattest),
        ("x509pop", true)
    );
    assert_eq!(
        (node.attested_at_ms, node.svid_not_after_ms),
        (cluster.now, 0)
    );
    let leaf = last_leaf(&applied);
    assert_eq!(
        (leaf.action.as_str(), leaf.actor.as_str()),
        ("agent.attest", "nobody")
    );
    let attestation = leaf.attestation.unwrap();
    assert_eq!(
        (attestation.method.as_str(), attestation.selectors),
        ("x509pop", 3)
    );
    assert_eq!(attestation.spki_sha256, sha("k"));
    assert_eq!(attestation.evidence_sha256, sha("evidence"));
}

#[test]
fn attestations_that_make_no_sense_are_refused() {
    let mut cluster = Cluster::running();
    let good = cluster.attest(AGENT, &["a:1"], "k");
    for bad in [
        AttestNode {
            agent_id: "nonsense".into(),
            ..good.clone()
        },
        AttestNode {
            agent_id: id("/workload"),
            ..good.clone()
        },
        AttestNode {
            agent_id: id("/spire/server"),
            ..good.clone()
        },
        AttestNode {
            agent_id: "spiffe://other.org/spire/agent/test/a".into(),
            ..good.clone()
        },
        AttestNode {
            attestation_type: "other".into(),
            ..good.clone()
        },
        AttestNode {
            attestation_type: String::new(),
            ..good.clone()
        },
        AttestNode {
            csr_spki_sha256: Vec::new(),
            ..good.clone()
        },
        AttestNode {
            selectors: vec![Default::default()],
            ..good.clone()
        },
    ] {
        cluster.refuse(nobody(), attest(bad), Refusal::Invalid);
    }
    let many = (0..1025).map(|n| selector(&format!("n:{n}"))).collect();
    let bad = AttestNode {
        selectors: many,
        ..good
    };
    cluster.refuse(nobody(), attest(bad), Refusal::Limit);
}

#[test]
fn a_method_that_can_repeat_takes_a_new_key_and_starts_over() {
    let mut cluster = Cluster::running();
    let before = cluster.node(AGENT);
    assert!(!before.current_serial.is_empty() && before.acknowledged_bundle_sequence > 0);
    let body = cluster.attest(AGENT, &["node:new"], "new key");
    cluster.accept(nobody(), attest(body));
    let after = cluster.node(AGENT);
    assert_eq!(after.key_spki_sha256, sha("new key"));
    assert!(after.current_serial.is_empty() && after.pending_serial.is_empty());
    assert_eq!(
        after.acknowledged_bundle_sequence, 0,
        "it may have lost what it served"
    );
    assert_eq!(
        after.svid_not_after_ms, before.svid_not_after_ms,
        "the old SVID still lives"
    );
}

#[test]
fn a_method_that_works_once_does_not_take_a_second_key() {
    let mut cluster = Cluster::running();
    let once = |cluster: &Cluster, key: &str| {
        let body = cluster.attest("/spire/agent/tofu/n", &[], key);
        attest(AttestNode {
            can_reattest: false,
            ..body
        })
    };
    let body = once(&cluster, "k1");
    cluster.accept(nobody(), body.clone());
    cluster.accept(nobody(), body);
    let body = once(&cluster, "k2");
    cluster.refuse(nobody(), body.clone(), Refusal::AlreadyExists);
    cluster.accept(local(), evict("/spire/agent/tofu/n"));
    cluster.accept(nobody(), body);
}

// ---- ban and eviction ----------------------------------------------------------

#[test]
fn a_ban_survives_attestation_and_resume_and_ends_by_eviction() {
    let mut cluster = Cluster::running();
    let applied = cluster.accept(local(), ban(AGENT));
    assert_eq!(applied.events, [Event::AgentBanned(spiffe(AGENT))]);
    assert_eq!(last_leaf(&applied).action, "agent.ban");
    let body = cluster.attest(AGENT, &["node:a"], "k");
    cluster.refuse(nobody(), attest(body.clone()), Refusal::Banned);
    let body_resume = resume(AGENT, "/spire/agent/test/a key", "");
    cluster.refuse(nobody(), body_resume, Refusal::Banned);
    assert!(cluster.node(AGENT).banned);
    cluster.accept(local(), ban(AGENT));

    let applied = cluster.accept(local(), evict(AGENT));
    assert_eq!(applied.events, [Event::AgentRemoved(spiffe(AGENT))]);
    assert!(cluster.state.attested_node(&spiffe(AGENT)).is_none());
    cluster.accept(nobody(), attest(body));
}

#[test]
fn a_join_token_agent_does_not_come_back_after_ban_or_eviction() {
    for end in [ban, evict] {
        let mut cluster = with_token(TOKEN);
        let body = join(&cluster, TOKEN, "k");
        cluster.accept(nobody(), attest(body.clone()));
        cluster.accept(local(), end(&token_agent(TOKEN)));
        let hash = sha(TOKEN).try_into().unwrap();
        let token = cluster.state.join_token(&hash).unwrap();
        assert_eq!(token.expires_at_ms, cluster.now, "the token is over");
        let applied = cluster.apply(nobody(), attest(body));
        let refusal = applied.result.refusal();
        assert!(
            matches!(refusal, Refusal::Banned | Refusal::TokenUnknown),
            "{refusal:?}"
        );
    }
}

#[test]
fn agents_that_do_not_exist_cannot_be_banned_evicted_or_resumed() {
    let mut cluster = Cluster::running();
    let nowhere = "/spire/agent/test/nowhere";
    cluster.refuse(local(), ban(nowhere), Refusal::NotFound);
    cluster.refuse(local(), evict(nowhere), Refusal::NotFound);
    cluster.refuse(
        nobody(),
        resume(nowhere, "k", ""),
        Refusal::AgentNotAttested,
    );
    cluster.refuse(local(), ban("/workload"), Refusal::Invalid);
    cluster.refuse(local(), evict(""), Refusal::Invalid);
}

// ---- resume --------------------------------------------------------------------

#[test]
fn an_agent_resumes_with_its_key_and_gets_an_svid_for_it() {
    let mut cluster = Cluster::running();
    let key = "/spire/agent/test/a key";
    cluster.sleep(3 * HOUR);
    cluster.refuse(
        nobody(),
        resume(AGENT, "foreign", ""),
        Refusal::NotAuthorized,
    );
    let applied = cluster.accept(nobody(), resume(AGENT, key, ""));
    let leaf = last_leaf(&applied);
    assert_eq!(
        (leaf.action.as_str(), leaf.subject),
        ("agent.resume", id(AGENT))
    );
    assert_eq!(applied.result.node, Some(cluster.node(AGENT)));
    let intent = cluster.agent_intent(AGENT, &[], key);
    let serial = intent.serial.clone();
    assert_eq!(cluster.issue(intent).refusal(), Refusal::Unspecified);
    assert_eq!(cluster.node(AGENT).current_serial, serial);
    // An accepted resume lets in one SVID, not two.
    let intent = cluster.agent_intent(AGENT, &[], key);
    assert_eq!(cluster.issue(intent).refusal(), Refusal::AgentSerial);
}

#[test]
fn a_resume_with_a_new_key_strands_nobody_when_its_reply_is_lost() {
    let mut cluster = Cluster::running();
    let old = "/spire/agent/test/a key";
    cluster.accept(nobody(), resume(AGENT, old, "new"));
    let intent = cluster.agent_intent(AGENT, &[], "another");
    assert_eq!(cluster.issue(intent).refusal(), Refusal::AgentSerial);
    let intent = cluster.agent_intent(AGENT, &[], "new");
    let serial = intent.serial.clone();
    assert_eq!(cluster.issue(intent).refusal(), Refusal::Unspecified);
    // Lost: the old key still counts. Arrived: the new one does too.
    cluster
        .clone()
        .accept(nobody(), resume(AGENT, old, "newer"));
    cluster.clone().accept(nobody(), resume(AGENT, "new", ""));
    let intent = cluster.agent_intent(AGENT, &serial, "third");
    assert_eq!(cluster.issue(intent).refusal(), Refusal::Unspecified);
    assert_eq!(cluster.node(AGENT).key_spki_sha256, sha("new"));
    cluster.refuse(nobody(), resume(AGENT, old, ""), Refusal::NotAuthorized);
}

#[test]
fn an_agent_that_was_silent_for_more_than_30_days_attests_anew() {
    let mut cluster = Cluster::running();
    cluster.sleep(30 * 24 * HOUR);
    let body = resume(AGENT, "/spire/agent/test/a key", "");
    cluster.clone().accept(nobody(), body.clone());
    cluster.sleep(1);
    cluster.refuse(nobody(), body, Refusal::NotAuthorized);
}

#[test]
fn malformed_resumes_are_refused() {
    let mut cluster = Cluster::running();
    let good = RecordResume {
        agent_id: id(AGENT),
        key_spki_sha256: sha("/spire/agent/test/a key"),
        new_key_spki_sha256: Vec::new(),
    };
    for bad in [
        RecordResume {
            agent_id: id("/workload"),
            ..good.clone()
        },
        RecordResume {
            key_spki_sha256: Vec::new(),
            ..good.clone()
        },
        RecordResume {
            new_key_spki_sha256: vec![1],
            ..good
        },
    ] {
        cluster.refuse(nobody(), Body::RecordResume(bad), Refusal::Invalid);
    }
}

// ---- acknowledgements ------------------------------------------------------------

#[test]
fn the_key_and_svid_before_are_over_once_the_agent_was_seen_with_the_new_ones() {
    let mut cluster = Cluster::running();
    let agent = "/spire/agent/test/a";
    let first = cluster.node(agent).current_serial;
    let renewal = cluster.agent_intent(agent, &first, "second key");
    assert_eq!(cluster.issue(renewal).refusal(), Refusal::Unspecified);
    let second = cluster.node(agent).pending_serial;
    let seen = |serial: &[u8]| {
        Body::AcknowledgeBundle(AcknowledgeBundle {
            acknowledgements: vec![Acknowledgement {
                agent_id: id(agent),
                presented_serial: serial.to_vec(),
                ..Acknowledgement::default()
            }],
        })
    };
    let before = cluster.node(agent);
    for other in [&first, &vec![7; 16]] {
        cluster.accept(by_server(1), seen(other));
        assert_eq!(cluster.node(agent), before, "only the pending one is news");
    }
    cluster.accept(by_server(1), seen(&second));
    let after = cluster.node(agent);
    assert_eq!(after.current_serial, second);
    assert_eq!(after.key_spki_sha256, sha("second key"));
    assert!(after.pending_serial.is_empty() && after.pending_key_spki_sha256.is_empty());
    assert_eq!(
        (after.acknowledged_bundle_sequence, after.streams),
        (before.acknowledged_bundle_sequence, before.streams),
        "nothing else is said"
    );
    cluster.accept(by_server(1), seen(&second));
    assert_eq!(cluster.node(agent), after, "twice is once");
    let stolen = cluster.agent_intent(agent, &first, "thief's key");
    assert_eq!(cluster.issue(stolen).refusal(), Refusal::AgentSerial);
    let resume = |key: &str| {
        Body::RecordResume(RecordResume {
            agent_id: id(agent),
            key_spki_sha256: sha(key),
            new_key_spki_sha256: sha("thief's key"),
        })
    };
    let old = resume(&format!("{agent} key"));
    cluster.refuse(nobody(), old, Refusal::NotAuthorized);
    cluster.accept(nobody(), resume("second key"));
}

#[test]
fn acknowledgements_rise_and_never_run_ahead() {
    let mut cluster = Cluster::running();
    let sequence = cluster.state.bundle_sequence();
    assert_eq!(cluster.node(AGENT).acknowledged_bundle_sequence, sequence);
    let applied = cluster.accept(by_server(1), acknowledge(AGENT, sequence - 1));
    assert!(applied.leaves.is_empty(), "an acknowledgement is no act");
    let node = cluster.node(AGENT);
    assert_eq!(
        node.acknowledged_bundle_sequence, sequence,
        "it does not fall"
    );
    assert_eq!((node.agent_version.as_str(), node.streams), ("test", true));
    let applied = cluster.apply(by_server(1), acknowledge(AGENT, sequence + 1));
    assert_eq!(applied.result.items[0].refusal(), Refusal::Invalid);
    assert_eq!(cluster.node(AGENT).acknowledged_bundle_sequence, sequence);
}

#[test]
fn a_polling_agent_acknowledges_by_polling_again() {
    let mut cluster = Cluster::running();
    let prepare = cluster.prepare("x1", AuthorityKind::X509, 2);
    cluster.accept(by_server(1), prepare);
    let before = cluster.state.bundle_sequence();
    cluster.accept(by_server(1), publish("x1"));
    let after = cluster.state.bundle_sequence();
    cluster.accept(by_server(1), acknowledge_by(AGENT, after, false));
    let node = cluster.node(AGENT);
    assert_eq!(
        (node.acknowledged_bundle_sequence, node.streams),
        (before, false)
    );
    cluster.accept(by_server(1), acknowledge_by(AGENT, after, false));
    assert_eq!(cluster.node(AGENT).acknowledged_bundle_sequence, after);
}

#[test]
fn acknowledgements_of_strangers_and_too_many_are_refused() {
    let mut cluster = Cluster::running();
    let applied = cluster.apply(by_server(1), acknowledge("/spire/agent/test/no", 0));
    assert_eq!(applied.result.items[0].refusal(), Refusal::AgentNotAttested);
    cluster.accept(local(), ban(AGENT));
    let applied = cluster.apply(by_server(1), acknowledge(AGENT, 0));
    assert_eq!(applied.result.items[0].refusal(), Refusal::Banned);
    let one = Acknowledgement {
        agent_id: id(AGENT),
        ..Acknowledgement::default()
    };
    let acknowledgements = vec![one; ACKNOWLEDGEMENTS_MAX + 1];
    let body = Body::AcknowledgeBundle(AcknowledgeBundle { acknowledgements });
    cluster.refuse(by_server(1), body, Refusal::Limit);
}
