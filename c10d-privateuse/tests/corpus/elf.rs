//! Files whose contents are not those of a valid plugin.

use c10d_privateuse::Rule;

use super::lab::Entry;

macro_rules! entry {
    ($rule:ident $name:literal, |$lab:ident, $to:ident| $make:expr) => {
        Entry {
            name: $name,
            rule: Rule::$rule,
            make: |$lab, $to| {
                $make;
                Ok(())
            },
        }
    };
}
pub(crate) use entry;

pub(crate) fn entries() -> Vec<Entry> {
    vec![
        entry!(NotElf "empty", |lab, to| lab.write(to, b"")),
        entry!(NotElf "text", |lab, to| lab.write(to, b"INPUT ( /lib/libc.so.6 )\n")),
        entry!(NotElf "script", |lab, to| lab.write(to, b"#!/bin/sh\nexit 1\n")),
        entry!(NotElf "four GiB of zeros", |lab, to| {
            lab.write(to, b"");
            std::fs::OpenOptions::new().write(true).open(to).unwrap().set_len(4 << 30).unwrap();
        }),
        entry!(Truncated "magic alone", |lab, to| lab.write(to, b"\x7fELF")),
        entry!(Truncated "cut in the header", |lab, to| lab.write(to, &lab.base()[..63])),
        entry!(Truncated "cut in the program headers", |lab, to| lab.write(to, &lab.base()[..200])),
        entry!(Truncated "cut in half", |lab, to| {
            let base = lab.base();
            lab.write(to, &base[..base.len() / 2]);
        }),
        entry!(Truncated "a segment beyond the end", |lab, to| lab.patched(to, lab.header(1) + 32, &(1u64 << 40).to_le_bytes())),
        entry!(Truncated "a segment that wraps", |lab, to| lab.patched(to, lab.header(1) + 8, &u64::MAX.to_le_bytes())),
        entry!(Truncated "headers beyond the end", |lab, to| lab.patched(to, 32, &(1u64 << 50).to_le_bytes())),
        entry!(Truncated "headers that wrap", |lab, to| lab.patched(to, 32, &u64::MAX.to_le_bytes())),
        entry!(Truncated "65535 headers", |lab, to| lab.patched(to, 56, &[255, 255])),
        entry!(Truncated "no headers", |lab, to| lab.patched(to, 56, &[0, 0])),
        entry!(Truncated "headers of one byte", |lab, to| lab.patched(to, 54, &[1, 0])),
        entry!(Truncated "a dynamic section of a gigabyte", |lab, to| lab.patched(to, lab.header(2) + 32, &(1u64 << 30).to_le_bytes())),
        entry!(Truncated "a dynamic section of a gigabyte, inside a larger file", |lab, to| {
            lab.patched(to, lab.header(2) + 32, &(1u64 << 30).to_le_bytes());
            std::fs::OpenOptions::new().write(true).open(to).unwrap().set_len(4 << 30).unwrap();
        }),
        entry!(Truncated "symbols at no address", |lab, to| lab.patched(to, lab.tag(6), &(1u64 << 60).to_le_bytes())),
        entry!(Truncated "hash table at no address", |lab, to| lab.patched(to, lab.tag(0x6fff_fef5), &u64::MAX.to_le_bytes())),
        entry!(Truncated "no symbols", |lab, to| lab.patched(to, lab.tag(6) - 8, &0x6000_0000u64.to_le_bytes())),
        entry!(Foreign "32 bits", |lab, to| lab.patched(to, 4, &[1])),
        entry!(Foreign "big endian", |lab, to| lab.patched(to, 5, &[2])),
        entry!(Foreign "ELF version 0", |lab, to| lab.patched(to, 6, &[0])),
        entry!(Foreign "another system", |lab, to| lab.patched(to, 7, &[9])),
        entry!(Foreign "another machine", |lab, to| lab.patched(to, 18, &[0xf7, 0])),
        entry!(Foreign "a program of fixed address", |lab, to| lab.patched(to, 16, &[2, 0])),
        entry!(Foreign "an object file", |lab, to| lab.compile(to, &[], &["-c"])),
        entry!(Foreign "a program", |lab, to| lab.compile(to, &[], &["-pie", "-rdynamic"])),
        entry!(Foreign "no dynamic section", |lab, to| lab.patched(to, lab.header(2), &[0x77])),
        entry!(ExecutableStack "executable stack", |lab, to| lab.compile(to, &[], &["-Wl,-z,execstack"])),
        entry!(ExecutableStack "no header for the stack", |lab, to| lab.patched(to, lab.header(0x6474_e551), &[0x77])),
        entry!(Entry "no entry", |lab, to| lab.compile(to, &["NO_ENTRY"], &[])),
        entry!(Entry "entry of version 2", |lab, to| lab.compile(to, &["ENTRY=c10d_plugin_v2"], &[])),
        entry!(Entry "hidden entry", |lab, to| {
            let script = lab.place("local.map");
            std::fs::write(&script, "{ local: *; };").unwrap();
            lab.compile(to, &[], &[&format!("-Wl,--version-script={}", script.display())]);
        }),
        entry!(Entry "entry that is data", |lab, to| lab.compile(to, &["ENTRY_IS_DATA"], &[])),
        entry!(Entry "no entry in a sysv hash table", |lab, to| lab.compile(to, &["NO_ENTRY"], &["-Wl,--hash-style=sysv"])),
        entry!(Entry "entry that is defined elsewhere", |lab, to| lab.patched(to, lab.entry() + 6, &[0, 0])),
        entry!(Entry "entry at no address", |lab, to| lab.patched(to, lab.entry() + 8, &[0; 8])),
        entry!(Entry "entry that is marked hidden", |lab, to| lab.patched(to, lab.entry() + 5, &[2])),
        entry!(Entry "entry that is local", |lab, to| lab.patched(to, lab.entry() + 4, &[2])),
        entry!(Note "no note", |lab, to| lab.compile(to, &["NO_NOTE"], &[])),
        entry!(Note "note of another owner", |lab, to| lab.compile(to, &["OWNER=\"d01c\""], &[])),
        entry!(Note "note longer than its segment", |lab, to| lab.compile(to, &["NOTE_SIZE=65"], &[])),
        entry!(Note "note of four gigabytes", |lab, to| lab.compile(to, &["NOTE_SIZE=0xffffffff"], &[])),
        entry!(Note "note that claims more than it has", |lab, to| lab.compile(to, &["STRUCT_SIZE=65"], &[])),
        entry!(Note "note too short for a name", |lab, to| lab.compile(to, &["STRUCT_SIZE=8"], &[])),
        entry!(Note "note without a name", |lab, to| lab.compile(to, &["NOTE_NAME=\"\""], &[])),
        entry!(Note "name without an end", |lab, to| {
            lab.compile(to, &[&format!("NAME=\"{}\"", "a".repeat(52))], &["-w"]);
        }),
        entry!(Note "name with a slash", |lab, to| lab.compile(to, &["NOTE_NAME=\"../x\""], &[])),
        entry!(Note "name that is a device's", |lab, to| lab.compile(to, &["NOTE_NAME=\"cpu\""], &[])),
        entry!(Abi "ABI 2", |lab, to| lab.compile(to, &["MAJOR=2"], &[])),
        entry!(Abi "ABI 0", |lab, to| lab.compile(to, &["MAJOR=0"], &[])),
        entry!(Abi "a table too small", |lab, to| lab.compile(to, &["PLUGIN_SIZE=16"], &[])),
        entry!(Link "missing symbol", |lab, to| lab.compile(to, &["MISSING_SYMBOL"], &[])),
        entry!(Link "missing library", |lab, to| {
            let other = lab.place("libgone.so");
            lab.compile(&other, &["NO_ENTRY", "NO_NOTE"], &["-Wl,-soname,libgone.so"]);
            lab.compile(to, &[], &["-Wl,--no-as-needed", &other.display().to_string()]);
            std::fs::remove_file(other).unwrap();
        }),
    ]
}
