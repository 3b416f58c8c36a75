# `just check` writes nothing; `just fix` does. A reviewed diff is never rewritten behind the reviewer.

default: check

# What has to pass before a change is offered.
check:
    cargo fmt --check
    cargo clippy --workspace --all-targets -- -D warnings
    cargo deny --offline check bans licenses sources
    RUSTDOCFLAGS="--cfg tokio_unstable -D warnings" cargo doc --workspace --no-deps
    cargo test --workspace

# Formats, applies the lints that can mend themselves, and regenerates the wire formats.
fix:
    cargo fmt
    cargo clippy --workspace --all-targets --fix --allow-dirty --allow-staged
    cargo run -p mintmark-proto --example regenerate

# The main job.
dev *args:
    cargo run --release -p mintmark -- dev {{args}}

# The measurements of docs/performance.md.
bench:
    cargo run --release -p benches --bin measure
