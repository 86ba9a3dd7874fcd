//! A table whose file was changed, its checksums perhaps made right again (the layout is in docs/formats.md).

#[path = "edits.rs"]
mod edits;

use edits::{Source, edit};
use esker_lsm::SeqNo;
use esker_lsm::iter::{Cursor, RangeTombstone};
use esker_lsm::table::{
    BlockCache, KeyRef, ReadMode, Table, TableBuilder, TableContext, TableOptions, VersionKind,
};
use esker_wal::LogId;
use esker_wal::media::sim::SimMedia;
use std::path::Path;
use std::sync::{Arc, OnceLock};

const LOG: LogId = LogId(0x77);
const FILE: u64 = 5;
const PATH: &str = "5.tbl";
const FOOTER: usize = 64;

fn context(media: &SimMedia) -> TableContext {
    TableContext {
        media: Arc::new(media.clone()),
        log: LOG,
        cache: Arc::new(BlockCache::new(1 << 20)),
    }
}

/// A table, and where its sections begin and end.
struct Base {
    bytes: Vec<u8>,
    sections: Vec<(usize, usize)>,
}

fn bases() -> &'static [Base; 2] {
    static BASES: OnceLock<[Base; 2]> = OnceLock::new();
    BASES.get_or_init(|| [false, true].map(base))
}

fn base(compress: bool) -> Base {
    let media = SimMedia::new(1);
    let options = TableOptions {
        block_bytes: 200,
        compress,
        ..TableOptions::default()
    };
    let mut builder =
        TableBuilder::create(&context(&media), Path::new(PATH), FILE, options).expect("a table");
    for n in 0..40_u64 {
        let key = format!("key-{:03}", n / 2);
        let at = KeyRef::new(key.as_bytes(), SeqNo(100 - n % 2));
        let (kind, value) = match n % 7 {
            0 => (VersionKind::Delete, Vec::new()),
            _ => (VersionKind::Put, vec![b'v'; (n as usize * 13) % 60]),
        };
        builder.add(at, kind, &value).expect("an entry");
    }
    for (start, end) in [("key-003", "key-005"), ("key-010", "")] {
        builder
            .add_range(RangeTombstone {
                start: start.as_bytes().to_vec().into(),
                end: end.as_bytes().to_vec().into(),
                seqno: SeqNo(90),
            })
            .expect("a range");
    }
    builder.finish().expect("finished");
    let bytes = media.read(Path::new(PATH)).expect("its bytes");
    let sections = sections(&bytes);
    Base { bytes, sections }
}

fn seed(offset: usize) -> crc32fast::Hasher {
    let mut seed = [0; 32];
    seed[..16].copy_from_slice(&LOG.to_bytes());
    seed[16..24].copy_from_slice(&FILE.to_le_bytes());
    seed[24..].copy_from_slice(&(offset as u64).to_le_bytes());
    crc32fast::Hasher::new_with_initial(crc32fast::hash(&seed))
}

/// Sections stand one behind the other; each ends with the checksum of what is before it.
fn sections(bytes: &[u8]) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut start = 0;
    let last = bytes.len() - FOOTER;
    while start < last {
        let mut hasher = seed(start);
        let end = (start..last - 3).find(|&at| {
            let sealed = hasher.clone().finalize().to_le_bytes() == bytes[at..at + 4];
            hasher.update(&bytes[at..at + 1]);
            sealed && at >= start + 5
        });
        let end = end.expect("sections reach to the footer") + 4;
        found.push((start, end));
        start = end;
    }
    found
}

fn reseal(bytes: &mut [u8], base: &Base) {
    for &(start, end) in &base.sections {
        if end <= bytes.len() {
            let mut hasher = seed(start);
            hasher.update(&bytes[start..end - 4]);
            bytes[end - 4..end].copy_from_slice(&hasher.finalize().to_le_bytes());
        }
    }
    if bytes.len() < FOOTER {
        return;
    }
    let start = bytes.len() - FOOTER;
    let mut hasher = seed(start);
    hasher.update(&bytes[start..start + 48]);
    hasher.update(&bytes[start + 52..]);
    bytes[start + 48..start + 52].copy_from_slice(&hasher.finalize().to_le_bytes());
}

/// See fuzz/README.md.
pub(crate) fn check(data: &[u8]) {
    let mut source = Source(data);
    let how = source.byte();
    let base = &bases()[usize::from(how & 1)];
    let mut bytes = base.bytes.clone();
    let mut edits = 0;
    while !source.is_empty() && edits < 16 {
        edit(&mut bytes, &mut source);
        edits += 1;
    }
    if how & 2 != 0 {
        reseal(&mut bytes, base);
    }
    let media = SimMedia::new(2);
    media.put(Path::new(PATH), &bytes).expect("put");
    let untouched = bytes == base.bytes;
    let Ok(table) = Table::open(&context(&media), Path::new(PATH), FILE) else {
        assert!(!untouched, "an untouched table does not open");
        return;
    };
    for key in [&b""[..], b"key-004", b"key-019", b"key-0195", b"z"] {
        let found = table.get(key, SeqNo(u64::MAX));
        if untouched {
            assert!(found.is_ok());
        }
    }
    let verified = table.verify().is_ok();
    assert!(verified || !untouched);
    // No more entries than bytes: a walk ends.
    let most = bytes.len();
    for mode in [ReadMode::Once, ReadMode::Cached] {
        let mut cursor = table.cursor(mode);
        let mut steps = 0;
        let mut state = cursor.seek_to_first();
        while state.is_ok() && cursor.valid() && steps <= most {
            let _ = (cursor.key(), cursor.kind(), cursor.value());
            state = cursor.next();
            steps += 1;
        }
        assert!(steps <= most || !verified, "a walk without end");
        let mut state = cursor.seek_to_last();
        steps = 0;
        while state.is_ok() && cursor.valid() && steps <= most {
            state = cursor.prev();
            steps += 1;
        }
        let _ = cursor.seek(KeyRef::new(b"key-007", SeqNo(99)));
        let _ = cursor.seek_for_prev(KeyRef::new(b"key-007", SeqNo(99)));
    }
}

/// Where a corpus begins.
#[allow(dead_code, reason = "the fuzzer reads files")]
pub(crate) fn start() -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for (compress, name) in [(0, "plain"), (1, "compressed")] {
        let base = &bases()[usize::from(compress)];
        all.push((format!("{name}-untouched"), vec![compress]));
        for (nth, (start, end)) in base.sections.iter().enumerate().skip(1).step_by(2) {
            let at = ((start + end) / 2) as u16;
            let [low, high] = at.to_le_bytes();
            all.push((
                format!("{name}-bit-in-{nth}"),
                vec![compress, 0, low, high, 1],
            ));
            all.push((
                format!("{name}-bit-in-{nth}-resealed"),
                vec![compress | 2, 0, low, high, 1],
            ));
        }
        let [low, high] = ((base.bytes.len() - FOOTER + 8) as u16 / 8).to_le_bytes();
        all.push((
            format!("{name}-index-beyond-the-file-resealed"),
            vec![compress | 2, 2, low, high, 0],
        ));
        all.push((format!("{name}-cut-short"), vec![compress, 6, 200, 0]));
    }
    all
}
