//! Everything a process needs from its machine: network, disk, Unix peers, tasks, drain,
//! readiness, TLS streams, gRPC and HTTP serving, configuration files, logs, metrics, signals.
//!
//! Responsible for being the only crate that touches sockets, files, threads and the process.
//! Always holds: whatever makes two runs differ comes through [`host::Host`], so a simulator can
//! replace it. Not here: any rule of the trust domain, any wire format.

pub mod backoff;
pub mod cause;
pub mod config;
pub mod disk;
pub mod drain;
pub mod failpoint;
pub mod grpc;
pub mod hardening;
pub mod host;
pub mod http;
pub mod metrics;
pub mod mutation;
pub mod network;
pub mod readiness;
pub mod serve;
pub mod signals;
pub mod task;
pub mod telemetry;
pub mod testing;
pub mod tls;
pub mod unix;

pub use self::host::Host;
