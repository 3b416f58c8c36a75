//! Turns `proto/` into Rust and into descriptor sets.
//!
//! Responsible for: which files are compiled together and with which options.
//! Always holds: the same sources give the same bytes; no compiler outside of
//! cargo is run.
//! Not here: where the result goes (`main.rs` writes it, `tests/bootstrap.rs`
//! compares it).

use std::path::{Path, PathBuf};

use prost_types::FileDescriptorSet;
use tonic_prost_build::Config;

/// Services that SPIRE defines. We answer `Unimplemented` for what we do not
/// offer, so their traits come with default bodies.
const SPIRE: &[&str] = &[
    "spire/api/types/types.proto",
    "spire/api/server/agent/v1/agent.proto",
    "spire/api/server/bundle/v1/bundle.proto",
    "spire/api/server/entry/v1/entry.proto",
    "spire/api/server/svid/v1/svid.proto",
];
const WORKLOAD: &[&str] = &["spiffe/workload/workloadapi.proto"];
const ENVOY: &[&str] = &[
    "envoy/config/core/v3/base.proto",
    "envoy/extensions/transport_sockets/tls/v3/secret.proto",
    "envoy/service/discovery/v3/discovery.proto",
    "envoy/service/secret/v3/sds.proto",
    "envoy/type/v3/semantic_version.proto",
    "google/rpc/status.proto",
];
const MINTMARK: &[&str] = &[
    "mintmark/agent/v1/agent.proto",
    "mintmark/agentadmin/v1/agentadmin.proto",
    "mintmark/audit/v1/audit.proto",
    "mintmark/cluster/v1/cluster.proto",
    "mintmark/raft/v1/command.proto",
    "mintmark/raft/v1/peer.proto",
    "mintmark/raft/v1/store.proto",
    "mintmark/state/v1/state.proto",
];

/// Messages whose `Debug` would print a key or a token: `src/redacted.rs` writes
/// it by hand. A message stands here for its oneofs too.
const SECRET: &[&str] = &[
    ".X509SVID",
    ".JWTSVID",
    ".ValidateJWTSVIDRequest",
    ".WITSVID",
    ".spire.api.types.AttestationData",
    ".spire.api.types.JoinToken",
    ".spire.api.types.JWTSVID",
    ".spire.api.types.WITSVID",
    ".spire.api.server.agent.v1.CreateJoinTokenRequest",
    ".envoy.config.core.v3.DataSource",
    ".envoy.service.discovery.v3.DiscoveryResponse",
    ".envoy.service.discovery.v3.Resource",
    ".mintmark.agent.v1.IssueJwtResponse",
    ".mintmark.cluster.v1.JoinRequest",
    ".mintmark.cluster.v1.CreateServerTokenResponse",
];

/// Why generation failed.
type Error = Box<dyn std::error::Error + Send + Sync>;

/// Writes all generated files under `out`.
pub fn generate(crate_dir: &Path, out: &Path) -> Result<(), Error> {
    let protos = crate_dir.join("proto");
    rust(&protos, SPIRE, true, out)?;
    rust(&protos, &[WORKLOAD, ENVOY, MINTMARK].concat(), false, out)?;

    let descriptors = out.join("descriptors");
    make_dir(&descriptors)?;
    for (name, files) in [
        ("workload_api", WORKLOAD),
        ("spire_server_api", SPIRE),
        ("envoy_sds", ENVOY),
        ("mintmark", MINTMARK),
    ] {
        let set = compile(&protos, files, false)?;
        write(
            &descriptors.join(format!("{name}.bin")),
            &prost::Message::encode_to_vec(&set),
        )?;
    }
    Ok(())
}

fn rust(protos: &Path, files: &[&str], default_stubs: bool, out: &Path) -> Result<(), Error> {
    let mut config = Config::new();
    config
        .default_package_filename("spiffe.workload")
        .enable_type_names()
        .type_name_domain(["."], "type.googleapis.com")
        .btree_map(["."])
        .skip_debug(SECRET);
    tonic_prost_build::configure()
        // Clients are made on a channel of `runtime`, never by a connector of tonic's.
        .build_transport(false)
        .generate_default_stubs(default_stubs)
        .out_dir(out)
        .compile_fds_with_config(compile(protos, files, true)?, config)?;
    Ok(())
}

fn compile(protos: &Path, files: &[&str], with_comments: bool) -> Result<FileDescriptorSet, Error> {
    let mut compiler = protox::Compiler::new([protos])?;
    compiler
        .include_imports(true)
        .include_source_info(with_comments);
    compiler.open_files(files.iter().map(|file| protos.join(file)))?;
    Ok(compiler.file_descriptor_set())
}

/// All files under `dir`, relative to it and sorted.
pub fn files_under(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut found = Vec::new();
    let mut pending = vec![dir.to_path_buf()];
    while let Some(next) = pending.pop() {
        for item in std::fs::read_dir(&next)? {
            let path = item?.path();
            if path.is_dir() {
                pending.push(path);
            } else {
                found.push(path.strip_prefix(dir)?.to_path_buf());
            }
        }
    }
    found.sort();
    Ok(found)
}

#[allow(
    clippy::disallowed_methods,
    reason = "a developer's tool that runs outside of any host"
)]
fn make_dir(path: &Path) -> Result<(), Error> {
    Ok(std::fs::create_dir_all(path)?)
}

#[allow(
    clippy::disallowed_methods,
    reason = "a developer's tool that runs outside of any host"
)]
fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    Ok(std::fs::write(path, bytes)?)
}
