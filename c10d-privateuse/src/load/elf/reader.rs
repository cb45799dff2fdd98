//! Reads a file by offset, within its size.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::refusal::{Refusal, Rule};

/// The maximum number of bytes that are read at once.
pub(super) const MOST: u64 = 64 << 10;

pub(super) struct Reader<'a> {
    pub(super) file: &'a File,
    pub(super) size: u64,
}

impl Reader<'_> {
    pub(super) fn bytes(&self, offset: u64, len: u64, what: &str) -> Result<Vec<u8>, Refusal> {
        if len > MOST {
            let what = format!("{what} would have {len} bytes, but the limit is {MOST}");
            return Err(Refusal::new(Rule::Truncated, what));
        }
        if offset.checked_add(len).is_none_or(|end| end > self.size) {
            let what = format!("{what} would end after the file's {} bytes", self.size);
            return Err(Refusal::new(Rule::Truncated, what));
        }
        let mut bytes = vec![0; len as usize];
        match self.file.read_exact_at(&mut bytes, offset) {
            Ok(()) => Ok(bytes),
            Err(e) => Err(Refusal::new(Rule::Unreadable, format!("{what}: {e}"))),
        }
    }
}

/// The result is 0 if there are not enough bytes.
pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).map_or(0, |b| u16::from_le_bytes([b[0], b[1]]))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
