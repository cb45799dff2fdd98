//! The note of a plugin: its ABI version and its name.

use super::{MAJOR, MINOR, Plugin, size};

#[derive(Clone, Copy)]
#[repr(C)]
pub struct Note {
    pub owner_size: u32,
    pub note_size: u32,
    pub kind: u32,
    pub owner: [u8; 8],
    pub struct_size: u32,
    pub abi_major: u16,
    pub abi_minor: u16,
    pub plugin_size: u32,
    pub name: [u8; NAME],
}

/// The size of the field for the name. At least its last byte is zero.
pub(crate) const NAME: usize = 52;

/// Makes the note of a plugin with this name, for a `static` in section `.note.c10d`.
pub const fn note(name: &str) -> Note {
    let bytes = name.as_bytes();
    assert!(!bytes.is_empty() && bytes.len() < NAME, "a plugin's name has 1 to 51 bytes");
    let mut room = [0; NAME];
    let mut i = 0;
    while i < bytes.len() {
        let c = bytes[i];
        assert!(
            c.is_ascii_lowercase() || c.is_ascii_digit() || (i > 0 && (c == b'-' || c == b'_')),
            "a plugin's name begins with a lower-case letter or digit, and has only lower-case letters, digits, - and _"
        );
        room[i] = c;
        i += 1;
    }
    Note {
        owner_size: 5,
        note_size: 64,
        kind: 1,
        owner: *b"c10d\0\0\0\0",
        struct_size: 64,
        abi_major: MAJOR,
        abi_minor: MINOR,
        plugin_size: size::<Plugin>(),
        name: room,
    }
}
