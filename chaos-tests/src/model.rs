//! Small abstract clusters, explored to the end.
//!
//! Responsible for: three protocols of the product as `stateright` models, each so small that every
//! reachable state can be visited: the life of authorities, commit before signature, the join token.
//! Always holds: a model is a pure function of its bounds and of what is broken in it. For each
//! property there is a `Broken` variant that breaks it, because a check that has never failed has
//! shown nothing.
//! Not here: running them (`tests/models.rs`, which says how many states each has), real code under
//! real schedules (the simulator). Each model says which code of the product it mirrors; where a
//! pure function of the product fits, the model calls it.
//!
//! `stateright`'s own `eventually` misses counter-examples that pass through a state twice, so that
//! liveness is written as an `always` property here: from every reachable state, when nothing more
//! goes wrong, the good thing happens within a bounded number of steps.

pub mod authority;
pub mod issuance;
pub mod join_token;
