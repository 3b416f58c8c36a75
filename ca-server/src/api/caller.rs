//! Who is at the other end of a request.
//!
//! Always: the private Unix socket is the local administrator; over TCP a caller is what its certificate
//! chain says when it is verified again, now, against the bundle of now. A handshake of an hour ago
//! proves nothing.
//!
//! Not here: what the caller may do (`policy`).

use mintmark_identity::bundle::BundleSet;
use mintmark_identity::clock::Timestamp;
use mintmark_identity::svid::x509::{Serial, Usage, VerifiedX509Svid, verify_x509_svid};
use mintmark_runtime::grpc::ConnectInfo;
use mintmark_runtime::network::Peer;

use crate::policy::permit::Standing;
use crate::policy::{AgentDenial, Caller};
use crate::state::State;

/// Resolves the caller of a request.
#[must_use]
pub fn resolve(info: Option<&ConnectInfo>, state: &State, now: Timestamp) -> Caller {
    let Some(info) = info else {
        return Caller::nobody("unknown".to_owned());
    };
    let source = match &info.peer {
        Peer::Unix(_) => return Caller::local(),
        Peer::Tcp(address) => address.ip().to_string(),
    };
    if info.peer_certificates.is_empty() {
        return Caller::nobody(source);
    }
    let mut bundles = BundleSet::new();
    if let Some(bundle) = state.own_bundle() {
        bundles.insert(bundle);
    }
    match verify_x509_svid(&info.peer_certificates, &bundles, now, Usage::Client) {
        Ok(svid) => {
            let standing = standing(&svid, state, now);
            Caller::verified(&svid, standing, source)
        }
        Err(error) => Caller::lapsed(error.to_string(), source),
    }
}

/// What the state knows of a verified SVID.
fn standing(svid: &VerifiedX509Svid, state: &State, now: Timestamp) -> Standing {
    let id = &svid.spiffe_id;
    let live = |expires_at: Option<Timestamp>| expires_at.is_none_or(|end| now < end);
    let mut standing = Standing {
        admin: false,
        downstream: false,
        agent: None,
    };
    for entry in state
        .entries_by_spiffe_id(id)
        .filter(|entry| live(entry.expires_at))
    {
        standing.admin |= entry.admin;
        standing.downstream |= entry.downstream;
    }
    standing.agent = id.is_agent().then(|| agent_standing(svid, state));
    standing
}

/// An agent counts with the SVID it was last given, and with the one before until it was seen with that.
fn agent_standing(svid: &VerifiedX509Svid, state: &State) -> Result<Serial, AgentDenial> {
    let node = state
        .attested_node(&svid.spiffe_id)
        .ok_or(AgentDenial::NotAttested)?;
    if node.banned {
        return Err(AgentDenial::Banned);
    }
    // A serial number of another form is none that we gave.
    let shown: Serial = svid.serial.parse().map_err(|_| AgentDenial::NotActive)?;
    let bytes = shown.as_bytes().as_slice();
    if node.current_serial == bytes || node.pending_serial == bytes {
        Ok(shown)
    } else {
        Err(AgentDenial::NotActive)
    }
}
