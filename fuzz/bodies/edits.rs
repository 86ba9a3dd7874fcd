//! Changes to files, read from the fuzzer's bytes.

/// Reads numbers from bytes; behind their end all are zero.
pub(crate) struct Source<'a>(pub(crate) &'a [u8]);

impl<'a> Source<'a> {
    pub(crate) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    pub(crate) fn u16(&mut self) -> usize {
        usize::from(self.byte()) | usize::from(self.byte()) << 8
    }

    pub(crate) fn u64(&mut self) -> u64 {
        (0..8).fold(0, |n, at| n | u64::from(self.byte()) << (8 * at))
    }

    pub(crate) fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// One change of a file, by the next bytes: bits, a number, zeros, old bytes, a cut.
pub(crate) fn edit(file: &mut Vec<u8>, source: &mut Source<'_>) {
    let what = source.byte();
    let at = source.u16();
    let place = |align: usize, file: &[u8]| at * align % file.len().max(1) / align * align;
    match what % 7 {
        0 => {
            let bits = source.byte();
            let place = place(1, file);
            if let Some(byte) = file.get_mut(place) {
                *byte ^= bits;
            }
        }
        1 => {
            let len = usize::from(source.byte() % 64);
            let bytes = source.bytes(len);
            let place = place(1, file);
            let room = bytes.len().min(file.len() - place.min(file.len()));
            file[place..place + room].copy_from_slice(&bytes[..room]);
        }
        2 => {
            let place = place(8, file);
            let number = match source.byte() {
                0 => u64::MAX,
                1 => 1 << 63,
                n => source.u64() >> (n % 64),
            };
            if let Some(bytes) = file.get_mut(place..place + 8) {
                bytes.copy_from_slice(&number.to_le_bytes());
            }
        }
        3 | 4 => {
            let block = if what % 7 == 3 { 512 } else { 4096 };
            let place = place(block, file);
            let end = file.len().min(place + block);
            file[place..end].fill((source.byte() & 1) * 0xff);
        }
        5 => {
            let from = source.u16() * 8 % file.len().max(1) / 8 * 8;
            let len = usize::from(source.byte()) * 8;
            let place = place(8, file);
            let len = len.min(file.len() - from).min(file.len() - place);
            file.copy_within(from..from + len, place);
        }
        _ => {
            let place = place(1, file);
            file.truncate(place);
        }
    }
}
