//! Client library of the SPIFFE Workload API: what an application links to hold identities that
//! rotate by themselves. It works with any conforming agent, SPIRE's too.
//!
//! Responsible for: reaching the agent ([`endpoint`], [`connector`]), calling it ([`client`]), keeping
//! the latest of what it says ([`source`]), and sending tokens to others ([`authorization`]).
//! Always holds: what is handed out was checked; timers are tokio's, so a paused clock moves them; there
//! is one task for each source, and it ends with it.
//! Not here: TLS itself. A source plugs into the configurations of `mintmark_identity::tls`.
//!
//! A server that shows its SVID, asks for its caller's, and picks up each rotation:
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//!
//! use mintmark_identity::clock::SystemClock;
//! use mintmark_identity::svid::x509::VerificationPolicy;
//! use mintmark_identity::tls::{Authorizer, ClientAuth, SvidTrust, server_config};
//! use mintmark_workload_api::source::Settings;
//! use mintmark_workload_api::source::x509::X509Source;
//!
//! let source = Arc::new(X509Source::start(Settings::resolve(None)?).await?);
//! let trust = SvidTrust {
//!     bundles: source.clone(),
//!     policy: VerificationPolicy::default(),
//!     authorizer: Authorizer::exactly("spiffe://example.org/web".parse()?),
//! };
//! let config = server_config(Arc::new(SystemClock), source, trust, ClientAuth::Required)?;
//! # Ok(())
//! # }
//! ```

pub mod authorization;
pub mod backoff;
pub mod client;
pub mod connector;
pub mod endpoint;
pub mod error;
pub mod limits;
pub mod source;
