//! What the tests of the trail share.
#![allow(dead_code, unused_imports, reason = "each test takes what it needs")]

pub(crate) mod forge;
pub(crate) mod hooked;
pub(crate) mod lives;
pub(crate) mod writers;

use esker_audit::{
    Error, Key, Keyring, OnFailure, Options, Policy, Query, Reader, Record, Report, Severity,
    Trail, VerifyOptions, Write, verify,
};
use esker_wal::Workers;
use esker_wal::media::clock::ManualClock;
use esker_wal::media::sim::SimMedia;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub(crate) const DIR: &str = "audit";

pub(crate) fn keys() -> Keyring {
    Keyring::of(Key::from_secret([1; 32]))
}

/// Options without threads, on `media`.
pub(crate) fn stepped(media: &SimMedia) -> Options {
    Options {
        workers: Workers::Stepped,
        media: Arc::new(media.clone()),
        clock: Arc::new(ManualClock::default()),
        rotate_bytes: 64 << 10,
        reserve_bytes: 0,
        ..Options::default()
    }
}

pub(crate) fn policy(write: Write, on_failure: OnFailure) -> Policy {
    Policy { write, on_failure }
}

pub(crate) fn open(media: &SimMedia) -> Trail {
    Trail::open(Path::new(DIR), keys(), stepped(media))
        .unwrap()
        .0
}

pub(crate) fn login(n: u64) -> Record {
    Record::new("user.login")
        .severity(Severity::Notice)
        .actor(n.to_string(), "ann")
        .success()
}

/// Writes and closes a trail of `files` closed files with `each` records, and as many in the live log.
pub(crate) fn written(files: u64, each: u64) -> SimMedia {
    let media = SimMedia::new(1);
    let trail = open(&media);
    for file in 0..=files {
        for n in 0..each {
            trail.record(login(file * each + n)).unwrap();
        }
        if file < files {
            trail.rotate().unwrap().unwrap();
        }
    }
    trail.close().unwrap();
    media
}

pub(crate) fn report(media: &SimMedia) -> Report {
    report_on(Arc::new(media.clone()))
}

pub(crate) fn report_on(media: Arc<dyn esker_wal::media::Media>) -> Report {
    let options = VerifyOptions {
        threads: 1,
        look_again_after: Duration::ZERO,
        media,
        ..VerifyOptions::default()
    };
    verify(Path::new(DIR), &keys(), &options).unwrap()
}

/// A medium with the files of `media`, changed.
pub(crate) fn copy(
    media: &SimMedia,
    change: impl Fn(&str, Vec<u8>) -> Option<(String, Vec<u8>)>,
) -> SimMedia {
    let out = SimMedia::new(2);
    out.create(Path::new(DIR));
    for (path, bytes) in media.image() {
        let name = path.strip_prefix(DIR).unwrap().to_str().unwrap().to_owned();
        if let Some((name, bytes)) = change(&name, bytes) {
            out.put(&Path::new(DIR).join(name), &bytes).unwrap();
        }
    }
    out
}

trait Make {
    fn create(&self, dir: &Path);
}

impl Make for SimMedia {
    fn create(&self, dir: &Path) {
        use esker_wal::media::Media as _;
        self.create_dir_all(&dir.join("live")).unwrap();
    }
}

/// The names of the closed files.
pub(crate) fn closed(media: &SimMedia) -> Vec<String> {
    let names = media.image().into_keys();
    names
        .filter_map(|path| {
            let name = path.strip_prefix(DIR).ok()?.to_str()?.to_owned();
            name.ends_with(".trail").then_some(name)
        })
        .collect()
}

/// The sequences that a query answers, and the error that ends it.
pub(crate) fn answers(media: &SimMedia, query: Query) -> (Vec<u64>, Option<Error>) {
    let reader = Reader::open_on(Path::new(DIR), keys(), Arc::new(media.clone())).unwrap();
    let mut answers = Vec::new();
    let mut records = match reader.query(query) {
        Ok(records) => records,
        Err(e) => return (answers, Some(e)),
    };
    loop {
        match records.next() {
            Ok(Some(found)) => answers.push(found.head.sequence),
            Ok(None) => return (answers, None),
            Err(e) => return (answers, Some(e)),
        }
    }
}
