//! `mintmark version`: what this binary is.

use mintmark_runtime::{failpoint, mutation};
use serde::Serialize;

use crate::context::Context;
use crate::failure::Failure;

#[derive(Serialize)]
struct Version {
    version: &'static str,
    profile: &'static str,
    target: String,
    failpoints: bool,
    mutations: bool,
    agent_protocol: &'static str,
    peer_protocol: &'static str,
}

/// Prints the version.
pub fn run(context: &Context) -> Result<(), Failure> {
    let version = Version {
        version: env!("CARGO_PKG_VERSION"),
        profile: if cfg!(debug_assertions) {
            "debug"
        } else {
            "release"
        },
        target: format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
        failpoints: failpoint::COMPILED_IN,
        mutations: mutation::COMPILED_IN,
        agent_protocol: "mintmark.agent.v1",
        peer_protocol: "mintmark.raft.v1",
    };
    let mut fields = vec![
        ("version", version.version.to_owned()),
        ("profile", version.profile.to_owned()),
        ("target", version.target.clone()),
        ("agent protocol", version.agent_protocol.to_owned()),
        ("peer protocol", version.peer_protocol.to_owned()),
    ];
    if version.failpoints {
        fields.push(("failpoints", "compiled in: for tests only".to_owned()));
    }
    if version.mutations {
        fields.push(("mutations", "compiled in: for tests only".to_owned()));
    }
    context.output.one(&version, &fields)
}
