//! Reads of this node on their way: those that the core has not answered yet, and those that wait until what they have to see is applied.
//!
//! - RB1: each is answered once: with its index, as soon as that is applied here (C3); refused, where no leader confirms it; timed out, when its deadline
//!   passes before that, also where it is confirmed and applying stands still; or with the reason, at the end. So no more of them are kept than are
//!   asked within the time that they may take (W7).
//! - RB2: those that wait lie in the order of their indexes, so that applying costs those that it answers and one look.

use super::error::{LeaderHint, ReadError};
use crate::core::{Index, Token};
use esker_sync::oneshot::Promise;
use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

/// To whom a read is answered.
pub(super) type Reader = Promise<Result<Index, ReadError>>;

#[derive(Debug)]
struct Read {
    reader: Reader,
    deadline: Instant,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Reads {
    /// Not answered by the core yet.
    asked: HashMap<Token, Read>,
    /// By the index that must be applied.
    ripening: BTreeMap<(Index, Token), Read>,
}

impl Reads {
    /// `token` is asked of the core.
    pub(super) fn insert(&mut self, token: Token, reader: Reader, deadline: Instant) {
        self.asked.insert(token, Read { reader, deadline });
    }

    /// No leader confirms `token`, which may be no read.
    pub(super) fn refuse(&mut self, token: Token, leader: Option<LeaderHint>) {
        if let Some(read) = self.asked.remove(&token) {
            read.reader.keep(Err(ReadError::NoLeader { leader }));
        }
    }

    /// The core says that `token` must see `index`; so much is `applied`.
    pub(super) fn confirm(&mut self, token: Token, index: Index, applied: Index) {
        let Some(read) = self.asked.remove(&token) else {
            return;
        };
        match index <= applied {
            true => read.reader.keep(Ok(index)),
            false => {
                self.ripening.insert((index, token), read);
            }
        }
    }

    /// Everything up to `to` is applied.
    pub(super) fn ripen(&mut self, to: Index) {
        while let Some(first) = self.ripening.first_entry()
            && first.key().0 <= to
        {
            let (index, _) = *first.key();
            first.remove().reader.keep(Ok(index));
        }
    }

    /// Ends those whose deadline has passed.
    pub(super) fn expire(&mut self, now: Instant) {
        let asked = (self.asked).extract_if(|_, read| read.deadline <= now);
        let asked = asked.map(|(_, read)| read);
        let ripening = (self.ripening).extract_if(.., |_, read| read.deadline <= now);
        let ripening = ripening.map(|(_, read)| read);
        for read in asked.chain(ripening) {
            read.reader.keep(Err(ReadError::TimedOut));
        }
    }

    /// The node is down.
    pub(super) fn end(&mut self, why: &str) {
        let asked = std::mem::take(&mut self.asked).into_values();
        let ripening = std::mem::take(&mut self.ripening).into_values();
        for read in asked.chain(ripening) {
            read.reader.keep(Err(ReadError::Down(why.to_owned())));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use esker_sync::oneshot::{NoValue, Pending, oneshot};
    use std::time::Duration;

    type Answer = Result<Index, ReadError>;

    /// One that is asked as `token` and ends `after` that.
    fn ask(reads: &mut Reads, token: Token, deadline: Instant) -> Pending<Answer> {
        let (reader, pending) = oneshot();
        reads.insert(token, reader, deadline);
        pending
    }

    /// What it was answered by now; none where it was not, or its place is gone.
    fn answer(pending: Pending<Answer>) -> Result<Answer, NoValue> {
        pending.wait(Some(Duration::ZERO))
    }

    fn far() -> Instant {
        Instant::now() + Duration::from_secs(3600)
    }

    #[test]
    fn rb1_a_read_is_answered_once_its_index_is_applied_and_no_sooner() {
        let mut reads = Reads::default();
        let [now, next, later, last] = [1, 2, 3, 4].map(|token| ask(&mut reads, token, far()));
        // In an order that is not that of the indexes.
        for (token, index) in [(3, 8), (1, 5), (4, 9), (2, 6)] {
            reads.confirm(token, Index(index), Index(5));
        }
        assert_eq!(answer(now), Ok(Ok(Index(5))), "it was applied already");
        reads.ripen(Index(6));
        assert_eq!(answer(next), Ok(Ok(Index(6))));
        reads.ripen(Index(8));
        assert_eq!(answer(later), Ok(Ok(Index(8))));
        assert_eq!(answer(last), Err(NoValue::TimedOut), "it waits for 9");
    }

    #[test]
    fn rb1_a_refused_read_is_told_who_leads_and_no_other_is() {
        let mut reads = Reads::default();
        let [refused, other] = [7, 8].map(|token| ask(&mut reads, token, far()));
        let leader = Some(LeaderHint {
            node: crate::core::NodeId(2),
            client: "host:1".into(),
        });
        reads.refuse(7, leader.clone());
        reads.refuse(9, None);
        assert_eq!(answer(refused), Ok(Err(ReadError::NoLeader { leader })));
        assert_eq!(answer(other), Err(NoValue::TimedOut));
    }

    #[test]
    fn rb1_a_read_ends_at_its_deadline_and_not_before() {
        let now = Instant::now();
        let mut reads = Reads::default();
        let late = ask(&mut reads, 1, now);
        let early = ask(&mut reads, 2, now + Duration::from_secs(1));
        reads.expire(now);
        assert_eq!(answer(late), Ok(Err(ReadError::TimedOut)));
        // The core's answer comes too late.
        reads.confirm(1, Index(1), Index(1));
        reads.confirm(2, Index(1), Index(1));
        assert_eq!(answer(early), Ok(Ok(Index(1))));
    }

    /// It was kept for ever while applying stood still, and those that tried again came on top.
    #[test]
    fn rb1_a_confirmed_read_ends_at_its_deadline_though_applying_stands_still() {
        let now = Instant::now();
        let mut reads = Reads::default();
        let late = ask(&mut reads, 1, now);
        let early = ask(&mut reads, 2, now + Duration::from_secs(1));
        for token in [1, 2] {
            reads.confirm(token, Index(9), Index(8));
        }
        reads.expire(now);
        assert_eq!(answer(late), Ok(Err(ReadError::TimedOut)));
        reads.ripen(Index(9));
        assert_eq!(answer(early), Ok(Ok(Index(9))));
    }

    #[test]
    fn rb1_at_the_end_all_are_told_why() {
        let mut reads = Reads::default();
        let pending = [1, 2].map(|token| ask(&mut reads, token, far()));
        reads.confirm(2, Index(5), Index(4));
        reads.end("its disk failed");
        for pending in pending {
            let down = ReadError::Down("its disk failed".into());
            assert_eq!(answer(pending), Ok(Err(down)));
        }
    }
}
