//! X.509-SVIDs: building and verifying.

pub mod anchor;
