//! `HEAD`: how far the trail was synced, so that a cut tail is seen.
//!
//! - HE1: two slots in sectors of their own, written in turn, each under a keyed hash. The one with the higher count stands; the other is the one before. So one that
//!   was torn takes nothing away.
//! - HE2: it is written after the entries that it names are synced, and before they are acknowledged; so it never names one that a crash can take. It is
//!   synced at intervals, at each closing of a file, and at the end: what the power takes of it are the names of the last interval.
//! - HE3: `handed` is the highest sequence that was given away, dropped records among them, where these were not written down yet.
//! - HE4: both slots are written before it has its name; a slot of zeros is one that somebody cleared, unless the other is the first that was ever written.
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 8 | `ESKAHEAD` |
//! | 8 | 8 | count of writes; odd in the first slot (offset 0), even in the second (offset 512) |
//! | 16 | 8 | identity of the trail |
//! | 24 | 8 | sequence of the last synced entry |
//! | 32 | 8 | `handed` |
//! | 40 | 8 | when, nanoseconds since 1970 |
//! | 48 | 8 | id of the key |
//! | 56 | 8 | the time that retention goes by (AG1), nanoseconds since 1970; 0: not known |
//! | 64 | 32 | root of the last synced entry |
//! | 96 | 32 | keyed hash of what is before |
//!
//! The file has 1,024 bytes; what is behind the slots is zeros.

use crate::entry::Root;
use crate::key::{KeyId, Keyring};
use esker_wal::media::{Media, MediaFile};
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Its name.
pub(crate) const HEAD: &str = "HEAD";
const MAGIC: &[u8; 8] = b"ESKAHEAD";
const SECTOR: usize = 512;
const SLOT: usize = 128;
/// Reads of one that looks damaged and changes meanwhile.
const READS_MAX: usize = 32;

/// What it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) count: u64,
    pub(crate) trail: u64,
    pub(crate) sequence: u64,
    pub(crate) handed: u64,
    pub(crate) nanos: u64,
    pub(crate) aged: u64,
    pub(crate) root: Root,
}

impl Head {
    fn encode(&self, keys: &Keyring) -> [u8; SLOT] {
        let mut out = [0; SLOT];
        out[..8].copy_from_slice(MAGIC);
        let words = [
            self.count,
            self.trail,
            self.sequence,
            self.handed,
            self.nanos,
            keys.newest().id().0,
            self.aged,
        ];
        for (at, word) in words.into_iter().enumerate() {
            out[8 + at * 8..][..8].copy_from_slice(&word.to_le_bytes());
        }
        out[64..96].copy_from_slice(&self.root.0);
        let hash = blake3::keyed_hash(keys.newest().chain(), &out[..96]);
        out[96..].copy_from_slice(hash.as_bytes());
        out
    }

    fn decode(slot: &[u8], keys: &Keyring) -> Option<Head> {
        let word = |at: usize| u64::from_le_bytes(*slot[at..].first_chunk().expect("8 bytes"));
        let key = keys.get(KeyId(word(48)))?;
        let hash = blake3::keyed_hash(key.chain(), &slot[..96]);
        if &slot[..8] != MAGIC || hash != *slot[96..SLOT].first_chunk::<32>().expect("32 bytes") {
            return None;
        }
        Some(Head {
            count: word(8),
            trail: word(16),
            sequence: word(24),
            handed: word(32),
            nanos: word(40),
            aged: word(56),
            root: Root(*slot[64..].first_chunk().expect("32 bytes")),
        })
    }
}

/// What is found in the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) head: Option<Head>,
    /// A slot that was written and is not what was written.
    pub(crate) damaged: bool,
}

/// Reads it; `None` where there is no file.
pub(crate) fn load(media: &dyn Media, dir: &Path, keys: &Keyring) -> io::Result<Option<Found>> {
    let file = match media.open(&dir.join(HEAD)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let mut bytes = read(&*file)?;
    let mut found = look(&bytes, keys);
    for _ in 0..READS_MAX {
        if !found.damaged {
            break;
        }
        // It may have been read while it was written: damage stays as it is.
        let again = read(&*file)?;
        if again == bytes {
            break;
        }
        bytes = again;
        found = look(&bytes, keys);
    }
    Ok(Some(found))
}

/// What is in the file, and a byte more where it is too long.
fn read(file: &dyn MediaFile) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 2 * SECTOR + 1];
    let n = file.read_at(&mut bytes, 0)?;
    bytes.truncate(n);
    Ok(bytes)
}

fn look(bytes: &[u8], keys: &Keyring) -> Found {
    let mut found = Found {
        head: None,
        damaged: bytes.len() != 2 * SECTOR,
    };
    let mut whole = bytes.to_vec();
    whole.resize(2 * SECTOR, 0);
    for (at, sector) in whole.chunks_exact(SECTOR).enumerate() {
        let zeros = |bytes: &[u8]| bytes.iter().all(|b| *b == 0);
        let slot = Head::decode(&sector[..SLOT], keys);
        match slot.filter(|head| head.count % 2 == 1 - at as u64) {
            Some(head) if found.head.is_none_or(|best| best.count < head.count) => {
                found.head = Some(head);
            }
            Some(_) => {}
            None => found.damaged |= !zeros(&sector[..SLOT]),
        }
        found.damaged |= !zeros(&sector[SLOT..]);
    }
    // HE4.
    let both = whole.chunks_exact(SECTOR).all(|s| s[0] != 0);
    found.damaged |= !both && found.head.is_none_or(|head| head.count > 1);
    found
}

/// Writes it.
#[derive(Debug)]
pub(crate) struct HeadFile {
    /// `None` when it is closed.
    file: Option<Arc<dyn MediaFile>>,
    pub(crate) now: Head,
    /// Written since the last sync.
    unsynced: bool,
}

impl HeadFile {
    /// The file in `dir`, made where it is missing, or `anew` in place of one that is not what was written; `now` is what it is to say.
    pub(crate) fn open(
        media: &dyn Media,
        dir: &Path,
        keys: &Keyring,
        now: Head,
        anew: bool,
    ) -> io::Result<HeadFile> {
        let path = dir.join(HEAD);
        let made = anew || !media.exists(&path)?;
        // Whole and synced before it has its name.
        let tmp = dir.join(format!("{HEAD}{}", crate::closed::TMP));
        let file = match made {
            false => media.open_rw(&path)?,
            true => {
                if media.exists(&tmp)? {
                    media.remove(&tmp)?;
                }
                media.create(&tmp, 2 * SECTOR as u64)?
            }
        };
        let mut head = HeadFile {
            file: Some(file),
            now,
            unsynced: true,
        };
        head.put(keys, |_| {})?;
        if made {
            head.put(keys, |_| {})?;
        }
        head.sync()?;
        if made {
            media.rename(&tmp, &path)?;
            media.sync_dir(dir)?;
        }
        Ok(head)
    }

    /// Writes what `change` makes of it into the other slot.
    pub(crate) fn put(&mut self, keys: &Keyring, change: impl FnOnce(&mut Head)) -> io::Result<()> {
        let mut next = self.now;
        change(&mut next);
        next.count += 1;
        let at = (1 - next.count % 2) * SECTOR as u64;
        let closed = || io::Error::other("the trail is closed");
        let file = self.file.as_ref().ok_or_else(closed)?;
        file.write_all_at(&next.encode(keys), at)?;
        self.now = next;
        self.unsynced = true;
        Ok(())
    }

    pub(crate) fn sync(&mut self) -> io::Result<()> {
        if let Some(file) = self.file.as_ref().filter(|_| self.unsynced) {
            file.sync()?;
            self.unsynced = false;
        }
        Ok(())
    }

    /// Lets go of the file.
    pub(crate) fn close(&mut self) {
        self.file = None;
    }
}
