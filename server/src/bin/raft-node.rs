//! The program `raft-node`; see `esker_server::raft_node`.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    esker_server::raft_node::main()
}
