//! The checker of histories: what it accepts, what it refuses, and what others say of the same.
//!
//! Responsible for: histories written by hand, histories of executions that were linearizable by
//! construction, the same with one answer changed against a check of every permutation, and register
//! histories against two checkers that other people wrote.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

#[path = "linearizability/by_hand.rs"]
mod by_hand;
#[path = "linearizability/generated.rs"]
mod generated;
#[path = "linearizability/other_checkers.rs"]
mod other_checkers;
#[path = "linearizability/permutations.rs"]
mod permutations;
#[path = "linearizability/product.rs"]
mod product;
