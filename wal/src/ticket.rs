//! Waiting for an append: by a thread, with a timeout, or as a `Future`.
//!
//! - TK1: a ticket names its own append: the LSN that it was given, whatever others append (W5).
//! - TK2: a wait ends `Ok` only when the position asked for has passed the append's end; when the log is poisoned or closed
//!   before that, it ends with that error (W6, W10).
//! - TK3: the futures need no runtime: a task is woken by whoever moves the position. Dropped, they leave nothing
//!   registered. Polling one never syncs in the task's thread; the flusher is asked to.
//! - TK4: to drop a ticket changes nothing: the append stands, and is synced as the policy says.

use crate::error::LogError;
use crate::ids::Lsn;
use crate::log::{Appended, Log};
use crate::options::SyncPolicy;
use crate::reader::{Frame, ReadLimit, Reader};
use crate::shared::Shared;
use esker_sync::deadline::after;
use esker_sync::watermark::{Place, WaitEnd, Watermark};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

/// What an append waits for before it returns; see [`Log::append_with`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// What the log's [`SyncPolicy`] says: `Synced` under `Always`, else `Buffered`.
    #[default]
    Policy,
    /// Nothing: it survives `kill -9` once published, and power loss once the flusher has come by.
    Buffered,
    /// It survives power loss on return.
    Synced,
}

/// An append that can be waited for.
#[derive(Clone, Debug)]
pub struct Ticket {
    shared: Arc<Shared>,
    appended: Appended,
}

impl Ticket {
    /// LSN of the append's frame.
    #[must_use]
    pub fn lsn(&self) -> Lsn {
        self.appended.lsn
    }

    /// LSN behind it.
    #[must_use]
    pub fn end(&self) -> Lsn {
        self.appended.end
    }

    /// Both.
    #[must_use]
    pub fn appended(&self) -> Appended {
        self.appended
    }

    /// Whether it, and everything before it, is published.
    #[must_use]
    pub fn is_published(&self) -> bool {
        self.shared.published() >= self.appended.end
    }

    /// Whether it is on stable storage.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.shared.synced() >= self.appended.end
    }

    /// Blocks until it, and everything before it, is published.
    pub fn wait_published(&self, timeout: Option<Duration>) -> Result<(), LogError> {
        self.shared.wait_published(self.appended.end, timeout)
    }

    /// Blocks until it is synced; may itself do the sync for the group.
    pub fn wait_synced(&self, timeout: Option<Duration>) -> Result<(), LogError> {
        let deadline = timeout.map(after);
        self.shared.sync_up_to(self.appended.end, deadline)
    }

    /// Resolves when it, and everything before it, is published.
    pub fn published(self) -> Until {
        Until::new(self.shared, self.appended.end, ReadLimit::Published)
    }

    /// Resolves when it is synced; asks the flusher for that when it is polled first.
    pub fn synced(self) -> Until {
        Until::new(self.shared, self.appended.end, ReadLimit::Synced)
    }
}

impl Log {
    /// As [`Log::append`], with a ticket for waiting.
    pub fn submit(&self, parts: &[&[u8]]) -> Result<Ticket, LogError> {
        self.append(parts).map(|appended| self.ticket(appended))
    }

    /// As [`Log::append`], then waits for what `durability` asks.
    pub fn append_with(
        &self,
        parts: &[&[u8]],
        durability: Durability,
    ) -> Result<Appended, LogError> {
        let appended = self.append(parts)?;
        let synced = match durability {
            Durability::Policy => self.shared().options.sync_policy == SyncPolicy::Always,
            Durability::Buffered => false,
            Durability::Synced => true,
        };
        if synced {
            self.sync_up_to(appended.end)?;
        }
        Ok(appended)
    }

    /// A ticket for an append of this log, a replicated one or a reservation's too.
    #[must_use]
    pub fn ticket(&self, appended: Appended) -> Ticket {
        Ticket {
            shared: self.shared().clone(),
            appended,
        }
    }

    /// Resolves when everything below `end` is published.
    pub fn until_published(&self, end: Lsn) -> Until {
        Until::new(self.shared().clone(), end, ReadLimit::Published)
    }

    /// Resolves when everything below `end` is synced; asks the flusher for that when it is polled first.
    pub fn until_synced(&self, end: Lsn) -> Until {
        Until::new(self.shared().clone(), end, ReadLimit::Synced)
    }
}

impl Shared {
    pub(crate) fn wait_published(
        &self,
        end: Lsn,
        timeout: Option<Duration>,
    ) -> Result<(), LogError> {
        if self.published() >= end {
            return Ok(());
        }
        let deadline = timeout.map(after);
        let of = ReadLimit::Published;
        match self.position(of).wait(end.0, deadline, || self.look(of)) {
            WaitEnd::Reached => Ok(()),
            WaitEnd::Stopped => Err(self.ended()),
            WaitEnd::TimedOut => Err(LogError::TimedOut {
                target: end,
                now: self.published(),
            }),
        }
    }

    /// The position that limits a reader, to wait for; with [`Shared::look`].
    pub(crate) fn position(&self, of: ReadLimit) -> &Watermark {
        match of {
            ReadLimit::Published => self.tail.position(),
            ReadLimit::Synced => self.group.position(),
        }
    }

    /// What moves only when somebody looks is looked at.
    pub(crate) fn look(&self, of: ReadLimit) {
        if of == ReadLimit::Published {
            self.published();
        }
    }

    /// One poll of a task that waits until `of` has reached `target`.
    fn poll_position(
        &self,
        of: ReadLimit,
        place: &mut Place,
        target: Lsn,
        cx: &Context<'_>,
    ) -> Poll<Result<(), LogError>> {
        let look = || self.look(of);
        let polled = (self.position(of)).poll(place, target.0, cx.waker(), look);
        polled.map(|end| match end {
            WaitEnd::Reached => Ok(()),
            WaitEnd::Stopped | WaitEnd::TimedOut => Err(self.ended()),
        })
    }
}

/// A position that is waited for; see [`Ticket::synced`], [`Log::until_synced`]. Dropped, it waits no more.
#[derive(Debug)]
#[must_use = "a future does nothing unless it is polled"]
pub struct Until {
    shared: Arc<Shared>,
    end: Lsn,
    of: ReadLimit,
    place: Place,
}

impl Until {
    fn new(shared: Arc<Shared>, end: Lsn, of: ReadLimit) -> Until {
        Until {
            shared,
            end,
            of,
            place: Place::default(),
        }
    }
}

impl Future for Until {
    type Output = Result<(), LogError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Until {
            shared,
            end,
            of,
            place,
        } = self.get_mut();
        let polled = shared.poll_position(*of, place, *end, cx);
        if polled.is_pending() && *of == ReadLimit::Synced {
            shared.request_sync(*end);
        }
        polled
    }
}

impl Drop for Until {
    fn drop(&mut self) {
        self.shared.position(self.of).leave(&mut self.place);
    }
}

impl Reader {
    /// The next frame below the limit, as a `Future`: it resolves when there is one, or with the error when the log is
    /// poisoned or closed. Dropped, it has taken no frame.
    pub fn next_frame(&mut self) -> NextFrame<'_> {
        NextFrame {
            reader: self,
            place: Place::default(),
        }
    }
}

/// See [`Reader::next_frame`].
#[derive(Debug)]
#[must_use = "a future does nothing unless it is polled"]
pub struct NextFrame<'a> {
    reader: &'a mut Reader,
    place: Place,
}

impl Future for NextFrame<'_> {
    type Output = Result<Frame, LogError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let NextFrame { reader, place } = self.get_mut();
        loop {
            if let Some(frame) = reader.next()? {
                return Poll::Ready(Ok(frame));
            }
            let target = reader.position().advance(1);
            match reader
                .shared
                .poll_position(reader.limit, place, target, cx)?
            {
                Poll::Ready(()) => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl Drop for NextFrame<'_> {
    fn drop(&mut self) {
        let position = self.reader.shared.position(self.reader.limit);
        position.leave(&mut self.place);
    }
}
