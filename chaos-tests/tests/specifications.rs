//! The models by which histories are judged, held against the state machine itself.
//!
//! Responsible for: random commands about one key, applied one after the other to the real
//! `ca_server::state::State`; what it answers must be what the model allows. A model that is stricter
//! than the product would cry wolf in the simulator; one that forbids nothing is caught by
//! `tests/linearizability`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

#[path = "../../ca-server/tests/state_support/mod.rs"]
mod state_support;

use chaos_tests::linearizability::Model;
use chaos_tests::linearizability::agent::{self, Agent, Standing};
use chaos_tests::linearizability::authority_slot::{self, Authority, AuthoritySlot, Ground, Phase};
use chaos_tests::linearizability::checker::{Budget, Verdict, check};
use chaos_tests::linearizability::entry::{self, Entry, Seen};
use chaos_tests::linearizability::history::History;
use chaos_tests::linearizability::join_token::{self, JoinToken};
use mintmark_proto::mintmark::raft::v1::activate_authority::Ground as RealGround;
use mintmark_proto::mintmark::raft::v1::command::Body;
use mintmark_proto::mintmark::raft::v1::{
    AcknowledgeBundle, Actor, AttestNode, BanAgent, Command, CommandResult, CreateEntries,
    CreateJoinToken, DeleteEntries, EvictAgent, RecordResume, Refusal, RetireAuthority,
    RevokeAuthority, TaintAuthority, UpdateEntries, acknowledge_bundle::Acknowledgement,
    update_entries::Update,
};
use mintmark_proto::mintmark::state::v1::{self as wire, AuthorityKind, AuthorityState};
use proptest::prelude::*;
use state_support::*;

const AGENT: &str = "/spire/agent/test/subject";
const TOKEN: &str = "6f8e9f3a-0d8e-4f57-9d8e-2c1f6a7b8c9d";
const MILLI: u64 = 1_000_000;

/// Checks what was recorded; a model may not be stricter than the product.
fn allowed<M: Model>(model: &M, history: &History<M::Op, M::Outcome>) -> Result<(), TestCaseError> {
    match check(model, history, Budget::default()) {
        Verdict::Linearizable(_) => Ok(()),
        Verdict::Violation(violation) => Err(TestCaseError::fail(violation.to_string())),
        Verdict::Undecided(why) => Err(TestCaseError::fail(format!("{why:?}"))),
    }
}

/// Nanoseconds since the made-up cluster began.
fn since(cluster: &Cluster) -> u64 {
    u64::try_from(cluster.now - T0).unwrap() * MILLI
}

fn apply_with_key(cluster: &mut Cluster, key: Option<u64>, body: Body) -> CommandResult {
    let idempotency_key = key.map_or_else(Vec::new, |key| {
        let mut bytes = vec![0; 8];
        bytes.extend_from_slice(&key.to_be_bytes());
        bytes
    });
    let command = Command {
        idempotency_key,
        ..cluster.command(local(), body)
    };
    cluster.apply_command(&command).result
}

mod entries {
    use super::entry::{Op, Outcome, Why};
    use super::*;

    const ID: &str = "subject";

    fn content(n: u64) -> wire::Entry {
        entry(
            ID,
            "/spire/agent/test/a",
            "/workload",
            &[&format!("unix:uid:{n}")],
        )
    }

    fn seen(entry: &wire::Entry) -> Seen {
        let uid = entry.selectors[0].value.rsplit(':').next().unwrap();
        Seen {
            revision: entry.revision,
            content: uid.parse().unwrap(),
        }
    }

    fn body(op: &Op) -> Option<Body> {
        Some(match op {
            Op::Create { content: n, .. } => Body::CreateEntries(CreateEntries {
                entries: vec![content(*n)],
            }),
            Op::Update {
                expected,
                content: n,
                ..
            } => Body::UpdateEntries(UpdateEntries {
                updates: vec![Update {
                    entry: Some(content(*n)),
                    expected_revision: expected.unwrap_or(0),
                }],
            }),
            Op::Delete { .. } => Body::DeleteEntries(DeleteEntries {
                ids: vec![ID.into()],
            }),
            Op::Read => return None,
        })
    }

    fn outcome(op: &Op, result: &CommandResult) -> Outcome {
        if result.refusal() == Refusal::Conflict {
            return Outcome::Refused(Why::KeyReused, None);
        }
        let item = &result.items[0];
        let entry = item.entry.as_ref().map(seen);
        match (item.refusal(), op) {
            (Refusal::Unspecified, Op::Create { .. }) => Outcome::Created(entry.unwrap()),
            (Refusal::Unspecified, Op::Update { .. }) => Outcome::Updated(entry.unwrap()),
            (Refusal::Unspecified, Op::Delete { .. }) => Outcome::Deleted,
            (Refusal::NotFound, _) => Outcome::Refused(Why::NotFound, entry),
            (Refusal::AlreadyExists, _) => Outcome::Refused(Why::AlreadyExists, entry),
            (Refusal::Stale, _) => Outcome::Refused(Why::Stale, entry),
            other => panic!("{other:?}"),
        }
    }

    fn perform(cluster: &mut Cluster, op: &Op) -> Outcome {
        let Some(body) = body(op) else {
            let found = cluster.state.entry(&ID.parse().unwrap());
            return found.map_or(Outcome::Absent, |entry| {
                Outcome::Found(seen(&wire::Entry::from(entry)))
            });
        };
        let (Op::Create { key, .. } | Op::Update { key, .. } | Op::Delete { key }) = op else {
            panic!("a read has no body");
        };
        let result = apply_with_key(cluster, *key, body);
        outcome(op, &result)
    }

    fn op() -> impl Strategy<Value = Op> {
        let key = prop::option::weighted(0.4, 0_u64..3);
        let expected = prop::option::weighted(0.7, 1_u64..5);
        let content = 0_u64..3;
        prop_oneof![
            (key.clone(), content.clone()).prop_map(|(key, content)| Op::Create { key, content }),
            (key.clone(), expected, content).prop_map(|(key, expected, content)| Op::Update {
                key,
                expected,
                content
            }),
            key.prop_map(|key| Op::Delete { key }),
            Just(Op::Read),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(128) })]

        #[test]
        fn the_state_machine_answers_what_the_model_allows(
            ops in prop::collection::vec(op(), 1..40),
        ) {
            let mut cluster = Cluster::running();
            let mut history = History::new();
            for op in ops {
                cluster.sleep(1);
                let outcome = perform(&mut cluster, &op);
                history.call(1, op, outcome, since(&cluster));
            }
            allowed(&Entry, &history)?;
        }
    }
}

mod agents {
    use super::agent::{Op, Outcome, Why};
    use super::*;

    fn key(n: u64) -> String {
        format!("key {n}")
    }

    fn why(refusal: Refusal) -> Why {
        match refusal {
            Refusal::Banned => Why::Banned,
            Refusal::AgentNotAttested | Refusal::NotFound => Why::NotAttested,
            Refusal::AlreadyExists => Why::AlreadyAttested,
            Refusal::AgentSerial => Why::Serial,
            Refusal::NotAuthorized => Why::Key,
            other => panic!("{other:?}"),
        }
    }

    fn serial(n: u64) -> Vec<u8> {
        let mut serial = vec![0x22; 8];
        serial.extend_from_slice(&n.to_be_bytes());
        serial
    }

    /// Serials are numbered in the order in which they are made.
    fn renew(cluster: &mut Cluster, presented: Option<u64>, with: u64) -> Result<u64, Why> {
        let presented = presented.map(serial).unwrap_or_default();
        let mut intent = cluster.agent_intent(AGENT, &presented, &key(with));
        let number = cluster.serials;
        intent.serial = serial(number);
        match cluster.issue(intent).refusal() {
            Refusal::Unspecified => Ok(number),
            refusal => Err(why(refusal)),
        }
    }

    fn attest(cluster: &mut Cluster, with: u64, repeatable: bool) -> Result<(), Why> {
        let body = AttestNode {
            can_reattest: repeatable,
            ..cluster.attest(AGENT, &["node:s"], &key(with))
        };
        done(cluster, nobody(), Body::AttestNode(body))
    }

    fn done(cluster: &mut Cluster, actor: Actor, body: Body) -> Result<(), Why> {
        match cluster.apply(actor, body).result.refusal() {
            Refusal::Unspecified => Ok(()),
            refusal => Err(why(refusal)),
        }
    }

    fn show(cluster: &mut Cluster, presented: u64) -> Outcome {
        let seen = AcknowledgeBundle {
            acknowledgements: vec![Acknowledgement {
                agent_id: id(AGENT),
                presented_serial: serial(presented),
                ..Acknowledgement::default()
            }],
        };
        let result = cluster
            .apply(by_server(1), Body::AcknowledgeBundle(seen))
            .result;
        match result.items[0].refusal() {
            Refusal::Unspecified => Outcome::Done,
            refusal => Outcome::Refused(why(refusal)),
        }
    }

    fn perform(cluster: &mut Cluster, op: Op) -> Outcome {
        let agent_id = id(AGENT);
        let done = match op {
            Op::Read => {
                let standing = match cluster.state.attested_node(&spiffe(AGENT)) {
                    None => Standing::Absent,
                    Some(node) if node.banned => Standing::Banned,
                    Some(_) => Standing::Attested,
                };
                return Outcome::Stands(standing);
            }
            Op::Attest {
                key,
                repeatable,
                issue,
            } => match attest(cluster, key, repeatable) {
                Err(why) => Err(why),
                Ok(()) if issue => {
                    return Outcome::Attested(Some(renew(cluster, None, key).unwrap()));
                }
                Ok(()) => return Outcome::Attested(None),
            },
            Op::Renew { presented, key } => match renew(cluster, presented, key) {
                Ok(serial) => return Outcome::Renewed(serial),
                Err(why) => Err(why),
            },
            Op::Resume { proven, new_key } => {
                let body = RecordResume {
                    agent_id,
                    key_spki_sha256: sha(&key(proven)),
                    new_key_spki_sha256: new_key.map(|new| sha(&key(new))).unwrap_or_default(),
                };
                done(cluster, by_server(1), Body::RecordResume(body))
            }
            Op::Show(presented) => return show(cluster, presented),
            Op::Ban => done(cluster, local(), Body::BanAgent(BanAgent { agent_id })),
            Op::Evict => done(cluster, local(), Body::EvictAgent(EvictAgent { agent_id })),
        };
        match done {
            Ok(()) => Outcome::Done,
            Err(why) => Outcome::Refused(why),
        }
    }

    fn op() -> impl Strategy<Value = Op> {
        let key = 0_u64..3;
        prop_oneof![
            4 => (key.clone(), any::<bool>(), any::<bool>())
                .prop_map(|(key, repeatable, issue)| Op::Attest { key, repeatable, issue }),
            6 => (prop::option::weighted(0.7, 0_u64..12), key.clone())
                .prop_map(|(presented, key)| Op::Renew { presented, key }),
            3 => (key.clone(), prop::option::of(key))
                .prop_map(|(proven, new_key)| Op::Resume { proven, new_key }),
            3 => (0_u64..12).prop_map(Op::Show),
            1 => Just(Op::Ban),
            1 => Just(Op::Evict),
            1 => Just(Op::Read),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(128) })]

        #[test]
        fn the_state_machine_answers_what_the_model_allows(
            ops in prop::collection::vec(op(), 1..40),
        ) {
            let mut cluster = Cluster::running();
            let mut history = History::new();
            // Serials that are presented are mostly recent ones.
            for op in ops {
                cluster.sleep(1);
                let op = match op {
                    Op::Renew { presented: Some(back), key } => Op::Renew {
                        presented: Some(cluster.serials.saturating_sub(back / 3)),
                        key,
                    },
                    Op::Show(back) => Op::Show(cluster.serials.saturating_sub(back / 6)),
                    other => other,
                };
                let outcome = perform(&mut cluster, op);
                history.call(1, op, outcome, since(&cluster));
            }
            allowed(&Agent, &history)?;
        }
    }
}

mod tokens {
    use super::join_token::{Op, Outcome, Why};
    use super::*;

    fn perform(cluster: &mut Cluster, op: Op) -> Outcome {
        let path = token_agent(TOKEN);
        let (actor, body) = match op {
            Op::Create { expires_at } => {
                let token = wire::JoinToken {
                    token_sha256: sha(TOKEN),
                    expires_at_ms: T0 + i64::try_from(expires_at / MILLI).unwrap(),
                    ..wire::JoinToken::default()
                };
                let body = CreateJoinToken {
                    token: Some(token),
                    alias_entry: None,
                };
                (local(), Body::CreateJoinToken(body))
            }
            Op::Consume { key } => {
                let body = AttestNode {
                    join_token_sha256: sha(TOKEN),
                    can_reattest: false,
                    ..cluster.attest(&path, &[], &format!("key {key}"))
                };
                (nobody(), Body::AttestNode(body))
            }
            Op::End => {
                let agent_id = id(&path);
                (local(), Body::EvictAgent(EvictAgent { agent_id }))
            }
        };
        match cluster.apply(actor, body).result.refusal() {
            Refusal::Unspecified => Outcome::Done,
            // Nobody had joined: there was nothing to end.
            Refusal::NotFound => Outcome::Refused(Why::Unknown),
            Refusal::AlreadyExists => Outcome::Refused(Why::Exists),
            Refusal::TokenUnknown => Outcome::Refused(Why::Unknown),
            Refusal::TokenUsed => Outcome::Refused(Why::Used),
            other => panic!("{other:?}"),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(128) })]

        #[test]
        fn the_state_machine_answers_what_the_model_allows(
            ops in prop::collection::vec((0_u8..8, 1_u64..3, 0_i64..4), 1..24),
            lives in 3_u64..30,
        ) {
            let mut cluster = Cluster::running();
            let mut history = History::new();
            for (kind, key, pause) in ops {
                cluster.sleep(pause);
                let op = match kind {
                    0 | 1 => Op::Create { expires_at: since(&cluster) + lives * MILLI },
                    2..7 => Op::Consume { key },
                    _ => Op::End,
                };
                let outcome = perform(&mut cluster, op);
                if (op, outcome) == (Op::End, Outcome::Refused(Why::Unknown)) {
                    continue;
                }
                history.call(1, op, outcome, since(&cluster));
            }
            allowed(&JoinToken { skew: 0 }, &history)?;
        }
    }
}

mod authorities {
    use super::authority_slot::{Op, Outcome, State, Why};
    use super::*;

    fn name(n: u64) -> String {
        format!("j{n}")
    }

    fn stand(cluster: &Cluster) -> State {
        let all = cluster.state.authorities(AuthorityKind::Jwt).map(|it| {
            let phase = match it.state() {
                AuthorityState::Prepared => Phase::Prepared,
                AuthorityState::Published => Phase::Published,
                AuthorityState::Active => Phase::Active,
                AuthorityState::Old => Phase::Old,
                AuthorityState::Retired => Phase::Retired,
                AuthorityState::Revoked => Phase::Revoked,
                AuthorityState::Unspecified => panic!("an authority without a state"),
            };
            let tainted = it.tainted;
            (it.id[1..].parse().unwrap(), Authority { phase, tainted })
        });
        all.collect()
    }

    fn perform(cluster: &mut Cluster, op: &Op) -> Outcome {
        let authority_id = |n: &u64| name(*n);
        let body = match op {
            Op::Read => return Outcome::Stand(stand(cluster)),
            Op::Prepare(n) => cluster.prepare(
                &name(*n),
                AuthorityKind::Jwt,
                2 + usize::try_from(*n).unwrap(),
            ),
            Op::Publish(n) => publish(&name(*n)),
            Op::Activate(n, ground) => activate(
                &name(*n),
                match ground {
                    Ground::Acknowledged => RealGround::Acknowledged,
                    Ground::Deadline => RealGround::Deadline,
                    Ground::ColdStart => RealGround::ColdStart,
                    Ground::Operator => RealGround::Operator,
                },
            ),
            Op::Retire(n) => Body::RetireAuthority(RetireAuthority {
                authority_id: authority_id(n),
            }),
            Op::Taint(n) => Body::TaintAuthority(TaintAuthority {
                authority_id: authority_id(n),
            }),
            Op::Revoke(n) => Body::RevokeAuthority(RevokeAuthority {
                authority_id: authority_id(n),
            }),
        };
        match cluster.apply(local(), body).result.refusal() {
            Refusal::Unspecified => Outcome::Done,
            Refusal::NotFound => Outcome::Refused(Why::NotFound),
            Refusal::AlreadyExists => Outcome::Refused(Why::Exists),
            Refusal::Conflict
            | Refusal::AuthorityState
            | Refusal::AuthorityNotTainted
            | Refusal::AuthorityInUse => Outcome::Refused(Why::Conflict),
            Refusal::NotAcknowledged => Outcome::Refused(Why::NotAcknowledged),
            Refusal::Authority => Outcome::Refused(Why::Unusable),
            other => panic!("{other:?}"),
        }
    }

    fn op() -> impl Strategy<Value = Op> {
        let which = 1_u64..5;
        let ground = prop::sample::select(vec![
            Ground::Acknowledged,
            Ground::Deadline,
            Ground::ColdStart,
            Ground::Operator,
        ]);
        prop_oneof![
            3 => which.clone().prop_map(Op::Prepare),
            3 => which.clone().prop_map(Op::Publish),
            4 => (which.clone(), ground).prop_map(|(which, ground)| Op::Activate(which, ground)),
            1 => which.clone().prop_map(Op::Retire),
            1 => which.clone().prop_map(Op::Taint),
            1 => which.prop_map(Op::Revoke),
            2 => Just(Op::Read),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(128) })]

        #[test]
        fn the_state_machine_answers_what_the_model_allows(
            ops in prop::collection::vec(op(), 1..40),
        ) {
            // Without authorities of this kind, but with an agent that must acknowledge.
            let mut cluster = Cluster::new();
            cluster.start_authority("x0", AuthorityKind::X509, 0);
            cluster.join("/spire/agent/test/a", &["node:a"]);
            let (mut exact, mut lenient) = (History::new(), History::new());
            for op in ops {
                cluster.sleep(1);
                let outcome = perform(&mut cluster, &op);
                exact.call(1, op.clone(), outcome.clone(), since(&cluster));
                // Whoever sees a part only must be able to explain it, if servers act by themselves.
                if !matches!(op, Op::Publish(_)) {
                    lenient.call(1, op, outcome, since(&cluster));
                }
            }
            allowed(&AuthoritySlot { jobs: false }, &exact)?;
            allowed(&AuthoritySlot { jobs: true }, &lenient)?;
        }
    }
}
