//! The program `primary`; see `esker_server::boot`.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    esker_server::boot::primary()
}
