//! Any bytes are an answer, never a panic.

use std::io::Write;

use super::*;
use crate::load::rule::Rule;

fn inspect_bytes(bytes: &[u8]) -> Result<Facts, Refusal> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    inspect(&file, bytes.len() as u64)
}

/// A library of this machine that is no plugin: the test program's own libc.
fn library() -> Vec<u8> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let path = maps.lines().filter_map(|l| l.split_whitespace().nth(5)).find(|p| p.contains("libc.so")).unwrap();
    std::fs::read(path).unwrap()
}

#[test]
fn a_library_without_a_note_is_no_plugin() {
    assert_eq!(inspect_bytes(&library()).unwrap_err().rule, Rule::Note);
}

#[test]
fn whatever_is_cut_or_flipped_is_refused() {
    let whole = library();
    for len in (0..4096).step_by(7).chain((4096..whole.len()).step_by(65_537)) {
        assert!(inspect_bytes(&whole[..len]).is_err());
    }
    let mut state = 1u64;
    for _ in 0..500 {
        let mut bytes = whole[..whole.len().min(1 << 16)].to_vec();
        for _ in 0..8 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = (state >> 33) as usize % 1024;
            bytes[at] = (state >> 20) as u8;
        }
        assert!(inspect_bytes(&bytes).is_err());
    }
}
