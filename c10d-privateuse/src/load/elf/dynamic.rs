//! The dynamic section.

use super::header::{DYNAMIC, Headers};
use super::reader::{Reader, u64_at};
use crate::refusal::{Refusal, Rule};

const HASH: u64 = 4;
const STRINGS: u64 = 5;
const SYMBOLS: u64 = 6;
const STRINGS_SIZE: u64 = 10;
const GNU_HASH: u64 = 0x6fff_fef5;
const FLAGS_1: u64 = 0x6fff_fffb;
const PIE: u64 = 0x0800_0000;

/// The addresses of the tables in which a loader looks up a symbol, and the size of the table of names (`strings`).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Dynamic {
    pub(super) hash: Option<u64>,
    pub(super) gnu_hash: Option<u64>,
    pub(super) symbols: u64,
    pub(super) strings: u64,
    pub(super) strings_size: u64,
}

pub(super) fn read(reader: &Reader<'_>, headers: &Headers) -> Result<Dynamic, Refusal> {
    let segment = headers.of(DYNAMIC).next();
    let segment =
        segment.ok_or_else(|| Refusal::new(Rule::Foreign, "it has no dynamic section, so it is no shared library"))?;
    let bytes = reader.bytes(segment.offset, segment.in_file, "the dynamic section")?;
    let mut out = Dynamic::default();
    let mut seen = 0;
    for entry in bytes.chunks_exact(16) {
        let (tag, value) = (u64_at(entry, 0), u64_at(entry, 8));
        match tag {
            0 => break,
            HASH => out.hash = Some(value),
            GNU_HASH => out.gnu_hash = Some(value),
            SYMBOLS => (out.symbols, seen) = (value, seen | 1),
            STRINGS => (out.strings, seen) = (value, seen | 2),
            STRINGS_SIZE => (out.strings_size, seen) = (value, seen | 4),
            FLAGS_1 if value & PIE != 0 => {
                return Err(Refusal::new(Rule::Foreign, "it is a program, not a shared library"));
            }
            _ => {}
        }
    }
    if seen != 7 {
        return Err(Refusal::new(Rule::Truncated, "the dynamic section has no symbols"));
    }
    Ok(out)
}
