//! Tests that `inspect` returns for any file, whatever its contents, and never panics.

use std::collections::BTreeSet;
use std::io::Write;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use super::dynamic::Dynamic;
use super::reader::{Reader, u32_at};
use super::*;
use crate::refusal::Rule;

fn file_of(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn inspect_bytes(bytes: &[u8]) -> Result<NoteInfo, Refusal> {
    inspect(&file_of(bytes), bytes.len() as u64)
}

/// Returns the bytes of a library that is no plugin: the test program's libc.
fn library() -> Vec<u8> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let path = maps.lines().filter_map(|l| l.split_whitespace().nth(5)).find(|p| p.contains("libc.so")).unwrap();
    std::fs::read(path).unwrap()
}

/// A valid plugin, made from `sum.c`. Its hash table has the style that `new` gets: `gnu` or `sysv`.
struct Plugin {
    bytes: Vec<u8>,
    headers: header::Headers,
    dynamic: Dynamic,
}

impl Plugin {
    fn new(style: &str) -> Plugin {
        let home = Path::new(env!("CARGO_MANIFEST_DIR"));
        let dir = tempfile::tempdir().unwrap();
        let (out, style) = (dir.path().join("plugin.so"), format!("-Wl,--hash-style={style}"));
        let mut cc = Command::new("cc");
        cc.args(["-std=c11", "-D_GNU_SOURCE", "-shared", "-fPIC", "-pthread", &style, "-I"]);
        cc.arg(home.join("include")).arg(home.join("tests/c/sum.c")).arg("-o").arg(&out);
        assert!(cc.status().expect("these tests need a C compiler, cc").success());
        let bytes = std::fs::read(out).unwrap();
        let (file, size) = (file_of(&bytes), bytes.len() as u64);
        let reader = Reader { file: &file, size };
        let headers = header::read(&reader).unwrap();
        let dynamic = dynamic::read(&reader, &headers).unwrap();
        Plugin { bytes, headers, dynamic }
    }

    /// Returns the offset in the file of the byte with this address.
    fn at(&self, address: u64) -> usize {
        self.headers.offset(address, "a part of the plugin").unwrap() as usize
    }

    /// Returns the ranges that are read when the entry is looked up: the dynamic section, the hash table, the symbols
    /// and their names.
    fn looked_up(&self) -> Vec<Range<usize>> {
        let segment = self.headers.of(header::DYNAMIC).next().unwrap();
        let (d, begin) = (&self.dynamic, segment.offset as usize);
        let hash = self.at(d.gnu_hash.or(d.hash).unwrap());
        let (symbols, names) = (self.at(d.symbols), self.at(d.strings));
        let end = [hash + 64, names, symbols + 24 * 8].into_iter().max().unwrap();
        vec![
            begin..begin + segment.in_file as usize,
            hash..hash + 64,
            symbols..end.min(self.bytes.len()),
            names..names + d.strings_size as usize,
        ]
    }
}

#[test]
fn a_library_without_a_note_is_no_plugin() {
    assert_eq!(inspect_bytes(&library()).unwrap_err().rule, Rule::Note);
}

struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }
}

#[test]
fn truncated_or_damaged_files_are_rejected() {
    let whole = library();
    for len in (0..4096).step_by(7).chain((4096..whole.len()).step_by(65_537)) {
        assert!(inspect_bytes(&whole[..len]).is_err());
    }
    let mut random = Random(1);
    for _ in 0..500 {
        let mut bytes = whole[..whole.len().min(1 << 16)].to_vec();
        for _ in 0..8 {
            bytes[random.below(1024)] = random.below(256) as u8;
        }
        assert!(inspect_bytes(&bytes).is_err());
    }
}

#[test]
fn damaged_symbol_tables_never_cause_a_panic() {
    for style in ["gnu", "sysv"] {
        let plugin = Plugin::new(style);
        let (file, size) = (file_of(&plugin.bytes), plugin.bytes.len() as u64);
        assert_eq!(inspect(&file, size).unwrap().name, "sum", "{style}");
        let mut random = Random(2);
        let (mut good, mut answers) = (0, BTreeSet::new());
        for _ in 0..1000 {
            for part in plugin.looked_up() {
                let places: Vec<usize> =
                    (0..1 + random.below(4)).map(|_| part.start + random.below(part.len())).collect();
                for at in &places {
                    let byte = [0, 0xff, random.below(256) as u8][random.below(3)];
                    file.write_all_at(&[byte], *at as u64).unwrap();
                }
                match inspect(&file, size) {
                    Ok(_) => good += 1,
                    Err(refusal) => drop(answers.insert((refusal.rule.name(), refusal.detail))),
                }
                for at in &places {
                    file.write_all_at(&plugin.bytes[*at..*at + 1], *at as u64).unwrap();
                }
            }
        }
        assert!(inspect(&file, size).is_ok(), "the original bytes were restored");
        let said = |rule: Rule, words: &str| answers.iter().any(|(r, what)| *r == rule.name() && what.contains(words));
        assert!(good > 0, "{style}");
        for (rule, words) in [
            (Rule::Entry, "does not export"),
            (Rule::Truncated, "hash table is at an address that no segment has"),
            (Rule::Truncated, "table of symbols is at an address that no segment has"),
            (Rule::Truncated, "names is at an address that no segment has"),
        ] {
            assert!(said(rule, words), "{style}: {words:?} is none of {answers:?}");
        }
    }
}

#[test]
fn an_endless_hash_chain_is_rejected() {
    let mut plugin = Plugin::new("sysv");
    let table = plugin.at(plugin.dynamic.hash.unwrap());
    let word = |bytes: &[u8], i: usize| u32_at(bytes, table + 4 * i) as usize;
    let buckets = word(&plugin.bytes, 0);
    // All buckets lead to symbol 1, and symbol 1 leads to itself.
    assert!(word(&plugin.bytes, 1) > 1);
    for i in (2..2 + buckets).chain([2 + buckets + 1]) {
        plugin.bytes[table + 4 * i..][..4].copy_from_slice(&1u32.to_le_bytes());
    }
    let refusal = inspect_bytes(&plugin.bytes).unwrap_err();
    assert!(refusal.rule == Rule::Truncated && refusal.detail.contains("has no end"), "{refusal}");
}
