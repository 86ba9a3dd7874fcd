//! Builds libzmq 4.3.5 from the sources in `zeromq-src`, with libsodium's CURVE.
//!
//! `zeromq-src` leaves libzmq's `platform.hpp` empty and sets a few defines only: without the ones
//! below the keep-alive options return success and do nothing, descriptors are inherited by child
//! processes, and threads are woken through socket pairs. Its builder takes no defines, but the `cc`
//! crate under it reads `CXXFLAGS`, so they go in there, before what the user has set.
//!
//! Not run at all when a system libzmq was chosen by a `links` override; see replication/README.md.

use std::env;
use std::path::PathBuf;

/// What libzmq's own configure finds on Linux with glibc or musl.
const LINUX: &[&str] = &[
    // Signalling between threads by eventfd.
    "ZMQ_HAVE_EVENTFD",
    "ZMQ_HAVE_EVENTFD_CLOEXEC",
    // No descriptor leaks into a child process.
    "ZMQ_HAVE_O_CLOEXEC",
    "ZMQ_HAVE_SOCK_CLOEXEC",
    "ZMQ_IOTHREAD_POLLER_USE_EPOLL_CLOEXEC",
    "HAVE_ACCEPT4",
    // Keep-alive reaches the socket.
    "ZMQ_HAVE_SO_KEEPALIVE",
    "ZMQ_HAVE_TCP_KEEPCNT",
    "ZMQ_HAVE_TCP_KEEPIDLE",
    "ZMQ_HAVE_TCP_KEEPINTVL",
    // The rest of what the platform has.
    "HAVE_CLOCK_GETTIME",
    "HAVE_FORK",
    "HAVE_IF_NAMETOINDEX",
    "HAVE_MKDTEMP",
    "HAVE_POSIX_MEMALIGN=1",
    "ZMQ_CACHELINE_SIZE=64",
    "ZMQ_HAVE_IFADDRS",
    "ZMQ_HAVE_NOEXCEPT",
    "ZMQ_HAVE_PTHREAD_SETNAME_2",
    "ZMQ_HAVE_SO_PEERCRED",
];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=CXXFLAGS");

    let linux = env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux");
    // Warnings in libzmq are its own authors' to mend.
    let mut flags = String::from("-w");
    for define in if linux { LINUX } else { &[] } {
        flags.push_str(" -D");
        flags.push_str(define);
    }
    if let Ok(given) = env::var("CXXFLAGS") {
        flags.push(' ');
        flags.push_str(&given);
    }
    // SAFETY: the build script has one thread, here and until `build` below starts the compilers.
    unsafe { env::set_var("CXXFLAGS", flags) };
    // A dev build streams through the same library as a release build: optimised, without assertions.
    // SAFETY: as above.
    unsafe { env::set_var("OPT_LEVEL", "2") };
    // SAFETY: as above.
    unsafe { env::set_var("DEBUG", "false") };

    let mut build = zeromq_src::Build::new();
    // Absent when libsodium is a system library chosen by pkg-config: its headers are on the default path.
    let sodium = |what: &str| env::var_os(format!("DEP_SODIUM_{what}")).map(PathBuf::from);
    let location = zeromq_src::LibLocation::new(
        sodium("LIB").unwrap_or_else(|| "/usr/lib".into()),
        sodium("INCLUDE").unwrap_or_else(|| "/usr/include".into()),
    );
    build.with_libsodium(Some(location));
    build.build();
}
