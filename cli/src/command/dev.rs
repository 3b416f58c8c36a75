//! `mintmark dev`: a whole cluster on this machine, to develop and test with.
//!
//! Real crypto, real attestation, real files; loopback only, no root, no prompts. Servers and agent are
//! processes of their own with configuration files that an operator would recognise; everything they
//! need lies below one directory, which goes away with the cluster unless it was named.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Args;
use mintmark_identity::entropy::draw_bytes;
use mintmark_identity::trust_domain::TrustDomain;
use mintmark_runtime::disk::Disk;
use mintmark_runtime::host::Host;
use nix::sys::signal::Signal;

use crate::context::Context;
use crate::duration::Seconds;
use crate::failure::{Exit, Failure};
use crate::output::{Format, note};

pub mod banner;
mod bundle_file;
pub mod children;
mod config;
pub mod endpoints;
mod exec;
pub mod layout;
mod ports;
mod running;
mod setup;
pub mod shape;

use banner::Banner;
use bundle_file::BundleFile;
use endpoints::{Endpoints, ServerEndpoint};
use layout::{Layout, Plan, PlannedServer};
use running::{AGENT, Running};
use shape::{Pq, Shape};

/// How long the cluster may take to serve its first SVID before `dev` gives up.
const START_LIMIT: Duration = Duration::from_secs(60);

/// `dev`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mintmark dev                                   one server, one agent, gone on Ctrl-C
  mintmark dev --servers 3 --x509-ttl 30s        a real Raft trio; watch SVIDs rotate
  mintmark dev --pq hybrid                       certificates with a post-quantum signature
  mintmark dev --dir ./cluster                   keeps its state
  mintmark dev --exec -- mintmark x509 fetch     runs a command that has an identity

With --exec the command finds the cluster by itself: SPIFFE_ENDPOINT_SOCKET and MINTMARK_DIR are set.
The exit code is the command's.

A directory is a cluster of one shape: a second start needs none of the flags that made it, and refuses
those that differ.")]
pub struct DevArgs {
    /// How many ca-servers; 1 if absent.
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=9))]
    pub servers: Option<u8>,
    /// Keep the state in this directory, and start from it.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Name of the trust domain; drawn if absent.
    #[arg(long, value_name = "NAME")]
    pub trust_domain: Option<TrustDomain>,
    /// Lifetime of X.509-SVIDs; 2m if absent.
    #[arg(long, value_name = "DURATION")]
    pub x509_ttl: Option<Seconds>,
    /// Lifetime of authorities; at least six times that of SVIDs.
    #[arg(long, value_name = "DURATION")]
    pub ca_ttl: Option<Seconds>,
    /// Post-quantum signatures; off if absent.
    #[arg(long, value_enum)]
    pub pq: Option<Pq>,
    /// Run a command once the first SVID can be fetched; end with it.
    #[arg(long, requires = "command")]
    pub exec: bool,
    /// The command, after `--`.
    #[arg(last = true, value_name = "CMD", requires = "exec")]
    pub command: Vec<String>,
}

/// Runs `mintmark dev`; the result is the exit code of the command that `--exec` ran.
pub async fn run(args: DevArgs, context: &Context) -> Result<u8, Failure> {
    let started = tokio::time::Instant::now();
    let (root, temporary) = directory(&args, &context.host)?;
    let layout = Layout::new(root)?;
    // Looked at once more when the directory is ours; here nothing is touched yet.
    shape::of_earlier_start(&args, &layout, &*context.host.disk)?;
    let outcome = cluster(&args, &layout, temporary, started, context).await;
    if temporary {
        let logs_are_wanted = outcome.as_ref().is_err_and(Failure::is_about_daemons);
        remove(layout.root(), logs_are_wanted, &*context.host.disk);
    }
    outcome
}

async fn cluster(
    args: &DevArgs,
    layout: &Layout,
    temporary: bool,
    started: tokio::time::Instant,
    context: &Context,
) -> Result<u8, Failure> {
    let disk = &*context.host.disk;
    // Others may pass through a temporary one to the workloads' socket, and see and change nothing.
    let mode = if temporary { 0o711 } else { 0o755 };
    disk.create_dir_all(layout.root(), mode)
        .map_err(|e| unusable(layout.root(), &e))?;
    let _held = disk
        .lock_exclusive(&layout.root().join("dev.lock"))
        .map_err(|e| match e.kind() {
            std::io::ErrorKind::WouldBlock => held(layout.root()),
            _ => unusable(layout.root(), &e),
        })?;
    let mut running = Running::default();
    let commanded = AtomicBool::new(false);
    let outcome = tokio::select! {
        biased;
        outcome = start_and_stay(args, layout, temporary, (started, &commanded), &mut running, context) => outcome,
        signal = ended_before_the_command(&commanded) => {
            note("ending");
            // Ctrl-C is how one ends a cluster; a job that was cancelled did not succeed.
            Ok(if args.exec { exec::code_of_signal(signal) } else { 0 })
        }
    };
    if outcome.as_ref().is_err_and(Failure::is_about_daemons) {
        running.tell_logs(layout);
    }
    running.stop().await;
    let _ = disk.remove_file(&layout.endpoints());
    outcome
}

async fn start_and_stay(
    args: &DevArgs,
    layout: &Layout,
    temporary: bool,
    (started, commanded): (tokio::time::Instant, &AtomicBool),
    running: &mut Running,
    context: &Context,
) -> Result<u8, Failure> {
    let plan = plan(args, layout, &context.host).await?;
    let ready = setup::start(args, layout, &plan, running, context);
    let ready = tokio::time::timeout(START_LIMIT, ready)
        .await
        .map_err(|_| {
            Failure::new(
                "MM-3120",
                Exit::Timeout,
                "the cluster does not serve an SVID",
            )
            .why(format!("not within {} s", START_LIMIT.as_secs()))
            .next(format!(
                "look into {}",
                layout.root().join(layout::LOGS).display()
            ))
        })??;
    let endpoints = ready.endpoints(layout, &plan, running);
    layout::write_json(&*context.host.disk, &layout.endpoints(), &endpoints)?;
    let elapsed = started.elapsed().as_millis();
    let staying = async {
        if args.exec {
            commanded.store(true, Ordering::SeqCst);
            return exec::run(&args.command, layout, &endpoints).await;
        }
        let banner = Banner {
            version: env!("CARGO_PKG_VERSION"),
            endpoints: &endpoints,
            directory: &layout.root().display().to_string(),
            temporary,
            ready_after_ms: elapsed,
        };
        match context.output.format() {
            Format::Table | Format::Wide => context.output.raw(&banner.text())?,
            Format::Json | Format::Yaml => context.output.structured(&endpoints)?,
        }
        running.watch(layout, &ready, &*context.host.disk).await
    };
    let bundle = BundleFile::new(layout, &plan, &context.host);
    tokio::select! {
        outcome = staying => outcome,
        never = bundle.keep(layout.workload_socket()) => match never {},
    }
}

/// What a start found out.
#[derive(Debug)]
pub struct Ready {
    /// SPIFFE ID of the user who started the cluster.
    pub workload_spiffe_id: String,
    /// Parent of entries.
    pub node_alias: String,
}

impl Ready {
    fn endpoints(&self, layout: &Layout, plan: &Plan, running: &Running) -> Endpoints {
        let pid = |name: &str| running.pid(name).unwrap_or(0);
        Endpoints {
            version: 1,
            trust_domain: plan.trust_domain.clone(),
            workload_socket: format!("unix://{}", layout.workload_socket().display()),
            agent_admin_socket: layout.admin_socket(AGENT),
            bundle: layout.bundle(),
            workload_spiffe_id: self.workload_spiffe_id.clone(),
            node_alias: self.node_alias.clone(),
            agent_pid: pid(AGENT),
            servers: plan
                .servers
                .iter()
                .map(|server| ServerEndpoint {
                    name: server.name.clone(),
                    api: server.api.clone(),
                    peer: server.peer.clone(),
                    admin_socket: layout.admin_socket(&server.name),
                    http: server.http.clone(),
                    pid: pid(&server.name),
                })
                .collect(),
        }
    }
}

/// Where the cluster lives, and whether it goes away with it.
fn directory(args: &DevArgs, host: &Host) -> Result<(PathBuf, bool), Failure> {
    if let Some(dir) = &args.dir {
        let absolute = std::path::absolute(dir).map_err(|e| unusable(dir, &e))?;
        return Ok((absolute, false));
    }
    #[expect(
        clippy::disallowed_methods,
        reason = "the command line reads its environment here"
    )]
    let runtime = std::env::var_os("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute() && path.is_dir());
    let tag = hex::encode(draw_bytes::<8>(&*host.entropy));
    Ok((temporary(runtime, &std::env::temp_dir(), &tag), true))
}

/// A directory of our own. In the temporary directory of all users nothing of it is shared: a folder
/// between would be of whoever came first, who could put another cluster in its place.
fn temporary(runtime: Option<PathBuf>, everybodys: &Path, tag: &str) -> PathBuf {
    match runtime {
        Some(ours) => ours.join("mintmark").join(format!("dev-{tag}")),
        None => everybodys.join(format!("mintmark-dev-{tag}")),
    }
}

/// The plan of an earlier start, or a new one.
async fn plan(args: &DevArgs, layout: &Layout, host: &Host) -> Result<Plan, Failure> {
    if let Some(plan) = shape::of_earlier_start(args, layout, &*host.disk)? {
        return Ok(plan);
    }
    let trust_domain = match &args.trust_domain {
        Some(name) => name.as_str().to_owned(),
        None => format!(
            "dev.localhost-{}",
            hex::encode(draw_bytes::<3>(&*host.entropy))
        ),
    };
    let count = shape::servers(args);
    let mut ports = ports::free(host, count.saturating_mul(3))
        .await?
        .into_iter();
    let mut next = || ports.next().unwrap_or_default();
    let servers = (1..=count)
        .map(|n| PlannedServer {
            name: format!("server-{n}"),
            api: next(),
            peer: next(),
            http: next(),
        })
        .collect();
    let plan = Plan {
        version: 1,
        trust_domain,
        servers,
        shape: Some(Shape::of(args)),
    };
    layout.write_plan(&*host.disk, &plan)?;
    Ok(plan)
}

/// Waits for SIGINT or SIGTERM, and says which; once the command of `--exec` runs, it is the one who is
/// told (`exec`).
async fn ended_before_the_command(commanded: &AtomicBool) -> Signal {
    let signal = interrupted().await;
    if commanded.load(Ordering::SeqCst) {
        return std::future::pending().await;
    }
    signal
}

/// Waits for SIGINT or SIGTERM, and says which.
pub(super) async fn interrupted() -> Signal {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut int), Ok(mut term)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    ) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = int.recv() => Signal::SIGINT,
        _ = term.recv() => Signal::SIGTERM,
    }
}

fn unusable(path: &Path, cause: &std::io::Error) -> Failure {
    Failure::new(
        "MM-3100",
        Exit::Failure,
        format!("cannot use {}", path.display()),
    )
    .because(cause)
}

fn held(path: &Path) -> Failure {
    let what = format!("cannot use {}", path.display());
    Failure::new("MM-3100", Exit::Failure, what)
        .why("another `mintmark dev` runs on it")
        .next("stop that one first, or choose another directory with --dir")
}

/// Removes a directory that is ours, because we made it; the logs stay if an error speaks of them.
fn remove(root: &Path, keep_logs: bool, disk: &dyn Disk) {
    if !keep_logs {
        let _ = std::fs::remove_dir_all(root);
        return;
    }
    for entry in std::fs::read_dir(root).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_name() == layout::LOGS {
            continue;
        }
        let _ = std::fs::remove_dir_all(&path).or_else(|_| disk.remove_file(&path));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "tests")]
    fn the_logs_outlive_a_failed_cluster_and_nothing_else_does() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("dev-1");
        let made = || {
            for name in [layout::LOGS, "keys", "data"] {
                std::fs::create_dir_all(root.join(name)).unwrap();
                std::fs::File::create_new(root.join(name).join("file")).unwrap();
            }
            std::fs::File::create_new(root.join("dev.json")).unwrap();
        };
        made();
        remove(&root, true, &*Host::os().disk);
        let left: Vec<_> = std::fs::read_dir(&root).unwrap().flatten().collect();
        assert_eq!(left.len(), 1, "{left:?}");
        assert!(root.join(layout::LOGS).join("file").exists());
        remove(&root, false, &*Host::os().disk);
        assert!(!root.exists());
    }

    #[test]
    fn nothing_of_a_temporary_cluster_lies_in_a_folder_that_others_may_own() {
        let everybodys = Path::new("/tmp");
        let root = temporary(None, everybodys, "00ff");
        assert_eq!(root.parent(), Some(everybodys));
        let ours = PathBuf::from("/run/user/7");
        let root = temporary(Some(ours.clone()), everybodys, "00ff");
        assert!(root.starts_with(ours));
    }
}
