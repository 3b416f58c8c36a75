//! Renewal: at half life, after taint and revocation, with failing servers.

use std::{sync::atomic::Ordering, time::Duration};

use mintmark_proto::mintmark::agent::v1 as pb;
use tonic::{Code, Status};

use crate::harness::{
    Bed, NEARLY_DUE, SHORT_LIFE, entry, entry_for, ids, next, serial, silent, wait_state,
    wait_world,
};

#[tokio::test]
async fn an_svid_is_renewed_with_a_new_key_well_before_it_ends_and_pushed() {
    let bed = Bed::new().await;
    bed.world.with(|inner| inner.x509_ttl = SHORT_LIFE);
    bed.world.put_entry(entry("a", "/a"));
    let agent = bed.start().await;
    let mut stream = bed.x509().await.unwrap();
    let mut last = next(&mut stream).await.unwrap().svids.remove(0);
    for _ in 0..3 {
        let end = agent
            .state()
            .svids
            .values()
            .next()
            .unwrap()
            .validity
            .not_after;
        bed.clock.advance(NEARLY_DUE);
        // The agent looks at the clock, and waits for the rest.
        bed.world.push(pb::Update::default());
        let fresh = next(&mut stream).await.unwrap().svids.remove(0);
        assert_ne!(serial(&fresh.x509_svid), serial(&last.x509_svid));
        assert_ne!(
            fresh.x509_svid_key, last.x509_svid_key,
            "each SVID has a key of its own"
        );
        let now = mintmark_identity::clock::Clock::now(&*bed.clock);
        assert!(now < end, "the SVID before it is still valid");
        last = fresh;
    }
}

#[tokio::test]
async fn a_failed_renewal_keeps_the_valid_svid_and_is_tried_again() {
    let bed = Bed::new().await;
    bed.world.put_entry(entry("a", "/a"));
    let agent = bed.start().await;
    let mut stream = bed.x509().await.unwrap();
    let first = next(&mut stream).await.unwrap();
    let refuse = Status::unavailable("try again later");
    bed.world
        .with(|inner| inner.refuse.insert("*".to_owned(), refuse));
    let calls = bed.world.issue_calls.load(Ordering::SeqCst);
    bed.clock.advance(Duration::from_secs(1_800));
    bed.world.push(pb::Update::default());
    wait_state(&agent, |state| state.position.unwrap().index == 2).await;
    let mut states = agent.watch();
    // Two attempts prove that it goes on trying.
    let tried = async {
        while bed.world.issue_calls.load(Ordering::SeqCst) < calls + 2 {
            let _ = tokio::time::timeout(Duration::from_millis(20), states.changed()).await;
        }
    };
    crate::harness::within(tried).await;
    assert!(silent(&mut stream).await, "the stream keeps what it has");
    assert_eq!(bed.first_x509().await.unwrap(), first);
    bed.world.with(|inner| inner.refuse.clear());
    let renewed = next(&mut stream).await.unwrap();
    assert_ne!(
        serial(&renewed.svids[0].x509_svid),
        serial(&first.svids[0].x509_svid)
    );
}

#[tokio::test]
async fn a_server_that_comes_back_is_asked_at_once_for_what_is_missing() {
    let mut bed = Bed::new().await;
    bed.world.put_entry(entry("a", "/a"));
    let agent = bed.start().await;
    wait_state(&agent, |state| state.svids.len() == 1).await;
    bed.stop_server().await;
    bed.world.put_entry(entry("b", "/b"));
    bed.restart_server().await;
    wait_state(&agent, |state| state.svids.len() == 2).await;
    let resumed = bed.world.with(|inner| inner.resumed_from.clone());
    assert_eq!(
        resumed.last().unwrap(),
        &Some((1, 1)),
        "it resumed from where it was"
    );
}

#[tokio::test]
async fn one_entry_that_is_refused_does_not_hold_back_the_others() {
    let bed = Bed::new().await;
    let refused = Status::new(Code::FailedPrecondition, "not this one");
    bed.world
        .with(|inner| inner.refuse.insert("bad".to_owned(), refused));
    bed.world.put_entry(entry("bad", "/bad"));
    bed.world.put_entry(entry("good", "/good"));
    let agent = bed.start().await;
    wait_state(&agent, |state| state.svids.len() == 1).await;
    assert_eq!(ids(&bed.first_x509().await.unwrap()), ["/good"]);
}

#[tokio::test]
async fn a_tainted_authority_has_everything_under_it_renewed() {
    let bed = Bed::new().await;
    bed.world.put_entry(entry("a", "/a"));
    let agent = bed.start().await;
    let mut stream = bed.x509().await.unwrap();
    let first = next(&mut stream).await.unwrap();
    let old = bed.world.authority().x509.id().to_owned();
    bed.world.rotate_authority(true);
    let bundles = next(&mut stream).await.unwrap();
    assert_eq!(
        serial(&bundles.svids[0].x509_svid),
        serial(&first.svids[0].x509_svid)
    );
    bed.world.taint(&old);
    wait_state(&agent, |state| state.tainted.contains_key(&old)).await;
    // Renewals are spread over ten seconds from the taint; nobody waits for that here.
    bed.clock.advance(Duration::from_secs(11));
    bed.world.push(pb::Update::default());
    let renewed = next(&mut stream).await.unwrap();
    assert_ne!(
        serial(&renewed.svids[0].x509_svid),
        serial(&first.svids[0].x509_svid)
    );
    let id = bed.world.authority().x509.id().to_owned();
    assert!(
        agent
            .state()
            .svids
            .values()
            .all(|svid| svid.authority_id == id)
    );
}

#[tokio::test]
async fn an_authority_that_leaves_the_bundle_takes_its_svids_along() {
    let bed = Bed::new().await;
    bed.world.put_entry(entry("a", "/a"));
    let agent = bed.start().await;
    let mut stream = bed.x509().await.unwrap();
    let first = next(&mut stream).await.unwrap();
    bed.world.rotate_authority(false);
    let id = bed.world.authority().x509.id().to_owned();
    wait_state(&agent, |state| {
        state.svids.values().any(|svid| svid.authority_id == id)
    })
    .await;
    let renewed = loop {
        let message = next(&mut stream).await.unwrap();
        if serial(&message.svids[0].x509_svid) != serial(&first.svids[0].x509_svid) {
            break message;
        }
    };
    assert_eq!(
        renewed.svids[0].bundle,
        bed.world.authority().x509.certificate_der()
    );
}

#[tokio::test]
async fn svids_above_the_cache_limit_are_issued_when_somebody_asks() {
    let mut bed = Bed::new().await;
    bed.config.limits.x509_svids = 3;
    for number in 0..6 {
        let id = format!("e{number}");
        bed.world
            .put_entry(entry_for(&id, &format!("/{id}"), &["unix:uid:4294967294"]));
    }
    bed.world.put_entry(entry("z", "/z"));
    let mut lazy = entry("lazy", "/lazy");
    lazy.disable_x509_svid_prefetch = true;
    bed.world.put_entry(lazy);
    let agent = bed.start().await;
    wait_state(&agent, |state| state.svids.len() == 3).await;
    assert_eq!(ids(&bed.first_x509().await.unwrap()), ["/lazy", "/z"]);
}

#[tokio::test]
async fn many_entries_are_asked_for_in_few_batches() {
    let mut bed = Bed::new().await;
    bed.config.limits.x509_svids = 2_000;
    for number in 0..1_100 {
        let id = format!("e{number}");
        let one = entry_for(&id, &format!("/{id}"), &["unix:uid:4294967294"]);
        bed.world.with(|inner| inner.entries.insert(id, one));
    }
    let agent = bed.start().await;
    wait_state(&agent, |state| state.svids.len() == 1_100).await;
    assert_eq!(bed.world.issue_calls.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn an_answer_that_comes_after_the_entry_was_taken_back_is_dropped() {
    let bed = Bed::new().await;
    let agent = bed.start().await;
    bed.world.gate.send_replace(false);
    bed.world.put_entry(entry("a", "/a"));
    let asked = async {
        while bed.world.issue_calls.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
    };
    crate::harness::within(asked).await;
    let taken_back = bed.world.remove_entry("a");
    wait_state(&agent, |state| state.position.unwrap().index == taken_back).await;
    // The answer was made for the old entry, and one of the same id and revision is there again.
    bed.world.gate.send_replace(true);
    wait_world(&bed.world, |inner| {
        inner.acknowledged.iter().any(|(at, _)| *at == taken_back)
    })
    .await;
    assert!(agent.state().svids.is_empty());
    let status = bed.first_x509().await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
}
