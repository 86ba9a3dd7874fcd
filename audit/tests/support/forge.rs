//! What somebody can do who has this crate's log, but not the key: another live log, whose own checks hold.

use super::{DIR, copy};
use esker_wal::media::Media as _;
use esker_wal::media::sim::SimMedia;
use esker_wal::{Create, Kind as FrameKind, Log, LogOptions, ReadLimit, Workers};
use std::path::Path;
use std::sync::Arc;

fn log_options(media: &SimMedia) -> LogOptions {
    LogOptions {
        workers: Workers::Stepped,
        media: Arc::new(media.clone()),
        ..LogOptions::default()
    }
}

/// The payloads of the live log of `media`.
pub(crate) fn payloads(media: &SimMedia) -> Vec<Vec<u8>> {
    let scratch = copy(media, |name, bytes| Some((name.to_owned(), bytes)));
    let (log, _) = Log::open(&Path::new(DIR).join("live"), log_options(&scratch)).unwrap();
    let mut reader = log.reader(log.oldest(), ReadLimit::Published).unwrap();
    let mut out = Vec::new();
    while let Some(frame) = reader.next().unwrap() {
        if frame.header.kind == FrameKind::Data {
            out.push(frame.payload.to_vec());
        }
    }
    out
}

/// `media` with another live log, whose own checks hold.
pub(crate) fn with_live(media: &SimMedia, payloads: &[Vec<u8>]) -> SimMedia {
    let out = copy(media, |name, bytes| {
        (!name.starts_with("live/")).then(|| (name.to_owned(), bytes))
    });
    let live = Path::new(DIR).join("live");
    out.create_dir_all(&live).unwrap();
    let anew = LogOptions {
        create: Some(Create {
            log: esker_wal::LogId(5),
            node: esker_wal::NodeId(6),
            base: esker_wal::Lsn::ZERO,
        }),
        segment_bytes: 16 << 10,
        ..log_options(&out)
    };
    let (log, _) = Log::open(&live, anew).unwrap();
    for payload in payloads {
        let end = log.append(&[payload]).unwrap().end;
        log.sync_up_to(end).unwrap();
    }
    log.close().unwrap();
    out.sync_dir(&live).unwrap();
    out
}
