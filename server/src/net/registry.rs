//! All connected clients, for CLIENT LIST: what each thread last said about its own.

use crate::session::Session;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

/// A client as others may see it; its own thread refreshes it once per turn in which it ran something.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) id: u64,
    connected_at: Instant,
    fixed: String,
    seen: Mutex<Seen>,
}

#[derive(Debug)]
struct Seen {
    active: Instant,
    name: Vec<u8>,
    lib_name: Vec<u8>,
    lib_ver: Vec<u8>,
    user: Arc<str>,
    protocol: u8,
    flags: &'static str,
    multi: i64,
    command: &'static str,
    memory: usize,
}

/// The clients by id. One lock (no other is taken under it, but an entry's own).
#[derive(Debug, Default)]
pub(crate) struct Registry {
    clients: Mutex<BTreeMap<u64, Arc<Entry>>>,
    next_id: AtomicU64,
    count: AtomicUsize,
}

impl Registry {
    pub(crate) fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(crate) fn add(&self, session: &Session) -> Arc<Entry> {
        let entry = Arc::new(Entry {
            id: session.id,
            connected_at: session.connected_at,
            fixed: format!(
                "id={} addr={} laddr={}",
                session.id, session.addr, session.local_addr
            ),
            seen: Mutex::new(Seen {
                active: session.connected_at,
                name: Vec::new(),
                lib_name: Vec::new(),
                lib_ver: Vec::new(),
                user: session.login.user().clone(),
                protocol: 2,
                flags: "N",
                multi: -1,
                command: "",
                memory: 0,
            }),
        });
        self.clients.lock().insert(session.id, Arc::clone(&entry));
        entry
    }

    pub(crate) fn remove(&self, id: u64) {
        self.clients.lock().remove(&id);
        self.count.fetch_sub(1, Ordering::Relaxed);
    }

    /// Takes a place among at most `max`.
    pub(crate) fn admit(&self, max: usize) -> bool {
        self.count
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
                (count < max).then_some(count + 1)
            })
            .is_ok()
    }

    /// Gives back a place that no client took.
    pub(crate) fn unadmit(&self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    pub(crate) fn get(&self, id: u64) -> Option<Arc<Entry>> {
        self.clients.lock().get(&id).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Entry>> {
        self.clients.lock().values().cloned().collect()
    }
}

impl Entry {
    pub(crate) fn refresh(&self, session: &Session, memory: usize, now: Instant) {
        let mut seen = self.seen.lock();
        seen.active = now;
        seen.command = session.last_command;
        seen.protocol = session.protocol.number();
        seen.memory = memory;
        let queued = session.tx.queued();
        seen.multi = queued.map_or(-1, |n| n as i64);
        seen.flags = if queued.is_some() { "x" } else { "N" };
        if !Arc::ptr_eq(&seen.user, session.login.user()) {
            seen.user.clone_from(session.login.user());
        }
        if seen.name != session.name {
            seen.name.clone_from(&session.name);
        }
        if seen.lib_name != session.lib_name {
            seen.lib_name.clone_from(&session.lib_name);
        }
        if seen.lib_ver != session.lib_ver {
            seen.lib_ver.clone_from(&session.lib_ver);
        }
    }

    pub(crate) fn line(&self, now: Instant) -> String {
        let seen = self.seen.lock();
        let mut line = self.fixed.clone();
        let age = now.saturating_duration_since(self.connected_at).as_secs();
        let idle = now.saturating_duration_since(seen.active).as_secs();
        let command = if seen.command.is_empty() {
            "NULL"
        } else {
            seen.command
        };
        // Writing to a String does not fail.
        let _ = write!(
            line,
            " fd=-1 name={} age={age} idle={idle} flags={} db=0 sub=0 psub=0 ssub=0 multi={} qbuf=0 \
             qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl=0 oll=0 omem=0 tot-mem={} events=r \
             cmd={command} user={} redir=-1 resp={} lib-name={} lib-ver={}",
            String::from_utf8_lossy(&seen.name),
            seen.flags,
            seen.multi,
            seen.memory,
            seen.user,
            seen.protocol,
            String::from_utf8_lossy(&seen.lib_name),
            String::from_utf8_lossy(&seen.lib_ver),
        );
        line
    }
}
