//! TLS configurations whose verifiers apply the SPIFFE rules.
