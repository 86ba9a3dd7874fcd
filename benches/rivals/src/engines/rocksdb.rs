//! RocksDB as a log, by its C interface (Debian's librocksdb). It keeps a memtable besides, which a log alone has no use for.

use crate::rival::{Engine, Failure, LogRival, Mode, Plan};
use std::ffi::{CStr, CString, c_char, c_int, c_uchar, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

/// What is used of rocksdb/c.h.
mod c {
    use super::{c_char, c_int, c_uchar, c_void};

    /// Any of the library's objects.
    pub(super) type Object = *mut c_void;
    pub(super) type Put =
        unsafe extern "C" fn(*mut c_void, *const c_char, usize, *const c_char, usize);
    pub(super) type Deleted = unsafe extern "C" fn(*mut c_void, *const c_char, usize);

    unsafe extern "C" {
        pub(super) fn rocksdb_options_create() -> Object;
        pub(super) fn rocksdb_options_destroy(options: Object);
        pub(super) fn rocksdb_options_set_create_if_missing(options: Object, on: c_uchar);
        pub(super) fn rocksdb_options_set_write_buffer_size(options: Object, bytes: usize);
        pub(super) fn rocksdb_options_set_enable_pipelined_write(options: Object, on: c_uchar);
        pub(super) fn rocksdb_options_set_compression(options: Object, kind: c_int);
        pub(super) fn rocksdb_options_set_disable_auto_compactions(options: Object, on: c_int);
        pub(super) fn rocksdb_options_set_recycle_log_file_num(options: Object, count: usize);
        pub(super) fn rocksdb_options_set_WAL_ttl_seconds(options: Object, seconds: u64);
        pub(super) fn rocksdb_open(
            options: Object,
            name: *const c_char,
            error: *mut *mut c_char,
        ) -> Object;
        pub(super) fn rocksdb_close(db: Object);
        pub(super) fn rocksdb_writeoptions_create() -> Object;
        pub(super) fn rocksdb_writeoptions_destroy(options: Object);
        pub(super) fn rocksdb_writeoptions_set_sync(options: Object, on: c_uchar);
        pub(super) fn rocksdb_put(
            db: Object,
            options: Object,
            key: *const c_char,
            key_len: usize,
            value: *const c_char,
            value_len: usize,
            error: *mut *mut c_char,
        );
        pub(super) fn rocksdb_flush_wal(db: Object, sync: c_uchar, error: *mut *mut c_char);
        pub(super) fn rocksdb_get_updates_since(
            db: Object,
            from: u64,
            options: Object,
            error: *mut *mut c_char,
        ) -> Object;
        pub(super) fn rocksdb_wal_iter_valid(iterator: Object) -> c_uchar;
        pub(super) fn rocksdb_wal_iter_next(iterator: Object);
        pub(super) fn rocksdb_wal_iter_status(iterator: Object, error: *mut *mut c_char);
        pub(super) fn rocksdb_wal_iter_get_batch(iterator: Object, at: *mut u64) -> Object;
        pub(super) fn rocksdb_wal_iter_destroy(iterator: Object);
        pub(super) fn rocksdb_writebatch_iterate(
            batch: Object,
            state: *mut c_void,
            put: Put,
            deleted: Deleted,
        );
        pub(super) fn rocksdb_writebatch_destroy(batch: Object);
        pub(super) fn rocksdb_free(pointer: *mut c_void);
    }
}

/// Calls `f` with a place for an error, and returns the error.
fn check<T>(f: impl FnOnce(*mut *mut c_char) -> T) -> Result<T, Failure> {
    let mut error: *mut c_char = std::ptr::null_mut();
    let result = f(&raw mut error);
    if error.is_null() {
        return Ok(result);
    }
    // SAFETY: the library put a C string of its own there.
    let text = unsafe { CStr::from_ptr(error) }
        .to_string_lossy()
        .into_owned();
    // SAFETY: it is freed once, after its last use.
    unsafe { c::rocksdb_free(error.cast()) };
    Err(text.into())
}

struct Rocks {
    db: NonNull<c_void>,
    synced: NonNull<c_void>,
    buffered: NonNull<c_void>,
    next: AtomicU64,
}

// SAFETY: a database may be used by several threads at once, and write options are only read.
unsafe impl Send for Rocks {}
// SAFETY: as above.
unsafe impl Sync for Rocks {}

impl Rocks {
    fn open(dir: &Path, plan: &Plan) -> Result<Rocks, Failure> {
        let object = |pointer| NonNull::new(pointer).ok_or("rocksdb returned no object");
        // SAFETY: no precondition.
        let options = object(unsafe { c::rocksdb_options_create() })?.as_ptr();
        let memtable = match plan.mode {
            Mode::Synced | Mode::Sustained => 64 << 20,
            Mode::Burst | Mode::Replay => 2 << 30,
        };
        // SAFETY: `options` lives, here and in the calls below.
        unsafe { c::rocksdb_options_set_create_if_missing(options, 1) };
        // SAFETY: see above.
        unsafe { c::rocksdb_options_set_write_buffer_size(options, memtable) };
        // SAFETY: see above.
        unsafe { c::rocksdb_options_set_enable_pipelined_write(options, 1) };
        // SAFETY: see above; 0 is no compression.
        unsafe { c::rocksdb_options_set_compression(options, 0) };
        // SAFETY: see above.
        unsafe { c::rocksdb_options_set_disable_auto_compactions(options, 1) };
        if plan.mode == Mode::Replay {
            // What open has recovered and flushed stays readable.
            // SAFETY: see above.
            unsafe { c::rocksdb_options_set_WAL_ttl_seconds(options, 3600) };
        } else {
            // SAFETY: see above.
            unsafe { c::rocksdb_options_set_recycle_log_file_num(options, 4) };
        }
        let name = CString::new(dir.as_os_str().as_bytes())?;
        // SAFETY: `name` is a C string that lives through the call.
        let db = check(|error| unsafe { c::rocksdb_open(options, name.as_ptr(), error) });
        // SAFETY: created above; the database has copied them.
        unsafe { c::rocksdb_options_destroy(options) };
        let db = object(db?)?;
        // SAFETY: no precondition.
        let synced = object(unsafe { c::rocksdb_writeoptions_create() })?;
        // SAFETY: `synced` lives.
        unsafe { c::rocksdb_writeoptions_set_sync(synced.as_ptr(), 1) };
        // SAFETY: no precondition.
        let buffered = object(unsafe { c::rocksdb_writeoptions_create() })?;
        Ok(Rocks {
            db,
            synced,
            buffered,
            next: AtomicU64::new(0),
        })
    }

    fn put(&self, options: NonNull<c_void>, payload: &[u8]) -> Result<(), Failure> {
        let key = self.next.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        // SAFETY: the objects live until drop, key and payload through the call.
        check(|error| unsafe {
            c::rocksdb_put(
                self.db.as_ptr(),
                options.as_ptr(),
                key.as_ptr().cast(),
                key.len(),
                payload.as_ptr().cast(),
                payload.len(),
                error,
            )
        })
    }
}

impl Drop for Rocks {
    fn drop(&mut self) {
        // SAFETY: created by `open`, used by nobody any more, here and below.
        unsafe { c::rocksdb_writeoptions_destroy(self.synced.as_ptr()) };
        // SAFETY: see above.
        unsafe { c::rocksdb_writeoptions_destroy(self.buffered.as_ptr()) };
        // SAFETY: see above.
        unsafe { c::rocksdb_close(self.db.as_ptr()) };
    }
}

impl LogRival for Rocks {
    fn append_synced(&self, _thread: usize, payload: &[u8]) -> Result<(), Failure> {
        self.put(self.synced, payload)
    }

    fn append_buffered(&self, _thread: usize, payload: &[u8]) -> Result<(), Failure> {
        self.put(self.buffered, payload)
    }

    fn sync(&self) -> Result<(), Failure> {
        // SAFETY: the database lives until drop.
        check(|error| unsafe { c::rocksdb_flush_wal(self.db.as_ptr(), 1, error) })
    }

    fn close(self: Box<Self>) -> Result<(), Failure> {
        self.sync()
    }
}

/// The closure behind `state`.
type Each<'a> = &'a mut dyn FnMut(&[u8]);

unsafe extern "C" fn put(
    state: *mut c_void,
    _key: *const c_char,
    _key_len: usize,
    value: *const c_char,
    value_len: usize,
) {
    // SAFETY: `state` is the `Each` that `replay` lent for the call of `rocksdb_writebatch_iterate`.
    let each = unsafe { &mut *state.cast::<Each<'_>>() };
    // SAFETY: the library lends the value for this call.
    each(unsafe { std::slice::from_raw_parts(value.cast(), value_len) });
}

unsafe extern "C" fn deleted(_state: *mut c_void, _key: *const c_char, _key_len: usize) {}

fn replay(dir: &Path, plan: &Plan, mut each: &mut dyn FnMut(&[u8])) -> Result<(), Failure> {
    let rocks = Rocks::open(dir, plan)?;
    // SAFETY: the database lives; no options are needed.
    let iterator = check(|error| unsafe {
        c::rocksdb_get_updates_since(rocks.db.as_ptr(), 1, std::ptr::null_mut(), error)
    })?;
    // SAFETY: the iterator lives until it is destroyed below, here and in the calls between.
    while unsafe { c::rocksdb_wal_iter_valid(iterator) } != 0 {
        let mut at = 0;
        // SAFETY: it is valid, as just asked.
        let batch = unsafe { c::rocksdb_wal_iter_get_batch(iterator, &raw mut at) };
        let state = (&raw mut each).cast();
        // SAFETY: the batch lives; `state` is what `put` takes it for, and no longer used elsewhere during the call.
        unsafe { c::rocksdb_writebatch_iterate(batch, state, put, deleted) };
        // SAFETY: got above, and used no more.
        unsafe { c::rocksdb_writebatch_destroy(batch) };
        // SAFETY: see above.
        unsafe { c::rocksdb_wal_iter_next(iterator) };
    }
    // SAFETY: see above.
    let end = check(|error| unsafe { c::rocksdb_wal_iter_status(iterator, error) });
    // SAFETY: see above.
    unsafe { c::rocksdb_wal_iter_destroy(iterator) };
    end
}

/// It.
pub(crate) fn engine() -> Engine {
    Engine {
        name: "RocksDB",
        version: env!("ROCKSDB_VERSION").to_owned(),
        floor: false,
        modes: &[Mode::Synced, Mode::Burst, Mode::Sustained, Mode::Replay],
        threads_max: usize::MAX,
        settings: "a put of one key per append, WriteOptions.sync on or off; pipelined writes, 4 WAL files recycled, no compression, no compaction; memtable of 64 MiB, in bursts and replay large enough for all; replay: open, then GetUpdatesSince",
        open: |dir, plan| Ok(Box::new(Rocks::open(dir, plan)?)),
        replay: Some(replay),
    }
}
