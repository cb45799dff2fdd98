//! The prefix of a group's keys in the store.

use super::hello::{Nonce, hex};

/// Returns the prefix of a group's keys. The prefix of a sub-group contains the id of the parent group's session and
/// the sub-group's name, but not the parent's prefix. A name of more than 256 bytes is replaced by its beginning and a
/// hash.
pub(in crate::group) fn key_prefix(parent: Option<&Nonce>, name: &str) -> String {
    /// The largest length of a name in bytes. It is limited since stores limit the length of keys.
    const LONGEST: usize = 256;
    let prefix = parent.map_or(String::new(), |session| format!("{}/", hex(session)));
    if name.len() <= LONGEST {
        return format!("group/{prefix}{name}");
    }
    // The FNV-1a hash, which is the same on every rank.
    let mix = |hash: u128, byte: u8| (hash ^ u128::from(byte)).wrapping_mul(0x0100_0000_0000_0000_0000_013b);
    let hash = name.bytes().fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d, mix);
    let start: String = name.chars().take(32).collect();
    format!("group/{prefix}{start}...{hash:032x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_name_gives_a_short_prefix_of_its_own() {
        assert_eq!(key_prefix(None, "default"), "group/default");
        assert_eq!(key_prefix(Some(&[1; 16]), "3.0"), format!("group/{}/3.0", "01".repeat(16)));
        let (a, b) = ("\u{e9}".repeat(5000), format!("{}x", "\u{e9}".repeat(4999)));
        assert!(key_prefix(None, &a).len() < 256 && key_prefix(None, &a) != key_prefix(None, &b));
        assert_eq!(key_prefix(None, &a), key_prefix(None, &a));
    }
}
