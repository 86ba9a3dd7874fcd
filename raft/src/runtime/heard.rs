//! Which forwarded commands have come, so that a packet that the network repeats is not appended again: a command without a session has nothing else
//! that tells.
//!
//! - HE1: of the last [`HEARD_MAX`] each is taken once.

use crate::core::NodeId;
use std::collections::{HashSet, VecDeque};

const HEARD_MAX: usize = 16_384;

/// Who sent it, in which life, under which number.
type Name = (NodeId, u64, u64);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Heard {
    names: HashSet<Name>,
    order: VecDeque<Name>,
}

impl Heard {
    /// Whether it is the first of its name.
    pub(super) fn is_first(&mut self, name: Name) -> bool {
        if !self.names.insert(name) {
            return false;
        }
        self.order.push_back(name);
        if self.order.len() > HEARD_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.names.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn he1_a_repeated_packet_is_known_and_memory_is_bounded() {
        let mut heard = Heard::default();
        for n in 0..HEARD_MAX as u64 + 10 {
            assert!(heard.is_first((NodeId(1), 7, n)));
            assert!(!heard.is_first((NodeId(1), 7, n)));
        }
        assert!(heard.is_first((NodeId(2), 7, 20)) && heard.is_first((NodeId(1), 8, 20)));
        assert_eq!(
            (heard.names.len(), heard.order.len()),
            (HEARD_MAX, HEARD_MAX)
        );
    }
}
