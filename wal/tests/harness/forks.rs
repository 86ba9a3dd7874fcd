//! Other histories: rewinds, and frames of a primary that the log follows.

use super::*;
use esker_wal::{Epoch, Rewound, WireFrame};

impl World {
    /// Rewinds to a random frame boundary.
    pub(super) fn rewind(&mut self) -> Checked {
        // It waits until everything is published.
        while !self.held.is_empty() {
            self.publish_one()?;
        }
        let log = self.log().clone();
        if self.resumes || log.poison().is_some() {
            return Ok(());
        }
        let count = self.model.frames.len();
        let back = self.rng.below(count.min(10) as u64 + 1) as usize;
        let fork = match self.model.frames.get(count - back) {
            Some(frame) => frame.lsn,
            None => self.model.end(),
        };
        let history = log.epochs();
        let in_force = history.iter().rev().find(|e| e.begin < fork);
        let Some(in_force) = in_force.filter(|_| fork >= log.oldest()) else {
            return match log.rewind(fork, log.epoch()) {
                Err(LogError::NotRewound { .. } | LogError::Released { .. }) => Ok(()),
                Err(e) => self.excuse("rewind", &e),
                Ok(rewound) => Err(format!("rewound too far: {rewound:?}")),
            };
        };
        self.tally.rewinds += 1;
        let done = log.rewind(fork, in_force.epoch);
        self.say(format!(
            "rewind to {fork}: {:?}",
            done.as_ref().map(|(_, r)| r)
        ));
        match done {
            Ok((again, rewound)) => {
                if let Some(mut reader) = self.reader.take()
                    && !matches!(reader.next(), Err(LogError::Rewound { .. }))
                {
                    return Err("a reader of before the rewind was not told".into());
                }
                drop(log);
                self.rewound(again, rewound)
            }
            Err(LogError::NotReopened { .. }) if self.trouble || self.media.is_down() => {
                self.model.rewind(fork);
                self.must_if_killed = fork;
                self.ended = Ended::Killed;
                drop(log);
                self.end_life();
                Ok(())
            }
            Err(e) => {
                self.excuse("rewind", &e)?;
                if log.poison().is_some() || self.media.is_down() {
                    self.maybe_fork = Some(self.maybe_fork.map_or(fork, |f| f.min(fork)));
                }
                Ok(())
            }
        }
    }

    fn rewound(&mut self, log: Log, rewound: Rewound) -> Checked {
        let fork = rewound.fork;
        if rewound.end != self.model.end() {
            return Err(format!(
                "rewound from {}, not from {}",
                rewound.end,
                self.model.end()
            ));
        }
        let cut = self.model.rewind(fork);
        self.model.clamp_slots(fork, fork);
        match rewound.cut {
            Some(place) => self.cuts.push((place, cut, 0)),
            None if cut.is_empty() => {}
            None => return Err("what was cut is not kept".into()),
        }
        self.end_life();
        self.must_if_killed = fork;
        self.role = OpenRole::Follower;
        self.resumes = false;
        self.opened_reading_only = false;
        self.log = Some(log.clone());
        if self.media.is_down() {
            return Ok(());
        }
        if (log.reserved(), log.published(), log.synced()) != (fork, fork, fork) {
            return Err(format!(
                "rewound to {fork}, but stands at {}",
                log.reserved()
            ));
        }
        self.check_slots(&log)?;
        if self.trouble {
            // Reading may meet what is planned.
            return Ok(());
        }
        let from = self.model.frames.partition_point(|f| f.lsn < log.oldest());
        let found = read_all(&log)?;
        if found != self.model.frames[from..] {
            return Err(format!("other frames below the fork at {fork}"));
        }
        self.check_history(&log)
    }

    /// What was cut is there, whole, whatever happened since.
    pub(super) fn check_cuts(&mut self) -> Checked {
        if self.cuts.is_empty() {
            return Ok(());
        }
        let media = self.media.fork(1);
        media.heal();
        media.set_capacity(None);
        for (place, frames, checks) in &mut self.cuts {
            *checks += 1;
            let options = LogOptions {
                role: OpenRole::Follower,
                create: None,
                ..options(&media, &self.clock, self.id)
            };
            let found = Log::open(place, options)
                .map_err(|e| e.to_string())
                .and_then(|(log, _)| read_all(&log))
                .map_err(|e| format!("{}: {e}", place.display()))?;
            if found != *frames {
                return Err(format!(
                    "{} holds other frames than were cut",
                    place.display()
                ));
            }
        }
        // What has survived two cuts of the power was synced; it is not looked at for ever.
        self.cuts.retain(|(_, _, checks)| *checks < 2);
        Ok(())
    }

    /// A frame of the primary, or the first of a new epoch of it.
    pub(super) fn follow(&mut self) -> Checked {
        let log = self.log().clone();
        if !self.held.is_empty() {
            return Ok(());
        }
        let lsn = self.model.end();
        let mut epoch = log.epoch();
        let mut payload = self.payload();
        let mut kind = match self.rng.chance(6) {
            true => Kind::Void,
            false => Kind::Data,
        };
        // A name is given once: where it was, in what was cut, the primary is in another epoch.
        if epoch.number == 0 || self.model.is_named(epoch, lsn) || self.rng.chance(8) {
            epoch = Epoch {
                number: epoch.number + self.rng.below(2) + u64::from(epoch.number == 0),
                id: self.rng.next_u64(),
            };
            kind = Kind::Control;
            payload = [epoch.number, epoch.id, lsn.0]
                .map(u64::to_le_bytes)
                .concat();
        }
        if kind == Kind::Void {
            payload.fill(0);
        }
        let frame = ModelFrame {
            lsn,
            epoch,
            kind,
            payload,
        };
        let appended = log.append_replicated(WireFrame {
            header: self.model.header(&frame),
            payload: &frame.payload,
        });
        self.say(format!("followed with {}: {appended:?}", frame.brief()));
        match appended {
            Ok(appended) if (appended.lsn, appended.end) == (lsn, frame.end()) => {
                self.model.name(&frame)?;
                self.model.push(frame)
            }
            Ok(appended) => Err(format!("W5: {appended:?} for {}", frame.brief())),
            Err(e) => {
                self.excuse("follow", &e)?;
                if log.reserved() > lsn {
                    self.model.name(&frame)?;
                    self.model.in_flight.push(frame);
                    self.note_hole(lsn)?;
                    if kind == Kind::Control {
                        return self.crash_unsure(lsn);
                    }
                }
                Ok(())
            }
        }
    }
}
