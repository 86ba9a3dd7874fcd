//! What came from a client and was not run yet.

/// Capacity that is kept while nothing waits.
const KEEP_BYTES: usize = 64 << 10;

/// Bytes in the order in which they came. Those that are done with are moved away only once they are more than half of all, so that taking requests
/// from the front costs no more than their lengths.
#[derive(Debug, Default)]
pub(crate) struct Input {
    bytes: Vec<u8>,
    /// Those before it are done with.
    at: usize,
}

impl Input {
    /// What is to be run.
    pub(crate) fn waiting(&self) -> &[u8] {
        &self.bytes[self.at..]
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - self.at
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Of memory, in bytes.
    pub(crate) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The first `len` of what waits are done with.
    ///
    /// # Panics
    ///
    /// When so many don't wait.
    pub(crate) fn done(&mut self, len: usize) {
        assert!(len <= self.len(), "{len} bytes of {} are done", self.len());
        self.at += len;
        if self.is_empty() {
            self.at = 0;
            self.bytes.clear();
            if self.bytes.capacity() > KEEP_BYTES {
                self.bytes = Vec::new();
            }
        } else if self.at > KEEP_BYTES && self.at > self.bytes.len() / 2 {
            self.bytes.drain(..self.at);
            self.at = 0;
        }
    }

    /// What waits, as its own.
    pub(crate) fn into_bytes(mut self) -> Vec<u8> {
        self.bytes.drain(..self.at);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_what_came_less_what_is_done() {
        let (mut input, mut all, mut done) = (Input::default(), Vec::new(), 0);
        let mut seed = 7_u64;
        let mut below = |bound: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) as usize % bound
        };
        for round in 0..2_000 {
            let more: Vec<u8> = (0..below(1_000)).map(|i| (i + round) as u8).collect();
            input.push(&more);
            all.extend_from_slice(&more);
            // More often than not less than came.
            let len = below(input.len().min(900) + 1);
            input.done(len);
            done += len;
            assert_eq!(input.waiting(), &all[done..], "round {round}");
            assert!(
                input.bytes.len() <= 2 * input.len() + KEEP_BYTES + 1_000,
                "{} bytes are kept for {} that wait",
                input.bytes.len(),
                input.len()
            );
        }
        assert!(
            done > 100_000 && done < all.len(),
            "{done} of {}",
            all.len()
        );
        assert_eq!(input.into_bytes(), &all[done..]);
    }

    #[test]
    fn memory_of_a_burst_is_given_back() {
        let mut input = Input::default();
        input.push(&vec![1; 1 << 20]);
        input.done((1 << 20) - 1);
        assert_eq!(input.waiting(), [1]);
        input.done(1);
        assert_eq!((input.len(), input.capacity()), (0, 0));
        input.push(b"PING\r\n");
        input.done(6);
        assert!(
            input.is_empty() && input.capacity() > 0,
            "small ones are kept"
        );
    }
}
