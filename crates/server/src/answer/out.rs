//! The bytes of a message as they are written: one after another, into room that
//! was made before, so that a value costs a store and no question of room.

use prost::encoding::encoded_len_varint;

pub(super) const VARINT: u32 = 0;
pub(super) const FIXED64: u32 = 1;
pub(super) const BYTES: u32 = 2;

pub(super) const VARINT_BYTES_MAX: usize = 10;
/// Lengths below it are one byte.
const SHORT: usize = 0x80;

/// A message that grows at its end.
#[derive(Debug)]
pub(super) struct Out {
    /// What is written, and room behind it.
    bytes: Vec<u8>,
    end: usize,
}

/// A field whose length is known when it is written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Open {
    /// Where its content begins, behind as many bytes as its length may take.
    at: usize,
    length_bytes: usize,
}

impl Out {
    pub fn with_capacity(bytes: usize) -> Self {
        Self {
            bytes: vec![0; bytes],
            end: 0,
        }
    }

    pub fn finish(mut self) -> Vec<u8> {
        self.bytes.truncate(self.end);
        self.bytes
    }

    pub fn len(&self) -> usize {
        self.end
    }

    /// What was written since it had that length.
    pub fn since(&self, length: usize) -> &[u8] {
        &self.bytes[length..self.end]
    }

    /// Room for so many bytes, to be written and then told of by
    /// [`Self::advance`].
    #[inline]
    pub fn room(&mut self, bytes: usize) -> &mut [u8] {
        let end = self.end + bytes;
        if end > self.bytes.len() {
            self.grow(end);
        }
        &mut self.bytes[self.end..end]
    }

    #[cold]
    fn grow(&mut self, end: usize) {
        self.bytes.resize(end.max(self.bytes.len() * 2), 0);
    }

    /// So many bytes of the room were written.
    #[inline]
    pub fn advance(&mut self, bytes: usize) {
        self.end += bytes;
    }

    #[inline]
    pub fn put(&mut self, bytes: &[u8]) {
        self.room(bytes.len()).copy_from_slice(bytes);
        self.end += bytes.len();
    }

    #[inline]
    fn put_number_alone(&mut self, value: u64) {
        let bytes = put_varint(self.room(VARINT_BYTES_MAX), value);
        self.end += bytes;
    }

    #[inline]
    fn put_byte(&mut self, byte: u8) {
        self.room(1)[0] = byte;
        self.end += 1;
    }

    /// Of fields up to 15, as all are that are written here.
    #[inline]
    pub fn put_key(&mut self, field: u32, kind: u32) {
        debug_assert!(field < 16, "a key of one byte");
        self.put_byte((field << 3 | kind) as u8);
    }

    pub fn put_number(&mut self, field: u32, value: u64) {
        if value != 0 {
            self.put_key(field, VARINT);
            self.put_number_alone(value);
        }
    }

    #[inline]
    pub fn put_bytes(&mut self, field: u32, bytes: &[u8]) {
        let length = bytes.len();
        if length >= SHORT {
            self.put_key(field, BYTES);
            self.put_number_alone(length as u64);
            return self.put(bytes);
        }
        debug_assert!(field < 16, "a key of one byte");
        let to = self.room(2 + length);
        to[0] = (field << 3 | BYTES) as u8;
        to[1] = length as u8;
        to[2..].copy_from_slice(bytes);
        self.end += 2 + length;
    }

    pub fn put_times(&mut self, field: u32, times: impl ExactSizeIterator<Item = i64>) {
        if times.len() > 0 {
            self.put_key(field, BYTES);
            self.put_number_alone(times.len() as u64 * 8);
            times.for_each(|t| self.put(&t.to_le_bytes()));
        }
    }

    /// Begins a field of about so many bytes. A guess that is wrong costs a move.
    #[inline]
    pub fn open(&mut self, field: u32, about: usize) -> Open {
        let length_bytes = match about {
            0..SHORT => 1,
            _ => encoded_len_varint(about as u64),
        };
        self.put_key(field, BYTES);
        self.room(length_bytes);
        self.end += length_bytes;
        Open {
            at: self.end,
            length_bytes,
        }
    }

    #[inline]
    pub fn close(&mut self, open: Open) {
        let length = self.end - open.at;
        match length < SHORT && open.length_bytes == 1 {
            true => self.bytes[open.at - 1] = length as u8,
            false => self.close_long(open, length),
        }
    }

    fn close_long(&mut self, open: Open, length: usize) {
        let due = encoded_len_varint(length as u64);
        let begin = open.at - open.length_bytes;
        if due != open.length_bytes {
            self.room(VARINT_BYTES_MAX);
            self.bytes.copy_within(open.at..self.end, begin + due);
            self.end = begin + due + length;
        }
        let mut rest = length as u64;
        for byte in &mut self.bytes[begin..begin + due] {
            *byte = rest as u8 | 0x80;
            rest >>= 7;
        }
        self.bytes[begin + due - 1] &= 0x7F;
    }
}

/// The marks that more bytes follow, by a varint's length, 1 to 4, modulo 4.
const CONTINUED: [u32; 4] = [0x80_8080, 0, 0x80, 0x8080];

/// A varint at the start of `to`; gives how many bytes it takes. Small ones
/// without a branch a byte, as their lengths are hard to foresee; there must be
/// room for [`VARINT_BYTES_MAX`].
#[inline]
pub(super) fn put_varint(to: &mut [u8], value: u64) -> usize {
    if let (0..0x1000_0000, Some(to)) = (value, to.first_chunk_mut::<4>()) {
        let value = value as u32;
        let groups = value & 0x7F
            | (value & 0x3F80) << 1
            | (value & 0x1F_C000) << 2
            | (value & 0xFE0_0000) << 3;
        let bytes = (31 - (value | 1).leading_zeros()) / 7 + 1;
        *to = (groups | CONTINUED[bytes as usize & 3]).to_le_bytes();
        return bytes as usize;
    }
    let mut rest = value;
    let mut bytes = 0;
    for to in to.iter_mut().take(VARINT_BYTES_MAX) {
        bytes += 1;
        *to = rest as u8 | 0x80;
        rest >>= 7;
        if rest == 0 {
            *to &= 0x7F;
            break;
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use prost::encoding::encode_varint;

    use super::*;

    #[test]
    fn varints_are_those_of_protobuf() {
        let edges = (0..64).flat_map(|bit| [1_u64 << bit, (1 << bit) - 1, u64::MAX >> bit]);
        for value in edges.chain(0..300) {
            let mut expected = Vec::new();
            encode_varint(value, &mut expected);
            let mut to = [0; VARINT_BYTES_MAX];
            let bytes = put_varint(&mut to, value);
            assert_eq!(to[..bytes], expected, "{value}");
        }
    }

    #[test]
    fn a_field_has_its_length_whatever_was_guessed() {
        for about in [0, 100, 127, 128, 20_000, 3_000_000] {
            for length in [0, 1, 127, 128, 16_383, 16_384] {
                let content: Vec<u8> = (0..length).map(|n: u32| n as u8).collect();
                let mut out = Out::with_capacity(0);
                let open = out.open(3, about);
                out.put(&content);
                out.close(open);
                out.put(&[7]);
                let mut expected = Out::with_capacity(0);
                expected.put_bytes(3, &content);
                expected.put(&[7]);
                assert!(
                    out.finish() == expected.finish(),
                    "{length}, guessed {about}"
                );
            }
        }
    }
}
