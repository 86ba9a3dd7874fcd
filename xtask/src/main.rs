//! The project's own commands: `cargo xtask ci` and friends.
#![forbid(unsafe_code)]
fn main() {}
