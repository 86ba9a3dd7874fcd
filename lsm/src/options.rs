//! Options of a store.

use crate::OpenError;
use esker_wal::LogOptions;

/// Options of [`crate::Store::open`].
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// The log's options; its directory is `DIR/log`. Its media, clock and workers are the store's too.
    pub log: LogOptions,
    /// Bytes of one memtable. More: fewer, larger flushes, and more log to replay after a crash. Default 64 MiB;
    /// 4 KiB or more.
    pub memtable_bytes: usize,
    /// Immutable memtables before writers stop. The memtables' bound is `memtable_bytes` times this and one. Default 4;
    /// 1 or more.
    pub memtables_max: usize,
    /// Uncompressed bytes of a data block. Default 4 KiB.
    pub block_bytes: usize,
    /// Bytes of block cache. Default 256 MiB.
    pub cache_bytes: u64,
    /// Bits of Bloom filter per key. Default 10.
    pub bloom_bits_per_key: u32,
    /// Target bytes of a table. Default 64 MiB.
    pub table_bytes: u64,
    /// L0 tables that start a compaction, slow writers down, stop them; in this order. Default 4, 12, 20.
    pub l0_tables: (usize, usize, usize),
    /// Bytes of L1; each further level ten times. Default 256 MiB.
    pub level_base_bytes: u64,
    /// Bytes a second that a flush or a compaction writes while nobody waits for it, so that the disk is there for who syncs a log on it. Where writers
    /// come near a bound they go at full speed; a store that is written to as fast as it takes it has about a fourteenth less for it. The space of
    /// removed tables goes back to the file system at four times this; up to 1 GiB may wait for it. Default 0: always at full speed; else 1 MiB or more.
    pub background_rate: u64,
}

impl Default for StoreOptions {
    fn default() -> Self {
        StoreOptions {
            log: LogOptions::default(),
            memtable_bytes: 64 << 20,
            memtables_max: 4,
            block_bytes: 4 << 10,
            cache_bytes: 256 << 20,
            bloom_bits_per_key: 10,
            table_bytes: 64 << 20,
            l0_tables: (4, 12, 20),
            level_base_bytes: 256 << 20,
            background_rate: 0,
        }
    }
}

impl StoreOptions {
    pub(crate) fn check(&self) -> Result<(), OpenError> {
        let bad = |option, why: &str| {
            Err(OpenError::Options {
                option,
                why: why.to_owned(),
            })
        };
        let (start, slow, stop) = self.l0_tables;
        if self.memtable_bytes < 4 << 10 {
            return bad("memtable_bytes", "at least 4096");
        }
        if self.memtables_max == 0 {
            return bad("memtables_max", "at least 1");
        }
        if self.table_bytes < 1 << 10 {
            return bad("table_bytes", "at least 1024");
        }
        if self.block_bytes < 64 || self.block_bytes > 16 << 20 {
            return bad("block_bytes", "64 bytes to 16 MiB");
        }
        if (1..1 << 20).contains(&self.background_rate) {
            return bad(
                "background_rate",
                "1 MiB a second or more, or 0 for no limit",
            );
        }
        if start == 0 || start > slow || slow >= stop {
            return bad("l0_tables", "start (1 or more) <= slow down < stop");
        }
        Ok(())
    }
}
