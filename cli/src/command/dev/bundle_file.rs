//! `DIR/bundle.pem`: the trust bundle for scripts, for as long as the cluster runs.
//!
//! Always: whoever reads it finds a whole bundle, and never one that is older than what was there before.
//! It follows the cluster when the agent is told of a change, and within about a second where it is not
//! (it was banned, or its user's entry deleted); also when servers are killed.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::path::PathBuf;
use std::time::Duration;

use mintmark_identity::bundle::Bundle;
use mintmark_proto::spire::bundle::GetBundleRequest;
use mintmark_proto::spire::bundle::bundle_client::BundleClient;
use mintmark_runtime::grpc::{ChannelOptions, Target, channel};
use mintmark_runtime::host::Host;
use mintmark_workload_api::endpoint::Endpoint;
use mintmark_workload_api::source::Settings;
use mintmark_workload_api::source::x509::X509Source;

use super::layout::{Layout, Plan};
use crate::command::bundle;
use crate::failure::Failure;
use crate::output::note;

/// How often servers are asked, whether there is news or not.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long one may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// The file.
#[derive(Debug)]
pub struct BundleFile {
    host: Host,
    path: PathBuf,
    servers: Vec<PathBuf>,
    sequence: Option<u64>,
}

impl BundleFile {
    /// The file of a cluster.
    pub fn new(layout: &Layout, plan: &Plan, host: &Host) -> Self {
        let servers = plan.servers.iter();
        Self {
            host: host.clone(),
            path: layout.bundle(),
            servers: servers.map(|s| layout.admin_socket(&s.name)).collect(),
            sequence: None,
        }
    }

    /// Keeps the file up to date, and never ends. What keeps it from being written is told once.
    pub async fn keep(mut self, workload_socket: PathBuf) -> Infallible {
        let source = X509Source::spawn(Settings {
            clock: self.host.clock.clone(),
            entropy: self.host.entropy.clone(),
            ..Settings::new(Endpoint::Unix(workload_socket))
        });
        let mut news = source.watch();
        let mut told = BTreeSet::new();
        loop {
            // What the agent says is only a reason to look.
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                Some(_) = news.next() => {}
            }
            if let Err(failure) = self.refresh().await {
                let text = failure.to_string();
                if !told.contains(&text) {
                    note(&text);
                    told.insert(text);
                }
            }
        }
    }

    /// Writes the newest bundle that any server has, unless it stands there. Whether there is one.
    pub async fn refresh(&mut self) -> Result<bool, Failure> {
        let Some(newest) = self.newest().await else {
            return Ok(false);
        };
        if newest.sequence < self.sequence {
            return Ok(true);
        }
        let text = bundle::to_pem(&newest);
        let disk = &*self.host.disk;
        let there = disk.read(&self.path);
        if there.map_or(true, |there| there != text.as_bytes()) {
            disk.write_atomic(&self.path, text.as_bytes(), 0o644)
                .map_err(|e| super::unusable(&self.path, &e))?;
        }
        self.sequence = newest.sequence;
        Ok(true)
    }

    /// A server may be behind, or gone.
    async fn newest(&self) -> Option<Bundle> {
        let mut newest: Option<Bundle> = None;
        for socket in &self.servers {
            let target = Target::Unix(socket.clone());
            let channel = channel(self.host.network.clone(), target, ChannelOptions::default());
            let mut client = BundleClient::new(channel);
            let asked = client.get_bundle(GetBundleRequest::default());
            let Ok(Ok(answer)) = tokio::time::timeout(ANSWER_LIMIT, asked).await else {
                continue;
            };
            let Ok(bundle) = bundle::from_wire(answer.get_ref()) else {
                continue;
            };
            let sequence = newest.as_ref().map(|newest| newest.sequence);
            if sequence.is_none_or(|sequence| sequence < bundle.sequence) {
                newest = Some(bundle);
            }
        }
        newest
    }
}
