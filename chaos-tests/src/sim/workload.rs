//! A workload: a process that asks the agent on its machine for its identity, and dies and comes back.
//!
//! Always: it uses the client library that applications use; whatever it is given is reported to the
//! oracle at that very moment.
//!
//! Not here: judging what it was given (`crate::oracle`).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mintmark_runtime::grpc::{ChannelOptions, Target, channel};
use mintmark_runtime::testing::MemoryProcess;
use mintmark_workload_api::client::Client;
use mintmark_workload_api::error::ClientError;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::agent::{PIDS_PER_UID, UID_BASE};
use super::machine::name_hash;
use super::plan::Shape;
use super::world::World;

/// How long a workload waits before it asks again.
const PAUSE: Duration = Duration::from_millis(300);

/// The workload of user number `user` on this machine, for as long as the machine runs.
pub async fn live(world: World, machine: String, socket: PathBuf, user: u32, shape: Shape) {
    let uid = UID_BASE + user;
    let lives = world.machine(&machine).lives();
    let seed = shape.seed ^ (u64::from(uid) << 32) ^ (lives << 16) ^ name_hash(&machine);
    let mut draws = SmallRng::seed_from_u64(seed);
    for process in 0..PIDS_PER_UID {
        let pid = uid * PIDS_PER_UID + process;
        let memory = MemoryProcess::new(pid, uid, uid);
        let length = Duration::from_millis(draws.gen_range(5_000..60_000));
        let life = run(&world, &machine, &socket, uid, &memory);
        let _ = tokio::time::timeout(length, life).await;
        memory.kill();
        let at = world.time.elapsed();
        world.lock().oracle.process_ended(at, &machine, uid);
        tokio::time::sleep(Duration::from_millis(draws.gen_range(0..500))).await;
    }
}

async fn run(world: &World, machine: &str, socket: &Path, uid: u32, process: &MemoryProcess) {
    let sockets = world.machine(machine).sockets().for_process(process);
    let options = ChannelOptions {
        connect_timeout: Duration::from_secs(2),
        ..ChannelOptions::default()
    };
    let target = Target::Unix(socket.to_owned());
    let mut client = Client::over(channel(Arc::new(sockets), target, options));
    let tokens = ask_for_tokens(world, machine, uid, client.clone());
    let updates = follow(world, machine, uid, &mut client);
    tokio::join!(tokens, updates);
}

/// Follows the stream of SVIDs, for ever.
async fn follow(world: &World, machine: &str, uid: u32, client: &mut Client) {
    loop {
        if let Ok(mut stream) = client.watch_x509().await {
            while let Ok(update) = stream.next().await {
                let now = world.machine(machine).clock().clone();
                let at = world.time.elapsed();
                let mut inner = world.lock();
                let what = inner.oracle.received(at, &now, machine, uid, update);
                inner
                    .trace
                    .add(at, machine, &format!("user {uid} has {what}"));
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// How often a workload asks for a token.
const TOKEN_PERIOD: Duration = Duration::from_secs(4);
/// For whom.
const AUDIENCE: &str = "reports";

/// Asks for tokens, for ever.
async fn ask_for_tokens(world: &World, machine: &str, uid: u32, mut client: Client) {
    loop {
        tokio::time::sleep(TOKEN_PERIOD).await;
        ask_for_token(world, machine, uid, &mut client).await;
    }
}

async fn ask_for_token(world: &World, machine: &str, uid: u32, client: &mut Client) {
    let audience = [AUDIENCE.to_owned()];
    let asked = client.fetch_jwt(&audience, None);
    let Ok(Ok(tokens)) = tokio::time::timeout(TOKEN_PERIOD, asked).await else {
        return;
    };
    for token in tokens {
        let valid = client.validate_jwt(AUDIENCE, &token.token).await;
        let at = world.time.elapsed();
        let mut inner = world.lock();
        let verdict = match valid {
            Ok(_) => Some(Ok(())),
            Err(error @ ClientError::Invalid(_)) => Some(Err(error.to_string())),
            // The agent was banned, ended or cut off since it gave the token.
            Err(_) => None,
        };
        let words = match &verdict {
            Some(Ok(())) => "a token",
            Some(Err(_)) => "a token that is not valid",
            None => "a token that nobody judged",
        };
        inner.trace.add(
            at,
            machine,
            &format!("user {uid} has {words} of {}", token.spiffe_id),
        );
        inner.oracle.token(at, machine, uid, &token, verdict);
    }
}
