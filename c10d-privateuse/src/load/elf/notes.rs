//! The note with a plugin's name and ABI.

use super::header::{Headers, NOTE};
use super::reader::{Reader, u16_at, u32_at};
use crate::abi;
use crate::refusal::{Refusal, Rule};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NoteInfo {
    pub(crate) name: String,
    pub(crate) major: u16,
    pub(crate) minor: u16,
}

const OWNER: &[u8] = b"c10d\0";
/// The smallest size of the note's description: its fields before the plugin's name, and one byte of this name.
const LEAST: usize = 13;
/// Names of devices, which no plugin may have as its own name.
const RESERVED: &[&str] = &["cpu", "cuda", "privateuse1"];

pub(super) fn find(reader: &Reader<'_>, headers: &Headers) -> Result<NoteInfo, Refusal> {
    for segment in headers.of(NOTE) {
        let bytes = reader.bytes(segment.offset, segment.in_file, "a note segment")?;
        let align = if segment.align == 8 { 8 } else { 4 };
        if let Some(description) = in_segment(&bytes, align)? {
            return read(description);
        }
    }
    Err(Refusal::new(Rule::Note, "it has no c10d note; a plugin needs the line C10D_PLUGIN_NOTE(\"name\")"))
}

/// Returns the description of the c10d note in a segment, if it has one.
fn in_segment(bytes: &[u8], align: usize) -> Result<Option<&[u8]>, Refusal> {
    let mut rest = bytes;
    while rest.len() >= 12 {
        let (owner, size) = (u32_at(rest, 0) as usize, u32_at(rest, 4) as usize);
        let begin = 12usize.checked_add(owner).map(|n| n.next_multiple_of(align));
        let end = begin.and_then(|b| b.checked_add(size));
        let (Some(begin), Some(end)) = (begin, end.filter(|e| *e <= rest.len())) else {
            return Err(Refusal::new(Rule::Note, "a note is longer than its segment"));
        };
        if &rest[12..12 + owner] == OWNER && u32_at(rest, 8) == 1 {
            return Ok(Some(&rest[begin..end]));
        }
        rest = &rest[end.next_multiple_of(align).min(rest.len())..];
    }
    Ok(None)
}

fn read(note: &[u8]) -> Result<NoteInfo, Refusal> {
    let damaged = |what: String| Refusal::new(Rule::Note, format!("the c10d note {what}"));
    let size = u32_at(note, 0) as usize;
    if note.len() < LEAST || size > note.len() || size < LEAST {
        return Err(damaged(format!("has size {size} in its first field, and {} bytes", note.len())));
    }
    let (major, minor, table) = (u16_at(note, 4), u16_at(note, 6), u32_at(note, 8));
    if major != abi::MAJOR {
        let what = format!("it was built for ABI {major}.{minor}; this host has {}.{}", abi::MAJOR, abi::MINOR);
        return Err(Refusal::new(Rule::Abi, what));
    }
    let least = <abi::Plugin as abi::Sized32>::LEAST;
    if (table as usize) < least {
        return Err(Refusal::new(Rule::Abi, format!("its c10d_plugin has {table} bytes; version 1.0 has {least}")));
    }
    let name: Vec<u8> = note[12..size].iter().copied().take_while(|c| *c != 0).collect();
    let good = name.first().is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
        && name.iter().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'-' | b'_'));
    let name = String::from_utf8_lossy(&name).into_owned();
    if !good || name.len() > 51 || RESERVED.contains(&name.as_str()) {
        return Err(damaged(format!(
            "has the name {name:?}, which is reserved or not valid: a name has 1 to 51 lower-case letters, digits, - \
             and _, and begins with a letter or digit"
        )));
    }
    Ok(NoteInfo { name, major, minor })
}
