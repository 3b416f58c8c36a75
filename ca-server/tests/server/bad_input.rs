//! Requests and starts that are refused: what is said, and that nothing changed.

use ca_server::StartError;
use ca_server::config::RawKek;
use mintmark_proto::google::rpc;
use mintmark_proto::mintmark::cluster::v1::GetStatusRequest;
use mintmark_proto::spire::agent::agent_client::AgentClient;
use mintmark_proto::spire::agent::{
    AgentX509svidParams, BanAgentRequest, DeleteAgentRequest, RenewAgentRequest,
};
use mintmark_proto::spire::entry::GetAuthorizedEntriesRequest;
use mintmark_proto::spire::entry::entry_client::EntryClient;
use mintmark_proto::spire::svid::svid_client::SvidClient;
use mintmark_proto::spire::svid::{BatchNewX509svidRequest, NewJwtsvidRequest, NewX509svidParams};
use mintmark_proto::spire::types;
use mintmark_proto::spire::types::permission_denied_details::Reason;
use mintmark_runtime::disk::MODE_SECRET;
use mintmark_runtime::host::Host;
use prost::Message as _;
use tonic::{Code, Status};

use crate::harness::*;

fn refused<T: std::fmt::Debug>(result: Result<T, Status>, code: Code, stable: &str) -> Status {
    let status = result.unwrap_err();
    assert_eq!(status.code(), code, "{status:?}");
    assert!(status.message().starts_with(stable), "{status:?}");
    status
}

/// The reason that an agent of SPIRE's reads.
fn reason(status: &Status) -> Option<Reason> {
    let packed = rpc::Status::decode(status.details()).unwrap();
    let any = packed.details.iter().find(|any| {
        any.type_url
            .ends_with("/spire.api.types.PermissionDeniedDetails")
    })?;
    Some(
        types::PermissionDeniedDetails::decode(any.value.as_slice())
            .unwrap()
            .reason(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_agents_with_one_token_exactly_one_wins() {
    let mut home = Home::new();
    let server = home.ready().await;
    for _ in 0..8 {
        let token = token(&server, None).await;
        let (one, two) = (Key::new(), Key::new());
        let (first, second) = (anonymous(&server).await, anonymous(&server).await);
        let (a, b) = tokio::join!(attest(first, &token, &one), attest(second, &token, &two));
        assert_eq!(
            usize::from(a.is_ok()) + usize::from(b.is_ok()),
            1,
            "{a:?} {b:?}"
        );
        let (winner, loser) = if a.is_ok() { (&one, b) } else { (&two, a) };
        refused(loser, Code::PermissionDenied, "MM-1208");
        // A lost reply strands nobody: the same key may ask again, but not once it has an SVID in use.
        let again = attest(anonymous(&server).await, &token, winner).await;
        assert!(again.is_ok(), "{again:?}");
    }
    let unknown = attest(anonymous(&server).await, "no-such-token", &Key::new()).await;
    refused(unknown, Code::PermissionDenied, "MM-1209");
    stop(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_names_another_identity_gets_the_entrys() {
    let mut home = Home::new();
    let server = home.ready().await;
    let agent = Agent::new(&server).await;
    let entry = entry(&server, agent.id(), "/db").await;
    for name in [
        "spiffe://example.org/admin",
        "spiffe://example.org/spire/server",
        "spiffe://other.org/db",
    ] {
        let chain = agent
            .issue(&entry.id, &Key::naming(Some(name)))
            .await
            .unwrap();
        let verified = verify(&server, &chain).await;
        assert_eq!(verified.spiffe_id.as_str(), "spiffe://example.org/db");
    }
    stop(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_gets_only_what_hangs_under_it() {
    let mut home = Home::new();
    let server = home.ready().await;
    let (one, two) = (Agent::new(&server).await, Agent::new(&server).await);
    let of_two = entry(&server, two.id(), "/db").await;
    let status = one.issue(&of_two.id, &Key::new()).await.unwrap_err();
    assert_eq!(status.code, i32::from(Code::PermissionDenied));
    assert!(status.message.starts_with("MM-1212"), "{status:?}");
    let status = one.issue("no-such-entry", &Key::new()).await.unwrap_err();
    assert_eq!(status.code, i32::from(Code::NotFound), "{status:?}");
    let mut entries = EntryClient::new(one.channel.clone());
    let authorized = entries
        .get_authorized_entries(GetAuthorizedEntriesRequest::default())
        .await
        .unwrap();
    assert!(authorized.into_inner().entries.is_empty());
    let denied = leaves(&server).await;
    let denied = denied
        .iter()
        .filter(|leaf| leaf.decision == "denied")
        .count();
    assert_eq!(denied, 1, "the log shows the refusal of an intent");
    stop(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_banned_agent_is_refused_everywhere_until_it_is_evicted() {
    let mut home = Home::new();
    let server = home.ready().await;
    let agent = Agent::new(&server).await;
    let entry = entry(&server, agent.id(), "/db").await;
    let before = agent.issue(&entry.id, &Key::new()).await;
    assert!(before.is_ok());
    let mut admin = AgentClient::new(admin(&server));
    admin
        .ban_agent(BanAgentRequest {
            id: Some(agent.wire_id()),
        })
        .await
        .unwrap();
    let params = Some(AgentX509svidParams {
        csr: Key::new().csr,
    });
    let renewed = AgentClient::new(agent.channel.clone())
        .renew_agent(RenewAgentRequest { params })
        .await;
    let status = refused(renewed, Code::PermissionDenied, "MM-1103");
    assert_eq!(reason(&status), Some(Reason::AgentBanned));
    let status = agent.issue(&entry.id, &Key::new()).await.unwrap_err();
    assert!(status.message.starts_with("MM-1103"), "{status:?}");
    admin
        .delete_agent(DeleteAgentRequest {
            id: Some(agent.wire_id()),
        })
        .await
        .unwrap();
    let params = Some(AgentX509svidParams {
        csr: Key::new().csr,
    });
    let renewed = AgentClient::new(agent.channel.clone())
        .renew_agent(RenewAgentRequest { params })
        .await;
    let status = refused(renewed, Code::PermissionDenied, "MM-1105");
    assert_eq!(reason(&status), Some(Reason::AgentNotAttested));
    stop(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_and_ordinary_workloads_may_not_administer() {
    let mut home = Home::new();
    let server = home.ready().await;
    let ban = BanAgentRequest { id: None };
    let anonymous = anonymous(&server).await;
    let answer = AgentClient::new(anonymous.clone())
        .ban_agent(ban.clone())
        .await;
    refused(answer, Code::PermissionDenied, "MM-1101");
    let answer = SvidClient::new(anonymous)
        .new_jwtsvid(NewJwtsvidRequest {
            entry_id: "x".into(),
            audience: vec!["a".into()],
        })
        .await;
    refused(answer, Code::PermissionDenied, "MM-1101");
    let agent = Agent::new(&server).await;
    let entry = entry(&server, agent.id(), "/db").await;
    let key = Key::new();
    let chain = agent.issue(&entry.id, &key).await.unwrap();
    let workload = identified(&server, &key.svid(&chain)).await;
    let answer = AgentClient::new(workload).ban_agent(ban).await;
    refused(answer, Code::PermissionDenied, "MM-1102");
    stop(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_svid_whose_entry_is_marked_admin_administers_over_tcp() {
    let mut home = Home::new();
    let server = home.ready().await;
    let agent = Agent::new(&server).await;
    let asked = types::Entry {
        spiffe_id: Some(types::Spiffeid {
            trust_domain: TRUST_DOMAIN.into(),
            path: "/ops".into(),
        }),
        parent_id: Some(agent.wire_id()),
        selectors: vec![types::Selector {
            r#type: "unix".into(),
            value: "uid:0".into(),
        }],
        admin: true,
        ..types::Entry::default()
    };
    let entry = try_entry(&server, asked).await.unwrap();
    let key = Key::new();
    let chain = agent.issue(&entry.id, &key).await.unwrap();
    let admin = identified(&server, &key.svid(&chain)).await;
    let id = Some(agent.wire_id());
    AgentClient::new(admin)
        .ban_agent(BanAgentRequest { id })
        .await
        .unwrap();
    let log = leaves(&server).await;
    let ban = log.iter().find(|leaf| leaf.action == "agent.ban").unwrap();
    assert_eq!(ban.actor, "spiffe://example.org/ops");
    stop(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn oversized_and_malformed_requests_are_refused_item_by_item() {
    let mut home = Home::new();
    let server = home.ready().await;
    let agent = Agent::new(&server).await;
    let entry = entry(&server, agent.id(), "/db").await;
    let before = leaves(&server).await.len();
    let mut broken = Key::new().csr;
    let last = broken.len() - 1;
    broken[last] ^= 1;
    let good = Key::new();
    let item = |csr: Vec<u8>| NewX509svidParams {
        entry_id: entry.id.clone(),
        csr,
    };
    let params = vec![
        item(vec![0x30; 17 * 1024]),
        item(Vec::new()),
        item(broken),
        NewX509svidParams {
            entry_id: "../../etc".into(),
            csr: good.csr.clone(),
        },
        item(good.csr.clone()),
    ];
    let mut client = SvidClient::new(agent.channel.clone());
    let response = client
        .batch_new_x509svid(BatchNewX509svidRequest { params })
        .await
        .unwrap();
    let codes: Vec<String> = response
        .into_inner()
        .results
        .iter()
        .map(|result| {
            result
                .status
                .as_ref()
                .unwrap()
                .message
                .chars()
                .take(7)
                .collect()
        })
        .collect();
    assert_eq!(codes, ["MM-1207", "MM-1207", "MM-1207", "MM-1201", "OK"]);
    assert_eq!(
        leaves(&server).await.len(),
        before + 1,
        "only the good one is in the log"
    );

    let params = vec![item(good.csr.clone()); 501];
    let answer = client
        .batch_new_x509svid(BatchNewX509svidRequest { params })
        .await;
    refused(answer, Code::ResourceExhausted, "MM-1202");
    let request = NewJwtsvidRequest {
        entry_id: entry.id.clone(),
        audience: Vec::new(),
    };
    refused(
        client.new_jwtsvid(request).await,
        Code::InvalidArgument,
        "MM-1201",
    );
    let long = attest(anonymous(&server).await, &"x".repeat(70_000), &Key::new()).await;
    refused(long, Code::ResourceExhausted, "MM-1202");
    let path = attest(anonymous(&server).await, "../../spire/server", &Key::new()).await;
    refused(path, Code::InvalidArgument, "MM-1201");
    stop(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_kek_ends_the_start_and_leaves_the_data_as_they_were() {
    let mut home = Home::new();
    stop(home.ready().await).await;
    let kek = home.path("keys").join("kek");
    let right = Host::os().disk.read(&kek).unwrap();
    let before = snapshot(&home);
    Host::os()
        .disk
        .write_atomic(&kek, &[7; 32], MODE_SECRET)
        .unwrap();
    let error = home.try_start().await.unwrap_err();
    assert_eq!(error.code().to_string(), "MM-1006", "{error:?}");
    assert_eq!(error.exit_code(), 77);
    Host::os()
        .disk
        .write_atomic(&kek, &right, MODE_SECRET)
        .unwrap();
    assert_eq!(snapshot(&home), before);
    stop(home.ready().await).await;
}

/// Names and contents of a server's own files, its databases aside, which are opened by no failed start.
fn snapshot(home: &Home) -> Vec<(String, Vec<u8>)> {
    let disk = Host::os().disk;
    let mut files = Vec::new();
    for folder in ["data", "keys"] {
        for name in disk.list(&home.path(folder)).unwrap() {
            let path = home.path(folder).join(&name);
            if let Ok(content) = disk.read(&path) {
                files.push((name, content));
            }
        }
    }
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn an_absent_kek_seals_the_server_until_it_is_there() {
    let mut home = Home::new();
    let server = home.ready().await;
    let agent = Agent::new(&server).await;
    let listed = entry(&server, agent.id(), "/db").await;
    stop(server).await;
    let (disk, kek) = (Host::os().disk, home.path("keys").join("kek"));
    let right = disk.read(&kek).unwrap();
    disk.remove_file(&kek).unwrap();

    let server = home.start().await;
    let mut cluster = cluster(&server);
    let status = cluster
        .get_status(GetStatusRequest {})
        .await
        .unwrap()
        .into_inner();
    assert!(status.sealed);
    let mut svids = SvidClient::new(admin(&server));
    eventually("the sealed server says that it is", || async {
        let csr = Key::naming(Some("spiffe://example.org/a")).csr;
        let request = mintmark_proto::spire::svid::MintX509svidRequest { csr, ttl: 0 };
        let answer = SvidClient::new(admin(&server)).mint_x509svid(request).await;
        answer.is_err_and(|status| status.message().starts_with("MM-1303"))
    })
    .await;
    // It still replicates: administration works, and so do reads.
    entry(&server, agent.id(), "/while-sealed").await;
    disk.write_atomic(&kek, &right, MODE_SECRET).unwrap();
    eventually("the server is unsealed", || async {
        server.pending().is_empty()
    })
    .await;
    let csr = Key::naming(Some("spiffe://example.org/a")).csr;
    let request = mintmark_proto::spire::svid::MintX509svidRequest { csr, ttl: 0 };
    svids.mint_x509svid(request).await.unwrap();
    let channel = identified(&server, &agent.svid).await;
    issue(channel, &listed.id, &Key::new()).await.unwrap();
    stop(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_server_without_its_kek_does_not_start() {
    let mut home = Home::new();
    home.raw.kek = RawKek {
        passphrase_env: Some("NOT_SET".to_owned()),
        ..RawKek::default()
    };
    let error = home.try_start().await.unwrap_err();
    assert_eq!(error.code().to_string(), "MM-1007", "{error:?}");
}

/// A start ended with this code, in its text too, and this exit code.
fn ends_with(error: &StartError, code: &str, exit: u8) {
    assert_eq!(error.code().to_string(), code, "{error:?}");
    assert!(error.to_string().starts_with(code), "{error}");
    assert_eq!(error.exit_code(), exit, "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_cannot_be_made_is_named() {
    let mut home = Home::new();
    let file = home.path("file");
    Host::os()
        .disk
        .write_atomic(&file, b"no folder", MODE_SECRET)
        .unwrap();
    home.raw.data_dir = file.join("data");
    home.raw.keys_dir = Some(home.path("keys"));
    let error = home.try_start().await.unwrap_err();
    ends_with(&error, "MM-1002", 73);
    assert!(error.to_string().contains("file/data"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_log_is_not_taken_for_an_empty_one() {
    let mut home = Home::new();
    stop(home.ready().await).await;
    let disk = Host::os().disk;
    let raft = home.path("data").join("raft");
    let stores: Vec<_> = disk
        .list(&raft)
        .unwrap()
        .into_iter()
        .filter(|name| name.ends_with(".redb"))
        .map(|name| raft.join(name))
        .collect();
    assert!(stores.len() >= 2, "{stores:?}");
    for store in stores {
        let whole = disk.read(&store).unwrap();
        let mut damaged = whole.clone();
        damaged[..8_192].fill(0xa5);
        disk.write_atomic(&store, &damaged, MODE_SECRET).unwrap();
        let error = home.try_start().await.unwrap_err();
        ends_with(&error, "MM-1008", 74);
        // It was left as it was, so that whoever has a copy can put it back.
        assert_eq!(disk.read(&store).unwrap(), damaged, "{}", store.display());
        disk.write_atomic(&store, &whole, MODE_SECRET).unwrap();
    }
    stop(home.ready().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_fails_ends_the_server_with_its_name() {
    let mut home = Home::new();
    let mut server = home.ready().await;
    server
        .services()
        .tasks
        .spawn("a part", async { panic!("a defect") });
    let failed = tokio::time::timeout(PATIENCE, server.failed()).await;
    let error = failed.unwrap();
    assert_eq!(error.to_string(), "MM-1011: task a part failed: a defect");
    assert_eq!(error.exit_code(), 70);
    stop(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_in_use_or_of_another_trust_domain_is_left_alone() {
    let mut home = Home::new();
    let server = home.ready().await;
    let mut second = Home::new();
    second.raw.data_dir = home.raw.data_dir.clone();
    second.raw.keys_dir = Some(home.path("keys"));
    let error = second.try_start().await.unwrap_err();
    assert!(matches!(error, StartError::Locked { .. }), "{error:?}");
    ends_with(&error, "MM-1003", 75);
    stop(server).await;
    let before = snapshot(&home);
    second.raw.trust_domain = "other.org".to_owned();
    let error = second.try_start().await.unwrap_err();
    assert!(matches!(error, StartError::Foreign { .. }), "{error:?}");
    ends_with(&error, "MM-1004", 78);
    assert_eq!(snapshot(&home), before);
    stop(home.ready().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_and_an_unwritable_socket_directory_are_named() {
    let mut home = Home::new();
    let server = home.ready().await;
    let mut second = Home::new();
    second.raw.listen.api = Some(server.api_address().to_owned());
    let error = second.try_start().await.unwrap_err();
    assert!(matches!(error, StartError::Listen { .. }), "{error:?}");
    assert!(error.to_string().contains(server.api_address()), "{error}");
    assert_eq!(
        (error.code().to_string().as_str(), error.exit_code()),
        ("MM-1005", 69)
    );
    let mut third = Home::new();
    third.raw.listen.admin_socket = Some("/proc/nowhere/admin.sock".into());
    let error = third.try_start().await.unwrap_err();
    assert!(matches!(error, StartError::Listen { .. }), "{error:?}");
    // Nothing was made that a later start would take for a cluster.
    second.raw.listen.api = Some("127.0.0.1:0".to_owned());
    stop(second.ready().await).await;
    stop(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_peer_key_is_not_replaced_silently() {
    let mut home = Home::new();
    stop(home.ready().await).await;
    Host::os()
        .disk
        .remove_file(&home.path("keys").join("peer.key"))
        .unwrap();
    let error = home.try_start().await.unwrap_err();
    assert!(matches!(&error, StartError::File { .. }), "{error:?}");
    assert!(error.to_string().contains("join it anew"), "{error}");
}
