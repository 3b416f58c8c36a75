//! JWT-SVIDs: building and verifying.
