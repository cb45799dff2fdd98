//! The file header and the program headers.

use super::reader::{Reader, u16_at, u32_at, u64_at};
use crate::refusal::{Refusal, Rule};

#[cfg(target_arch = "x86_64")]
const MACHINE: u16 = 62;
#[cfg(target_arch = "aarch64")]
const MACHINE: u16 = 183;
#[cfg(target_arch = "riscv64")]
const MACHINE: u16 = 243;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")))]
const MACHINE: u16 = 0;

pub(super) const LOAD: u32 = 1;
pub(super) const DYNAMIC: u32 = 2;
pub(super) const NOTE: u32 = 4;
const GNU_STACK: u32 = 0x6474_e551;
const EXECUTE: u32 = 1;

#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    pub(super) kind: u32,
    flags: u32,
    pub(super) offset: u64,
    address: u64,
    pub(super) in_file: u64,
    pub(super) align: u64,
}

#[derive(Debug)]
pub(super) struct Headers {
    pub(super) segments: Vec<Segment>,
}

impl Headers {
    pub(super) fn of(&self, kind: u32) -> impl Iterator<Item = &Segment> {
        self.segments.iter().filter(move |s| s.kind == kind)
    }

    /// Returns the offset in the file of the byte that has this address in the loaded library.
    pub(super) fn offset(&self, address: u64, what: &str) -> Result<u64, Refusal> {
        let within = |s: &&Segment| address.checked_sub(s.address).is_some_and(|d| d < s.in_file);
        let found = self.of(LOAD).find(within);
        let offset = found.and_then(|s| s.offset.checked_add(address - s.address));
        offset.ok_or_else(|| Refusal::new(Rule::Truncated, format!("{what} is at an address that no segment has")))
    }
}

pub(super) fn read(reader: &Reader<'_>) -> Result<Headers, Refusal> {
    let head = reader.bytes(0, reader.size.min(64), "the file header")?;
    if !head.starts_with(b"\x7fELF") {
        return Err(Refusal::new(Rule::NotElf, "the file is not an ELF file"));
    }
    if head.len() < 64 {
        return Err(Refusal::new(Rule::Truncated, format!("the file ends after {} bytes", head.len())));
    }
    let foreign = |what: String| Err(Refusal::new(Rule::Foreign, what));
    if (head[4], head[5], head[6]) != (2, 1, 1) {
        let what = format!("class {}, byte order {}, version {}", head[4], head[5], head[6]);
        return foreign(format!("{what}; this host needs 64-bit little-endian ELF (2, 1, 1)"));
    }
    if !matches!(head[7], 0 | 3) {
        return foreign(format!("it is for operating system {}", head[7]));
    }
    if u16_at(&head, 16) != 3 {
        return foreign(format!("its type is {}, not shared library (3)", u16_at(&head, 16)));
    }
    if u16_at(&head, 18) != MACHINE {
        return foreign(format!("it is for machine {}; this host is {MACHINE}", u16_at(&head, 18)));
    }
    let (table, entry, count) = (u64_at(&head, 32), u16_at(&head, 54), u16_at(&head, 56));
    if entry != 56 || count == 0 {
        let what = format!("{count} program headers of {entry} bytes are not valid");
        return Err(Refusal::new(Rule::Truncated, what));
    }
    let table = reader.bytes(table, u64::from(count) * 56, "the table of program headers")?;
    let segments: Vec<Segment> = table.chunks_exact(56).map(segment).collect();
    let headers = Headers { segments };
    for s in headers.of(LOAD) {
        if s.offset.checked_add(s.in_file).is_none_or(|end| end > reader.size) {
            let what = format!("a segment would end after the file's {} bytes", reader.size);
            return Err(Refusal::new(Rule::Truncated, what));
        }
    }
    // If this header is missing, the system's loader makes the stacks of the process executable.
    if headers.of(GNU_STACK).next().is_none_or(|s| s.flags & EXECUTE != 0) {
        let what = "it asks for an executable stack; link it with -z noexecstack";
        return Err(Refusal::new(Rule::ExecutableStack, what));
    }
    Ok(headers)
}

fn segment(b: &[u8]) -> Segment {
    Segment {
        kind: u32_at(b, 0),
        flags: u32_at(b, 4),
        offset: u64_at(b, 8),
        address: u64_at(b, 16),
        in_file: u64_at(b, 32),
        align: u64_at(b, 48),
    }
}
