//! What must hold for any bytes that come to a server as a request of its API.
//!
//! Responsible for: one function per fuzz target, which panics when its property is broken.
//! Always holds: the functions are deterministic, so an input that failed once fails again.
//! Not here: the fuzzer. `proto/tests/fuzz_seeds.rs` runs the same functions over the seeds.

use mintmark_identity::bundle::Bundle;
use mintmark_identity::clock::Timestamp;
use mintmark_identity::entry::{EntryId, RegistrationEntry};
use mintmark_identity::selector::Selector;
use mintmark_identity::spiffe_id::SpiffeId;
use mintmark_proto::convert::bundle::{bundle_from_agent, bundle_to_agent, bundle_to_spire};
use mintmark_proto::convert::entry::{
    entry_from_spire, entry_to_spire, mask_spire_entry, requested_entry, requested_id,
    updated_entry,
};
use mintmark_proto::mintmark::agent::v1 as agent;
use mintmark_proto::mintmark::state::v1 as state;
use mintmark_proto::spire::entry::{BatchUpdateEntryRequest, ListEntriesRequest};
use mintmark_proto::spire::types;
use prost::Message;

/// An entry that is taken is shown as it was taken, kept as it was taken, and changed in nothing but what
/// an update names.
pub fn api_entry(data: &[u8]) {
    if let Ok(wire) = types::Entry::decode(data) {
        if let Ok(entry) = entry_from_spire(&wire) {
            kept(&entry);
            let mut shown = entry_to_spire(&entry, None);
            assert_eq!(entry_from_spire(&shown).ok().as_ref(), Some(&entry));
            mask_spire_entry(&mut shown, &types::EntryMask::default());
            assert_eq!(shown.id, entry.id.as_str());
        }
        let id = EntryId::parse("e");
        if let (Ok(_), Ok(id)) = (requested_id(&wire), id)
            && let Ok(entry) = requested_entry(&wire, id, Timestamp::from_unix_secs(1_800_000_000))
        {
            kept(&entry);
        }
    }
    if let Ok(request) = BatchUpdateEntryRequest::decode(data) {
        for pair in request.entries.windows(2) {
            let Ok(current) = entry_from_spire(&pair[0]) else {
                continue;
            };
            let nothing = types::EntryMask::default();
            let unchanged = updated_entry(&current, &pair[1], Some(&nothing));
            assert_eq!(unchanged.ok().as_ref(), Some(&current));
            let mask = request.input_mask.as_ref();
            if let Ok(updated) = updated_entry(&current, &pair[1], mask) {
                kept(&updated);
                assert_eq!(
                    (&updated.id, updated.revision),
                    (&current.id, current.revision)
                );
            }
        }
    }
    // What filters hold is parsed piece by piece.
    if let Ok(ListEntriesRequest {
        filter: Some(filter),
        ..
    }) = ListEntriesRequest::decode(data)
    {
        for id in [&filter.by_spiffe_id, &filter.by_parent_id]
            .into_iter()
            .flatten()
        {
            spiffe_id(id);
        }
        for wire in filter.by_selectors.iter().flat_map(|by| &by.selectors) {
            if let Ok(selector) = Selector::try_from(wire) {
                assert_eq!(Selector::parse(&selector.to_string()), Ok(selector));
            }
        }
    }
}

/// The replicated form of an entry loses nothing.
fn kept(entry: &RegistrationEntry) {
    let kept = state::Entry::from(entry);
    assert_eq!(
        RegistrationEntry::try_from(&kept).ok().as_ref(),
        Some(entry)
    );
}

fn spiffe_id(wire: &types::Spiffeid) {
    if let Ok(id) = SpiffeId::try_from(wire) {
        assert_eq!(types::Spiffeid::from(&id), *wire);
    }
}

/// A bundle that is taken from a server is one that can be given on, and every key in it can be used.
pub fn api_bundle(data: &[u8]) {
    if let Ok(wire) = types::Bundle::decode(data)
        && let Ok(bundle) = Bundle::try_from(&wire)
    {
        let again = Bundle::try_from(&bundle_to_spire(&bundle, None));
        assert_eq!(again.ok().as_ref(), Some(&bundle));
    }
    if let Ok(wire) = agent::Bundle::decode(data)
        && let Ok((bundle, _)) = bundle_from_agent(&wire)
    {
        let (again, skipped) = match bundle_from_agent(&bundle_to_agent(&bundle)) {
            Ok(read) => read,
            Err(error) => panic!("what was read cannot be read again: {error}"),
        };
        assert!(again == bundle && skipped.is_empty());
    }
    if let Ok(wire) = types::Spiffeid::decode(data) {
        spiffe_id(&wire);
    }
}
