//! What every primitive is built from: std and parking_lot, or loom under `--cfg esker_loom`.
//!
//! The two sides have one face: `Mutex::lock` gives a guard (no poisoning), `Condvar::wait` takes
//! `&mut` guard. loom never times out a wait, so a model stands in for a timeout by giving up
//! nondeterministically.

/// Asks for the cache line at `at`, which may be any address at all. Where it can't be asked for, nothing happens.
#[inline]
#[allow(unsafe_code, reason = "an instruction that has no other name")]
pub fn prefetch<T>(at: *const T) {
    #[cfg(all(target_arch = "x86_64", not(esker_loom), not(miri)))]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a hint; it reads nothing and does not fault, whatever the address.
        unsafe { _mm_prefetch(at.cast(), _MM_HINT_T0) };
    }
    let _ = at;
}

#[cfg(not(esker_loom))]
mod imp {
    pub use parking_lot::{Condvar, Mutex, MutexGuard};
    pub use std::sync::Arc;
    pub use std::sync::atomic;
    pub use std::thread;

    /// Parks the thread until it is unparked or `deadline` has passed. May return early.
    pub fn park_until(deadline: Option<std::time::Instant>) {
        match deadline {
            None => thread::park(),
            Some(at) => {
                thread::park_timeout(at.saturating_duration_since(std::time::Instant::now()));
            }
        }
    }

    /// Stands beside memory that is written without synchronisation; nothing outside of a model.
    #[derive(Debug)]
    pub struct Watched;

    impl Watched {
        /// Written by this thread.
        #[must_use]
        #[inline]
        #[expect(clippy::new_without_default, reason = "as the one that loom watches")]
        pub fn new() -> Self {
            Watched
        }
        /// The memory beside it was written.
        #[inline]
        pub fn wrote(&self) {}
        /// It is being read.
        #[inline]
        pub fn read(&self) {}
    }

    /// Waits on `condvar` until notified or `deadline` has passed.
    pub fn wait_until<T>(
        condvar: &Condvar,
        guard: &mut MutexGuard<'_, T>,
        deadline: Option<std::time::Instant>,
    ) {
        match deadline {
            None => condvar.wait(guard),
            Some(at) => {
                let _ = condvar.wait_until(guard, at);
            }
        }
    }
}

#[cfg(esker_loom)]
mod imp {
    pub use loom::sync::Arc;
    pub use loom::sync::atomic;
    pub use loom::thread;

    /// Parks the thread until it is unparked; no model lets time pass.
    pub fn park_until(_deadline: Option<std::time::Instant>) {
        thread::park();
    }

    /// Stands beside memory that is written without synchronisation, so that loom sees the races for it.
    #[derive(Debug)]
    pub struct Watched(loom::cell::UnsafeCell<()>);

    impl Watched {
        /// Written by this thread.
        #[must_use]
        pub fn new() -> Self {
            Watched(loom::cell::UnsafeCell::new(()))
        }
        /// The memory beside it was written.
        pub fn wrote(&self) {
            self.0.with_mut(|_| ());
        }
        /// It is being read.
        pub fn read(&self) {
            self.0.with(|_| ());
        }
    }

    /// Waits on `condvar` until notified; no model lets time pass.
    pub fn wait_until<T>(
        condvar: &Condvar,
        guard: &mut MutexGuard<'_, T>,
        _deadline: Option<std::time::Instant>,
    ) {
        condvar.wait(guard);
    }

    /// loom's mutex with parking_lot's face.
    #[derive(Debug, Default)]
    pub struct Mutex<T>(loom::sync::Mutex<T>);

    /// Guard of [`Mutex`].
    #[derive(Debug)]
    pub struct MutexGuard<'a, T>(Option<loom::sync::MutexGuard<'a, T>>);

    impl<T> Mutex<T> {
        /// A mutex around `value`.
        pub fn new(value: T) -> Self {
            Self(loom::sync::Mutex::new(value))
        }

        /// Locks; loom's mutexes are never poisoned in a passing model.
        pub fn lock(&self) -> MutexGuard<'_, T> {
            MutexGuard(Some(self.0.lock().expect("a model's thread panicked")))
        }

        /// Locks, if nobody has it.
        pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
            self.0.try_lock().ok().map(|guard| MutexGuard(Some(guard)))
        }
    }

    impl<T> std::ops::Deref for MutexGuard<'_, T> {
        type Target = T;
        fn deref(&self) -> &T {
            self.0.as_ref().expect("present outside of a wait")
        }
    }

    impl<T> std::ops::DerefMut for MutexGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            self.0.as_mut().expect("present outside of a wait")
        }
    }

    /// loom's condition variable with parking_lot's face.
    #[derive(Debug, Default)]
    pub struct Condvar(loom::sync::Condvar);

    impl Condvar {
        /// A condition variable.
        pub fn new() -> Self {
            Self(loom::sync::Condvar::new())
        }

        /// Waits for a notification.
        pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
            let inner = guard.0.take().expect("present outside of a wait");
            guard.0 = Some(self.0.wait(inner).expect("a model's thread panicked"));
        }

        /// Wakes one.
        pub fn notify_one(&self) {
            self.0.notify_one();
        }

        /// Wakes all.
        pub fn notify_all(&self) {
            self.0.notify_all();
        }
    }
}

pub use imp::*;
