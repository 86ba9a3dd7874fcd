//! Concurrency primitives of Esker.
//!
//! Each primitive is a small module that states its invariants, its reason to exist and its
//! memory-ordering argument. All of them stand on [`shim`], which is std and parking_lot in a
//! normal build and loom under `--cfg esker_loom`; `loom-tests/` holds a model of each, beside a
//! broken twin that loom must catch. No I/O here.
#![forbid(unsafe_code)]

pub mod shim;
