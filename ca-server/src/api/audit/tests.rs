#![allow(clippy::unwrap_used, reason = "tests")]

use mintmark_proto::mintmark::audit::v1::audit_server::Audit as _;
use mintmark_proto::mintmark::raft::v1::{CreateEntries, command};
use mintmark_proto::mintmark::state::v1::{Entry, Selector};
use mintmark_tlog::{Frontier, leaf_hash};
use tonic::Code;

use super::*;
use crate::api::consistency::CONSISTENCY_HEADER;
use crate::api::fixture::{Fixture, local, remote};

#[test]
fn a_proof_is_about_a_tree_that_exists_and_has_the_leaf() {
    // leaf, asked, size, signed
    let chosen = |leaf, asked, size, signed| proof_size(leaf, asked, size, signed).ok();
    assert_eq!(
        chosen(3, 0, 10, 8),
        Some(8),
        "the signed tree, if it has the leaf"
    );
    assert_eq!(chosen(8, 0, 10, 8), Some(10), "else the whole one");
    assert_eq!(chosen(3, 0, 10, 0), Some(10));
    assert_eq!(chosen(3, 4, 10, 8), Some(4));
    assert_eq!(chosen(9, 10, 10, 8), Some(10));
    for (leaf, asked, size, signed) in [
        (4, 4, 10, 8),
        (3, 11, 10, 8),
        (10, 0, 10, 8),
        (0, 0, 0, 0),
        (u64::MAX, u64::MAX, 1, 1),
    ] {
        let refused = proof_size(leaf, asked, size, signed).unwrap_err();
        assert_eq!(
            refused.codes().1,
            Code::OutOfRange,
            "{leaf} in {asked} of {size}"
        );
    }
}

#[test]
fn errors_tell_what_passes_from_what_does_not() {
    let code = |error: ApiError| error.codes().0.to_string();
    assert_eq!(
        code(TailError::OutOfRange { start: 9, size: 3 }.into()),
        "MM-1401"
    );
    assert_eq!(
        code(TailError::Leaves(LeavesError::Absent(3)).into()),
        "MM-1403"
    );
    assert_eq!(code(TailError::ShuttingDown.into()), "MM-1310");
    assert_eq!(code(HashesError::NotRecorded { size: 4 }.into()), "MM-1403");
    assert_eq!(code(HashesError::Diverged { size: 4 }.into()), "MM-1399");
}

#[test]
fn a_server_without_a_cluster_has_no_log() {
    let refused = log_info(&State::new()).unwrap_err();
    assert_eq!(refused.codes().1, Code::Unavailable);
}

async fn create(fixture: &Fixture, name: &str) {
    let entry = Entry {
        id: name.into(),
        spiffe_id: format!("spiffe://example.org/{name}"),
        parent_id: "spiffe://example.org/nowhere".into(),
        selectors: vec![Selector {
            kind: "k".into(),
            value: "v".into(),
        }],
        ..Entry::default()
    };
    let body = command::Body::CreateEntries(CreateEntries {
        entries: vec![entry],
    });
    fixture.apply(body).await;
}

#[tokio::test(start_paused = true)]
async fn a_follower_gets_what_is_committed_and_can_check_it() {
    let fixture = Fixture::new().await;
    let service = AuditService(fixture.services.clone());
    let request = wire::TailRequest {
        follow: true,
        ..wire::TailRequest::default()
    };
    let mut stream = service.tail(local(request)).await.unwrap().into_inner();
    let mut frontier = Frontier::new();
    for name in ["a", "b", "c"] {
        create(&fixture, name).await;
        let size = fixture.services.consensus.read(State::audit_size);
        while frontier.size() < size {
            let chunk = stream.next().await.unwrap().unwrap();
            assert_eq!(chunk.first_index, frontier.size());
            for (leaf, hash) in chunk.leaves.iter().zip(&chunk.leaf_hashes) {
                assert_eq!(leaf_hash(leaf).as_slice(), hash);
                frontier.push(leaf_hash(leaf));
            }
        }
    }
    let info = service
        .get_log_info(local(wire::GetLogInfoRequest {}))
        .await
        .unwrap()
        .into_inner();
    assert_eq!((info.size, info.epoch), (frontier.size(), 1));
    assert_eq!(info.root, frontier.root());
    assert_eq!(info.origin, "example.org/audit/1");
    assert!(
        info.vkey.starts_with("example.org/audit/1+"),
        "{}",
        info.vkey
    );

    let request = wire::GetInclusionProofRequest {
        leaf_index: 2,
        tree_size: 0,
    };
    let proof = service
        .get_inclusion_proof(remote(request))
        .await
        .unwrap()
        .into_inner();
    assert_eq!((proof.tree_size, &proof.root), (info.size, &info.root));
    let request = wire::GetInclusionProofRequest {
        leaf_index: 9,
        tree_size: 0,
    };
    let refused = service
        .get_inclusion_proof(remote(request))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange);
}

#[tokio::test(start_paused = true)]
async fn following_ends_with_the_server_and_with_a_start_that_does_not_exist() {
    let fixture = Fixture::new().await;
    let service = AuditService(fixture.services.clone());
    let request = wire::TailRequest {
        start: 99,
        follow: true,
        ..wire::TailRequest::default()
    };
    let refused = service.tail(local(request)).await.err().unwrap();
    assert_eq!(refused.code(), Code::OutOfRange);
    let request = wire::TailRequest {
        follow: true,
        from_end: true,
        ..wire::TailRequest::default()
    };
    let mut stream = service.tail(local(request)).await.unwrap().into_inner();
    fixture.services.tasks.token().cancel();
    let ended = stream.next().await.unwrap().unwrap_err();
    assert_eq!(ended.code(), Code::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn leaves_are_for_administrators_and_proofs_for_everybody() {
    let service = AuditService(Fixture::new().await.services);
    let tail = service
        .tail(remote(wire::TailRequest::default()))
        .await
        .err()
        .unwrap();
    assert_eq!(tail.code(), Code::PermissionDenied);
    let info = service
        .get_log_info(remote(wire::GetLogInfoRequest {}))
        .await
        .unwrap_err();
    assert_eq!(info.code(), Code::PermissionDenied);
    let none = service
        .get_checkpoint(remote(wire::GetCheckpointRequest {}))
        .await
        .unwrap_err();
    assert_eq!(none.code(), Code::NotFound);
    assert!(
        none.message().starts_with("MM-1402: "),
        "{}",
        none.message()
    );
}

#[tokio::test(start_paused = true)]
async fn every_reader_may_ask_for_a_fresh_answer() {
    let fixture = Fixture::new().await;
    create(&fixture, "a").await;
    let service = AuditService(fixture.services.clone());
    let first_leaf = wire::GetInclusionProofRequest {
        leaf_index: 0,
        tree_size: 0,
    };
    for (freshness, refused) in [("local", false), ("linearizable", false), ("perhaps", true)] {
        let asked = |mut request: Request<()>| {
            let header = freshness.parse().unwrap();
            request.metadata_mut().insert(CONSISTENCY_HEADER, header);
            request
        };
        let info = asked(local(())).map(|()| wire::GetLogInfoRequest {});
        let tail = asked(local(())).map(|()| wire::TailRequest::default());
        let checkpoint = asked(local(())).map(|()| wire::GetCheckpointRequest {});
        let proof = asked(local(())).map(|()| first_leaf);
        let outcomes = [
            service.get_log_info(info).await.err(),
            service.tail(tail).await.err(),
            // There is none: asked for in order, it is not found.
            service
                .get_checkpoint(checkpoint)
                .await
                .err()
                .filter(|error| error.code() != Code::NotFound),
            service.get_inclusion_proof(proof).await.err(),
        ];
        for outcome in outcomes {
            let code = outcome.map(|error| error.code());
            assert_eq!(
                code,
                refused.then_some(Code::InvalidArgument),
                "{freshness}"
            );
        }
    }
}
