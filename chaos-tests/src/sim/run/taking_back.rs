//! What an operator takes back when nothing is wrong.
//!
//! Always: an agent that hears of what is new has dropped what was taken back a second after the operator
//! was told that it is done, and nobody is given it any more (P3).
//!
//! Not here: what the log accepts afterwards (`crate::invariant`).

use std::time::Duration;

use mintmark_identity::entry::EntryId;

use super::{Simulation, agent_names};
use crate::invariant::Violation;
use crate::oracle::Answer;
use crate::sim::agent::UID_BASE;
use crate::sim::operator::Order;

/// The property.
const GONE: &str = "what is taken back is gone within a second";
/// How long an agent may have it.
const GRACE: Duration = Duration::from_secs(1);
/// How long it is looked at.
const WATCH: Duration = Duration::from_secs(3);
/// How long an answer may take, and the news of an entry: an agent notices a lost connection within 6 s.
const PATIENCE: Duration = Duration::from_secs(20);
/// Name of the entry that is made for this.
const KEY: &str = "taken-back";

impl Simulation<'_> {
    /// Makes an entry, deletes it, and bans its agent.
    pub(super) fn take_back(&mut self) -> Result<(), Violation> {
        let Some((name, agent)) = self.somebody() else {
            return Ok(());
        };
        let make = Order::CreateEntry {
            key: KEY.to_owned(),
            parent: agent.clone(),
            path: format!("/extra/{KEY}"),
            uid: UID_BASE,
        };
        self.ask(make)?;
        let id = self.world.lock().oracle.entry_id(KEY);
        let id = id.and_then(|id| EntryId::parse(&id).ok());
        let id = id.expect("an entry that was made has an id");
        self.until("an agent learns of its entries", PATIENCE, |this| {
            let missing = || format!("{name} does not have {id}");
            this.has(&name, &id).then_some(()).ok_or_else(missing)
        })?;

        let key = KEY.to_owned();
        let deleted = self.ask(Order::DeleteEntry { key })?;
        self.watch(GONE, deleted, |this| {
            let has = this.has(&name, &id);
            has.then(|| format!("{name} still has the deleted entry {id}"))
        })?;

        self.world.lock().banned.insert(name.clone());
        let banned = self.ask(Order::Ban { agent })?;
        self.watch(GONE, banned, |this| {
            let serves = this.serves(&name) || this.was_given(&name, banned + GRACE);
            serves.then(|| format!("{name}, which is banned, still serves"))
        })
    }

    /// The last agent that is not banned.
    fn somebody(&self) -> Option<(String, String)> {
        let inner = self.world.lock();
        let mut agents = agent_names(&self.plan.shape).into_iter().rev();
        let name = agents.find(|name| !inner.banned.contains(name))?;
        let id = inner.agent_ids[&name].clone();
        Some((name, id))
    }

    /// Has an operator do it; returns when he was told that it is done.
    pub(super) fn ask(&mut self, order: Order) -> Result<Duration, Violation> {
        let (_, servers) = self.members();
        let turn = usize::try_from(self.plan.shape.seed).unwrap_or(0) % servers.len();
        let ticket = self.world.lock().oracle.asked.len();
        self.order(&servers[turn], order.clone());
        let mut done = Duration::ZERO;
        self.until("an order in peace is obeyed", PATIENCE, |this| {
            let inner = this.world.lock();
            let mut asked = inner.oracle.asked[ticket..].iter();
            let asked = asked.find(|asked| asked.order == order);
            let has_happened =
                matches!(&order, Order::Revoke(authority) if this.is_retired(authority));
            match asked.and_then(|asked| asked.answered.as_ref()) {
                Some((at, Answer::Done | Answer::Entry(_))) => {
                    done = *at;
                    Ok(())
                }
                Some((at, Answer::Refused(_))) if has_happened => {
                    done = *at;
                    Ok(())
                }
                answer => Err(format!("{order:?}: {answer:?}")),
            }
        })?;
        Ok(done)
    }

    /// Runs on, and looks for what must not be after the grace.
    pub(super) fn watch(
        &mut self,
        property: &'static str,
        since: Duration,
        mut wrong: impl FnMut(&Self) -> Option<String>,
    ) -> Result<(), Violation> {
        while self.sim.elapsed() < since + WATCH {
            self.step()?;
            let at = self.sim.elapsed();
            if at > since + GRACE
                && let Some(seen) = wrong(self)
            {
                return Err(Violation::new(property, at, seen));
            }
        }
        Ok(())
    }

    fn has(&self, agent: &str, entry: &EntryId) -> bool {
        let inner = self.world.lock();
        let state = inner.agents.get(agent).map(|agent| agent.borrow().clone());
        state.is_some_and(|state| {
            state.entries.get(entry).is_some() || state.svids.contains_key(entry)
        })
    }

    fn serves(&self, agent: &str) -> bool {
        let inner = self.world.lock();
        let state = inner.agents.get(agent).map(|agent| agent.borrow().clone());
        state.is_some_and(|state| !state.entries.is_empty() || !state.svids.is_empty())
    }

    /// Whether a workload of this machine was given anything after that.
    fn was_given(&self, machine: &str, after: Duration) -> bool {
        let inner = self.world.lock();
        let mut svids = inner.oracle.received.iter().rev();
        let mut tokens = inner.oracle.tokens.iter().rev();
        svids.any(|one| one.machine == machine && one.at > after)
            || tokens.any(|one| one.machine == machine && one.at > after)
    }
}
