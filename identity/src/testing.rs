//! Conformance suites and fixtures that other crates run.
