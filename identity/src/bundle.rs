//! Trust bundles: the authorities of one trust domain.
