//! Alternative (post-quantum) signatures of X.509 certificates.
