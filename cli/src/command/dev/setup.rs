//! Bringing a development cluster up: the first server makes the cluster, the others join it, the
//! agent attests by a token, and the current user is registered.
//!
//! Every step asks first what is there already, so a second start on the same directory, or one that
//! was interrupted, goes on from where it is.

use std::time::Duration;

use mintmark_identity::spiffe_id::SpiffeId;
use mintmark_identity::trust_domain::TrustDomain;
use mintmark_proto::mintmark::cluster::v1 as cluster;
use mintmark_proto::mintmark::cluster::v1::cluster_client::ClusterClient;
use mintmark_proto::spire::agent as agent_api;
use mintmark_proto::spire::agent::agent_client::AgentClient;
use mintmark_proto::spire::entry as entry_api;
use mintmark_proto::spire::entry::entry_client::EntryClient;
use mintmark_runtime::grpc::{ChannelOptions, Target, channel};
use mintmark_workload_api::client::Client;
use mintmark_workload_api::endpoint::Endpoint;
use tonic::transport::Channel;

use super::bundle_file::BundleFile;
use super::children::Daemon;
use super::config::{self, Join};
use super::layout::{LOGS, Layout, Plan, PlannedServer};
use super::running::{AGENT, Running};
use super::shape::Shape;
use super::{DevArgs, Ready};
use crate::command::entry::document::{EntryDocument, SelectorDocument, spiffe_id};
use crate::connect::request;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::note;

/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Life of the tokens that are made and used at once.
const TOKEN_TTL_SECONDS: u32 = 600;

/// Starts everything; returns once an SVID can be fetched.
pub async fn start(
    args: &DevArgs,
    layout: &Layout,
    plan: &Plan,
    running: &mut Running,
    context: &Context,
) -> Result<Ready, Failure> {
    let up = Up {
        args,
        layout,
        plan,
        context,
    };
    up.directories()?;
    let status = up.servers(running).await?;
    let ready = up.register().await?;
    up.agent(&status, &ready, running).await?;
    up.write_bundle().await?;
    up.first_svid(&ready, running).await?;
    Ok(ready)
}

struct Up<'a> {
    args: &'a DevArgs,
    layout: &'a Layout,
    plan: &'a Plan,
    context: &'a Context,
}

impl Up<'_> {
    fn directories(&self) -> Result<(), Failure> {
        let disk = &*self.context.host.disk;
        // Only the Workload API is for everybody on this machine.
        for (name, mode) in [
            ("public", 0o755),
            ("admin", 0o700),
            ("config", 0o700),
            (LOGS, 0o700),
            ("data", 0o700),
            ("keys", 0o700),
        ] {
            let path = self.layout.root().join(name);
            disk.create_dir_all(&path, mode)
                .map_err(|e| super::unusable(&path, &e))?;
        }
        Ok(())
    }

    /// Starts the servers; those that never ran join the first.
    async fn servers(&self, running: &mut Running) -> Result<cluster::Status, Failure> {
        let disk = &*self.context.host.disk;
        let known = |s: &PlannedServer| disk.exists(&self.layout.config(&s.name)).unwrap_or(false);
        let (old, new): (Vec<_>, Vec<_>) = self.plan.servers.iter().partition(|s| known(s));
        for server in &old {
            self.start_daemon(&server.name, "server", running)?;
        }
        let mut new = new.into_iter();
        if old.is_empty()
            && let Some(first) = new.next()
        {
            self.write_config(&first.name, &self.server_file(first, None)?)?;
            self.start_daemon(&first.name, "server", running)?;
        }
        let status = self.leader(running, 1).await?;
        for server in new {
            self.join(server, running).await?;
        }
        if self.plan.servers.len() > 1 {
            return self.leader(running, self.plan.servers.len()).await;
        }
        Ok(status)
    }

    async fn join(&self, server: &PlannedServer, running: &mut Running) -> Result<(), Failure> {
        let first = self.first()?;
        let asked = cluster::CreateServerTokenRequest {
            ttl_seconds: u64::from(TOKEN_TTL_SECONDS),
        };
        let token = request(
            "make a server token",
            ClusterClient::new(self.admin(first)).create_server_token(asked),
        )
        .await?;
        let token_file = self.write_token(&server.name, &token.token)?;
        let pin = hex::encode(&token.pin);
        let join = Join {
            address: &first.api,
            token_file: &token_file,
            pin: &pin,
        };
        self.write_config(&server.name, &self.server_file(server, Some(join))?)?;
        self.start_daemon(&server.name, "server", running)?;
        // One membership change at a time.
        let members = running.servers();
        self.leader(running, members).await.map(|_| ())
    }

    fn server_file(
        &self,
        server: &PlannedServer,
        join: Option<Join<'_>>,
    ) -> Result<String, Failure> {
        config::server(
            self.plan.shape.unwrap_or_else(|| Shape::of(self.args)),
            self.layout,
            &self.plan.trust_domain,
            server,
            join,
        )
    }

    /// Waits for a leader that counts `voters` voters.
    async fn leader(
        &self,
        running: &mut Running,
        voters: usize,
    ) -> Result<cluster::Status, Failure> {
        loop {
            running.check(self.layout, &*self.context.host.disk)?;
            for server in &self.plan.servers {
                let socket = self.layout.admin_socket(&server.name);
                if self
                    .context
                    .host
                    .network
                    .connect_unix(&socket)
                    .await
                    .is_err()
                {
                    continue;
                }
                let mut client = ClusterClient::new(self.admin(server));
                if let Ok(status) = client.get_status(cluster::GetStatusRequest {}).await {
                    let status = status.into_inner();
                    let counted = status.members.iter().filter(|member| member.voter).count();
                    if status.leader != 0 && counted >= voters {
                        return Ok(status);
                    }
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Registers the user who runs this, once.
    async fn register(&self) -> Result<Ready, Failure> {
        let trust_domain: TrustDomain = self.plan.trust_domain.parse().map_err(|e| {
            Failure::new("MM-3102", Exit::Usage, "the plan names no trust domain").because(&e)
        })?;
        let uid = nix::unistd::Uid::current();
        let name = nix::unistd::User::from_uid(uid)
            .ok()
            .flatten()
            .map(|user| user.name);
        let by_name = name.and_then(|n| SpiffeId::from_segments(&trust_domain, &["user", &n]).ok());
        let id = match by_name {
            Some(id) => id.to_string(),
            None => format!("spiffe://{trust_domain}/user/{uid}"),
        };
        let ready = Ready {
            workload_spiffe_id: id,
            node_alias: format!("spiffe://{trust_domain}/node/dev"),
        };
        let entry = EntryDocument {
            spiffe_id: ready.workload_spiffe_id.clone(),
            parent_id: ready.node_alias.clone(),
            selectors: vec![SelectorDocument::Text(format!("unix:uid:{uid}"))],
            ..EntryDocument::default()
        };
        let asked = entry_api::BatchCreateEntryRequest {
            entries: vec![entry.to_wire()?],
            output_mask: None,
        };
        let made = self
            .retried("register you", || {
                let mut client = EntryClient::new(self.any_admin());
                let asked = asked.clone();
                async move { client.batch_create_entry(asked).await }
            })
            .await?;
        match made
            .results
            .first()
            .and_then(|result| result.status.as_ref())
        {
            Some(status)
                if status.code != 0 && status.code != tonic::Code::AlreadyExists as i32 =>
            {
                let status =
                    tonic::Status::new(tonic::Code::from(status.code), status.message.clone());
                Err(Failure::from_status("register you", &status))
            }
            _ => Ok(ready),
        }
    }

    async fn agent(
        &self,
        status: &cluster::Status,
        ready: &Ready,
        running: &mut Running,
    ) -> Result<(), Failure> {
        let disk = &*self.context.host.disk;
        if !disk.exists(&self.layout.config(AGENT)).unwrap_or(false) {
            let token_file = self.agent_token(ready).await?;
            let pin = hex::encode(&status.trust_domain_key_pin);
            let text = config::agent(
                self.layout,
                &self.plan.trust_domain,
                &self.plan.servers,
                &token_file,
                &pin,
            )?;
            self.write_config(AGENT, &text)?;
        }
        self.start_daemon(AGENT, "agent", running)
    }

    /// A new token for the agent, where its configuration says.
    async fn agent_token(&self, ready: &Ready) -> Result<std::path::PathBuf, Failure> {
        let asked = agent_api::CreateJoinTokenRequest {
            ttl: i32::try_from(TOKEN_TTL_SECONDS).unwrap_or(i32::MAX),
            agent_id: Some(spiffe_id("the node", &ready.node_alias)?),
            ..Default::default()
        };
        let token = request(
            "make a join token",
            AgentClient::new(self.any_admin()).create_join_token(asked),
        )
        .await?;
        self.write_token(AGENT, &token.value)
    }

    async fn write_bundle(&self) -> Result<(), Failure> {
        let mut file = BundleFile::new(self.layout, self.plan, &self.context.host);
        while !file.refresh().await? {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// Waits until the agent serves this user. One that was denied before this start gets another
    /// token, once: it is another node then.
    async fn first_svid(&self, ready: &Ready, running: &mut Running) -> Result<(), Failure> {
        let endpoint = Endpoint::Unix(self.layout.workload_socket());
        let mut renewed = false;
        loop {
            if !renewed && running.agent_is_denied() {
                renewed = true;
                note("the agent was banned or evicted before: it joins anew, with another token");
                self.agent_token(ready).await?;
                self.start_daemon(AGENT, "agent", running)?;
            }
            running.check(self.layout, &*self.context.host.disk)?;
            if let Ok(mut client) = Client::connect(&endpoint).await
                && client.fetch_x509().await.is_ok()
            {
                return Ok(());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Repeats a call that changes nothing when repeated, while the cluster finds itself.
    async fn retried<T, F>(&self, doing: &str, mut call: impl FnMut() -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    {
        loop {
            match call().await {
                Ok(response) => return Ok(response.into_inner()),
                Err(status) if status.code() == tonic::Code::Unavailable => {
                    tokio::time::sleep(LOOK_EVERY).await;
                }
                Err(status) => return Err(Failure::from_status(doing, &status)),
            }
        }
    }

    fn start_daemon(&self, name: &str, role: &str, running: &mut Running) -> Result<(), Failure> {
        let path = self.layout.log(name);
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path);
        let log = log.map_err(|e| super::unusable(&path, &e))?;
        running.add(Daemon::start(name, role, &self.layout.config(name), log)?);
        Ok(())
    }

    fn write_config(&self, name: &str, text: &str) -> Result<(), Failure> {
        let path = self.layout.config(name);
        let disk = &*self.context.host.disk;
        disk.write_atomic(&path, text.as_bytes(), 0o600)
            .map_err(|e| super::unusable(&path, &e))
    }

    fn write_token(&self, daemon: &str, text: &str) -> Result<std::path::PathBuf, Failure> {
        let path = self.layout.token(daemon);
        let disk = &*self.context.host.disk;
        disk.write_atomic(&path, text.as_bytes(), 0o600)
            .map_err(|e| super::unusable(&path, &e))?;
        Ok(path)
    }

    fn first(&self) -> Result<&PlannedServer, Failure> {
        self.plan
            .servers
            .first()
            .ok_or_else(|| Failure::new("MM-3102", Exit::Usage, "the plan has no server"))
    }

    fn admin(&self, server: &PlannedServer) -> Channel {
        let socket = self.layout.admin_socket(&server.name);
        channel(
            self.context.host.network.clone(),
            Target::Unix(socket),
            ChannelOptions::default(),
        )
    }

    fn any_admin(&self) -> Channel {
        let socket = self.layout.admin_socket("server-1");
        channel(
            self.context.host.network.clone(),
            Target::Unix(socket),
            ChannelOptions::default(),
        )
    }
}
