//! One command's (or one EXEC's) work on the store: reads, and writes that are gathered into one batch.
//!
//! - N1: nothing is appended before [`Txn::commit`], and that appends one batch or nothing.
//! - N2: with an overlay (EXEC) a read sees what the same transaction wrote before; without one, a command reads a key
//!   before it writes it and never again.
//! - N3: a key whose deadline the clock has reached reads as missing, whoever asks.
//! - N4: `newest` is at or above SeqNo + 1 of each version, and of each tombstone behind a miss, that was read.

use super::Inner;
use super::cursors::Cursors;
use super::keys::{CLOCK_KEY, StoredKey, USER_START};
use super::locks::Held;
use super::state::{Change, State};
use super::value::{Head, Value};
use super::watch::Dirty;
use bytes::Bytes;
use esker_lsm::{Snapshot, StoreError, WriteBatch};
use esker_wal::Lsn;
use smallvec::SmallVec;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::atomic::Ordering;

/// What a walk over keys calls: a key, and its value unless its deadline has passed.
type Each<'a> = dyn FnMut(&[u8], Option<&Value>) -> ControlFlow<()> + 'a;

/// Memory of a batch that is worth keeping for the next command.
const BATCH_KEEP_BYTES: usize = 64 << 10;

thread_local! {
    static BATCH: Cell<Option<WriteBatch>> = const { Cell::new(None) };
}

/// What EXEC wrote so far, by stored key; `None` is deleted.
#[derive(Debug, Default)]
struct Overlay {
    /// Everything below was flushed.
    cleared: bool,
    keys: BTreeMap<Box<[u8]>, Option<Value>>,
}

/// What a transaction runs on.
enum Base<'a> {
    Engine(&'a Inner),
    /// It gathers changes in place of a batch; it has no view and no locks.
    State {
        state: &'a mut dyn State,
        cursors: &'a Cursors,
        changes: Vec<Change>,
        /// Bytes of `changes`.
        bytes: usize,
    },
}

impl std::fmt::Debug for Base<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Base::Engine(_) => "Engine",
            Base::State { .. } => "State",
        })
    }
}

/// See the module.
#[derive(Debug)]
pub struct Txn<'a> {
    base: Base<'a>,
    /// Where reads look; `None` is the latest applied state.
    view: Option<Snapshot>,
    held: Held<'a>,
    holds_all: bool,
    batch: Option<WriteBatch>,
    overlay: Option<Overlay>,
    now: Option<i64>,
    newest: u64,
    /// The latest deadline that made a key read as missing.
    expired: i64,
    dirty: Vec<Dirty>,
    /// Keys that may still be walked over, and whether there were more.
    walks: usize,
    walked_too_far: bool,
}

/// What [`Txn::commit`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    /// The position that must be safe before anybody hears of this.
    pub touched: Lsn,
    /// End of the frame, where the command wrote one.
    pub end: Option<Lsn>,
}

impl<'a> Txn<'a> {
    pub(super) fn new(
        engine: &'a Inner,
        view: Option<Snapshot>,
        held: Held<'a>,
        holds_all: bool,
    ) -> Self {
        Txn::over(Base::Engine(engine), view, held, holds_all)
    }

    /// A transaction on state that somebody else keeps. Its end is [`Txn::into_changes`].
    #[must_use]
    pub fn on_state(state: &'a mut dyn State, cursors: &'a Cursors) -> Self {
        let base = Base::State {
            state,
            cursors,
            changes: Vec::new(),
            bytes: 0,
        };
        Txn::over(base, None, Held::None, true)
    }

    #[inline]
    fn over(base: Base<'a>, view: Option<Snapshot>, held: Held<'a>, holds_all: bool) -> Self {
        Txn {
            base,
            view,
            held,
            holds_all,
            batch: None,
            overlay: None,
            now: None,
            newest: 0,
            expired: i64::MIN,
            dirty: Vec::new(),
            walks: usize::MAX,
            walked_too_far: false,
        }
    }

    /// What is to be changed, in this order: all of it, or none. Empty on an engine's transaction.
    #[must_use]
    pub fn into_changes(mut self) -> Vec<Change> {
        match &mut self.base {
            Base::Engine(_) => Vec::new(),
            Base::State { changes, .. } => std::mem::take(changes),
        }
    }

    /// How many changes there are so far, and their bytes. Nothing on an engine's transaction.
    #[must_use]
    pub fn changed(&self) -> (usize, usize) {
        match &self.base {
            Base::Engine(_) => (0, 0),
            Base::State { changes, bytes, .. } => (changes.len(), *bytes),
        }
    }

    /// Walks over so many keys in all, and ends where there are more: what was found then is not all.
    pub(crate) fn walking_at_most(mut self, keys: usize) -> Self {
        self.walks = keys;
        self
    }

    /// Whether it walked over fewer keys than it was to.
    pub(crate) fn walked_too_far(&self) -> bool {
        self.walked_too_far
    }

    /// From here on reads see this transaction's own writes.
    pub fn with_overlay(mut self) -> Self {
        self.overlay = Some(Overlay::default());
        self
    }

    /// The expiry clock, one reading for the whole transaction, in milliseconds since 1970.
    pub fn now(&mut self) -> Result<i64, StoreError> {
        if let Some(now) = self.now {
            return Ok(now);
        }
        let now = match &mut self.base {
            Base::Engine(engine) => engine.clock_now()?,
            Base::State { state, .. } => state.now()?,
        };
        self.now = Some(now);
        Ok(now)
    }

    /// How long it is until `deadline`, in milliseconds.
    pub fn left(&mut self, deadline: i64) -> Result<i64, StoreError> {
        let clock = match &mut self.base {
            Base::Engine(_) => self.now()?,
            Base::State { state, .. } => state.clock()?,
        };
        Ok(deadline.saturating_sub(clock).max(0))
    }

    /// Reads a key for the user: counts as a hit or a miss.
    pub fn get(&mut self, key: &[u8]) -> Result<Option<Value>, StoreError> {
        let found = self.peek(key)?;
        if let Base::Engine(engine) = &self.base {
            let counter = if found.is_some() {
                &engine.hits
            } else {
                &engine.misses
            };
            counter.fetch_add(1, Ordering::Relaxed);
        }
        Ok(found)
    }

    /// Reads a key on the way to writing it.
    pub fn peek(&mut self, key: &[u8]) -> Result<Option<Value>, StoreError> {
        self.peek_stored(&StoredKey::new(key))
    }

    fn peek_stored(&mut self, key: &[u8]) -> Result<Option<Value>, StoreError> {
        if let Some(overlay) = &self.overlay {
            if let Some(value) = overlay.keys.get(key) {
                return match value.clone() {
                    Some(value) => self.alive(value),
                    None => Ok(None),
                };
            }
            if overlay.cleared {
                return Ok(None);
            }
        }
        let found = match &mut self.base {
            Base::Engine(engine) => {
                let found = match &self.view {
                    None => engine.store.get(key)?,
                    Some(view) => engine.store.get_at(view, key)?,
                };
                if found.seqno.0 > 0 {
                    self.newest = self.newest.max(found.seqno.0 + 1);
                }
                found.value
            }
            Base::State { state, .. } => state.get(key)?,
        };
        match found {
            Some(stored) => {
                let value = decode(key, stored)?;
                self.alive(value)
            }
            None => Ok(None),
        }
    }

    #[inline]
    fn alive(&mut self, value: Value) -> Result<Option<Value>, StoreError> {
        let Some(deadline) = value.deadline else {
            return Ok(Some(value));
        };
        if deadline <= self.now()? {
            self.expired = self.expired.max(deadline);
            return Ok(None);
        }
        Ok(Some(value))
    }

    /// Writes a key: its data is the concatenation of `parts`.
    pub fn put(&mut self, key: &[u8], deadline: Option<i64>, parts: &[&[u8]]) {
        let key = StoredKey::new(key);
        let head = Head::new(deadline);
        match &mut self.base {
            Base::State { .. } => {
                let head = head.as_bytes();
                let len: usize = parts.iter().map(|part| part.len()).sum();
                let mut value = Vec::with_capacity(head.len() + len);
                value.extend_from_slice(head);
                parts.iter().for_each(|part| value.extend_from_slice(part));
                self.gather(Change::Put(key.to_vec(), value));
            }
            Base::Engine(engine) => {
                let engine = *engine;
                if deadline.is_some() {
                    engine.deadlines_in_use();
                }
                let mut stored: SmallVec<[&[u8]; 6]> = SmallVec::new();
                stored.push(head.as_bytes());
                stored.extend_from_slice(parts);
                self.batch().put_parts(&key, &stored);
                if engine.watches.any() {
                    engine.watches.collect(&key, &mut self.dirty);
                }
            }
        }
        if let Some(overlay) = &mut self.overlay {
            overlay
                .keys
                .insert((*key).into(), Some(Value::from_parts(deadline, parts)));
        }
    }

    /// Deletes a key that is there.
    pub fn delete(&mut self, key: &[u8]) {
        let key = StoredKey::new(key);
        match &mut self.base {
            Base::State { .. } => self.gather(Change::Delete(key.to_vec())),
            Base::Engine(engine) => {
                let engine = *engine;
                self.batch().delete(&key);
                if engine.watches.any() {
                    engine.watches.collect(&key, &mut self.dirty);
                }
            }
        }
        if let Some(overlay) = &mut self.overlay {
            overlay.keys.insert((*key).into(), None);
        }
    }

    /// Deletes all keys. All stripes must be held.
    pub fn clear(&mut self) -> Result<(), StoreError> {
        debug_assert!(self.holds_all, "a flush holds all stripes");
        match &mut self.base {
            Base::State { .. } => self.gather(Change::Clear),
            Base::Engine(engine) => {
                let engine = *engine;
                if engine.watches.any() {
                    for key in engine.watches.keys() {
                        if self.peek_stored(&key)?.is_some() {
                            engine.watches.collect(&key, &mut self.dirty);
                        }
                    }
                }
                self.batch().delete_range(USER_START, Bound::Unbounded);
            }
        }
        if let Some(overlay) = &mut self.overlay {
            overlay.cleared = true;
            overlay.keys.clear();
        }
        Ok(())
    }

    /// On another's state.
    fn gather(&mut self, change: Change) {
        if let Base::State { changes, bytes, .. } = &mut self.base {
            *bytes += change.bytes();
            changes.push(change);
        }
    }

    fn batch(&mut self) -> &mut WriteBatch {
        self.batch
            .get_or_insert_with(|| BATCH.take().unwrap_or_default())
    }

    /// Walks the stored keys behind `after` (from the first where it is `None`) in their order, with the value or
    /// `None` where the deadline has passed, until `each` breaks.
    pub fn scan(
        &mut self,
        after: Option<&[u8]>,
        each: impl FnMut(&[u8], Option<&Value>) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let start = after.map_or(Bound::Included(USER_START), Bound::Excluded);
        self.scan_from(start, each)
    }

    fn snapshot(&mut self, engine: &Inner) -> Snapshot {
        let snapshot = match &self.view {
            Some(view) => view.clone(),
            // Behind all stripes no write is on its way: the snapshot is not older than what a plain read saw.
            None if self.holds_all => engine.store.snapshot(),
            None => {
                let _all = engine.stripes.all();
                engine.store.snapshot()
            }
        };
        self.newest = self.newest.max(snapshot.seqno().0);
        snapshot
    }

    fn scan_from(
        &mut self,
        start: Bound<&[u8]>,
        mut each: impl FnMut(&[u8], Option<&Value>) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let overlay = self.overlay.take();
        let result = self.merge(start, overlay.as_ref(), &mut each);
        self.overlay = overlay;
        result
    }

    fn merge(
        &mut self,
        start: Bound<&[u8]>,
        overlay: Option<&Overlay>,
        each: &mut Each<'_>,
    ) -> Result<(), StoreError> {
        let now = self.now()?;
        let mut expired = self.expired;
        let mut show = |key: &[u8], value: &Value| {
            if value.is_past(now) {
                expired = expired.max(value.deadline.unwrap_or(i64::MIN));
                each(key, None)
            } else {
                each(key, Some(value))
            }
        };
        let (left, too_far) = (Cell::new(self.walks), Cell::new(false));
        let goes_on = || match left.get().checked_sub(1) {
            Some(walks) => {
                left.set(walks);
                true
            }
            None => {
                too_far.set(true);
                false
            }
        };
        let mut ours = overlay.map(|overlay| {
            overlay
                .keys
                .range::<[u8], _>((start, Bound::Unbounded))
                .peekable()
        });
        let mut ended = false;
        if !overlay.is_some_and(|overlay| overlay.cleared) {
            let mut take = |at: &[u8], stored: Bytes| {
                if let Some(ours) = &mut ours {
                    while let Some((key, value)) = ours.next_if(|(key, _)| ***key <= *at) {
                        if !goes_on() || value.as_ref().is_some_and(|v| show(key, v).is_break()) {
                            ended = true;
                            return Ok(ControlFlow::Break(()));
                        }
                        if **key == *at {
                            return Ok(ControlFlow::Continue(()));
                        }
                    }
                }
                if !goes_on() {
                    ended = true;
                    return Ok(ControlFlow::Break(()));
                }
                let value = decode(at, stored)?;
                let flow = show(at, &value);
                ended = flow.is_break();
                Ok(flow)
            };
            let engine = match &mut self.base {
                Base::Engine(engine) => Some(*engine),
                Base::State { state, .. } => {
                    state.scan(start, &mut take)?;
                    None
                }
            };
            if let Some(engine) = engine {
                let snapshot = self.snapshot(engine);
                for entry in engine.store.scan(&snapshot, start, Bound::Unbounded)? {
                    let entry = entry?;
                    if take(&entry.key, entry.value)?.is_break() {
                        break;
                    }
                }
            }
        }
        if !ended {
            for (key, value) in ours.into_iter().flatten() {
                if !goes_on() || value.as_ref().is_some_and(|v| show(key, v).is_break()) {
                    break;
                }
            }
        }
        (self.walks, self.expired) = (left.get(), expired);
        self.walked_too_far |= too_far.get();
        Ok(())
    }

    /// Some stored key that is there, by `random`: a place between the first and the last key is drawn, and one of the
    /// keys next to it on one side. Not uniform. On another's state there is none.
    pub fn random_key(&mut self, random: u64) -> Result<Option<Box<[u8]>>, StoreError> {
        const NEAR: usize = 16;
        let mix = random.rotate_left(31).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut near: Vec<Box<[u8]>> = Vec::new();
        let Base::Engine(engine) = self.base else {
            return Ok(None);
        };
        if self.overlay.is_some() {
            // In EXEC: all keys, as the overlay may hide any of them.
            self.scan(None, |key, value| {
                near.extend(value.map(|_| Box::from(key)));
                ControlFlow::Continue(())
            })?;
        } else {
            let now = self.now()?;
            let snapshot = self.snapshot(engine);
            let store = &engine.store;
            let all = Bound::Included(USER_START);
            let mut ends = store.scan(&snapshot, all, Bound::Unbounded)?;
            let Some(first) = ends.next().transpose()? else {
                return Ok(None);
            };
            let mut first = first.key;
            let mut last = ends
                .next_back()
                .transpose()?
                .map_or(first.clone(), |entry| entry.key);
            drop(ends);
            // A few rounds, so that one key far from the others does not hide them.
            let mut place = between(&first, &last, random);
            let mut bits = mix >> 32;
            for _ in 0..bits & 3 {
                bits = bits.rotate_right(5).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                if bits & 1 == 0 {
                    let mut below = store.scan(&snapshot, all, Bound::Included(&place))?;
                    last = below
                        .next_back()
                        .transpose()?
                        .map_or(last, |entry| entry.key);
                } else {
                    let mut above =
                        store.scan(&snapshot, Bound::Included(&place), Bound::Unbounded)?;
                    first = above.next().transpose()?.map_or(first, |entry| entry.key);
                }
                place = between(&first, &last, bits.reverse_bits());
            }
            let mut expired = self.expired;
            let mut take = |entry: Result<esker_lsm::Entry, StoreError>| {
                let entry = entry?;
                let value = decode(&entry.key, entry.value)?;
                if value.is_past(now) {
                    expired = expired.max(value.deadline.unwrap_or(i64::MIN));
                } else {
                    near.push((*entry.key).into());
                }
                Ok::<bool, StoreError>(near.len() < NEAR)
            };
            let below_first = mix & 1 == 0;
            for below in [below_first, !below_first] {
                let mut more = true;
                if below {
                    let mut scan = store.scan(&snapshot, all, Bound::Included(&place))?.rev();
                    while more && let Some(entry) = scan.next() {
                        more = take(entry)?;
                    }
                } else {
                    let mut scan =
                        store.scan(&snapshot, Bound::Excluded(&place), Bound::Unbounded)?;
                    while more && let Some(entry) = scan.next() {
                        more = take(entry)?;
                    }
                }
                if !more {
                    break;
                }
            }
            self.expired = expired;
        }
        let at = (mix >> 8) as usize % near.len().max(1);
        Ok((at < near.len()).then(|| near.swap_remove(at)))
    }

    /// The version that decides about a stored key now, and its deadline (`None`: missing, or none).
    pub(crate) fn version(&mut self, key: &[u8]) -> Result<Version, StoreError> {
        let before = self.newest;
        self.newest = 0;
        let found = self.peek_stored(key)?;
        let seqno = match &mut self.base {
            Base::Engine(_) => self.newest,
            Base::State { state, .. } if found.is_some() => state.written(key)?,
            Base::State { .. } => 0,
        };
        self.newest = self.newest.max(before);
        Ok(Version {
            seqno,
            exists: found.is_some(),
            deadline: found.and_then(|value| value.deadline),
        })
    }

    /// SCAN's places.
    #[must_use]
    pub fn cursors(&self) -> &'a Cursors {
        match &self.base {
            Base::Engine(engine) => &engine.cursors,
            Base::State { cursors, .. } => cursors,
        }
    }

    /// Whether anything is to be written.
    #[must_use]
    pub fn has_writes(&self) -> bool {
        match &self.base {
            Base::Engine(_) => self.batch.as_ref().is_some_and(|batch| !batch.is_empty()),
            Base::State { changes, .. } => !changes.is_empty(),
        }
    }

    /// Appends the batch, if there is one, and frees the locks. `Busy`: nothing was done.
    pub fn commit(mut self) -> Result<Done, StoreError> {
        let mut touched = Lsn(self.newest);
        let Base::Engine(engine) = self.base else {
            return Ok(Done { touched, end: None });
        };
        let wrote = self.has_writes();
        let keep_clock =
            self.view.is_none() && self.expired > engine.clock.kept() && engine.is_writer();
        if !wrote && !keep_clock {
            return Ok(Done { touched, end: None });
        }
        let mut end = None;
        {
            // Readings reach the store in rising order.
            let clock_write = keep_clock.then(|| engine.clock_write.lock());
            let mut kept = None;
            if clock_write.is_some() && self.expired > engine.clock.kept() {
                let now = self.now()?;
                self.batch().put(CLOCK_KEY, &now.to_le_bytes());
                kept = Some(now);
            }
            if wrote || kept.is_some() {
                match engine.store.try_write(self.batch()) {
                    Ok(written) => {
                        touched = touched.max(written.end);
                        end = wrote.then_some(written.end);
                        if let Some(now) = kept {
                            engine.clock.observe_kept(now);
                        }
                    }
                    Err(error) if wrote || is_busy(&error) => return Err(error),
                    // The read itself is sound; the server's own checks report what ails the log.
                    Err(_) => {}
                }
            }
        }
        for dirty in self.dirty.drain(..) {
            dirty.store(true, Ordering::Release);
        }
        self.held = Held::None;
        Ok(Done { touched, end })
    }
}

impl Drop for Txn<'_> {
    fn drop(&mut self) {
        if let Some(mut batch) = self.batch.take()
            && batch.encoded_len() <= BATCH_KEEP_BYTES
        {
            batch.clear();
            BATCH.set(Some(batch));
        }
    }
}

/// What [`Txn::version`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    /// SeqNo + 1 of what decided; on another's state where it was written, 0 where nothing is there.
    pub(crate) seqno: u64,
    pub(crate) exists: bool,
    pub(crate) deadline: Option<i64>,
}

/// Whether an error means: try again when there is room.
#[must_use]
pub fn is_busy(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::Busy | StoreError::Log(esker_wal::LogError::Busy)
    )
}

fn decode(key: &[u8], stored: Bytes) -> Result<Value, StoreError> {
    Value::from_stored(stored).ok_or_else(|| StoreError::Corrupt {
        path: "the store".into(),
        offset: 0,
        what: format!(
            "the value of key {:?} was not written by this version of Esker; read it with the one that did",
            String::from_utf8_lossy(&key[..key.len().min(64)])
        ),
    })
}

/// A byte string between two keys, drawn by `random`: their common prefix and eight bytes. Keys out of order give the
/// first.
fn between(first: &[u8], last: &[u8], random: u64) -> Vec<u8> {
    let common = first.iter().zip(last).take_while(|(a, b)| a == b).count();
    let word = |key: &[u8]| {
        let mut bytes = [0; 8];
        for (to, from) in bytes.iter_mut().zip(&key[common..]) {
            *to = *from;
        }
        u64::from_be_bytes(bytes)
    };
    let (low, high) = (word(first), word(last));
    let span = u128::from(high.saturating_sub(low));
    let drawn = low + ((u128::from(random) * span) >> 64) as u64;
    [&first[..common], &drawn.to_be_bytes()].concat()
}
