#![no_main]

#[path = "../bodies/raft_log.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| body::check(data));
