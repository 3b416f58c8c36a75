//! In which order servers are asked.
//!
//! Responsible for: addresses from the configuration and those learned, each once. Always holds: the
//! server that answered last comes first, and one that did not answer comes after all others, so
//! that nobody waits for it again while another answers. Not here: asking (`asking`).

use std::collections::BTreeSet;

use mintmark_runtime::network::Address;

/// All known servers, the one that is asked first in front.
#[derive(Debug, Default)]
pub(super) struct Order {
    configured: Vec<Address>,
    learned: Vec<Address>,
    order: Vec<Address>,
}

impl Order {
    /// In the order of the configuration, begun at the one that `turn` chooses.
    pub(super) fn new(configured: Vec<Address>, turn: u64) -> Self {
        let mut order = Self::default();
        order.configure(configured);
        let count = u64::try_from(order.order.len()).unwrap_or(1).max(1);
        let turn = usize::try_from(turn.checked_rem(count).unwrap_or(0)).unwrap_or(0);
        order.order.rotate_left(turn);
        order
    }

    pub(super) fn all(&self) -> &[Address] {
        &self.order
    }

    pub(super) fn configure(&mut self, configured: Vec<Address>) {
        self.configured = configured;
        self.arrange();
    }

    pub(super) fn learn(&mut self, learned: Vec<Address>) {
        self.learned = learned;
        self.arrange();
    }

    /// What is known keeps its place; what is new comes last.
    fn arrange(&mut self) {
        let known: Vec<_> = self.configured.iter().chain(&self.learned).collect();
        self.order.retain(|address| known.contains(&address));
        let mut seen: BTreeSet<Address> = self.order.iter().cloned().collect();
        let new = known.into_iter().filter(|one| seen.insert((*one).clone()));
        self.order.extend(new.cloned());
    }

    /// Asks this one first from now on.
    pub(super) fn prefer(&mut self, address: &Address) {
        if let Some(at) = self.place(address) {
            let one = self.order.remove(at);
            self.order.insert(0, one);
        }
    }

    /// Asks this one last from now on.
    pub(super) fn put_last(&mut self, address: &Address) {
        if let Some(at) = self.place(address) {
            let one = self.order.remove(at);
            self.order.push(one);
        }
    }

    fn place(&self, address: &Address) -> Option<usize> {
        self.order.iter().position(|one| one == address)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn addresses(names: &str) -> Vec<Address> {
        let address = |name: char| Address::new(&name.to_string(), 1).unwrap();
        names.chars().map(address).collect()
    }

    fn told(order: &Order) -> String {
        order.all().iter().map(Address::host).collect()
    }

    #[test]
    fn the_last_that_answered_comes_first_and_one_that_did_not_comes_last() {
        let mut order = Order::new(addresses("abc"), 4);
        assert_eq!(told(&order), "bca");
        order.prefer(&addresses("a")[0]);
        assert_eq!(told(&order), "abc");
        order.put_last(&addresses("a")[0]);
        assert_eq!(told(&order), "bca");
        order.put_last(&addresses("x")[0]);
        assert_eq!(told(&order), "bca", "nobody is made up");
    }

    #[test]
    fn what_is_learned_follows_and_what_is_configured_no_more_goes() {
        let mut order = Order::new(addresses("ab"), 1);
        order.learn(addresses("cab"));
        assert_eq!(told(&order), "bac");
        order.prefer(&addresses("c")[0]);
        order.configure(addresses("d"));
        assert_eq!(told(&order), "cbad", "all of them are still learned");
        order.learn(Vec::new());
        assert_eq!(told(&order), "d");
        assert_eq!(told(&Order::new(Vec::new(), 3)), "");
    }
}
