//! The table of roles, row by row, and what a refusal says.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::collections::BTreeSet;

use mintmark_identity::clock::Timestamp;
use mintmark_identity::svid::x509::{Serial, VerifiedX509Svid};
use mintmark_identity::validity::Validity;
use mintmark_proto::mintmark::raft::v1::actor::Kind;

use super::permit::Standing;
use super::*;

const AGENT: &str = "spiffe://example.org/spire/agent/join_token/a";

fn serial() -> Serial {
    Serial::from_bytes([1; 16]).unwrap()
}

fn svid(id: &str) -> VerifiedX509Svid {
    VerifiedX509Svid {
        spiffe_id: SpiffeId::parse(id).unwrap(),
        serial: serial().to_string(),
        validity: Validity {
            not_before: Timestamp::from_unix_secs(0),
            not_after: Timestamp::from_unix_secs(60),
        },
        authority_id: String::new(),
        anchor_id: String::new(),
        hybrid: false,
        public_key_spki: Vec::new(),
    }
}

fn holder(id: &str, standing: Standing) -> Caller {
    Caller::verified(&svid(id), standing, "10.0.0.1".to_owned())
}

fn standing(admin: bool, agent: Option<Result<Serial, AgentDenial>>) -> Standing {
    Standing {
        admin,
        downstream: false,
        agent,
    }
}

fn allowed(caller: &Caller) -> BTreeSet<&'static str> {
    let permitted = Action::ALL
        .iter()
        .filter(|action| decide(caller, **action).is_ok());
    permitted.map(|action| action.name()).collect()
}

#[test]
fn nobody_may_only_attest_join_and_read_what_is_public() {
    let expected = BTreeSet::from([
        "agent.AttestAgent",
        "bundle.GetBundle",
        "mintmark.agent.GetResumeNonce",
        "mintmark.agent.GetStatement",
        "mintmark.agent.Resume",
        "mintmark.audit.GetCheckpoint",
        "mintmark.audit.GetInclusionProof",
        "mintmark.cluster.Join",
    ]);
    assert_eq!(allowed(&Caller::nobody("10.0.0.1".to_owned())), expected);
    let workload = holder("spiffe://example.org/db", standing(false, None));
    assert_eq!(
        allowed(&workload),
        expected,
        "an ordinary SVID opens nothing"
    );
    let lapsed = Caller::lapsed("expired".to_owned(), "10.0.0.1".to_owned());
    assert_eq!(allowed(&lapsed), expected);
}

#[test]
fn an_agent_may_serve_itself_and_administer_nothing() {
    let agent = holder(AGENT, standing(false, Some(Ok(serial()))));
    let allowed = allowed(&agent);
    for action in [
        "agent.RenewAgent",
        "svid.BatchNewX509SVID",
        "mintmark.agent.Sync",
    ] {
        assert!(allowed.contains(action), "{action}");
    }
    for action in [
        "agent.BanAgent",
        "entry.BatchCreateEntry",
        "svid.MintX509SVID",
    ] {
        assert!(!allowed.contains(action), "{action}");
    }
}

#[test]
fn administrators_may_not_act_as_agents() {
    for caller in [
        Caller::local(),
        holder("spiffe://example.org/ops", standing(true, None)),
    ] {
        let allowed = allowed(&caller);
        assert!(allowed.contains("entry.BatchCreateEntry"));
        assert!(allowed.contains("svid.MintJWTSVID"));
        assert!(!allowed.contains("svid.BatchNewX509SVID"));
        assert!(!allowed.contains("agent.RenewAgent"));
    }
}

#[test]
fn only_the_private_socket_prepares_taints_and_revokes_authorities() {
    let admin = holder("spiffe://example.org/ops", standing(true, None));
    for action in [
        Action::PrepareAuthority,
        Action::TaintAuthority,
        Action::RevokeAuthority,
    ] {
        assert!(decide(&admin, action).is_err());
        assert!(decide(&Caller::local(), action).is_ok());
    }
}

#[test]
fn an_agent_that_is_not_accepted_hears_why() {
    for denial in [
        AgentDenial::Banned,
        AgentDenial::NotActive,
        AgentDenial::NotAttested,
    ] {
        let agent = holder(AGENT, standing(false, Some(Err(denial))));
        match decide(&agent, Action::RenewAgent) {
            Err(Denied::Agent { source, .. }) => assert_eq!(source, denial),
            other => panic!("{other:?}"),
        }
        assert!(matches!(
            decide(&agent, Action::BanAgent),
            Err(Denied::Forbidden { .. })
        ));
        assert!(
            decide(&agent, Action::GetBundle).is_ok(),
            "what is public stays public"
        );
    }
}

#[test]
fn permits_name_their_actor() {
    let actor = |caller: &Caller, action| decide(caller, action).unwrap().actor().clone();
    let agent = holder(AGENT, standing(false, Some(Ok(serial()))));
    assert_eq!(actor(&agent, Action::Sync).kind(), Kind::Agent);
    assert_eq!(actor(&agent, Action::Sync).spiffe_id, AGENT);
    assert_eq!(
        actor(&Caller::local(), Action::BanAgent).kind(),
        Kind::Local
    );
    let admin = holder("spiffe://example.org/ops", standing(true, None));
    assert_eq!(actor(&admin, Action::BanAgent).kind(), Kind::Admin);
    let nobody = Caller::nobody("10.0.0.1".to_owned());
    assert_eq!(actor(&nobody, Action::AttestAgent).kind(), Kind::Nobody);
}

#[test]
fn an_agent_marked_admin_is_named_as_what_it_acts_as() {
    let both = holder(AGENT, standing(true, Some(Ok(serial()))));
    let acting = |action| decide(&both, action).unwrap().actor().kind();
    assert_eq!(acting(Action::Sync), Kind::Agent);
    assert_eq!(acting(Action::BanAgent), Kind::Admin);
}
