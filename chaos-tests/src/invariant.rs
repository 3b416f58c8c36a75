//! What must always hold, one property per file, named after it.
//!
//! Always: a property that sees states is checked after each step of the simulation, one that sees
//! histories when the run ends; a property that is broken names itself, the moment, and what it saw.
//!
//! Not here: looking (`crate::view`, `crate::oracle`).

use std::fmt;
use std::time::Duration;

use crate::sim::plan::Shape;
use crate::sim::world::Inner;
use crate::view::Views;

mod activation_was_acknowledged;
mod agents_never_go_back;
mod agents_stand_as_told;
mod audit_log_is_one;
mod authorities_go_forward;
mod authorities_stand_as_told;
mod banned_agents_get_nothing;
mod bundles_keep_live_authorities;
mod deleted_entries_get_nothing;
mod equal_position_equal_state;
mod keys_stay_off_disks;
mod leaders_give_way_upwards;
mod nobody_renews_in_a_loop;
mod node_ids_are_fresh;
mod operators_saw_one_history;
mod positions_only_rise;
mod released_svids_are_in_the_log;
mod serials_are_unique;
pub mod sinks_miss_nothing;
mod svids_are_valid_when_given;
mod tokens_admit_one_key;
mod told;

/// A property that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Its name.
    pub property: &'static str,
    /// When.
    pub at: Duration,
    /// What was seen.
    pub seen: String,
}

impl Violation {
    /// A violation.
    pub fn new(property: &'static str, at: Duration, seen: impl Into<String>) -> Self {
        Self {
            property,
            at,
            seen: seen.into(),
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.at.as_secs_f64();
        write!(
            f,
            "\"{}\" is broken at {at:.3} s: {}",
            self.property, self.seen
        )
    }
}

/// What a property looks at.
#[derive(Clone, Copy)]
pub struct Seen<'a> {
    /// Virtual time.
    pub at: Duration,
    /// The size of the run.
    pub shape: &'a Shape,
    /// The servers.
    pub servers: &'a Views,
    /// Everything else.
    pub world: &'a Inner,
}

/// A property.
pub trait Invariant {
    /// Its name, a sentence.
    fn name(&self) -> &'static str;

    /// Checks it after a step.
    ///
    /// # Errors
    /// What was seen when it is broken.
    fn after_step(&mut self, _seen: Seen<'_>) -> Result<(), String> {
        Ok(())
    }

    /// Checks it when the run ended, healed.
    ///
    /// # Errors
    /// What was seen when it is broken.
    fn at_end(&mut self, _seen: Seen<'_>) -> Result<(), String> {
        Ok(())
    }
}

/// All properties, for one run.
pub struct Invariants(Vec<Box<dyn Invariant>>);

impl Invariants {
    /// All of them.
    pub fn all() -> Self {
        Self(vec![
            Box::<leaders_give_way_upwards::OneLeaderAtATime>::default(),
            Box::<positions_only_rise::PositionsOnlyRise>::default(),
            Box::<equal_position_equal_state::EqualPositionEqualState>::default(),
            Box::<authorities_go_forward::AuthoritiesGoForward>::default(),
            Box::<activation_was_acknowledged::ActivationWasAcknowledged>::default(),
            Box::<bundles_keep_live_authorities::BundlesKeepLiveAuthorities>::default(),
            Box::<agents_never_go_back::AgentsNeverGoBack>::default(),
            Box::<svids_are_valid_when_given::SvidsAreValidWhenGiven>::default(),
            Box::<nobody_renews_in_a_loop::NobodyRenewsInALoop>::default(),
            Box::<node_ids_are_fresh::NodeIdsAreFresh>::default(),
            Box::new(audit_log_is_one::AuditLogIsOne),
            Box::new(released_svids_are_in_the_log::ReleasedSvidsAreInTheLog),
            Box::new(serials_are_unique::SerialsAreUnique),
            Box::new(banned_agents_get_nothing::BannedAgentsGetNothing),
            Box::new(deleted_entries_get_nothing::DeletedEntriesGetNothing),
            Box::new(tokens_admit_one_key::TokensAdmitOneKey),
            Box::new(sinks_miss_nothing::SinksMissNothing),
            Box::new(keys_stay_off_disks::KeysStayOffDisks),
            Box::new(operators_saw_one_history::OperatorsSawOneHistory),
            Box::new(agents_stand_as_told::AgentsStandAsTold),
            Box::new(authorities_stand_as_told::AuthoritiesStandAsTold),
        ])
    }

    /// The names of all properties.
    pub fn names(&self) -> Vec<&'static str> {
        self.0.iter().map(|one| one.name()).collect()
    }

    /// Checks all after a step.
    ///
    /// # Errors
    /// The first that is broken.
    pub fn after_step(
        &mut self,
        at: Duration,
        shape: &Shape,
        servers: &Views,
        world: &Inner,
    ) -> Result<(), Violation> {
        let seen = Seen {
            at,
            shape,
            servers,
            world,
        };
        self.check(seen, |one| one.after_step(seen))
    }

    /// Checks all when the run ended.
    ///
    /// # Errors
    /// The first that is broken.
    pub fn at_end(
        &mut self,
        at: Duration,
        shape: &Shape,
        servers: &Views,
        world: &Inner,
    ) -> Result<(), Violation> {
        let seen = Seen {
            at,
            shape,
            servers,
            world,
        };
        self.check(seen, |one| one.at_end(seen))
    }

    fn check(
        &mut self,
        seen: Seen<'_>,
        holds: impl Fn(&mut dyn Invariant) -> Result<(), String>,
    ) -> Result<(), Violation> {
        for one in &mut self.0 {
            holds(one.as_mut()).map_err(|what| Violation::new(one.name(), seen.at, what))?;
        }
        Ok(())
    }
}
