//! How users' keys stand in the store, and the system's own beside them.
//!
//! ```text
//! user key                      in the store
//! not empty, first byte not 0   itself
//! empty                         00 01
//! 00 rest                       00 02 rest
//! system key NAME               00 00 NAME
//! ```
//! - K1: no user key maps to a system key, and two user keys never map to one.
//! - K2: `USER_START..` holds all user keys and no system key: `FLUSHALL` is one range tombstone over it.
//! - K3: an ordinary key is borrowed, not copied.

use smallvec::SmallVec;

/// The first place a user key can have in the store.
pub const USER_START: &[u8] = &[0, 1];
/// Where the expiry clock is kept (see [`super::clock`]).
pub const CLOCK_KEY: &[u8] = b"\0\0clock";

/// A user key as it stands in the store.
#[derive(Clone, Debug)]
pub enum StoredKey<'a> {
    /// As the user wrote it.
    Plain(&'a [u8]),
    /// With a prefix.
    Escaped(SmallVec<[u8; 64]>),
}

impl<'a> StoredKey<'a> {
    /// Of a user key.
    #[must_use]
    #[inline]
    pub fn new(user: &'a [u8]) -> Self {
        match user.first() {
            Some(0) => {
                let mut escaped = SmallVec::from_slice(&[0, 2]);
                escaped.extend_from_slice(&user[1..]);
                StoredKey::Escaped(escaped)
            }
            Some(_) => StoredKey::Plain(user),
            None => StoredKey::Escaped(SmallVec::from_slice(USER_START)),
        }
    }
}

impl std::ops::Deref for StoredKey<'_> {
    type Target = [u8];
    #[inline]
    fn deref(&self) -> &[u8] {
        match self {
            StoredKey::Plain(key) => key,
            StoredKey::Escaped(key) => key,
        }
    }
}

/// The user key that `stored` stands for: a part of it, behind a zero byte where the flag says so.
/// `None` for a system key.
#[must_use]
pub fn user_key(stored: &[u8]) -> Option<UserKey<'_>> {
    match stored {
        [] | [0] => None,
        [0, 1] => Some(UserKey::Plain(&[])),
        [0, 2, ..] => Some(UserKey::Escaped([&[0], &stored[2..]].concat())),
        [0, ..] => None,
        _ => Some(UserKey::Plain(stored)),
    }
}

/// A user key read back from the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UserKey<'a> {
    /// Borrowed from the stored form.
    Plain(&'a [u8]),
    /// Put together again.
    Escaped(Vec<u8>),
}

impl std::ops::Deref for UserKey<'_> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            UserKey::Plain(key) => key,
            UserKey::Escaped(key) => key,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_user_key_comes_back_and_none_is_a_system_key() {
        let keys: [&[u8]; 8] = [
            b"",
            b"\0",
            b"\0\0",
            b"\0\0clock",
            b"\0\x01",
            b"\0\x02",
            b"a",
            b"\xff\xff",
        ];
        let mut stored: Vec<Vec<u8>> = Vec::new();
        for key in keys {
            let place = StoredKey::new(key);
            assert_eq!(&*user_key(&place).expect("a user key"), key);
            assert!(*place >= *USER_START, "{key:?} lies in the user range");
            assert_ne!(&*place, CLOCK_KEY);
            stored.push(place.to_vec());
        }
        stored.sort();
        stored.dedup();
        assert_eq!(stored.len(), keys.len());
        assert!(CLOCK_KEY < USER_START);
        assert!(user_key(CLOCK_KEY).is_none());
    }
}
