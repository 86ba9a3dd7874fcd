//! Options of a log.
use crate::error::OpenError;
use crate::ids::{LogId, NodeId};
use crate::media::{
    Media,
    clock::{Clock, RealClock},
    real::RealMedia,
};
use std::sync::Arc;
use std::time::Duration;

/// When the flusher syncs without being asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncPolicy {
    /// Each write is to be waited for; the flusher starts at once when somebody waits or asks.
    Always,
    /// As `Always` for those who wait or ask; besides, at least once per interval.
    Interval(Duration),
    /// Only for those who wait or ask, at the bound of unsynced bytes, and at close.
    Manual,
}

/// Who does the background work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workers {
    /// Named threads, joined on close.
    Threads,
    /// The caller, by `step()`; what blocks does the work inline. For simulators: a seed replays exactly.
    Stepped,
}

/// What the log is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenRole {
    /// This node writes: after an unclean close it begins an epoch (same number, new id).
    Writer,
    /// This node follows another's history: no epoch is begun, appends come with their LSN.
    Follower,
}

/// What open does with damage below the synced point. See docs/formats.md, "What is decided".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDamage {
    /// Refuse, and change nothing.
    Refuse,
    /// Open all the same, with the damaged ranges listed and unreadable, for a caller that can get the frames again: see
    /// [`crate::Log::damaged`] and [`crate::Log::repair`]. Files that can't be taken for segments are put aside by renaming.
    Repair,
}

/// How to create a log where there is none.
#[derive(Clone, Debug)]
pub struct Create {
    /// Identity: the store's, one on all replicas.
    pub log: LogId,
    /// This node.
    pub node: NodeId,
    /// LSN of the first frame; zero but for a store restored from a checkpoint.
    pub base: crate::Lsn,
}

/// Options of [`crate::Log::open`].
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// Writer or follower. Default: writer.
    pub role: OpenRole,
    /// Make a log where there is none; `None` refuses with `OpenError::NotFound`. Default: `None`.
    pub create: Option<Create>,
    /// Refuse a log of another identity. Default: any.
    pub expect_log: Option<LogId>,
    /// Default: refuse.
    pub on_damage: OnDamage,
    /// Bytes of a segment file. Default 64 MiB; 16 KiB to 1 GiB; multiple of 4096. One that an open has to make, and waits for, has 16 MiB at most.
    pub segment_bytes: u64,
    /// Segments prepared ahead. Default 2. Of many, those that a burst uses are replaced when it is over, or when a quarter is left. On a full disk the last of two or more is kept for the next open (W8).
    pub segments_ahead: usize,
    /// Largest payload; at most 256 MiB. One that a segment can't hold gets a segment of its own. Default 64 MiB.
    pub payload_bytes_max: usize,
    /// Default `Always`.
    pub sync_policy: SyncPolicy,
    /// Bound of published or reserved bytes that are not synced. From half of it on the flusher syncs by itself, whatever the
    /// policy, so that a burst is written back while it goes on. Default 256 MiB.
    pub unsynced_bytes_max: u64,
    /// A sync begins at the earliest this long after the last one ended; what comes meanwhile goes along with it. It bounds the syncs per
    /// second of a log under load, and every wait is up to so much longer. Where an append waits at the bound of unsynced bytes, the sync begins at
    /// once. Default: zero, nobody waits.
    pub min_sync_interval: Duration,
    /// Longest that a thread that waits for a sync looks for its end before it sleeps, where several wait. It yields to others, and
    /// sleeps as soon as they use the core. It pays where waking a thread is dear (30 us in a virtual machine, and 10 of who wakes) and
    /// cores are free. Zero: it sleeps at once. Default 250 us.
    pub sync_spin_max: Duration,
    /// A mark is written when the log was idle this long with its last sync unmarked. Default 100 ms.
    pub idle_mark_after: Duration,
    /// Log kept below the release point for replicas still to come, in bytes. Default 0.
    pub keep_bytes: u64,
    /// Log kept this long below the release point, counted from the close of its segment. Default 0.
    pub keep_age: Duration,
    /// Most bytes of log that are kept for `keep_bytes`, `keep_age` and slots. What the release point, readers and syncs need is kept
    /// besides. Default: no limit. At least a segment.
    pub log_bytes_max: u64,
    /// Most bytes a slot may hold back before it is lost. Default: no cap.
    pub slot_bytes_max: u64,
    /// Longest that a slot may hold back what was closed that long ago, before it is lost. Default: no cap.
    pub slot_age_max: Duration,
    /// Free bytes on the disk below which nothing is kept by bytes or age, and slots are lost, the one that is furthest behind
    /// first, rather than the disk filled. Default 0: not asked.
    pub free_bytes_min: u64,
    /// Default threads.
    pub workers: Workers,
    /// Default: the operating system's files.
    pub media: Arc<dyn Media>,
    /// Default: the machine's.
    pub clock: Arc<dyn Clock>,
}
impl Default for LogOptions {
    fn default() -> Self {
        LogOptions {
            role: OpenRole::Writer,
            create: None,
            expect_log: None,
            on_damage: OnDamage::Refuse,
            segment_bytes: 64 << 20,
            segments_ahead: 2,
            payload_bytes_max: 64 << 20,
            sync_policy: SyncPolicy::Always,
            unsynced_bytes_max: 256 << 20,
            min_sync_interval: Duration::ZERO,
            sync_spin_max: Duration::from_micros(250),
            idle_mark_after: Duration::from_millis(100),
            keep_bytes: 0,
            keep_age: Duration::ZERO,
            log_bytes_max: u64::MAX,
            slot_bytes_max: u64::MAX,
            slot_age_max: Duration::MAX,
            free_bytes_min: 0,
            workers: Workers::Threads,
            media: Arc::new(RealMedia::default()),
            clock: Arc::new(RealClock::default()),
        }
    }
}

impl LogOptions {
    /// Refuses what can't be, naming the option.
    pub(crate) fn check(&self) -> Result<(), OpenError> {
        let bad = |option, why: &str| {
            Err(OpenError::Options {
                option,
                why: why.to_owned(),
            })
        };
        let bytes = self.segment_bytes;
        if !(16 << 10..=1 << 30).contains(&bytes) || !bytes.is_multiple_of(4096) {
            return bad(
                "segment_bytes",
                "must be a multiple of 4096 from 16 KiB to 1 GiB",
            );
        }
        if self.log_bytes_max < bytes {
            return bad("log_bytes_max", "must be at least segment_bytes");
        }
        if self.unsynced_bytes_max == 0 {
            return bad("unsynced_bytes_max", "must be at least 1");
        }
        if self.payload_bytes_max == 0 {
            return bad("payload_bytes_max", "must be at least 1");
        }
        if self.segments_ahead > 64 {
            return bad("segments_ahead", "must be at most 64");
        }
        Ok(())
    }
}
