//! Judges a hello: continue, or refuse with a reason that names the remedy (R1).
//!
//! From the cheapest question to the dearest: protocol, store, epoch, what is still held, histories,
//! end, and last the chain hash, for which the log may have to read.

use crate::protocol::history::{Verdict, compare};
use crate::protocol::{Hello, PROTOCOL, PROTOCOL_MIN, Reason, Refused};
use esker_wal::{ChainHash, EpochStart, LogId, Lsn};

/// What the judge knows of the primary's log.
pub(super) struct Own<'a> {
    pub(super) log: LogId,
    pub(super) epochs: &'a [EpochStart],
    pub(super) oldest: Lsn,
    pub(super) synced: Lsn,
}

/// Judges `hello`; `chain_at` gives the primary's chain hash at a position, or `None` where it has no
/// frame boundary there. On acceptance: the protocol version to use.
pub(super) fn judge(
    hello: &Hello,
    own: &Own<'_>,
    chain_at: impl FnOnce(Lsn) -> Result<Option<ChainHash>, String>,
) -> Result<u16, Refused> {
    let refuse = |reason, at, text: String| Err(Refused { reason, at, text });
    let (oldest_spoken, newest_spoken) = hello.protocols;
    if newest_spoken < PROTOCOL_MIN || oldest_spoken > PROTOCOL {
        return refuse(
            Reason::Protocol,
            Lsn::ZERO,
            format!(
                "this primary speaks replication protocols {PROTOCOL_MIN} to {PROTOCOL}, the replica {oldest_spoken} to {newest_spoken}; upgrade the older of the two"
            ),
        );
    }
    let Some(log) = hello.log else {
        if own.oldest > Lsn::ZERO {
            return refuse(
                Reason::Released,
                own.oldest,
                format!(
                    "an empty replica needs the log from its beginning, and this primary holds it from LSN {} on; this version can't build a replica from a checkpoint yet: attach replicas while --log-keep still covers the whole log",
                    own.oldest
                ),
            );
        }
        return Ok(newest_spoken.min(PROTOCOL));
    };
    if log != own.log {
        return refuse(
            Reason::OtherStore,
            Lsn::ZERO,
            format!(
                "the replica holds store {log}, this primary serves store {}; point the replica at its own primary, or empty its data directory to follow this one",
                own.log
            ),
        );
    }
    if let Verdict::StalePrimary { number } =
        compare(own.epochs, &hello.epochs, hello.end, own.oldest)
    {
        let here = own.epochs.last().map_or(0, |s| s.epoch.number);
        return refuse(
            Reason::StalePrimary,
            Lsn::ZERO,
            format!(
                "the replica has seen epoch {number}, this primary is of epoch {here}: another node was promoted since; stop this primary and follow the promoted one"
            ),
        );
    }
    if hello.end < own.oldest {
        return refuse(
            Reason::Released,
            own.oldest,
            format!(
                "the replica ends at LSN {}, and this primary holds its log from {} on; the replica must be rebuilt: empty its data directory",
                hello.end, own.oldest
            ),
        );
    }
    match compare(own.epochs, &hello.epochs, hello.end, own.oldest) {
        Verdict::Continue | Verdict::StalePrimary { .. } => {}
        Verdict::RewindTo { at } => {
            return refuse(
                Reason::RewindNeeded,
                at,
                format!(
                    "the replica ends at LSN {}, but this primary's next epoch begins at {at}: the replica holds frames that this primary lost or never had; rebuild the replica: empty its data directory",
                    hello.end
                ),
            );
        }
        Verdict::Diverged { at } => {
            return refuse(
                Reason::Diverged,
                at,
                format!(
                    "the histories part at LSN {at}: this node and the replica were written to independently; decide which one to keep, and empty the other's data directory"
                ),
            );
        }
    }
    if hello.end > own.synced {
        return refuse(
            Reason::RewindNeeded,
            own.synced,
            format!(
                "the replica ends at LSN {}, beyond this primary's {}; was the primary restored from an older copy? Rebuild the replica: empty its data directory",
                hello.end, own.synced
            ),
        );
    }
    match chain_at(hello.end) {
        Ok(Some(chain)) if chain == hello.chain => Ok(newest_spoken.min(PROTOCOL)),
        Ok(_) => refuse(
            Reason::Diverged,
            hello.end,
            format!(
                "the chain hashes differ at LSN {}: below it the two logs hold different frames; rebuild the replica: empty its data directory",
                hello.end
            ),
        ),
        Err(why) => refuse(
            Reason::NotNow,
            hello.end,
            format!(
                "this primary can't read its own log at LSN {}: {why}",
                hello.end
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use esker_wal::{Epoch, NodeId};

    fn start(number: u64, id: u64, begin: u64) -> EpochStart {
        EpochStart {
            epoch: Epoch { number, id },
            begin: Lsn(begin),
        }
    }

    #[test]
    fn r1_every_refusal_has_its_reason_and_its_lsn() {
        let epochs = [start(1, 7, 0), start(1, 8, 800)];
        let own = Own {
            log: LogId(1),
            epochs: &epochs,
            oldest: Lsn(400),
            synced: Lsn(1600),
        };
        let good = Hello {
            protocols: (1, 1),
            log: Some(LogId(1)),
            node: NodeId(2),
            end: Lsn(1200),
            chain: ChainHash(5),
            name: "r".into(),
            epochs: epochs.to_vec(),
        };
        let judge = |hello: &Hello| judge(hello, &own, |_| Ok(Some(ChainHash(5))));
        assert_eq!(judge(&good), Ok(1));
        type Change = fn(&mut Hello);
        let cases: &[(&str, Change, Reason, u64)] = &[
            ("protocol", |h| h.protocols = (2, 3), Reason::Protocol, 0),
            (
                "other store",
                |h| h.log = Some(LogId(9)),
                Reason::OtherStore,
                0,
            ),
            (
                "empty, but the beginning is gone",
                |h| h.log = None,
                Reason::Released,
                400,
            ),
            (
                "promoted",
                |h| h.epochs.push(start(2, 1, 1200)),
                Reason::StalePrimary,
                0,
            ),
            (
                "too far behind",
                |h| {
                    h.end = Lsn(392);
                    h.epochs.pop();
                },
                Reason::Released,
                400,
            ),
            (
                "beyond the next epoch",
                |h| {
                    h.end = Lsn(808);
                    h.epochs.pop();
                },
                Reason::RewindNeeded,
                800,
            ),
            (
                "another writer under the same number",
                |h| h.epochs[1] = start(1, 9, 800),
                Reason::Diverged,
                800,
            ),
            ("ahead", |h| h.end = Lsn(1608), Reason::RewindNeeded, 1600),
            (
                "other bytes",
                |h| h.chain = ChainHash(6),
                Reason::Diverged,
                1200,
            ),
        ];
        for (name, change, reason, at) in cases {
            let mut hello = good.clone();
            change(&mut hello);
            let refused = judge(&hello).expect_err(name);
            assert_eq!((refused.reason, refused.at), (*reason, Lsn(*at)), "{name}");
            assert!(!refused.text.is_empty());
        }
    }
}
