//! The lives of a log: opened and held against the model, ended by a crash or a close.

use super::*;

impl World {
    pub(super) fn reopen(&mut self) -> Checked {
        if self.media.is_down() {
            self.crash()?;
        }
        // Some openings meet trouble of their own.
        if self.rng.chance(4) {
            self.plan_trouble();
        }
        for attempt in 0.. {
            if attempt > 3 || self.rng.chance(2) {
                self.calm();
            }
            if self.open()? {
                break;
            }
            if self.media.is_down() || self.rng.chance(3) {
                self.crash()?;
            }
        }
        Ok(())
    }

    pub(super) fn reopen_well(&mut self) -> Checked {
        self.calm();
        match self.open()? {
            true => Ok(()),
            false => Err("opening failed without a cause".into()),
        }
    }

    /// Opens the log and holds what it found against the model; false if a planned failure came.
    pub(super) fn open(&mut self) -> Checked<bool> {
        let role = match self.rng.chance(10) {
            true => OpenRole::Follower,
            false => OpenRole::Writer,
        };
        let policy = match self.rng.below(3) {
            0 => SyncPolicy::Always,
            1 => SyncPolicy::Interval(Duration::from_millis(50)),
            _ => SyncPolicy::Manual,
        };
        let bound = match self.rng.chance(4) {
            true => 4096,
            false => 1 << 20,
        };
        self.caps = self.rng.chance(3);
        let mut limit = |n: u64| match self.caps && self.rng.chance(2) {
            true => SEGMENT_BYTES + self.rng.below(n),
            false => u64::MAX,
        };
        let (slot_bytes_max, log_bytes_max) = (limit(30_000), limit(60_000));
        let millis = limit(0) / 64;
        let free_bytes_min = match self.caps && self.rng.chance(2) {
            true => self.rng.below(40_000),
            false => 0,
        };
        let options = LogOptions {
            role,
            slot_bytes_max,
            log_bytes_max,
            slot_age_max: Duration::from_millis(millis),
            free_bytes_min,
            keep_age: Duration::from_millis(self.rng.below(2) * 300),
            sync_policy: policy,
            unsynced_bytes_max: bound,
            segments_ahead: 1 + self.rng.below(2) as usize,
            keep_bytes: self.rng.below(2) * 20_000,
            ..options(&self.media, &self.clock, self.id)
        };
        self.tally.opens += 1;
        self.say(format!("files: {}", files(&self.media)));
        let opened = Log::open(dir(), options);
        let (log, found) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                self.say(format!("open as {role:?}: {error}"));
                let excused = self.trouble || self.media.is_down();
                if !excused || matches!(error, OpenError::Corrupt { .. }) {
                    return Err(format!("open: {error}"));
                }
                // It may have begun an epoch before it failed.
                self.model.epochs_unheard += 1;
                if let Ended::Clean(_) = self.ended {
                    self.ended = Ended::Killed;
                }
                return Ok(false);
            }
        };
        self.say(format!(
            "open as {role:?} after {:?}: {found:?}",
            self.ended
        ));
        if self.media.is_down() {
            // The last that an open does, it does at its best: it makes spares, and tidies up after a lack of space.
            self.model.epochs_unheard += 1;
            return Ok(false);
        }
        // Reading has troubles of its own, which are not what is asked here.
        let trouble = self.trouble;
        self.calm();
        let frames = read_all(&log)?;
        let may_begin = match (self.ended, role) {
            (_, OpenRole::Follower) => 0,
            (Ended::Clean(OpenRole::Writer), OpenRole::Writer)
                if self.model.epochs_unheard == 0 && !self.model.frames.is_empty() =>
            {
                0
            }
            _ => 1,
        };
        let must = match self.ended {
            Ended::Cut => self.model.synced,
            Ended::Killed | Ended::Clean(_) => self.model.synced.max(self.must_if_killed),
        };
        let must = match self.maybe_fork.take() {
            // The rewind whose error we got had been done.
            Some(fork) if self.model.agrees_up_to(log.oldest(), &frames) <= fork => {
                self.say(format!("it was rewound to {fork}"));
                self.model.rewind(fork);
                must.min(fork)
            }
            _ => must,
        };
        let before = self.model.end();
        let unheard = self.model.epochs_unheard;
        self.model
            .recovered(log.oldest(), frames, must, may_begin)?;
        if let Ended::Clean(_) = self.ended
            && unheard == 0
            && !found.clean
            && !found.created
        {
            return Err(format!("closed cleanly, found {found:?}"));
        }
        self.tally.frames_lost += u64::from(found.end < before);
        let end = self.model.end();
        if log.synced() != end || log.published() != end || log.reserved() != end {
            return Err(format!(
                "W6: after open reserved {}, published {}, synced {}, end {end}",
                log.reserved(),
                log.published(),
                log.synced()
            ));
        }
        if found.oldest != log.oldest() {
            return Err(format!(
                "oldest {} reported, {} held",
                found.oldest,
                log.oldest()
            ));
        }
        if self.epochs_are_counted
            && role == OpenRole::Writer
            && may_begin == 1
            && !found.clean
            && found.reading_only.is_none()
            && self.model.frames.last().map(|f| f.kind) != Some(Kind::Control)
        {
            return Err("W5: an unclean open for writing began no epoch".into());
        }
        self.check_history(&log)?;
        let chain = log.chain_at(end).map_err(|e| format!("chain: {e}"))?;
        if chain != self.model.chain(end) {
            return Err(format!("another chain hash at the end, {end}"));
        }
        // An open that failed may have moved them back, to the end that it found; or it had begun an epoch and left them to this
        // one, which finds the epoch's control frame too.
        let low = match unheard {
            0 => found.end,
            _ => must.min(found.end),
        };
        self.model.clamp_slots(low, end);
        self.check_slots(&log)?;
        self.ended = Ended::Killed;
        self.must_if_killed = end;
        self.role = role;
        self.opened_reading_only = found.reading_only.is_some();
        self.resumes = found.reading_only.is_some() && role == OpenRole::Writer;
        self.log = Some(log);
        self.lacked_space = trouble;
        if trouble && self.rng.chance(2) {
            self.plan_trouble();
        }
        Ok(true)
    }

    /// The history of epochs is what the control frames say, and reaches back to the oldest frame.
    pub(super) fn check_history(&self, log: &Log) -> Checked {
        let history = log.epochs();
        for pair in history.windows(2) {
            if pair[0].begin >= pair[1].begin || pair[0].epoch.number > pair[1].epoch.number {
                return Err(format!("a history out of order: {history:?}"));
            }
        }
        for frame in self.model.frames.iter().filter(|f| f.lsn >= log.oldest()) {
            let of = history.iter().rev().find(|e| e.begin <= frame.lsn);
            if of.is_none_or(|e| e.epoch != frame.epoch) {
                return Err(format!(
                    "{} is not in the history {history:?}",
                    frame.brief()
                ));
            }
        }
        if history.last().is_some_and(|e| e.begin >= log.reserved()) {
            return Err(format!("an epoch of the future: {history:?}"));
        }
        Ok(())
    }

    pub(super) fn check_slots(&mut self, log: &Log) -> Checked {
        let found = log.slots();
        for slot in &found {
            let lost = slot.state == SlotState::Lost;
            match self.model.slots.get(&slot.name) {
                None => return Err(format!("a slot of nobody: {slot:?}")),
                Some(m) if lost && !m.capped => {
                    return Err(format!("slot {slot:?} is lost, though it had no cap"));
                }
                Some(_) if !lost && slot.position < log.oldest() => {
                    return Err(format!("slot {slot:?} holds nothing from {}", log.oldest()));
                }
                Some(m) if slot.position < m.low || slot.position > m.high => {
                    return Err(format!("slot {slot:?}, expected {m:?}"));
                }
                Some(_) => {}
            }
        }
        for (name, slot) in &self.model.slots {
            if !slot.unsure && !found.iter().any(|s| &s.name == name) {
                return Err(format!("slot {name} is missing, expected {slot:?}"));
            }
        }
        let model = found.into_iter().map(|s| {
            let slot = ModelSlot {
                low: s.position,
                high: s.position,
                unsure: false,
                capped: self.caps || s.state == SlotState::Lost,
            };
            (s.name, slot)
        });
        self.model.slots = model.collect();
        Ok(())
    }

    /// The end of the process, or of the power.
    pub(super) fn crash(&mut self) -> Checked {
        if let Some(log) = &self.log
            && !self.media.is_down()
        {
            let published = log.published().min(self.hole);
            self.must_if_killed = self.must_if_killed.max(published);
        }
        if self.media.is_down() || self.rng.chance(2) {
            let seed = self.rng.next_u64();
            self.say(format!("power cut {seed}"));
            self.media.power_cut(seed);
            self.ended = Ended::Cut;
            self.must_if_killed = self.model.synced;
            self.tally.cuts += 1;
            if self.rng.chance(3) {
                self.check_cuts()?;
            }
        } else {
            self.say("kill".into());
            self.media.kill();
            if self.ended != Ended::Cut {
                self.ended = Ended::Killed;
            }
            self.tally.kills += 1;
        }
        self.end_life();
        Ok(())
    }

    pub(super) fn end_life(&mut self) {
        self.held.clear();
        self.reader = None;
        self.hole = Lsn::MAX;
        if let Some(log) = self.log.take() {
            let stats = log.stats();
            self.tally.rotations += stats.rotations;
            self.tally.recycled += stats.recycled;
        }
    }

    pub(super) fn close(&mut self) -> Checked {
        while !self.held.is_empty() {
            self.publish_one()?;
        }
        let log = self.log().clone();
        let before = log.poison();
        let published = log.published().min(self.hole);
        let closed = log.close();
        self.say(format!("close: {closed:?}"));
        self.tally.closes += 1;
        self.must_if_killed = self.must_if_killed.max(published);
        match &closed {
            Ok(()) => {
                if before.is_some() {
                    return Err("W10: a poisoned log closed without an error".into());
                }
                self.model.synced = self.model.synced.max(published);
                // Without a segment there is nowhere to put a mark.
                self.ended = match self.opened_reading_only {
                    true => Ended::Killed,
                    false => Ended::Clean(self.role),
                };
            }
            Err(_) if self.trouble || before.is_some() => self.ended = Ended::Killed,
            Err(e) => return Err(format!("close: {e}")),
        }
        match log.append(&[b"late"]) {
            Err(LogError::Closed | LogError::Poisoned(_)) => {}
            other => return Err(format!("W10: append after close: {other:?}")),
        }
        if closed.is_ok() && log.close().is_err() {
            return Err("W10: the second close failed".into());
        }
        // A slot's last move is written at close at the latest.
        if closed.is_ok() {
            for slot in self.model.slots.values_mut() {
                slot.low = slot.high;
            }
        }
        self.note_close_of_follower();
        drop(log);
        self.end_life();
        if self.media.is_down() {
            self.ended = Ended::Cut;
        }
        Ok(())
    }

    /// A follower may have become a writer meanwhile; then its close is a writer's.
    pub(super) fn note_close_of_follower(&mut self) {
        if let Ended::Clean(role) = &mut self.ended {
            *role = self.role;
        }
    }
}
