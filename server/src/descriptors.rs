//! The limit of open files: raised to what the clients need, or fewer clients.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// For the log, the store's tables, other nodes, metrics.
const RESERVED: u64 = 1024;

/// How many clients there may be of `wanted`, each with so many descriptors. Raises the soft limit where it has to.
pub(crate) fn clients(wanted: usize, each: u64) -> usize {
    let limit = getrlimit(Resource::Nofile);
    let Some(soft) = limit.current else {
        return wanted;
    };
    let needed = needed(wanted, each);
    if needed <= soft {
        return wanted;
    }
    let target = limit.maximum.map_or(needed, |hard| hard.min(needed));
    let mut now = soft;
    if target > soft {
        let raised = setrlimit(
            Resource::Nofile,
            Rlimit {
                current: Some(target),
                maximum: limit.maximum,
            },
        );
        match raised {
            Ok(()) => now = target,
            Err(error) => {
                tracing::warn!(%error, soft, target, "raising the limit of open files failed");
            }
        }
    }
    let fit = fit(wanted, each, now);
    if fit < wanted {
        tracing::warn!(
            soft,
            now,
            needed,
            wanted,
            max_clients = fit,
            "fewer clients than --max-clients fit into the limit of open files; raise the hard limit (ulimit -Hn, LimitNOFILE), or ask for fewer"
        );
    } else {
        tracing::info!(
            soft,
            now,
            "raised the limit of open files, for --max-clients"
        );
    }
    fit
}

fn needed(wanted: usize, each: u64) -> u64 {
    (wanted as u64)
        .saturating_mul(each)
        .saturating_add(RESERVED)
}

/// Below twice what is reserved clients get half.
fn fit(wanted: usize, each: u64, limit: u64) -> usize {
    let left = limit - RESERVED.min(limit / 2);
    usize::try_from(left / each).map_or(wanted, |fit| fit.clamp(1, wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fewer_clients_where_the_limit_has_no_room_for_all() {
        assert_eq!(fit(1024, 2, needed(1024, 2)), 1024);
        assert_eq!(fit(1024, 2, needed(1024, 2) - 1), 1023);
        assert_eq!(fit(10_000, 1, 4096), 3072);
        assert_eq!(fit(10_000, 1, 128), 64);
        assert_eq!(fit(10_000, 1, 0), 1);
        assert_eq!(fit(10_000, 1, u64::MAX), 10_000);
        assert_eq!(needed(usize::MAX, 2), u64::MAX);
    }
}
