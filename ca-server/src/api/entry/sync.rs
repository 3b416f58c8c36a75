//! `SyncAuthorizedEntries`: what an agent may serve, without sending it all each time.
//!
//! Always: up to [`WHOLE_MAX`] entries come whole, if they fit into a message; of more, their revisions
//! come in pages, and then the entries whose ids the agent asks for, as they stand when it asks. An id
//! that is not the agent's to serve is left out, as SPIRE does. No page is larger than gRPC clients take.
//!
//! Not here: pushing changes (`fanout`).

use std::collections::BTreeSet;

use async_stream::try_stream;
use mintmark_identity::spiffe_id::SpiffeId;
use mintmark_proto::convert::entry::entry_to_spire;
use mintmark_proto::spire::entry::{
    EntryRevision, SyncAuthorizedEntriesRequest, SyncAuthorizedEntriesResponse,
};
use mintmark_proto::spire::types::{Entry, EntryMask};
use prost::Message;
use tokio_stream::StreamExt;
use tonic::codegen::BoxStream;
use tonic::{Status, Streaming};

use crate::api::Services;
use crate::api::status::ApiError;
use crate::state::State;

/// As many entries come whole, and as many on a page. SPIRE's number.
const WHOLE_MAX: usize = 500;
/// Revisions on a page; each has about 60 bytes.
const REVISIONS_MAX: usize = 5_000;
/// Bytes of a page, about. gRPC clients take 4 MiB by default.
const PAGE_BYTES_MAX: usize = 2 * 1024 * 1024;

/// What the method returns.
pub(super) type ResponseStream = BoxStream<SyncAuthorizedEntriesResponse>;

/// Answers one call.
pub(super) fn respond(
    services: Services,
    agent: SpiffeId,
    mut requests: Streaming<SyncAuthorizedEntriesRequest>,
) -> ResponseStream {
    let stream = try_stream! {
        let first = requests.next().await.transpose()?;
        let first = first.ok_or_else(|| ApiError::invalid("request", "is missing"))?;
        if !first.ids.is_empty() {
            Err(ApiError::invalid("ids", "are for later messages"))?;
        }
        let mask = first.output_mask;
        services.fresh()?;
        let pages = services.consensus.read(|state| opening(state, &agent, mask.as_ref()));
        for page in pages {
            yield page;
        }
        while let Some(request) = requests.next().await.transpose()? {
            if request.output_mask.is_some() {
                Err(ApiError::invalid("output_mask", "is for the first message"))?;
            }
            services.fresh()?;
            let ids = request.ids;
            let pages = services.consensus.read(|state| wanted(state, &agent, &ids, mask.as_ref()));
            for page in pages {
                yield page;
            }
        }
    };
    let stream: ResponseStream = Box::pin(stream.map(|item: Result<_, Status>| item));
    stream
}

/// All entries, or the revisions of all.
fn opening(
    state: &State,
    agent: &SpiffeId,
    mask: Option<&EntryMask>,
) -> Vec<SyncAuthorizedEntriesResponse> {
    let authorized = state.authorized_entries(agent);
    if authorized.len() <= WHOLE_MAX {
        let entries: Vec<Entry> = authorized
            .iter()
            .map(|entry| entry_to_spire(entry, mask))
            .collect();
        let whole = SyncAuthorizedEntriesResponse {
            entries,
            ..Default::default()
        };
        if whole.encoded_len() <= PAGE_BYTES_MAX {
            return vec![whole];
        }
    }
    let revision = |entry: &mintmark_identity::entry::RegistrationEntry| EntryRevision {
        id: entry.id.to_string(),
        revision_number: i64::try_from(entry.revision).unwrap_or(i64::MAX),
        created_at: entry.created_at.unix_secs(),
    };
    let revisions = authorized.into_iter().map(revision).collect();
    pages(revisions, REVISIONS_MAX, |entry_revisions, more| {
        SyncAuthorizedEntriesResponse {
            entry_revisions,
            more,
            ..Default::default()
        }
    })
}

/// The entries that an agent asks for.
fn wanted(
    state: &State,
    agent: &SpiffeId,
    ids: &[String],
    mask: Option<&EntryMask>,
) -> Vec<SyncAuthorizedEntriesResponse> {
    let ids: BTreeSet<&str> = ids.iter().map(String::as_str).collect();
    let authorized = state.authorized_entries(agent).into_iter();
    let wanted = authorized.filter(|entry| ids.contains(entry.id.as_str()));
    let entries = wanted.map(|entry| entry_to_spire(entry, mask)).collect();
    pages(entries, WHOLE_MAX, |entries, more| {
        SyncAuthorizedEntriesResponse {
            entries,
            more,
            ..Default::default()
        }
    })
}

/// Cuts records into pages; there is always at least one, and at least one record on each but an only
/// one.
fn pages<T: Message, P>(
    records: Vec<T>,
    count_max: usize,
    page: impl Fn(Vec<T>, bool) -> P,
) -> Vec<P> {
    let mut parts: Vec<Vec<T>> = Vec::new();
    let mut bytes = 0_usize;
    for record in records {
        let length = record.encoded_len();
        let fits = |part: &&mut Vec<T>| {
            part.len() < count_max && bytes.saturating_add(length) <= PAGE_BYTES_MAX
        };
        match parts.last_mut().filter(fits) {
            Some(part) => part.push(record),
            None => {
                bytes = 0;
                parts.push(vec![record]);
            }
        }
        bytes = bytes.saturating_add(length);
    }
    if parts.is_empty() {
        parts.push(Vec::new());
    }
    let last = parts.len().saturating_sub(1);
    parts
        .into_iter()
        .enumerate()
        .map(|(number, part)| page(part, number < last))
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

    use mintmark_proto::mintmark::raft::v1::{BanAgent, CreateEntries, command};
    use mintmark_proto::mintmark::state::v1 as state;

    use super::*;
    use crate::api::fixture::Fixture;

    #[test]
    fn pages_say_whether_more_follow() {
        let cut = |lengths: &[usize], size| {
            let records: Vec<String> = lengths.iter().map(|length| "x".repeat(*length)).collect();
            pages(records, size, |part: Vec<String>, more| (part.len(), more))
        };
        assert_eq!(cut(&[], 2), [(0, false)]);
        assert_eq!(cut(&[1, 1], 2), [(2, false)]);
        assert_eq!(cut(&[1, 1, 1], 2), [(2, true), (1, false)]);
        let half = PAGE_BYTES_MAX / 2;
        assert_eq!(cut(&[half, half, 1], 9), [(1, true), (2, false)]);
        assert_eq!(
            cut(&[1, PAGE_BYTES_MAX + 1, 1], 9),
            [(1, true), (1, true), (1, false)]
        );
    }

    /// An agent with so many entries of its own, and one of somebody else's.
    async fn agent_with(entries: usize, long: usize) -> (Fixture, SpiffeId) {
        let fixture = Fixture::new().await;
        let agent = fixture.join("a", &[]).await;
        let selector = |kind: &str| state::Selector {
            kind: kind.into(),
            value: "v".repeat(long),
        };
        let entry = |number: usize| state::Entry {
            id: format!("e{number:05}"),
            spiffe_id: format!("spiffe://example.org/e{number}"),
            parent_id: agent.to_string(),
            selectors: ["k", "l"].map(selector).to_vec(),
            ..state::Entry::default()
        };
        let mut all: Vec<_> = (0..entries).map(entry).collect();
        all.push(state::Entry {
            parent_id: "spiffe://example.org/spire/agent/join_token/other".into(),
            ..entry(99_999)
        });
        for part in all.chunks(100) {
            let body = CreateEntries {
                entries: part.to_vec(),
            };
            let result = fixture.apply(command::Body::CreateEntries(body)).await;
            assert!(
                result.items.iter().all(|item| item.refusal == 0),
                "{result:?}"
            );
        }
        (fixture, agent)
    }

    fn ids(page: &SyncAuthorizedEntriesResponse) -> Vec<String> {
        page.entries.iter().map(|entry| entry.id.clone()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn few_entries_come_whole_and_many_as_revisions_first() {
        let (fixture, agent) = agent_with(WHOLE_MAX, 1).await;
        let open = |fixture: &Fixture| {
            fixture
                .services
                .consensus
                .read(|state| opening(state, &agent, None))
        };
        let whole = open(&fixture);
        assert_eq!(
            (whole.len(), whole[0].entries.len(), whole[0].more),
            (1, WHOLE_MAX, false)
        );
        assert!(whole[0].entry_revisions.is_empty());

        let (fixture, agent) = agent_with(WHOLE_MAX + 1, 1).await;
        let revisions = fixture
            .services
            .consensus
            .read(|state| opening(state, &agent, None));
        assert_eq!(revisions.len(), 1);
        assert!(revisions[0].entries.is_empty());
        assert_eq!(revisions[0].entry_revisions.len(), WHOLE_MAX + 1);
        let asked: Vec<String> = ["e00003", "e99999", "none", "e00001", "e00003"]
            .map(str::to_owned)
            .to_vec();
        let answer = fixture
            .services
            .consensus
            .read(|state| wanted(state, &agent, &asked, None));
        assert_eq!(answer.len(), 1);
        assert_eq!(
            ids(&answer[0]),
            ["e00001", "e00003"],
            "only its own, each once"
        );
        let all: Vec<String> = revisions[0]
            .entry_revisions
            .iter()
            .map(|revision| revision.id.clone())
            .collect();
        let answer = fixture
            .services
            .consensus
            .read(|state| wanted(state, &agent, &all, None));
        let pages: Vec<_> = answer
            .iter()
            .map(|page| (page.entries.len(), page.more))
            .collect();
        assert_eq!(pages, [(WHOLE_MAX, true), (1, false)]);

        let agent_id = agent.to_string();
        fixture
            .apply(command::Body::BanAgent(BanAgent { agent_id }))
            .await;
        let banned = fixture
            .services
            .consensus
            .read(|state| wanted(state, &agent, &all, None));
        assert_eq!((banned.len(), banned[0].entries.len()), (1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn entries_that_do_not_fit_into_a_message_come_in_pages() {
        let (fixture, agent) = agent_with(WHOLE_MAX, 4_096).await;
        let mask = EntryMask {
            selectors: true,
            ..EntryMask::default()
        };
        let opened = fixture
            .services
            .consensus
            .read(|state| opening(state, &agent, Some(&mask)));
        assert_eq!(opened.len(), 1);
        assert!(opened[0].entries.is_empty() && opened[0].encoded_len() < PAGE_BYTES_MAX);
        let asked: Vec<String> = (0..WHOLE_MAX)
            .map(|number| format!("e{number:05}"))
            .collect();
        let pages = fixture
            .services
            .consensus
            .read(|state| wanted(state, &agent, &asked, Some(&mask)));
        assert!(
            pages
                .iter()
                .all(|page| page.encoded_len() < PAGE_BYTES_MAX + 8_192)
        );
        assert_eq!(pages.iter().flat_map(ids).collect::<Vec<_>>(), asked);
    }
}
