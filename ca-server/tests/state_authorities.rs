//! The life of an authority, the bundle that follows it, and who must know first.

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

use ca_server::state::{Event, missing_acknowledgements};
use mintmark_proto::mintmark::raft::v1::activate_authority::Ground;
use mintmark_proto::mintmark::raft::v1::command::Body;
use mintmark_proto::mintmark::raft::v1::{
    AdmitServer, BanAgent, ChangeSettings, PrepareAuthority, ProveAuthority, PruneExpired, Refusal,
    RetireAuthority, RevokeAuthority, TaintAuthority,
};
use mintmark_proto::mintmark::state::v1::{
    Authority, AuthorityKind, AuthorityState, PqMode, Settings,
};
use state_support::*;

const AGENT: &str = "/spire/agent/test/a";
const X509: AuthorityKind = AuthorityKind::X509;

fn retire(authority_id: &str) -> Body {
    Body::RetireAuthority(RetireAuthority {
        authority_id: authority_id.into(),
    })
}

fn taint(authority_id: &str) -> Body {
    Body::TaintAuthority(TaintAuthority {
        authority_id: authority_id.into(),
    })
}

fn revoke(authority_id: &str) -> Body {
    Body::RevokeAuthority(RevokeAuthority {
        authority_id: authority_id.into(),
    })
}

fn state_of(cluster: &Cluster, authority_id: &str) -> AuthorityState {
    cluster.state.authority(authority_id).unwrap().state()
}

/// Certificates in the bundle, by the number of the material they came from.
fn in_bundle(cluster: &Cluster) -> BTreeSet<usize> {
    let bundle = cluster.state.own_bundle().unwrap();
    let numbers = bundle.x509.iter().map(|anchor| {
        (0..)
            .find(|n| material(*n).certificate == anchor.certificate)
            .unwrap()
    });
    numbers.collect()
}

fn counter(cluster: &Cluster) -> u64 {
    cluster.state.bundle_sequence() & ((1 << 40) - 1)
}

/// A running cluster with `x1` published, proven, and not acknowledged.
fn with_next() -> Cluster {
    let mut cluster = Cluster::running();
    let prepare = cluster.prepare("x1", X509, 2);
    cluster.accept(by_server(1), prepare);
    cluster.accept(by_server(1), publish("x1"));
    cluster.accept(by_server(1), prove("x1", 1));
    cluster
}

#[test]
fn authorities_come_oldest_first_whatever_their_ids() {
    let mut cluster = Cluster::running();
    for (id, kind, n) in [("z", X509, 2), ("a", AuthorityKind::Jwt, 3)] {
        cluster.sleep(1);
        let prepare = cluster.prepare(id, kind, n);
        cluster.accept(by_server(1), prepare);
    }
    let all = cluster.state.all_authorities();
    let ids: Vec<&str> = all.map(|one| one.id.as_str()).collect();
    assert_eq!(ids, ["x0", "j0", "z", "a"]);
}

#[test]
fn a_rotation_goes_through_every_state_with_bundle_and_leaves() {
    let mut cluster = Cluster::running();
    let sequence = cluster.state.bundle_sequence();
    assert_eq!(sequence, (1 << 40) + 2, "x0 and j0 were published");
    assert_eq!(in_bundle(&cluster), BTreeSet::from([0]));

    let prepare = cluster.prepare("x1", X509, 2);
    let applied = cluster.accept(by_server(1), prepare);
    assert_eq!(state_of(&cluster, "x1"), AuthorityState::Prepared);
    assert_eq!(
        cluster.state.bundle_sequence(),
        sequence,
        "prepared is not in the bundle"
    );
    assert!(cluster.state.vault_record("authority/x1").is_some());
    assert!(applied.events.contains(&Event::VaultChanged));
    assert!(!applied.events.contains(&Event::BundleChanged));

    let applied = cluster.accept(by_server(1), publish("x1"));
    assert_eq!(state_of(&cluster, "x1"), AuthorityState::Published);
    assert_eq!(in_bundle(&cluster), BTreeSet::from([0, 2]));
    assert_eq!(cluster.state.bundle_sequence(), sequence + 1);
    assert_eq!(
        cluster.state.authority("x1").unwrap().published_sequence,
        sequence + 1
    );
    let events = [
        Event::BundleChanged,
        Event::AuthorityChanged { id: "x1".into() },
    ];
    assert_eq!(applied.events, events);
    let change = last_leaf(&applied).authority.unwrap();
    assert_eq!(
        (change.from.as_str(), change.to.as_str()),
        ("prepared", "published")
    );
    assert_eq!(
        (change.kind.as_str(), change.bundle_sequence),
        ("x509", sequence + 1)
    );

    cluster.accept(by_server(1), prove("x1", 1));
    cluster.accept(by_server(1), acknowledge(AGENT, sequence + 1));
    let applied = cluster.accept(by_server(1), activate("x1", Ground::Acknowledged));
    assert_eq!(state_of(&cluster, "x1"), AuthorityState::Active);
    assert_eq!(state_of(&cluster, "x0"), AuthorityState::Old);
    assert_eq!(cluster.state.active_authority(X509).unwrap().id, "x1");
    assert_eq!(
        cluster.state.bundle_sequence(),
        sequence + 1,
        "the content is the same"
    );
    let shown: Vec<(String, String, String)> = leaves(&applied)
        .into_iter()
        .map(|leaf| (leaf.action, leaf.subject, leaf.reason))
        .collect();
    assert_eq!(
        shown[0],
        (
            "authority.activate".into(),
            "x1".into(),
            "acknowledged".into()
        )
    );
    assert_eq!(
        shown[1],
        ("authority.supersede".into(), "x0".into(), String::new())
    );
    assert_eq!(shown.len(), 2);

    cluster.sleep(HOUR + 1);
    cluster.accept(by_server(1), retire("x0"));
    assert_eq!(state_of(&cluster, "x0"), AuthorityState::Retired);
    assert_eq!(in_bundle(&cluster), BTreeSet::from([2]));
    assert_eq!(cluster.state.bundle_sequence(), sequence + 2);
    assert!(
        cluster.state.vault_record("authority/x0").is_none(),
        "its key is gone"
    );
    cluster.accept(by_server(1), Body::PruneExpired(PruneExpired {}));
    assert!(
        cluster.state.authority("x0").is_some(),
        "kept until it expires"
    );
    cluster.sleep(CA_TTL);
    cluster.accept(by_server(1), Body::PruneExpired(PruneExpired {}));
    assert!(cluster.state.authority("x0").is_none());
    assert!(
        cluster.state.authority("x1").is_some(),
        "in the bundle until it is retired"
    );
}

#[test]
fn an_old_authority_stays_until_its_last_svid_ended() {
    let mut cluster = Cluster::running();
    let last = cluster
        .state
        .authority("x0")
        .unwrap()
        .last_svid_not_after_ms;
    assert_eq!(last, cluster.now + HOUR, "the agent's own SVID");
    cluster.refuse(by_server(1), retire("x0"), Refusal::Conflict);
    cluster.start_next();
    let detail = cluster
        .refuse(by_server(1), retire("x0"), Refusal::Conflict)
        .detail;
    assert!(detail.contains("valid until"), "{detail}");
    cluster.sleep(HOUR);
    cluster.refuse(by_server(1), retire("x0"), Refusal::Conflict);
    cluster.sleep(1);
    cluster.accept(by_server(1), retire("x0"));
}

trait Rotated {
    fn start_next(&mut self);
}

impl Rotated for Cluster {
    /// Makes `x1` active, by an operator's word.
    fn start_next(&mut self) {
        let prepare = self.prepare("x1", X509, 2);
        self.accept(by_server(1), prepare);
        self.accept(by_server(1), publish("x1"));
        self.accept(local(), activate("x1", Ground::Operator));
    }
}

// ---- prepare ---------------------------------------------------------------------

#[test]
fn authorities_that_make_no_sense_are_not_prepared() {
    let cluster = Cluster::running();
    let good = cluster.authority("x1", X509, 2);
    let jwt = cluster.authority("j1", AuthorityKind::Jwt, 3);
    let mut other_key = good.clone();
    other_key.public_key_spki = material(3).spki.clone();
    for (bad, refusal) in [
        (
            Authority {
                id: String::new(),
                ..good.clone()
            },
            Refusal::Invalid,
        ),
        (
            Authority {
                id: "x".repeat(129),
                ..good.clone()
            },
            Refusal::Invalid,
        ),
        (
            Authority {
                kind: 0,
                ..good.clone()
            },
            Refusal::Invalid,
        ),
        (
            Authority {
                certificate: Vec::new(),
                ..good.clone()
            },
            Refusal::Invalid,
        ),
        (
            Authority {
                certificate: vec![1, 2, 3],
                ..good.clone()
            },
            Refusal::Invalid,
        ),
        (other_key, Refusal::Invalid),
        (
            Authority {
                public_key_spki: Vec::new(),
                ..good.clone()
            },
            Refusal::Invalid,
        ),
        (
            Authority {
                public_key_spki: vec![0; 40_000],
                ..good.clone()
            },
            Refusal::Invalid,
        ),
        (
            Authority {
                public_key_spki: vec![1],
                ..jwt.clone()
            },
            Refusal::Invalid,
        ),
        (
            Authority {
                certificate: vec![1],
                ..jwt.clone()
            },
            Refusal::Invalid,
        ),
        (
            Authority {
                hybrid: true,
                ..jwt.clone()
            },
            Refusal::Invalid,
        ),
        (
            Authority {
                hybrid: true,
                ..good.clone()
            },
            Refusal::Conflict,
        ),
        (
            Authority {
                not_after_ms: cluster.now,
                ..good.clone()
            },
            Refusal::Clock,
        ),
        (
            Authority {
                not_before_ms: cluster.now + 5_001,
                ..good.clone()
            },
            Refusal::Clock,
        ),
        (
            Authority {
                not_before_ms: i64::MIN,
                ..good.clone()
            },
            Refusal::Invalid,
        ),
        (
            Authority {
                not_after_ms: cluster.now + CA_TTL + 5_001,
                ..good.clone()
            },
            Refusal::Invalid,
        ),
        (
            Authority {
                id: "x0".into(),
                ..good.clone()
            },
            Refusal::AlreadyExists,
        ),
        (
            Authority {
                certificate: material(0).certificate.clone(),
                public_key_spki: material(0).spki.clone(),
                ..good.clone()
            },
            Refusal::AlreadyExists,
        ),
    ] {
        let body = PrepareAuthority {
            authority: Some(bad),
            ..PrepareAuthority::default()
        };
        cluster
            .clone()
            .refuse(by_server(1), Body::PrepareAuthority(body), refusal);
    }
    let nothing = Body::PrepareAuthority(PrepareAuthority::default());
    cluster
        .clone()
        .refuse(by_server(1), nothing, Refusal::Invalid);
    let mut bad_key = record("", 1);
    bad_key.sealed.clear();
    let body = PrepareAuthority {
        authority: Some(good),
        key: Some(bad_key),
        cold_start: false,
    };
    cluster
        .clone()
        .refuse(by_server(1), Body::PrepareAuthority(body), Refusal::Invalid);
}

#[test]
fn what_apply_decides_is_not_taken_from_the_command() {
    let mut cluster = Cluster::running();
    let forged = Authority {
        state: AuthorityState::Active.into(),
        tainted: true,
        proven_by: vec![1, 2],
        published_sequence: 7,
        published_at_ms: 8,
        activated_at_ms: 9,
        last_svid_not_after_ms: 10,
        cold_start: true,
        ..cluster.authority("x1", X509, 2)
    };
    let body = PrepareAuthority {
        authority: Some(forged),
        ..PrepareAuthority::default()
    };
    cluster.accept(by_server(1), Body::PrepareAuthority(body));
    let stored = cluster.state.authority("x1").unwrap();
    assert_eq!(stored.state(), AuthorityState::Prepared);
    assert!(!stored.tainted && stored.proven_by.is_empty() && !stored.cold_start);
    assert_eq!(stored.prepared_at_ms, cluster.now);
    let times = (
        stored.published_sequence,
        stored.published_at_ms,
        stored.activated_at_ms,
    );
    assert_eq!((times, stored.last_svid_not_after_ms), ((0, 0, 0), 0));
}

#[test]
fn one_authority_of_a_kind_is_on_its_way() {
    let mut cluster = Cluster::running();
    let (x1, x2) = (
        cluster.prepare("x1", X509, 2),
        cluster.prepare("x2", X509, 3),
    );
    cluster.accept(by_server(1), x1);
    cluster.refuse(by_server(1), x2.clone(), Refusal::Conflict);
    cluster.accept(by_server(1), publish("x1"));
    cluster.refuse(by_server(1), x2.clone(), Refusal::Conflict);
    let j1 = cluster.prepare("j1", AuthorityKind::Jwt, 4);
    cluster.accept(by_server(1), j1);
    // Giving it up, or tainting it, makes room.
    cluster.clone().accept(by_server(1), taint("x1"));
    cluster.accept(by_server(1), retire("x1"));
    assert_eq!(in_bundle(&cluster), BTreeSet::from([0]));
    cluster.accept(by_server(1), x2);
}

#[test]
fn the_post_quantum_setting_decides_the_kind_of_key() {
    let mut cluster = Cluster::running();
    let hybrid = Settings {
        pq: PqMode::Hybrid.into(),
        ..settings()
    };
    let body = ChangeSettings {
        settings: Some(hybrid),
        expected_revision: 1,
    };
    cluster.accept(local(), Body::ChangeSettings(body));
    let plain = cluster.prepare("x1", X509, 2);
    cluster.refuse(by_server(1), plain, Refusal::Conflict);
    let pair = Authority {
        hybrid: true,
        ..cluster.authority("x1", X509, 2)
    };
    let body = PrepareAuthority {
        authority: Some(pair),
        ..PrepareAuthority::default()
    };
    cluster.accept(by_server(1), Body::PrepareAuthority(body));
    let jwt = cluster.prepare("j1", AuthorityKind::Jwt, 3);
    cluster.accept(by_server(1), jwt);
}

// ---- transitions -------------------------------------------------------------------

#[test]
fn transitions_go_forward_only() {
    let mut cluster = with_next();
    for body in [
        publish("x0"),
        publish("x1"),
        activate("x0", Ground::Operator),
    ] {
        cluster.refuse(local(), body, Refusal::Conflict);
    }
    cluster.accept(local(), activate("x1", Ground::Operator));
    for body in [
        publish("x0"),
        publish("x1"),
        activate("x0", Ground::Operator),
        activate("x1", Ground::Operator),
        retire("x1"),
    ] {
        cluster.refuse(local(), body, Refusal::Conflict);
    }
    for body in [revoke("x0"), revoke("x1")] {
        cluster.refuse(local(), body, Refusal::AuthorityNotTainted);
    }
    cluster.sleep(2 * HOUR);
    cluster.accept(local(), retire("x0"));
    for body in [
        publish("x0"),
        activate("x0", Ground::Operator),
        retire("x0"),
        prove("x0", 1),
    ] {
        cluster.refuse(local(), body, Refusal::Conflict);
    }
    for body in [taint("x0"), revoke("x0")] {
        cluster.refuse(local(), body, Refusal::AuthorityState);
    }
    for body in [
        publish("none"),
        activate("none", Ground::Operator),
        retire("none"),
        taint("none"),
        revoke("none"),
        prove("none", 1),
    ] {
        cluster.refuse(local(), body, Refusal::NotFound);
    }
}

#[test]
fn a_tainted_authority_is_told_apart_and_only_it_can_be_revoked() {
    let mut cluster = Cluster::running();
    let before = counter(&cluster);
    cluster.refuse(local(), revoke("x0"), Refusal::AuthorityNotTainted);
    let applied = cluster.accept(local(), taint("x0"));
    assert!(
        applied
            .events
            .contains(&Event::AuthorityTainted { id: "x0".into() })
    );
    assert!(applied.events[0].is_denial());
    let leaf = last_leaf(&applied);
    assert_eq!(
        (leaf.action.as_str(), leaf.reason.as_str()),
        ("authority.taint", "tainted")
    );
    assert_eq!(
        counter(&cluster),
        before + 1,
        "the bundle says that it is tainted"
    );
    assert!(cluster.state.own_bundle().unwrap().x509[0].tainted);
    assert!(!cluster.state.may_sign("x0", cluster.timestamp()));
    cluster.refuse(local(), taint("x0"), Refusal::AuthorityState);

    cluster.refuse(local(), revoke("x0"), Refusal::AuthorityInUse);
    assert_eq!(in_bundle(&cluster), BTreeSet::from([0]), "nothing else is");
    cluster.start_next();
    let before = counter(&cluster);
    let applied = cluster.accept(local(), revoke("x0"));
    let leaf = last_leaf(&applied);
    assert_eq!(leaf.action, "authority.revoke");
    assert_eq!(leaf.actor, "local");
    assert_eq!(state_of(&cluster, "x0"), AuthorityState::Revoked);
    assert_eq!(
        in_bundle(&cluster),
        BTreeSet::from([2]),
        "at once, although an SVID of it is valid"
    );
    assert_eq!(counter(&cluster), before + 1);
    assert!(cluster.state.vault_record("authority/x0").is_none());
    cluster.refuse(local(), revoke("x0"), Refusal::AuthorityState);
    cluster.refuse(local(), taint("x0"), Refusal::AuthorityState);
}

#[test]
fn one_that_never_signed_is_revoked_without_another_in_its_place() {
    let mut cluster = with_next();
    cluster.accept(local(), taint("x1"));
    cluster.accept(local(), revoke("x1"));
    assert_eq!(state_of(&cluster, "x1"), AuthorityState::Revoked);
    assert_eq!(in_bundle(&cluster), BTreeSet::from([0]));
}

#[test]
fn under_one_idempotency_key_a_revocation_waits_for_the_successor() {
    let mut cluster = Cluster::running();
    cluster.accept(local(), taint("x0"));
    let mut command = cluster.command(local(), revoke("x0"));
    command.idempotency_key = vec![7; 16];
    let early = cluster.apply_command(&command);
    assert_eq!(early.result.refusal(), Refusal::AuthorityInUse);
    cluster.start_next();
    let done = cluster.apply_command(&command);
    assert_eq!(done.result.refusal(), Refusal::Unspecified);
    let again = cluster.apply_command(&command);
    assert_eq!(again.result.refusal(), Refusal::Unspecified);
    assert!(again.result.replayed);
    assert!(again.leaves.is_empty(), "nothing happened twice");
}

#[test]
fn a_tainted_authority_is_never_published_or_activated() {
    let mut cluster = Cluster::running();
    let prepare = cluster.prepare("x1", X509, 2);
    cluster.accept(by_server(1), prepare);
    let before = counter(&cluster);
    let mut prepared = cluster.clone();
    prepared.accept(local(), taint("x1"));
    assert_eq!(counter(&prepared), before, "it was not in the bundle");
    prepared.refuse(by_server(1), publish("x1"), Refusal::Conflict);
    cluster.accept(by_server(1), publish("x1"));
    cluster.accept(local(), taint("x1"));
    cluster.refuse(
        local(),
        activate("x1", Ground::Operator),
        Refusal::Authority,
    );
}

#[test]
fn an_expired_authority_is_not_activated() {
    let mut cluster = with_next();
    cluster.sleep(CA_TTL);
    cluster.refuse(
        local(),
        activate("x1", Ground::Operator),
        Refusal::Authority,
    );
    cluster.refuse(
        by_server(1),
        activate("x1", Ground::ColdStart),
        Refusal::Authority,
    );
}

// ---- who must know first -------------------------------------------------------------

#[test]
fn activation_waits_for_servers_and_agents() {
    let mut cluster = Cluster::running();
    cluster.join("/spire/agent/test/b", &[]);
    let admit = AdmitServer {
        server: Some(server(0, "two")),
        ..AdmitServer::default()
    };
    cluster.accept(by_server(1), Body::AdmitServer(admit));
    let prepare = cluster.prepare("x1", X509, 2);
    cluster.accept(by_server(1), prepare);
    let missing =
        |cluster: &Cluster| missing_acknowledgements(&cluster.state, "x1", cluster.timestamp());
    let (a, b) = (id(AGENT), id("/spire/agent/test/b"));
    let all = vec![
        "server/1".to_owned(),
        "server/2".to_owned(),
        a.clone(),
        b.clone(),
    ];
    assert_eq!(missing(&cluster), all, "unpublished, nobody can know it");

    cluster.accept(by_server(1), publish("x1"));
    assert_eq!(missing(&cluster), all);
    let result = cluster.refuse(
        by_server(1),
        activate("x1", Ground::Acknowledged),
        Refusal::NotAcknowledged,
    );
    assert_eq!(result.missing, all);

    cluster.accept(by_server(1), prove("x1", 1));
    cluster.accept(by_server(2), prove("x1", 2));
    let sequence = cluster.state.bundle_sequence();
    cluster.accept(by_server(2), acknowledge(AGENT, sequence));
    assert_eq!(missing(&cluster), std::slice::from_ref(&b));
    cluster.accept(
        by_server(2),
        acknowledge("/spire/agent/test/b", sequence - 1),
    );
    assert_eq!(missing(&cluster), [b]);
    cluster.accept(by_server(2), acknowledge("/spire/agent/test/b", sequence));
    assert!(missing(&cluster).is_empty());
    cluster.accept(by_server(1), activate("x1", Ground::Acknowledged));
}

#[test]
fn parties_that_cannot_matter_are_not_counted() {
    let mut cluster = with_next();
    let missing =
        |cluster: &Cluster| missing_acknowledgements(&cluster.state, "x1", cluster.timestamp());
    assert_eq!(missing(&cluster), [id(AGENT)]);
    // Attested, but never issued an SVID.
    let attest = cluster.attest("/spire/agent/test/new", &[], "k");
    cluster.accept(nobody(), Body::AttestNode(attest));
    assert_eq!(missing(&cluster), [id(AGENT)]);
    // A server that does not sign.
    let mut learner = server(0, "learner");
    learner.issuing = false;
    let admit = AdmitServer {
        server: Some(learner),
        ..AdmitServer::default()
    };
    cluster.accept(by_server(1), Body::AdmitServer(admit));
    assert_eq!(missing(&cluster), [id(AGENT)]);
    // A banned agent, and one whose SVID ended.
    let mut banned = cluster.clone();
    banned.accept(
        local(),
        Body::BanAgent(BanAgent {
            agent_id: id(AGENT),
        }),
    );
    assert!(missing(&banned).is_empty());
    cluster.sleep(HOUR);
    assert!(missing(&cluster).is_empty());
    assert!(missing_acknowledgements(&cluster.state, "none", cluster.timestamp()).is_empty());
}

#[test]
fn without_agents_the_gate_is_open() {
    let mut cluster = Cluster::new();
    cluster.start_authority("x0", X509, 0);
    cluster.start_authority("x1", X509, 1);
    assert_eq!(cluster.state.active_authority(X509).unwrap().id, "x1");
}

#[test]
fn the_deadline_is_one_sixth_of_the_active_ones_life() {
    let mut cluster = with_next();
    let deadline = || activate("x1", Ground::Deadline);
    let active = cluster.state.active_authority(X509).unwrap();
    let life = active.not_after_ms - active.not_before_ms;
    let sixth = active.not_after_ms - life / 6;
    cluster.refuse(by_server(1), deadline(), Refusal::Conflict);
    // Keep the agent's SVID alive, so that it still counts.
    cluster.now = sixth - 1;
    let attest = cluster.attest(AGENT, &[], "k2");
    cluster.accept(nobody(), Body::AttestNode(attest));
    let intent = cluster.agent_intent(AGENT, &[], "k2");
    assert_eq!(cluster.issue(intent).refusal(), Refusal::Unspecified);
    assert!(
        !cluster
            .state
            .activation_is_forced(X509, cluster.timestamp())
    );
    cluster.refuse(by_server(1), deadline(), Refusal::Conflict);
    cluster.sleep(1);
    assert!(
        cluster
            .state
            .activation_is_forced(X509, cluster.timestamp())
    );
    let applied = cluster.accept(by_server(1), deadline());
    assert_eq!(applied.result.missing, [id(AGENT)]);
    let leaf = leaves(&applied).remove(0);
    assert_eq!(leaf.reason, "deadline, 1 missing");
    assert_eq!(leaf.missing, [id(AGENT)]);
}

#[test]
fn a_tainted_active_authority_is_replaced_without_waiting() {
    let mut cluster = with_next();
    cluster.accept(local(), taint("x0"));
    cluster.accept(by_server(1), activate("x1", Ground::Deadline));
}

#[test]
fn an_operator_may_override_and_a_server_may_not() {
    let mut cluster = with_next();
    let operator = || activate("x1", Ground::Operator);
    cluster.refuse(by_server(1), operator(), Refusal::NotAuthorized);
    cluster.refuse(
        local(),
        activate("x1", Ground::Unspecified),
        Refusal::Invalid,
    );
    let applied = cluster.accept(local(), operator());
    assert_eq!(leaves(&applied)[0].reason, "operator, 1 missing");
}

#[test]
fn a_cold_start_needs_that_nothing_is_active() {
    let mut cluster = with_next();
    cluster.refuse(
        by_server(1),
        activate("x1", Ground::ColdStart),
        Refusal::Conflict,
    );
    let mut body = cluster.prepare("w0", AuthorityKind::Wit, 5);
    if let Body::PrepareAuthority(body) = &mut body {
        body.cold_start = true;
    }
    cluster.accept(by_server(1), body);
    assert!(cluster.state.authority("w0").unwrap().cold_start);
    let applied = cluster.accept(by_server(1), activate("w0", Ground::ColdStart));
    assert!(leaves(&applied)[0].reason.starts_with("cold_start"));
    let mut body = cluster.prepare("w1", AuthorityKind::Wit, 6);
    if let Body::PrepareAuthority(body) = &mut body {
        body.cold_start = true;
    }
    cluster.refuse(by_server(1), body, Refusal::Conflict);
}

#[test]
fn after_every_authority_expired_a_fresh_one_begins_at_once() {
    let mut cluster = Cluster::running();
    cluster.sleep(3 * CA_TTL);
    assert!(cluster.state.cold_start_needed(X509, cluster.timestamp()));
    let mut body = cluster.prepare("x1", X509, 2);
    if let Body::PrepareAuthority(body) = &mut body {
        body.cold_start = true;
    }
    cluster.accept(by_server(1), body);
    // Straight from prepared: publishing is part of the same step.
    cluster.accept(by_server(1), activate("x1", Ground::ColdStart));
    let authority = cluster.state.authority("x1").unwrap();
    assert_eq!(
        authority.published_sequence,
        cluster.state.bundle_sequence()
    );
    assert_eq!(authority.published_at_ms, cluster.now);
    assert_eq!(state_of(&cluster, "x0"), AuthorityState::Old);
    assert!(!cluster.state.cold_start_needed(X509, cluster.timestamp()));
    cluster.accept(by_server(1), retire("x0"));
}

#[test]
fn only_a_cold_start_skips_publishing() {
    let mut cluster = Cluster::running();
    let prepare = cluster.prepare("x1", X509, 2);
    cluster.accept(by_server(1), prepare);
    for ground in [Ground::Acknowledged, Ground::Deadline, Ground::Operator] {
        cluster.refuse(local(), activate("x1", ground), Refusal::Conflict);
    }
}

#[test]
fn a_proof_comes_from_a_known_server_with_a_signature() {
    let mut cluster = with_next();
    cluster.refuse(local(), prove("x1", 9), Refusal::NotFound);
    for signature in [Vec::new(), vec![0; 20_000]] {
        let body = ProveAuthority {
            authority_id: "x1".into(),
            node_id: 1,
            signature,
        };
        cluster.refuse(local(), Body::ProveAuthority(body), Refusal::Invalid);
    }
    cluster.accept(by_server(1), prove("x1", 1));
    assert_eq!(
        cluster.state.authority("x1").unwrap().proven_by,
        [1],
        "not twice"
    );
}

// ---- bundle ----------------------------------------------------------------------------

#[test]
fn the_bundle_has_every_kind_where_it_belongs() {
    let mut cluster = Cluster::running();
    cluster.start_authority("w0", AuthorityKind::Wit, 5);
    let bundle = cluster.state.own_bundle().unwrap();
    assert_eq!(bundle.trust_domain.as_str(), TD);
    assert_eq!(bundle.x509.len(), 1);
    assert_eq!(
        bundle.jwt.iter().map(|key| key.kid()).collect::<Vec<_>>(),
        ["j0"]
    );
    assert_eq!(
        bundle.wit.iter().map(|key| key.kid()).collect::<Vec<_>>(),
        ["w0"]
    );
    assert_eq!(bundle.sequence, Some(cluster.state.bundle_sequence()));
    assert_eq!(
        bundle.refresh_hint,
        Some(std::time::Duration::from_secs(300))
    );
}

#[test]
fn a_setting_that_changes_the_bundle_raises_its_sequence() {
    let mut cluster = Cluster::running();
    let change = |cluster: &mut Cluster, settings: Settings| {
        let body = ChangeSettings {
            settings: Some(settings),
            expected_revision: 0,
        };
        cluster.accept(local(), Body::ChangeSettings(body))
    };
    let before = counter(&cluster);
    let issuer = Settings {
        jwt_issuer: "https://issuer.example.org".into(),
        ..settings()
    };
    let applied = change(&mut cluster, issuer);
    assert_eq!(applied.events, [Event::SettingsChanged]);
    assert_eq!(counter(&cluster), before);
    let short = Settings {
        ca_ttl_seconds: 600,
        x509_svid_ttl_seconds: 60,
        jwt_svid_ttl_seconds: 60,
        agent_svid_ttl_seconds: 60,
        ..settings()
    };
    let applied = change(&mut cluster, short);
    assert_eq!(
        applied.events,
        [Event::BundleChanged, Event::SettingsChanged]
    );
    assert_eq!(
        counter(&cluster),
        before + 1,
        "the refresh hint is a minute now"
    );
}
