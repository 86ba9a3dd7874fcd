//! The ZeroMQ library underneath: which one it is and what it can do.

/// The libzmq this process runs with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZmqVersion {
    /// Major, minor, patch.
    pub version: (i32, i32, i32),
    /// Whether it was built with CURVE, without which keys can't be used (R6).
    pub curve: bool,
}

impl std::fmt::Display for ZmqVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (major, minor, patch) = self.version;
        let curve = if self.curve { "with" } else { "without" };
        write!(f, "libzmq {major}.{minor}.{patch}, {curve} CURVE")
    }
}

/// Asks the library that is linked.
#[must_use]
pub fn zmq_version() -> ZmqVersion {
    ZmqVersion {
        version: zmq::version(),
        curve: zmq::has("curve").unwrap_or(false),
    }
}
