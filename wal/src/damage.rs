//! What can be wrong with a log on disk, and what becomes of a finding: it ends an open, or is written down.

use crate::error::OpenError;
use crate::ids::{Lsn, SegmentId};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// A stretch of the log: `from` and what follows, up to `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LsnRange {
    /// First LSN of it.
    pub from: Lsn,
    /// LSN behind it.
    pub to: Lsn,
}

impl LsnRange {
    /// Bytes of frames.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.to.since(self.from)
    }

    /// Whether `lsn` is in it.
    #[must_use]
    pub fn contains(&self, lsn: Lsn) -> bool {
        self.from <= lsn && lsn < self.to
    }
}

impl fmt::Display for LsnRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.from, self.to)
    }
}

/// What is wrong with something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DamageKind {
    /// Frames do not verify.
    Frames,
    /// No file holds these LSNs.
    MissingSegment,
    /// A segment's header.
    Header,
    /// A mark, in a frame's header or in a sector of its own. No frame is lost with it.
    Mark,
    /// A segment's footer. No frame is lost with it.
    Footer,
    /// The chain hash of a segment's frames is not what the log says it is.
    Chain,
    /// A file of another log or node, or under the name of another segment.
    Foreign,
    /// A file shorter than its header says.
    Shortened,
    /// A file of a newer format.
    NewerFormat,
    /// One of the small files, `LOG`, `EPOCHS`, `SLOTS`.
    SmallFile,
    /// The system could not read it.
    Unreadable,
}

impl DamageKind {
    /// In a word, for tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            DamageKind::Frames => "frames",
            DamageKind::MissingSegment => "missing-segment",
            DamageKind::Header => "header",
            DamageKind::Mark => "mark",
            DamageKind::Footer => "footer",
            DamageKind::Chain => "chain",
            DamageKind::Foreign => "foreign",
            DamageKind::Shortened => "shortened",
            DamageKind::NewerFormat => "newer-format",
            DamageKind::SmallFile => "small-file",
            DamageKind::Unreadable => "unreadable",
        }
    }
}

/// Something wrong on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// What.
    pub kind: DamageKind,
    /// In which file; the directory where a file is missing.
    pub path: PathBuf,
    /// Of which segment, where that is known.
    pub segment: Option<SegmentId>,
    /// Which part of the log is lost with it, where that is known.
    pub lost: Option<LsnRange>,
    /// In words.
    pub what: String,
    /// Checksum as stored, where there is one.
    pub stored: u32,
    /// Checksum as computed.
    pub computed: u32,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.path.display())?;
        if let Some(lost) = self.lost {
            write!(f, "LSN {lost} lost: ")?;
        }
        write!(f, "{}", self.what)?;
        if self.stored != self.computed {
            write!(
                f,
                " (stored checksum {:08x}, computed {:08x})",
                self.stored, self.computed
            )?;
        }
        Ok(())
    }
}

impl Damage {
    pub(crate) fn new(kind: DamageKind, path: &Path, what: impl Into<String>) -> Damage {
        Damage {
            kind,
            path: path.to_owned(),
            segment: None,
            lost: None,
            what: what.into(),
            stored: 0,
            computed: 0,
        }
    }

    pub(crate) fn of_segment(self, id: SegmentId) -> Damage {
        Damage {
            segment: Some(id),
            ..self
        }
    }

    pub(crate) fn losing(self, from: Lsn, to: Lsn) -> Damage {
        Damage {
            lost: Some(LsnRange { from, to }),
            ..self
        }
    }

    pub(crate) fn sums(self, stored: u32, computed: u32) -> Damage {
        Damage {
            stored,
            computed,
            ..self
        }
    }

    /// As an open for reading and writing reports it.
    pub(crate) fn into_error(self, synced: Lsn) -> OpenError {
        OpenError::Corrupt {
            path: self.path,
            segment: self.segment.unwrap_or_default(),
            at: self.lost.map_or(Lsn::ZERO, |lost| lost.from),
            synced,
            what: self.what,
            stored: self.stored,
            computed: self.computed,
        }
    }
}

/// What becomes of a finding.
pub(crate) enum Judge {
    /// It ends the open.
    Strict,
    /// It is written down.
    Collect(Vec<Damage>),
}

impl Judge {
    pub(crate) fn damage(&mut self, damage: Damage) -> Result<(), OpenError> {
        match self {
            Judge::Strict => Err(damage.into_error(Lsn::ZERO)),
            Judge::Collect(list) => {
                list.push(damage);
                Ok(())
            }
        }
    }

    /// A failed open, as a finding where findings are collected.
    pub(crate) fn error(&mut self, error: OpenError) -> Result<(), OpenError> {
        let Judge::Collect(list) = self else {
            return Err(error);
        };
        list.push(match error {
            OpenError::Corrupt {
                path,
                what,
                stored,
                computed,
                ..
            } => Damage::new(DamageKind::SmallFile, &path, what).sums(stored, computed),
            OpenError::NewerFormat {
                ref path, found, ..
            } => Damage::new(
                DamageKind::NewerFormat,
                path,
                format!("format {found} is newer than this build's"),
            ),
            OpenError::Io {
                doing,
                path,
                source,
            } => Damage::new(DamageKind::Unreadable, &path, format!("{doing}: {source}")),
            error => return Err(error),
        });
        Ok(())
    }
}

pub(crate) fn io_error(
    doing: &'static str,
    path: &Path,
) -> impl FnOnce(io::Error) -> OpenError + use<> {
    let path = path.to_owned();
    move |source| OpenError::Io {
        doing,
        path,
        source,
    }
}
