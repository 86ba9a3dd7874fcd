//! Bloom filter of a whole table, in blocks of one cache line: a lookup touches one line.
//!
//! ```text
//! lines  64 bytes each; none: no filter, every key may be there
//! ```
//! The hash of a key is xxh3_64 with seed 0. Its high half chooses the line, its low half the bits: probe i takes the
//! top nine bits of the low half multiplied by 0x9e3779b9 i times. The number of probes stands in the properties.

use xxhash_rust::xxh3::xxh3_64;

const LINE: usize = 64;
/// More bits than this per key gain nothing.
const PROBES_MAX: u32 = 16;

pub(crate) fn hash(key: &[u8]) -> u64 {
    xxh3_64(key)
}

/// Probes that serve `bits_per_key` best: ln 2 of them, as whole probes.
pub(crate) fn probes(bits_per_key: u32) -> u32 {
    (bits_per_key * 69 / 100).clamp(1, PROBES_MAX)
}

/// The lines of a filter over keys of these hashes.
pub(crate) fn build(hashes: &[u64], bits_per_key: u32) -> Vec<u8> {
    let bits = hashes.len() as u64 * u64::from(bits_per_key);
    let lines = bits.div_ceil(LINE as u64 * 8) as usize;
    let mut filter = vec![0; lines * LINE];
    if lines == 0 {
        return filter;
    }
    let probes = probes(bits_per_key);
    for hash in hashes {
        let line = line_of(*hash, lines);
        for bit in bits_of(*hash, probes) {
            filter[line + bit / 8] |= 1 << (bit % 8);
        }
    }
    filter
}

/// Whether the key of this hash may be in the table. `filter` is a multiple of a line.
#[inline]
pub(crate) fn may_contain(filter: &[u8], probes: u32, hash: u64) -> bool {
    let lines = filter.len() / LINE;
    if lines == 0 {
        return true;
    }
    let at = line_of(hash, lines);
    let line = &filter[at..at + LINE];
    bits_of(hash, probes).all(|bit| line[bit / 8] & (1 << (bit % 8)) != 0)
}

/// What a filter must be to be used.
pub(crate) fn is_sound(filter: &[u8], probes: u32) -> bool {
    filter.len().is_multiple_of(LINE) && (1..=PROBES_MAX).contains(&probes)
}

#[inline]
fn line_of(hash: u64, lines: usize) -> usize {
    (((hash >> 32) * lines as u64) >> 32) as usize * LINE
}

#[inline]
fn bits_of(hash: u64, probes: u32) -> impl Iterator<Item = usize> {
    let mut h = hash as u32;
    (0..probes).map(move |_| {
        h = h.wrapping_mul(0x9e37_79b9);
        (h >> 23) as usize
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_of_the_table_passes_and_about_one_other_in_a_hundred() {
        let hashes: Vec<u64> = (0..20_000_u32).map(|i| hash(&i.to_be_bytes())).collect();
        let filter = build(&hashes, 10);
        assert!(filter.len() <= 20_000 * 10 / 8 + LINE);
        assert!(hashes.iter().all(|h| may_contain(&filter, probes(10), *h)));
        let wrong = (20_000..120_000_u32)
            .filter(|i| may_contain(&filter, probes(10), hash(&i.to_be_bytes())))
            .count();
        assert!(wrong < 2_000, "{wrong} of 100,000 pass");
    }

    #[test]
    fn no_filter_lets_everything_pass() {
        assert!(may_contain(&build(&[], 10), 6, 7));
        assert!(may_contain(&build(&[7], 0), 6, 8));
    }
}
