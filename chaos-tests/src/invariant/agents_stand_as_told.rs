//! What operators were told of an agent is as if one call had been served after the other: once a ban was
//! acknowledged to anybody, every server that is asked for a fresh answer says that the agent is banned.
//! The agent's attestation is not seen from here: it may have happened at any time after its token was made.

use super::told::{Told, one_history_each};
use super::{Invariant, Seen};
use crate::linearizability::agent::{Agent, Op, Outcome, Standing, Why};
use crate::oracle::{Answer, Asked};
use crate::sim::operator::Order;

/// The property.
pub struct AgentsStandAsTold;

impl Invariant for AgentsStandAsTold {
    fn name(&self) -> &'static str {
        "agents stand as operators were told"
    }

    fn at_end(&mut self, seen: Seen<'_>) -> Result<(), String> {
        let asked = &seen.world.oracle.asked;
        let mut calls: Vec<Told<'_, Op, Outcome>> = asked.iter().filter_map(call).collect();
        for (machine, agent) in &seen.world.agent_ids {
            let token = Order::AgentToken(machine.clone());
            let made = asked.iter().find(|one| one.order == token);
            calls.extend(made.map(|made| Told {
                key: agent,
                op: Op::Attest {
                    key: 0,
                    repeatable: false,
                    issue: true,
                },
                invoked: made.invoked,
                answered: None,
            }));
        }
        one_history_each("agent", calls, Agent)
    }
}

fn call(asked: &Asked) -> Option<Told<'_, Op, Outcome>> {
    let (key, op) = match &asked.order {
        Order::Ban { agent } => (agent, Op::Ban),
        Order::ReadAgent { agent } => (agent, Op::Read),
        _ => return None,
    };
    let outcome = |answer: &Answer| match (op, answer) {
        (Op::Ban, Answer::Done) => Some(Outcome::Done),
        (Op::Ban, Answer::NotFound) => Some(Outcome::Refused(Why::NotAttested)),
        (Op::Read, Answer::Agent { banned: true }) => Some(Outcome::Stands(Standing::Banned)),
        (Op::Read, Answer::Agent { banned: false }) => Some(Outcome::Stands(Standing::Attested)),
        (Op::Read, Answer::NotFound) => Some(Outcome::Stands(Standing::Absent)),
        _ => None,
    };
    let answered = asked.answered.as_ref();
    Some(Told {
        key,
        op,
        invoked: asked.invoked,
        answered: answered.and_then(|(at, answer)| Some((*at, outcome(answer)?))),
    })
}
