//! An event bus: who subscribes gets what is published from then on, in a queue of its own with a bound.
//!
//! - EB1: [`EventBus::publish`] never waits for a subscriber and never fails; without subscribers it costs one load.
//! - EB2: an event that finds a queue full is not put in; it is counted, and the subscriber is told how many it missed at the
//!   place where they are missing. What was delivered and what was counted together are what was published.
//! - EB3: a subscription begins before [`EventBus::subscribe`] returns and ends with its drop or with [`EventBus::close`]; what
//!   was put in before the close is still delivered, then comes [`Received::Closed`], for ever. Publishing after the close,
//!   closing twice, subscribing after the close are harmless.
//! - EB4: who waits is woken by an event, a miss, or the close.
//! - EB5: events of one publisher arrive in its order; those of several in any.
//!
//! The reason to exist: observers (logs, tests, dashboards, a server's warnings) must learn of rotations, losses and failures without
//! any of them being able to slow the one it watches. A channel per observer would do the same with the bookkeeping at each
//! publisher; `Sender::send` on a closed channel, and a double close, are the classic ways to get that wrong.
//!
//! Ordering: the list of subscribers is replaced under its mutex and read as a snapshot, so a filter (foreign code) runs under no
//! lock. `subscribed` counts them; it is raised before `subscribe` returns, with release, and read with acquire: a publisher that
//! is told of the subscription sees it. A queue's state changes under its mutex only, and a waiter tests it under that mutex.
//!
//! Lock order: list, then queue; neither is held while a filter or a waker runs.

use crate::shim::atomic::{AtomicUsize, Ordering};
use crate::shim::{Arc, Condvar, Mutex, wait_until};
use std::collections::VecDeque;
use std::fmt;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

type Filter<E> = Box<dyn Fn(&E) -> bool + Send + Sync>;

/// What a subscriber is handed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received<E> {
    /// The next event.
    Event(E),
    /// This many events found the queue full here.
    Missed(u64),
    /// Nothing now (only from [`Subscription::try_next`] and at a deadline).
    Nothing,
    /// The bus was closed, and everything before that has been received.
    Closed,
}

struct Queue<E> {
    items: VecDeque<E>,
    /// Counted since the last event that was put in.
    missed: u64,
    closed: bool,
    waker: Option<Waker>,
}

struct Subscriber<E> {
    filter: Filter<E>,
    capacity: usize,
    queue: Mutex<Queue<E>>,
    wake: Condvar,
}

impl<E> Subscriber<E> {
    fn change(&self, change: impl FnOnce(&mut Queue<E>)) {
        let waker = {
            let mut queue = self.queue.lock();
            change(&mut queue);
            self.wake.notify_one();
            queue.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

type List<E> = Arc<Vec<Arc<Subscriber<E>>>>;

struct Inner<E> {
    subscribed: AtomicUsize,
    /// `None` once closed.
    list: Mutex<Option<List<E>>>,
}

/// The publishing side; clones are the same bus. See the module.
pub struct EventBus<E>(Arc<Inner<E>>);

impl<E> Clone for EventBus<E> {
    fn clone(&self) -> Self {
        EventBus(self.0.clone())
    }
}

impl<E> fmt::Debug for EventBus<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventBus")
            .field("subscribed", &self.0.subscribed.load(Ordering::Relaxed))
            .finish()
    }
}

impl<E: Clone> Default for EventBus<E> {
    fn default() -> Self {
        Self::new()
    }
}

impl<E: Clone> EventBus<E> {
    /// A bus without subscribers.
    #[must_use]
    pub fn new() -> Self {
        EventBus(Arc::new(Inner {
            subscribed: AtomicUsize::new(0),
            list: Mutex::new(Some(Arc::new(Vec::new()))),
        }))
    }

    /// Subscribes to the events that `filter` lets through, with room for `capacity` of them (at least 1).
    ///
    /// `filter` runs in the publisher's thread: it must be quick and must not panic.
    #[must_use]
    pub fn subscribe(
        &self,
        capacity: usize,
        filter: impl Fn(&E) -> bool + Send + Sync + 'static,
    ) -> Subscription<E> {
        let subscriber = Arc::new(Subscriber {
            filter: Box::new(filter),
            capacity: capacity.max(1),
            queue: Mutex::new(Queue {
                items: VecDeque::new(),
                missed: 0,
                closed: false,
                waker: None,
            }),
            wake: Condvar::new(),
        });
        let mut list = self.0.list.lock();
        match &mut *list {
            Some(list) => {
                let mut longer = Vec::clone(list);
                longer.push(subscriber.clone());
                self.0.subscribed.store(longer.len(), Ordering::Release);
                *list = Arc::new(longer);
            }
            None => subscriber.queue.lock().closed = true,
        }
        drop(list);
        Subscription {
            bus: self.clone(),
            subscriber,
        }
    }

    /// Hands `event` to everybody who subscribed to it and has room.
    pub fn publish(&self, event: &E) {
        if self.0.subscribed.load(Ordering::Acquire) == 0 {
            return;
        }
        let list = self.0.list.lock().clone();
        for subscriber in list.iter().flat_map(|list| list.iter()) {
            if !(subscriber.filter)(event) {
                continue;
            }
            subscriber.change(|queue| {
                // Behind a miss nothing is put in before the subscriber has been told of it (EB2).
                if queue.closed {
                    return;
                }
                if queue.missed > 0 || queue.items.len() >= subscriber.capacity {
                    queue.missed += 1;
                } else {
                    queue.items.push_back(event.clone());
                }
            });
        }
    }

    /// How many are subscribed.
    #[must_use]
    pub fn subscribers(&self) -> usize {
        self.0.subscribed.load(Ordering::Acquire)
    }

    /// Ends all subscriptions, now and later.
    pub fn close(&self) {
        let list = self.0.list.lock().take();
        self.0.subscribed.store(0, Ordering::Release);
        for subscriber in list.iter().flat_map(|list| list.iter()) {
            subscriber.change(|queue| queue.closed = true);
        }
    }
}

/// One subscriber's end. It can't be cloned: an event has one receiver per subscription. Dropping it unsubscribes.
pub struct Subscription<E: Clone> {
    bus: EventBus<E>,
    subscriber: Arc<Subscriber<E>>,
}

impl<E: Clone> fmt::Debug for Subscription<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").finish_non_exhaustive()
    }
}

impl<E: Clone> Subscription<E> {
    /// What there is now.
    fn take(queue: &mut Queue<E>) -> Received<E> {
        if let Some(event) = queue.items.pop_front() {
            return Received::Event(event);
        }
        match std::mem::take(&mut queue.missed) {
            0 if queue.closed => Received::Closed,
            0 => Received::Nothing,
            missed => Received::Missed(missed),
        }
    }

    /// The next event, without waiting.
    pub fn try_next(&mut self) -> Received<E> {
        Self::take(&mut self.subscriber.queue.lock())
    }

    /// The next event; waits for it until `deadline`, without one for ever.
    pub fn next(&mut self, deadline: Option<Instant>) -> Received<E> {
        let mut queue = self.subscriber.queue.lock();
        loop {
            match Self::take(&mut queue) {
                Received::Nothing => {}
                received => return received,
            }
            if deadline.is_some_and(|at| at <= Instant::now()) {
                return Received::Nothing;
            }
            wait_until(&self.subscriber.wake, &mut queue, deadline);
        }
    }

    /// The next event for an async caller; the waker of the latest call is woken.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Received<E>> {
        // Cloned before and dropped behind the lock: both are foreign code.
        let waker = context.waker().clone();
        let mut queue = self.subscriber.queue.lock();
        match Self::take(&mut queue) {
            Received::Nothing => {
                let before = queue.waker.replace(waker);
                drop(queue);
                drop(before);
                Poll::Pending
            }
            received => {
                drop(queue);
                Poll::Ready(received)
            }
        }
    }
}

impl<E: Clone> Drop for Subscription<E> {
    fn drop(&mut self) {
        let mut list = self.bus.0.list.lock();
        if let Some(list) = &mut *list {
            let mut shorter = Vec::clone(list);
            shorter.retain(|other| !Arc::ptr_eq(other, &self.subscriber));
            self.bus
                .0
                .subscribed
                .store(shorter.len(), Ordering::Release);
            *list = Arc::new(shorter);
        }
    }
}

#[cfg(all(test, not(esker_loom)))]
mod tests {
    use super::*;
    use std::time::Duration;

    fn all(_: &u32) -> bool {
        true
    }

    #[test]
    fn each_subscriber_gets_what_it_asked_for_from_then_on() {
        let bus = EventBus::new();
        bus.publish(&0);
        let mut every = bus.subscribe(8, all);
        let mut odd = bus.subscribe(8, |n| n % 2 == 1);
        for n in 1..=3 {
            bus.publish(&n);
        }
        for n in 1..=3 {
            assert_eq!(every.try_next(), Received::Event(n));
        }
        assert_eq!(odd.try_next(), Received::Event(1));
        assert_eq!(odd.try_next(), Received::Event(3));
        assert_eq!(odd.try_next(), Received::Nothing);
        drop(odd);
        assert_eq!(bus.subscribers(), 1);
    }

    #[test]
    fn what_finds_no_room_is_counted_at_its_place() {
        let bus = EventBus::new();
        let mut events = bus.subscribe(2, all);
        for n in 0..5 {
            bus.publish(&n);
        }
        assert_eq!(events.try_next(), Received::Event(0));
        // There is room again, but the subscriber does not know of the gap yet.
        bus.publish(&5);
        assert_eq!(events.try_next(), Received::Event(1));
        assert_eq!(events.try_next(), Received::Missed(4));
        bus.publish(&6);
        assert_eq!(events.try_next(), Received::Event(6));
    }

    #[test]
    fn close_ends_every_subscription_after_what_was_put_in() {
        let bus = EventBus::new();
        let mut events = bus.subscribe(2, all);
        bus.publish(&1);
        bus.close();
        bus.close();
        bus.publish(&2);
        assert_eq!(events.next(None), Received::Event(1));
        assert_eq!(events.next(None), Received::Closed);
        assert_eq!(events.next(None), Received::Closed);
        assert_eq!(bus.subscribe(1, all).next(None), Received::Closed);
    }

    #[test]
    fn a_wait_ends_at_its_deadline() {
        let bus = EventBus::<u32>::new();
        let soon = Instant::now() + Duration::from_millis(5);
        assert_eq!(bus.subscribe(1, all).next(Some(soon)), Received::Nothing);
    }

    #[test]
    fn an_async_waiter_is_woken_by_an_event_and_by_the_close() {
        struct Counter(std::sync::atomic::AtomicUsize);
        impl std::task::Wake for Counter {
            fn wake(self: std::sync::Arc<Self>) {
                self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            }
        }
        let woken = std::sync::Arc::new(Counter(0.into()));
        let waker = Waker::from(woken.clone());
        let mut context = Context::from_waker(&waker);
        let bus = EventBus::new();
        let mut events = bus.subscribe(1, all);
        assert_eq!(events.poll_next(&mut context), Poll::Pending);
        bus.publish(&1);
        assert_eq!(woken.0.load(std::sync::atomic::Ordering::SeqCst), 1);
        assert_eq!(
            events.poll_next(&mut context),
            Poll::Ready(Received::Event(1))
        );
        assert_eq!(events.poll_next(&mut context), Poll::Pending);
        bus.close();
        assert_eq!(woken.0.load(std::sync::atomic::Ordering::SeqCst), 2);
        assert_eq!(
            events.poll_next(&mut context),
            Poll::Ready(Received::Closed)
        );
    }
}
