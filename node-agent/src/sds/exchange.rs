//! One Envoy stream: requests, acknowledgements and refusals on one side, secrets on the other.
//!
//! Responsible for: versions, nonces and what each request means. Always holds: an answer goes
//! out when it differs from the last one or other names are asked for, and never because of an
//! acknowledgement; a request with another nonce than the last is out of date and ignored; a
//! stream without identity waits. Not here: the secrets (`secrets`).

use std::sync::Arc;

use mintmark_identity::entropy::draw_bytes;
use mintmark_proto::envoy::{
    extensions::transport_sockets::tls::v3::Secret,
    service::discovery::v3::{DiscoveryRequest, DiscoveryResponse},
};
use prost::Name;
use tokio::sync::watch;
use tokio_stream::StreamExt;
use tonic::{Code, Status, Streaming};

use super::secrets::{Envoy, Names, Wanted, any, check_type, secrets};
use crate::{
    cache::{Want, state::State},
    status,
    surface::{Caller, Messages, Slot, Surface},
};

/// Both directions of one stream.
pub struct Exchange {
    surface: Surface,
    caller: Caller,
    names: Arc<Names>,
    changes: watch::Receiver<Arc<State>>,
    want: Option<Want>,
    asked: Option<(Wanted, Envoy)>,
    sent: Option<Sent>,
    version: u64,
    _slot: Slot,
}

/// The last answer.
struct Sent {
    nonce: String,
    wanted: Wanted,
    secrets: Vec<Secret>,
}

impl Exchange {
    /// A stream on which nothing was asked yet.
    pub fn new(surface: Surface, caller: Caller, slot: Slot, names: Arc<Names>) -> Self {
        let changes = surface.cache.watch();
        Self {
            surface,
            caller,
            names,
            changes,
            want: None,
            asked: None,
            sent: None,
            version: 0,
            _slot: slot,
        }
    }

    /// Answers until Envoy closes its side or may have nothing any more.
    pub fn run(mut self, mut requests: Streaming<DiscoveryRequest>) -> Messages<DiscoveryResponse> {
        Box::pin(async_stream::try_stream! {
            while self.event(&mut requests).await? {
                if let Some(response) = self.answer().await? {
                    yield response;
                }
            }
        })
    }

    /// Answers a single request.
    pub async fn fetch(
        &mut self,
        wanted: Wanted,
        envoy: Envoy,
    ) -> Result<DiscoveryResponse, Status> {
        self.asked = Some((wanted, envoy));
        loop {
            let _identities = self
                .surface
                .entitled(&self.surface.cache.current(), &self.caller)?;
            if let Some(response) = self.answer().await? {
                return Ok(response);
            }
            tokio::select! {
                changed = self.changes.changed() => changed.map_err(|_| status::shutting_down())?,
                () = self.surface.drain.started() => return Err(status::shutting_down()),
            }
        }
    }

    /// Waits for a request or a change. False when Envoy has closed its side.
    async fn event(&mut self, requests: &mut Streaming<DiscoveryRequest>) -> Result<bool, Status> {
        tokio::select! {
            request = requests.next() => match request {
                None => return Ok(false),
                Some(request) => self.take(request?)?,
            },
            changed = self.changes.changed() => changed.map_err(|_| status::shutting_down())?,
            () = self.surface.drain.started() => return Err(status::shutting_down()),
        }
        Ok(true)
    }

    fn take(&mut self, request: DiscoveryRequest) -> Result<(), Status> {
        check_type(&request.type_url)?;
        let last = self.sent.as_ref().map(|sent| sent.nonce.as_str());
        if !request.response_nonce.is_empty() && last != Some(request.response_nonce.as_str()) {
            // It speaks of an answer that is not the last: another request follows.
            return Ok(());
        }
        if let Some(error) = &request.error_detail {
            self.surface.metrics.sds_nacks.inc();
            let reason: String = error.message.chars().take(500).collect();
            tracing::warn!(code = error.code, reason, "Envoy refused a secret");
        }
        // Envoy says who it is in the first request only.
        let envoy = match &self.asked {
            Some((_, envoy)) => *envoy,
            None => Envoy::of(request.node.as_ref()),
        };
        self.asked = Some((Wanted::new(request.resource_names), envoy));
        Ok(())
    }

    /// The answer of this moment, if it is a new one.
    async fn answer(&mut self) -> Result<Option<DiscoveryResponse>, Status> {
        let Some((wanted, envoy)) = self.asked.clone() else {
            return Ok(None);
        };
        if !self.differs(&wanted, envoy)? {
            return Ok(None);
        }
        // Before each push the process is looked at again, and before the first if that waited.
        if self.sent.is_some() || self.caller.is_stale() {
            self.surface.renew(&mut self.caller).await?;
        }
        let Some(secrets) = self.look(&wanted, envoy)? else {
            return Ok(None);
        };
        self.version = self.version.saturating_add(1);
        let nonce = hex::encode(draw_bytes::<4>(self.surface.host.entropy.as_ref()));
        let response = DiscoveryResponse {
            version_info: self.version.to_string(),
            resources: secrets.iter().map(any).collect(),
            type_url: Secret::type_url(),
            nonce: nonce.clone(),
        };
        self.surface.metrics.pushes.inc();
        self.sent = Some(Sent {
            nonce,
            wanted,
            secrets,
        });
        Ok(Some(response))
    }

    fn differs(&mut self, wanted: &Wanted, envoy: Envoy) -> Result<bool, Status> {
        let Some(secrets) = self.look(wanted, envoy)? else {
            return Ok(false);
        };
        let same = |sent: &Sent| sent.wanted == *wanted && sent.secrets == secrets;
        Ok(!self.sent.as_ref().is_some_and(same))
    }

    /// The secrets of this moment; `None` while there is nothing to say yet.
    fn look(&mut self, wanted: &Wanted, envoy: Envoy) -> Result<Option<Vec<Secret>>, Status> {
        let state = Arc::clone(&self.changes.borrow_and_update());
        let identities = match self.surface.entitled(&state, &self.caller) {
            Ok(identities) => identities,
            // An Envoy that was never given anything waits for its entry. One that loses what
            // it was given is told by the end of its stream.
            Err(status) if self.sent.is_none() && waits_for(&status) => return Ok(None),
            Err(status) => return Err(status),
        };
        let ids = identities
            .iter()
            .map(|identity| identity.held.entry.id.clone())
            .collect();
        if !self.want.as_ref().is_some_and(|want| want.is_for(&ids)) {
            self.want = Some(self.surface.cache.want(ids));
        }
        secrets(&state, &identities, wanted, &self.names, envoy)
    }
}

fn waits_for(status: &Status) -> bool {
    matches!(status.code(), Code::PermissionDenied | Code::Unavailable)
}
