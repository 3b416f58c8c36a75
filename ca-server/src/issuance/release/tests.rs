#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use mintmark_proto::mintmark::raft::v1::command::Body;
use mintmark_proto::mintmark::raft::v1::{
    BanAgent, CreateEntries, DeleteEntries, EvictAgent, TaintAuthority, UpdateEntries,
    update_entries::Update,
};
use mintmark_proto::mintmark::state::v1::{AuthorityKind, Entry, Selector};

use mintmark_identity::authority::AuthorityKey;
use mintmark_identity::bundle::{Bundle, X509Anchor};
use mintmark_identity::entropy::SeededEntropy;
use mintmark_identity::svid::x509::self_signed_authority;
use mintmark_identity::svid::x509::{CaSubject, Serial, VerifiedCsr, X509Authority};
use mintmark_identity::trust_domain::TrustDomain;
use mintmark_identity::validity::Validity;

use super::*;
use crate::api::fixture::{Fixture, START};
use crate::api::status::ApiError;
use crate::code::{self, Code};
use crate::issuance::IssueError;
use crate::issuance::prepared::Issuing;
use crate::issuance::subject::Resolved;

const WEB: &str = "spiffe://example.org/web";

/// Something that was accepted.
struct Asked(Intent);

impl Prepared for Asked {
    fn intent(&self) -> &Intent {
        &self.0
    }
}

fn authority(fixture: &Fixture) -> String {
    let consensus = &fixture.services.consensus;
    consensus.read(|state| {
        state
            .active_authority(AuthorityKind::X509)
            .unwrap()
            .id
            .clone()
    })
}

fn committed(fixture: &Fixture, subject: intent::Subject, agent: &str) -> Committed<Asked> {
    let intent = Intent {
        subject: Some(subject),
        spiffe_id: WEB.to_owned(),
        requesting_agent: agent.to_owned(),
        authority_id: authority(fixture),
        ..Intent::default()
    };
    Committed::accepted(Asked(intent), Instant::now())
}

fn minted(fixture: &Fixture) -> Committed<Asked> {
    committed(
        fixture,
        intent::Subject::AdminMint(intent::AdminMint {}),
        "",
    )
}

fn in_touch() -> Contact {
    Contact {
        quorum_age: Some(Duration::ZERO),
        clock: ClockState::Good(ClockOffset(0)),
        now: Instant::now(),
    }
}

/// The stable code that a caller is told.
fn told(error: ReleaseError) -> Code {
    ApiError::from(IssueError::from(error)).codes().0
}

fn rechecked(
    fixture: &Fixture,
    committed: &Committed<Asked>,
    contact: Contact,
) -> Result<(), ReleaseError> {
    let consensus = &fixture.services.consensus;
    consensus.read(|state| recheck(committed, state, contact))
}

#[tokio::test(start_paused = true)]
async fn without_word_from_the_quorum_for_a_second_nothing_is_signed() {
    let fixture = Fixture::issuing(false).await;
    let after = |quorum_age| {
        let contact = Contact {
            quorum_age,
            ..in_touch()
        };
        rechecked(&fixture, &minted(&fixture), contact)
    };
    assert!(after(Some(Duration::from_secs(1))).is_ok());
    for age in [None, Some(Duration::from_millis(1_001))] {
        let refused = after(age);
        assert!(
            matches!(refused, Err(ReleaseError::OutOfTouch(_))),
            "{refused:?}"
        );
        assert_eq!(told(refused.unwrap_err()), code::STALE);
    }
}

#[tokio::test(start_paused = true)]
async fn an_acceptance_of_more_than_five_seconds_ago_is_not_signed() {
    let fixture = Fixture::issuing(false).await;
    let committed = minted(&fixture);
    tokio::time::advance(Duration::from_secs(5)).await;
    rechecked(&fixture, &committed, in_touch()).unwrap();
    tokio::time::advance(Duration::from_millis(1)).await;
    let refused = rechecked(&fixture, &committed, in_touch());
    assert!(
        matches!(refused, Err(ReleaseError::TooLate(_))),
        "{refused:?}"
    );
    assert_eq!(told(refused.unwrap_err()), code::TOO_LATE);
}

#[tokio::test(start_paused = true)]
async fn a_server_whose_clock_is_not_known_to_be_good_does_not_sign() {
    let fixture = Fixture::issuing(false).await;
    let with = |clock| {
        let contact = Contact {
            clock,
            ..in_touch()
        };
        rechecked(&fixture, &minted(&fixture), contact)
    };
    assert!(with(ClockState::Good(ClockOffset(-5_000))).is_ok());
    let skewed = with(ClockState::Skewed(ClockOffset(5_001)));
    assert!(
        matches!(skewed, Err(ReleaseError::ClockSkew(ClockOffset(5_001)))),
        "{skewed:?}"
    );
    let unknown = with(ClockState::Unknown);
    assert!(
        matches!(unknown, Err(ReleaseError::ClockUnknown)),
        "{unknown:?}"
    );
}

fn denied(outcome: Result<(), ReleaseError>) -> &'static str {
    match outcome {
        Err(error @ ReleaseError::DeniedMeanwhile(why)) => {
            assert_eq!(told(error), code::DENIED_MEANWHILE);
            why
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_denied_after_its_acceptance_is_not_signed() {
    let fixture = Fixture::issuing(false).await;
    let (banned, evicted) = (
        fixture.join("banned", &[]).await,
        fixture.join("evicted", &[]).await,
    );
    let entries = [("b", &banned), ("e", &evicted)].map(|(id, parent)| Entry {
        id: id.into(),
        ..entry(parent, WEB)
    });
    let create = CreateEntries {
        entries: entries.into(),
    };
    fixture.apply(Body::CreateEntries(create)).await;
    let (banned, evicted) = (banned.to_string(), evicted.to_string());
    let of = |agent: &str| {
        let subject = intent::AgentSubject {
            agent_id: agent.to_owned(),
            presented_serial: Vec::new(),
        };
        committed(&fixture, intent::Subject::Agent(subject), "")
    };
    let entry = |agent: &str| {
        let id = if agent == banned { "b" } else { "e" };
        let subject = intent::EntrySubject {
            id: id.into(),
            revision: 1,
        };
        committed(&fixture, intent::Subject::Entry(subject), agent)
    };
    for one in [
        of(&banned),
        of(&evicted),
        entry(&banned),
        entry(&evicted),
        minted(&fixture),
    ] {
        rechecked(&fixture, &one, in_touch()).unwrap();
    }

    let ban = BanAgent {
        agent_id: banned.clone(),
    };
    fixture.apply(Body::BanAgent(ban)).await;
    for one in [of(&banned), entry(&banned)] {
        let why = denied(rechecked(&fixture, &one, in_touch()));
        assert_eq!(why, "the agent was banned or evicted");
    }
    rechecked(&fixture, &entry(&evicted), in_touch()).unwrap();
    let delete = DeleteEntries {
        ids: vec!["e".into()],
    };
    fixture.apply(Body::DeleteEntries(delete)).await;
    let why = denied(rechecked(&fixture, &entry(&evicted), in_touch()));
    assert_eq!(why, "the entry was deleted");
    let evict = EvictAgent {
        agent_id: evicted.clone(),
    };
    fixture.apply(Body::EvictAgent(evict)).await;
    let why = denied(rechecked(&fixture, &of(&evicted), in_touch()));
    assert_eq!(why, "the agent was banned or evicted");
}

#[tokio::test(start_paused = true)]
async fn an_authority_that_was_tainted_after_the_acceptance_does_not_sign() {
    let fixture = Fixture::issuing(false).await;
    let committed = minted(&fixture);
    let taint = TaintAuthority {
        authority_id: authority(&fixture),
    };
    fixture.apply(Body::TaintAuthority(taint)).await;
    let why = denied(rechecked(&fixture, &committed, in_touch()));
    assert_eq!(why, "the authority no longer signs");
}

fn entry(parent: &SpiffeId, spiffe_id: &str) -> Entry {
    Entry {
        id: "e".into(),
        spiffe_id: spiffe_id.into(),
        parent_id: parent.to_string(),
        selectors: vec![Selector {
            kind: "unix".into(),
            value: "uid:1".into(),
        }],
        ..Entry::default()
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_signed_for_an_entry_that_moved_or_gives_another_identity_since() {
    let fixture = Fixture::issuing(false).await;
    let (agent, other) = (fixture.join("a", &[]).await, fixture.join("b", &[]).await);
    let (db, web) = ("spiffe://example.org/db", "spiffe://example.org/web");
    let create = CreateEntries {
        entries: vec![entry(&agent, db)],
    };
    fixture.apply(Body::CreateEntries(create)).await;
    let consensus = &fixture.services.consensus;
    let active = consensus.read(|state| {
        let active = state.active_authority(AuthorityKind::X509).unwrap();
        active.id.clone()
    });
    let intent = Intent {
        authority_id: active,
        requesting_agent: agent.to_string(),
        spiffe_id: db.into(),
        subject: Some(intent::Subject::Entry(intent::EntrySubject {
            id: "e".into(),
            revision: 1,
        })),
        ..Intent::default()
    };
    let check = || consensus.read(|state| check_subject(&intent, state));
    check().unwrap();
    for (changed, holds) in [
        (entry(&other, db), false),
        (entry(&agent, db), true),
        (entry(&agent, web), false),
    ] {
        let id = EntryId::parse("e").unwrap();
        let revision = consensus.read(|state| state.entry(&id).unwrap().revision);
        let update = UpdateEntries {
            updates: vec![Update {
                expected_revision: revision,
                entry: Some(changed),
            }],
        };
        fixture.apply(Body::UpdateEntries(update)).await;
        assert_eq!(check().is_ok(), holds);
    }
}

/// A certificate that was agreed on, and the bundle that verifies it.
fn agreed(entropy: &SeededEntropy) -> (PreparedX509, BundleSet) {
    let domain = TrustDomain::parse("example.org").unwrap();
    let key = AuthorityKey::generate(false).unwrap();
    let validity = Validity::issued_at(START, Duration::from_secs(86_400));
    let serial = Serial::draw(entropy);
    let certificate =
        self_signed_authority(&domain, &key, serial, validity, &CaSubject::default()).unwrap();
    let authority = X509Authority::parse(&certificate).unwrap();
    let csr = rcgen::CertificateParams::default()
        .serialize_request(&rcgen::KeyPair::generate().unwrap())
        .unwrap();
    let resolved = Resolved {
        spiffe_id: SpiffeId::parse(WEB).unwrap(),
        validity: Validity::issued_at(START, Duration::from_secs(3_600)),
        dns_names: Vec::new(),
        subject: intent::Subject::AdminMint(intent::AdminMint {}),
        requesting_agent: String::new(),
        include_jti: false,
        hint: String::new(),
    };
    let issuing = Issuing {
        authority_id: authority.id().to_owned(),
        key: std::sync::Arc::new(key),
    };
    let csr = VerifiedCsr::verify(csr.der()).unwrap();
    let serial = Serial::draw(entropy);
    let prepared = PreparedX509::build(&resolved, &csr, issuing, &authority, serial).unwrap();
    let mut bundle = Bundle::empty(domain);
    bundle.x509.push(X509Anchor::parse(&certificate).unwrap());
    (prepared, [bundle].into_iter().collect())
}

#[tokio::test(start_paused = true)]
async fn a_certificate_that_the_server_itself_would_refuse_is_not_released() {
    let entropy = SeededEntropy::new(3);
    let accepted = |prepared| Committed::accepted(prepared, Instant::now());
    let (prepared, bundles) = agreed(&entropy);
    let signed = sign_x509(accepted(prepared), &bundles, START).unwrap();
    assert_eq!(signed.spiffe_id.as_str(), WEB);

    let (mut other_hash, bundles) = agreed(&entropy);
    other_hash.intent.svid_hash = vec![7; 32];
    let (mut other_name, of_name) = agreed(&entropy);
    other_name.spiffe_id = SpiffeId::parse("spiffe://example.org/db").unwrap();
    let (mut other_key, of_key) = agreed(&entropy);
    other_key.public_key_spki = vec![7];
    let (strange, _) = agreed(&entropy);
    for (prepared, bundles, why) in [
        (other_hash, bundles, "its hash is not the one agreed on"),
        (other_name, of_name, "it names another identity"),
        (other_key, of_key, "it holds another key"),
        (strange, BundleSet::new(), ""),
    ] {
        let error = sign_x509(accepted(prepared), &bundles, START).unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
        assert_eq!(told(error), code::SELF_CHECK);
    }
}
