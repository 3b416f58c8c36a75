//! Calls to other members.
//!
//! Responsible for: connections, Hello before anything else, and deadlines. Always
//! holds: every call has a deadline; an answer is handed out only after its sender was
//! checked. Not here: what is said.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mintmark_identity::clock::Clock;
use mintmark_proto::mintmark::raft::v1 as pb;
use mintmark_proto::mintmark::raft::v1::peer_client::PeerClient;
use mintmark_runtime::grpc::{ChannelOptions, Target, channel};
use mintmark_runtime::network::{Address, AddressError, Network};
use thiserror::Error;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use super::auth::PeerAuth;
use super::convert::ConvertError;
use super::session::{Mark, MeetError, PeerRefusal, Sessions, wants_hello};
use super::type_config::NodeId;
use crate::store::StoreError;

/// Bound of one message between members: above the entries of one `AppendEntries` (2 MiB
/// and one batch of 1 MiB) and below what could hurt.
pub const MESSAGE_LEN_MAX: usize = 8 * 1024 * 1024;
/// Members are near; one that takes longer to connect to is down.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A silent connection is given up after these two, so that calls move to a new one.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(2);

/// Generated client on one of our channels.
pub type Client = PeerClient<Channel>;

/// A member and where it is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// The member.
    pub node: NodeId,
    /// `host:port`.
    pub address: String,
}

/// Why a call has no answer.
#[derive(Debug, Error)]
pub enum CallError {
    /// The address in the membership is none.
    #[error("the address of member {node} is not valid")]
    Address {
        /// The member.
        node: NodeId,
        /// What is wrong with it.
        source: AddressError,
    },
    /// It took too long.
    #[error("member {node} did not answer in time")]
    Timeout {
        /// The member.
        node: NodeId,
    },
    /// The peer, or the way to it, refused.
    #[error("member {node} did not accept the call")]
    Status {
        /// The member.
        node: NodeId,
        /// What came back.
        source: Box<Status>,
    },
    /// We refuse the peer.
    #[error("the answer of member {node} is not accepted")]
    Refused {
        /// The member.
        node: NodeId,
        /// Why.
        source: PeerRefusal,
    },
    /// The answer makes no sense.
    #[error("member {node} sent an answer that makes no sense")]
    Answer {
        /// The member.
        node: NodeId,
        /// What is wrong with it.
        source: ConvertError,
    },
    /// What must be remembered of the peer cannot be written.
    #[error("the log cannot remember the peer")]
    Store(#[from] StoreError),
}

/// Everybody this member can call. A clone shares the connections.
#[derive(Clone)]
pub struct Peers(Arc<Inner>);

struct Inner {
    network: Arc<dyn Network>,
    auth: Arc<dyn PeerAuth>,
    clock: Arc<dyn Clock>,
    sessions: Sessions,
    channels: Mutex<BTreeMap<NodeId, (String, Channel)>>,
}

impl Peers {
    /// Nobody is connected yet.
    #[must_use]
    pub fn new(
        network: Arc<dyn Network>,
        auth: Arc<dyn PeerAuth>,
        clock: Arc<dyn Clock>,
        sessions: Sessions,
    ) -> Self {
        Self(Arc::new(Inner {
            network,
            auth,
            clock,
            sessions,
            channels: Mutex::new(BTreeMap::new()),
        }))
    }

    /// Whom we have met.
    #[must_use]
    pub fn sessions(&self) -> &Sessions {
        &self.0.sessions
    }

    /// Makes a call, after a Hello if one is due. `message` is asked again if the peer
    /// turns out to have restarted.
    ///
    /// # Errors
    /// When there is no acceptable answer in `time`.
    pub async fn call<M, A, F>(
        &self,
        to: &Remote,
        time: Duration,
        message: impl Fn() -> M,
        rpc: impl Fn(Client, Request<M>) -> F,
    ) -> Result<A, CallError>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let calling = async {
            let mut greeted = false;
            loop {
                let session = match self.sessions().met(to.node) {
                    Some(session) => session,
                    None => self.greet(to, time).await?,
                };
                let request = self.request(message(), time, Some(session));
                match rpc(self.client(to)?, request).await {
                    Ok(answer) => return self.check(to, answer, false),
                    Err(status) if wants_hello(&status) && !greeted => {
                        greeted = true;
                        self.greet(to, time).await?;
                    }
                    Err(status) => return Err(self.refused(to, status)),
                }
            }
        };
        tokio::time::timeout(time, calling)
            .await
            .unwrap_or(Err(CallError::Timeout { node: to.node }))
    }

    /// Says Hello, and checks who answers.
    ///
    /// # Errors
    /// When the peer does not answer, refuses us, or is refused.
    pub async fn greet(&self, to: &Remote, time: Duration) -> Result<Mark, CallError> {
        let hello = self.sessions().hello(self.0.clock.now().unix_millis());
        let request = self.request(hello, time, None);
        let mut client = self.client(to)?;
        let answered = tokio::time::timeout(time, client.hello(request)).await;
        let answered = answered.map_err(|_| CallError::Timeout { node: to.node })?;
        let answer = answered.map_err(|status| self.refused(to, status))?;
        let answer: pb::HelloResponse = self.check(to, answer, true)?;
        let hello = pb::HelloRequest {
            node_id: answer.node_id,
            incarnation: answer.incarnation,
            last_log_id: answer.last_log_id,
            protocol: answer.protocol,
            clock_ms: answer.clock_ms,
            boot: answer.boot,
            vote: answer.vote,
        };
        let met = self.sessions().meet(to.node, hello).await;
        met.map_err(|error| match error {
            MeetError::Refused(source) => {
                tracing::error!(error = %source, "a member of the cluster is refused");
                CallError::Refused {
                    node: to.node,
                    source,
                }
            }
            MeetError::Store(source) => CallError::Store(source),
        })?;
        let refusal = PeerRefusal::NoSession { node: to.node };
        self.sessions().met(to.node).ok_or(CallError::Refused {
            node: to.node,
            source: refusal,
        })
    }

    fn request<M>(&self, message: M, time: Duration, session: Option<Mark>) -> Request<M> {
        let mut request = Request::new(message);
        request.set_timeout(time);
        self.sessions().sign(request.metadata_mut(), session);
        request
    }

    fn check<A>(&self, to: &Remote, answer: Response<A>, is_hello: bool) -> Result<A, CallError> {
        let checked = self
            .sessions()
            .check_answer(to.node, answer.metadata(), is_hello);
        checked.map_err(|source| {
            if matches!(source, PeerRefusal::NoSession { .. }) {
                self.sessions().forget(to.node);
            }
            CallError::Refused {
                node: to.node,
                source,
            }
        })?;
        Ok(answer.into_inner())
    }

    fn refused(&self, to: &Remote, status: Status) -> CallError {
        self.sessions().note_status(&status);
        CallError::Status {
            node: to.node,
            source: Box::new(status),
        }
    }

    fn client(&self, to: &Remote) -> Result<Client, CallError> {
        let mut channels = self
            .0
            .channels
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let known = channels.get(&to.node);
        let channel = match known.filter(|(address, _)| *address == to.address) {
            Some((_, channel)) => channel.clone(),
            None => {
                let channel = self.dial(to)?;
                channels.insert(to.node, (to.address.clone(), channel.clone()));
                channel
            }
        };
        Ok(Client::new(channel)
            .max_decoding_message_size(MESSAGE_LEN_MAX)
            .max_encoding_message_size(MESSAGE_LEN_MAX))
    }

    fn dial(&self, to: &Remote) -> Result<Channel, CallError> {
        let address = Address::parse(&to.address).map_err(|source| CallError::Address {
            node: to.node,
            source,
        })?;
        let tls = self.0.auth.client_tls(to.node);
        let options = ChannelOptions {
            connect_timeout: CONNECT_TIMEOUT,
            // Each call brings its own, shorter one.
            deadline: super::network::SNAPSHOT_TIMEOUT_MAX,
            keep_alive_interval: KEEP_ALIVE_INTERVAL,
            keep_alive_timeout: KEEP_ALIVE_TIMEOUT,
            keep_alive_while_idle: true,
            on_connected: None,
        };
        let target = Target::Tcp { address, tls };
        Ok(channel(Arc::clone(&self.0.network), target, options))
    }
}
