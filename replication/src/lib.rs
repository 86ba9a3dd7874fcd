//! `esker-replication`: streams an Esker log from a primary to replicas over ZeroMQ.
#![deny(missing_docs)]
#![forbid(unsafe_code)]

pub mod transport;
