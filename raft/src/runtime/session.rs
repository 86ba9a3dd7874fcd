//! Client sessions: a command that is tried again takes effect once (C5; thesis 6.3).
//!
//! - SE1: within a session a serial takes effect at most once. Its reply is kept until the client says that it has it.
//! - SE2: sessions, serials and replies are part of the replicated state: kept in the machine's records with the effects, and in snapshots.
//! - SE3: a session ends when it is closed, or when replicated time has passed its time to live since its last command: at the same
//!   place of the log on every node.
//!   What is expired is gone at once for clients; its records go some sessions at a time, so that no entry's effects are many.
//! - SE4: bounded: [`SESSIONS_MAX`] sessions, [`WINDOW`] serials without acknowledgement in each and [`SERIALS_MAX`] in all, replies of
//!   [`REPLY_KEPT_MAX`] bytes each and [`REPLIES_KEPT_MAX`] together.
//!
//! ```text
//! record 's' session u64 big-endian                        ttl u64, last used u64, floor u64
//! record 'r' session u64 big-endian, serial u64 big-endian   index u64, kept u8 (0: too long to keep), payload
//! ```

use super::error::{Outcome, ProposeError, Reply, SessionError};
use super::machine::Record;
use super::request::Request;
use crate::codec::{Decoder, Malformed};
use crate::core::{Index, Term};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// Sessions at one time, at most.
pub const SESSIONS_MAX: usize = 65_536;
/// Serials of a session that are not acknowledged, at most.
pub const WINDOW: u64 = 256;
/// Serials of all sessions that are not acknowledged, at most; beyond it commands within sessions are refused.
pub const SERIALS_MAX: usize = 1 << 20;
/// Longest reply that is kept for a retry; of a longer one the retry learns that it was executed.
pub const REPLY_KEPT_MAX: usize = 64 << 10;
/// Bytes of replies that are kept for all sessions together; of one that does not fit in a retry learns that it was executed.
pub const REPLIES_KEPT_MAX: usize = 64 << 20;
/// Sessions whose records one entry removes, at most (SE3).
const EXPIRED_MAX: usize = 64;
/// Shortest and longest time to live.
const TTL_MICROS: std::ops::RangeInclusive<u64> = 1_000..=30 * 24 * 3600 * 1_000_000;

#[derive(Debug, Default, PartialEq, Eq)]
struct Session {
    ttl: u64,
    used: u64,
    floor: u64,
    replies: BTreeMap<u64, (Index, Option<Bytes>)>,
}

impl Session {
    fn deadline(&self) -> u64 {
        self.used.saturating_add(self.ttl)
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Sessions {
    sessions: BTreeMap<u64, Session>,
    deadlines: BTreeSet<(u64, u64)>,
    held: Held,
}

/// Of all sessions together (SE4). The same on all nodes, as it follows from their records.
#[derive(Debug, Default, PartialEq, Eq)]
struct Held {
    serials: usize,
    bytes: usize,
}

impl Held {
    fn add(&mut self, reply: Option<&Bytes>) {
        self.serials += 1;
        self.bytes += reply.map_or(0, Bytes::len);
    }

    fn remove(&mut self, reply: Option<&Bytes>) {
        self.serials -= 1;
        self.bytes -= reply.map_or(0, Bytes::len);
    }
}

/// What to do with a command.
pub(super) enum Verdict {
    /// It is new.
    Execute,
    /// It was executed before, or can't be.
    Answer(Outcome),
}

fn session_key(id: u64) -> Bytes {
    let mut key = vec![b's'];
    key.extend_from_slice(&id.to_be_bytes());
    key.into()
}

fn reply_key(id: u64, serial: u64) -> Bytes {
    let mut key = vec![b'r'];
    key.extend_from_slice(&id.to_be_bytes());
    key.extend_from_slice(&serial.to_be_bytes());
    key.into()
}

fn be(key: &[u8], at: usize) -> Option<u64> {
    let bytes = key.get(at..at + 8)?;
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

impl Sessions {
    /// Takes a record that was kept. False for one that is none of these.
    pub(super) fn load(&mut self, key: &Bytes, value: &Bytes) -> Result<bool, Malformed> {
        let mut d = Decoder::new(value.clone());
        let Some(id) = be(key, 1) else {
            return Ok(false);
        };
        match key[0] {
            b's' => {
                let session = self.sessions.entry(id).or_default();
                session.ttl = d.u64("a time to live")?;
                session.used = d.u64("a time")?;
                session.floor = d.u64("a serial")?;
                self.deadlines.insert((session.deadline(), id));
            }
            b'r' => {
                let serial = be(key, 9).ok_or_else(|| d.malformed("a serial"))?;
                let index = Index(d.u64("an index")?);
                let kept = d.bool("whether it was kept")?;
                let reply = d.bytes(d.left(), "a reply")?;
                let reply = kept.then_some(reply);
                self.held.add(reply.as_ref());
                let session = self.sessions.entry(id).or_default();
                session.replies.insert(serial, (index, reply));
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn put(&self, id: u64, records: &mut Vec<Record>) {
        let Some(session) = self.sessions.get(&id) else {
            return;
        };
        let mut value = Vec::with_capacity(24);
        for field in [session.ttl, session.used, session.floor] {
            value.extend_from_slice(&field.to_le_bytes());
        }
        records.push((session_key(id), Some(value.into())));
    }

    fn remove(&mut self, id: u64, records: &mut Vec<Record>) -> bool {
        let Some(session) = self.sessions.remove(&id) else {
            return false;
        };
        self.deadlines.remove(&(session.deadline(), id));
        for (serial, (_, reply)) in &session.replies {
            self.held.remove(reply.as_ref());
            records.push((reply_key(id, *serial), None));
        }
        records.push((session_key(id), None));
        true
    }

    /// SE3.
    pub(super) fn expire(&mut self, time: u64, records: &mut Vec<Record>) {
        for _ in 0..EXPIRED_MAX {
            let Some((_, id)) = self.deadlines.first().filter(|(end, _)| *end < time) else {
                break;
            };
            self.remove(*id, records);
        }
    }

    pub(super) fn open(
        &mut self,
        at: Index,
        time: u64,
        request: &Request,
        records: &mut Vec<Record>,
    ) -> Outcome {
        if self.sessions.len() >= SESSIONS_MAX {
            return Err(ProposeError::Session(SessionError::TooMany));
        }
        let ttl = Decoder::new(request.payload.clone()).u64("a time to live");
        let ttl = ttl
            .unwrap_or(0)
            .clamp(*TTL_MICROS.start(), *TTL_MICROS.end());
        let session = Session {
            ttl,
            used: time,
            floor: 1,
            replies: BTreeMap::new(),
        };
        self.deadlines.insert((session.deadline(), at.0));
        self.sessions.insert(at.0, session);
        self.put(at.0, records);
        Ok(Reply {
            index: at,
            term: Term(0),
            payload: Bytes::copy_from_slice(&at.0.to_le_bytes()),
        })
    }

    pub(super) fn close(&mut self, at: Index, id: u64, records: &mut Vec<Record>) -> Outcome {
        match self.remove(id, records) {
            true => Ok(Reply {
                index: at,
                term: Term(0),
                payload: Bytes::new(),
            }),
            false => Err(ProposeError::Session(SessionError::Unknown)),
        }
    }

    /// Looks at a command before it is executed.
    pub(super) fn before(
        &mut self,
        time: u64,
        request: &Request,
        records: &mut Vec<Record>,
    ) -> Verdict {
        if request.session == 0 {
            return Verdict::Execute;
        }
        let refuse = |error| Verdict::Answer(Err(ProposeError::Session(error)));
        let session = self.sessions.get_mut(&request.session);
        let Some(session) = session.filter(|s| s.deadline() >= time) else {
            return refuse(SessionError::Unknown);
        };
        self.deadlines
            .remove(&(session.deadline(), request.session));
        session.used = time;
        self.deadlines.insert((session.deadline(), request.session));
        // What the client has it does not ask for again.
        let floor = request.floor.min(session.floor.saturating_add(WINDOW));
        session.floor = session.floor.max(floor);
        let keep = session.replies.split_off(&session.floor);
        for (serial, (_, reply)) in std::mem::replace(&mut session.replies, keep) {
            self.held.remove(reply.as_ref());
            records.push((reply_key(request.session, serial), None));
        }
        let verdict = match session.replies.get(&request.serial) {
            Some((index, Some(reply))) => Verdict::Answer(Ok(Reply {
                index: *index,
                term: Term(0),
                payload: reply.clone(),
            })),
            Some((index, None)) => Verdict::Answer(Err(ProposeError::Committed {
                index: *index,
                why: "its reply was too long to be kept, or too many were".into(),
            })),
            None if request.serial < session.floor || request.serial - session.floor >= WINDOW => {
                refuse(SessionError::Serial)
            }
            None if self.held.serials >= SERIALS_MAX => refuse(SessionError::TooManySerials),
            None => Verdict::Execute,
        };
        self.put(request.session, records);
        verdict
    }

    /// Keeps the reply of what was executed.
    pub(super) fn after(
        &mut self,
        at: Index,
        request: &Request,
        reply: &Bytes,
        records: &mut Vec<Record>,
    ) {
        if let Some(session) = self.sessions.get_mut(&request.session) {
            let fits =
                reply.len() <= REPLY_KEPT_MAX.min(REPLIES_KEPT_MAX.saturating_sub(self.held.bytes));
            let kept = fits.then(|| reply.clone());
            self.held.add(kept.as_ref());
            let mut value = at.0.to_le_bytes().to_vec();
            value.push(u8::from(kept.is_some()));
            value.extend_from_slice(kept.as_deref().unwrap_or_default());
            session.replies.insert(request.serial, (at, kept));
            records.push((
                reply_key(request.session, request.serial),
                Some(value.into()),
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::request::Kind;
    use super::*;

    fn command(session: u64, serial: u64, floor: u64) -> Request {
        Request {
            session,
            serial,
            floor,
            ..Request::plain(Kind::Command, Bytes::from_static(b"x"))
        }
    }

    fn open(sessions: &mut Sessions, records: &mut Vec<Record>) {
        let ttl = Bytes::copy_from_slice(&1_000_000u64.to_le_bytes());
        let request = Request::plain(Kind::Open, ttl);
        sessions.open(Index(5), 100, &request, records).unwrap();
    }

    fn run(sessions: &mut Sessions, request: &Request, records: &mut Vec<Record>) -> Outcome {
        match sessions.before(200, request, records) {
            Verdict::Execute => {
                let reply = Bytes::from(format!("reply {}", request.serial));
                let index = Index(10 + request.serial);
                sessions.after(index, request, &reply, records);
                Ok(Reply {
                    index,
                    term: Term(0),
                    payload: reply,
                })
            }
            Verdict::Answer(outcome) => outcome,
        }
    }

    /// C5, and that records restore what was (SE2).
    #[test]
    fn a_serial_takes_effect_once_and_its_reply_outlives_a_restart() {
        let (mut sessions, mut records) = (Sessions::default(), Vec::new());
        open(&mut sessions, &mut records);
        let first = run(&mut sessions, &command(5, 1, 1), &mut records);
        assert_eq!(first.as_ref().unwrap().index, Index(11));
        assert_eq!(run(&mut sessions, &command(5, 1, 1), &mut records), first);
        run(&mut sessions, &command(5, 2, 1), &mut records).unwrap();
        let mut kept = BTreeMap::new();
        for (key, value) in records {
            match value {
                Some(value) => kept.insert(key, value),
                None => kept.remove(&key),
            };
        }
        let mut again = Sessions::default();
        for (key, value) in &kept {
            assert_eq!(again.load(key, value), Ok(true));
        }
        assert_eq!(again, sessions);
        assert_eq!(run(&mut again, &command(5, 1, 1), &mut Vec::new()), first);
    }

    /// SE3. All leave at once after a pause of the cluster, say.
    #[test]
    fn many_expired_sessions_are_gone_at_once_and_their_records_by_and_by() {
        let mut sessions = Sessions::default();
        let ttl = Bytes::copy_from_slice(&1_000_000u64.to_le_bytes());
        let request = Request::plain(Kind::Open, ttl);
        for at in 0..200 {
            let opened = sessions.open(Index(at), 100, &request, &mut Vec::new());
            opened.unwrap();
            let command = command(at, 1, 1);
            run(&mut sessions, &command, &mut Vec::new()).unwrap();
        }
        let mut left = 200;
        while left > 0 {
            let mut records = Vec::new();
            sessions.expire(5_000_000, &mut records);
            // Of each its own record and that of its reply.
            let gone = left.min(EXPIRED_MAX);
            assert_eq!(records.len(), 2 * gone);
            left -= gone;
            assert_eq!(sessions.sessions.len(), left);
            let last = sessions.before(5_000_000, &command(199, 2, 1), &mut records);
            assert!(matches!(
                last,
                Verdict::Answer(Err(ProposeError::Session(_)))
            ));
        }
        assert_eq!(sessions, Sessions::default());
    }

    #[test]
    fn what_was_acknowledged_or_is_too_far_ahead_is_refused() {
        let (mut sessions, mut records) = (Sessions::default(), Vec::new());
        open(&mut sessions, &mut records);
        for serial in 1..=3 {
            run(&mut sessions, &command(5, serial, serial), &mut records).unwrap();
        }
        let refused = Err(ProposeError::Session(SessionError::Serial));
        assert_eq!(run(&mut sessions, &command(5, 2, 1), &mut records), refused);
        let far = command(5, 3 + WINDOW, 1);
        assert_eq!(run(&mut sessions, &far, &mut records), refused);
        let unknown = Err(ProposeError::Session(SessionError::Unknown));
        assert_eq!(run(&mut sessions, &command(6, 1, 1), &mut records), unknown);
        sessions.expire(1_000_200, &mut records);
        assert!(run(&mut sessions, &command(5, 4, 3), &mut records).is_ok());
        sessions.expire(1_000_201, &mut records);
        assert_eq!(run(&mut sessions, &command(5, 5, 3), &mut records), unknown);
        assert_eq!(sessions, Sessions::default());
    }

    /// SE4.
    #[test]
    fn replies_of_all_sessions_together_are_bounded_and_what_is_not_kept_took_effect_all_the_same()
    {
        let (mut sessions, mut records) = (Sessions::default(), Vec::new());
        let ttl = Bytes::copy_from_slice(&1_000_000u64.to_le_bytes());
        let request = Request::plain(Kind::Open, ttl);
        let long = Bytes::from(vec![7; REPLY_KEPT_MAX]);
        let fit = REPLIES_KEPT_MAX / REPLY_KEPT_MAX;
        let mut execute = |sessions: &mut Sessions, id: u64, serial: u64| {
            let request = command(id, serial, 1);
            match sessions.before(200, &request, &mut records) {
                Verdict::Execute => {
                    sessions.after(Index(serial), &request, &long, &mut records);
                    None
                }
                Verdict::Answer(outcome) => Some(outcome),
            }
        };
        let ids = fit as u64 / WINDOW + 1;
        for id in 1..=ids {
            (sessions.open(Index(id), 100, &request, &mut Vec::new())).expect("there is room");
            for serial in 1..=WINDOW {
                assert_eq!(execute(&mut sessions, id, serial), None);
            }
        }
        assert_eq!(sessions.held.bytes, REPLIES_KEPT_MAX);
        let last = execute(&mut sessions, ids, WINDOW);
        assert!(matches!(last, Some(Err(ProposeError::Committed { .. }))));
        assert!(matches!(execute(&mut sessions, 1, 1), Some(Ok(_))));
        // What others acknowledge or close makes room.
        sessions
            .close(Index(9), 1, &mut Vec::new())
            .expect("it was open");
        let next = command(ids, WINDOW + 1, 3);
        assert!(matches!(
            sessions.before(200, &next, &mut Vec::new()),
            Verdict::Execute
        ));
        sessions.after(Index(9), &next, &long, &mut Vec::new());
        let again = sessions.before(200, &next, &mut Vec::new());
        assert!(matches!(again, Verdict::Answer(Ok(reply)) if reply.payload == long));
        for id in 2..=ids {
            (sessions.close(Index(9), id, &mut Vec::new())).expect("it was open");
        }
        assert_eq!(sessions, Sessions::default());
    }

    /// SE4, E2: records may hold more than is kept today, as those of a build without the bound may.
    #[test]
    fn records_with_more_replies_than_are_kept_load_and_nothing_more_is_kept() {
        let mut sessions = Sessions::default();
        let mut value = 1_u64.to_le_bytes().to_vec();
        value.push(1);
        value.resize(9 + REPLIES_KEPT_MAX + 1, 7);
        assert_eq!(sessions.load(&reply_key(5, 1), &value.into()), Ok(true));
        let fields = [1_000_000_u64, 100, 1].map(u64::to_le_bytes).concat();
        assert_eq!(sessions.load(&session_key(5), &fields.into()), Ok(true));
        let next = command(5, 2, 1);
        assert!(run(&mut sessions, &next, &mut Vec::new()).is_ok());
        let again = run(&mut sessions, &next, &mut Vec::new());
        assert!(matches!(again, Err(ProposeError::Committed { .. })));
    }

    /// SE4.
    #[test]
    fn serials_of_all_sessions_together_are_bounded() {
        let (mut sessions, mut records) = (Sessions::default(), Vec::new());
        open(&mut sessions, &mut records);
        let first = run(&mut sessions, &command(5, 1, 1), &mut records);
        sessions.held.serials = SERIALS_MAX;
        let refused = Err(ProposeError::Session(SessionError::TooManySerials));
        assert_eq!(run(&mut sessions, &command(5, 2, 1), &mut records), refused);
        assert_eq!(run(&mut sessions, &command(5, 1, 1), &mut records), first);
        // Who acknowledges makes room.
        assert!(run(&mut sessions, &command(5, 2, 2), &mut records).is_ok());
    }
}
