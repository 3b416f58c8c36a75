//! A set of indices, kept as ranges.
//!
//! Responsible for: which leaves are missing. Always holds: ranges are half-open,
//! disjoint, not empty and in order. Not here: what the indices are of.

/// A set of indices.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    /// From any ranges.
    pub fn from_pairs(pairs: impl IntoIterator<Item = (u64, u64)>) -> Self {
        let mut ranges = Self::default();
        for (start, end) in pairs {
            ranges.insert(start, end);
        }
        ranges
    }

    /// The ranges in order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0.iter().copied()
    }

    /// True if there is no index.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first range.
    pub fn first(&self) -> Option<(u64, u64)> {
        self.0.first().copied()
    }

    /// The first index that lies in the set and in `start..end`.
    pub fn first_within(&self, start: u64, end: u64) -> Option<u64> {
        self.iter()
            .map(|(from, to)| (from.max(start), to.min(end)))
            .find(|(from, to)| from < to)
            .map(|(from, _)| from)
    }

    /// Adds `start..end`.
    pub fn insert(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        let (mut start, mut end) = (start, end);
        self.0.retain(|(from, to)| {
            let touches = *from <= end && start <= *to;
            if touches {
                start = start.min(*from);
                end = end.max(*to);
            }
            !touches
        });
        let at = self.0.partition_point(|(from, _)| *from < start);
        self.0.insert(at, (start, end));
    }

    /// Takes `start..end` out.
    pub fn remove(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        let mut kept = Vec::with_capacity(self.0.len().saturating_add(1));
        for (from, to) in self.iter() {
            kept.extend([(from, to.min(start)), (from.max(end), to)]);
        }
        kept.retain(|(from, to)| from < to);
        kept.dedup();
        self.0 = kept;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ranges_behave_like_a_set(
            steps in prop::collection::vec((any::<bool>(), 0_u64..40, 0_u64..40), 0..30)
        ) {
            let mut ranges = Ranges::default();
            let mut set = std::collections::BTreeSet::new();
            for (add, start, end) in steps {
                if add {
                    ranges.insert(start, end);
                    set.extend(start..end);
                } else {
                    ranges.remove(start, end);
                    set.retain(|index| *index < start || *index >= end);
                }
                let listed: Vec<u64> = ranges.iter().flat_map(|(from, to)| from..to).collect();
                prop_assert_eq!(&listed, &set.iter().copied().collect::<Vec<_>>());
                prop_assert!(ranges.0.windows(2).all(|pair| pair[0].1 < pair[1].0));
                prop_assert_eq!(ranges.first_within(start, end), set.range(start.min(end)..end).next().copied());
            }
        }
    }
}
