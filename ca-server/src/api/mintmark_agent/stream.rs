//! One agent's push stream.
//!
//! Always: the stream ends when the agent's SVID of this connection is no longer its current one, so that
//! it reconnects with the new one; a ban or an eviction is its last message, sent only when a read index
//! confirms it.
//!
//! Not here: what an update holds (`fanout::update`).

use std::time::Duration;

use async_stream::try_stream;
use mintmark_proto::mintmark::agent::v1 as wire;
use mintmark_proto::mintmark::agent::v1::server_message::Body;
use tokio_stream::{Stream, StreamExt};
use tonic::{Status, Streaming};

use super::resume_position;
use crate::api::status::ApiError;
use crate::api::{STALE_AFTER, Services};
use crate::fanout::update::{Told, to_wire};
use crate::policy::{AgentCaller, AgentDenial, Denied};
use crate::state::State;

/// What the method returns.
pub type ServerStream =
    std::pin::Pin<Box<dyn Stream<Item = Result<wire::ServerMessage, Status>> + Send>>;

/// How often staleness and the agent's standing are looked at when nothing else happens.
const STALE_PERIOD: Duration = Duration::from_millis(500);

/// What ends a stream for good.
enum Verdict {
    /// It goes on.
    Serves,
    /// The agent is to discard its identity.
    Discard { banned: bool },
    /// The agent is to come back with another SVID.
    Reconnect(AgentDenial),
}

impl Verdict {
    fn is_final(&self) -> bool {
        matches!(self, Self::Discard { .. })
    }
}

fn verdict(state: &State, agent: &AgentCaller, services: &Services) -> Verdict {
    let Some(node) = state.attested_node(&agent.id) else {
        return Verdict::Discard { banned: false };
    };
    if node.banned {
        return Verdict::Discard { banned: true };
    }
    if services.host.clock.now() >= agent.not_after {
        return Verdict::Reconnect(AgentDenial::Expired);
    }
    let shown = agent.serial.as_bytes().as_slice();
    if node.current_serial == shown || node.pending_serial == shown {
        Verdict::Serves
    } else {
        Verdict::Reconnect(AgentDenial::NotActive)
    }
}

/// Serves one stream.
pub fn respond(
    services: Services,
    agent: AgentCaller,
    mut messages: Streaming<wire::AgentMessage>,
) -> ServerStream {
    Box::pin(try_stream! {
        let begin = begin(&mut messages).await?;
        let resume_from = resume_position(&begin);
        // Registered before the state is read, so that nothing falls between.
        let subscription = services.hub.subscribe(&agent.id);
        let (mut told, update) = services
            .consensus
            .read(|state| Told::begin(state, &agent.id, resume_from))
            .map_err(|_| ApiError::Behind)?;
        // Before the first update, so that an agent that seeks a better server knows this one at once.
        let age = services.consensus.quorum_age();
        let mut stale = is_stale(age);
        if stale {
            yield message(staleness(age, stale));
        }
        yield message(Body::Update(update));
        let mut schedule = tokio::time::interval(STALE_PERIOD);
        schedule.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let token = services.tasks.token();
        loop {
            // `?` and `yield` are for outside of the macro.
            let next = tokio::select! {
                biased;
                () = token.cancelled() => Next::End,
                () = subscription.woken() => Next::Look,
                // Before the agent's messages, of which there may always be another.
                _ = schedule.tick() => Next::Tick,
                incoming = messages.next() => Next::Message(incoming.transpose()),
            };
            match next {
                Next::End => Err(ApiError::ShuttingDown)?,
                Next::Look => {}
                Next::Message(incoming) => match incoming? {
                    Some(message) => {
                        note(&services, &agent, &begin.version, message)?;
                        continue;
                    }
                    None => break,
                },
                Next::Tick => {
                    let age = services.consensus.quorum_age();
                    let now_stale = is_stale(age);
                    if now_stale != stale {
                        stale = now_stale;
                        yield message(staleness(age, stale));
                    }
                }
            }
            if services.consensus.read(|state| verdict(state, &agent, &services)).is_final() {
                // Nobody discards an identity on the word of a server that may be outdated; what
                // the others know is looked at again below.
                services.consensus.read_index().await.map_err(|_| ApiError::Stale)?;
            }
            let (verdict, update) = services.consensus.read(|state| {
                let verdict = verdict(state, &agent, &services);
                let update = matches!(verdict, Verdict::Serves)
                    .then(|| told.next(state, &agent.id))
                    .flatten();
                (verdict, update)
            });
            match verdict {
                Verdict::Serves => {
                    if let Some(update) = update {
                        yield message(Body::Update(update));
                    }
                }
                Verdict::Reconnect(source) => {
                    Err(ApiError::Denied(Denied::Agent { agent: agent.id.clone(), source }))?;
                }
                Verdict::Discard { banned } => {
                    yield message(Body::Update(discard(&services, banned)));
                    break;
                }
            }
        }
    })
}

/// The first message, which says from where on the agent wants to know.
async fn begin(
    messages: &mut Streaming<wire::AgentMessage>,
) -> Result<wire::agent_message::Begin, Status> {
    let first = messages.next().await.transpose()?;
    match first.and_then(|message| message.body) {
        Some(wire::agent_message::Body::Begin(begin)) => Ok(begin),
        _ => Err(ApiError::invalid("begin", "must be the first message").into()),
    }
}

/// Why the stream woke up.
enum Next {
    End,
    Look,
    Message(Result<Option<wire::AgentMessage>, Status>),
    Tick,
}

fn message(body: Body) -> wire::ServerMessage {
    wire::ServerMessage { body: Some(body) }
}

fn is_stale(quorum_age: Option<Duration>) -> bool {
    quorum_age.is_none_or(|age| age > STALE_AFTER)
}

fn staleness(age: Option<Duration>, stale: bool) -> Body {
    if stale {
        Body::Stale(wire::Stale {
            seconds: age.map_or(0, |age| age.as_secs()),
        })
    } else {
        Body::Fresh(wire::Fresh {})
    }
}

fn discard(services: &Services, banned: bool) -> wire::Update {
    let position = services.consensus.read(|state| state.applied_position());
    wire::Update {
        position: Some(to_wire(position)),
        banned,
        evicted: !banned,
        ..Default::default()
    }
}

/// Takes note of what the agent says.
fn note(
    services: &Services,
    agent: &AgentCaller,
    version: &str,
    message: wire::AgentMessage,
) -> Result<(), ApiError> {
    match message.body {
        Some(wire::agent_message::Body::Acknowledge(acknowledge)) => {
            let sequence = acknowledge.bundle_sequence;
            services
                .acknowledgements
                .streamed(&agent.id, sequence, version);
            Ok(())
        }
        _ => Err(ApiError::invalid(
            "body",
            "is neither expected nor known here",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_stale_after_two_seconds_without_its_leader() {
        assert!(!is_stale(Some(Duration::from_secs(2))));
        assert!(is_stale(Some(Duration::from_millis(2_001))));
        assert!(is_stale(None), "it has not heard of one yet");
    }
}
