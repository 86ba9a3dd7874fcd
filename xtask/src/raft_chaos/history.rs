//! What clients saw, and whether one order explains it.
//!
//! Registers are written with values that come once, counters are counted up: a command that took effect twice, or not at all, is seen.
//! What has no answer may take effect at any later time, or never.

use porcupine_rs::{CheckResult, Model, Operation, check_operations_timeout};
use std::collections::BTreeMap;
use std::time::Duration;

/// What was done to one key. Zero stands for nothing there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Done {
    /// GET answered this.
    Read(u64),
    /// SET to this.
    Wrote(u64),
    /// INCR answered this, or nothing.
    Counted(Option<u64>),
    /// EXEC moved it from what was read behind WATCH to this.
    Moved(u64, u64),
    /// It may have.
    MayMove(u64, u64),
}

/// One command of one client.
#[derive(Clone, Debug)]
pub(super) struct Event {
    pub(super) client: u32,
    pub(super) key: String,
    pub(super) done: Done,
    /// Nanoseconds since the beginning; no end where nothing is known.
    pub(super) began: i64,
    pub(super) ended: Option<i64>,
}

#[derive(Clone, Debug)]
struct Key;

impl Model for Key {
    type State = u64;
    type Op = Done;
    type Metadata = ();

    fn init() -> u64 {
        0
    }

    fn step(state: &u64, op: &Done) -> (bool, u64) {
        match op {
            Done::Read(value) => (value == state, *state),
            Done::Wrote(value) => (true, *value),
            Done::Counted(None) => (true, state + 1),
            Done::Counted(Some(value)) => (*value == state + 1, *value),
            Done::Moved(from, to) => (from == state, *to),
            // Values come once: another one means that a watched key has changed.
            Done::MayMove(from, to) => (true, if from == state { *to } else { *state }),
        }
    }
}

/// Checks key by key; an error shows the first key that no order explains.
pub(super) fn check(events: Vec<Event>) -> Result<usize, String> {
    let mut keys: BTreeMap<String, Vec<Event>> = BTreeMap::new();
    for event in events {
        keys.entry(event.key.clone()).or_default().push(event);
    }
    let count = keys.len();
    for (key, events) in keys {
        let history: Vec<Operation<Key>> = (events.iter())
            .map(|event| Operation {
                client_id: Some(event.client),
                call_time: event.began,
                return_time: event.ended.unwrap_or(i64::MAX),
                op: event.done,
                metadata: None,
            })
            .collect();
        match check_operations_timeout(&history, Duration::from_secs(120)) {
            CheckResult::Ok => {}
            CheckResult::Unknown => return Err(format!("{key}: not decided in two minutes")),
            CheckResult::Illegal => {
                let mut events = events;
                events.sort_by_key(|event| event.began);
                let lines: Vec<String> = (events.iter())
                    .map(|e| {
                        let end = e.ended.map_or("?".into(), |end| (end / 1000).to_string());
                        format!(
                            "{:>9}..{end:>9} us client {}: {:?}",
                            e.began / 1000,
                            e.client,
                            e.done
                        )
                    })
                    .collect();
                return Err(format!(
                    "no order explains what was seen of {key}:\n{}",
                    lines.join("\n")
                ));
            }
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(done: Done, began: i64, ended: impl Into<Option<i64>>) -> Event {
        Event {
            client: 1,
            key: "k".into(),
            done,
            began,
            ended: ended.into(),
        }
    }

    #[test]
    fn what_one_order_explains_passes_and_nothing_else() {
        use Done::*;
        let good = [
            vec![event(Wrote(1), 0, 5), event(Read(1), 6, 7)],
            // Still under way when it was read, or before it.
            vec![
                event(Wrote(1), 0, 9),
                event(Read(0), 1, 2),
                event(Read(1), 3, 4),
            ],
            // No answer: it may have taken effect late.
            vec![
                event(Wrote(1), 0, None),
                event(Read(0), 5, 6),
                event(Read(1), 7, 8),
            ],
            vec![event(Counted(None), 0, None), event(Counted(Some(2)), 5, 6)],
            vec![event(Moved(0, 1), 0, 2), event(Moved(1, 2), 1, 3)],
            vec![event(MayMove(0, 1), 0, None), event(Moved(0, 2), 1, 3)],
            vec![event(MayMove(0, 1), 0, None), event(Read(1), 5, 6)],
        ];
        for history in good {
            assert_eq!(check(history), Ok(1));
        }
        let bad = [
            // Lost.
            vec![event(Wrote(1), 0, 5), event(Read(0), 6, 7)],
            // Stale.
            vec![
                event(Wrote(1), 0, 9),
                event(Read(1), 1, 2),
                event(Read(0), 3, 4),
            ],
            // A watched key had changed.
            vec![event(Moved(0, 1), 0, 2), event(Moved(0, 2), 1, 3)],
            // Twice.
            vec![event(Counted(Some(1)), 0, 1), event(Counted(Some(3)), 5, 6)],
        ];
        for history in bad {
            assert!(check(history).is_err());
        }
    }
}
