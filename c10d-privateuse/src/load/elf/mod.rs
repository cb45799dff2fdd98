//! Checks an ELF file, within limits, before the system's loader runs any of it.
//!
//! The checks read only the note and the parts that the loader itself uses (program headers, dynamic section, hash
//! tables). A file is rejected if a part of more than 64 KiB would have to be read at once.

mod dynamic;
mod header;
mod notes;
mod reader;
mod symbols;

use std::fs::File;

use crate::refusal::Refusal;

pub(crate) use notes::NoteInfo;

/// Checks everything that can be checked without loading the file. Returns the contents of the plugin's note.
pub(crate) fn inspect(file: &File, size: u64) -> Result<NoteInfo, Refusal> {
    let reader = reader::Reader { file, size };
    let headers = header::read(&reader)?;
    let dynamic = dynamic::read(&reader, &headers)?;
    let note = notes::find(&reader, &headers)?;
    symbols::exports(&reader, &headers, &dynamic, crate::abi::ENTRY)?;
    Ok(note)
}

#[cfg(test)]
mod tests;
