//! SPIRE's `Entry` service.
//!
//! Always: a batch gives one result for each item, in order, and a bad item does not spoil the others;
//! what an agent may read is what it may serve.
//!
//! Not here: the rules of entries (`mintmark_identity::entry`, `state::entries`).

mod batch;
mod select;
mod sync;

use mintmark_identity::clock::Timestamp;
use mintmark_identity::entry::{EntryId, RegistrationEntry};
use mintmark_proto::convert::entry::{
    entry_to_spire, requested_entry, requested_id, updated_entry,
};
use mintmark_proto::mintmark::raft::v1::{
    Actor, CreateEntries, DeleteEntries, UpdateEntries, command, update_entries,
};
use mintmark_proto::spire::entry as wire;
use mintmark_proto::spire::types;
use tonic::{Request, Response, Status, Streaming};

use self::batch::{Ids, Outcome, check_length};
use self::select::Filter;
use super::filter::Page;
use super::status::ApiError;
use super::{Services, idempotency_key};
use crate::policy::Action;

/// An update that met a change of the same entry is made again so often.
const ATTEMPTS: u32 = 4;

/// The service.
#[derive(Debug, Clone)]
pub struct EntryService(pub Services);

#[tonic::async_trait]
impl wire::entry_server::Entry for EntryService {
    async fn count_entries(
        &self,
        request: Request<wire::CountEntriesRequest>,
    ) -> Result<Response<wire::CountEntriesResponse>, Status> {
        let _permit = self.0.permit(&request, Action::CountEntries).await?;
        self.0.fresh_enough(&request).await?;
        let filter = Filter::of_count(request.get_ref().filter.as_ref())?;
        let count = self
            .0
            .consensus
            .read(|state| filter.select(state, None).count());
        let count = i32::try_from(count).unwrap_or(i32::MAX);
        Ok(Response::new(wire::CountEntriesResponse { count }))
    }

    async fn list_entries(
        &self,
        request: Request<wire::ListEntriesRequest>,
    ) -> Result<Response<wire::ListEntriesResponse>, Status> {
        let _permit = self.0.permit(&request, Action::ListEntries).await?;
        self.0.fresh_enough(&request).await?;
        let request = request.get_ref();
        let filter = Filter::of_list(request.filter.as_ref())?;
        let page = Page::from_wire(request.page_size, &request.page_token)?;
        let after = (!page.after.is_empty())
            .then(|| EntryId::parse(&page.after))
            .transpose();
        let after = after.map_err(|error| ApiError::invalid("page_token", error))?;
        let mask = request.output_mask.as_ref();
        let (entries, next_page_token) = self.0.consensus.read(|state| {
            let passing = filter.select(state, after.as_ref());
            let (entries, next) = page.take(passing, |entry| entry.id.as_str());
            let shown = entries
                .into_iter()
                .map(|entry| entry_to_spire(entry, mask))
                .collect();
            (shown, next)
        });
        Ok(Response::new(wire::ListEntriesResponse {
            entries,
            next_page_token,
        }))
    }

    async fn get_entry(
        &self,
        request: Request<wire::GetEntryRequest>,
    ) -> Result<Response<types::Entry>, Status> {
        let _permit = self.0.permit(&request, Action::GetEntry).await?;
        self.0.fresh_enough(&request).await?;
        let request = request.get_ref();
        let id = parse_id(&request.id)?;
        let mask = request.output_mask.as_ref();
        let found = self
            .0
            .consensus
            .read(|state| state.entry(&id).map(|entry| entry_to_spire(entry, mask)));
        Ok(Response::new(found.ok_or_else(|| no_entry(&id))?))
    }

    async fn batch_create_entry(
        &self,
        request: Request<wire::BatchCreateEntryRequest>,
    ) -> Result<Response<wire::BatchCreateEntryResponse>, Status> {
        let (_, permit) = self.0.permit(&request, Action::BatchCreateEntry).await?;
        let key = idempotency_key(&request)?;
        let request = request.get_ref();
        check_length(request.entries.len())?;
        let ids = Ids {
            entropy: self.0.host.entropy.as_ref(),
            key,
        };
        let wanted = request.entries.iter().enumerate();
        let asked = wanted
            .map(|(position, entry)| Ok((&self.requested(entry, || ids.id(position))?).into()));
        let body = |entries| command::Body::CreateEntries(CreateEntries { entries });
        let asked = asked.collect();
        let outcomes = self
            .0
            .propose_items(permit.actor(), key, asked, body)
            .await?;
        let mask = request.output_mask.as_ref();
        let result = |outcome: Outcome| {
            let (status, entry) = outcome.shown(mask);
            wire::batch_create_entry_response::Result {
                status: Some(status),
                entry,
            }
        };
        let results = outcomes.into_iter().map(result).collect();
        Ok(Response::new(wire::BatchCreateEntryResponse { results }))
    }

    /// Takes no notice of an idempotency key: what is asked for depends on the entry as it stands,
    /// and asking twice comes to the same.
    async fn batch_update_entry(
        &self,
        request: Request<wire::BatchUpdateEntryRequest>,
    ) -> Result<Response<wire::BatchUpdateEntryResponse>, Status> {
        let (_, permit) = self.0.permit(&request, Action::BatchUpdateEntry).await?;
        let request = request.get_ref();
        check_length(request.entries.len())?;
        let outcomes = self.update(permit.actor(), request).await?;
        let mask = request.output_mask.as_ref();
        let result = |outcome: Outcome| {
            let (status, entry) = outcome.shown(mask);
            wire::batch_update_entry_response::Result {
                status: Some(status),
                entry,
            }
        };
        let results = outcomes.into_iter().map(result).collect();
        Ok(Response::new(wire::BatchUpdateEntryResponse { results }))
    }

    async fn batch_delete_entry(
        &self,
        request: Request<wire::BatchDeleteEntryRequest>,
    ) -> Result<Response<wire::BatchDeleteEntryResponse>, Status> {
        let (_, permit) = self.0.permit(&request, Action::BatchDeleteEntry).await?;
        let key = idempotency_key(&request)?;
        let ids = &request.get_ref().ids;
        check_length(ids.len())?;
        let asked = ids
            .iter()
            .map(|id| parse_id(id).map(|id| id.to_string()))
            .collect();
        let body = |ids| command::Body::DeleteEntries(DeleteEntries { ids });
        let outcomes = self
            .0
            .propose_items(permit.actor(), key, asked, body)
            .await?;
        let result = |(outcome, id): (Outcome, &String)| {
            let (status, _) = outcome.shown(None);
            let status = Some(status);
            wire::batch_delete_entry_response::Result {
                status,
                id: id.clone(),
            }
        };
        let results = outcomes.into_iter().zip(ids).map(result).collect();
        Ok(Response::new(wire::BatchDeleteEntryResponse { results }))
    }

    async fn get_authorized_entries(
        &self,
        request: Request<wire::GetAuthorizedEntriesRequest>,
    ) -> Result<Response<wire::GetAuthorizedEntriesResponse>, Status> {
        let (_, permit) = self
            .0
            .permit(&request, Action::GetAuthorizedEntries)
            .await?;
        let agent = permit.agent().ok_or_else(no_agent)?;
        self.0.fresh()?;
        let mask = request.get_ref().output_mask.as_ref();
        let entries = self.0.consensus.read(|state| {
            let entries = state.authorized_entries(&agent.id);
            entries
                .into_iter()
                .map(|entry| entry_to_spire(entry, mask))
                .collect()
        });
        Ok(Response::new(wire::GetAuthorizedEntriesResponse {
            entries,
        }))
    }

    async fn sync_authorized_entries(
        &self,
        request: Request<Streaming<wire::SyncAuthorizedEntriesRequest>>,
    ) -> Result<Response<sync::ResponseStream>, Status> {
        let (_, permit) = self
            .0
            .permit(&request, Action::SyncAuthorizedEntries)
            .await?;
        let agent = permit.agent().ok_or_else(no_agent)?.id.clone();
        Ok(Response::new(sync::respond(
            self.0.clone(),
            agent,
            request.into_inner(),
        )))
    }
}

impl EntryService {
    fn requested(
        &self,
        entry: &types::Entry,
        draw: impl FnOnce() -> Result<EntryId, ApiError>,
    ) -> Result<RegistrationEntry, ApiError> {
        let id = match requested_id(entry)? {
            Some(id) => id,
            None => draw()?,
        };
        // The command's time will be the entry's.
        let entry = requested_entry(entry, id, Timestamp::UNIX_EPOCH)?;
        self.validate(&entry)?;
        Ok(entry)
    }

    /// Changes entries; those that changed meanwhile are looked at again.
    async fn update(
        &self,
        actor: &Actor,
        request: &wire::BatchUpdateEntryRequest,
    ) -> Result<Vec<Outcome>, ApiError> {
        let body = |updates| command::Body::UpdateEntries(UpdateEntries { updates });
        if !request.entries.iter().all(|entry| self.knows(entry)) {
            // Another server may have acknowledged an entry that has not arrived here yet: what was
            // acknowledged anywhere is not said to be absent.
            let read = self.0.consensus.read_index().await;
            read.map_err(|_| ApiError::Stale)?;
        }
        let asked = request.entries.iter();
        let asked = asked
            .map(|entry| self.updated(entry, request.input_mask.as_ref()))
            .collect();
        let mut outcomes = self.0.propose_items(actor, None, asked, body).await?;
        for _ in 1..ATTEMPTS {
            let mut stale: Vec<(&mut Outcome, &types::Entry)> = outcomes
                .iter_mut()
                .zip(&request.entries)
                .filter(|(outcome, _)| outcome.is_stale())
                .collect();
            if stale.is_empty() {
                break;
            }
            let again = stale.iter().map(|(_, entry)| entry);
            let again = again.map(|entry| self.updated(entry, request.input_mask.as_ref()));
            let again = self
                .0
                .propose_items(actor, None, again.collect(), body)
                .await;
            // What was decided the first time is told; these items stay stale.
            let Ok(decided) = again else { break };
            for ((outcome, _), decided) in stale.iter_mut().zip(decided) {
                **outcome = decided;
            }
        }
        Ok(outcomes)
    }

    /// Whether the entry that an update names is in the state here; true of an update that names none.
    fn knows(&self, update: &types::Entry) -> bool {
        let id = parse_id(&update.id);
        id.is_err() || id.is_ok_and(|id| self.0.consensus.read(|state| state.entry(&id).is_some()))
    }

    fn updated(
        &self,
        update: &types::Entry,
        mask: Option<&types::EntryMask>,
    ) -> Result<update_entries::Update, ApiError> {
        let id = parse_id(&update.id)?;
        let current = self.0.consensus.read(|state| state.entry(&id).cloned());
        let current = current.ok_or_else(|| no_entry(&id))?;
        let entry = updated_entry(&current, update, mask)?;
        self.validate(&entry)?;
        Ok(update_entries::Update {
            expected_revision: current.revision,
            entry: Some((&entry).into()),
        })
    }

    /// Refuses early, and without a leaf, what every server would refuse.
    fn validate(&self, entry: &RegistrationEntry) -> Result<(), ApiError> {
        self.0.consensus.read(|state| {
            let domain = state
                .trust_domain()
                .ok_or(ApiError::NotReady("no cluster yet"))?;
            entry
                .validate(domain)
                .map_err(|error| ApiError::invalid("entry", error))
        })
    }
}

fn parse_id(text: &str) -> Result<EntryId, ApiError> {
    EntryId::parse(text).map_err(|error| ApiError::invalid("id", error))
}

fn no_entry(id: &EntryId) -> ApiError {
    ApiError::NotFound {
        what: format!("entry {id}"),
    }
}

/// An agent's permit always names the agent.
pub(super) fn no_agent() -> ApiError {
    ApiError::Internal("a permit for agents names no agent".to_owned())
}

#[cfg(test)]
mod tests;
