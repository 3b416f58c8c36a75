//! `mintmark`, the one binary people install.
//!
//! `main` turns an outcome into output and an exit code; every command is a file in `command/`.

mod failure;
mod output;

fn main() {}
