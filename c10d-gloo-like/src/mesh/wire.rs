//! Reads and writes the parts of the mesh's messages: numbers (little endian), texts and optional values. If a part is
//! missing in the bytes of a peer, the result is `None`, never a panic.

use c10d_core::backend::Fingerprint;
use c10d_core::text::harmless;

/// The unread rest of received bytes.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(len)?;
        self.0 = tail;
        Some(head)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// Reads the length of a text and the text, and makes it safe to print. `None` if the text is longer than `max`
    /// bytes or incomplete.
    pub(super) fn text(&mut self, max: usize) -> Option<String> {
        let len = usize::from(self.u16()?);
        if len > max {
            return None;
        }
        Some(harmless(&String::from_utf8_lossy(self.bytes(len)?), max))
    }

    /// Returns `Some(())` if all bytes have been read, and `None` otherwise.
    pub(super) fn end(&self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

/// Writes the length of a text and the text. A text of more than `max` bytes is cut at the end of a character.
pub(super) fn put_text(out: &mut Vec<u8>, text: &str, max: usize) {
    let max = max.min(usize::from(u16::MAX));
    let len = (0..=text.len().min(max)).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
    out.extend_from_slice(&(len as u16).to_le_bytes());
    out.extend_from_slice(&text.as_bytes()[..len]);
}

/// Returns the FNV-1a hash of a group's name. Hashes are only compared for equality.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}

pub(super) fn fingerprint(r: &mut Reader<'_>) -> Option<Fingerprint> {
    r.array().map(|b| Fingerprint::from_bytes(&b))
}

/// Writes an optional value: a byte that says whether it is present, and then the value.
pub(super) fn put_option<T>(out: &mut Vec<u8>, value: Option<T>, put: impl FnOnce(&mut Vec<u8>, T)) {
    out.push(value.is_some().into());
    if let Some(value) = value {
        put(out, value);
    }
}

/// Reads an optional value that [`put_option`] wrote. The outer `None` means that the bytes are malformed.
pub(super) fn option<'a, T>(r: &mut Reader<'a>, read: impl FnOnce(&mut Reader<'a>) -> Option<T>) -> Option<Option<T>> {
    match r.u8()? {
        0 => Some(None),
        1 => read(r).map(Some),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_at_characters_and_read_with_bounds() {
        let mut out = Vec::new();
        put_text(&mut out, "aé", 2);
        assert_eq!(out, [1, 0, b'a']);
        assert_eq!(Reader(&out).text(8).as_deref(), Some("a"));
        assert_eq!(Reader(&out).text(0), None);
        assert_eq!(Reader(&[5, 0, 1]).text(8), None);
    }
}
