//! What is measured beside Esker's log and belongs to nobody: the simplest correct log.
//!
//! Micro-benchmarks stand in `benches/`, products in the workspace `rivals/`; `cargo xtask bench log` runs the latter.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod simplest;
