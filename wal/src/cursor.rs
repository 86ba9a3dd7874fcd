//! Reads frames of one segment from its file, in order, verified.
//!
//! - C1: whatever the bytes say, no more is read or allocated than the segment holds (E2).
//! - C2: one buffer per cursor. It is read into again as soon as no payload handed out of it is kept; where one is, it
//!   stays with that payload and the cursor takes another.

use crate::frame::{HEADER_LEN, Header, KIND_AT, MARK_AT, MARK_LEN, Mark, Seed, checksum_stored};
use crate::ids::{Epoch, Lsn, NodeId};
use crate::media::MediaFile;
use crate::segment::{FRAMES_AT, Segment};
use bytes::{Bytes, BytesMut};
use std::io;
use std::sync::Arc;

/// Bytes read at once: as many as stay in a core's second cache between being read and being summed.
const WINDOW: u64 = 256 << 10;

/// What stands at a position.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    /// A frame; its payload is [`Cursor::payload`] until the next read.
    Frame {
        header: Header,
    },
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

    /// The frame at `lsn`, if all of it is in the buffer and it verifies: the way that nearly every frame goes.
    #[inline]
    pub(crate) fn in_buffer(&self, lsn: Lsn, limit: Lsn) -> Option<Header> {
        let rest = self.buf.get(lsn.0.checked_sub(self.at.0)? as usize..)?;
        let header = Header::decode(rest.first_chunk()?)?;
        let len = header.frame_len();
        let padded = rest.get(HEADER_LEN..len)?;
        let here = header.lsn == lsn && lsn.0 + len as u64 <= limit.0;
        (here && checksum_stored(self.seed, &header, padded) == header.crc).then_some(header)
    }

    /// The frame at `lsn`. Nothing at or above `limit` (within the segment) is looked at.
    pub(crate) fn read(&mut self, lsn: Lsn, limit: Lsn) -> io::Result<Step> {
        if let Some(header) = self.in_buffer(lsn, limit) {
            return Ok(Step::Frame { header });
        }
        if limit.0 < lsn.0.saturating_add(HEADER_LEN as u64) {
            return Ok(broken("no room for a frame"));
        }
        let at = self.window(lsn, HEADER_LEN as u64, limit)?;
        let head = self.buf[at..].first_chunk().expect("a header's bytes");
        let Some(header) = Header::decode(head) else {
            return Ok(broken("no frame header"));
        };
        if header.lsn != lsn {
            return Ok(broken("a frame header of another place"));
        }
        let frame_len = header.frame_len() as u64;
        if frame_len > limit.since(lsn) {
            return Ok(broken("a frame header of impossible length"));
        }
        let at = self.window(lsn, frame_len, limit)?;
        // Padding too: all bytes of a frame are the same on every node.
        let padded = &self.buf[at + HEADER_LEN..at + frame_len as usize];
        let computed = checksum_stored(self.seed, &header, padded);
        if computed != header.crc {
            return Ok(Step::Broken(Broken {
                what: "a frame's checksum",
                stored: header.crc,
                computed,
            }));
        }
        Ok(Step::Frame { header })
    }

    /// Payload of the frame read last.
    pub(crate) fn payload(&self, header: &Header) -> &[u8] {
        let at = header.lsn.since(self.at) as usize + HEADER_LEN;
        &self.buf[at..at + header.payload_len as usize]
    }

    /// The same, to be kept.
    pub(crate) fn payload_bytes(&self, header: &Header) -> Bytes {
        let at = header.lsn.since(self.at) as usize + HEADER_LEN;
        self.buf.slice(at..at + header.payload_len as usize)
    }

    /// The mark bytes of the frame read last.
    pub(crate) fn mark(&self, header: &Header) -> [u8; MARK_LEN] {
        let at = header.lsn.since(self.at) as usize;
        self.buf[at + MARK_AT..at + KIND_AT]
            .try_into()
            .expect("a mark's bytes")
    }

    /// Forgets what was read: the file may have changed.
    pub(crate) fn forget(&mut self) {
        self.buf.clear();
    }

    /// Takes `lsn..limit`, published, from the mapping of the segment: for the little that a reader at the tail lacks, a call
    /// costs more than the copy.
    pub(crate) fn take_mapped(&mut self, segment: &Segment, lsn: Lsn, limit: Lsn) {
        let len = limit.since(lsn) as usize;
        let taken = self.refill(lsn, len, |_, buf| {
            segment.copy_out(lsn, buf);
            Ok(())
        });
        debug_assert!(taken.is_ok(), "a copy does not fail");
    }

    /// Where in the buffer `lsn` is, with at least `len` bytes from there on; `lsn + len <= limit`.
    fn window(&mut self, lsn: Lsn, len: u64, limit: Lsn) -> io::Result<usize> {
        let have = self.at.0 + self.buf.len() as u64;
        if lsn >= self.at && lsn.0 + len <= have {
            return Ok(lsn.since(self.at) as usize);
        }
        let want = len.max(WINDOW).min(limit.since(lsn)) as usize;
        self.refill(lsn, want, |cursor, buf| {
            let offset = FRAMES_AT + lsn.since(cursor.base);
            cursor.file.read_exact_at(buf, offset)
        })?;
        Ok(0)
    }

    /// Fills the buffer, or another where a payload of it is kept, with `want` bytes from `lsn` on.
    fn refill(
        &mut self,
        lsn: Lsn,
        want: usize,
        read: impl FnOnce(&Cursor, &mut [u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut buf = std::mem::take(&mut self.buf)
            .try_into_mut()
            .unwrap_or_default();
        if buf.capacity() < want {
            buf = BytesMut::zeroed(want.max(WINDOW as usize));
        }
        // What is there is overwritten; only growth within the capacity is filled with zeros first.
        buf.resize(want, 0);
        read(self, &mut buf)?;
        self.buf = buf.freeze();
        self.at = lsn;
        Ok(())
    }
}

/// Bytes that are looked at together for being nothing but zeros.
const ZEROS: usize = 512;

/// The highest mark that stands at any 8-byte boundary of `from..to`, with or without its frame.
pub(crate) fn highest_mark(
    file: &dyn MediaFile,
    base: Lsn,
    epoch: Epoch,
    node: NodeId,
    (from, to): (Lsn, Lsn),
) -> io::Result<Option<Lsn>> {
    let mut highest = None;
    let mut at = from;
    let mut buf = Vec::new();
    while at < to {
        let len = (WINDOW + HEADER_LEN as u64).min(to.since(at));
        buf.resize(len as usize, 0);
        file.read_exact_at(&mut buf, FRAMES_AT + at.since(base))?;
        let places = (buf.len() as u64)
            .saturating_sub(KIND_AT as u64 - 1)
            .min(WINDOW) as usize;
        let mut place = 0;
        while place < places {
            // What was never written, which may be most of it: no mark is zeros.
            let ahead = buf.get(place..place + ZEROS + HEADER_LEN);
            if place.is_multiple_of(ZEROS) && ahead.is_some_and(zeros) {
                place += ZEROS;
                continue;
            }
            let mark: &[u8; MARK_LEN] = buf[place + MARK_AT..place + KIND_AT]
                .try_into()
                .expect("a mark's bytes");
            if mark != &[0; MARK_LEN]
                && let Some(mark) = Mark::decode(mark, node, epoch, at.advance(place as u64))
            {
                highest = highest.max(Some(mark.synced));
            }
            place += 8;
        }
        at = at.advance(WINDOW.min(to.since(at)));
    }
    Ok(highest)
}

/// Whether all of `bytes`, a multiple of eight, are zero. All are looked at, many at once.
fn zeros(bytes: &[u8]) -> bool {
    let words = bytes.as_chunks::<8>().0.iter();
    words.fold(0, |any, word| any | u64::from_ne_bytes(*word)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::Media;
    use crate::media::real::RealMedia;

    /// W3: marks at the edges of what is read and skipped at once, alone among zeros and beside other bytes.
    #[test]
    fn a_mark_is_found_at_any_place() {
        let dir = tempfile::tempdir().unwrap();
        let (node, epoch) = (NodeId(7), Epoch { number: 3, id: 9 });
        let base = Lsn(1 << 30);
        let places = [0, 8, 488, 496, 504, 512, WINDOW - 8, WINDOW, WINDOW + 8];
        for (n, place) in places.into_iter().enumerate() {
            let lone = dir.path().join(n.to_string());
            let file = RealMedia::default().create(&lone, 1 << 20).unwrap();
            let place = base.advance(place);
            let mark = Mark { synced: place };
            let (from, to) = (base, base.advance(WINDOW + 1024));
            let search = || highest_mark(&*file, base, epoch, node, (from, to)).unwrap();
            assert_eq!(search(), None);
            let offset = FRAMES_AT + place.since(base) + MARK_AT as u64;
            file.write_all_at(&mark.encode(node, epoch, place), offset)
                .unwrap();
            assert_eq!(search(), Some(place), "at {place}");
            // Bytes of anything up to it, and behind it.
            let noise = vec![0xee; (offset - FRAMES_AT) as usize];
            file.write_all_at(&noise, FRAMES_AT).unwrap();
            file.write_all_at(&[0xee; 700], offset + MARK_LEN as u64)
                .unwrap();
            assert_eq!(search(), Some(place), "at {place}");
            let behind = (place.advance(8), to);
            let found = highest_mark(&*file, base, epoch, node, behind).unwrap();
            assert_eq!(found, None, "looked for behind it");
        }
    }
}
