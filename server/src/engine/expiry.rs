//! The worker that deletes keys whose deadline has passed: on the writer only, as replicas get its deletes.
//!
//! It walks the keyspace a piece at a time, collects what has passed at a snapshot, and deletes under the keys'
//! stripes what still has the same version. Where a whole walk met no deadline it rests until one is written.

use super::Inner;
use super::keys::{CLOCK_KEY, USER_START};
use super::locks::StripeSet;
use super::txn::is_busy;
use super::value::Value;
use bytes::Bytes;
use esker_lsm::{SeqNo, StoreError, WriteBatch};
use std::ops::Bound;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Keys looked at in one step.
const STEP_KEYS: usize = 1000;
/// Keys deleted in one batch, their stripes held together.
const BATCH_KEYS: usize = 32;
const TICK: Duration = Duration::from_millis(100);
const IDLE_TICK: Duration = Duration::from_millis(500);

/// Where the walk stands.
#[derive(Debug, Default)]
pub struct ExpiryPlace {
    after: Option<Bytes>,
    /// Deadlines met in this walk.
    met: u64,
    /// A walk was completed, and met none.
    pub(super) resting: bool,
}

pub(super) fn run(inner: &Inner) {
    let mut place = ExpiryPlace::default();
    let mut since_kept = Duration::ZERO;
    let mut tick = TICK;
    loop {
        {
            let mut stop = inner.stop.lock();
            if !*stop {
                inner.stopped.wait_for(&mut stop, tick);
            }
            if *stop {
                return;
            }
        }
        if !inner.is_writer() {
            tick = IDLE_TICK;
            continue;
        }
        since_kept += tick;
        let in_use = inner.deadlines.load(Ordering::Relaxed);
        if in_use && since_kept >= Duration::from_secs(1) {
            inner.deadlines.store(false, Ordering::Relaxed);
            since_kept = Duration::ZERO;
            let _ = keep_clock(inner);
        }
        if in_use {
            place.resting = false;
        }
        tick = if place.resting { IDLE_TICK } else { TICK };
        if place.resting {
            continue;
        }
        match step(inner, &mut place) {
            // Much has passed: go on at once.
            Ok(deleted) if deleted as usize > STEP_KEYS / 10 => tick = Duration::from_millis(1),
            Ok(_) => {}
            // Writes are refused or held; whoever reports it, it is not this worker. Later again.
            Err(_) => tick = IDLE_TICK,
        }
    }
}

/// Writes the clock's reading, so that it is not behind it after a restart.
fn keep_clock(inner: &Inner) -> Result<(), StoreError> {
    let _clock_write = inner.clock_write.lock();
    let now = inner.clock.now();
    if now > inner.clock.kept() {
        let mut batch = WriteBatch::new();
        batch.put(CLOCK_KEY, &now.to_le_bytes());
        inner.store.try_write(&batch)?;
        inner.clock.observe_kept(now);
    }
    Ok(())
}

pub(super) fn step(inner: &Inner, place: &mut ExpiryPlace) -> Result<u64, StoreError> {
    if !inner.is_writer() {
        return Ok(0);
    }
    let now = inner.clock.now();
    let snapshot = inner.store.snapshot();
    let start = place.after.take();
    let start = start
        .as_deref()
        .map_or(Bound::Included(USER_START), Bound::Excluded);
    let mut passed: Vec<(Bytes, SeqNo)> = Vec::new();
    let mut walked = 0;
    for entry in inner.store.scan(&snapshot, start, Bound::Unbounded)? {
        let entry = entry?;
        walked += 1;
        // What this version did not write is left alone.
        if let Some(value) = Value::from_stored(entry.value)
            && value.deadline.is_some()
        {
            place.met += 1;
            if value.is_past(now) {
                passed.push((entry.key.clone(), entry.seqno));
            }
        }
        if walked == STEP_KEYS {
            place.after = Some(entry.key);
            break;
        }
    }
    drop(snapshot);
    if place.after.is_none() {
        inner.expires.store(place.met, Ordering::Relaxed);
        place.resting = place.met == 0;
        place.met = 0;
    }
    let mut deleted = 0;
    for keys in passed.chunks(BATCH_KEYS) {
        deleted += match delete_unchanged(inner, keys, now) {
            Err(error) if is_busy(&error) => return Ok(deleted),
            result => result?,
        };
    }
    Ok(deleted)
}

fn delete_unchanged(inner: &Inner, keys: &[(Bytes, SeqNo)], now: i64) -> Result<u64, StoreError> {
    let mut batch = WriteBatch::new();
    let mut stripes = StripeSet::default();
    for (key, _) in keys {
        stripes.add(key);
    }
    let _held = inner.stripes.many(&stripes);
    for (key, seqno) in keys {
        let found = inner.store.get(key)?;
        if found.seqno == *seqno && found.value.is_some() {
            batch.delete(key);
        }
    }
    let deleted = batch.len() as u64;
    if deleted == 0 {
        return Ok(0);
    }
    let _clock_write = inner.clock_write.lock();
    let keep = now > inner.clock.kept();
    if keep {
        batch.put(CLOCK_KEY, &now.to_le_bytes());
    }
    inner.store.try_write(&batch)?;
    if keep {
        inner.clock.observe_kept(now);
    }
    inner.expired.fetch_add(deleted, Ordering::Relaxed);
    Ok(deleted)
}
