//! Options of the core, checked before they are used.

/// Options. Each is read by the core; none is optional in spirit.
#[derive(Clone, Debug)]
pub struct Options {
    /// Ticks without a leader after which a node campaigns, at least; each time up to twice as many, at random. A node that
    /// heard from a leader within so many ticks votes for nobody else. Default 10, at least 2.
    pub election_ticks: u32,
    /// Ticks between heartbeats. Default 2; less than half of `election_ticks`.
    pub heartbeat_ticks: u32,
    /// Bytes of entries in one append message, at most (one entry always goes). Default 1 MiB.
    pub append_bytes_max: usize,
    /// Append messages on their way to one peer, at most. Default 128.
    pub inflight_messages_max: usize,
    /// Bytes on their way to one peer, at most. Default 16 MiB.
    pub inflight_bytes_max: usize,
    /// Bytes of entries that the leader took and that are not committed, at most (one entry is always taken). Default 64 MiB.
    pub uncommitted_bytes_max: usize,
    /// Bytes of the newest entries that are held in memory; peers that need older ones are served from storage. Default 64 MiB.
    pub tail_bytes_max: usize,
    /// Lets the leader answer reads without a round to its peers. Default none.
    pub lease: Option<Lease>,
}

/// A leader's lease (thesis 6.4.1): for so long after it *sent* what a quorum answered, nobody else can have been elected.
///
/// That rests on clocks: no node's clock runs faster than another's by more than `drift_per_mille`. It does not rest on what
/// time they show. The caller's `now` must be of a clock that counts while the machine is suspended (CLOCK_BOOTTIME).
#[derive(Clone, Copy, Debug)]
pub struct Lease {
    /// Length of a tick in microseconds.
    pub tick_micros: u64,
    /// See above. At most 500.
    pub drift_per_mille: u32,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            election_ticks: 10,
            heartbeat_ticks: 2,
            append_bytes_max: 1 << 20,
            inflight_messages_max: 128,
            inflight_bytes_max: 16 << 20,
            uncommitted_bytes_max: 64 << 20,
            tail_bytes_max: 64 << 20,
            lease: None,
        }
    }
}

/// An option that can't be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("option {option}: {why}")]
pub struct BadOption {
    /// Which.
    pub option: &'static str,
    /// Why.
    pub why: &'static str,
}

impl Options {
    /// Refuses what can't be, naming the option.
    pub fn check(&self) -> Result<(), BadOption> {
        let bad = |option, why| Err(BadOption { option, why });
        if self.election_ticks < 2 {
            return bad("election_ticks", "must be at least 2");
        }
        if self.heartbeat_ticks == 0 || self.heartbeat_ticks * 2 > self.election_ticks {
            return bad(
                "heartbeat_ticks",
                "must be at least 1 and at most half of election_ticks",
            );
        }
        if self.inflight_messages_max == 0 {
            return bad("inflight_messages_max", "must be at least 1");
        }
        for (option, bytes) in [
            ("append_bytes_max", self.append_bytes_max),
            ("inflight_bytes_max", self.inflight_bytes_max),
            ("uncommitted_bytes_max", self.uncommitted_bytes_max),
            ("tail_bytes_max", self.tail_bytes_max),
        ] {
            if bytes == 0 {
                return bad(option, "must be at least 1");
            }
        }
        if let Some(lease) = self.lease
            && (lease.tick_micros == 0 || lease.drift_per_mille > 500)
        {
            return bad(
                "lease",
                "needs the length of a tick, and a drift of at most 500 per mille",
            );
        }
        Ok(())
    }

    /// For how long a lease holds, in microseconds.
    pub(crate) fn lease_micros(&self) -> Option<u64> {
        let lease = self.lease?;
        // Who heard from the leader just before its own tick counts one that has hardly begun.
        let election = u64::from(self.election_ticks - 1) * lease.tick_micros;
        Some(election * u64::from(1000 - lease.drift_per_mille) / 1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_options_are_refused_by_name() {
        assert_eq!(Options::default().check(), Ok(()));
        type Spoil = fn(&mut Options);
        let spoilers: [(&str, Spoil); 7] = [
            ("election_ticks", |o| o.election_ticks = 1),
            ("heartbeat_ticks", |o| o.heartbeat_ticks = 6),
            ("inflight_messages_max", |o| o.inflight_messages_max = 0),
            ("append_bytes_max", |o| o.append_bytes_max = 0),
            ("uncommitted_bytes_max", |o| o.uncommitted_bytes_max = 0),
            ("tail_bytes_max", |o| o.tail_bytes_max = 0),
            ("lease", |o| {
                o.lease = Some(Lease {
                    tick_micros: 1,
                    drift_per_mille: 501,
                });
            }),
        ];
        for (name, spoil) in spoilers {
            let mut options = Options::default();
            spoil(&mut options);
            assert_eq!(options.check().unwrap_err().option, name);
        }
    }
}
