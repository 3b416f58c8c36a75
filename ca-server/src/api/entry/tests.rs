#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "tests"
)]

use mintmark_proto::spire::entry::entry_server::Entry as _;
use mintmark_proto::spire::entry::list_entries_request::Filter as ListFilter;
use mintmark_proto::spire::types::selector_match::MatchBehavior;
use tonic::Code;

use super::*;
use crate::api::fixture::{Fixture, local, remote};

fn id(path: &str) -> types::Spiffeid {
    types::Spiffeid {
        trust_domain: "example.org".into(),
        path: path.into(),
    }
}

fn selectors(texts: &[&str]) -> Vec<types::Selector> {
    let selector = |text: &&str| {
        let (kind, value) = text.split_once(':').unwrap();
        types::Selector {
            r#type: kind.into(),
            value: value.into(),
        }
    };
    texts.iter().map(selector).collect()
}

/// An entry below `/a`, unless it is said otherwise.
fn wanted(name: &str, with: &[&str]) -> types::Entry {
    types::Entry {
        id: name.into(),
        spiffe_id: Some(id(&format!("/{name}"))),
        parent_id: Some(id("/a")),
        selectors: selectors(with),
        ..types::Entry::default()
    }
}

async fn service() -> EntryService {
    EntryService(Fixture::new().await.services)
}

async fn create(
    service: &EntryService,
    entries: Vec<types::Entry>,
) -> Vec<wire::batch_create_entry_response::Result> {
    let request = wire::BatchCreateEntryRequest {
        entries,
        output_mask: None,
    };
    service
        .batch_create_entry(local(request))
        .await
        .unwrap()
        .into_inner()
        .results
}

async fn list(service: &EntryService, filter: ListFilter) -> Vec<String> {
    let request = wire::ListEntriesRequest {
        filter: Some(filter),
        ..wire::ListEntriesRequest::default()
    };
    let response = service
        .list_entries(local(request))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(response.next_page_token, "");
    response.entries.into_iter().map(|entry| entry.id).collect()
}

fn code<T>(result: Result<Response<T>, Status>) -> Code {
    result.err().map_or(Code::Ok, |status| status.code())
}

#[tokio::test(start_paused = true)]
async fn a_batch_has_an_outcome_for_each_item_in_order() {
    let service = service().await;
    let mut foreign = wanted("foreign", &["a:1"]);
    foreign.spiffe_id = Some(types::Spiffeid {
        trust_domain: "other.org".into(),
        path: "/x".into(),
    });
    let mut drawn = wanted("drawn", &["a:1"]);
    drawn.id.clear();
    let twice = wanted("web", &["a:1", "a:2"]);
    let mut other_id = wanted("web", &["a:2", "a:1"]);
    other_id.id = "other".into();
    let results = create(
        &service,
        vec![foreign, twice, drawn, wanted("bare", &[]), other_id],
    )
    .await;
    let codes: Vec<i32> = results
        .iter()
        .map(|result| result.status.as_ref().unwrap().code)
        .collect();
    assert_eq!(codes, [3, 0, 0, 3, 6]);
    let entries: Vec<_> = results.iter().map(|result| result.entry.as_ref()).collect();
    assert_eq!(entries[0], None);
    assert_eq!(entries[1].unwrap().revision_number, 1);
    assert_eq!(entries[2].unwrap().id.len(), 36, "a drawn id");
    assert_eq!(entries[4], entries[1], "the similar entry that is there");
    let message = &results[0].status.as_ref().unwrap().message;
    assert!(message.starts_with("MM-1201: "), "{message}");
}

#[tokio::test(start_paused = true)]
async fn a_repeated_creation_gives_the_first_result_and_another_request_does_not() {
    let service = service().await;
    let request = |name: &str| {
        let mut entry = wanted(name, &["a:1"]);
        entry.id.clear();
        let entries = vec![entry];
        let mut request = local(wire::BatchCreateEntryRequest {
            entries,
            output_mask: None,
        });
        let key = "00112233445566778899aabbccddeeff".parse().unwrap();
        request
            .metadata_mut()
            .insert(crate::api::IDEMPOTENCY_HEADER, key);
        request
    };
    let first = service
        .batch_create_entry(request("web"))
        .await
        .unwrap()
        .into_inner();
    tokio::time::advance(std::time::Duration::from_secs(5)).await;
    let second = service
        .batch_create_entry(request("web"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(first, second);
    assert_eq!(first.results[0].status.as_ref().unwrap().code, 0);
    assert_eq!(list(&service, ListFilter::default()).await.len(), 1);
    assert_ne!(
        code(service.batch_create_entry(request("db")).await),
        Code::Ok
    );

    let mut malformed = request("web");
    let key = "0011".parse().unwrap();
    malformed
        .metadata_mut()
        .insert(crate::api::IDEMPOTENCY_HEADER, key);
    assert_eq!(
        code(service.batch_create_entry(malformed).await),
        Code::InvalidArgument
    );
}

#[tokio::test(start_paused = true)]
async fn filters_on_sets_have_four_modes() {
    let service = service().await;
    let mut entries = vec![
        wanted("e-1", &["a:1"]),
        wanted("e-12", &["a:1", "a:2"]),
        wanted("e-123", &["a:1", "a:2", "a:3"]),
        wanted("e-3", &["a:3"]),
    ];
    for (entry, domains) in
        entries
            .iter_mut()
            .zip([&["x.org"][..], &["x.org", "y.org"], &[], &["z.org"]])
    {
        entry.federates_with = domains.iter().map(|name| (*name).to_owned()).collect();
    }
    create(&service, entries).await;
    let expected: [(MatchBehavior, &[&str], &[&str]); 4] = [
        (MatchBehavior::MatchExact, &["e-12"], &["e-12"]),
        (
            MatchBehavior::MatchSubset,
            &["e-1", "e-12"],
            &["e-1", "e-12", "e-123"],
        ),
        (MatchBehavior::MatchSuperset, &["e-12", "e-123"], &["e-12"]),
        (
            MatchBehavior::MatchAny,
            &["e-1", "e-12", "e-123"],
            &["e-1", "e-12"],
        ),
    ];
    for (mode, by_selectors, by_domains) in expected {
        let filter = ListFilter {
            by_selectors: Some(types::SelectorMatch {
                selectors: selectors(&["a:1", "a:2"]),
                r#match: mode.into(),
            }),
            ..ListFilter::default()
        };
        assert_eq!(list(&service, filter).await, by_selectors, "{mode:?}");
        let filter = ListFilter {
            by_federates_with: Some(types::FederatesWithMatch {
                trust_domains: vec!["x.org".into(), "y.org".into()],
                r#match: mode.into(),
            }),
            ..ListFilter::default()
        };
        assert_eq!(list(&service, filter).await, by_domains, "{mode:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn filters_combine_and_count_as_they_list() {
    let service = service().await;
    let mut below_b = wanted("below-b", &["a:1"]);
    below_b.parent_id = Some(id("/b"));
    below_b.hint = "inside".into();
    let mut down = wanted("down", &["a:1"]);
    down.downstream = true;
    let mut twin = wanted("twin", &["a:2"]);
    twin.spiffe_id = Some(id("/down"));
    create(&service, vec![below_b, down, twin]).await;
    let by_id = || ListFilter {
        by_spiffe_id: Some(id("/down")),
        ..ListFilter::default()
    };
    assert_eq!(list(&service, by_id()).await, ["down", "twin"]);
    let by_both = ListFilter {
        by_downstream: Some(false),
        ..by_id()
    };
    assert_eq!(list(&service, by_both).await, ["twin"]);
    let by_parent = ListFilter {
        by_parent_id: Some(id("/b")),
        ..ListFilter::default()
    };
    assert_eq!(list(&service, by_parent).await, ["below-b"]);
    let by_hint = |hint: &str| ListFilter {
        by_hint: Some(hint.into()),
        ..ListFilter::default()
    };
    assert_eq!(list(&service, by_hint("inside")).await, ["below-b"]);
    assert_eq!(list(&service, by_hint("")).await, ["down", "twin"]);
    let nobody = ListFilter {
        by_parent_id: Some(id("/b")),
        ..by_id()
    };
    assert!(list(&service, nobody).await.is_empty());

    let count = wire::count_entries_request::Filter {
        by_spiffe_id: Some(id("/down")),
        ..Default::default()
    };
    let request = local(wire::CountEntriesRequest {
        filter: Some(count),
    });
    assert_eq!(
        service
            .count_entries(request)
            .await
            .unwrap()
            .into_inner()
            .count,
        2
    );
    let all = local(wire::CountEntriesRequest { filter: None });
    assert_eq!(
        service.count_entries(all).await.unwrap().into_inner().count,
        3
    );
}

#[tokio::test(start_paused = true)]
async fn malformed_filters_pages_and_ids_are_refused() {
    let service = service().await;
    let no_selector = types::SelectorMatch {
        selectors: Vec::new(),
        r#match: 0,
    };
    let no_mode = types::SelectorMatch {
        selectors: selectors(&["a:1"]),
        r#match: 9,
    };
    let no_domain = types::FederatesWithMatch {
        trust_domains: vec!["X y".into()],
        r#match: 0,
    };
    let filters = [
        ListFilter {
            by_selectors: Some(no_selector),
            ..ListFilter::default()
        },
        ListFilter {
            by_selectors: Some(no_mode),
            ..ListFilter::default()
        },
        ListFilter {
            by_federates_with: Some(no_domain),
            ..ListFilter::default()
        },
        ListFilter {
            by_spiffe_id: Some(id("no-slash")),
            ..ListFilter::default()
        },
    ];
    for filter in filters {
        let request = wire::ListEntriesRequest {
            filter: Some(filter.clone()),
            ..wire::ListEntriesRequest::default()
        };
        let refused = service.list_entries(local(request)).await;
        assert_eq!(code(refused), Code::InvalidArgument, "{filter:?}");
    }
    for (page_size, page_token) in [(-1, ""), (0, "no id!")] {
        let request = wire::ListEntriesRequest {
            page_size,
            page_token: page_token.into(),
            ..wire::ListEntriesRequest::default()
        };
        assert_eq!(
            code(service.list_entries(local(request)).await),
            Code::InvalidArgument
        );
    }
    for (id, expected) in [
        ("", Code::InvalidArgument),
        ("no such", Code::InvalidArgument),
        ("none", Code::NotFound),
    ] {
        let request = wire::GetEntryRequest {
            id: id.into(),
            output_mask: None,
        };
        assert_eq!(
            code(service.get_entry(local(request)).await),
            expected,
            "{id:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn pages_follow_each_other_while_entries_come_and_go() {
    let service = service().await;
    let names: Vec<String> = (0..7).map(|number| format!("e{number}")).collect();
    create(
        &service,
        names.iter().map(|name| wanted(name, &["a:1"])).collect(),
    )
    .await;
    let mut token = String::new();
    let mut pages = Vec::new();
    loop {
        let request = wire::ListEntriesRequest {
            page_size: 3,
            page_token: token.clone(),
            output_mask: Some(types::EntryMask {
                hint: true,
                ..types::EntryMask::default()
            }),
            ..wire::ListEntriesRequest::default()
        };
        let page = service
            .list_entries(local(request))
            .await
            .unwrap()
            .into_inner();
        // The mask leaves nothing but the id.
        assert!(page.entries.iter().all(|entry| entry.spiffe_id.is_none()));
        pages.push(
            page.entries
                .into_iter()
                .map(|entry| entry.id)
                .collect::<Vec<_>>(),
        );
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
        // The last entry of the page goes, and one comes that stands before it.
        if pages.len() == 1 {
            let ids = vec![token.clone()];
            service
                .batch_delete_entry(local(wire::BatchDeleteEntryRequest { ids }))
                .await
                .unwrap();
            create(&service, vec![wanted("e00", &["a:1"])]).await;
        }
    }
    assert_eq!(
        pages,
        [vec!["e0", "e1", "e2"], vec!["e3", "e4", "e5"], vec!["e6"]]
    );
}

#[tokio::test(start_paused = true)]
async fn an_update_changes_what_its_mask_names() {
    let service = service().await;
    let mut made = wanted("web", &["a:1"]);
    made.hint = "old".into();
    made.x509_svid_ttl = 60;
    create(&service, vec![made]).await;
    let mut change = wanted("web", &["a:2"]);
    change.hint = "new".into();
    change.parent_id = None;
    let mask = types::EntryMask {
        hint: true,
        ..types::EntryMask::default()
    };
    let request = wire::BatchUpdateEntryRequest {
        entries: vec![change, wanted("none", &["a:1"])],
        input_mask: Some(mask),
        output_mask: None,
    };
    let results = service
        .batch_update_entry(local(request))
        .await
        .unwrap()
        .into_inner()
        .results;
    let updated = results[0].entry.as_ref().unwrap();
    assert_eq!((updated.hint.as_str(), updated.x509_svid_ttl), ("new", 60));
    assert_eq!(updated.selectors, selectors(&["a:1"]));
    assert_eq!(updated.revision_number, 2);
    assert_eq!(
        results[1].status.as_ref().unwrap().code,
        Code::NotFound as i32
    );

    // Without a mask all fields count: the parent is missing.
    let mut whole = wanted("web", &["a:2"]);
    whole.parent_id = None;
    let request = wire::BatchUpdateEntryRequest {
        entries: vec![whole],
        ..Default::default()
    };
    let results = service
        .batch_update_entry(local(request))
        .await
        .unwrap()
        .into_inner()
        .results;
    assert_eq!(
        results[0].status.as_ref().unwrap().code,
        Code::InvalidArgument as i32
    );
}

#[tokio::test(start_paused = true)]
async fn updates_of_one_entry_at_the_same_time_all_count() {
    let service = service().await;
    create(&service, vec![wanted("web", &["a:1"])]).await;
    let update = |mask: types::EntryMask| {
        let mut change = wanted("web", &["a:1"]);
        change.hint = "hint".into();
        change.x509_svid_ttl = 60;
        change.jwt_svid_ttl = 60;
        let request = wire::BatchUpdateEntryRequest {
            entries: vec![change],
            input_mask: Some(mask),
            output_mask: None,
        };
        let service = service.clone();
        async move { service.batch_update_entry(local(request)).await }
    };
    let none = types::EntryMask::default();
    let outcomes = tokio::join!(
        update(types::EntryMask { hint: true, ..none }),
        update(types::EntryMask {
            x509_svid_ttl: true,
            ..none
        }),
        update(types::EntryMask {
            jwt_svid_ttl: true,
            ..none
        }),
    );
    for outcome in [outcomes.0, outcomes.1, outcomes.2] {
        let results = outcome.unwrap().into_inner().results;
        assert_eq!(results[0].status.as_ref().unwrap().code, 0, "{results:?}");
    }
    let request = wire::GetEntryRequest {
        id: "web".into(),
        output_mask: None,
    };
    let entry = service
        .get_entry(local(request))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (entry.hint.as_str(), entry.x509_svid_ttl, entry.jwt_svid_ttl),
        ("hint", 60, 60)
    );
    assert_eq!(entry.revision_number, 4);
}

#[tokio::test(start_paused = true)]
async fn a_batch_beyond_one_command_is_done_and_one_beyond_the_limit_is_refused() {
    let service = service().await;
    // 900 entries of more than a kilobyte do not fit into a command.
    let long = "v".repeat(1_100);
    let entry = |number: usize| wanted(&format!("e{number:04}"), &[&format!("a:{long}{number}")]);
    let results = create(&service, (0..900).map(entry).collect()).await;
    assert!(
        results
            .iter()
            .all(|result| result.status.as_ref().unwrap().code == 0)
    );
    let ids: Vec<_> = results
        .iter()
        .map(|result| result.entry.as_ref().unwrap().id.clone())
        .collect();
    assert!(ids.is_sorted());

    let entries: Vec<_> = (0..1_001)
        .map(|number| wanted(&format!("f{number}"), &["a:1"]))
        .collect();
    let request = wire::BatchCreateEntryRequest {
        entries,
        output_mask: None,
    };
    assert_eq!(
        code(service.batch_create_entry(local(request)).await),
        Code::ResourceExhausted
    );
    let ids = (0..1_001).map(|number| number.to_string()).collect();
    let request = wire::BatchDeleteEntryRequest { ids };
    assert_eq!(
        code(service.batch_delete_entry(local(request)).await),
        Code::ResourceExhausted
    );
    let all = local(wire::CountEntriesRequest { filter: None });
    assert_eq!(
        service.count_entries(all).await.unwrap().into_inner().count,
        900
    );
}

#[tokio::test(start_paused = true)]
async fn a_deletion_says_of_each_id_what_became_of_it() {
    let service = service().await;
    create(
        &service,
        vec![wanted("web", &["a:1"]), wanted("db", &["a:1"])],
    )
    .await;
    let ids: Vec<String> = ["db", "not an id", "none", "db"]
        .map(str::to_owned)
        .to_vec();
    let request = wire::BatchDeleteEntryRequest { ids: ids.clone() };
    let results = service
        .batch_delete_entry(local(request))
        .await
        .unwrap()
        .into_inner()
        .results;
    let codes: Vec<i32> = results
        .iter()
        .map(|result| result.status.as_ref().unwrap().code)
        .collect();
    assert_eq!(codes, [0, 3, 5, 5]);
    assert!(results.iter().map(|result| &result.id).eq(&ids));
    assert_eq!(list(&service, ListFilter::default()).await, ["web"]);
}

#[tokio::test(start_paused = true)]
async fn callers_without_the_role_are_refused_and_change_nothing() {
    let service = service().await;
    let entries = vec![wanted("web", &["a:1"])];
    let request = wire::BatchCreateEntryRequest {
        entries,
        output_mask: None,
    };
    assert_eq!(
        code(service.batch_create_entry(remote(request)).await),
        Code::PermissionDenied
    );
    let request = wire::ListEntriesRequest::default();
    assert_eq!(
        code(service.list_entries(remote(request)).await),
        Code::PermissionDenied
    );
    // What is for agents is not for administrators.
    let request = wire::GetAuthorizedEntriesRequest::default();
    assert_eq!(
        code(service.get_authorized_entries(local(request)).await),
        Code::PermissionDenied
    );
    assert!(list(&service, ListFilter::default()).await.is_empty());
}
