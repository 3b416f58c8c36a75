//! From a server's update on the wire to one that can be applied.
//!
//! Responsible for: parsing and checking every field. Always holds: an entry or foreign bundle
//! that this agent cannot understand is taken as removed, since serving its older form could
//! serve what was withdrawn; without the own bundle an update is refused whole. Not here:
//! applying it (`cache::state`).

use std::{sync::Arc, time::Duration};

use mintmark_identity::{
    bundle::Bundle,
    entry::{EntryId, RegistrationEntry},
    trust_domain::TrustDomain,
};
use mintmark_proto::mintmark::{agent::v1 as pb, state::v1::PqMode};

use crate::{
    cache::state::{BundleChange, Defaults, Position, Update},
    code,
};

/// Why an update cannot be understood.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// It does not say where it leaves the agent.
    #[error("the update has no position")]
    NoPosition,
    /// The bundle of the agent's own trust domain is malformed.
    #[error("the bundle of the own trust domain is malformed")]
    OwnBundle(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Parses an update.
///
/// # Errors
/// When nothing of it can be used.
pub fn update(wire: pb::Update, own: &TrustDomain) -> Result<Update, ConvertError> {
    let position = wire.position.ok_or(ConvertError::NoPosition)?;
    let mut update = Update {
        position: Position {
            epoch: position.epoch,
            index: position.index,
        },
        complete: wire.complete,
        tainted: wire.tainted_authorities.into_iter().collect(),
        defaults: wire.defaults.map(defaults),
        ..Update::default()
    };
    for id in wire.removed_entry_ids {
        if let Ok(id) = EntryId::parse(id) {
            update.removed_entries.push(id);
        }
    }
    for wire in &wire.entries {
        match entry(wire, own) {
            Ok(entry) => update.entries.push(entry),
            Err(error) => {
                tracing::error!(
                    entry_id = wire.id, error, code = %code::SERVER_MISBEHAVED,
                    "an entry is not understood and not served"
                );
                update
                    .removed_entries
                    .extend(EntryId::parse(wire.id.as_str()));
            }
        }
    }
    for name in &wire.removed_bundles {
        update
            .removed_bundles
            .extend(TrustDomain::from_id_or_name(name));
    }
    for wire in wire.bundles {
        bundle(&wire, own, &mut update)?;
    }
    Ok(update)
}

fn entry(
    wire: &mintmark_proto::mintmark::state::v1::Entry,
    own: &TrustDomain,
) -> Result<RegistrationEntry, String> {
    let entry = RegistrationEntry::try_from(wire).map_err(|error| error.explain())?;
    entry.validate(own).map_err(|error| error.to_string())?;
    Ok(entry)
}

fn bundle(wire: &pb::Bundle, own: &TrustDomain, update: &mut Update) -> Result<(), ConvertError> {
    let Ok(domain) = TrustDomain::from_id_or_name(&wire.trust_domain) else {
        tracing::error!(
            trust_domain = wire.trust_domain,
            "a bundle has no usable name"
        );
        return Ok(());
    };
    match Bundle::from_document(&domain, &wire.document) {
        Ok((bundle, skipped)) => {
            for key in skipped {
                tracing::warn!(trust_domain = %domain, ?key, "a key of a bundle is not understood");
            }
            let bundle = Arc::new(bundle);
            update.bundles.push(BundleChange {
                bundle,
                sequence: wire.sequence,
            });
        }
        Err(error) if domain == *own => return Err(ConvertError::OwnBundle(Box::new(error))),
        Err(error) => {
            tracing::error!(trust_domain = %domain, %error, "a foreign bundle is not understood");
            update.removed_bundles.push(domain);
        }
    }
    Ok(())
}

fn defaults(wire: pb::Defaults) -> Defaults {
    let ttl = |seconds: u64| (seconds != 0).then(|| Duration::from_secs(seconds));
    Defaults {
        x509_svid_ttl: ttl(wire.x509_svid_ttl_seconds),
        jwt_svid_ttl: ttl(wire.jwt_svid_ttl_seconds),
        hybrid: wire.pq() == PqMode::Hybrid,
        servers: wire.servers,
    }
}

#[cfg(test)]
mod tests;
