//! From attestation to the end: restarts, outages, denials, and servers that fail.

use std::{sync::atomic::Ordering, time::Duration};

use mintmark_identity::{clock::Clock, svid::x509::X509Authority};
use mintmark_proto::mintmark::{
    agent::v1 as pb,
    agentadmin::v1::{
        ExplainRequest, GetStatusRequest, agent_admin_client::AgentAdminClient,
        explain_request::Target,
    },
};
use mintmark_runtime::{Host, network::Address};
use node_agent::{Agent, RunError, config::Evidence};
use tonic::Code;

use crate::{
    fake_server::{FakeServer, TOKEN},
    harness::{
        Bed, NEARLY_DUE, SHORT_LIFE, entry, entry_for, ids, my_uid, next, wait_state, wait_world,
        within,
    },
};

#[tokio::test]
async fn a_lost_reply_strands_nobody_because_the_same_key_asks_again() {
    let bed = Bed::new().await;
    bed.world.with(|inner| inner.lose_replies = 2);
    let agent = bed.start().await;
    let id = agent.agent_id().unwrap();
    assert_eq!(
        id.as_str(),
        format!("spiffe://example.org/spire/agent/join_token/{TOKEN}")
    );
    let keys = bed.world.with(|inner| inner.agents[id.as_str()].clone());
    assert_eq!(keys.len(), 3);
    assert!(keys.iter().all(|key| *key == keys[0]));
}

#[tokio::test]
async fn a_lost_reply_and_a_crash_strand_nobody_either() {
    let bed = Bed::new().await;
    bed.world.with(|inner| inner.lose_replies = 1);
    let first = bed.launch().await;
    wait_world_tokens(&bed).await;
    first.stop().await;
    let second = bed.start().await;
    let id = second.agent_id().unwrap();
    let keys = bed.world.with(|inner| inner.agents[id.as_str()].clone());
    assert!(
        keys.iter().all(|key| *key == keys[0]),
        "the key was on disk before the token was used"
    );
}

/// Waits until a server has bound the token to a key.
async fn wait_world_tokens(bed: &Bed) {
    let bound = async {
        while bed.world.with(|inner| inner.tokens[TOKEN].is_none()) {
            tokio::task::yield_now().await;
        }
    };
    within(bound).await;
}

#[tokio::test]
async fn a_token_that_is_refused_ends_the_agent_with_a_clear_error() {
    let mut bed = Bed::new().await;
    bed.config.evidence = Evidence::JoinToken("unknown".to_owned());
    let mut agent = bed.launch().await;
    let error = within(agent.ready()).await.unwrap_err();
    assert_eq!(error.exit_code(), 77);
    let RunError::Agent(error) = error else {
        panic!("{error}")
    };
    assert!(error.to_string().starts_with("MM-2021"), "{error}");
    assert!(
        !error.to_string().contains("unknown"),
        "the token is not told"
    );
}

#[tokio::test]
async fn without_evidence_or_trust_the_agent_says_what_is_missing() {
    let mut bed = Bed::new().await;
    bed.config.evidence = Evidence::None;
    let mut agent = bed.launch().await;
    let error = within(agent.failed()).await;
    assert_eq!(error.exit_code(), 78, "{error}");
    agent.stop().await;
    bed.config.trust_bundle_path = None;
    bed.config.data_dir = bed.dir.path().join("fresh");
    let error = Agent::start(bed.host(), bed.config.clone())
        .await
        .unwrap_err();
    assert_eq!(error.exit_code(), 78, "{error}");
}

#[tokio::test]
async fn a_restart_serves_the_same_serial_and_key_although_no_server_answers() {
    let mut bed = Bed::new().await;
    bed.world.put_entry(entry("a", "/a"));
    let agent = bed.start().await;
    let before = bed.first_x509().await.unwrap();
    agent.stop().await;
    bed.stop_server().await;
    bed.config.evidence = Evidence::None;
    let _again = bed.start().await;
    assert_eq!(bed.first_x509().await.unwrap(), before);
}

#[tokio::test]
async fn a_restart_without_servers_does_not_bring_back_what_was_taken_away() {
    let mut bed = Bed::new().await;
    bed.world.put_entry(entry("a", "/a"));
    bed.world.put_entry(entry("b", "/b"));
    let agent = bed.start().await;
    wait_state(&agent, |state| state.svids.len() == 2).await;
    let denial = bed.world.remove_entry("a");
    wait_world(&bed.world, |inner| {
        inner.acknowledged.iter().any(|(at, _)| *at == denial)
    })
    .await;
    // The agent is gone without a goodbye, right after it acknowledged.
    let data = bed.dir.path().join("copy");
    copy_dir(&bed.config.data_dir, &data);
    bed.stop_server().await;
    agent.stop().await;
    bed.config.data_dir = data;
    reuse_cache_key(&bed);
    let _again = bed.start().await;
    assert_eq!(ids(&bed.first_x509().await.unwrap()), ["/b"]);
}

fn copy_dir(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

/// Key files are named after the data directory: gives the copy the original's key.
fn reuse_cache_key(bed: &Bed) {
    use sha2::Digest;
    let keys = &bed.config.keys_dir;
    let old = std::fs::read_dir(keys)
        .unwrap()
        .map(|file| file.unwrap().path());
    let old = old.filter(|path| path.extension().is_some()).find(|path| {
        path.file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .starts_with("cache-")
    });
    let name = sha2::Sha256::digest(bed.config.data_dir.as_os_str().as_encoded_bytes());
    let name: String = hex::encode(name).chars().take(16).collect();
    std::fs::copy(old.unwrap(), keys.join(format!("cache-{name}.key"))).unwrap();
}

#[tokio::test]
async fn a_damaged_cache_costs_new_svids_and_nothing_else() {
    let bed = Bed::new().await;
    bed.world.put_entry(entry("a", "/a"));
    let agent = bed.start().await;
    let before = bed.first_x509().await.unwrap();
    agent.stop().await;
    let file = bed.config.data_dir.join("cache.sealed");
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let _again = bed.start().await;
    let after = bed.first_x509().await.unwrap();
    assert_eq!(ids(&after), ["/a"]);
    assert_ne!(after, before);
}

#[tokio::test]
async fn the_cache_file_holds_no_key_in_the_clear_and_lies_apart_from_its_key() {
    let bed = Bed::new().await;
    bed.world.put_entry(entry("a", "/a"));
    let agent = bed.start().await;
    let key = bed
        .first_x509()
        .await
        .unwrap()
        .svids
        .remove(0)
        .x509_svid_key;
    agent.stop().await;
    let file = std::fs::read(bed.config.data_dir.join("cache.sealed")).unwrap();
    assert!(
        !file
            .windows(16)
            .any(|window| key.windows(16).any(|part| part == window))
    );
    for file in std::fs::read_dir(&bed.config.keys_dir).unwrap() {
        use std::os::unix::fs::PermissionsExt;
        let file = file.unwrap();
        assert_eq!(
            file.metadata().unwrap().permissions().mode() & 0o777,
            0o600,
            "{file:?}"
        );
    }
    assert!(!bed.config.keys_dir.starts_with(&bed.config.data_dir));
}

#[tokio::test]
async fn the_agents_own_svid_is_renewed_and_used_for_new_connections() {
    let bed = Bed::new().await;
    bed.world.with(|inner| inner.agent_ttl = SHORT_LIFE);
    bed.world.put_entry(entry("a", "/a"));
    let agent = bed.start().await;
    let id = agent.agent_id().unwrap().to_string();
    for count in 2..=3 {
        bed.clock.advance(NEARLY_DUE);
        // The agent looks at the clock, and waits for the rest.
        bed.world.republish_bundle();
        // A stream per SVID, each resuming where the last one was.
        wait_world(&bed.world, |inner| {
            inner.agents[&id].len() >= count && inner.resumed_from.len() >= count
        })
        .await;
    }
    let keys = bed.world.with(|inner| inner.agents[&id].clone());
    assert_ne!(keys[0], keys[1], "each SVID has a key of its own");
    assert!(bed.world.with(|inner| inner.resumed_from[1].is_some()));
    bed.world.put_entry(entry("b", "/b"));
    wait_state(&agent, |state| state.svids.len() == 2).await;
}

#[tokio::test]
async fn an_agent_whose_svid_expired_resumes_with_its_last_key() {
    let mut bed = Bed::new().await;
    bed.world.put_entry(entry("a", "/a"));
    let agent = bed.start().await;
    let before = agent.agent_id();
    agent.stop().await;
    bed.stop_server().await;
    bed.clock.advance(Duration::from_secs(5 * 3_600));
    bed.restart_server().await;
    bed.config.evidence = Evidence::None;
    let again = bed.start().await;
    wait_state(&again, |state| !state.svids.is_empty()).await;
    assert_eq!(again.agent_id(), before);
    let now = bed.clock.now();
    assert!(
        again
            .state()
            .svids
            .values()
            .all(|svid| svid.validity.contains(now))
    );
}

#[tokio::test]
async fn an_svid_that_expires_while_a_server_is_asked_to_renew_it_is_resumed_at_once() {
    let bed = Bed::new().await;
    bed.world.with(|inner| {
        inner.agent_ttl = SHORT_LIFE;
        inner.is_silent_to_renewals = true;
    });
    let agent = bed.start().await;
    let id = agent.agent_id().unwrap().to_string();
    let calls = bed.world.issue_calls.load(Ordering::SeqCst);
    bed.clock.advance(SHORT_LIFE - Duration::from_secs(1));
    bed.world.republish_bundle();
    let asked = async {
        while bed.world.issue_calls.load(Ordering::SeqCst) == calls {
            tokio::task::yield_now().await;
        }
    };
    within(asked).await;
    bed.clock.advance(Duration::from_secs(2));
    let resumed = async {
        while bed.world.with(|inner| inner.agents[&id].len()) < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    // The call itself would wait for the silent server for 20 s.
    let resumed = tokio::time::timeout(Duration::from_secs(10), resumed).await;
    resumed.expect("it waits for a server that is silent");
}

#[tokio::test]
async fn an_agent_that_no_server_knows_any_more_says_so() {
    let bed = Bed::new().await;
    let agent = bed.start().await;
    agent.stop().await;
    bed.clock.advance(Duration::from_secs(5 * 3_600));
    bed.world.with(|inner| inner.agents.clear());
    let mut again = bed.launch().await;
    let error = within(again.failed()).await;
    let RunError::Agent(error) = error else {
        panic!("{error}")
    };
    assert!(error.to_string().starts_with("MM-2013"), "{error}");
}

/// Waits until the agent has written down the trust-domain key.
async fn key_is_learned(bed: &Bed) {
    let learned = bed.config.data_dir.join("trust-domain-key.json");
    let wait = async {
        while !learned.exists() {
            tokio::task::yield_now().await;
        }
    };
    within(wait).await;
}

#[tokio::test]
async fn an_outage_longer_than_every_authority_is_survived_by_the_learned_key() {
    let mut bed = Bed::new().await;
    bed.world.put_entry(entry("a", "/a"));
    let agent = bed.start().await;
    key_is_learned(&bed).await;
    agent.stop().await;
    bed.stop_server().await;
    bed.clock.advance(Duration::from_secs(30 * 86_400));
    bed.world.rotate_authority(false);
    bed.restart_server().await;
    bed.config.evidence = Evidence::None;
    let again = bed.start().await;
    wait_state(&again, |state| !state.svids.is_empty()).await;
    let now = bed.clock.now();
    assert!(
        again
            .state()
            .svids
            .values()
            .all(|svid| svid.validity.contains(now))
    );
}

#[tokio::test]
async fn a_pin_is_all_that_is_needed_to_join_and_a_wrong_one_is_not_enough() {
    let mut bed = Bed::new().await;
    bed.config.trust_bundle_path = None;
    let certificate = X509Authority::parse(&bed.world.trust_domain_key.1).unwrap();
    let mut pin = mintmark_identity::statement::pin(&certificate).unwrap();
    pin[0] ^= 1;
    bed.config.trust_domain_key = Some(pin);
    let wrong = bed.launch().await;
    let mut states = wrong.watch();
    let heard = tokio::time::timeout(Duration::from_millis(500), states.changed()).await;
    assert!(heard.is_err(), "nothing is believed");
    assert!(
        bed.world.with(|inner| inner.tokens[TOKEN].is_none()),
        "and the token is not sent"
    );
    wrong.stop().await;
    pin[0] ^= 1;
    bed.config.trust_domain_key = Some(pin);
    let right = bed.start().await;
    assert!(right.agent_id().is_some());
}

#[tokio::test]
async fn an_impostor_gets_no_token() {
    let mut bed = Bed::new().await;
    // Another trust domain key and authority behind the same address: the bundle does not match.
    let other = crate::fake_server::World::new(bed.clock.clone());
    bed.stop_server().await;
    let address = bed.config.server_addresses[0].clone();
    let _impostor = FakeServer::start_at(&other, &address).await;
    let agent = bed.launch().await;
    let mut states = agent.watch();
    let heard = tokio::time::timeout(Duration::from_millis(500), states.changed()).await;
    assert!(heard.is_err());
    assert!(other.with(|inner| inner.tokens[TOKEN].is_none()));
}

#[tokio::test]
async fn a_ban_drops_everything_at_once_and_outlives_a_restart() {
    let bed = Bed::new().await;
    bed.world.put_entry(entry("a", "/a"));
    let mut agent = bed.start().await;
    let mut stream = bed.x509().await.unwrap();
    next(&mut stream).await.unwrap();
    bed.world.with(|inner| inner.banned = true);
    bed.world.wake();
    let end = within(stream.message()).await.unwrap_err();
    assert_eq!(end.code(), Code::PermissionDenied);
    assert!(
        end.message().starts_with("no identity issued (MM-2011"),
        "{end}"
    );
    let error = within(agent.failed()).await;
    assert_eq!(error.exit_code(), 77);
    assert_eq!(
        bed.first_x509().await.unwrap_err().code(),
        Code::PermissionDenied
    );
    agent.stop().await;
    for gone in ["agent.json", "cache.sealed"] {
        assert!(!bed.config.data_dir.join(gone).exists(), "{gone}");
    }
    assert!(!bed.config.keys_dir.join("agent.key").exists());
    let mut again = bed.launch().await;
    let RunError::Agent(error) = within(again.failed()).await else {
        panic!()
    };
    assert!(error.to_string().starts_with("MM-2011"), "{error}");
}

#[tokio::test]
async fn an_evicted_agent_needs_another_token_and_comes_back_with_one() {
    let mut bed = Bed::new().await;
    let mut agent = bed.start().await;
    bed.world.with(|inner| inner.evicted = true);
    bed.world.wake();
    let RunError::Agent(error) = within(agent.failed()).await else {
        panic!()
    };
    assert!(error.to_string().starts_with("MM-2012"), "{error}");
    agent.stop().await;
    bed.world.with(|inner| {
        inner.evicted = false;
        inner.tokens.insert("another".to_owned(), None);
    });
    bed.config.evidence = Evidence::JoinToken("another".to_owned());
    let again = bed.start().await;
    assert!(again.agent_id().unwrap().as_str().ends_with("/another"));
}

#[tokio::test]
async fn when_a_server_dies_another_one_carries_on_from_there() {
    let mut bed = Bed::new().await;
    let second = FakeServer::start(&bed.world).await;
    bed.config.server_addresses.push(second.address.clone());
    bed.world.put_entry(entry("a", "/a"));
    let agent = bed.start().await;
    wait_state(&agent, |state| state.svids.len() == 1).await;
    let begun = bed.world.with(|inner| inner.resumed_from.len());
    // Whichever it is connected to: one after the other goes away and comes back.
    bed.stop_server().await;
    bed.world.put_entry(entry("b", "/b"));
    wait_state(&agent, |state| state.svids.len() == 2).await;
    bed.restart_server().await;
    second.stop().await;
    bed.world.put_entry(entry("c", "/c"));
    wait_state(&agent, |state| state.svids.len() == 3).await;
    let streams = bed.world.with(|inner| inner.resumed_from.clone());
    let (whole, resumed) = streams.split_at(begun);
    assert!(whole.contains(&None) && !resumed.is_empty());
    assert!(resumed.iter().all(Option::is_some), "{streams:?}");
}

/// A server that takes connections and says nothing.
async fn silent_server() -> (Address, tokio::task::JoinHandle<()>) {
    let network = Host::os().network;
    let any = "127.0.0.1:0".parse().unwrap();
    let mut listener = network.listen(&any).await.unwrap();
    let address = listener.local_address().parse().unwrap();
    let open = tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok(connection) = listener.accept().await {
            open.push(connection);
        }
    });
    (address, open)
}

#[tokio::test]
async fn servers_that_say_nothing_hold_nobody_up() {
    let mut bed = Bed::new().await;
    bed.world.put_entry(entry("a", "/a"));
    let mut silent = Vec::new();
    for _ in 0..2 {
        let (address, task) = silent_server().await;
        bed.config.server_addresses.push(address);
        silent.push(task);
    }
    // Which is asked first is drawn; the agent attests, opens its stream and has an SVID issued.
    let agent = bed.start().await;
    wait_state(&agent, |state| state.svids.len() == 1).await;
    assert!(silent.iter().all(|task| !task.is_finished()));
    for task in silent {
        task.abort();
    }
}

#[tokio::test]
async fn servers_that_are_learned_are_used_when_the_configured_one_is_gone() {
    let mut bed = Bed::new().await;
    let second = FakeServer::start(&bed.world).await;
    bed.world
        .with(|inner| inner.servers = vec![second.address.to_string()]);
    let agent = bed.start().await;
    bed.stop_server().await;
    bed.world.put_entry(entry("a", "/a"));
    wait_state(&agent, |state| state.svids.len() == 1).await;
}

#[tokio::test]
async fn a_stale_server_is_left_for_a_fresh_one_and_kept_until_there_is_one() {
    let mut bed = Bed::new().await;
    bed.world.put_entry(entry("a", "/a"));
    let agent = bed.start().await;
    wait_state(&agent, |state| state.svids.len() == 1).await;
    let other = bed.world.by_another_server();
    other.set_stale(true);
    let second = FakeServer::start(&other).await;
    bed.config.server_addresses.push(second.address.clone());
    assert!(agent.reload(&bed.config, &bed.config).is_empty());
    bed.world.set_stale(true);
    // The agent looks at the other server, finds it stale too, and stays where it is.
    wait_world(&bed.world, |_| other.streams.load(Ordering::SeqCst) > 0).await;
    assert_eq!(bed.world.streams.load(Ordering::SeqCst), 1);
    let status = |bed: &Bed| AgentAdminClient::new(bed.admin_channel());
    let at = within(status(&bed).get_status(GetStatusRequest {}))
        .await
        .unwrap()
        .into_inner();
    assert!(at.connected);
    assert_eq!(at.server, bed.config.server_addresses[0].to_string());
    // Then the other one is fresh.
    other.set_stale(false);
    bed.world.put_entry(entry("b", "/b"));
    wait_state(&agent, |state| state.svids.len() == 2).await;
    let at = within(status(&bed).get_status(GetStatusRequest {}))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(at.server, second.address.to_string());
    assert_eq!(
        bed.world.streams.load(Ordering::SeqCst),
        1,
        "the stale one was not asked again"
    );
}

#[tokio::test]
async fn an_update_older_than_what_was_seen_is_refused() {
    let bed = Bed::new().await;
    bed.world.put_entry(entry("a", "/a"));
    bed.world.put_entry(entry("b", "/b"));
    let agent = bed.start().await;
    wait_state(&agent, |state| state.svids.len() == 2).await;
    // The server's history is turned back, as by a restored disk under the same epoch.
    bed.world.with(|inner| {
        let old = pb::Update {
            position: Some(pb::Position { epoch: 1, index: 1 }),
            complete: true,
            bundles: inner.history[0].bundles.clone(),
            ..pb::Update::default()
        };
        inner.history.push(old);
    });
    bed.world.wake();
    wait_world(&bed.world, |inner| inner.resumed_from.len() > 1).await;
    assert_eq!(agent.state().svids.len(), 2, "nothing was taken from it");
    assert_eq!(agent.state().position.unwrap().index, 2);
}

#[tokio::test]
async fn acknowledgements_follow_what_is_on_disk_and_name_the_bundle() {
    let bed = Bed::new().await;
    let _agent = bed.start().await;
    let at = bed.world.put_entry(entry("a", "/a"));
    wait_world(&bed.world, |inner| inner.acknowledged.contains(&(at, 1))).await;
    let at = bed.world.rotate_authority(true);
    wait_world(&bed.world, |inner| inner.acknowledged.contains(&(at, 2))).await;
    let all = bed.world.with(|inner| inner.acknowledged.clone());
    assert!(all.is_sorted(), "{all:?}");
}

#[tokio::test]
async fn a_second_agent_cannot_use_the_same_data_directory_or_one_of_another_domain() {
    let bed = Bed::new().await;
    let agent = bed.start().await;
    let mut second = bed.config.clone();
    second.socket_path = bed.dir.path().join("other.sock");
    second.admin_socket_path = bed.dir.path().join("other-admin.sock");
    let error = Agent::start(bed.host(), second.clone()).await.unwrap_err();
    assert_eq!(
        (error.exit_code(), error.to_string().starts_with("MM-2026")),
        (75, true)
    );
    agent.stop().await;
    second.trust_domain = mintmark_identity::trust_domain::TrustDomain::parse("other.org").unwrap();
    let before = std::fs::read(bed.config.data_dir.join("agent.json")).unwrap();
    let error = Agent::start(bed.host(), second).await.unwrap_err();
    assert_eq!(
        (error.exit_code(), error.to_string().starts_with("MM-2026")),
        (75, true)
    );
    assert_eq!(
        std::fs::read(bed.config.data_dir.join("agent.json")).unwrap(),
        before
    );
}

#[tokio::test]
async fn the_private_socket_tells_status_and_why() {
    let bed = Bed::new().await;
    bed.world.put_entry(entry("a", "/a"));
    let uid = format!("unix:uid:{}", my_uid());
    bed.world
        .put_entry(entry_for("near", "/near", &[&uid, "unix:path:/nowhere"]));
    bed.world.put_entry(entry_for("far", "/far", &["k8s:ns:x"]));
    let agent = bed.start().await;
    wait_state(&agent, |state| state.svids.len() == 3).await;
    let mut admin = AgentAdminClient::new(bed.admin_channel());
    let status = within(admin.get_status(GetStatusRequest {}))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(status.agent_id, agent.agent_id().unwrap().as_str());
    assert_eq!(
        (status.entries, status.cached_svids, status.connected),
        (3, 3, true)
    );
    assert_eq!(
        (status.epoch, status.index, status.bundle_sequence),
        (1, 3, 1)
    );
    let explain = async |target| {
        let mut admin = AgentAdminClient::new(bed.admin_channel());
        let request = ExplainRequest {
            target: Some(target),
        };
        within(admin.explain(request))
            .await
            .map(tonic::Response::into_inner)
    };
    let pid = i32::try_from(std::process::id()).unwrap();
    let me = explain(Target::Pid(pid)).await.unwrap();
    assert!(
        me.selectors
            .iter()
            .any(|s| s.kind == "unix" && s.value.starts_with("sha256:"))
    );
    let ids = |list: &[mintmark_proto::mintmark::agentadmin::v1::Match]| {
        list.iter()
            .map(|m| m.entry.as_ref().unwrap().id.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(ids(&me.matches), ["a"]);
    assert!(me.matches[0].svid_issued_at_ms > 0 && !me.matches[0].serial.is_empty());
    assert!(me.matches[0].since_ms > 0);
    assert_eq!(me.near.len(), 1);
    assert_eq!(me.near[0].missing[0].value, "path:/nowhere");
    let user = explain(Target::Uid(my_uid())).await.unwrap();
    assert_eq!(ids(&user.matches), ["a"]);
    let named = explain(Target::SpiffeId("spiffe://example.org/far".into()))
        .await
        .unwrap();
    assert_eq!(ids(&named.matches), ["far"]);
    let gone = explain(Target::Pid(i32::MAX)).await.unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);
    let bad = explain(Target::SpiffeId("x".into())).await.unwrap_err();
    assert_eq!(bad.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn streams_end_with_unavailable_when_the_agent_stops() {
    let bed = Bed::new().await;
    bed.world.put_entry(entry("a", "/a"));
    let agent = bed.start().await;
    let mut stream = bed.x509().await.unwrap();
    next(&mut stream).await.unwrap();
    let (end, ()) = tokio::join!(within(stream.message()), agent.stop());
    assert_eq!(end.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn probes_tell_ready_only_after_the_first_update_and_metrics_have_the_prefix() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut bed = Bed::new().await;
    bed.config.probes_address = Some("127.0.0.1:0".parse().unwrap());
    bed.world.put_entry(entry("a", "/a"));
    bed.stop_server().await;
    let agent = bed.launch().await;
    let address = agent.probes_address().unwrap().to_owned();
    let get = async |path: &str| {
        let mut stream = tokio::net::TcpStream::connect(&address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    };
    assert!(get("/live").await.starts_with("HTTP/1.1 200"));
    let not_ready = get("/ready").await;
    assert!(not_ready.starts_with("HTTP/1.1 503") && not_ready.contains("first update"));
    bed.restart_server().await;
    wait_state(&agent, |state| state.svids.len() == 1).await;
    assert!(get("/ready").await.starts_with("HTTP/1.1 200"));
    let metrics = get("/metrics").await;
    assert!(
        metrics.contains("mintmark_agent_issued_total 1"),
        "{metrics}"
    );
    assert!(metrics.contains("mintmark_agent_connected 1"), "{metrics}");
}

#[tokio::test]
async fn an_agent_that_one_server_denies_and_another_serves_keeps_its_identity() {
    for (said, expected) in [("MM-1105", "MM-2012"), ("MM-1103", "MM-2011")] {
        let mut bed = Bed::new().await;
        bed.world.put_entry(entry("a", "/a"));
        let agent = bed.start().await;
        wait_state(&agent, |state| state.svids.len() == 1).await;
        agent.stop().await;
        // A server that has not heard of the agent yet, or not that its ban was lifted.
        let behind = bed.world.by_another_server();
        behind.set_denies(Some(said));
        let second = FakeServer::start(&behind).await;
        // Which of the two is asked first is drawn.
        bed.config.server_addresses.push(second.address.clone());
        bed.world.put_entry(entry("b", "/b"));
        let mut again = bed.start().await;
        wait_state(&again, |state| state.svids.len() == 2).await;
        assert!(again.agent_id().is_some());
        // When no server serves it, it is denied.
        bed.world.set_denies(Some(said));
        bed.world.rotate_authority(true);
        bed.stop_server().await;
        bed.restart_server().await;
        let RunError::Agent(error) = within(again.failed()).await else {
            panic!()
        };
        assert!(error.to_string().starts_with(expected), "{error}");
    }
}

#[tokio::test]
async fn a_bundle_that_only_the_sealed_cache_has_is_trusted_after_a_restart() {
    let mut bed = Bed::new().await;
    bed.world.put_entry(entry("a", "/a"));
    let agent = bed.start().await;
    let trusted = bed.config.data_dir.join("bundle.json");
    let kept = async {
        while !trusted.exists() {
            tokio::task::yield_now().await;
        }
    };
    within(kept).await;
    let before = std::fs::read(&trusted).unwrap();
    let rotated = bed.world.rotate_authority(true);
    wait_world(&bed.world, |inner| {
        inner.acknowledged.contains(&(rotated, 2))
    })
    .await;
    agent.stop().await;
    // As a crash between the two writes leaves it. The servers' SVIDs are of the new authority.
    std::fs::write(&trusted, before).unwrap();
    bed.stop_server().await;
    bed.restart_server().await;
    bed.config.evidence = Evidence::None;
    let again = bed.launch().await;
    let at = bed.world.put_entry(entry("b", "/b"));
    wait_state(&again, |state| state.position.unwrap().index == at).await;
}

#[tokio::test]
async fn a_bundle_is_not_acknowledged_before_servers_are_verified_with_it_after_a_restart() {
    let bed = Bed::new().await;
    let agent = bed.start().await;
    wait_world(&bed.world, |inner| {
        inner.acknowledged.last().is_some_and(|(_, s)| *s == 1)
    })
    .await;
    // Nothing can be renamed onto a directory that is not empty.
    let trusted = bed.config.data_dir.join("bundle.json");
    std::fs::remove_file(&trusted).unwrap();
    std::fs::create_dir(&trusted).unwrap();
    std::fs::write(trusted.join("in-the-way"), b"").unwrap();
    bed.world.rotate_authority(true);
    let at = bed.world.put_entry(entry("a", "/a"));
    wait_world(&bed.world, |inner| {
        inner.acknowledged.iter().any(|(index, _)| *index == at)
    })
    .await;
    let sequences = |inner: &mut crate::fake_server::Inner| {
        inner
            .acknowledged
            .iter()
            .map(|(_, sequence)| *sequence)
            .max()
    };
    assert_eq!(bed.world.with(sequences), Some(1));
    std::fs::remove_dir_all(&trusted).unwrap();
    wait_world(&bed.world, |inner| inner.acknowledged.contains(&(at, 2))).await;
    drop(agent);
}

#[tokio::test]
async fn an_agent_that_slept_while_authorities_turned_learns_of_it_by_a_statement() {
    let mut bed = Bed::new().await;
    let agent = bed.start().await;
    key_is_learned(&bed).await;
    agent.stop().await;
    bed.stop_server().await;
    // What the agent has is valid for long, and verifies no server any more.
    bed.world.rotate_authority(true);
    bed.restart_server().await;
    bed.config.evidence = Evidence::None;
    let again = bed.launch().await;
    let at = bed.world.put_entry(entry("a", "/a"));
    wait_state(&again, |state| {
        state.position.is_some_and(|now| now.index == at)
    })
    .await;
}

#[tokio::test]
async fn an_agent_whose_svid_expired_while_its_bundle_was_revoked_learns_of_it_by_a_statement() {
    let mut bed = Bed::new().await;
    let agent = bed.start().await;
    key_is_learned(&bed).await;
    let before = agent.agent_id();
    agent.stop().await;
    bed.stop_server().await;
    // The authority that it knows is valid for long, and is in no bundle any more.
    bed.clock.advance(Duration::from_secs(5 * 3_600));
    bed.world.rotate_authority(true);
    bed.restart_server().await;
    bed.config.evidence = Evidence::None;
    let again = bed.launch().await;
    let at = bed.world.put_entry(entry("a", "/a"));
    wait_state(&again, |state| {
        state.position.is_some_and(|now| now.index == at) && !state.svids.is_empty()
    })
    .await;
    assert_eq!(again.agent_id(), before);
}

#[tokio::test]
async fn a_crash_while_the_next_key_became_the_present_one_does_not_certify_it_twice() {
    let mut bed = Bed::new().await;
    let ttl = Duration::from_secs(600);
    bed.world.with(|inner| inner.agent_ttl = ttl);
    let agent = bed.start().await;
    let id = agent.agent_id().unwrap().to_string();
    agent.stop().await;
    let keys = &bed.config.keys_dir;
    std::fs::copy(keys.join("agent.key"), keys.join("agent.next.key")).unwrap();
    // The renewal is due.
    bed.clock.advance(ttl / 2);
    bed.config.evidence = Evidence::None;
    let _again = bed.start().await;
    let renewed = async {
        while bed.world.with(|inner| inner.agents[&id].len()) < 2 {
            tokio::task::yield_now().await;
        }
    };
    within(renewed).await;
    let keys = bed.world.with(|inner| inner.agents[&id].clone());
    assert_ne!(keys[0], keys[1]);
}

/// Lets the agent's own SVID fall due, and waits for the server to have issued so many.
async fn renewed(bed: &Bed, id: &str, count: usize) {
    bed.clock.advance(NEARLY_DUE);
    bed.world.republish_bundle();
    wait_world(&bed.world, |inner| inner.agents[id].len() >= count).await;
}

/// Nothing can be written to a path that is a folder with something in it, not even by root.
fn block(path: &std::path::Path) {
    let _ = std::fs::remove_file(path);
    std::fs::create_dir_all(path.join("in the way")).unwrap();
}

#[tokio::test]
async fn an_svid_that_cannot_be_written_is_used_and_renewed_and_written_later() {
    let mut bed = Bed::new().await;
    bed.world.with(|inner| inner.agent_ttl = SHORT_LIFE);
    let agent = bed.start().await;
    let id = agent.agent_id().unwrap().to_string();
    let record = bed.config.data_dir.join("agent.json");
    block(&record);
    renewed(&bed, &id, 2).await;
    renewed(&bed, &id, 3).await;
    let keys = bed.world.with(|inner| inner.agents[&id].clone());
    assert_ne!(keys[0], keys[1]);
    assert_eq!(
        keys[1], keys[2],
        "the key that is on disk is used until it is the present one"
    );
    bed.world.put_entry(entry("a", "/a"));
    wait_state(&agent, |state| state.svids.len() == 1).await;
    std::fs::remove_dir_all(&record).unwrap();
    let written = async {
        while !record.is_file() {
            tokio::task::yield_now().await;
        }
    };
    within(written).await;
    renewed(&bed, &id, 4).await;
    let keys = bed.world.with(|inner| inner.agents[&id].clone());
    assert_ne!(keys[2], keys[3]);
    agent.stop().await;
    bed.config.evidence = Evidence::None;
    let again = bed.start().await;
    assert_eq!(again.agent_id().unwrap().to_string(), id);
}

#[tokio::test]
async fn while_no_new_key_can_be_written_the_present_one_is_certified_again() {
    let bed = Bed::new().await;
    bed.world.with(|inner| inner.agent_ttl = SHORT_LIFE);
    let agent = bed.start().await;
    let id = agent.agent_id().unwrap().to_string();
    let next = bed.config.keys_dir.join("agent.next.key");
    block(&next);
    renewed(&bed, &id, 2).await;
    std::fs::remove_dir_all(&next).unwrap();
    renewed(&bed, &id, 3).await;
    let keys = bed.world.with(|inner| inner.agents[&id].clone());
    assert_eq!(keys[0], keys[1]);
    assert_ne!(keys[1], keys[2]);
}

#[tokio::test]
async fn an_agent_of_which_a_newer_svid_was_seen_resumes_at_once() {
    let bed = Bed::new().await;
    bed.world.with(|inner| inner.agent_ttl = SHORT_LIFE);
    let agent = bed.start().await;
    let id = agent.agent_id().unwrap().to_string();
    bed.world.set_denies(Some("MM-1106"));
    bed.clock.advance(NEARLY_DUE);
    bed.world.republish_bundle();
    let resumed = async {
        while bed.world.with(|inner| inner.agents[&id].len()) < 2 {
            tokio::task::yield_now().await;
        }
    };
    within(resumed).await;
    bed.world.set_denies(None);
    bed.world.put_entry(entry("a", "/a"));
    wait_state(&agent, |state| state.svids.len() == 1).await;
}

#[tokio::test]
async fn an_svid_that_servers_do_not_accept_any_more_is_replaced_before_it_is_due() {
    let mut bed = Bed::new().await;
    let agent = bed.start().await;
    let id = agent.agent_id().unwrap().to_string();
    bed.world.set_denies(Some("MM-1106"));
    bed.stop_server().await;
    bed.restart_server().await;
    let resumed = async {
        while bed.world.with(|inner| inner.agents[&id].len()) < 2 {
            tokio::task::yield_now().await;
        }
    };
    within(resumed).await;
    bed.world.set_denies(None);
    bed.world.put_entry(entry("a", "/a"));
    wait_state(&agent, |state| state.svids.len() == 1).await;
}

#[tokio::test]
async fn a_ban_that_cannot_be_noted_takes_the_identity_all_the_same() {
    let bed = Bed::new().await;
    let mut agent = bed.start().await;
    block(&bed.config.data_dir.join("denied.json"));
    bed.world.with(|inner| inner.banned = true);
    bed.world.wake();
    let error = within(agent.failed()).await;
    assert_eq!(error.exit_code(), 77);
    agent.stop().await;
    assert!(!bed.config.data_dir.join("agent.json").exists());
    assert!(!bed.config.keys_dir.join("agent.key").exists());
}
