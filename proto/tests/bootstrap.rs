//! The committed `src/gen` is what `proto/` gives today.
//!
//! Responsible for: failing when either changes without the other.
//! Always holds: nothing in the source tree is written.
//! Not here: writing `src/gen` (`cargo run -p mintmark-proto --example regenerate`).

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::panic,
    reason = "tests"
)]

#[path = "../examples/regenerate/generate.rs"]
mod generate;

use std::path::Path;

#[test]
fn committed_code_is_what_the_definitions_give() {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    let committed = crate_dir.join("src/gen");
    let fresh = tempfile::tempdir().unwrap();
    generate::generate(crate_dir, fresh.path()).unwrap();

    let names = generate::files_under(fresh.path()).unwrap();
    assert!(names.len() > 10, "generation gave only {names:?}");
    assert_eq!(
        generate::files_under(&committed).unwrap(),
        names,
        "run: cargo run -p mintmark-proto --example regenerate"
    );
    for name in names {
        assert!(
            std::fs::read(committed.join(&name)).unwrap()
                == std::fs::read(fresh.path().join(&name)).unwrap(),
            "{} is stale; run: cargo run -p mintmark-proto --example regenerate",
            name.display()
        );
    }
}

#[test]
fn two_generations_are_equal() {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    generate::generate(crate_dir, one.path()).unwrap();
    generate::generate(crate_dir, two.path()).unwrap();
    for name in generate::files_under(one.path()).unwrap() {
        let read = |dir: &Path| std::fs::read(dir.join(&name)).unwrap();
        assert!(read(one.path()) == read(two.path()), "{}", name.display());
    }
}
