//! A server's data directory: what kind of node lives in it, who it is, and which role it has.
//!
//! ```text
//! DIR/LOCK   held by the process that has the directory open (W9)
//! DIR/kind   "esker-data store 1": kind and format version; written last, so it says "complete"
//! DIR/node   "node <32 hex digits>": the node id, minted once
//! DIR/role   "role primary|replica epoch <number>": durable before it takes effect (R4)
//! DIR/log/, DIR/tables/, ...   the store's
//! ```
//! Each file is one line, followed by a blank and the crc32 of the line as 8 hex digits; replaced by
//! writing `<name>.tmp`, syncing it, renaming it and syncing the directory.
//!
//! - D1: a directory that holds anything else, and no `kind`, is refused and left as it is.
//! - D2: the node id never changes; copying a data directory copies the node, and two live nodes of
//!   one id are refused by the primary.
//! - D3: `role` outranks the command line: a promoted replica restarted as a replica stays primary.
//! - D4: a role of primary names the epoch number it was promoted to. Where the log's own number is
//!   lower, the promotion was cut short after D3's record and before the epoch began; it is finished
//!   by [`crate::resume_promotion`] before anything is written.
//! - D5: what is found has its name on the disk before anything is built on it: a process that was killed may have left a `kind`, `node` or
//!   `role` that the next loss of power takes back, from under the store that was made beside it or the epoch that was taken up. So
//!   the directory is synced before anything in it is read; and after a replacement that failed a role is written again whatever it is.

use esker_wal::NodeId;
use esker_wal::media::real::RealMedia;
use esker_wal::media::{LockGuard, Media};
use parking_lot::Mutex;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const KIND: &str = "store";
const FORMAT: u32 = 1;
/// No file of the directory's own is longer.
const FILE_BYTES_MAX: u64 = 256;

/// What a node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Writes, and streams its log.
    Primary,
    /// Follows a primary.
    Replica,
}

impl Role {
    /// The word used in files and messages.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Primary => "primary",
            Role::Replica => "replica",
        }
    }
}

/// The durable role of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoleRecord {
    /// What it does.
    pub role: Role,
    /// Highest epoch number heard of, or promoted to.
    pub epoch: u64,
}

/// Why a data directory could not be opened or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataDirError {
    /// Another process has it.
    #[error("{dir} is in use by another process; stop it there first")]
    Locked {
        /// The directory.
        dir: PathBuf,
    },
    /// It holds files that are not Esker's.
    #[error(
        "{dir} holds {found:?} and is not a data directory of Esker; choose an empty directory or one that Esker made"
    )]
    NotOurs {
        /// The directory.
        dir: PathBuf,
        /// One of the files found.
        found: String,
    },
    /// It was made by another kind of node.
    #[error(
        "{dir} is the data directory of a {found}, not of a {KIND}; start the program that made it, or choose another directory"
    )]
    OtherKind {
        /// The directory.
        dir: PathBuf,
        /// Its kind.
        found: String,
    },
    /// A newer build made it.
    #[error("{dir} has format {found}, this build reads up to {FORMAT}; upgrade before opening")]
    NewerFormat {
        /// The directory.
        dir: PathBuf,
        /// Its format.
        found: u32,
    },
    /// A file of the directory is damaged or missing.
    #[error(
        "{path}: {what}; restore the file from a backup, or rebuild this node in an empty directory"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A call failed.
    #[error("{doing} {path}: {source}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The role as it was recorded last.
#[derive(Debug)]
struct KnownRole {
    record: Option<RoleRecord>,
    /// A replacement failed since: another may stand in the file (D5).
    doubtful: bool,
}

/// An open data directory; holds its lock.
#[derive(Debug)]
pub struct DataDir {
    dir: PathBuf,
    media: Arc<dyn Media>,
    node: NodeId,
    created: bool,
    role: Mutex<KnownRole>,
    _lock: Box<dyn LockGuard>,
}

impl DataDir {
    /// Opens the directory, or makes it where there is none or an empty one.
    pub fn open(dir: &Path) -> Result<DataDir, DataDirError> {
        Self::open_on(dir, Arc::new(RealMedia::default()))
    }

    /// As [`DataDir::open`], on a medium of the caller's.
    pub fn open_on(dir: &Path, media: Arc<dyn Media>) -> Result<DataDir, DataDirError> {
        let io = |doing, path: &Path| {
            let path = path.to_path_buf();
            move |source| DataDirError::Io {
                doing,
                path,
                source,
            }
        };
        media.create_dir_all(dir).map_err(io("creating", dir))?;
        let entries = media.list(dir).map_err(io("listing", dir))?;
        let complete = entries.iter().any(|e| e.name == "kind");
        if !complete {
            let ours = |name: &str| {
                ["LOCK", "node", "lost+found"].contains(&name) || name.ends_with(".tmp")
            };
            if let Some(other) = entries.iter().find(|e| !ours(&e.name)) {
                return Err(DataDirError::NotOurs {
                    dir: dir.to_path_buf(),
                    found: other.name.clone(),
                });
            }
        }
        let lock_path = dir.join("LOCK");
        let lock = media.lock(&lock_path).map_err(|source| {
            if source.kind() == io::ErrorKind::WouldBlock {
                return DataDirError::Locked {
                    dir: dir.to_path_buf(),
                };
            }
            DataDirError::Io {
                doing: "locking",
                path: lock_path.clone(),
                source,
            }
        })?;
        // D5.
        media.sync_dir(dir).map_err(io("syncing", dir))?;
        for name in entries.iter().map(|e| &e.name) {
            if ["kind.tmp", "node.tmp", "role.tmp"].contains(&name.as_str()) {
                let path = dir.join(name);
                media.remove(&path).map_err(io("removing", &path))?;
            }
        }
        if complete {
            check_kind(dir, &read_line(&*media, &dir.join("kind"))?)?;
        }
        let node = match read_line_if_there(&*media, &dir.join("node"))? {
            Some(line) => parse_node(&dir.join("node"), &line)?,
            None if complete => {
                return Err(DataDirError::Damaged {
                    path: dir.join("node"),
                    what: "the node id is missing".into(),
                });
            }
            None => {
                let node = NodeId::random();
                replace(&*media, dir, "node", &format!("node {node}"))?;
                node
            }
        };
        if !complete {
            replace(&*media, dir, "kind", &format!("esker-data {KIND} {FORMAT}"))?;
        }
        let role = match read_line_if_there(&*media, &dir.join("role"))? {
            Some(line) => Some(parse_role(&dir.join("role"), &line)?),
            None => None,
        };
        Ok(DataDir {
            dir: dir.to_path_buf(),
            media,
            node,
            created: !complete,
            role: Mutex::new(KnownRole {
                record: role,
                doubtful: false,
            }),
            _lock: lock,
        })
    }

    /// The directory; the store is opened in it.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// This node's id.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Whether it was made now.
    #[must_use]
    pub fn created(&self) -> bool {
        self.created
    }

    /// Whether a store was ever made in it.
    pub fn has_store(&self) -> Result<bool, DataDirError> {
        let path = self.dir.join("log").join("LOG");
        self.media.exists(&path).map_err(|source| DataDirError::Io {
            doing: "looking for",
            path,
            source,
        })
    }

    /// The durable role; `None` before the first.
    #[must_use]
    pub fn role(&self) -> Option<RoleRecord> {
        self.role.lock().record
    }

    /// Records a role; durable on return. Take it up only afterwards.
    pub fn set_role(&self, record: RoleRecord) -> Result<(), DataDirError> {
        // Held across the write: two records must reach the disk in the order they are kept in memory.
        let mut role = self.role.lock();
        if role.doubtful || role.record != Some(record) {
            let line = format!("role {} epoch {}", record.role.as_str(), record.epoch);
            role.doubtful = true;
            replace(&*self.media, &self.dir, "role", &line)?;
            *role = KnownRole {
                record: Some(record),
                doubtful: false,
            };
        }
        Ok(())
    }
}

fn check_kind(dir: &Path, line: &str) -> Result<(), DataDirError> {
    let damaged = || DataDirError::Damaged {
        path: dir.join("kind"),
        what: format!("{line:?} names no kind"),
    };
    let mut words = line.split(' ');
    if words.next() != Some("esker-data") {
        return Err(damaged());
    }
    let kind = words.next().ok_or_else(damaged)?;
    let format = words
        .next()
        .and_then(|w| w.parse().ok())
        .ok_or_else(damaged)?;
    if kind != KIND {
        return Err(DataDirError::OtherKind {
            dir: dir.to_path_buf(),
            found: kind.to_string(),
        });
    }
    if format > FORMAT {
        return Err(DataDirError::NewerFormat {
            dir: dir.to_path_buf(),
            found: format,
        });
    }
    Ok(())
}

fn parse_node(path: &Path, line: &str) -> Result<NodeId, DataDirError> {
    line.strip_prefix("node ")
        .and_then(NodeId::parse)
        .ok_or_else(|| DataDirError::Damaged {
            path: path.to_path_buf(),
            what: format!("{line:?} is no node id"),
        })
}

fn parse_role(path: &Path, line: &str) -> Result<RoleRecord, DataDirError> {
    let words: Vec<&str> = line.split(' ').collect();
    let role = match words.get(1) {
        Some(&"primary") => Some(Role::Primary),
        Some(&"replica") => Some(Role::Replica),
        _ => None,
    };
    let epoch = words.get(3).and_then(|w| w.parse().ok());
    match (words.first(), role, words.get(2), epoch) {
        (Some(&"role"), Some(role), Some(&"epoch"), Some(epoch)) => Ok(RoleRecord { role, epoch }),
        _ => Err(DataDirError::Damaged {
            path: path.to_path_buf(),
            what: format!("{line:?} is no role"),
        }),
    }
}

fn with_check(line: &str) -> String {
    format!("{line} {:08x}\n", crc32fast::hash(line.as_bytes()))
}

fn read_line(media: &dyn Media, path: &Path) -> Result<String, DataDirError> {
    let io = |source| DataDirError::Io {
        doing: "reading",
        path: path.to_path_buf(),
        source,
    };
    let damaged = |what: &str| DataDirError::Damaged {
        path: path.to_path_buf(),
        what: what.to_string(),
    };
    let file = media.open(path).map_err(io)?;
    let len = file.len().map_err(io)?;
    if len > FILE_BYTES_MAX {
        return Err(damaged("longer than any such file"));
    }
    let mut bytes = vec![0; len as usize];
    file.read_exact_at(&mut bytes, 0).map_err(io)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| damaged("not text"))?;
    let (line, _) = text
        .trim_end_matches('\n')
        .rsplit_once(' ')
        .ok_or_else(|| damaged("the check is missing"))?;
    if with_check(line) != text {
        return Err(damaged("the check does not match the line"));
    }
    Ok(line.to_string())
}

fn read_line_if_there(media: &dyn Media, path: &Path) -> Result<Option<String>, DataDirError> {
    let there = media.exists(path).map_err(|source| DataDirError::Io {
        doing: "looking for",
        path: path.to_path_buf(),
        source,
    })?;
    there.then(|| read_line(media, path)).transpose()
}

fn replace(media: &dyn Media, dir: &Path, name: &str, line: &str) -> Result<(), DataDirError> {
    let path = dir.join(name);
    let tmp = dir.join(format!("{name}.tmp"));
    let io = |doing| {
        let path = path.clone();
        move |source| DataDirError::Io {
            doing,
            path,
            source,
        }
    };
    let bytes = with_check(line);
    if media.exists(&tmp).map_err(io("looking for"))? {
        media.remove(&tmp).map_err(io("removing the remains of"))?;
    }
    let file = media
        .create(&tmp, bytes.len() as u64)
        .map_err(io("creating"))?;
    file.write_all_at(bytes.as_bytes(), 0)
        .map_err(io("writing"))?;
    file.sync().map_err(io("syncing"))?;
    media.rename(&tmp, &path).map_err(io("renaming"))?;
    media
        .sync_dir(dir)
        .map_err(io("syncing the directory of"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use esker_wal::media::sim::{CallKind, Fault, SimMedia};
    use std::fs;

    fn temp(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("esker-datadir-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        dir
    }

    #[test]
    fn node_id_and_role_survive_reopening_and_the_directory_is_held() {
        let dir = temp("reopen");
        let first = DataDir::open(&dir).unwrap();
        assert!(first.created());
        assert_eq!(first.role(), None);
        let record = RoleRecord {
            role: Role::Primary,
            epoch: 7,
        };
        first.set_role(record).unwrap();
        assert!(matches!(
            DataDir::open(&dir),
            Err(DataDirError::Locked { .. })
        ));
        let node = first.node();
        drop(first);
        let again = DataDir::open(&dir).unwrap();
        assert!(!again.created());
        assert_eq!((again.node(), again.role()), (node, Some(record)));
        assert!(!again.has_store().unwrap());
        drop(again);
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_directory_of_something_else_is_refused_and_left_as_it_is() {
        let dir = temp("other");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("letters.txt"), "dear").unwrap();
        let error = DataDir::open(&dir).unwrap_err();
        assert!(matches!(&error, DataDirError::NotOurs { found, .. } if found == "letters.txt"));
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn another_kind_a_newer_format_and_damage_are_told_apart() {
        let dir = temp("kinds");
        drop(DataDir::open(&dir).unwrap());
        let kind = dir.join("kind");
        fs::write(&kind, with_check("esker-data raft-node 1")).unwrap();
        assert!(
            matches!(DataDir::open(&dir), Err(DataDirError::OtherKind { found, .. }) if found == "raft-node")
        );
        fs::write(&kind, with_check("esker-data store 9")).unwrap();
        assert!(matches!(
            DataDir::open(&dir),
            Err(DataDirError::NewerFormat { found: 9, .. })
        ));
        fs::write(&kind, "esker-data store 1 00000000\n").unwrap();
        assert!(matches!(
            DataDir::open(&dir),
            Err(DataDirError::Damaged { .. })
        ));
        fs::write(&kind, with_check("esker-data store 1")).unwrap();
        fs::remove_file(dir.join("node")).unwrap();
        assert!(matches!(
            DataDir::open(&dir),
            Err(DataDirError::Damaged { .. })
        ));
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_making_cut_short_is_taken_up_with_the_same_node_id() {
        let dir = temp("short");
        let first = DataDir::open(&dir).unwrap();
        let node = first.node();
        drop(first);
        fs::remove_file(dir.join("kind")).unwrap();
        fs::write(dir.join("kind.tmp"), "esker").unwrap();
        assert_eq!(DataDir::open(&dir).unwrap().node(), node);
        fs::remove_dir_all(&dir).unwrap();
    }

    const DIR: &str = "data";

    fn open(media: &SimMedia) -> Result<DataDir, DataDirError> {
        DataDir::open_on(Path::new(DIR), Arc::new(media.clone()))
    }

    /// The process is killed at each call in turn. What the next one finds stays, whatever the power takes; and with a store beside it, the directory opens.
    #[test]
    fn d5_what_an_open_finds_is_there_after_the_power() {
        let mut found = [0; 2];
        for at in 1.. {
            let killed = SimMedia::new(at);
            let role = RoleRecord {
                role: Role::Primary,
                epoch: 2,
            };
            killed.cut_at_call(at);
            drop(open(&killed).and_then(|data| data.set_role(role)));
            if !killed.is_down() {
                break;
            }
            killed.kill();
            for seed in 0..16 {
                let media = killed.fork(seed);
                let data = open(&media).unwrap();
                let (node, role) = (data.node(), data.role());
                found[0] += u32::from(!data.created());
                found[1] += u32::from(role.is_some());
                // A store is made beside it, and goes its own ways.
                media.create_dir_all(&Path::new(DIR).join("log")).unwrap();
                media.power_cut(seed);
                drop(data);
                let data = open(&media).unwrap_or_else(|e| panic!("call {at}, seed {seed}: {e}"));
                assert_eq!(data.node(), node, "call {at}, seed {seed}");
                assert_eq!(data.role(), role, "call {at}, seed {seed}");
            }
        }
        assert!(found.iter().all(|n| *n > 16), "{found:?}");
    }

    /// The role that could not be recorded stood in the file; the one of before was not written again, as it was known to stand there.
    #[test]
    fn d5_a_role_is_durable_once_set_role_has_succeeded_whatever_failed_before() {
        let media = SimMedia::new(1);
        let role = |role, epoch| RoleRecord { role, epoch };
        let (replica, primary) = (role(Role::Replica, 1), role(Role::Primary, 2));
        let data = open(&media).unwrap();
        data.set_role(replica).unwrap();
        media.fail(Fault::nth(1).of(CallKind::SyncDir));
        data.set_role(primary).unwrap_err();
        assert_eq!(data.role(), Some(replica));
        data.set_role(replica).unwrap();
        media.kill();
        drop(data);
        assert_eq!(open(&media).unwrap().role(), Some(replica));
    }
}
