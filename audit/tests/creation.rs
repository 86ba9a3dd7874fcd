//! O1: a trail that is being made is none yet, or is whole, whatever ends the making of it; and one that was made is not taken for one.

mod support;

use esker_audit::{
    Error, FindingKind, OnTamper, Opened, Options, Report, Trail, VerifyOptions, verify,
};
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

/// `Continue` refused a trail without `TRAIL`, whatever else told whose it is.
#[test]
fn o3_a_trail_without_its_identity_goes_on_under_the_one_that_the_rest_tells() {
    let continued = |media: &SimMedia| -> Result<(Trail, Opened), Error> {
        let options = Options {
            on_tamper: OnTamper::Continue,
            ..stepped(media)
        };
        Trail::open(Path::new(DIR), keys(), options)
    };
    let telling: [fn(&str) -> bool; 4] = [
        |_| true,
        |name| name != "HEAD" && name != "CHECKPOINT",
        |name| name == "HEAD" || name.starts_with("live/"),
        |name| name == "CHECKPOINT" || name.starts_with("live/"),
    ];
    for (at, tells) in telling.into_iter().enumerate() {
        // Where nothing but the live log is there, all must be in it.
        let whole = written(if at < 2 { 2 } else { 0 }, 4);
        let id = found(&whole).unwrap().trail;
        for damaged in [false, true] {
            let media = copy(&whole, |name, mut bytes| match name {
                "TRAIL" => {
                    bytes[20] ^= 1;
                    damaged.then(|| (name.to_owned(), bytes))
                }
                _ => tells(name).then(|| (name.to_owned(), bytes)),
            });
            let refused = Trail::open(Path::new(DIR), keys(), stepped(&media)).unwrap_err();
            assert!(matches!(refused, Error::Tampered { .. }), "{at}: {refused}");
            let (trail, opened) = continued(&media).unwrap_or_else(|e| panic!("{at}: {e}"));
            assert_eq!(opened.findings[0].kind, FindingKind::Identity, "{at}");
            assert_eq!(trail.id(), id);
            trail.record(login(1)).unwrap();
            trail.close().unwrap();
            assert_eq!(found(&media).unwrap().findings, [], "{at}");
            let aside = media.read(&Path::new(DIR).join("TRAIL.aside-1"));
            assert_eq!(aside.is_ok(), damaged, "{at}");
        }
    }
    // Nothing tells it: it is refused, and nothing was changed.
    let whole = written(0, 4);
    let live = copy(&whole, |name, bytes| {
        name.starts_with("live/").then(|| (name.to_owned(), bytes))
    });
    let before = live.image();
    let refused = continued(&live).unwrap_err();
    assert!(
        refused.to_string().contains("begin a new trail"),
        "{refused}"
    );
    let after = live
        .image()
        .into_iter()
        .filter(|(path, _)| !path.ends_with("LOCK"));
    assert!(
        after.eq(before
            .into_iter()
            .filter(|(path, _)| !path.ends_with("LOCK")))
    );
}

/// What was cut down to what a new trail has, but for the checkpoint beside.
#[test]
fn o1_a_checkpoint_tells_that_there_was_a_trail() {
    let whole = written(0, 4);
    let media = copy(&whole, |name, bytes| {
        (name == "CHECKPOINT").then(|| (name.to_owned(), bytes))
    });
    assert_eq!(
        found(&media).unwrap().findings[0].kind,
        FindingKind::OldCopy
    );
    let error = Trail::open(Path::new(DIR), keys(), stepped(&media)).unwrap_err();
    assert!(matches!(error, Error::Tampered { .. }), "{error}");
}
