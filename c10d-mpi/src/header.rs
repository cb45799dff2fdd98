//! The header of a collective's message or of a point-to-point message. Long data follow their header in MPI messages
//! of their own, without headers.

use c10d_core::backend::Fingerprint;

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Header {
    /// The fingerprint of the call that the message belongs to.
    pub(crate) fingerprint: Fingerprint,
    /// In a collective, the number of bytes that sender and receiver compare (see `Transfer::total`). In a
    /// point-to-point message, the number of bytes of the message.
    pub(crate) total: u64,
    /// The number of data bytes that this header announces.
    pub(crate) len: u64,
    /// In a collective, the number of the step. In a point-to-point message, the number of the message among those from
    /// this sender to this receiver.
    pub(crate) step: u32,
    /// Whether the message is a goodbye: the sender makes no more calls.
    pub(crate) last: bool,
}

impl Header {
    /// The size in bytes, padded so that the data after the header are aligned.
    pub(crate) const SIZE: usize = 64;

    pub(crate) fn put(&self, out: &mut [u8]) {
        let out = &mut out[..Self::SIZE];
        out.fill(0);
        out[..24].copy_from_slice(&self.fingerprint.to_bytes());
        out[24..32].copy_from_slice(&self.total.to_le_bytes());
        out[32..40].copy_from_slice(&self.len.to_le_bytes());
        out[40..44].copy_from_slice(&self.step.to_le_bytes());
        out[44] = u8::from(self.last);
    }

    /// Reads a header. Any byte values give a header. Returns `None` if there are too few bytes.
    pub(crate) fn read(bytes: &[u8]) -> Option<Header> {
        let bytes = bytes.get(..Self::SIZE)?;
        let u64_at = |i: usize| Some(u64::from_le_bytes(bytes.get(i..i + 8)?.try_into().ok()?));
        Some(Header {
            fingerprint: Fingerprint::from_bytes(bytes.get(..24)?.try_into().ok()?),
            total: u64_at(24)?,
            len: u64_at(32)?,
            step: u32::from_le_bytes(bytes.get(40..44)?.try_into().ok()?),
            last: bytes[44] != 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_as_it_was_written() {
        let fingerprint = Fingerprint { seq: 7, op: 4, count: 1 << 40, rest: 9, ..Fingerprint::default() };
        let header = Header { fingerprint, total: u64::MAX, len: 1 << 33, step: 3, last: true };
        let mut bytes = [0xff; 80];
        header.put(&mut bytes);
        assert_eq!(Header::read(&bytes), Some(header));
        assert_eq!(Header::read(&bytes[..63]), None);
    }
}
