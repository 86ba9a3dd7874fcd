//! Making files ready before they are needed (W8, S1).
//!
//! A new file is made as `<id>.tmp` (space allocated and zeroed), its header synced, renamed to
//! `<id>.seg`, the directory synced. A released file keeps its space: renamed to `<id>.tmp`, the directory
//! synced, its header is reset under a new id and synced, then it is renamed. A crash in between leaves
//! a `.tmp` that open removes: a header that was half written never has a segment's name. After a failed
//! call the file is removed, under whichever name it has.

use crate::media::{FOLIO, Media, MediaFile, WRITE_BACK_BYTES};
use crate::meta::sync_dir;
use crate::sabotage::{self, Sabotage};
use crate::segment::{FRAMES_AT, Identity, Prepared, SECTOR, SegmentHeader, file_name};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Header sector and two empty mark sectors.
fn fresh_head(identity: Identity) -> [u8; 3 * SECTOR] {
    let mut head = [0; 3 * SECTOR];
    let header = SegmentHeader {
        identity,
        active: None,
        chain: None,
    };
    head[..SECTOR].copy_from_slice(&header.encode());
    head
}

/// Called behind each [`WRITE_BACK_BYTES`] of zeros.
pub(crate) type Pace<'a> = &'a dyn Fn();

/// For who waits for the file.
pub(crate) const AT_ONCE: Pace<'_> = &|| {};

/// Makes a new file.
pub(crate) fn create(
    media: &dyn Media,
    dir: &Path,
    identity: Identity,
    pace: Pace<'_>,
) -> io::Result<Prepared> {
    let tmp = dir.join(format!("{}{}", identity.id, crate::meta::TMP));
    let path = dir.join(file_name(identity.id));
    let made = (|| {
        let file = media.create_at_pace(&tmp, identity.bytes, pace)?;
        file.write_all_at(&fresh_head(identity), 0)?;
        file.sync()?;
        media.rename(&tmp, &path)?;
        sync_dir(media, dir)?;
        let map = file.map(identity.bytes as usize)?;
        Ok(Prepared {
            identity,
            path: path.clone(),
            file,
            map,
            zeroed: true,
            warm_until: Duration::ZERO,
        })
    })();
    if made.is_err() {
        // Best effort: open removes what stays. After a failed rename or sync either name may be there.
        let _ = media.remove(&tmp);
        let _ = media.remove(&path);
    }
    made
}

/// Makes the file `from`, whose bytes nobody needs any more, ready under a new identity. With `wipe` it is filled with zeros,
/// in pieces as at its creation. Should it fail, the file is removed, unless it was not even opened.
pub(crate) fn recycle(
    media: &dyn Media,
    dir: &Path,
    from: &Path,
    identity: Identity,
    wipe: Option<Pace<'_>>,
) -> io::Result<Prepared> {
    let tmp = dir.join(format!("{}{}", identity.id, crate::meta::TMP));
    let path = dir.join(file_name(identity.id));
    let file = media.open_rw(from)?;
    let made = (|| {
        media.rename(from, &tmp)?;
        sync_dir(media, dir)?;
        if !sabotage::on(Sabotage::HeadKept) {
            file.write_all_at(&fresh_head(identity), 0)?;
        }
        if let Some(pace) = wipe {
            fill_with_zeros(&*file, identity.bytes, pace)?;
        }
        file.sync()?;
        media.rename(&tmp, &path)?;
        sync_dir(media, dir)?;
        let map = file.map(identity.bytes as usize)?;
        Ok(Prepared {
            identity,
            path: path.clone(),
            file,
            map,
            zeroed: wipe.is_some(),
            warm_until: Duration::ZERO,
        })
    })();
    if made.is_err() {
        // As in `create`: after a failed rename or sync it may have any of its names.
        for name in [from, &tmp, &path] {
            let _ = media.remove(name);
        }
    }
    made
}

/// Makes one of the spares ready, or a new file where there is none that can be opened; such a one stays a spare (W8).
pub(crate) fn from_spares(
    media: &dyn Media,
    dir: &Path,
    spares: &mut Vec<PathBuf>,
    identity: Identity,
    wipe: Option<Pace<'_>>,
    pace: Pace<'_>,
) -> io::Result<Prepared> {
    if let Some(from) = spares.pop() {
        match recycle(media, dir, &from, identity, wipe) {
            Err(_) if media.exists(&from).unwrap_or(true) => spares.insert(0, from),
            made => return made,
        }
    }
    create(media, dir, identity, pace)
}

/// All but the head, aligned to folios but for the first piece.
fn fill_with_zeros(file: &dyn MediaFile, bytes: u64, pace: Pace<'_>) -> io::Result<()> {
    let zeros = [0; FOLIO];
    let mut at = FRAMES_AT;
    while at < bytes {
        let piece = (FOLIO as u64 - at % FOLIO as u64).min(bytes - at);
        file.write_all_at(&zeros[..piece as usize], at)?;
        at += piece;
        if at.is_multiple_of(WRITE_BACK_BYTES) {
            file.write_back(at - WRITE_BACK_BYTES, WRITE_BACK_BYTES)?;
            pace();
        }
    }
    Ok(())
}

/// Populates the header and `window` bytes of frames of a prepared file for writing.
pub(crate) fn warm(prepared: &Prepared, window: u64) {
    let len = prepared.identity.bytes.min(FRAMES_AT + window);
    prepared.map.populate(0, len as usize);
}
