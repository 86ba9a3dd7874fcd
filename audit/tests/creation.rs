//! O1: a trail that is being made is none yet, or is whole, whatever ends the making of it; and one that was made is not taken for one.

mod support;

use esker_audit::{Error, FindingKind, Report, Trail, VerifyOptions, verify};
use esker_wal::media::sim::{CallKind, EIO, Fault, SimMedia};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use support::{DIR, copy, keys, login, stepped, written};

fn found(media: &SimMedia) -> Result<Report, Error> {
    let options = VerifyOptions {
        threads: 1,
        look_again_after: Duration::ZERO,
        media: Arc::new(media.clone()),
        ..VerifyOptions::default()
    };
    verify(Path::new(DIR), &keys(), &options)
}

/// What is there after a making that ended early, and that it goes on from there.
fn check(media: &SimMedia, how: &str) -> bool {
    let born = match found(media) {
        Err(Error::NotFound { .. }) => false,
        Ok(report) => {
            assert_eq!(report.findings, [], "{how}");
            true
        }
        Err(e) => panic!("{how}: {e}"),
    };
    let (trail, opened) = Trail::open(Path::new(DIR), keys(), stepped(media))
        .unwrap_or_else(|e| panic!("{how}: {e}"));
    assert_eq!(opened.findings, [], "{how}");
    trail.record(login(1)).unwrap();
    trail.close().unwrap();
    assert_eq!(found(media).unwrap().findings, [], "{how}");
    born
}

#[test]
fn o1_whatever_ends_the_making_of_a_trail_leaves_none_or_a_whole_one() {
    let calls = {
        let media = SimMedia::new(1);
        let _trail = Trail::open(Path::new(DIR), keys(), stepped(&media)).unwrap();
        media.calls()
    };
    let mut born = [0; 2];
    for at in 1..=calls {
        for seed in 0..4 {
            let media = SimMedia::new(seed);
            media.write_back_one_in(seed * 3);
            media.cut_at_call(at);
            drop(Trail::open(Path::new(DIR), keys(), stepped(&media)));
            media.power_cut(seed + at);
            media.heal();
            born[0] += u32::from(check(&media, &format!("power at call {at}, seed {seed}")));
        }
    }
    // The process ends, for a call that failed: what was written stays.
    for kind in [
        CallKind::Create,
        CallKind::Rename,
        CallKind::SyncFile,
        CallKind::SyncDir,
        CallKind::SyncMap,
    ] {
        for nth in 1..=12 {
            let media = SimMedia::new(nth);
            media.fail(Fault::nth(nth).of(kind).times(u64::MAX).errno(EIO));
            drop(Trail::open(Path::new(DIR), keys(), stepped(&media)));
            media.kill();
            media.heal();
            born[1] += u32::from(check(&media, &format!("killed at {kind:?} {nth}")));
        }
    }
    assert!(born[0] > 0 && born[1] > 0, "{born:?} of {calls} calls");
}

/// A1: with the identity alone left of it a trail was opened as a new one; with the identity alone gone there was "no audit trail".
#[test]
fn o1_what_is_left_of_a_trail_is_not_taken_for_a_new_one() {
    let whole = written(0, 6);
    let left = |keep: &dyn Fn(&str) -> bool| {
        copy(&whole, |name, bytes| {
            keep(name).then(|| (name.to_owned(), bytes))
        })
    };
    let without_head = left(&|name| name == "TRAIL");
    let without_trail = left(&|name| name != "TRAIL");
    let live_alone = left(&|name| name.starts_with("live/"));
    for (media, kind) in [
        (without_head, FindingKind::Head),
        (without_trail, FindingKind::Identity),
        (live_alone, FindingKind::Identity),
    ] {
        let report = found(&media).unwrap();
        let said = report.findings.iter().any(|f| f.kind == kind);
        assert!(said, "{kind:?}: {:?}", report.findings);
        match Trail::open(Path::new(DIR), keys(), stepped(&media)) {
            Err(Error::Tampered { finding, .. }) => assert_eq!(finding.kind, kind),
            other => panic!("{kind:?}: {other:?}"),
        }
    }
}
