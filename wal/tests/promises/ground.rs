//! A directory with a log, on files of the operating system or in memory.

use crate::watched::Watched;
use esker_wal::media::Media;
use esker_wal::media::real::RealMedia;
use esker_wal::media::sim::SimMedia;
use esker_wal::*;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

enum Place {
    Real(#[expect(dead_code, reason = "removes the directory when dropped")] TempDir),
    Sim(SimMedia),
}

/// See the module.
pub(crate) struct Ground {
    place: Place,
    pub(crate) dir: PathBuf,
    pub(crate) watched: Watched,
}

/// Runs `test` on both media, each in an empty directory.
pub(crate) fn both(test: impl Fn(Ground)) {
    for ground in [Ground::real(), Ground::sim()] {
        println!("on {}", ground.name());
        test(ground);
    }
}

impl Ground {
    fn real() -> Ground {
        let dir = tempfile::tempdir().expect("a directory");
        Ground {
            dir: dir.path().join("log"),
            place: Place::Real(dir),
            watched: Watched::over(Arc::new(RealMedia::default())),
        }
    }

    fn sim() -> Ground {
        let media = SimMedia::new(7);
        Ground {
            dir: "log".into(),
            watched: Watched::over(Arc::new(media.clone())),
            place: Place::Sim(media),
        }
    }

    pub(crate) fn name(&self) -> &'static str {
        match self.place {
            Place::Real(_) => "files",
            Place::Sim(_) => "the simulated medium",
        }
    }

    /// Options for a log of 16 KiB segments, made where it is missing, without threads.
    pub(crate) fn options(&self) -> LogOptions {
        LogOptions {
            create: Some(Create {
                log: LogId(7),
                node: NodeId(9),
                base: Lsn::ZERO,
            }),
            segment_bytes: 16 << 10,
            workers: Workers::Stepped,
            media: Arc::new(self.watched.clone()),
            ..LogOptions::default()
        }
    }

    pub(crate) fn open(&self) -> Log {
        self.try_open().unwrap().0
    }

    pub(crate) fn try_open(&self) -> Result<(Log, Recovered), OpenError> {
        Log::open(&self.dir, self.options())
    }

    /// The files of the log.
    pub(crate) fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
        match &self.place {
            Place::Real(_) => std::fs::read_dir(&self.dir)
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .map(|path| (name(&path), std::fs::read(&path).unwrap()))
                .collect(),
            Place::Sim(media) => media
                .image()
                .into_iter()
                .filter(|(path, _)| path.starts_with(&self.dir))
                .map(|(path, bytes)| (name(&path), bytes))
                .collect(),
        }
    }

    /// Replaces a file's bytes.
    pub(crate) fn put(&self, name: &str, bytes: &[u8]) {
        match &self.place {
            Place::Real(_) => std::fs::write(self.dir.join(name), bytes).unwrap(),
            Place::Sim(media) => media.put(&self.dir.join(name), bytes).unwrap(),
        }
    }

    /// An empty directory of the same kind.
    pub(crate) fn empty(&self) -> Ground {
        match self.place {
            Place::Real(_) => Ground::real(),
            Place::Sim(_) => Ground::sim(),
        }
    }

    /// What a process leaves that is killed now, on a medium of its own: the files as they are written.
    pub(crate) fn killed(&self) -> Ground {
        let files = self.files();
        let after = self.empty();
        after.watched.create_dir_all(&after.dir).unwrap();
        after.watched.calls();
        for (name, bytes) in files {
            after.put(&name, &bytes);
        }
        after
    }

    /// What the power leaves that goes now, if nothing unsynced survives. Files can't lose their power in a test.
    pub(crate) fn powerless(&self) -> Option<Ground> {
        let Place::Sim(media) = &self.place else {
            return None;
        };
        let after = Ground::sim();
        for (path, bytes) in media.durable_image() {
            let Place::Sim(media) = &after.place else {
                unreachable!()
            };
            media.put(&path, &bytes).unwrap();
        }
        Some(after)
    }

    /// The segment file that contains `bytes`, and where.
    pub(crate) fn find(&self, bytes: &[u8]) -> (String, usize) {
        for (name, content) in self.files() {
            let at = content.windows(bytes.len()).position(|w| w == bytes);
            if let Some(at) = at.filter(|_| name.ends_with(".seg")) {
                return (name, at);
            }
        }
        panic!("{bytes:?} is in no segment");
    }

    /// Flips bits of one byte.
    pub(crate) fn flip(&self, name: &str, at: usize, bits: u8) {
        let mut bytes = self.files().remove(name).unwrap();
        bytes[at] ^= bits;
        self.put(name, &bytes);
    }
}

/// The payloads of the data frames from `from` on.
pub(crate) fn payloads(log: &Log, from: Lsn) -> Result<Vec<Vec<u8>>, LogError> {
    let mut reader = log.reader(from, ReadLimit::Published)?;
    let mut out = Vec::new();
    while let Some(frame) = reader.next()? {
        if frame.header.kind == Kind::Data {
            out.push(frame.payload.to_vec());
        }
    }
    Ok(out)
}

/// Lets the workers of a stepped log do what is due.
pub(crate) fn settle(log: &Log) {
    while log.step() {}
}

/// Long enough that only something that never ends reaches it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
