//! The messages between a primary and its replicas, and their bytes.
//!
//! One ZeroMQ message part each (a ROUTER adds the routing id before it). Little-endian.
//! ```text
//! at  size  field
//!  0     4  magic     "EKR1"
//!  4     1  type      1 hello, 2 welcome, 3 refused, 4 frames, 5 ack, 6 heartbeat, 7 goodbye, 8 reset
//!  5     1  flags     meaning by type; unknown bits are ignored
//!  6     2  head len  bytes of the head below
//!  8     8  session   chosen by the replica at random for each hello; answers repeat it
//! 16     4  crc32     of bytes 0..16 and the head
//! 20     h  head      fixed fields of the type, then its lists
//! ..     n  frames    type 4 only: whole frames of the log, mark bytes zero
//! ```
//! A head may be longer than this build knows: the rest is ignored, so fields can be added at the end.
//!
//! - P1: decoding any bytes neither panics nor allocates by a length that was not checked against the
//!   bytes that are there (E2).
//! - P2: frames are checked by the log before they are appended (LSN, epoch, checksum); the message's
//!   own crc32 leaves them out.
//! - P3: a message of an unknown session changes nothing; a primary answers it with `reset`.

mod codec;
pub mod history;

pub use codec::{DecodeError, FrameIter, FramesBuilder, WireFrameRef, decode, encode, is_hello};

use esker_wal::{ChainHash, EpochStart, LogId, Lsn, NodeId};

/// Version of the protocol that this build speaks. Both sides name a range; the highest common is used.
pub const PROTOCOL: u16 = 1;
/// Oldest version of the protocol that this build speaks.
pub const PROTOCOL_MIN: u16 = 1;
/// Most epochs in one hello or welcome: the newest ones.
pub const EPOCHS_MAX: usize = 1024;
/// Longest name of a node, in bytes.
pub const NAME_BYTES_MAX: usize = 64;
/// Longest text of a refusal, in bytes.
pub const TEXT_BYTES_MAX: usize = 512;
/// Largest message a replica sends: a hello with all its epochs. A primary's sockets take no larger.
pub const REPLICA_MESSAGE_BYTES_MAX: usize = 32 << 10;
/// A primary gathers frames up to about this much in one message; a larger frame goes alone.
pub const FRAMES_MESSAGE_BYTES: usize = 1 << 20;
/// Largest message a primary sends: one frame of the largest payload.
pub const PRIMARY_MESSAGE_BYTES_MAX: usize =
    esker_wal::frame::frame_len(esker_wal::frame::PAYLOAD_MAX) + (4 << 10);

/// A replica introduces itself: who it is, what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Oldest and newest protocol it speaks.
    pub protocols: (u16, u16),
    /// Identity of its store; `None` for a replica that has none yet.
    pub log: Option<LogId>,
    /// Its node id.
    pub node: NodeId,
    /// End of its log: the LSN it wants to go on from. Everything below is synced there.
    pub end: Lsn,
    /// Chain hash of everything below `end`.
    pub chain: ChainHash,
    /// Its label.
    pub name: String,
    /// Its history, oldest first; the newest [`EPOCHS_MAX`].
    pub epochs: Vec<EpochStart>,
}

/// A primary accepts: the stream goes on from the hello's `end`, once credit was granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// Protocol used from here on.
    pub protocol: u16,
    /// Identity of the store; an empty replica creates its log under it.
    pub log: LogId,
    /// The primary's node id.
    pub primary: NodeId,
    /// LSN of the first frame to come.
    pub start: Lsn,
    /// Number of the epoch being written.
    pub epoch: u64,
    /// The primary's positions and clock.
    pub positions: PrimaryPositions,
    /// The primary says something at least this often, in milliseconds.
    pub heartbeat_ms: u32,
}

/// What every message of a primary carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrimaryPositions {
    /// End of what is synced there.
    pub synced: Lsn,
    /// Safe position: replies of a replica that reveal anything newer are held (design 4).
    pub safe: Lsn,
    /// The primary's expiry clock, in milliseconds since 1970.
    pub expiry_ms: i64,
    /// Somebody waits for durable acknowledgements: sync as soon as you have received.
    pub sync_now: bool,
}

/// Why a hello was refused. Numbers are on the wire: add, never renumber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Reason {
    /// No common protocol version.
    Protocol = 1,
    /// The replica holds another store.
    OtherStore = 2,
    /// Histories differ; `at` is the last LSN at which they are known to agree.
    Diverged = 3,
    /// The replica is ahead: it would have to rewind to `at`.
    RewindNeeded = 4,
    /// The primary no longer holds the log at the replica's end; the oldest it holds is `at`.
    Released = 5,
    /// Another live node has that name.
    NameInUse = 6,
    /// The replica knows of a newer epoch than this primary.
    StalePrimary = 7,
    /// This primary has as many replicas as it accepts.
    TooMany = 8,
    /// The node id is in use by another live connection, which this one replaces or is replaced by.
    NodeInUse = 9,
    /// The primary can't say now (its log gave an error, or it is shutting down).
    NotNow = 10,
}

impl Reason {
    /// The reason of a number on the wire.
    #[must_use]
    pub fn from_u8(n: u8) -> Option<Reason> {
        use Reason::*;
        [
            Protocol,
            OtherStore,
            Diverged,
            RewindNeeded,
            Released,
            NameInUse,
            StalePrimary,
            TooMany,
            NodeInUse,
            NotNow,
        ]
        .into_iter()
        .find(|r| *r as u8 == n)
    }

    /// Whether trying again without an operator can help.
    #[must_use]
    pub fn is_passing(self) -> bool {
        matches!(
            self,
            Reason::NameInUse | Reason::TooMany | Reason::NodeInUse | Reason::NotNow
        )
    }
}

/// A primary refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Why.
    pub reason: Reason,
    /// An LSN that belongs to the reason.
    pub at: Lsn,
    /// What to do about it, for a person.
    pub text: String,
}

/// A replica reports, and grants credit. Sent when something moved, and as its heartbeat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ack {
    /// End of its log.
    pub received: Lsn,
    /// End of what it has synced.
    pub durable: Lsn,
    /// End of what readers there can see.
    pub applied: Lsn,
    /// Frames that begin below this may be sent. Never moves back within a session.
    pub granted: Lsn,
}

/// Any message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// Replica: may I follow?
    Hello(Hello),
    /// Primary: yes.
    Welcome(Welcome),
    /// Primary: no.
    Refused(Refused),
    /// Primary: frames of the log, the first at `first`.
    Frames {
        /// LSN of the first frame.
        first: Lsn,
        /// Positions and clock.
        positions: PrimaryPositions,
        /// Whole frames; see [`FrameIter`].
        frames: &'a [u8],
    },
    /// Replica: positions and credit.
    Ack(Ack),
    /// Primary: still here.
    Heartbeat(PrimaryPositions),
    /// Either: closing.
    Goodbye,
    /// Primary: no such session here; say hello again.
    Reset,
}
