//! Variable-length integers: seven bits a byte, lowest first, the high bit says that more follow.

/// Most bytes of one.
pub(crate) const VARINT_MAX: usize = 10;

pub(crate) fn put_varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// The integer at `at` and where it ends; `None` when it is cut short or does not fit.
#[inline]
pub(crate) fn varint(bytes: &[u8], at: usize) -> Option<(u64, usize)> {
    let first = *bytes.get(at)?;
    if first < 0x80 {
        return Some((u64::from(first), at + 1));
    }
    varint_long(bytes, at)
}

fn varint_long(bytes: &[u8], at: usize) -> Option<(u64, usize)> {
    let mut n = 0_u64;
    for i in 0..VARINT_MAX {
        let byte = *bytes.get(at + i)?;
        if i == VARINT_MAX - 1 && byte > 1 {
            return None;
        }
        n |= u64::from(byte & 0x7f) << (7 * i);
        if byte < 0x80 {
            return Some((n, at + i + 1));
        }
    }
    None
}

/// Small for small distances in both directions; of any two numbers, by wrapping.
pub(crate) fn zigzag(delta: i64) -> u64 {
    ((delta << 1) ^ (delta >> 63)) as u64
}

pub(crate) fn unzigzag(n: u64) -> i64 {
    (n >> 1) as i64 ^ -((n & 1) as i64)
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(field.try_into().ok()?))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let field = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_le_bytes(field.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_come_back_and_cut_ones_do_not() {
        for n in [
            0,
            1,
            127,
            128,
            300,
            1 << 21,
            u64::from(u32::MAX),
            1 << 63,
            u64::MAX,
        ] {
            let mut bytes = vec![];
            put_varint(&mut bytes, n);
            assert_eq!(varint(&bytes, 0), Some((n, bytes.len())));
            assert_eq!(varint(&bytes[..bytes.len() - 1], 0), None);
        }
        assert_eq!(varint(&[0xff; 11], 0), None);
        let mut too_big = [0x80; 10];
        too_big[9] = 2;
        assert_eq!(varint(&too_big, 0), None);
    }

    #[test]
    fn zigzag_comes_back() {
        for n in [0, 1, -1, 2, i64::MAX, i64::MIN] {
            assert_eq!(unzigzag(zigzag(n)), n);
        }
        assert_eq!(zigzag(-1), 1);
    }
}
