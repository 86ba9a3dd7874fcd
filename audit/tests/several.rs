//! SE1: records that go together wait for one sync of all, and none is acknowledged without.

mod support;

use esker_audit::{Error, OnFailure, Options, Policies, Record, Severity, Trail, Write};
use esker_wal::media::sim::{CallKind, EIO, Fault, SimMedia};
use std::path::Path;
use support::{DIR, keys, login, open, policy, report, stepped};

fn some() -> Vec<Record> {
    (0..10).map(login).collect()
}

fn syncs(media: &SimMedia, write: impl FnOnce()) -> usize {
    media.start_trace();
    write();
    let calls = media.trace();
    calls.iter().filter(|c| c.kind == CallKind::SyncMap).count()
}

#[test]
fn se1_several_records_share_one_sync_and_survive_the_power() {
    let media = SimMedia::new(1);
    let trail = open(&media);
    let alone = syncs(&media, || {
        trail.record(login(1)).unwrap();
    });
    let together = syncs(&media, || trail.record_all(some()).unwrap());
    assert_eq!((alone, together), (1, 1));
    assert_eq!(trail.stats().synced, 12);
    media.power_cut(7);
    drop(trail);
    open(&media).close().unwrap();
    let found = report(&media);
    assert_eq!((found.findings, found.dropped), (vec![], 0));
    assert_eq!(found.last, 14);
}

/// Whatever the policy, a failed sync is not taken for one; what is dropped is counted.
#[test]
fn se1_a_failed_sync_acknowledges_none_of_them() {
    for on_failure in [OnFailure::Refuse, OnFailure::Drop] {
        let media = SimMedia::new(1);
        let options = Options {
            policies: Policies::all(policy(Write::Sync, on_failure))
                .with(Severity::Info, policy(Write::Async, OnFailure::Drop)),
            ..stepped(&media)
        };
        let trail = Trail::open(Path::new(DIR), keys(), options).unwrap().0;
        media.fail(Fault::nth(1).of(CallKind::SyncMap).on("live").errno(EIO));
        let mut records = some();
        records.push(login(1).severity(Severity::Info));
        match (trail.record_all(records.clone()), on_failure) {
            (Err(Error::Unknown { .. }), OnFailure::Refuse) | (Ok(()), OnFailure::Drop) => {}
            (other, _) => panic!("{on_failure:?}: {other:?}"),
        }
        media.heal();
        trail.record_all(records).unwrap();
        trail.close().unwrap();
        assert_eq!(report(&media).findings, []);
        assert!(matches!(trail.record_all(some()), Err(Error::Closed)));
        assert!(trail.record_all(Vec::new()).is_ok());
    }
}

/// The disk is full: each is refused, or waits, by itself.
#[test]
fn se1_a_refused_record_ends_it() {
    let media = SimMedia::new(1);
    let options = Options {
        policies: Policies::all(policy(Write::Sync, OnFailure::Refuse)),
        ..stepped(&media)
    };
    let trail = Trail::open(Path::new(DIR), keys(), options).unwrap().0;
    media.set_capacity(Some(media.used_bytes()));
    let large = || login(1).with("pad", "x".repeat(900));
    let refused = (0..200).find_map(|_| trail.record_all(vec![large(), large(), large()]).err());
    assert!(
        matches!(refused, Some(Error::Refused { .. })),
        "{refused:?}"
    );
    media.set_capacity(None);
    while trail.step() {}
    trail.record_all(some()).unwrap();
    trail.close().unwrap();
    assert_eq!(report(&media).findings, []);
}
