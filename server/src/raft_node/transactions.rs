//! `MULTI`, `WATCH`, `EXEC` for clients of a node. The queue is the session's, as on a primary.
//!
//! - TX1 (C3): an EXEC that writes is one entry of the log: applied as one, and what is watched is looked at there. So it does not matter which node
//!   a client is on, who leads meanwhile, or which snapshots and restarts of other nodes lie between WATCH and EXEC.
//! - TX2: an EXEC that only reads is a read: behind a barrier, on one state.
//! - TX3 (RF3): EXEC is tried again where it is certainly not in the log, and answered `UNKNOWNOUTCOME` where it may be, and never tried again. Whatever
//!   it is answered, MULTI and WATCHes are over.
//! - TX4: `LOCK.IF lock token EXEC` is an EXEC that takes effect only while the token is current. Between MULTI and EXEC commands on locks and the
//!   cluster are refused: they are entries of their own.

use super::admin;
use super::front::{ReadMode, Serving, entry_of, error_text, propose};
use super::locks;
use super::slots::{self, OnFollower};
use crate::commands::replicated::transaction::{self, Answer};
use crate::commands::replicated::{self, Class};
use crate::commands::{self, Flags, Handler, Transaction, Tx, find};
use crate::engine::Txn;
use crate::engine::keys::StoredKey;
use crate::{Ctx, Reply};
use bytes::Bytes;
use esker_raft::lock::{Guard, GuardAnswer, guarded};

const NOT_HERE: &str = "ERR Command not allowed inside a transaction";

fn is(argv: &[&[u8]], name: &str) -> bool {
    (argv.first()).is_some_and(|arg| arg.eq_ignore_ascii_case(name.as_bytes()))
}

/// Whether a command is a WATCH with keys.
pub(super) fn watches(argv: &[&[u8]]) -> bool {
    argv.len() > 1 && is(argv, "watch")
}

/// Whether a command is an EXEC, alone or under a token.
pub(super) fn executes(argv: &[&[u8]]) -> bool {
    match locks::conditional(argv) {
        locks::Conditional::If(_, inner) => is(inner, "exec"),
        _ => is(argv, "exec"),
    }
}

impl Serving<'_> {
    /// Takes a WATCH, and what comes between MULTI and EXEC; false for what has to be done as ever.
    pub(super) fn transact(&mut self, guard: Option<&Guard>, argv: &[&[u8]]) -> bool {
        let queueing = self.session.tx.queueing();
        if queueing && is(argv, "exec") && argv.len() == 1 {
            self.session.last_command = "exec";
            self.exec(guard);
        } else if queueing && guard.is_some() {
            self.refuse("ERR LOCK.IF inside MULTI guards EXEC alone: LOCK.IF lock token EXEC");
        } else if !queueing && guard.is_none() {
            self.session.last_command = "watch";
            self.watch(argv);
        } else if queueing
            && !find(argv[0]).is_some_and(|spec| spec.flags.contains(Flags::RUNS_IN_MULTI))
        {
            self.queue(argv);
        } else {
            return false;
        }
        self.note_queue(argv);
        true
    }

    /// Not queued: EXEC will abort.
    fn refuse(&mut self, text: &str) {
        self.session.tx.refused();
        self.out.error(text);
    }

    /// What CLIENT LIST says, where that may have changed.
    pub(super) fn note_queue(&self, argv: &[&[u8]]) {
        let names = ["multi", "exec", "discard", "reset"];
        if self.session.tx.queueing() || names.iter().any(|name| is(argv, name)) || executes(argv) {
            let queued = self.session.tx.queued().map_or(-1, |n| n as i64);
            if let Some(client) = self.shared.clients.lock().get_mut(&self.session.id) {
                client.queued = queued;
            }
        }
    }

    /// Where a command is to be sent instead.
    fn away(&self, argv: &[&[u8]], writes: bool) -> Option<String> {
        let here = !writes && (self.reads_here || self.shared.read == ReadMode::Stale);
        (self.shared.on_follower == OnFollower::Redirect && !here)
            .then(|| slots::away(self.shared, argv))
            .flatten()
    }

    /// An EXEC that the audit refused is over, as on a primary.
    pub(super) fn forget(&mut self, argv: &[&[u8]]) {
        if executes(argv) {
            self.session.tx = Tx::default();
            self.note_queue(argv);
        }
    }

    fn queue(&mut self, argv: &[&[u8]]) {
        if locks::is_for(argv) || admin::words(argv).is_some() || slots::is_for(argv) {
            return self.refuse(NOT_HERE);
        }
        let mut error = Reply::new(self.session.protocol);
        let class = replicated::classify(argv, &mut error);
        if matches!(class, Class::Refused) {
            self.session.tx.refused();
            return self.out.raw(error.as_bytes());
        }
        if let Some(text) = find(argv[0]).and_then(|spec| transaction::refused(spec.name)) {
            return self.refuse(&text);
        }
        let writes = matches!(class, Class::Write { .. });
        if let Some(text) = self.away(argv, writes) {
            return self.refuse(&text);
        }
        self.here(argv);
    }

    /// As the primary does it.
    pub(super) fn here(&mut self, argv: &[&[u8]]) {
        let mut ctx = Ctx {
            session: &mut self.session,
            engine: None,
            server: self.shared,
        };
        // Nothing that is queued, or was, ends the connection or waits.
        let _ = commands::execute(&mut ctx, argv, &mut self.out);
    }

    fn watch(&mut self, argv: &[&[u8]]) {
        if let Some(text) = self.away(argv, false) {
            return self.out.error(&text);
        }
        let shared = self.shared;
        let places = self.read(|state, _| {
            let mut txn = Txn::on_state(state, &shared.cursors);
            let mut places = Vec::with_capacity(argv.len());
            for key in &argv[1..] {
                places.push(txn.version(&StoredKey::new(key))?.seqno);
            }
            Ok(places)
        });
        let Some(places) = places else {
            return;
        };
        for (key, place) in argv[1..].iter().zip(places) {
            let key = StoredKey::new(key);
            if self.session.tx.watches(&key) {
                continue;
            }
            if let Err(text) = self.session.tx.watch(&key, place) {
                return self.out.error(&text);
            }
        }
        self.out.ok();
    }

    fn exec(&mut self, guard: Option<&Guard>) {
        let transaction = match self.session.tx.take() {
            Ok(transaction) => transaction,
            Err(text) => return self.out.error(text),
        };
        let data = || transaction.queue().iter().filter(|queued| queued.is_data());
        let writes = data().any(|queued| queued.spec.is_write());
        for queued in data() {
            if let Some(text) = self.away(&queued.argv(), writes) {
                return self.out.error(&text);
            }
        }
        let answer = if writes || guard.is_some() {
            self.fresh = false;
            self.write_transaction(guard, &transaction)
        } else if data().next().is_some() || transaction.watched().len() > 0 {
            let (shared, protocol) = (self.shared, self.session.protocol);
            self.read(|state, _| transaction::read(protocol, &transaction, state, &shared.cursors))
        } else {
            Some(Answer::Executed(Vec::new(), Bytes::new()))
        };
        match answer {
            // It is answered.
            None => {}
            Some(Answer::Changed) => self.out.null_array(),
            Some(Answer::Refused(text)) => self.out.error(&text),
            Some(Answer::Executed(lens, replies)) => self.answer(&transaction, &lens, &replies),
        }
    }

    /// TX1. `None` where an error is answered.
    fn write_transaction(
        &mut self,
        guard: Option<&Guard>,
        transaction: &Transaction,
    ) -> Option<Answer> {
        let mut command = transaction::encode(self.session.protocol, transaction);
        if let Some(guard) = guard {
            command = guarded(std::slice::from_ref(guard), &command);
        }
        let reply = match propose(self.shared, &command) {
            Ok(reply) => reply,
            Err(error) => {
                self.out.error(&error_text(&error));
                return None;
            }
        };
        self.entry = Some(entry_of(&reply));
        let answer = match guard {
            None => Answer::decode(&reply.payload),
            Some(guard) => match GuardAnswer::decode(reply.payload) {
                Ok(GuardAnswer::Passed(answer)) => Answer::decode(&answer),
                Ok(GuardAnswer::Stale { current, .. }) => {
                    self.entry = None;
                    Some(Answer::Refused(locks::stale(guard, current)))
                }
                _ => None,
            },
        };
        if answer.is_none() {
            self.out
                .error("ERR the cluster's answer is none about transactions");
        }
        answer
    }

    /// One array: what the log, or the state, answered, and between that what is about the connection and the server, which runs now.
    fn answer(&mut self, transaction: &Transaction, lens: &[usize], replies: &[u8]) {
        let queue = transaction.queue();
        self.out.array(queue.len());
        let (mut lens, mut rest) = (lens.iter(), replies);
        for queued in queue {
            if matches!(queued.spec.handler, Handler::Data(_)) {
                // What answered decoded: there is one for each.
                let len = lens.next().copied().unwrap_or(0);
                let (reply, behind) = rest.split_at(len);
                self.out.raw(reply);
                rest = behind;
            } else if self.out.has_room(0) {
                self.here(&queued.argv());
            } else {
                let why = self.out.no_room();
                self.out.error(&why);
            }
        }
        // AUTH may have been among them.
        self.tell_login();
    }
}
