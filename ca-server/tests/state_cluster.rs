//! The cluster itself: initialisation, actors, servers, vault, settings,
//! checkpoints, repeated requests, events, time.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::too_many_lines,
    reason = "tests"
)]

mod state_support;

use ca_server::state::{
    COMMAND_VERSION, EVENTS_MAX, Event, Position, RECENT_ROOTS_MAX, State, TooOld, understands,
};
use mintmark_proto::mintmark::raft::v1::actor::Kind;
use mintmark_proto::mintmark::raft::v1::command::Body;
use mintmark_proto::mintmark::raft::v1::{
    Actor, AdmitServer, BanAgent, ChangeSettings, Command, CreateEntries, CreateJoinToken,
    InitializeCluster, PruneExpired, PutVaultRecord, RecordDenial, Refusal, RemoveServer,
    SignCheckpoint, WrapDataKey,
};
use mintmark_proto::mintmark::state::v1::{
    AuthorityKind, Checkpoint, Entry, JoinToken, LogKey, PqMode, Server, Settings, TrustDomainKey,
    VaultRecord, WrappedDataKey,
};
use state_support::*;

const AGENT: &str = "/spire/agent/test/a";

fn initialise(body: InitializeCluster) -> Body {
    Body::InitializeCluster(body)
}

fn admit(server: Server) -> AdmitServer {
    AdmitServer {
        server: Some(server),
        ..AdmitServer::default()
    }
}

fn denial() -> Body {
    Body::RecordDenial(RecordDenial {
        action: "entry.list".into(),
        subject: id("/x"),
        reason: "permission_denied".into(),
    })
}

// ---- initialisation --------------------------------------------------------------

#[test]
fn a_cluster_is_initialised_once() {
    let mut cluster = Cluster::blank();
    let applied = cluster.accept(local(), initialise(initialize()));
    assert_eq!(applied.events, [Event::Initialized]);
    assert_eq!(
        (applied.result.epoch, applied.result.first_leaf_index),
        (1, 0)
    );
    let leaf = last_leaf(&applied);
    assert_eq!(
        (leaf.action.as_str(), leaf.subject.as_str(), leaf.index),
        ("cluster.initialize", TD, 0)
    );
    let state = &cluster.state;
    assert_eq!(state.trust_domain().unwrap().as_str(), TD);
    assert_eq!((state.cluster_id(), state.epoch()), (Some([9; 16]), 1));
    assert_eq!(state.settings().unwrap().revision, 1);
    assert_eq!(state.ttl_policy().unwrap().x509_svid.as_secs(), 3600);
    assert_eq!(
        state.trust_domain_key().unwrap().spki_sha256,
        sha("trust-domain key")
    );
    assert_eq!(state.log_key().unwrap().origin, ORIGIN);
    assert_eq!(state.server(1).unwrap().admitted_at_ms, cluster.now);
    assert!(state.own_bundle().unwrap().is_empty());
    assert_eq!(state.bundle_sequence(), 1 << 40);
    assert!(state.vault_record("log").is_some());
    cluster.refuse(local(), initialise(initialize()), Refusal::AlreadyExists);
}

#[test]
fn before_initialisation_nothing_else_happens() {
    let mut cluster = Cluster::blank();
    for body in [
        denial(),
        Body::PruneExpired(PruneExpired {}),
        Body::CreateEntries(CreateEntries {
            entries: vec![entry("e", AGENT, "/w", &["a:1"])],
        }),
    ] {
        let applied = cluster.apply(local(), body);
        assert_eq!(applied.result.refusal(), Refusal::NotInitialized);
        assert!(applied.leaves.is_empty() && applied.events.is_empty());
    }
    let state = &cluster.state;
    assert_eq!(
        (state.epoch(), state.bundle_sequence(), state.audit_size()),
        (0, 0, 0)
    );
    assert!(state.trust_domain().is_none() && state.own_bundle().is_none());
}

#[test]
fn a_cluster_that_makes_no_sense_is_not_initialised() {
    let good = initialize();
    let log = good.log_key.clone().unwrap();
    let zero = |change: fn(&mut Settings)| {
        let mut settings = settings();
        change(&mut settings);
        Some(settings)
    };
    let key = |node_id| WrappedDataKey {
        node_id,
        version: 1,
        wrapped: vec![1],
    };
    for bad in [
        InitializeCluster {
            trust_domain: "BAD DOMAIN".into(),
            ..good.clone()
        },
        InitializeCluster {
            trust_domain: "other.org".into(),
            ..good.clone()
        },
        InitializeCluster {
            cluster_id: vec![1; 15],
            ..good.clone()
        },
        InitializeCluster {
            epoch: 0,
            ..good.clone()
        },
        InitializeCluster {
            epoch: 1 << 24,
            ..good.clone()
        },
        InitializeCluster {
            settings: None,
            ..good.clone()
        },
        InitializeCluster {
            settings: zero(|s| s.ca_ttl_seconds = 0),
            ..good.clone()
        },
        InitializeCluster {
            settings: zero(|s| s.jwt_svid_ttl_seconds = 0),
            ..good.clone()
        },
        InitializeCluster {
            settings: zero(|s| s.x509_svid_ttl_seconds = 80_000),
            ..good.clone()
        },
        InitializeCluster {
            settings: zero(|s| s.pq = 7),
            ..good.clone()
        },
        InitializeCluster {
            settings: zero(|s| s.jwt_issuer = "a\nb".into()),
            ..good.clone()
        },
        InitializeCluster {
            trust_domain_key: None,
            ..good.clone()
        },
        InitializeCluster {
            trust_domain_key: Some(TrustDomainKey {
                certificate: Vec::new(),
                ..good.trust_domain_key.clone().unwrap()
            }),
            ..good.clone()
        },
        InitializeCluster {
            log_key: None,
            ..good.clone()
        },
        InitializeCluster {
            log_key: Some(LogKey {
                public_key: vec![1],
                ..log.clone()
            }),
            ..good.clone()
        },
        InitializeCluster {
            log_key: Some(LogKey {
                origin: "example.org/audit/1 2".into(),
                ..log
            }),
            ..good.clone()
        },
        InitializeCluster {
            first_server: None,
            ..good.clone()
        },
        InitializeCluster {
            first_server: Some(server(0, "one")),
            ..good.clone()
        },
        InitializeCluster {
            vault_records: vec![record("", 1)],
            ..good.clone()
        },
        InitializeCluster {
            wrapped_data_keys: vec![key(2)],
            ..good.clone()
        },
    ] {
        let mut cluster = Cluster::blank();
        let applied = cluster.apply(local(), initialise(bad));
        assert_eq!(
            applied.result.refusal(),
            Refusal::Invalid,
            "{}",
            applied.result.detail
        );
        assert!(applied.leaves.is_empty(), "there is no log yet");
        assert!(cluster.state.trust_domain().is_none());
    }
}

// ---- commands --------------------------------------------------------------------

#[test]
fn a_command_that_is_not_understood_changes_nothing() {
    let mut cluster = Cluster::running();
    let good = cluster.command(local(), denial());
    assert!(understands(&good));
    let before = cluster.state.audit_size();
    for bad in [
        Command {
            version: COMMAND_VERSION + 1,
            ..good.clone()
        },
        Command {
            version: 0,
            ..good.clone()
        },
        Command {
            body: None,
            ..good.clone()
        },
    ] {
        assert!(!understands(&bad));
        assert_eq!(
            cluster.apply_command(&bad).result.refusal(),
            Refusal::Invalid
        );
        assert_eq!(cluster.state.audit_size(), before);
    }
}

#[test]
fn command_time_never_falls() {
    let mut cluster = Cluster::running();
    let highest = cluster.now + HOUR;
    for time in [highest, cluster.now, i64::MIN, 0] {
        cluster.now = time;
        let applied = cluster.accept(local(), denial());
        assert_eq!(last_leaf(&applied).time_ms, highest);
        assert_eq!(cluster.state.command_time().unix_millis(), highest);
    }
}

#[test]
fn positions_follow_the_log_and_blank_entries_count() {
    let mut cluster = Cluster::running();
    let position = cluster.state.applied_position();
    assert_eq!(
        position,
        Position {
            epoch: 1,
            index: cluster.index
        }
    );
    cluster.state.note_applied(cluster.index + 5);
    assert_eq!(cluster.state.applied_position().index, cluster.index + 5);
    cluster.state.note_applied(1);
    assert_eq!(cluster.state.applied_position().index, cluster.index + 5);
    assert!(
        Position { epoch: 2, index: 0 }
            > Position {
                epoch: 1,
                index: u64::MAX
            }
    );
}

// ---- actors ----------------------------------------------------------------------

#[test]
fn who_may_not_send_a_command_changes_nothing_by_it() {
    let mut cluster = Cluster::running();
    let create = Body::CreateEntries(CreateEntries {
        entries: vec![entry("e", AGENT, "/w", &["a:1"])],
    });
    let settings = Body::ChangeSettings(ChangeSettings {
        settings: Some(settings()),
        expected_revision: 0,
    });
    let unspecified = Actor::default();
    for actor in [
        nobody(),
        by_agent(AGENT),
        by_server(9),
        by_admin("/no"),
        unspecified,
    ] {
        for body in [
            create.clone(),
            settings.clone(),
            Body::PruneExpired(PruneExpired {}),
        ] {
            cluster.refuse(actor.clone(), body, Refusal::NotAuthorized);
        }
    }
    let mut without = cluster.command(local(), create);
    without.actor = None;
    assert_eq!(
        cluster.apply_command(&without).result.refusal(),
        Refusal::NotAuthorized
    );
    let unknown = Actor {
        kind: 42,
        ..Actor::default()
    };
    cluster.refuse(unknown, settings, Refusal::NotAuthorized);
}

#[test]
fn an_operator_is_one_while_an_admin_entry_says_so() {
    let mut cluster = Cluster::running();
    let create = |n: u32| {
        let path = format!("/w{n}");
        let entries = vec![entry(&format!("e{n}"), AGENT, &path, &["a:1"])];
        Body::CreateEntries(CreateEntries { entries })
    };
    cluster.create(entry("plain", AGENT, "/ops", &["unix:uid:0"]));
    cluster.refuse(by_admin("/ops"), create(0), Refusal::NotAuthorized);
    let admin = entry("admin", AGENT, "/ops", &["unix:uid:1"]);
    let until = cluster.now / 1000 + 60;
    cluster.create(Entry {
        admin: true,
        expires_at_seconds: until,
        ..admin
    });
    let applied = cluster.accept(by_admin("/ops"), create(1));
    assert_eq!(last_leaf(&applied).actor, id("/ops"));
    // Not what only servers do.
    for body in [
        Body::PruneExpired(PruneExpired {}),
        prove("x0", 1),
        acknowledge(AGENT, 0),
        Body::PutVaultRecord(PutVaultRecord {
            record: Some(record("r", 1)),
        }),
    ] {
        cluster.refuse(by_admin("/ops"), body, Refusal::NotAuthorized);
    }
    cluster.sleep(MINUTE);
    cluster.refuse(by_admin("/ops"), create(2), Refusal::NotAuthorized);
}

#[test]
fn an_agent_speaks_for_itself() {
    let mut cluster = Cluster::running();
    cluster.accept(by_agent(AGENT), acknowledge(AGENT, 0));
    cluster.refuse(
        by_agent("/spire/agent/test/b"),
        acknowledge(AGENT, 0),
        Refusal::NotAuthorized,
    );
    let again = cluster.attest(AGENT, &[], "k");
    cluster.refuse(
        by_agent("/spire/agent/test/b"),
        Body::AttestNode(again.clone()),
        Refusal::NotAuthorized,
    );
    cluster.accept(by_agent(AGENT), Body::AttestNode(again));
    let ban = Body::BanAgent(BanAgent {
        agent_id: id("/spire/agent/test/b"),
    });
    cluster.refuse(by_agent(AGENT), ban, Refusal::NotAuthorized);
}

#[test]
fn a_removed_server_has_no_say() {
    let mut cluster = Cluster::running();
    let two = cluster.accept(by_server(1), Body::AdmitServer(admit(server(0, "two"))));
    let two = two.result.node_id;
    cluster.accept(by_server(two), Body::PruneExpired(PruneExpired {}));
    cluster.accept(local(), Body::RemoveServer(RemoveServer { node_id: two }));
    cluster.refuse(
        by_server(two),
        Body::PruneExpired(PruneExpired {}),
        Refusal::NotAuthorized,
    );
}

#[test]
fn actors_are_named_in_leaves() {
    let mut cluster = Cluster::running();
    for (actor, text) in [
        (local(), "local".to_owned()),
        (by_server(1), "server/1".to_owned()),
        (by_agent(AGENT), id(AGENT)),
        (nobody(), "nobody".to_owned()),
    ] {
        let applied = cluster.accept(actor, denial());
        let leaf = last_leaf(&applied);
        assert_eq!(leaf.actor, text);
        assert_eq!(
            (leaf.action.as_str(), leaf.decision.as_str()),
            ("entry.list", "denied")
        );
        assert_eq!(
            (leaf.subject, leaf.reason),
            (id("/x"), "permission_denied".into())
        );
    }
}

// ---- servers ---------------------------------------------------------------------

#[test]
fn server_ids_are_assigned_in_order_and_never_again() {
    let mut cluster = Cluster::running();
    let mut ids = Vec::new();
    for name in ["two", "three", "four"] {
        let applied = cluster.accept(by_server(1), Body::AdmitServer(admit(server(0, name))));
        assert_eq!(applied.events, [Event::ServersChanged]);
        let leaf = last_leaf(&applied);
        assert_eq!(leaf.action, "server.admit");
        assert_eq!(leaf.subject, format!("server/{}", applied.result.node_id));
        ids.push(applied.result.node_id);
        let remove = RemoveServer {
            node_id: applied.result.node_id,
        };
        cluster.accept(local(), Body::RemoveServer(remove));
    }
    assert_eq!(ids, [2, 3, 4]);
    let decoded = State::decode(&cluster.state.encode()).unwrap();
    let mut restored = Cluster {
        state: decoded,
        ..cluster
    };
    let applied = restored.accept(by_server(1), Body::AdmitServer(admit(server(0, "five"))));
    assert_eq!(applied.result.node_id, 5);
}

#[test]
fn a_later_epoch_assigns_from_its_own_range() {
    let mut cluster = Cluster::blank();
    cluster.accept(
        local(),
        initialise(InitializeCluster {
            epoch: 3,
            ..initialize()
        }),
    );
    let applied = cluster.accept(local(), Body::AdmitServer(admit(server(0, "two"))));
    assert_eq!(applied.result.node_id, (2 << 32) + 1);
    assert_eq!(cluster.state.bundle_sequence(), 3 << 40);
}

#[test]
fn a_repeated_admission_finds_itself_and_may_complete_the_record() {
    let mut cluster = Cluster::running();
    let key = WrappedDataKey {
        node_id: 0,
        version: 1,
        wrapped: vec![7],
    };
    let body = AdmitServer {
        wrapped_data_key: Some(key),
        ..admit(server(0, "two"))
    };
    let first = cluster.accept(by_server(1), Body::AdmitServer(body.clone()));
    assert_eq!(cluster.state.wrapped_data_key(2).unwrap().wrapped, [7]);
    assert_eq!(cluster.state.wrapped_data_key(2).unwrap().node_id, 2);
    let again = cluster.accept(by_server(1), Body::AdmitServer(body));
    assert_eq!(again.result.node_id, first.result.node_id);
    assert_eq!(last_leaf(&again).action, "server.change");
    cluster.sleep(MINUTE);
    let signed = Server {
        peer_certificate: vec![9, 9],
        ..server(2, "two")
    };
    cluster.accept(by_server(1), Body::AdmitServer(admit(signed)));
    let stored = cluster.state.server(2).unwrap();
    assert_eq!(
        (stored.peer_certificate.as_slice(), stored.admitted_at_ms),
        (&[9, 9][..], T0)
    );
    // Repeated once more by the server itself, which does not have it yet.
    let unsigned = Server {
        peer_certificate: Vec::new(),
        ..server(0, "two")
    };
    cluster.accept(by_server(1), Body::AdmitServer(admit(unsigned)));
    let stored = cluster.state.server(2).unwrap();
    assert_eq!(stored.peer_certificate, [9, 9]);
    assert_eq!(cluster.state.servers().count(), 2);
}

#[test]
fn nobody_takes_another_servers_place() {
    let mut cluster = Cluster::running();
    let stranger = server(0, "stranger");
    let one = server(1, "one");
    for (bad, refusal) in [
        (
            Server {
                node_id: 1,
                ..stranger.clone()
            },
            Refusal::Conflict,
        ),
        (
            Server {
                node_id: 1,
                incarnation: vec![3; 16],
                ..one.clone()
            },
            Refusal::Conflict,
        ),
        (
            Server {
                node_id: 7,
                ..stranger.clone()
            },
            Refusal::NotFound,
        ),
        (
            Server {
                peer_spki_sha256: one.peer_spki_sha256.clone(),
                ..stranger.clone()
            },
            Refusal::AlreadyExists,
        ),
        (
            Server {
                incarnation: one.incarnation,
                ..stranger.clone()
            },
            Refusal::AlreadyExists,
        ),
        (
            Server {
                incarnation: vec![1],
                ..stranger.clone()
            },
            Refusal::Invalid,
        ),
        (
            Server {
                peer_spki_sha256: Vec::new(),
                ..stranger.clone()
            },
            Refusal::Invalid,
        ),
        (
            Server {
                name: "n".repeat(300),
                ..stranger.clone()
            },
            Refusal::Invalid,
        ),
        (
            Server {
                peer_address: "a\nb".into(),
                ..stranger.clone()
            },
            Refusal::Invalid,
        ),
        (
            Server {
                peer_certificate: vec![0; 40_000],
                ..stranger.clone()
            },
            Refusal::Invalid,
        ),
    ] {
        cluster.refuse(by_server(1), Body::AdmitServer(admit(bad)), refusal);
    }
    cluster.refuse(
        by_server(1),
        Body::AdmitServer(AdmitServer::default()),
        Refusal::Invalid,
    );
    let empty = WrappedDataKey::default();
    let body = AdmitServer {
        wrapped_data_key: Some(empty),
        ..admit(stranger)
    };
    cluster.refuse(by_server(1), Body::AdmitServer(body), Refusal::Invalid);
}

#[test]
fn a_server_joins_with_a_token_for_servers_and_its_own_key() {
    let mut cluster = Cluster::running();
    for (text, alias) in [("server", id("/spire/server")), ("agent", String::new())] {
        let token = JoinToken {
            token_sha256: sha(text),
            expires_at_ms: cluster.now + MINUTE,
            alias_spiffe_id: alias,
            ..JoinToken::default()
        };
        let body = CreateJoinToken {
            token: Some(token),
            alias_entry: None,
        };
        cluster.accept(local(), Body::CreateJoinToken(body));
    }
    let with = |name: &str, token: &str| {
        let join_token_sha256 = if token.is_empty() {
            Vec::new()
        } else {
            sha(token)
        };
        Body::AdmitServer(AdmitServer {
            join_token_sha256,
            ..admit(server(0, name))
        })
    };
    cluster.refuse(nobody(), with("two", ""), Refusal::TokenUnknown);
    cluster.refuse(nobody(), with("two", "unknown"), Refusal::TokenUnknown);
    cluster.refuse(nobody(), with("two", "agent"), Refusal::TokenUnknown);
    let first = cluster.accept(nobody(), with("two", "server"));
    let again = cluster.accept(nobody(), with("two", "server"));
    assert_eq!(first.result.node_id, again.result.node_id);
    cluster.refuse(nobody(), with("three", "server"), Refusal::TokenUsed);
    cluster.sleep(MINUTE);
    cluster.refuse(nobody(), with("two", "server"), Refusal::TokenUnknown);
}

#[test]
fn the_last_server_stays_and_unknown_ones_cannot_go() {
    let mut cluster = Cluster::running();
    let remove = |node_id| Body::RemoveServer(RemoveServer { node_id });
    cluster.refuse(local(), remove(1), Refusal::Conflict);
    cluster.refuse(local(), remove(2), Refusal::NotFound);
    let key = WrappedDataKey {
        node_id: 1,
        version: 1,
        wrapped: vec![1],
    };
    cluster.accept(
        by_server(1),
        Body::WrapDataKey(WrapDataKey { key: Some(key) }),
    );
    cluster.accept(by_server(1), Body::AdmitServer(admit(server(0, "two"))));
    let applied = cluster.accept(by_server(2), remove(1));
    assert_eq!(applied.events, [Event::VaultChanged, Event::ServersChanged]);
    assert!(cluster.state.wrapped_data_key(1).is_none());
}

// ---- vault -----------------------------------------------------------------------

#[test]
fn sealed_bytes_are_never_replaced_by_older_ones() {
    let mut cluster = Cluster::running();
    let put = |record: VaultRecord| {
        Body::PutVaultRecord(PutVaultRecord {
            record: Some(record),
        })
    };
    let applied = cluster.accept(by_server(1), put(record("r", 2)));
    assert_eq!(
        (last_leaf(&applied).action.as_str(), applied.events.len()),
        ("vault.put", 1)
    );
    cluster.refuse(by_server(1), put(record("r", 1)), Refusal::Conflict);
    let newer = VaultRecord {
        sealed: vec![1],
        ..record("r", 3)
    };
    cluster.accept(by_server(1), put(newer.clone()));
    assert_eq!(cluster.state.vault_record("r"), Some(&newer));
    assert_eq!(
        cluster.state.vault_records().count(),
        4,
        "log, two authorities, r"
    );
    for bad in [
        VaultRecord {
            name: String::new(),
            ..record("x", 1)
        },
        VaultRecord {
            name: "n".repeat(257),
            ..record("x", 1)
        },
        VaultRecord {
            sealed: Vec::new(),
            ..record("x", 1)
        },
        VaultRecord {
            sealed: vec![0; 300_000],
            ..record("x", 1)
        },
    ] {
        cluster.refuse(by_server(1), put(bad), Refusal::Invalid);
    }
    let none = Body::PutVaultRecord(PutVaultRecord { record: None });
    cluster.refuse(by_server(1), none, Refusal::Invalid);
}

#[test]
fn data_keys_are_wrapped_for_known_servers_and_the_newest_is_found() {
    let mut cluster = Cluster::running();
    let wrap = |node_id, version, length| {
        let wrapped = vec![version as u8; length];
        Body::WrapDataKey(WrapDataKey {
            key: Some(WrappedDataKey {
                node_id,
                version,
                wrapped,
            }),
        })
    };
    cluster.refuse(by_server(1), wrap(2, 1, 9), Refusal::NotFound);
    cluster.refuse(by_server(1), wrap(1, 1, 0), Refusal::Invalid);
    for version in 1..=6 {
        cluster.accept(by_server(1), wrap(1, version, 9));
    }
    cluster.refuse(by_server(1), wrap(1, 5, 9), Refusal::Conflict);
    assert_eq!(cluster.state.wrapped_data_key(1).unwrap().version, 6);
    let kept: Vec<u32> = cluster
        .state
        .wrapped_data_keys(1)
        .map(|key| key.version)
        .collect();
    assert_eq!(
        kept,
        [3, 4, 5, 6],
        "while records are sealed anew the older ones are needed"
    );
}

// ---- settings --------------------------------------------------------------------

#[test]
fn settings_change_from_the_revision_that_was_seen() {
    let mut cluster = Cluster::running();
    let change = |settings: Settings, expected_revision| {
        let settings = Some(settings);
        Body::ChangeSettings(ChangeSettings {
            settings,
            expected_revision,
        })
    };
    let hybrid = Settings {
        pq: PqMode::Hybrid.into(),
        revision: 50,
        ..settings()
    };
    let applied = cluster.accept(local(), change(hybrid, 1));
    assert_eq!(applied.events, [Event::SettingsChanged]);
    assert_eq!(last_leaf(&applied).subject, "settings/2");
    let stored = cluster.state.settings().unwrap();
    assert_eq!((stored.pq(), stored.revision), (PqMode::Hybrid, 2));
    cluster.refuse(local(), change(settings(), 1), Refusal::Stale);
    cluster.accept(local(), change(settings(), 0));
    assert_eq!(cluster.state.settings().unwrap().revision, 3);
    let misfit = Settings {
        x509_svid_ttl_seconds: 80_000,
        ..settings()
    };
    let detail = cluster
        .refuse(local(), change(misfit, 0), Refusal::Invalid)
        .detail;
    assert!(detail.contains("x509_svid_ttl"), "{detail}");
    let body = ChangeSettings {
        settings: None,
        expected_revision: 0,
    };
    cluster.refuse(local(), Body::ChangeSettings(body), Refusal::Invalid);
}

// ---- checkpoints -----------------------------------------------------------------

fn checkpoint(size: u64, root: [u8; 32]) -> Checkpoint {
    let tree = mintmark_tlog::Checkpoint {
        origin: ORIGIN.into(),
        size,
        root,
    };
    let note = log_signer().sign(&tree.to_text()).unwrap().to_string();
    Checkpoint {
        size,
        root: root.to_vec(),
        note,
        signed_at_ms: 5,
    }
}

fn sign(checkpoint: Checkpoint) -> Body {
    Body::SignCheckpoint(SignCheckpoint {
        checkpoint: Some(checkpoint),
    })
}

#[test]
fn a_checkpoint_is_accepted_for_a_root_that_the_tree_had() {
    let mut cluster = Cluster::running();
    let (size, root) = (cluster.state.audit_size(), cluster.state.audit_root());
    cluster.accept(local(), denial());
    let applied = cluster.accept(by_server(1), sign(checkpoint(size, root)));
    assert_eq!(applied.events, [Event::CheckpointSigned]);
    assert!(
        applied.leaves.is_empty(),
        "signing the tree must not grow it"
    );
    let last = cluster.state.last_checkpoint().unwrap();
    assert_eq!((last.size, last.signed_at_ms), (size, cluster.now));
    let opened = mintmark_tlog::Checkpoint::open(&last.note, cluster.state.log_verifier().unwrap());
    assert_eq!(opened.unwrap().root, root);
    cluster.refuse(by_server(1), sign(checkpoint(size, root)), Refusal::Stale);
    cluster.refuse(
        by_server(1),
        sign(checkpoint(size - 1, root)),
        Refusal::Stale,
    );
}

#[test]
fn a_checkpoint_of_another_tree_key_or_log_is_refused() {
    let mut cluster = Cluster::running();
    let (size, root) = (cluster.state.audit_size(), cluster.state.audit_root());
    let good = checkpoint(size, root);
    let resigned = |origin: &str, signer: &mintmark_tlog::note::NoteSigner| {
        let tree = mintmark_tlog::Checkpoint {
            origin: origin.into(),
            size,
            root,
        };
        signer.sign(&tree.to_text()).unwrap().to_string()
    };
    let other_key = mintmark_tlog::note::NoteSigner::from_seed(ORIGIN, &[8; 32]).unwrap();
    for bad in [
        checkpoint(size, [1; 32]),
        checkpoint(size + 10, root),
        Checkpoint {
            root: vec![1],
            ..good.clone()
        },
        Checkpoint {
            note: String::new(),
            ..good.clone()
        },
        Checkpoint {
            note: checkpoint(size, [1; 32]).note,
            ..good.clone()
        },
        Checkpoint {
            note: checkpoint(size + 1, root).note,
            ..good.clone()
        },
        Checkpoint {
            note: resigned(ORIGIN, &other_key),
            ..good.clone()
        },
        Checkpoint {
            note: resigned("example.org/audit/2", &log_signer()),
            ..good.clone()
        },
    ] {
        cluster.refuse(by_server(1), sign(bad), Refusal::Invalid);
    }
    let none = Body::SignCheckpoint(SignCheckpoint { checkpoint: None });
    cluster.refuse(by_server(1), none, Refusal::Invalid);
    cluster.accept(by_server(1), sign(good));
}

#[test]
fn a_root_is_remembered_for_a_while_and_across_a_snapshot() {
    let mut cluster = Cluster::running();
    let (size, root) = (cluster.state.audit_size(), cluster.state.audit_root());
    for _ in 0..RECENT_ROOTS_MAX - 1 {
        cluster.apply(local(), denial());
    }
    let restored = State::decode(&cluster.state.encode()).unwrap();
    let mut restored = Cluster {
        state: restored,
        ..cluster.clone()
    };
    restored.accept(by_server(1), sign(checkpoint(size, root)));
    cluster.apply(local(), denial());
    cluster.refuse(by_server(1), sign(checkpoint(size, root)), Refusal::Stale);
}

// ---- repeated requests -----------------------------------------------------------

fn keyed(cluster: &Cluster, key: u8, body: Body) -> Command {
    let idempotency_key = vec![key; 16];
    Command {
        idempotency_key,
        ..cluster.command(local(), body)
    }
}

fn create_entry(n: u32) -> Body {
    let entries = vec![entry(&format!("e{n}"), AGENT, &format!("/w{n}"), &["a:1"])];
    Body::CreateEntries(CreateEntries { entries })
}

#[test]
fn a_repeated_request_gets_its_first_result_for_24_hours() {
    let mut cluster = Cluster::running();
    let command = keyed(&cluster, 1, create_entry(1));
    let first = cluster.apply_command(&command);
    assert!(!first.result.replayed);
    cluster.sleep(24 * HOUR - 1);
    let command = Command {
        time_ms: cluster.now,
        ..command
    };
    let again = cluster.apply_command(&command);
    assert!(again.result.replayed);
    assert!(again.leaves.is_empty() && again.events.is_empty());
    assert_eq!(again.result.items, first.result.items);
    cluster.sleep(1);
    let command = Command {
        time_ms: cluster.now,
        ..command
    };
    let late = cluster.apply_command(&command);
    assert!(!late.result.replayed);
    assert_eq!(late.result.items[0].refusal(), Refusal::AlreadyExists);
}

#[test]
fn a_key_stands_for_one_request_of_one_actor() {
    let mut cluster = Cluster::running();
    let command = keyed(&cluster, 1, create_entry(1));
    cluster.apply_command(&command);
    let other = keyed(&cluster, 1, create_entry(2));
    let applied = cluster.apply_command(&other);
    assert_eq!(applied.result.refusal(), Refusal::Conflict);
    assert_eq!(last_leaf(&applied).reason, "conflict");
    let stranger = Command {
        actor: Some(by_server(1)),
        ..command
    };
    assert_eq!(
        cluster.apply_command(&stranger).result.refusal(),
        Refusal::Conflict
    );
    assert_eq!(cluster.state.entry_count(), 1);
    let mut malformed = keyed(&cluster, 1, create_entry(3));
    malformed.idempotency_key.truncate(15);
    assert_eq!(
        cluster.apply_command(&malformed).result.refusal(),
        Refusal::Invalid
    );
}

#[test]
fn a_refusal_is_remembered_unless_it_asks_to_try_again() {
    let mut cluster = Cluster::running();
    let ban = Body::BanAgent(BanAgent {
        agent_id: id("/spire/agent/test/b"),
    });
    let command = keyed(&cluster, 1, ban);
    cluster.apply_command(&command);
    let again = cluster.apply_command(&command);
    assert_eq!(
        (again.result.refusal(), again.result.replayed),
        (Refusal::NotFound, true)
    );

    let change = |expected_revision| {
        let settings = Some(settings());
        Body::ChangeSettings(ChangeSettings {
            settings,
            expected_revision,
        })
    };
    let stale = keyed(&cluster, 2, change(9));
    assert_eq!(
        cluster.apply_command(&stale).result.refusal(),
        Refusal::Stale
    );
    let rebuilt = keyed(&cluster, 2, change(1));
    assert_eq!(
        cluster.apply_command(&rebuilt).result.refusal(),
        Refusal::Unspecified
    );
}

#[test]
fn the_caller_must_still_be_allowed_when_nothing_is_remembered() {
    let mut cluster = Cluster::running();
    let mut command = keyed(&cluster, 1, create_entry(1));
    command.actor = Some(nobody());
    assert_eq!(
        cluster.apply_command(&command).result.refusal(),
        Refusal::NotAuthorized
    );
    assert_eq!(
        cluster.state.remembered_result_count(),
        0,
        "strangers take no room"
    );
}

#[test]
fn remembered_results_are_bounded_and_the_oldest_go_first() {
    let mut cluster = Cluster::running();
    let with_key = |cluster: &Cluster, n: u32| {
        let mut key = n.to_be_bytes().to_vec();
        key.resize(16, 0);
        Command {
            idempotency_key: key,
            ..cluster.command(local(), denial())
        }
    };
    for n in 0..10_001 {
        cluster.now += 1;
        let command = with_key(&cluster, n);
        cluster.apply_command(&command);
    }
    assert_eq!(cluster.state.remembered_result_count(), 10_000);
    for (n, replayed) in [(0, false), (2, true), (10_000, true)] {
        let command = with_key(&cluster, n);
        assert_eq!(
            cluster.apply_command(&command).result.replayed,
            replayed,
            "{n}"
        );
    }
    cluster.sleep(25 * HOUR);
    cluster.accept(by_server(1), Body::PruneExpired(PruneExpired {}));
    assert_eq!(cluster.state.remembered_result_count(), 0);
}

// ---- events ----------------------------------------------------------------------

#[test]
fn events_resume_after_a_position_and_not_before_the_oldest() {
    let mut cluster = Cluster::running();
    let start = cluster.state.applied_position();
    assert_eq!(cluster.state.events_since(start).unwrap().count(), 0);
    for n in 0..3 {
        cluster.accept(local(), create_entry(n));
    }
    let all: Vec<(Position, Event)> = cluster.state.events_since(start).unwrap().collect();
    assert_eq!(all.len(), 3);
    assert_eq!(all[2].0, cluster.state.applied_position());
    assert_eq!(all[1].1, Event::EntryChanged("e1".parse().unwrap()));
    let later = cluster.state.events_since(all[0].0).unwrap();
    assert_eq!(later.collect::<Vec<_>>(), all[1..]);
    let ahead = Position {
        index: 1_000_000,
        ..start
    };
    assert_eq!(cluster.state.events_since(ahead).unwrap().count(), 0);
    for epoch in [0, 2] {
        let other = Position { epoch, ..start };
        assert!(matches!(cluster.state.events_since(other), Err(TooOld)));
    }
    let beginning = Position { epoch: 1, index: 0 };
    let first = cluster
        .state
        .events_since(beginning)
        .unwrap()
        .next()
        .unwrap();
    assert_eq!(first.1, Event::Initialized);
}

#[test]
fn only_so_many_events_are_remembered() {
    let mut cluster = Cluster::running();
    let start = cluster.state.applied_position();
    let kinds = AuthorityKind::X509;
    assert!(cluster.state.active_authority(kinds).is_some());
    let put = Body::PutVaultRecord(PutVaultRecord {
        record: Some(record("r", 1)),
    });
    for _ in 0..EVENTS_MAX {
        cluster.apply(by_server(1), put.clone());
    }
    assert_eq!(
        cluster.state.events_since(start).unwrap().count(),
        EVENTS_MAX
    );
    cluster.apply(by_server(1), put);
    assert!(matches!(cluster.state.events_since(start), Err(TooOld)));
    let next = Position {
        index: start.index + 1,
        ..start
    };
    assert_eq!(
        cluster.state.events_since(next).unwrap().count(),
        EVENTS_MAX
    );
}

#[test]
fn commands_that_share_an_index_keep_their_events_together() {
    let mut cluster = Cluster::running();
    let start = cluster.state.applied_position();
    let index = start.index + 1;
    for n in 0..3 {
        let command = cluster.command(local(), create_entry(n));
        cluster.state.apply(index, &command);
    }
    let events: Vec<_> = cluster.state.events_since(start).unwrap().collect();
    assert!(events.iter().all(|(position, _)| position.index == index));
    assert_eq!(events.len(), 3);
    let after = Position { index, ..start };
    assert_eq!(cluster.state.events_since(after).unwrap().count(), 0);
}

#[test]
fn an_actor_kind_is_never_taken_for_another() {
    // Kinds that carry an identity do not leak it into leaves of those that do not.
    let mut cluster = Cluster::running();
    let sly = Actor {
        kind: Kind::Nobody.into(),
        spiffe_id: id("/admin"),
        node_id: 1,
    };
    let applied = cluster.accept(sly, denial());
    assert_eq!(last_leaf(&applied).actor, "nobody");
}
