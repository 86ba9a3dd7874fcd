//! O4: a process is killed between the change of a directory and its sync; the next one finds the change, builds on it, and then the power takes it back.

mod support;

use esker_audit::{OnTamper, Options, Trail, Written};
use esker_wal::media::sim::SimMedia;
use std::path::Path;
use support::{DIR, closed, keys, login, report, stepped, written};

const SEEDS: u64 = 6;

fn options(media: &SimMedia) -> Options {
    Options {
        keep_bytes: Some(1),
        ..stepped(media)
    }
}

fn continues(media: &SimMedia) -> Options {
    Options {
        on_tamper: OnTamper::Continue,
        ..options(media)
    }
}

/// Kills the process that does `first` at each of its calls in turn; the next one opens the trail, writes, and does `second`, in which the power goes, or behind
/// it. Then the trail is whole, with what the second process acknowledged. Kills that the second process was seen to build on, by `seen`.
fn killed_then_cut(
    made: &SimMedia,
    first: impl Fn(&SimMedia),
    second: impl Fn(&Trail),
    seen: impl Fn(&SimMedia) -> bool,
) -> u64 {
    let mut built_on = 0;
    for at in 1.. {
        let killed = made.fork(at);
        killed.cut_at_call(at);
        first(&killed);
        if !killed.is_down() {
            break;
        }
        killed.kill();
        built_on += u64::from(seen(&killed));
        for cut in (1..).step_by(3) {
            let mut through = false;
            for seed in 0..SEEDS {
                let how = format!("killed at call {at}, power at call {cut}, seed {seed}");
                let media = killed.fork(seed);
                let (trail, _) = Trail::open(Path::new(DIR), keys(), continues(&media))
                    .unwrap_or_else(|e| panic!("{how}: {e}"));
                let receipt = trail.record(login(7)).unwrap();
                assert_eq!(receipt.written, Written::Synced);
                media.cut_at_call(cut);
                second(&trail);
                through = !media.is_down();
                media.power_cut(seed);
                drop(trail);
                let (trail, opened) = Trail::open(Path::new(DIR), keys(), options(&media))
                    .unwrap_or_else(|e| panic!("{how}: {e}"));
                assert_eq!(opened.findings, [], "{how}");
                assert!(Some(opened.last) >= receipt.sequence, "{how}");
                assert_eq!(report(&media).findings, [], "{how}");
                drop(trail);
            }
            if through {
                break;
            }
        }
    }
    built_on
}

/// The name of `TRAIL` went with the power: what was acknowledged since was nobody's, and nothing opened it any more.
#[test]
fn o4_a_trail_that_was_found_is_there_after_the_power() {
    let found = killed_then_cut(
        &SimMedia::new(1),
        |media| drop(Trail::open(Path::new(DIR), keys(), options(media))),
        |_| {},
        |media| media.image().contains_key(&Path::new(DIR).join("TRAIL")),
    );
    assert!(found > 1, "{found}");
}

fn act(media: &SimMedia, act: impl Fn(&Trail)) {
    if let Ok((trail, _)) = Trail::open(Path::new(DIR), keys(), options(media)) {
        act(&trail);
    }
}

/// One file was removed by a process that was killed, the next by the one after it; the power gave the older one back alone.
#[test]
fn o4_u2_removals_of_two_processes_reach_the_disk_in_order() {
    let found = killed_then_cut(
        &written(4, 4),
        |media| act(media, |trail| drop(trail.clean())),
        |trail| drop(trail.clean()),
        |media| closed(media).len() < 4,
    );
    assert!(found > 1, "{found}");
}

/// A `HEAD` that was made anew in place of a damaged one lost its name, and the damage was found once more.
#[test]
fn o4_a_head_that_was_made_anew_stays() {
    let damaged = written(1, 4);
    let head = Path::new(DIR).join("HEAD");
    damaged.flip(&head, 520, 1).unwrap();
    let before = damaged.read(&head).unwrap();
    let found = killed_then_cut(
        &damaged,
        |media| drop(Trail::open(Path::new(DIR), keys(), continues(media))),
        |_| {},
        |media| media.read(&head).unwrap() != before,
    );
    assert!(found > 1, "{found}");
}

/// U2: two files were removed in one go, and the power gave the older one back: what lay between was missing.
#[test]
fn u2_removals_reach_the_disk_in_order() {
    let made = written(4, 4);
    for cut in 1.. {
        let mut through = false;
        for seed in 0..20 {
            let media = made.fork(seed);
            let (trail, _) = Trail::open(Path::new(DIR), keys(), options(&media)).unwrap();
            media.cut_at_call(cut);
            drop(trail.clean());
            through = !media.is_down();
            media.power_cut(seed);
            drop(trail);
            let opened = Trail::open(Path::new(DIR), keys(), options(&media));
            let (_, opened) = opened.unwrap_or_else(|e| panic!("call {cut}, seed {seed}: {e}"));
            assert_eq!(opened.findings, []);
        }
        if through {
            break;
        }
    }
}
