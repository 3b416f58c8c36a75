//! JSON Web Signatures and Keys, as far as SPIFFE needs them.
