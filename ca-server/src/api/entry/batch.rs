//! Batches of changes: what became of each item.
//!
//! Always: there is one outcome for each item, in the order of the request; an item that is refused
//! before it is proposed does not spoil the others; a batch that is too long for one command becomes
//! several, and when one of them fails its items say so.
//!
//! Not here: what an item asks for (`api::entry`), and what is decided (`state::entries`).

use std::sync::Arc;

use mintmark_identity::entropy::{Entropy, draw_uuid};
use mintmark_identity::entry::{EntryId, RegistrationEntry};
use mintmark_proto::convert::entry::entry_to_spire;
use mintmark_proto::mintmark::raft::v1::{Actor, ItemResult, Refusal, command};
use mintmark_proto::spire::types;
use prost::Message;
use sha2::{Digest as _, Sha256};

use crate::api::Shared;
use crate::api::status::ApiError;

/// Items in one request, and in one command.
pub(super) const ITEMS_MAX: usize = 1_000;
/// Bytes of items in one command, about: half of what the log takes.
const COMMAND_BYTES_MAX: usize = 512 * 1024;

/// What became of one item.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It was not decided, or not in time to know.
    Failed(Arc<ApiError>),
    /// It was decided.
    Decided(Box<ItemResult>),
}

impl Outcome {
    /// The status of the item, and the entry as it stands.
    pub(super) fn shown(
        &self,
        mask: Option<&types::EntryMask>,
    ) -> (types::Status, Option<types::Entry>) {
        match self {
            Self::Failed(error) => (error.item(), None),
            Self::Decided(item) => {
                let entry = item.entry.as_ref().and_then(|entry| {
                    let entry = RegistrationEntry::try_from(entry).ok()?;
                    Some(entry_to_spire(&entry, mask))
                });
                let status = match item.refusal() {
                    Refusal::Unspecified => types::Status {
                        code: 0,
                        message: "OK".to_owned(),
                    },
                    refusal => ApiError::Refused {
                        refusal,
                        detail: item.detail.clone(),
                    }
                    .item(),
                };
                (status, entry)
            }
        }
    }

    /// Whether it was made from something that changed meanwhile.
    pub(super) fn is_stale(&self) -> bool {
        matches!(self, Self::Decided(item) if item.refusal() == Refusal::Stale)
    }
}

/// Refuses a batch that is too long.
pub(super) fn check_length(items: usize) -> Result<(), ApiError> {
    if items > ITEMS_MAX {
        return Err(ApiError::TooLarge {
            what: "the batch",
            limit: ITEMS_MAX,
        });
    }
    Ok(())
}

/// Where ids of new entries come from. With an idempotency key they follow from it, so that a repeated
/// request is the same one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ids<'a> {
    /// Randomness.
    pub(super) entropy: &'a dyn Entropy,
    /// The request's key.
    pub(super) key: Option<[u8; 16]>,
}

impl Ids<'_> {
    /// The id for the item at this position.
    pub(super) fn id(&self, position: usize) -> Result<EntryId, ApiError> {
        let text = match self.key {
            None => draw_uuid(self.entropy),
            Some(key) => uuid(derived(&key, "entry id", position)),
        };
        EntryId::parse(&text).map_err(|error| ApiError::invalid("id", error))
    }
}

/// The text form of 16 bytes as a UUID that somebody made up (version 8).
fn uuid(mut bytes: [u8; 16]) -> String {
    let [_, _, _, _, _, _, version, _, variant, ..] = &mut bytes;
    *version = *version & 0x0f | 0x80;
    *variant = *variant & 0x3f | 0x80;
    let mut text = hex::encode(bytes);
    for dash in [20, 16, 12, 8] {
        text.insert(dash, '-');
    }
    text
}

fn derived(key: &[u8; 16], purpose: &str, position: usize) -> [u8; 16] {
    let mut hasher = Sha256::new();
    hasher.update(purpose.as_bytes());
    hasher.update([0]);
    hasher.update(key);
    hasher.update((position as u64).to_be_bytes());
    let mut bytes = [0; 16];
    for (to, from) in bytes.iter_mut().zip(hasher.finalize()) {
        *to = from;
    }
    bytes
}

impl Shared {
    /// Proposes the items that are acceptable, in as many commands as they need, and puts what was
    /// decided back into the order of the request.
    ///
    /// # Errors
    /// When no item was decided.
    pub(super) async fn propose_items<T: Message>(
        &self,
        actor: &Actor,
        key: Option<[u8; 16]>,
        asked: Vec<Result<T, ApiError>>,
        body: impl Fn(Vec<T>) -> command::Body + Send,
    ) -> Result<Vec<Outcome>, ApiError> {
        let (acceptable, places) = sort(asked);
        let parts = parts(acceptable);
        let only_part = parts.len() == 1;
        let mut decided = Vec::new();
        for (number, part) in parts.into_iter().enumerate() {
            let count = part.len();
            let key = match number {
                0 => key,
                _ => key.map(|key| derived(&key, "part of a batch", number)),
            };
            match self.propose(actor.clone(), body(part), key).await {
                Ok(proposed) => {
                    let items = proposed.result.items.into_iter().map(Box::new);
                    decided.extend(items.map(Outcome::Decided));
                }
                Err(error) if only_part => return Err(error),
                Err(error) => {
                    let error = Arc::new(error);
                    decided.extend((0..count).map(|_| Outcome::Failed(Arc::clone(&error))));
                }
            }
        }
        merge(places, decided)
    }
}

/// Takes out the items that are acceptable; in their places nothing is left.
fn sort<T>(asked: Vec<Result<T, ApiError>>) -> (Vec<T>, Vec<Option<ApiError>>) {
    let mut acceptable = Vec::new();
    let places = asked.into_iter().map(|item| match item {
        Ok(item) => {
            acceptable.push(item);
            None
        }
        Err(error) => Some(error),
    });
    let places = places.collect();
    (acceptable, places)
}

/// Cuts items into parts that fit into a command. An item that does not fit is a part of its own: the
/// log says no to it.
fn parts<T: Message>(items: Vec<T>) -> Vec<Vec<T>> {
    let mut parts: Vec<Vec<T>> = Vec::new();
    let mut bytes = 0_usize;
    for item in items {
        let length = item.encoded_len();
        let fits = bytes.saturating_add(length) <= COMMAND_BYTES_MAX;
        match parts.last_mut().filter(|_| fits) {
            Some(part) => part.push(item),
            None => {
                bytes = 0;
                parts.push(vec![item]);
            }
        }
        bytes = bytes.saturating_add(length);
    }
    parts
}

/// Puts what was decided into the places that nothing refused.
fn merge(places: Vec<Option<ApiError>>, decided: Vec<Outcome>) -> Result<Vec<Outcome>, ApiError> {
    let mut decided = decided.into_iter();
    let merged = places.into_iter().map(|refused| match refused {
        Some(error) => Ok(Outcome::Failed(Arc::new(error))),
        None => decided
            .next()
            .ok_or_else(|| ApiError::Internal("the result of an item is missing".to_owned())),
    });
    merged.collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

    use mintmark_identity::entropy::SeededEntropy;

    use super::*;

    #[test]
    fn a_long_batch_becomes_several_commands() {
        let lengths = |items: &[usize]| -> Vec<usize> {
            let items = items.iter().map(|length| "x".repeat(*length)).collect();
            parts::<String>(items).iter().map(Vec::len).collect()
        };
        assert_eq!(lengths(&[]), [0; 0]);
        assert_eq!(lengths(&[10; 1_000]), [1_000]);
        assert_eq!(lengths(&[200 * 1024; 5]), [2, 2, 1]);
        let long = COMMAND_BYTES_MAX + 1;
        assert_eq!(lengths(&[1, long, 1, 1]), [1, 1, 2]);
    }

    #[test]
    fn outcomes_come_in_the_order_of_the_request() {
        let asked = vec![
            Err(ApiError::invalid("id", "is wrong")),
            Ok("a".to_owned()),
            Err(ApiError::invalid("id", "is wrong too")),
            Ok("b".to_owned()),
        ];
        let (acceptable, places) = sort(asked);
        assert_eq!(acceptable, ["a", "b"]);
        let item = |leaf_index| {
            Outcome::Decided(Box::new(ItemResult {
                leaf_index,
                ..ItemResult::default()
            }))
        };
        let merged = merge(places, vec![item(7), item(8)]).unwrap();
        let codes: Vec<i32> = merged
            .iter()
            .map(|outcome| outcome.shown(None).0.code)
            .collect();
        assert_eq!(codes, [3, 0, 3, 0]);
        assert!(matches!(&merged[3], Outcome::Decided(item) if item.leaf_index == 8));
        let (_, places) = sort(vec![Ok("a".to_owned()), Ok("b".to_owned())]);
        assert!(
            merge(places, vec![item(7)]).is_err(),
            "a missing result is not made up"
        );
    }

    #[test]
    fn a_repeated_request_has_the_same_ids_and_another_one_others() {
        let entropy = SeededEntropy::new(1);
        let with = |key| Ids {
            entropy: &entropy,
            key,
        };
        let id = |key: Option<[u8; 16]>, position| with(key).id(position).unwrap().to_string();
        assert_eq!(id(Some([1; 16]), 3), id(Some([1; 16]), 3));
        assert_ne!(id(Some([1; 16]), 3), id(Some([1; 16]), 4));
        assert_ne!(id(Some([1; 16]), 3), id(Some([2; 16]), 3));
        assert_ne!(id(None, 0), id(None, 0));
        let made = id(Some([1; 16]), 0);
        let dashes: Vec<usize> = made.match_indices('-').map(|(at, _)| at).collect();
        assert_eq!((made.len(), dashes), (36, vec![8, 13, 18, 23]), "{made}");
        assert_eq!(&made[14..15], "8");
    }
}
