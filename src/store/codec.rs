//! How a row's value lies in the file: `[tag][crc32c, little endian][bytes]`.
//!
//! The checksum is over `tag | key | bytes`, because redb does not verify what it reads: a flipped
//! bit in the key, the tag or the bytes shows, and so does a value found under another's key.

use bytes::Bytes;

/// Bytes in front of a row's own: the tag and the checksum.
pub(super) const HEADER_BYTES: usize = 5;

/// A row's value: which format it has, and its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Names the format of `bytes`; the table's owner gives tags their meaning.
    pub tag: u8,
    /// What was put, byte for byte.
    pub bytes: Bytes,
}

fn checksum(tag: u8, key: &[u8], bytes: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&[tag]);
    crc32c::crc32c_append(crc32c::crc32c_append(crc, key), bytes)
}

/// Writes the stored form into `out`, which is `HEADER_BYTES` longer than `bytes`.
pub(super) fn encode_into(out: &mut [u8], key: &[u8], tag: u8, bytes: &[u8]) {
    let (header, body) = out.split_at_mut(HEADER_BYTES);
    header[0] = tag;
    header[1..].copy_from_slice(&checksum(tag, key, bytes).to_le_bytes());
    body.copy_from_slice(bytes);
}

/// Whether the stored form is what was written under this key.
pub(super) fn is_sound(key: &[u8], stored: &[u8]) -> bool {
    let Some((header, bytes)) = stored.split_first_chunk::<HEADER_BYTES>() else { return false };
    let [tag, crc @ ..] = *header;
    u32::from_le_bytes(crc) == checksum(tag, key, bytes)
}

/// The same as [`decode`], but instead of what the row carries how many bytes that are.
pub(super) fn decode_bare(key: &[u8], stored: &[u8]) -> Option<Row> {
    let size = || ((stored.len() - HEADER_BYTES) as u64).to_le_bytes();
    is_sound(key, stored).then(|| Row { tag: stored[0], bytes: Bytes::copy_from_slice(&size()) })
}

/// The size in a row of [`decode_bare`].
pub(super) fn bare_size(row: &Row) -> usize {
    let size = row.bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    usize::try_from(size).unwrap_or(usize::MAX)
}

/// The row of a stored form; `None` when it is not what was written under this key.
pub(super) fn decode(key: &[u8], stored: &[u8]) -> Option<Row> {
    let sound = is_sound(key, stored);
    sound.then(|| Row { tag: stored[0], bytes: Bytes::copy_from_slice(&stored[HEADER_BYTES..]) })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn encode(key: &[u8], tag: u8, bytes: &[u8]) -> Vec<u8> {
        let mut out = vec![0; HEADER_BYTES + bytes.len()];
        encode_into(&mut out, key, tag, bytes);
        out
    }

    #[test]
    fn golden_bytes_of_a_row() {
        // Files in the field hold these bytes: the format may be added to, never changed.
        // CRC-32C("\x07" "key" "bytes") as any implementation gives it.
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283, "the check value of CRC-32C");
        let whole = crc32c::crc32c(b"\x07keybytes").to_le_bytes();
        let stored = encode(b"key", 7, b"bytes");
        assert_eq!(stored[1..5], whole);
        assert_eq!(stored, GOLDEN);
        assert_eq!(encode(b"", 0, b""), GOLDEN_EMPTY);
    }

    const GOLDEN: [u8; 10] = [0x07, 0x86, 0x02, 0x23, 0x29, 0x62, 0x79, 0x74, 0x65, 0x73];
    const GOLDEN_EMPTY: [u8; 5] = [0x00, 0x51, 0x53, 0x7d, 0x52];

    #[test]
    fn a_row_comes_back_as_it_was_put() {
        for bytes in [&b""[..], b"x", &[7; 3000]] {
            let row = decode(b"k", &encode(b"k", 9, bytes)).unwrap();
            assert_eq!((row.tag, &row.bytes[..]), (9, bytes));
        }
    }

    #[test]
    fn every_flipped_bit_shows() {
        let stored = encode(b"some key", 3, b"some bytes");
        for bit in 0..stored.len() * 8 {
            let mut flipped = stored.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(b"some key", &flipped), None, "bit {bit}");
        }
        for bit in 0..64 {
            let mut key = *b"some key";
            key[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&key, &stored), None, "bit {bit} of the key");
        }
    }

    #[test]
    fn what_is_too_short_is_not_a_row() {
        let stored = encode(b"k", 3, b"");
        (0..HEADER_BYTES).for_each(|len| assert_eq!(decode(b"k", &stored[..len]), None));
    }
}
