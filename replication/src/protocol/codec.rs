//! Bytes of the messages. The layouts are drawn in the module above and in docs/protocols.md.

use super::*;
use esker_wal::frame::{HEADER_LEN, Header, MARK_LEN, frame_len};
use esker_wal::{Epoch, Kind};

const MAGIC: [u8; 4] = *b"EKR1";
const TYPE_AT: usize = 4;
const FLAGS_AT: usize = 5;
const HEAD_LEN_AT: usize = 6;
const SESSION_AT: usize = 8;
const CRC_AT: usize = 16;
const HEAD_AT: usize = 20;
/// Where a frame's mark is: 14 bytes that are zero on the wire (R1).
const MARK: std::ops::Range<usize> = 16..16 + MARK_LEN;

const HELLO: u8 = 1;
const WELCOME: u8 = 2;
const REFUSED: u8 = 3;
const FRAMES: u8 = 4;
const ACK: u8 = 5;
const HEARTBEAT: u8 = 6;
const GOODBYE: u8 = 7;
const RESET: u8 = 8;

/// Flag of a hello: the replica has a store.
const HAS_LOG: u8 = 1;
/// Flag of a primary's messages: sync as soon as you have received.
const SYNC_NOW: u8 = 1;

/// Why bytes are no message of this protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The magic is missing: another protocol, or garbage.
    #[error("not a message of Esker's replication")]
    Magic,
    /// Shorter than it says.
    #[error("the message is cut short")]
    Short,
    /// The checksum over the head does not match.
    #[error("the message's checksum does not match: stored {stored:08x}, computed {computed:08x}")]
    Checksum {
        /// As sent.
        stored: u32,
        /// As computed.
        computed: u32,
    },
    /// A type this build does not know.
    #[error("message type {0} is unknown")]
    Type(u8),
    /// A field holds what it can't.
    #[error("field {0} is out of range")]
    Field(&'static str),
}

/// Reads fields from a head; every read is checked.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn bytes(&mut self, n: usize) -> Result<&'a [u8], DecodeError> {
        let (head, rest) = self.0.split_at_checked(n).ok_or(DecodeError::Short)?;
        self.0 = rest;
        Ok(head)
    }
    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        Ok(self.bytes(N)?.try_into().expect("N bytes"))
    }
    fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(self.array::<1>()?[0])
    }
    fn u16(&mut self) -> Result<u16, DecodeError> {
        Ok(u16::from_le_bytes(self.array()?))
    }
    fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_le_bytes(self.array()?))
    }
    fn u64(&mut self) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.array()?))
    }
    fn u128(&mut self) -> Result<u128, DecodeError> {
        Ok(u128::from_le_bytes(self.array()?))
    }
    fn lsn(&mut self, field: &'static str) -> Result<Lsn, DecodeError> {
        let n = self.u64()?;
        if n.is_multiple_of(esker_wal::frame::FRAME_ALIGN as u64) && n < 1 << 63 {
            Ok(Lsn(n))
        } else {
            Err(DecodeError::Field(field))
        }
    }
    fn text(&mut self, len: usize, max: usize, field: &'static str) -> Result<String, DecodeError> {
        if len > max {
            return Err(DecodeError::Field(field));
        }
        // Names and texts reach logs and INFO: nothing in them may begin a line of its own.
        match std::str::from_utf8(self.bytes(len)?) {
            Ok(text) if !text.contains(char::is_control) => Ok(text.to_string()),
            _ => Err(DecodeError::Field(field)),
        }
    }
    fn epochs(&mut self) -> Result<Vec<EpochStart>, DecodeError> {
        let count = usize::from(self.u16()?);
        // The bytes must be there before room is made for what they say.
        if count > EPOCHS_MAX || self.0.len() < count * 24 {
            return Err(DecodeError::Field("epochs"));
        }
        (0..count)
            .map(|_| {
                Ok(EpochStart {
                    epoch: Epoch {
                        number: self.u64()?,
                        id: self.u64()?,
                    },
                    begin: self.lsn("epoch begin")?,
                })
            })
            .collect()
    }
    fn positions(&mut self, flags: u8) -> Result<PrimaryPositions, DecodeError> {
        Ok(PrimaryPositions {
            synced: self.lsn("synced")?,
            safe: self.lsn("safe")?,
            expiry_ms: self.u64()?.cast_signed(),
            sync_now: flags & SYNC_NOW != 0,
        })
    }
}

/// Decodes one message: its session, and what it says.
pub fn decode(bytes: &[u8]) -> Result<(u64, Message<'_>), DecodeError> {
    if bytes.get(..TYPE_AT) != Some(&MAGIC[..]) {
        return Err(DecodeError::Magic);
    }
    let fixed: &[u8; HEAD_AT] = bytes.first_chunk().ok_or(DecodeError::Short)?;
    let u16_at = |at: usize| u16::from_le_bytes([fixed[at], fixed[at + 1]]);
    let session = u64::from_le_bytes(fixed[SESSION_AT..CRC_AT].try_into().expect("8 bytes"));
    let stored = u32::from_le_bytes(fixed[CRC_AT..HEAD_AT].try_into().expect("4 bytes"));
    let (head, tail) = bytes[HEAD_AT..]
        .split_at_checked(usize::from(u16_at(HEAD_LEN_AT)))
        .ok_or(DecodeError::Short)?;
    let computed = check(&fixed[..CRC_AT], head);
    if stored != computed {
        return Err(DecodeError::Checksum { stored, computed });
    }
    let (kind, flags) = (fixed[TYPE_AT], fixed[FLAGS_AT]);
    if kind != FRAMES && !tail.is_empty() {
        return Err(DecodeError::Field("length"));
    }
    let mut f = Fields(head);
    let message = match kind {
        HELLO => Message::Hello(Hello {
            protocols: (f.u16()?, f.u16()?),
            log: {
                let log = f.u128()?;
                (flags & HAS_LOG != 0).then_some(LogId(log))
            },
            node: NodeId(f.u128()?),
            end: f.lsn("end")?,
            chain: ChainHash(f.u128()?),
            name: {
                let len = usize::from(f.u8()?);
                f.text(len, NAME_BYTES_MAX, "name")?
            },
            epochs: f.epochs()?,
        }),
        WELCOME => Message::Welcome(Welcome {
            protocol: f.u16()?,
            log: LogId(f.u128()?),
            primary: NodeId(f.u128()?),
            start: f.lsn("start")?,
            epoch: f.u64()?,
            positions: f.positions(flags)?,
            heartbeat_ms: f.u32()?,
        }),
        REFUSED => Message::Refused(Refused {
            reason: Reason::from_u8(f.u8()?).ok_or(DecodeError::Field("reason"))?,
            at: f.lsn("at")?,
            text: {
                let len = usize::from(f.u16()?);
                f.text(len, TEXT_BYTES_MAX, "text")?
            },
        }),
        FRAMES => Message::Frames {
            first: f.lsn("first")?,
            positions: f.positions(flags)?,
            frames: tail,
        },
        ACK => Message::Ack(Ack {
            received: f.lsn("received")?,
            durable: f.lsn("durable")?,
            applied: f.lsn("applied")?,
            granted: f.lsn("granted")?,
        }),
        HEARTBEAT => Message::Heartbeat(f.positions(flags)?),
        GOODBYE => Message::Goodbye,
        RESET => Message::Reset,
        other => return Err(DecodeError::Type(other)),
    };
    Ok((session, message))
}

/// Whether bytes would be a hello, if they are a message at all.
#[must_use]
pub fn is_hello(bytes: &[u8]) -> bool {
    bytes.get(TYPE_AT) == Some(&HELLO)
}

fn check(fixed: &[u8], head: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(fixed);
    hasher.update(head);
    hasher.finalize()
}

fn put_lsns(out: &mut Vec<u8>, lsns: &[Lsn]) {
    for lsn in lsns {
        out.extend_from_slice(&lsn.0.to_le_bytes());
    }
}

fn put_positions(out: &mut Vec<u8>, p: &PrimaryPositions) {
    put_lsns(out, &[p.synced, p.safe]);
    out.extend_from_slice(&p.expiry_ms.to_le_bytes());
}

/// The longest prefix of `text` of at most `max` bytes that ends between characters.
fn clip(text: &str, max: usize) -> &str {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Encodes one message. Names and texts that are too long are cut, a history is cut to its newest part.
#[must_use]
pub fn encode(session: u64, message: &Message<'_>) -> Vec<u8> {
    let mut out = vec![0; HEAD_AT];
    let (kind, flags) = match message {
        Message::Hello(h) => {
            out.extend_from_slice(&h.protocols.0.to_le_bytes());
            out.extend_from_slice(&h.protocols.1.to_le_bytes());
            out.extend_from_slice(&h.log.unwrap_or(LogId(0)).to_bytes());
            out.extend_from_slice(&h.node.to_bytes());
            put_lsns(&mut out, &[h.end]);
            out.extend_from_slice(&h.chain.0.to_le_bytes());
            let name = clip(&h.name, NAME_BYTES_MAX);
            out.push(name.len() as u8);
            out.extend_from_slice(name.as_bytes());
            let newest = &h.epochs[h.epochs.len().saturating_sub(EPOCHS_MAX)..];
            out.extend_from_slice(&(newest.len() as u16).to_le_bytes());
            for start in newest {
                out.extend_from_slice(&start.epoch.number.to_le_bytes());
                out.extend_from_slice(&start.epoch.id.to_le_bytes());
                put_lsns(&mut out, &[start.begin]);
            }
            (HELLO, if h.log.is_some() { HAS_LOG } else { 0 })
        }
        Message::Welcome(w) => {
            out.extend_from_slice(&w.protocol.to_le_bytes());
            out.extend_from_slice(&w.log.to_bytes());
            out.extend_from_slice(&w.primary.to_bytes());
            put_lsns(&mut out, &[w.start]);
            out.extend_from_slice(&w.epoch.to_le_bytes());
            put_positions(&mut out, &w.positions);
            out.extend_from_slice(&w.heartbeat_ms.to_le_bytes());
            (WELCOME, sync_flag(&w.positions))
        }
        Message::Refused(r) => {
            out.push(r.reason as u8);
            put_lsns(&mut out, &[r.at]);
            let text = clip(&r.text, TEXT_BYTES_MAX);
            out.extend_from_slice(&(text.len() as u16).to_le_bytes());
            out.extend_from_slice(text.as_bytes());
            (REFUSED, 0)
        }
        Message::Frames {
            first,
            positions,
            frames,
        } => {
            let mut builder = FramesBuilder::new(*first);
            builder.bytes.extend_from_slice(frames);
            return builder.finish(session, positions);
        }
        Message::Ack(a) => {
            put_lsns(&mut out, &[a.received, a.durable, a.applied, a.granted]);
            (ACK, 0)
        }
        Message::Heartbeat(p) => {
            put_positions(&mut out, p);
            (HEARTBEAT, sync_flag(p))
        }
        Message::Goodbye => (GOODBYE, 0),
        Message::Reset => (RESET, 0),
    };
    let head_len = out.len() - HEAD_AT;
    seal(&mut out, session, kind, flags, head_len);
    out
}

fn sync_flag(positions: &PrimaryPositions) -> u8 {
    if positions.sync_now { SYNC_NOW } else { 0 }
}

fn seal(out: &mut [u8], session: u64, kind: u8, flags: u8, head_len: usize) {
    let head_len16 = u16::try_from(head_len).expect("heads are bounded far below 64 KiB");
    out[..TYPE_AT].copy_from_slice(&MAGIC);
    out[TYPE_AT] = kind;
    out[FLAGS_AT] = flags;
    out[HEAD_LEN_AT..SESSION_AT].copy_from_slice(&head_len16.to_le_bytes());
    out[SESSION_AT..CRC_AT].copy_from_slice(&session.to_le_bytes());
    let crc = check(&out[..CRC_AT], &out[HEAD_AT..HEAD_AT + head_len]);
    out[CRC_AT..HEAD_AT].copy_from_slice(&crc.to_le_bytes());
}

/// Bytes of a frames message before its frames: positions and clock.
const FRAMES_HEAD: usize = 4 * 8;

/// Gathers frames into one message, in place: the head is filled in last.
#[derive(Debug)]
pub struct FramesBuilder {
    first: Lsn,
    bytes: Vec<u8>,
}

impl FramesBuilder {
    /// Nothing yet; the first frame is to be the one at `first`.
    #[must_use]
    pub fn new(first: Lsn) -> FramesBuilder {
        FramesBuilder {
            first,
            bytes: vec![0; HEAD_AT + FRAMES_HEAD],
        }
    }

    /// Adds a frame as it stands in the log, its mark zeroed (F4).
    pub fn push(&mut self, header: &Header, payload: &[u8]) {
        debug_assert_eq!(header.payload_len as usize, payload.len());
        let mut head = [0; HEADER_LEN];
        header.encode(&[0; MARK_LEN], &mut head);
        self.bytes.extend_from_slice(&head);
        self.bytes.extend_from_slice(payload);
        let padding = header.frame_len() - HEADER_LEN - payload.len();
        self.bytes.extend_from_slice(&[0; 8][..padding]);
    }

    /// Bytes of frames gathered.
    #[must_use]
    pub fn frame_bytes(&self) -> usize {
        self.bytes.len() - HEAD_AT - FRAMES_HEAD
    }

    /// The message.
    #[must_use]
    pub fn finish(mut self, session: u64, positions: &PrimaryPositions) -> Vec<u8> {
        let mut head = Vec::with_capacity(FRAMES_HEAD);
        put_lsns(&mut head, &[self.first]);
        put_positions(&mut head, positions);
        self.bytes[HEAD_AT..HEAD_AT + FRAMES_HEAD].copy_from_slice(&head);
        seal(
            &mut self.bytes,
            session,
            FRAMES,
            sync_flag(positions),
            FRAMES_HEAD,
        );
        self.bytes
    }
}

/// A frame within a message. Its checksum is not yet looked at: the log does that (P2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WireFrameRef<'a> {
    /// Header.
    pub header: Header,
    /// Payload without padding.
    pub payload: &'a [u8],
}

/// Walks the frames of a message: each whole, in place, the next one's LSN behind it.
#[derive(Clone, Debug)]
pub struct FrameIter<'a> {
    next: Lsn,
    rest: &'a [u8],
}

impl<'a> FrameIter<'a> {
    /// The frames in `frames`, the first at `first`.
    #[must_use]
    pub fn new(first: Lsn, frames: &'a [u8]) -> FrameIter<'a> {
        FrameIter {
            next: first,
            rest: frames,
        }
    }
}

impl<'a> Iterator for FrameIter<'a> {
    type Item = Result<WireFrameRef<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let frame = next_frame(self.next, self.rest);
        match &frame {
            Ok(f) => {
                self.next = Lsn(self.next.0 + f.header.frame_len() as u64);
                self.rest = &self.rest[f.header.frame_len()..];
            }
            Err(_) => self.rest = &[],
        }
        Some(frame)
    }
}

fn next_frame(at: Lsn, bytes: &[u8]) -> Result<WireFrameRef<'_>, DecodeError> {
    let head: &[u8; HEADER_LEN] = bytes.first_chunk().ok_or(DecodeError::Short)?;
    let header = Header::decode(head).ok_or(DecodeError::Field("frame header"))?;
    if head[MARK].iter().any(|b| *b != 0) {
        return Err(DecodeError::Field("mark"));
    }
    if header.lsn != at || at.0 >= 1 << 63 {
        return Err(DecodeError::Field("frame lsn"));
    }
    let len = frame_len(header.payload_len as usize);
    let frame = bytes.get(..len).ok_or(DecodeError::Short)?;
    let (payload, padding) = frame[HEADER_LEN..].split_at(header.payload_len as usize);
    if padding.iter().any(|b| *b != 0) {
        return Err(DecodeError::Field("padding"));
    }
    if header.kind == Kind::Void && payload.iter().any(|b| *b != 0) {
        return Err(DecodeError::Field("void payload"));
    }
    Ok(WireFrameRef { header, payload })
}

#[cfg(test)]
mod tests;
