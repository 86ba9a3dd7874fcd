//! Positions and holds (`esker_sync::positions`): truncation against readers, slots against recycling.
#![cfg(esker_loom)]

use esker_loom_tests::{assert_caught, model};
use esker_sync::positions::{Hold, Positions};
use esker_sync::shim::Arc;
use loom::cell::UnsafeCell;
use loom::thread;

/// Segments of one unit each, read and used again without any synchronisation of their own.
struct Segments(Vec<UnsafeCell<u64>>);

const FRESH: u64 = 1;
const RECYCLED: u64 = 2;

impl Segments {
    fn new(count: usize) -> Arc<Segments> {
        Arc::new(Segments(
            (0..count).map(|_| UnsafeCell::new(FRESH)).collect(),
        ))
    }
    fn read(&self, at: u64) {
        // SAFETY: who holds a position may read there; that nobody writes meanwhile is what loom checks.
        let found = self.0[at as usize].with(|s| unsafe { *s });
        assert_eq!(found, FRESH, "segment {at} was recycled under its reader");
    }
    fn recycle(&self, at: u64) {
        // SAFETY: one thread recycles; that nobody reads meanwhile is what loom checks.
        self.0[at as usize].with_mut(|s| unsafe { *s = RECYCLED });
    }
}

/// A reader that comes and reads two segments while they are truncated.
fn truncation_against_a_reader(
    read: fn(&Segments, &mut Hold, u64),
    remove: fn(&Positions, &Segments, u64) -> bool,
) {
    model(move || {
        let positions = Positions::new(0);
        let segments = Segments::new(2);
        let reader = {
            let (positions, segments) = (positions.clone(), segments.clone());
            thread::spawn(move || {
                let mut hold = match positions.hold(0) {
                    Ok(hold) => hold,
                    // It is told where it may begin; that may be gone as well by then.
                    Err(low) => match positions.hold(low) {
                        Ok(hold) => hold,
                        Err(_) => return,
                    },
                };
                for at in hold.position()..2 {
                    read(&segments, &mut hold, at);
                }
            })
        };
        for at in 0..2 {
            if !remove(&positions, &segments, at) {
                break;
            }
        }
        reader.join().unwrap();
        // Nobody is left: everything can go.
        assert!(positions.raise(2));
    });
}

fn read_then_move_on(segments: &Segments, hold: &mut Hold, at: u64) {
    segments.read(at);
    hold.advance(at + 1);
}

fn raise_then_recycle(positions: &Positions, segments: &Segments, at: u64) -> bool {
    let removed = positions.raise(at + 1);
    if removed {
        segments.recycle(at);
    }
    removed
}

/// No segment is recycled while a reader holds it, nor given to one that comes too late (PO1, PO2, PO4).
#[test]
fn a_segment_is_recycled_only_when_no_reader_holds_it() {
    truncation_against_a_reader(read_then_move_on, raise_then_recycle);
}

/// Twin: the reader moves its hold on before it has read.
#[test]
fn twin_a_reader_that_moves_on_before_it_has_read_loses_its_segment() {
    assert_caught(
        "broken_a_reader_that_moves_on_before_it_has_read_loses_its_segment",
        &["was recycled", "Causality violation"],
    );
}

#[test]
#[ignore = "a broken twin, run by the test above"]
fn broken_a_reader_that_moves_on_before_it_has_read_loses_its_segment() {
    truncation_against_a_reader(
        |segments, hold, at| {
            hold.advance(at + 1);
            segments.read(at);
        },
        raise_then_recycle,
    );
}

/// Twin: who removes looks at the holds first and raises afterwards: a reader comes between.
#[test]
fn twin_a_test_apart_from_the_raise_misses_who_comes_between() {
    assert_caught(
        "broken_a_test_apart_from_the_raise_misses_who_comes_between",
        &["was recycled", "Causality violation"],
    );
}

#[test]
#[ignore = "a broken twin, run by the test above"]
fn broken_a_test_apart_from_the_raise_misses_who_comes_between() {
    truncation_against_a_reader(read_then_move_on, |positions, segments, at| {
        let free = positions.lowest_held() > at;
        if free {
            segments.recycle(at);
            let _ = positions.raise(at + 1);
        }
        free
    });
}

/// A slot that consumes, one that is lost to its cap, and its consumer that comes back while the segment is recycled.
fn slots_against_recycling(remove: fn(&Positions, &Segments)) {
    model(move || {
        let positions = Positions::new(0);
        let segments = Segments::new(1);
        let mut slot = positions.hold(0).expect("nothing is gone yet");
        let lagging = positions.hold(0).expect("nothing is gone yet");
        let consumer = {
            let segments = segments.clone();
            thread::spawn(move || {
                segments.read(0);
                slot.advance(1);
                slot
            })
        };
        let late = {
            let (positions, segments) = (positions.clone(), segments.clone());
            thread::spawn(move || {
                // It takes its slot up again where that is still there.
                if let Ok(hold) = positions.hold(0) {
                    segments.read(0);
                    drop(hold);
                }
            })
        };
        // Past its cap: lost.
        drop(lagging);
        remove(&positions, &segments);
        let slot = consumer.join().unwrap();
        late.join().unwrap();
        assert_eq!(slot.position(), 1);
        assert!(positions.raise(1) && !positions.raise(2));
    });
}

/// A slot holds its segment until it moves on or is lost; one taken up again is refused, or finds its segment whole (PO1, PO2).
#[test]
fn a_slot_keeps_its_segment_from_being_recycled() {
    slots_against_recycling(|positions, segments| {
        if positions.raise(1) {
            segments.recycle(0);
        }
    });
}

/// Twin: a slot is lost, and the segment goes though another slot holds it.
#[test]
fn twin_recycling_that_does_not_wait_for_the_other_slots() {
    assert_caught(
        "broken_recycling_that_does_not_wait_for_the_other_slots",
        &["was recycled", "Causality violation"],
    );
}

#[test]
#[ignore = "a broken twin, run by the test above"]
fn broken_recycling_that_does_not_wait_for_the_other_slots() {
    slots_against_recycling(|positions, segments| {
        let _ = positions.raise(1);
        segments.recycle(0);
    });
}
