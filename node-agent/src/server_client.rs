//! The servers, as one that does not go away while any of them answers.
//!
//! Responsible for: connections to servers, and calls on whichever of them answers. Always holds:
//! a call goes to the server first that answered last, and its rules are those of `asking`; a server
//! that denies the agent is believed when most do, or no other serves it; connections are made anew after
//! the agent's SVID changed, and to a server that did not answer. Not here: the push stream
//! (`sync`), whom to trust (`peer_tls`).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use mintmark_identity::entropy::{Entropy, draw_u64};
use mintmark_proto::mintmark::agent::v1::agent_client::AgentClient;
use mintmark_runtime::{
    Host,
    grpc::{ChannelOptions, Target, channel},
    network::{Address, Network},
    tls::ClientConfigSource,
};
use tonic::{Code, Status, transport::Channel};

pub use self::{
    asking::Failure,
    issuing::{RemoteIssuer, item_result},
};
use self::{
    asking::{CALL_DEADLINE, Seen, first_answer},
    order::Order,
    patience::Patience,
};
use crate::{
    metrics::Metrics,
    status::{explain, is_stranger},
    sync::denial_of,
};

mod asking;
mod issuing;
mod order;
mod patience;

/// The largest answer: an update with every entry of a large agent.
pub const RESPONSE_MAX: usize = 64 << 20;
/// How often a server is probed while calls or the stream of updates are open, and how long it may
/// take to answer: after twice that a connection that was cut is noticed.
const PROBE: Duration = Duration::from_secs(3);

/// What is known of servers.
#[derive(Debug, Default)]
struct Known {
    order: Order,
    patience: Patience,
    channels: BTreeMap<Address, Channel>,
    /// Rises whenever all connections are made anew.
    connections: u64,
}

/// The servers. A clone is another handle of the same.
#[derive(Clone)]
pub struct Servers {
    network: Arc<dyn Network>,
    entropy: Arc<dyn Entropy>,
    tls: ClientConfigSource,
    known: Arc<Mutex<Known>>,
    metrics: Arc<Metrics>,
}

impl std::fmt::Debug for Servers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Servers")
            .field("addresses", &self.round())
            .finish_non_exhaustive()
    }
}

impl Servers {
    /// Servers at these addresses, reached with this TLS configuration. The first is drawn, so that
    /// agents spread over servers.
    #[must_use]
    pub fn new(
        host: &Host,
        tls: ClientConfigSource,
        configured: Vec<Address>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let order = Order::new(configured, draw_u64(host.entropy.as_ref()));
        let known = Known {
            order,
            ..Known::default()
        };
        Self {
            network: Arc::clone(&host.network),
            entropy: Arc::clone(&host.entropy),
            tls,
            known: Arc::new(Mutex::new(known)),
            metrics,
        }
    }

    fn with<R>(&self, look: impl FnOnce(&mut Known) -> R) -> R {
        look(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes the order, and counts when another server has become the first.
    fn reorder(&self, change: impl FnOnce(&mut Order)) {
        let turned = self.with(|known| {
            let before = known.order.all().first().cloned();
            change(&mut known.order);
            before.as_ref() != known.order.all().first()
        });
        if turned {
            self.metrics.failovers.inc();
        }
    }

    /// Every server, the one that is asked first in front.
    #[must_use]
    pub fn round(&self) -> Vec<Address> {
        self.with(|known| known.order.all().to_vec())
    }

    /// The server that is asked first.
    #[must_use]
    pub fn current(&self) -> Option<Address> {
        self.with(|known| known.order.all().first().cloned())
    }

    /// Asks this server first from now on.
    pub fn prefer(&self, address: &Address) {
        self.reorder(|order| order.prefer(address));
    }

    /// Asks this server last from now on.
    pub fn turn_from(&self, address: &Address) {
        self.reorder(|order| order.put_last(address));
    }

    /// Takes the addresses from a changed configuration.
    pub fn configure(&self, configured: Vec<Address>) {
        self.reorder(|order| order.configure(configured));
    }

    /// Learns addresses from a server. What is no address is left out.
    pub fn learn(&self, servers: &[String]) {
        let learned = servers.iter().filter_map(|text| text.parse().ok());
        self.with(|known| known.order.learn(learned.collect()));
    }

    /// Makes all further calls on new connections: the agent's SVID changed.
    pub fn reconnect(&self) {
        self.with(|known| {
            known.channels.clear();
            known.connections = known.connections.saturating_add(1);
        });
    }

    /// The connection to a server.
    #[must_use]
    pub fn channel(&self, address: &Address) -> Channel {
        self.with(|known| {
            let make = || {
                let target = Target::Tcp {
                    address: address.clone(),
                    tls: Some(Arc::clone(&self.tls)),
                };
                let options = ChannelOptions {
                    deadline: CALL_DEADLINE,
                    keep_alive_interval: PROBE,
                    keep_alive_timeout: PROBE,
                    ..ChannelOptions::default()
                };
                channel(Arc::clone(&self.network), target, options)
            };
            known
                .channels
                .entry(address.clone())
                .or_insert_with(make)
                .clone()
        })
    }

    /// Our own service on a server.
    #[must_use]
    pub fn agent_client(&self, address: &Address) -> AgentClient<Channel> {
        AgentClient::new(self.channel(address)).max_decoding_message_size(RESPONSE_MAX)
    }

    /// Makes a call on whichever server answers. It may be made on several: what it asks for must be
    /// such that a repetition does no harm.
    ///
    /// # Errors
    /// The first answer that another server would give too, else the last failure.
    pub async fn call<T, F>(&self, call: impl Fn(Address) -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let ask = |address| self.once_more_if_renewed(&call, address);
        self.ask_any(ask, judge).await
    }

    /// The same with other errors, of which `judge` says what they tell.
    ///
    /// # Errors
    /// As [`Servers::call`].
    pub async fn ask_any<T, E, F>(
        &self,
        ask: impl Fn(Address) -> F,
        judge: impl Fn(&Address, &E) -> Failure,
    ) -> Result<T, E>
    where
        F: Future<Output = Result<T, E>>,
        E: From<Status>,
    {
        let patience = self.with(|known| known.patience);
        let waits = patience.waits(Arc::clone(&self.entropy));
        let see = |server: &Address, seen| self.see(server, seen);
        first_answer(self.round(), waits, ask, judge, see).await
    }

    async fn once_more_if_renewed<T, F>(
        &self,
        call: impl Fn(Address) -> F,
        address: Address,
    ) -> Result<T, Status>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let connections = || self.with(|known| known.connections);
        let before = connections();
        let answer = call(address.clone()).await;
        if answer.as_ref().is_err_and(is_about_identity) && connections() != before {
            // The agent's SVID was renewed while the call was on a connection of the last.
            return call(address).await;
        }
        answer
    }

    fn see(&self, server: &Address, seen: Seen) {
        match seen {
            Seen::AskedToo => {
                tracing::debug!(%server, "asking it too: another is silent");
                self.metrics.asked_too.inc();
            }
            Seen::Answered(took) => {
                self.with(|known| known.patience.note(took));
                self.prefer(server);
            }
            Seen::Failed => self.turn_from(server),
            Seen::Silent => {
                tracing::debug!(%server, "did not answer in time");
                self.turn_from(server);
                // Nobody waits for what became of its connection.
                self.with(|known| known.channels.remove(server));
            }
        }
    }
}

/// What a failed call tells.
fn judge(server: &Address, status: &Status) -> Failure {
    let reason = || explain(status);
    if another_may_answer(status) {
        tracing::debug!(%server, reason = reason(), "trying the next server");
        if is_stranger(status) {
            Failure::Stranger
        } else {
            Failure::OfServer
        }
    } else if denial_of(status).is_some() {
        tracing::warn!(%server, reason = reason(), "denied: asking the next server");
        Failure::Denial
    } else {
        Failure::OfRequest
    }
}

/// Whether this failure is of one server rather than of the request.
#[must_use]
pub fn another_may_answer(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable | Code::DeadlineExceeded | Code::Unknown | Code::Cancelled
    )
}

fn is_about_identity(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::PermissionDenied | Code::Unauthenticated
    )
}

#[cfg(test)]
mod tests;
