//! What is done to a log while it lives.

use super::*;

impl World {
    pub(super) fn payload(&mut self) -> Vec<u8> {
        let rng = &mut self.rng;
        let len = match rng.below(10) {
            0 => 0,
            1 => rng.below(9),
            2..=7 => rng.below(300),
            8 => rng.below(3000),
            // One that needs a segment of its own.
            _ if rng.below(6) == 0 => FRAMES_PER_SEGMENT - 31 + rng.below(2 * FRAMES_PER_SEGMENT),
            _ => rng.below(FRAMES_PER_SEGMENT - 31),
        } as usize;
        // Bytes that look like first words, and bytes that look like nothing; always another payload.
        let mut out = match rng.below(3) {
            0 => vec![0xff; len],
            1 => (0..len)
                .map(|i| [0x20, 0, 0, 0x80, 1, 2, 3, 4][i % 8])
                .collect(),
            _ => (0..len).map(|_| rng.next_u64() as u8).collect::<Vec<_>>(),
        };
        for (byte, n) in out.iter_mut().zip(rng.next_u64().to_le_bytes()) {
            *byte ^= n;
        }
        out
    }

    pub(super) fn epoch(&self) -> esker_wal::Epoch {
        self.log().epoch()
    }

    pub(super) fn may_append(
        &mut self,
        doing: &str,
        result: Result<(), LogError>,
    ) -> Checked<bool> {
        match result {
            Ok(()) if self.role == OpenRole::Follower => {
                Err(format!("{doing}: a follower appended by itself"))
            }
            Ok(()) => Ok(true),
            Err(e) => self.excuse(doing, &e).map(|()| false),
        }
    }

    pub(super) fn append(&mut self) -> Checked {
        for _ in 0..1 + self.rng.below(4) * self.rng.below(2) {
            let payload = self.payload();
            let cut = self.rng.below(payload.len() as u64 + 1) as usize;
            let (a, b) = payload.split_at(cut);
            let log = self.log().clone();
            // A bound that waits for a hole of our own would wait for ever.
            let appended = if self.held.is_empty() {
                log.append(&[a, b])
            } else {
                log.try_reserve(payload.len())
                    .and_then(|r| r.publish(&[a, b]))
            };
            self.tally.appends += 1;
            let lsn = self.model.end();
            let result = appended.clone().map(|_| ());
            if !self.may_append("append", result)? {
                if log.reserved() > lsn && self.model.in_flight.is_empty() {
                    // It had its LSN when its filling failed: it may be found or not.
                    self.note_hole(lsn)?;
                    let frame = ModelFrame {
                        lsn,
                        epoch: self.epoch(),
                        kind: Kind::Data,
                        payload,
                    };
                    self.model.name(&frame)?;
                    self.model.in_flight.push(frame);
                }
                return Ok(());
            }
            let appended = appended.expect("checked");
            let frame = ModelFrame {
                lsn,
                epoch: self.epoch(),
                kind: Kind::Data,
                payload,
            };
            if (appended.lsn, appended.end) != (lsn, frame.end()) {
                return Err(format!("W5: {appended:?} for {}", frame.brief()));
            }
            self.model.name(&frame)?;
            self.model.push(frame)?;
        }
        Ok(())
    }

    /// Filling a frame failed: that poisons the log.
    pub(super) fn note_hole(&mut self, lsn: Lsn) -> Checked {
        self.hole = self.hole.min(lsn);
        match self.log().poison() {
            Some(_) => Ok(()),
            None => Err(format!(
                "W6: the frame at {lsn} failed, and nothing is poisoned"
            )),
        }
    }

    pub(super) fn reserve(&mut self) -> Checked {
        if self.held.len() > 4 {
            return self.publish_one();
        }
        let payload = self.payload();
        let reserved = self.log().try_reserve(payload.len());
        let reservation = match reserved {
            Ok(reservation) if self.role == OpenRole::Follower => {
                return Err(format!("a follower reserved {reservation:?}"));
            }
            Ok(reservation) => reservation,
            Err(e) => return self.excuse("reserve", &e),
        };
        self.say(format!(
            "reserved {} of {}",
            reservation.lsn(),
            payload.len()
        ));
        self.model.push(ModelFrame {
            lsn: reservation.lsn(),
            epoch: self.epoch(),
            // Until it is published. A hole is never found after a crash: reservations before it may be.
            kind: Kind::Void,
            payload: vec![0; payload.len()],
        })?;
        if reservation.end() != self.model.end() || reservation.payload_len() != payload.len() {
            return Err(format!("{reservation:?} for {} bytes", payload.len()));
        }
        self.held.push(Held {
            reservation,
            payload,
            frame: self.model.frames.len() - 1,
        });
        Ok(())
    }

    pub(super) fn publish_one(&mut self) -> Checked {
        if self.held.is_empty() {
            return Ok(());
        }
        let at = self.rng.below(self.held.len() as u64) as usize;
        let held = self.held.swap_remove(at);
        let lsn = held.reservation.lsn();
        let published = self.publish_held(held);
        if self.log().poison().is_some() {
            self.note_hole(lsn)?;
        }
        published
    }

    pub(super) fn publish_held(&mut self, held: Held) -> Checked {
        let frame = &mut self.model.frames[held.frame];
        let filled = ModelFrame {
            kind: Kind::Data,
            payload: held.payload.clone(),
            ..frame.clone()
        };
        match self.rng.below(8) {
            0 => {
                let frame = frame.clone();
                drop(held.reservation);
                self.say(format!("dropped {}", frame.lsn));
                self.model.name(&frame)
            }
            1 if !held.payload.is_empty() => {
                let frame = frame.clone();
                let short = held.reservation.publish(&[&held.payload[1..]]);
                self.say(format!("filled {} short: {short:?}", frame.lsn));
                if short.is_ok() {
                    return Err("W8: a short fill was published".into());
                }
                self.model.name(&frame)
            }
            _ => {
                *frame = filled.clone();
                let published = held.reservation.publish(&[&held.payload]);
                self.say(format!("published {}: {published:?}", filled.lsn));
                match published {
                    Ok(appended) if appended.lsn == filled.lsn => {}
                    // It may be there all the same.
                    Err(LogError::Poisoned(_)) => {}
                    other => return Err(format!("publish: {other:?} for {}", filled.brief())),
                }
                self.model.name(&filled)
            }
        }
    }

    /// A random frame end at or below what is published.
    pub(super) fn some_end(&mut self) -> Lsn {
        let published = self.log().published();
        let below = self.model.frames.partition_point(|f| f.end() <= published);
        match below {
            0 => Lsn::ZERO,
            _ if self.rng.chance(2) => published,
            n => self.model.frames[self.rng.below(n as u64) as usize].end(),
        }
    }

    pub(super) fn sync(&mut self) -> Checked {
        let end = self.some_end();
        let was = self.log().synced();
        let poisoned = self.log().poison().is_some();
        let synced = self.log().sync_up_to(end);
        self.say(format!("sync up to {end}: {synced:?}"));
        match synced {
            Ok(()) => {
                if poisoned && end > was {
                    return Err("W6: a poisoned log acknowledged a sync".into());
                }
                if self.log().synced() < end {
                    return Err(format!(
                        "synced up to {end}, but stands at {}",
                        self.log().synced()
                    ));
                }
                self.model.synced = self.model.synced.max(end);
                Ok(())
            }
            Err(e) => self.excuse("sync", &e),
        }
    }

    pub(super) fn request(&mut self) -> Checked {
        let end = self.some_end();
        self.log().request_sync(end);
        Ok(())
    }

    pub(super) fn work(&mut self) -> Checked {
        let most = 1 + self.rng.below(6);
        for n in 0.. {
            if !self.log().step() || n == most {
                break;
            }
        }
        Ok(())
    }

    pub(super) fn read(&mut self) -> Checked {
        let log = self.log().clone();
        let first = self.model.frames.partition_point(|f| f.lsn < log.oldest());
        let choices = self.model.frames.len() - first;
        if choices == 0 {
            return Ok(());
        }
        let mut at = first + self.rng.below(choices as u64) as usize;
        let (limit, stop) = match self.rng.chance(2) {
            true => (ReadLimit::Published, log.published()),
            false => (ReadLimit::Synced, log.synced()),
        };
        if self.model.frames[at].lsn > stop {
            return Ok(());
        }
        let mut reader = match log.reader(self.model.frames[at].lsn, limit) {
            Ok(reader) => reader,
            Err(e) => return self.excuse("reader", &e),
        };
        loop {
            match reader.next() {
                Ok(Some(frame)) => {
                    let found = ModelFrame {
                        lsn: frame.header.lsn,
                        epoch: frame.epoch,
                        kind: frame.header.kind,
                        payload: frame.payload.to_vec(),
                    };
                    let Some(expected) = self.model.frames.get(at) else {
                        // The call that failed had written all of it.
                        return match self.model.in_flight.contains(&found) {
                            true => Ok(()),
                            false => Err(format!("read {}, of nobody", found.brief())),
                        };
                    };
                    if found != *expected || frame.header != self.model.header(expected) {
                        return Err(format!(
                            "read {}, appended {}",
                            found.brief(),
                            expected.brief()
                        ));
                    }
                    at += 1;
                }
                Ok(None) => break,
                Err(e) => return self.excuse("read", &e),
            }
        }
        let ends_at = match at {
            0 => Lsn::ZERO,
            _ => self.model.frames[at - 1].end(),
        };
        if ends_at != stop || reader.position() != stop {
            return Err(format!(
                "a reader stopped at {} ({ends_at}), its limit is {stop}",
                reader.position()
            ));
        }
        Ok(())
    }

    /// A reader that stays open: what it has still to read is not taken from it.
    pub(super) fn read_on(&mut self) -> Checked {
        let Some(mut reader) = self.reader.take() else {
            let first = self
                .model
                .frames
                .partition_point(|f| f.lsn < self.log().oldest());
            let choices = self.model.frames.len() - first;
            let at = first + self.rng.below(choices as u64) as usize;
            let Some(frame) = self.model.frames.get(at) else {
                return Ok(());
            };
            if frame.lsn <= self.log().published() {
                let reader = self.log().reader(frame.lsn, ReadLimit::Published);
                self.say(format!("reads on from {}", frame.lsn));
                match reader {
                    Ok(reader) => self.reader = Some(reader),
                    Err(e) => return self.excuse("reader", &e),
                }
            }
            return Ok(());
        };
        for _ in 0..self.rng.below(8) {
            let at = reader.position();
            match reader.next() {
                Ok(Some(frame)) => {
                    let found = ModelFrame {
                        lsn: frame.header.lsn,
                        epoch: frame.epoch,
                        kind: frame.header.kind,
                        payload: frame.payload.to_vec(),
                    };
                    let known = self.model.at(at).map(|at| &self.model.frames[at]);
                    if known != Some(&found) && !self.model.in_flight.contains(&found) {
                        return Err(format!("read on at {at}: {}", found.brief()));
                    }
                }
                Ok(None) => break,
                Err(e) => {
                    self.excuse("read on", &e)?;
                    break;
                }
            }
        }
        if !self.rng.chance(6) {
            self.reader = Some(reader);
        }
        Ok(())
    }

    pub(super) fn chain(&mut self) -> Checked {
        let lsn = self.some_end();
        if lsn < self.log().oldest() {
            return Ok(());
        }
        match self.log().chain_at(lsn) {
            Ok(chain) if chain == self.model.chain(lsn) => Ok(()),
            Ok(chain) => Err(format!("chain hash {chain} at {lsn}, another was expected")),
            Err(e) => self.excuse("chain", &e),
        }
    }

    pub(super) fn slot(&mut self) -> Checked {
        let name = format!("slot-{}", self.rng.below(3));
        if self.rng.chance(4) {
            let dropped = self.log().drop_slot(&name);
            self.say(format!("drop slot {name}: {dropped:?}"));
            match dropped {
                Ok(was) => {
                    let known = self.model.slots.remove(&name);
                    if was != known.is_some() && !known.is_some_and(|s| s.unsure) {
                        return Err(format!("drop of slot {name} said {was}"));
                    }
                }
                Err(e) => {
                    if let Some(slot) = self.model.slots.get_mut(&name) {
                        slot.unsure = true;
                    }
                    return self.excuse("drop slot", &e);
                }
            }
            return Ok(());
        }
        let position = self.some_end();
        self.slot_to(name, position)
    }

    fn slot_to(&mut self, name: String, position: Lsn) -> Checked {
        let position = position.max(self.log().oldest());
        let old = self.model.slots.get(&name).cloned();
        let position = position.max(old.as_ref().map_or(Lsn::ZERO, |s| s.high));
        let set = self.log().set_slot(&name, position);
        self.say(format!("slot {name} at {position}: {set:?}"));
        let slot = match (&old, &set) {
            (None, Ok(())) => ModelSlot {
                low: position,
                high: position,
                unsure: false,
                capped: self.caps,
            },
            (None, Err(_)) => ModelSlot {
                low: position,
                high: position,
                unsure: true,
                capped: self.caps,
            },
            (Some(old), _) => ModelSlot {
                low: old.low,
                high: position,
                unsure: old.unsure && set.is_err(),
                capped: self.caps || old.capped && set.is_err(),
            },
        };
        self.model.slots.insert(name, slot);
        match set {
            Ok(()) => Ok(()),
            Err(e) => self.excuse("set slot", &e),
        }
    }

    pub(super) fn release(&mut self) -> Checked {
        let below = self.some_end();
        self.release_below(below);
        Ok(())
    }

    fn release_below(&mut self, below: Lsn) {
        self.model.released = self.model.released.max(below);
        self.log().release(below);
        self.say(format!("release below {below}"));
    }

    /// Everything is consumed: slots and the release point move on, and the log is truncated.
    pub(super) fn truncate(&mut self) -> Checked {
        let below = self.some_end();
        let names: Vec<String> = self.model.slots.keys().cloned().collect();
        for name in names {
            self.slot_to(name, below)?;
        }
        if self.log().poison().is_some() {
            return Ok(());
        }
        self.release_below(below);
        self.crash_next = self.rng.chance(3);
        self.work()
    }

    pub(super) fn begin_epoch(&mut self) -> Checked {
        // It waits until everything is published.
        while !self.held.is_empty() {
            self.publish_one()?;
        }
        let log = self.log().clone();
        let number = log.epochs().last().map_or(0, |e| e.epoch.number) + 1;
        let lsn = self.model.end();
        let begun = log.begin_epoch(number);
        self.say(format!("begin epoch {number}: {begun:?}"));
        match begun {
            Ok(start) => {
                let found = log
                    .reader(lsn, ReadLimit::Synced)
                    .and_then(|mut r| r.next())
                    .map_err(|e| format!("reading the control frame: {e}"));
                let found = match found {
                    Err(e) if self.trouble => {
                        // Read it another time: a planned failure may have hit it.
                        self.say(e);
                        return self.crash_unsure(lsn);
                    }
                    other => other?,
                };
                let Some(frame) = found else {
                    return Err("no control frame is synced".into());
                };
                let frame = ModelFrame {
                    lsn: frame.header.lsn,
                    epoch: frame.epoch,
                    kind: frame.header.kind,
                    payload: frame.payload.to_vec(),
                };
                if start.begin != lsn || frame.epoch != start.epoch || log.epoch() != start.epoch {
                    return Err(format!("began {start:?}, found {}", frame.brief()));
                }
                self.model.name(&frame)?;
                self.model.push(frame)?;
                self.model.synced = self.model.synced.max(self.model.end());
                self.role = OpenRole::Writer;
                Ok(())
            }
            Err(e) => {
                self.excuse("begin epoch", &e)?;
                if log.reserved() != lsn {
                    // It got as far as its control frame; the log must be reopened.
                    if log.poison().is_none() {
                        return Err(format!("begin epoch left {} reserved", log.reserved()));
                    }
                    return self.crash_unsure(lsn);
                }
                Ok(())
            }
        }
    }

    /// A log that was opened without room has begun its epoch, now that there is some.
    pub(super) fn resumed(&mut self, log: &Log) -> Checked {
        self.resumes = false;
        let lsn = self.model.end();
        self.say(format!("went on at {lsn}"));
        if log.poison().is_some() {
            return self.crash_unsure(lsn);
        }
        let read = (log.reader(lsn, ReadLimit::Synced)).and_then(|mut r| r.next());
        let frame = match read {
            Ok(Some(frame)) => frame,
            Err(_) if self.trouble => return self.crash_unsure(lsn),
            other => return Err(format!("the control frame after going on: {other:?}")),
        };
        let frame = ModelFrame {
            lsn: frame.header.lsn,
            epoch: frame.epoch,
            kind: frame.header.kind,
            payload: frame.payload.to_vec(),
        };
        self.model.name(&frame)?;
        self.model.push(frame)?;
        self.model.synced = self.model.synced.max(self.model.end());
        Ok(())
    }

    /// Ends this life with an epoch begun that the model does not know.
    pub(super) fn crash_unsure(&mut self, lsn: Lsn) -> Checked {
        self.model.epochs_unheard += 1;
        let synced = self.model.synced;
        self.crash()?;
        // What was published since can't be told; what was synced can.
        self.must_if_killed = self.must_if_killed.min(lsn).max(synced);
        Ok(())
    }
}
