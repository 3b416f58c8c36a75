//! Free ports on loopback, all different.

use mintmark_runtime::host::Host;
use mintmark_runtime::network::{Address, Listener};

use crate::failure::{Exit, Failure};

/// Picks `count` free addresses on 127.0.0.1. They are held together while picking, so that no two
/// are alike, and free again afterwards.
pub async fn free(host: &Host, count: usize) -> Result<Vec<String>, Failure> {
    let failed = |e: &dyn std::error::Error| {
        Failure::new(
            "MM-3111",
            Exit::Failure,
            "cannot find free ports on 127.0.0.1",
        )
        .because(e)
    };
    let any: Address = "127.0.0.1:0".parse().map_err(|e| failed(&e))?;
    let mut held: Vec<Box<dyn Listener>> = Vec::with_capacity(count);
    for _ in 0..count {
        held.push(host.network.listen(&any).await.map_err(|e| failed(&e))?);
    }
    Ok(held
        .iter()
        .map(|listener| listener.local_address())
        .collect())
}
