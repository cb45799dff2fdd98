//! A bounded look at an ELF file, before the system's loader runs any of it.
//!
//! Reads what the loader itself goes by (program headers, dynamic section, hash tables) and nothing else; never more
//! than some 64 KiB at a time, whatever the file claims.

mod dynamic;
mod header;
mod notes;
mod reader;
mod symbols;

use std::fs::File;

use crate::refusal::Refusal;

pub(crate) use notes::NoteInfo;

/// What a plugin's file says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) note: NoteInfo,
}

/// Checks everything that can be checked from outside.
pub(crate) fn inspect(file: &File, size: u64) -> Result<Facts, Refusal> {
    let reader = reader::Reader { file, size };
    let headers = header::read(&reader)?;
    let dynamic = dynamic::read(&reader, &headers)?;
    let note = notes::find(&reader, &headers)?;
    symbols::exports(&reader, &headers, &dynamic, crate::abi::ENTRY)?;
    Ok(Facts { note })
}

#[cfg(test)]
mod tests;
