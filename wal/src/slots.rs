//! Slots: named consumers, whose positions hold the log back until a cap bites.
//!
//! - SL1: a slot that is not lost holds the log from its position on ([`esker_sync::positions`]).
//! - SL2: a slot is lost when it holds more bytes, or older ones, than its cap, or when it keeps the log from giving back space that the
//!   disk lacks; before that it is at risk, which is told once ([`LogEvent::SlotAtRisk`]).
//! - SL3: what is gone because of a slot's position or loss is gone after that was written to `SLOTS`.
//! - SL4: a slot above the end that recovery or a rewind found is moved back to it, durably, before open returns: its consumer saw frames
//!   that are no more, and has to see those that take their places.
//! - SL5: no cap touches the release point, readers, or what is not synced.
//!
//! Time is the clock's wall time. The age of what a slot holds is the time since its first segment was closed (which stands in the
//! footer), so what is in the active segment has none. No promise depends on it: a clock that jumps makes a cap
//! bite early or late.

use crate::error::LogError;
use crate::event::LogEvent;
use crate::ids::Lsn;
use crate::log::Log;
use crate::meta::SlotRecord;
use crate::sabotage::{self, Sabotage};
use crate::shared::{Retention, Shared, find};
use esker_sync::positions::{Hold, Positions};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How a slot stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SlotState {
    /// Within its caps.
    Ok,
    /// Near one of them: its consumer should hurry.
    AtRisk,
    /// Past one: it holds nothing any more. The log may still be there; [`Log::set_slot`] takes it up again if so.
    Lost,
}

/// A slot: a named consumer's position that holds back deletion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Name.
    pub name: String,
    /// Log from here on is held.
    pub position: Lsn,
    /// How it stands.
    pub state: SlotState,
    /// Bytes of frames from its position to the end.
    pub held_bytes: u64,
    /// Time since the segment at its position was closed; zero in the active one.
    pub age: Duration,
}

/// A slot in memory.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) position: Lsn,
    /// `None`: lost.
    hold: Option<Hold>,
    /// Told to be at risk.
    warned: bool,
}

/// A hold at `position`, or what is the lowest.
pub(crate) fn hold(
    positions: &Positions,
    position: Lsn,
    ignored: Sabotage,
) -> Result<Hold, LogError> {
    let mut held = positions
        .hold(position.0)
        .map_err(|low| LogError::Released {
            lsn: position,
            oldest: Lsn(low),
        })?;
    if sabotage::on(ignored) {
        held.advance(u64::MAX);
    }
    Ok(held)
}

/// Moves slots above `end` back to it (SL4); whether there were any.
pub(crate) fn clamp(records: &mut [SlotRecord], end: Lsn) -> bool {
    if sabotage::on(Sabotage::SlotsNotClamped) {
        return false;
    }
    let mut any = false;
    for record in records.iter_mut().filter(|r| r.position > end) {
        tracing::warn!(slot = record.name, position = %record.position, %end, "slot stood above the end of the log");
        record.position = end;
        any = true;
    }
    any
}

/// The slots that were found on disk.
pub(crate) fn load(positions: &Positions, records: Vec<SlotRecord>) -> BTreeMap<String, Entry> {
    let entries = records.into_iter().map(|record| {
        let held = match record.lost {
            true => None,
            false => hold(positions, record.position, Sabotage::SlotsIgnored).ok(),
        };
        let entry = Entry {
            position: record.position,
            hold: held,
            warned: false,
        };
        (record.name, entry)
    });
    entries.collect()
}

impl Retention {
    /// Names of the slots above `lsn`.
    pub(crate) fn slots_above(&self, lsn: Lsn) -> Vec<String> {
        let above = self.slots.iter().filter(|(_, e)| e.position > lsn);
        above.map(|(name, _)| name.clone()).collect()
    }
}

impl Entry {
    pub(crate) fn record(&self, name: &str) -> SlotRecord {
        SlotRecord {
            name: name.to_owned(),
            position: self.position,
            lost: self.hold.is_none(),
        }
    }
}

/// What slots are measured by.
struct Measure {
    reserved: Lsn,
    now: Duration,
    /// Bytes that can still be allocated, where that is asked.
    free: u64,
}

impl Log {
    /// Creates or moves a slot. Persistent; a position that moved reaches the disk within a second, a new slot before return.
    ///
    /// A position never moves back; a slot that was lost is taken up again where the log still holds the position.
    pub fn set_slot(&self, name: &str, position: Lsn) -> Result<(), LogError> {
        let shared = self.shared();
        let new = {
            let mut retention = shared.retention.lock();
            retention.slots_dirty = true;
            let failed = retention.slots_failed;
            match retention.slots.get_mut(name) {
                Some(Entry {
                    position: at,
                    hold: Some(hold),
                    ..
                }) => {
                    *at = position.max(*at);
                    hold.advance(at.0);
                    failed
                }
                _ => {
                    let entry = Entry {
                        position,
                        hold: Some(hold(&shared.positions, position, Sabotage::SlotsIgnored)?),
                        warned: false,
                    };
                    retention.slots.insert(name.to_owned(), entry);
                    true
                }
            }
        };
        shared.prepare_bell.ring();
        if new { shared.write_slots() } else { Ok(()) }
    }

    /// Removes a slot, durably.
    pub fn drop_slot(&self, name: &str) -> Result<bool, LogError> {
        let shared = self.shared();
        let was = {
            let mut retention = shared.retention.lock();
            let was = retention.slots.remove(name).is_some();
            if !was && !retention.slots_failed {
                return Ok(false);
            }
            retention.slots_dirty = true;
            was
        };
        shared.write_slots()?;
        shared.prepare_bell.ring();
        Ok(was)
    }

    /// All slots, and how they stand now.
    #[must_use]
    pub fn slots(&self) -> Vec<Slot> {
        let shared = self.shared();
        let measure = shared.measure();
        let retention = shared.retention.lock();
        let slots = retention.slots.iter().map(|(name, entry)| {
            let (held_bytes, age) = shared.held_by(entry, &measure);
            let state = match (&entry.hold, shared.risk(held_bytes, age, &measure)) {
                (None, _) => SlotState::Lost,
                // Past a cap, found by the worker in a moment.
                (_, SlotState::Lost) => SlotState::AtRisk,
                (_, state) => state,
            };
            Slot {
                name: name.clone(),
                position: entry.position,
                state,
                held_bytes,
                age,
            }
        });
        slots.collect()
    }
}

impl Shared {
    fn measure(&self) -> Measure {
        Measure {
            reserved: self.reserved(),
            now: self.options.clock.wall(),
            free: self.free_bytes.load(Ordering::Relaxed),
        }
    }

    /// Bytes and age of what an entry holds.
    fn held_by(&self, entry: &Entry, measure: &Measure) -> (u64, Duration) {
        let bytes = measure.reserved.0.saturating_sub(entry.position.0);
        let closed = find(&self.table.read(), entry.position).and_then(|s| s.closed_at());
        let age = closed.map_or(Duration::ZERO, |at| measure.now.saturating_sub(at));
        (bytes, age)
    }

    /// How a slot with that much stands with its caps: from three quarters of one on it is at risk.
    fn risk(&self, bytes: u64, age: Duration, measure: &Measure) -> SlotState {
        let options = &self.options;
        let cap = options.slot_bytes_max.min(options.log_bytes_max);
        let oldest = options.slot_age_max;
        if bytes > cap || age > oldest {
            SlotState::Lost
        } else if bytes > cap - cap / 4
            || age > oldest - oldest / 4
            // The disk is near its floor, and this slot may be what keeps it there.
            || bytes > options.segment_bytes && measure.free / 2 < options.free_bytes_min
        {
            SlotState::AtRisk
        } else {
            SlotState::Ok
        }
    }

    /// The LSN below which nothing is needed any more. Slots past a cap are lost here; `events` is told.
    pub(crate) fn floor(&self, retention: &mut Retention, events: &mut Vec<LogEvent>) -> Lsn {
        let measure = self.measure();
        let need = retention.release.min(self.synced());
        let short = measure.free < self.options.free_bytes_min;
        let kept = match short {
            true => need,
            false => need.min(self.kept_from(&measure)),
        };
        let mut lost = Vec::new();
        for (name, entry) in retention.slots.iter_mut().filter(|(_, e)| e.hold.is_some()) {
            let (bytes, age) = self.held_by(entry, &measure);
            match self.risk(bytes, age, &measure) {
                SlotState::Ok => entry.warned = false,
                SlotState::AtRisk if entry.warned => {}
                SlotState::AtRisk => {
                    entry.warned = true;
                    events.push(LogEvent::SlotAtRisk {
                        name: name.clone(),
                        position: entry.position,
                        held_bytes: bytes,
                        age,
                        free_bytes: measure.free,
                    });
                }
                SlotState::Lost => lost.push(name.clone()),
            }
        }
        // What would go, but for the slot that is furthest behind; one at a time, since that may be enough.
        if short && lost.is_empty() {
            let first = (self.table.read().first()).map_or(Lsn::ZERO, |s| s.end());
            let holds = retention.slots.values().filter_map(|e| e.hold.as_ref());
            let others = Lsn(self.positions.lowest_held_besides(holds));
            let held = retention.slots.iter().filter(|(_, e)| e.hold.is_some());
            if let Some((name, entry)) = held.min_by_key(|(_, e)| e.position)
                && first <= kept.min(others)
                && entry.position < first
            {
                lost.push(name.clone());
            }
        }
        for name in lost {
            let entry = retention.slots.get_mut(&name).expect("just found");
            entry.hold = None;
            retention.slots_dirty = true;
            let (held_bytes, age) = self.held_by(entry, &measure);
            events.push(LogEvent::SlotLost {
                name,
                position: entry.position,
                held_bytes,
                age,
                free_bytes: measure.free,
            });
        }
        kept.min(Lsn(self.positions.lowest_held()))
    }

    /// From where on the log is kept without need: for its bytes and its age, but never more than may be held at all.
    fn kept_from(&self, measure: &Measure) -> Lsn {
        let options = &self.options;
        let back = |bytes: u64| Lsn(measure.reserved.0.saturating_sub(bytes));
        let mut kept = back(options.keep_bytes);
        if options.keep_age > Duration::ZERO {
            let table = self.table.read();
            let young = table.iter().find(|s| {
                let age = s.closed_at().map(|at| measure.now.saturating_sub(at));
                age.is_none_or(|age| age < options.keep_age)
            });
            kept = kept.min(young.map_or(measure.reserved, |s| s.base()));
        }
        kept.max(back(options.log_bytes_max))
    }
}
