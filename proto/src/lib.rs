//! Wire formats.
//!
//! Responsible for: the generated messages and services of the SPIFFE Workload
//! API, SPIRE's server API, Envoy's secret discovery and our own protocols, and
//! the only conversions between them and the types of `mintmark-identity`.
//! Always holds: a field number never changes; maps are ordered, so that equal
//! messages encode to equal bytes; `Debug` of a message prints no key and no
//! token.
//! Not here: what a request means (the crates that serve it).
//!
//! The Rust code under `src/gen` is made from `proto/` by
//! `cargo run -p mintmark-proto --example regenerate`.

pub mod convert;
pub mod descriptors;
mod redacted;

/// Wraps generated files into the modules that their packages ask for.
macro_rules! packages {
    ($($(#[$attribute:meta])* $visibility:vis $name:ident = $file:literal;)*) => {$(
        $(#[$attribute])*
        #[allow(
            missing_docs,
            unreachable_pub,
            unused_qualifications,
            clippy::all,
            clippy::too_many_lines,
            clippy::large_futures,
            clippy::disallowed_types,
            clippy::allow_attributes_without_reason,
            reason = "generated"
        )]
        $visibility mod $name {
            include!(concat!("gen/", $file));
        }
    )*};
}

/// SPIFFE's own protocols.
pub mod spiffe {
    packages! {
        /// The Workload API: service `SpiffeWorkloadAPI`.
        pub workload = "spiffe.workload.rs";
    }
}

/// SPIRE's server API. The traits of its services have default bodies that
/// answer `Unimplemented`.
pub mod spire {
    pub use api::server::agent::v1 as agent;
    pub use api::server::bundle::v1 as bundle;
    pub use api::server::entry::v1 as entry;
    pub use api::server::svid::v1 as svid;
    pub use api::types;

    mod api {
        packages! {
            /// Messages that the services share.
            pub types = "spire.api.types.rs";
        }

        pub mod server {
            pub mod agent {
                packages! {
                    /// Service `Agent`: nodes, their attestation and renewal.
                    pub v1 = "spire.api.server.agent.v1.rs";
                }
            }
            pub mod bundle {
                packages! {
                    /// Service `Bundle`: own and federated bundles.
                    pub v1 = "spire.api.server.bundle.v1.rs";
                }
            }
            pub mod entry {
                packages! {
                    /// Service `Entry`: registration entries.
                    pub v1 = "spire.api.server.entry.v1.rs";
                }
            }
            pub mod svid {
                packages! {
                    /// Service `SVID`: issuance.
                    pub v1 = "spire.api.server.svid.v1.rs";
                }
            }
        }
    }
}

/// Of Envoy's v3 API, what secret discovery needs.
pub mod envoy {
    /// Core configuration.
    pub mod config {
        /// Messages that everything else builds on.
        pub mod core {
            packages! {
                /// `Node`, `DataSource` and friends.
                pub v3 = "envoy.config.core.v3.rs";
            }
        }
    }
    /// Configuration of extensions.
    pub mod extensions {
        /// Transport sockets.
        pub mod transport_sockets {
            /// TLS.
            pub mod tls {
                packages! {
                    /// `Secret` and what it holds.
                    pub v3 = "envoy.extensions.transport_sockets.tls.v3.rs";
                }
            }
        }
    }
    /// Discovery services.
    pub mod service {
        /// The protocol of discovery.
        pub mod discovery {
            packages! {
                /// Requests and responses, whole and incremental.
                pub v3 = "envoy.service.discovery.v3.rs";
            }
        }
        /// Secret discovery.
        pub mod secret {
            packages! {
                /// Service `SecretDiscoveryService`.
                pub v3 = "envoy.service.secret.v3.rs";
            }
        }
    }
    /// Basic types.
    pub mod r#type {
        packages! {
            /// `SemanticVersion`.
            pub v3 = "envoy.r#type.v3.rs";
        }
    }
}

/// Messages that Google defines for gRPC.
pub mod google {
    packages! {
        /// Error details.
        pub rpc = "google.rpc.rs";
    }
}

/// Our own protocols.
pub mod mintmark {
    /// Between node agents and ca-servers.
    pub mod agent {
        packages! {
            /// Service `Agent`.
            pub v1 = "mintmark.agent.v1.rs";
        }
    }
    /// The node agent's private socket.
    pub mod agentadmin {
        packages! {
            /// Service `AgentAdmin`.
            pub v1 = "mintmark.agentadmin.v1.rs";
        }
    }
    /// The audit log.
    pub mod audit {
        packages! {
            /// Leaves and service `Audit`.
            pub v1 = "mintmark.audit.v1.rs";
        }
    }
    /// Joining and running the cluster.
    pub mod cluster {
        packages! {
            /// Service `Cluster`.
            pub v1 = "mintmark.cluster.v1.rs";
        }
    }
    /// The replicated log and the protocol between ca-servers.
    pub mod raft {
        packages! {
            /// Commands, their results and service `Peer`.
            pub v1 = "mintmark.raft.v1.rs";
        }
    }
    /// Records of the replicated state.
    pub mod state {
        packages! {
            /// Records and the snapshot that holds them.
            pub v1 = "mintmark.state.v1.rs";
        }
    }
}
