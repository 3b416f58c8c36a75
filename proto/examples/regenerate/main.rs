//! `cargo run -p mintmark-proto --example regenerate`: writes `src/gen` anew.
//!
//! Responsible for: replacing the committed files after a change under `proto/`.
//! Always holds: what it writes is what `tests/bootstrap.rs` compares with.
//! Not here: the options of generation (`generate.rs`).

mod generate;

use std::path::Path;

#[allow(
    clippy::disallowed_methods,
    reason = "a developer's tool that runs outside of any host"
)]
fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = crate_dir.join("src/gen");
    std::fs::create_dir_all(&out)?;
    for stale in generate::files_under(&out)? {
        std::fs::remove_file(out.join(stale))?;
    }
    generate::generate(crate_dir, &out)
}
