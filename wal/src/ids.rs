//! Identities and positions: the newtypes that reach the disk and the wire.
//!
//! `synced <= published <= reserved`, always; see [`Lsn`].

use std::fmt;

/// Position of a frame: the count of frame bytes before it since the log's birth.
///
/// Headers, payloads and padding of frames count; segment headers, footers and slack do not. So an
/// LSN is the same on every node that holds the frame. LSNs are multiples of 8.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl Lsn {
    /// Before the first frame of a log.
    pub const ZERO: Lsn = Lsn(0);
    /// Above every position.
    pub const MAX: Lsn = Lsn(u64::MAX);

    /// The position `bytes` of frames further on. Panics on overflow, which no log reaches.
    #[must_use]
    pub fn advance(self, bytes: u64) -> Lsn {
        Lsn(self.0.checked_add(bytes).expect("an LSN never overflows"))
    }

    /// Bytes of frames from `base` to here. Panics if `base` is above.
    #[must_use]
    pub fn since(self, base: Lsn) -> u64 {
        self.0.checked_sub(base.0).expect("base is at or below")
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

macro_rules! id128 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u128);

        impl $name {
            /// A fresh random identity, from the operating system's generator.
            ///
            /// # Panics
            /// When the operating system has no randomness to give.
            #[must_use]
            pub fn random() -> Self {
                let mut bytes = [0; 16];
                getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
                Self(u128::from_le_bytes(bytes))
            }

            /// The identity as it stands on disk and on the wire.
            #[must_use]
            pub fn to_bytes(self) -> [u8; 16] {
                self.0.to_le_bytes()
            }

            /// The identity from its bytes.
            #[must_use]
            pub fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(u128::from_le_bytes(bytes))
            }

            /// The identity from the 32 hexadecimal digits that `Display` prints.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                (text.len() == 32).then(|| u128::from_str_radix(text, 16).ok().map(Self)).flatten()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:032x})"), self.0)
            }
        }
    };
}

id128! {
    /// Identity of a log and of the store on it: one on all replicas. Seeds every checksum.
    LogId
}
id128! {
    /// Identity of a node, minted once in its data directory. Seeds the check of its marks.
    NodeId
}

/// Number of a segment file on one node: grows with each file prepared, never reused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId(pub u64);

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Who may write. A promotion raises the number; a writer's open after an unclean close keeps the
/// number and takes a new id; a follower opens none.
///
/// Field order is the comparison order, but only the number says *newer*: two epochs of one number
/// and different ids are divergence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch {
    /// Raised by a promotion.
    pub number: u64,
    /// Random, so that two promotions of one number are told apart.
    pub id: u64,
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:016x}", self.number, self.id)
    }
}

/// An epoch and the LSN of its control frame, where it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochStart {
    /// The epoch.
    pub epoch: Epoch,
    /// LSN of its control frame, its first.
    pub begin: Lsn,
}

/// 128-bit hash folded frame by frame over (LSN, epoch, kind, length, checksum). See
/// [`crate::frame::fold`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ChainHash(pub u128);

impl fmt::Display for ChainHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}
