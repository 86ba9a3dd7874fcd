//! The replicated store: commands applied on the state machine, and read from it.
//!
//! - AS1: a key's deadline is compared with replicated time: on a write that of the command, on a read that of the state which is read. So
//!   every node says the same of it.
//! - AS2: nobody moves replicated time where nobody writes. A read that meets a deadline which this node's clock has passed and
//!   replicated time has not, says so ([`Reading::is_behind`]); then time is moved, by the leader's clock, and the read is done again.
//!   What is left of a deadline is counted by this node's clock where that is ahead.

use crate::commands::replicated::{self, Target};
use crate::engine::cursors::Cursors;
use crate::engine::keys::USER_START;
use crate::engine::state::{Change, State, Visit};
use crate::engine::value::Value;
use bytes::Bytes;
use esker_lsm::StoreError;
use esker_raft::machine::{Application, Effects, StateSnapshot};
use esker_raft::runtime::{Command, MachineError};
use std::ops::{Bound, ControlFlow};
use std::time::{SystemTime, UNIX_EPOCH};

/// Keys taken from the state at once.
const SCAN_KEYS: usize = 256;

/// The application of the state machine.
#[derive(Debug, Default)]
pub struct Commands {
    cursors: Cursors,
}

fn millis(micros: u64) -> i64 {
    i64::try_from(micros / 1000).unwrap_or(i64::MAX)
}

impl Application for Commands {
    fn apply(&mut self, command: Command, state: &mut Effects<'_>) -> Result<Bytes, MachineError> {
        let mut applying = Applying {
            effects: state,
            now: millis(command.time),
            failed: None,
        };
        let answer = replicated::apply(&command.payload, &mut applying, &self.cursors);
        match (answer, applying.failed) {
            (_, Some(failed)) => Err(failed),
            (Ok(answer), None) => Ok(answer),
            (Err(error), None) => Err(MachineError::new("applying a batch of commands", error)),
        }
    }
}

struct Applying<'a, 'b> {
    effects: &'a mut Effects<'b>,
    now: i64,
    /// The state can't be read: the node's end.
    failed: Option<MachineError>,
}

impl Applying<'_, '_> {
    fn noted<T>(&mut self, result: Result<T, MachineError>) -> Result<T, StoreError> {
        result.map_err(|error| {
            self.failed = Some(error);
            // What it says is not seen: `failed` is.
            StoreError::Closed
        })
    }
}

impl State for Applying<'_, '_> {
    fn now(&mut self) -> Result<i64, StoreError> {
        Ok(self.now)
    }

    fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let found = self.effects.get(key);
        self.noted(found)
    }

    fn written(&mut self, key: &[u8]) -> Result<u64, StoreError> {
        let found = self.effects.written(key);
        Ok(self.noted(found)?.map_or(0, |index| index.0))
    }

    fn scan(&mut self, start: Bound<&[u8]>, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        let mut from = first_of(start);
        loop {
            let part = self.effects.scan(&from, None, SCAN_KEYS);
            let part = self.noted(part)?;
            for (key, value) in &part {
                if visit(key, value.clone())? == ControlFlow::Break(()) {
                    return Ok(());
                }
            }
            match part.last() {
                Some((last, _)) if part.len() == SCAN_KEYS => {
                    from = first_of(Bound::Excluded(last));
                }
                _ => return Ok(()),
            }
        }
    }
}

/// The first key within a lower bound.
fn first_of(start: Bound<&[u8]>) -> Vec<u8> {
    match start {
        Bound::Included(key) => key.to_vec(),
        Bound::Excluded(key) => [key, &[0]].concat(),
        Bound::Unbounded => USER_START.to_vec(),
    }
}

impl Target for Applying<'_, '_> {
    fn room(&self) -> usize {
        self.effects.room()
    }

    fn change(&mut self, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Put(key, value) => self.effects.put_owned(&key, value.into()),
                Change::Delete(key) => self.effects.delete(&key),
                Change::Clear => self.effects.delete_range(USER_START, None),
            }
        }
    }
}

/// The state behind one commit, as commands read it.
#[derive(Debug)]
pub struct Reading {
    snapshot: StateSnapshot,
    now: Option<i64>,
    wall: i64,
    behind: bool,
}

impl Reading {
    /// Of a snapshot.
    #[must_use]
    pub fn new(snapshot: StateSnapshot) -> Reading {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH);
        Reading {
            snapshot,
            now: None,
            wall: wall.map_or(0, |since| millis(since.as_micros() as u64)),
            behind: false,
        }
    }

    /// AS2.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.behind
    }

    fn look(&mut self, stored: &Bytes) -> Result<(), StoreError> {
        if let Some(value) = Value::from_stored(stored.clone())
            && value.is_past(self.wall)
            && !value.is_past(self.now()?)
        {
            self.behind = true;
        }
        Ok(())
    }
}

impl State for Reading {
    fn now(&mut self) -> Result<i64, StoreError> {
        if let Some(now) = self.now {
            return Ok(now);
        }
        let now = millis(self.snapshot.time()?);
        self.now = Some(now);
        Ok(now)
    }

    /// AS2: replicated time stands still while nobody writes, and what is left of a deadline does not.
    fn clock(&mut self) -> Result<i64, StoreError> {
        Ok(self.now()?.max(self.wall))
    }

    fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let found = self.snapshot.get(key)?;
        if let Some(stored) = &found {
            self.look(stored)?;
        }
        Ok(found)
    }

    fn written(&mut self, key: &[u8]) -> Result<u64, StoreError> {
        Ok(self.snapshot.written(key)?.map_or(0, |index| index.0))
    }

    fn scan(&mut self, start: Bound<&[u8]>, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        for entry in self.snapshot.scan(&first_of(start), None)? {
            let (key, stored) = entry?;
            self.look(&stored)?;
            if visit(&key, stored)? == ControlFlow::Break(()) {
                break;
            }
        }
        Ok(())
    }
}
