//! What a log must hold, kept beside it in the plainest way.

use esker_wal::frame::{Seed, checksum, fold, frame_len};
use esker_wal::{ChainHash, Epoch, Kind, LogId, Lsn};
use std::collections::{BTreeMap, HashMap};

/// A frame that was reserved, and what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ModelFrame {
    pub(crate) lsn: Lsn,
    pub(crate) epoch: Epoch,
    pub(crate) kind: Kind,
    pub(crate) payload: Vec<u8>,
}

impl ModelFrame {
    pub(crate) fn end(&self) -> Lsn {
        self.lsn.advance(frame_len(self.payload.len()) as u64)
    }

    pub(crate) fn brief(&self) -> String {
        let sum = crc32fast::hash(&self.payload);
        format!(
            "{:?} {}..{} epoch {} payload {} bytes ({sum:08x})",
            self.kind,
            self.lsn,
            self.end(),
            self.epoch,
            self.payload.len()
        )
    }
}

/// A slot's position on disk lies in `low..=high`; if `unsure`, it may also be missing.
#[derive(Clone, Debug)]
pub(crate) struct ModelSlot {
    pub(crate) low: Lsn,
    pub(crate) high: Lsn,
    pub(crate) unsure: bool,
    /// It may have been lost to a cap.
    pub(crate) capped: bool,
}

#[derive(Debug)]
pub(crate) struct Model {
    log: LogId,
    /// All frames reserved since the log's birth, those of reservations still held included.
    pub(crate) frames: Vec<ModelFrame>,
    /// Everything below was said to be synced.
    pub(crate) synced: Lsn,
    /// Frames that were under way when an error came; one of them may follow the last.
    pub(crate) in_flight: Vec<ModelFrame>,
    /// Epochs that may have begun without our hearing of it.
    pub(crate) epochs_unheard: u64,
    /// Every frame ever seen, by its name.
    names: HashMap<(Epoch, Lsn), (Kind, Vec<u8>)>,
    pub(crate) slots: BTreeMap<String, ModelSlot>,
    pub(crate) released: Lsn,
    /// The highest that `oldest` may have reached.
    pub(crate) oldest_max: Lsn,
}

impl Model {
    pub(crate) fn new(log: LogId) -> Model {
        Model {
            log,
            frames: Vec::new(),
            synced: Lsn::ZERO,
            in_flight: Vec::new(),
            epochs_unheard: 0,
            names: HashMap::new(),
            slots: BTreeMap::new(),
            released: Lsn::ZERO,
            oldest_max: Lsn::ZERO,
        }
    }

    pub(crate) fn end(&self) -> Lsn {
        self.frames.last().map_or(Lsn::ZERO, ModelFrame::end)
    }

    /// Adds a frame that was given its LSN.
    pub(crate) fn push(&mut self, frame: ModelFrame) -> Result<(), String> {
        if frame.lsn != self.end() {
            return Err(format!(
                "{} was appended, but the log ended at {}",
                frame.brief(),
                self.end()
            ));
        }
        self.frames.push(frame);
        Ok(())
    }

    pub(crate) fn at(&self, lsn: Lsn) -> Option<usize> {
        self.frames.binary_search_by_key(&lsn, |f| f.lsn).ok()
    }

    /// W5: a name never stands for two frames.
    pub(crate) fn name(&mut self, frame: &ModelFrame) -> Result<(), String> {
        let said = (frame.kind, frame.payload.clone());
        let known = self
            .names
            .entry((frame.epoch, frame.lsn))
            .or_insert_with(|| said.clone());
        if *known != said {
            return Err(format!(
                "W5: {} has the name of another frame: {:?}, {} bytes",
                frame.brief(),
                known.0,
                known.1.len()
            ));
        }
        Ok(())
    }

    pub(crate) fn is_named(&self, epoch: Epoch, lsn: Lsn) -> bool {
        self.names.contains_key(&(epoch, lsn))
    }

    /// Slots above the end were moved back to it, which lies between these.
    pub(crate) fn clamp_slots(&mut self, low: Lsn, high: Lsn) {
        for slot in self.slots.values_mut() {
            slot.high = slot.high.min(high);
            slot.low = slot.low.min(low);
        }
    }

    /// The log was rewound: returns what was cut.
    pub(crate) fn rewind(&mut self, fork: Lsn) -> Vec<ModelFrame> {
        let at = self.frames.partition_point(|f| f.lsn < fork);
        self.synced = fork;
        self.in_flight.clear();
        self.released = self.released.min(fork);
        self.oldest_max = self.oldest_max.min(fork);
        self.clamp_slots(fork, Lsn::MAX);
        self.frames.split_off(at)
    }

    /// The chain hash below `lsn`, which may be behind a frame whose filling failed: that can be there whole.
    pub(crate) fn chain(&self, lsn: Lsn) -> ChainHash {
        let mut chain = ChainHash(0);
        let all = self.frames.iter().chain(&self.in_flight);
        for frame in all.take_while(|f| f.lsn < lsn) {
            chain = fold(chain, frame.epoch, &self.header(frame));
        }
        chain
    }

    pub(crate) fn header(&self, frame: &ModelFrame) -> esker_wal::frame::Header {
        let seed = Seed::new(self.log, frame.epoch);
        esker_wal::frame::Header {
            payload_len: frame.payload.len() as u32,
            crc: checksum(seed, frame.lsn, frame.kind, &[&frame.payload]),
            lsn: frame.lsn,
            kind: frame.kind,
        }
    }

    /// How far the log may have been released.
    pub(crate) fn note_oldest_max(&mut self, read: Option<Lsn>) {
        // A slot whose removal failed holds nothing any more, though it may be found again.
        let sure = self.slots.values().filter(|s| !s.unsure && !s.capped);
        let held = sure.map(|s| s.high).chain(read).min();
        let now = held.unwrap_or(Lsn::MAX).min(self.released);
        self.oldest_max = self.oldest_max.max(now);
    }

    /// How far what was found is what was appended.
    pub(crate) fn agrees_up_to(&self, oldest: Lsn, found: &[ModelFrame]) -> Lsn {
        let from = self.frames.partition_point(|f| f.lsn < oldest);
        let same = self.frames[from..].iter().zip(found);
        let last = same.take_while(|(ours, theirs)| ours == theirs).last();
        last.map_or(oldest, |(frame, _)| frame.end())
    }

    /// Takes over what a log held after it was opened, if that is allowed: `must` is what it has to
    /// hold at least, `may_begin` how many epochs it may have begun.
    pub(crate) fn recovered(
        &mut self,
        oldest: Lsn,
        found: Vec<ModelFrame>,
        must: Lsn,
        may_begin: u64,
    ) -> Result<(), String> {
        if oldest > self.oldest_max {
            return Err(format!(
                "the oldest LSN is {oldest}; nothing above {} was released",
                self.oldest_max
            ));
        }
        let from = self.frames.partition_point(|f| f.lsn < oldest);
        let begins_at = self.frames.get(from).map_or(self.end(), |f| f.lsn);
        if begins_at != oldest {
            return Err(format!("the oldest LSN, {oldest}, is no frame's"));
        }
        let mut at = oldest;
        for frame in &found {
            if frame.lsn != at {
                return Err(format!("W2: a gap: {} after {at}", frame.brief()));
            }
            at = frame.end();
        }
        let same = (self.frames[from..].iter().zip(&found))
            .take_while(|(ours, theirs)| ours == theirs)
            .count();
        let kept_to = found[..same].last().map_or(oldest, ModelFrame::end);
        if kept_to < must {
            let ours = self.frames.get(from + same).map(ModelFrame::brief);
            let theirs = found.get(same).map(ModelFrame::brief);
            return Err(format!(
                "acknowledged up to {must}, but the frames agree only up to {kept_to}; there: \
                 appended {ours:?}, found {theirs:?}"
            ));
        }
        let mut rest = &found[same..];
        if let Some(first) = rest.first()
            && self.in_flight.contains(first)
        {
            rest = &rest[1..];
        }
        for frame in rest {
            if frame.kind != Kind::Control {
                return Err(format!("W2: {} was never appended", frame.brief()));
            }
            let says = [frame.epoch.number, frame.epoch.id, frame.lsn.0];
            if frame.payload != says.map(u64::to_le_bytes).concat() {
                return Err(format!("{} begins another epoch", frame.brief()));
            }
        }
        let most = may_begin + self.epochs_unheard;
        if rest.len() as u64 > most {
            return Err(format!(
                "{} epochs were begun, at most {most} should have been",
                rest.len()
            ));
        }
        for frame in &found {
            self.name(frame)?;
        }
        self.frames.truncate(from);
        self.frames.extend(found);
        self.synced = self.end();
        self.in_flight.clear();
        self.epochs_unheard = 0;
        Ok(())
    }
}
