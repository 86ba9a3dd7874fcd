//! A value with cache lines of its own.
//!
//! What many threads write takes the line away from all who read beside it: a word that each append stores must not share
//! its line with options, identities and flags that each append reads. 128 bytes: processors fetch lines in pairs.

use std::ops::{Deref, DerefMut};

/// See the module.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Line<T>(pub T);

impl<T> Deref for Line<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for Line<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}
