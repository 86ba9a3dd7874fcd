//! Reads frames of one segment from its file, in order, verified.
//!
//! Whatever the bytes say, no more is read or allocated than the segment holds (E2).

use crate::frame::{HEADER_LEN, Header, KIND_AT, MARK_AT, MARK_LEN, Mark, Seed, checksum};
use crate::ids::{Epoch, Lsn, NodeId};
use crate::media::MediaFile;
use crate::segment::{FRAMES_AT, Segment};
use bytes::Bytes;
use std::io;
use std::sync::Arc;

/// Bytes read at once. A payload handed out keeps the buffer alive that it was read into.
const WINDOW: u64 = 256 << 10;

/// What stands at a position.
#[derive(Debug)]
pub(crate) enum Step {
    Frame { header: Header, payload: Bytes },
    Broken(Broken),
}

/// Why it is no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Broken {
    pub(crate) what: &'static str,
    pub(crate) stored: u32,
    pub(crate) computed: u32,
}

fn broken(what: &'static str) -> Step {
    Step::Broken(Broken {
        what,
        stored: 0,
        computed: 0,
    })
}

#[derive(Debug)]
pub(crate) struct Cursor {
    file: Arc<dyn MediaFile>,
    base: Lsn,
    seed: Seed,
    buf: Bytes,
    /// LSN of the buffer's first byte.
    at: Lsn,
}

impl Cursor {
    pub(crate) fn new(segment: &Segment) -> Cursor {
        Cursor::over(segment.file.clone(), segment.base(), segment.seed)
    }

    pub(crate) fn over(file: Arc<dyn MediaFile>, base: Lsn, seed: Seed) -> Cursor {
        Cursor {
            file,
            base,
            seed,
            buf: Bytes::new(),
            at: base,
        }
    }

    /// The frame at `lsn`. Nothing at or above `limit` (within the segment) is looked at.
    pub(crate) fn read(&mut self, lsn: Lsn, limit: Lsn) -> io::Result<Step> {
        if limit < lsn.advance(HEADER_LEN as u64) {
            return Ok(broken("no room for a frame"));
        }
        let head = self.window(lsn, HEADER_LEN as u64, limit)?;
        let head: [u8; HEADER_LEN] = head[..HEADER_LEN].try_into().expect("a header's bytes");
        let Some(header) = Header::decode(&head) else {
            return Ok(broken("no frame header"));
        };
        if header.lsn != lsn {
            return Ok(broken("a frame header of another place"));
        }
        let frame_len = header.frame_len() as u64;
        if frame_len > limit.since(lsn) {
            return Ok(broken("a frame header of impossible length"));
        }
        let frame = self.window(lsn, frame_len, limit)?;
        let payload = frame.slice(HEADER_LEN..HEADER_LEN + header.payload_len as usize);
        let computed = checksum(self.seed, lsn, header.kind, &[&payload]);
        if computed != header.crc {
            return Ok(Step::Broken(Broken {
                what: "a frame's checksum",
                stored: header.crc,
                computed,
            }));
        }
        Ok(Step::Frame { header, payload })
    }

    /// The bytes from `lsn` on, at least `len` of them; `lsn + len <= limit`.
    fn window(&mut self, lsn: Lsn, len: u64, limit: Lsn) -> io::Result<Bytes> {
        let have = self.at.advance(self.buf.len() as u64);
        if lsn < self.at || lsn.advance(len) > have {
            let want = len.max(WINDOW).min(limit.since(lsn));
            let mut buf = vec![0; want as usize];
            self.file
                .read_exact_at(&mut buf, FRAMES_AT + lsn.since(self.base))?;
            self.buf = buf.into();
            self.at = lsn;
        }
        Ok(self.buf.slice(lsn.since(self.at) as usize..))
    }
}

/// The highest mark that stands at any 8-byte boundary of `from..to`, with or without its frame.
pub(crate) fn highest_mark(
    file: &dyn MediaFile,
    base: Lsn,
    epoch: Epoch,
    node: NodeId,
    (from, to): (Lsn, Lsn),
) -> io::Result<Option<Lsn>> {
    const STRIDE: u64 = 1 << 20;
    let mut highest = None;
    let mut at = from;
    let mut buf = Vec::new();
    while at < to {
        let len = (STRIDE + HEADER_LEN as u64).min(to.since(at));
        buf.resize(len as usize, 0);
        file.read_exact_at(&mut buf, FRAMES_AT + at.since(base))?;
        let places = (buf.len() as u64)
            .saturating_sub(KIND_AT as u64 - 1)
            .min(STRIDE) as usize;
        for place in (0..places).step_by(8) {
            let mark: &[u8; MARK_LEN] = buf[place + MARK_AT..place + KIND_AT]
                .try_into()
                .expect("a mark's bytes");
            if mark == &[0; MARK_LEN] {
                continue;
            }
            if let Some(mark) = Mark::decode(mark, node, epoch, at.advance(place as u64)) {
                highest = highest.max(Some(mark.synced));
            }
        }
        at = at.advance(STRIDE.min(to.since(at)));
    }
    Ok(highest)
}
