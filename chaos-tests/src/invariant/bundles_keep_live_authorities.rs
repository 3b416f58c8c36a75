//! P6: a bundle loses an authority only after its last SVID expired, or by revocation (reliability
//! reference, invariant 14). Checked against the SVIDs that workloads hold.

use mintmark_proto::mintmark::state::v1::AuthorityState;

use super::{Invariant, Seen};

/// The property.
#[derive(Default)]
pub struct BundlesKeepLiveAuthorities {
    checked: std::collections::BTreeMap<String, u64>,
}

impl Invariant for BundlesKeepLiveAuthorities {
    fn name(&self) -> &'static str {
        "bundles keep live authorities"
    }

    fn after_step(&mut self, seen: Seen<'_>) -> Result<(), String> {
        for (name, view) in seen.servers.servers() {
            if self.checked.insert(name.clone(), view.bundle_sequence) == Some(view.bundle_sequence)
            {
                continue;
            }
            let retired: Vec<&str> = view
                .authorities
                .iter()
                .filter(|authority| authority.state() == AuthorityState::Retired)
                .map(|authority| authority.id.as_str())
                .collect();
            let held = seen.world.oracle.held.values().flatten();
            for svid in held.filter_map(|held| held.verified.as_ref().ok()) {
                let end = svid.validity.not_after.unix_millis();
                if retired.contains(&svid.authority_id.as_str()) && end > view.command_time_ms {
                    return Err(format!(
                        "{name} retired {} while a workload holds {} of it until {}",
                        svid.authority_id, svid.spiffe_id, svid.validity.not_after
                    ));
                }
            }
        }
        Ok(())
    }
}
