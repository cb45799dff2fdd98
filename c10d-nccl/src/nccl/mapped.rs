//! The files that are mapped into this process.

use std::ops::Range;
use std::path::PathBuf;

/// One mapping of a file.
#[derive(Debug, PartialEq)]
pub(super) struct Mapping {
    addresses: Range<u64>,
    /// Device and inode, in the kernel's format.
    pub(super) file: (String, u64),
    pub(super) path: PathBuf,
}

impl Mapping {
    pub(super) fn contains(&self, address: u64) -> bool {
        self.addresses.contains(&address)
    }

    /// Whether the file has the name of a libnccl, and not of one of its plugins.
    pub(super) fn is_libnccl(&self) -> bool {
        self.path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("libnccl.so"))
    }
}

/// All mappings, in the order of addresses.
pub(super) fn mappings() -> Vec<Mapping> {
    std::fs::read_to_string("/proc/self/maps").map(|maps| parse(&maps)).unwrap_or_default()
}

fn parse(maps: &str) -> Vec<Mapping> {
    let line = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let (from, to) = fields.next()?.split_once('-')?;
        let hex = |digits: &str| u64::from_str_radix(digits, 16).ok();
        let (device, inode) = (fields.nth(2)?, fields.next()?.parse::<u64>().ok()?);
        // The path is the rest of the line, and may contain any characters.
        let path = PathBuf::from(&line[line.find('/')?..]);
        Some(Mapping { addresses: hex(from)?..hex(to)?, file: (device.to_owned(), inode), path })
    };
    maps.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_files() {
        let maps = "\
7f00-7f10 r--p 00000000 fe:00 101 /opt/a/libnccl.so.2
7f20-7f30 r-xp 00010000 fe:00 102 /opt/with space/libnccl.so.2.30
7f30-7f40 rw-p 00000000 00:00 0
7f40-7f50 r--p 00000000 fe:00 103 /usr/lib/libc.so.6
7f50-7f60 r--p 00000000 fe:00 104 /usr/lib/libnccl-net.so
";
        let found = parse(maps);
        assert_eq!(found.len(), 4);
        let libraries: Vec<_> = found.iter().filter(|m| m.is_libnccl()).map(|m| m.file.1).collect();
        assert_eq!(libraries, [101, 102], "neither libc nor a plugin");
        assert!(found[1].path.ends_with("with space/libnccl.so.2.30"));
        assert!(found[1].contains(0x7f20) && !found[1].contains(0x7f30));
    }
}
