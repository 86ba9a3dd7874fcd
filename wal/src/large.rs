//! Frames that no segment of the usual size holds: each gets one of its own.
//!
//! - LG1: its file is prepared before it has an LSN (W8), in the thread that appends it: nobody else waits for that.
//! - LG2: ids of segments grow in the order of their activation, for the later one outranks the earlier (W5). So the segments
//!   that were prepared before it go back to the spares, and get new ids before they are used.
//! - LG3: the next frame that does not fit behind it closes it. Released, its file is removed, not recycled; prepared and not used, it is
//!   removed at once, or by the next open.

use crate::append::{AtBound, Stretch};
use crate::error::LogError;
use crate::frame::frame_len;
use crate::ids::SegmentId;
use crate::prepare::{self, AT_ONCE};
use crate::segment::{FOOTER_LEN, FRAMES_AT, Identity, Prepared, capacity};
use crate::shared::{Append, Chores, Shared};
use std::sync::Arc;

/// A file made for one frame; removed if it is not used.
struct Made<'a> {
    shared: &'a Shared,
    prepared: Option<Prepared>,
}

impl Drop for Made<'_> {
    fn drop(&mut self) {
        if let Some(prepared) = self.prepared.take() {
            self.shared.leftovers.lock().push(prepared.path);
            self.shared.prepare_bell.ring();
        }
    }
}

impl Shared {
    /// Whether a frame with such a payload needs a segment of its own.
    pub(crate) fn is_large(&self, payload_len: usize) -> bool {
        frame_len(payload_len) as u64 > capacity(self.options.segment_bytes)
    }

    /// Reserves a frame in a segment of its own. `admit` is asked whenever the lock was taken anew.
    pub(crate) fn reserve_large(
        &self,
        len: usize,
        at_bound: AtBound,
        admit: impl Fn(&Append) -> Result<(), LogError>,
    ) -> Result<Stretch, LogError> {
        let mut made = Made {
            shared: self,
            prepared: None,
        };
        loop {
            let mut append = self.append.lock();
            loop {
                admit(&append)?;
                if self.may_begin_segment(&append, len)? {
                    break;
                }
                append = self.wait_for_room(append, len, at_bound)?;
            }
            drop(append);
            // From here to the activation no other id is given out.
            let mut chores = self.chores_at_once();
            self.make_large(&mut made, &mut chores, len)?;
            let mut append = self.append.lock();
            admit(&append)?;
            if !self.may_begin_segment(&append, len)? {
                continue;
            }
            let epoch = append.active.as_ref().expect("checked").active.epoch;
            let earlier = std::mem::take(&mut append.prepared);
            append.prepared.extend(made.prepared.take());
            self.rotate(&mut append, epoch);
            let stretch = self.take(&mut append, len);
            drop(append);
            chores.spares.extend(earlier.into_iter().map(|p| p.path));
            return Ok(stretch);
        }
    }

    /// Whether nothing but its file keeps a large frame from being reserved now.
    fn may_begin_segment(&self, append: &Append, len: usize) -> Result<bool, LogError> {
        if let (None, Some(source)) = (&append.active, &append.no_space) {
            self.prepare_bell.ring();
            return Err(self.no_space(source));
        }
        let bytes = frame_len(len) as u64;
        Ok(append.active.is_some() && !append.held && self.within_unsynced_bound(bytes))
    }

    /// Makes the file, or gives it an id above all that are in use.
    fn make_large(
        &self,
        made: &mut Made<'_>,
        chores: &mut Chores,
        len: usize,
    ) -> Result<(), LogError> {
        let newest = self.append.lock().active.as_ref().map(|s| s.identity.id);
        let in_order = |p: &Prepared| Some(p.identity.id) > newest;
        if made.prepared.as_ref().is_some_and(in_order) {
            return Ok(());
        }
        let identity = Identity {
            bytes: (FRAMES_AT + frame_len(len) as u64 + FOOTER_LEN).next_multiple_of(4096),
            ..self.identity(SegmentId(chores.next_id))
        };
        chores.next_id += 1;
        let media = &*self.options.media;
        let prepared = match made.prepared.take() {
            Some(stale) => prepare::recycle(media, &self.dir, &stale.path, identity, None)
                .inspect_err(|_| self.leftovers.lock().push(stale.path.clone())),
            None => prepare::create(media, &self.dir, identity, AT_ONCE),
        }
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::StorageFull => self.no_space(&Arc::new(error)),
            _ => Shared::io_error("preparing a segment in", &self.dir)(error),
        })?;
        prepare::warm(&prepared, identity.bytes);
        made.prepared = Some(prepared);
        Ok(())
    }
}
