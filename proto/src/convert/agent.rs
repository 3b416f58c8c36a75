//! Attested nodes.
//!
//! Responsible for: a node's record as SPIRE's API shows it.
//! Always holds: an absent mask means every field; the ID is always shown; a
//! banned agent shows no serial number, for SPIRE's clients tell a ban by that.
//! Not here: the record itself (`mintmark.state.v1.AttestedNode`).

use mintmark_identity::clock::Timestamp;

use super::ids::{selectors_from_state, selectors_to_spire, spiffe_id};
use super::{ConvertError, Reason};
use crate::mintmark::state::v1::AttestedNode;
use crate::spire::types;

/// The longest serial number in bytes.
const SERIAL_MAX: usize = 16;

/// A node's record as the API shows it, with the fields of `mask`.
///
/// # Errors
/// [`ConvertError`] that names the field of the record.
pub fn agent_to_spire(
    node: &AttestedNode,
    mask: Option<&types::AgentMask>,
) -> Result<types::Agent, ConvertError> {
    let id = spiffe_id("agent_id", &node.agent_id)?;
    let selectors = selectors_from_state("selectors", &node.selectors)?;
    let current = decimal("current_serial", &node.current_serial)?;
    let pending = decimal("pending_serial", &node.pending_serial)?;
    let serial = match (node.banned, current.is_empty()) {
        (true, _) => String::new(),
        (false, true) => pending,
        (false, false) => current,
    };
    let mut agent = types::Agent {
        id: Some((&id).into()),
        attestation_type: node.attestation_type.clone(),
        x509svid_serial_number: serial,
        x509svid_expires_at: Timestamp::from_unix_millis(node.svid_not_after_ms).unix_secs(),
        selectors: selectors_to_spire(&selectors),
        banned: node.banned,
        can_reattest: node.can_reattest,
    };
    if let Some(mask) = mask {
        mask_spire_agent(&mut agent, mask);
    }
    Ok(agent)
}

/// Empties the fields of `agent` that `mask` does not name.
pub fn mask_spire_agent(agent: &mut types::Agent, mask: &types::AgentMask) {
    if !mask.attestation_type {
        agent.attestation_type.clear();
    }
    if !mask.x509svid_serial_number {
        agent.x509svid_serial_number.clear();
    }
    if !mask.x509svid_expires_at {
        agent.x509svid_expires_at = 0;
    }
    if !mask.selectors {
        agent.selectors.clear();
    }
    agent.banned &= mask.banned;
    agent.can_reattest &= mask.can_reattest;
}

/// A serial number as SPIRE prints it: a decimal number; empty for none.
fn decimal(field: &str, serial: &[u8]) -> Result<String, ConvertError> {
    if serial.is_empty() {
        return Ok(String::new());
    }
    if serial.len() > SERIAL_MAX {
        let (actual, limit) = (serial.len(), SERIAL_MAX);
        return Err(ConvertError::new(field, Reason::TooLong { actual, limit }));
    }
    let number = serial
        .iter()
        .fold(0_u128, |number, byte| number << 8 | u128::from(*byte));
    Ok(number.to_string())
}
