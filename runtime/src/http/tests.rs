//! Probes and limits.
