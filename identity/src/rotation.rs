//! When to renew an SVID and when to rotate an authority.
