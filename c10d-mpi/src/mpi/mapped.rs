//! The files that are mapped into this process.

use std::ops::Range;
use std::path::{Path, PathBuf};

/// One mapping of a file.
#[derive(Debug, PartialEq)]
pub(super) struct Mapping {
    addresses: Range<u64>,
    /// Device and inode, as the kernel prints them.
    pub(super) file: (String, u64),
    pub(super) path: PathBuf,
}

impl Mapping {
    pub(super) fn contains(&self, address: u64) -> bool {
        self.addresses.contains(&address)
    }

    fn is_called(&self, begin: &str) -> bool {
        self.path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(begin))
    }

    /// Whether the file has the name of a library with the standard ABI.
    pub(super) fn has_standard_abi(&self) -> bool {
        self.is_called("libmpi_abi.so")
    }

    /// Whether the file has the name of an MPI library, with any ABI.
    pub(super) fn is_mpi(&self) -> bool {
        self.has_standard_abi() || self.is_called("libmpi.so")
    }

    /// Whether the file has the name of libfabric.
    pub(super) fn is_fabric(&self) -> bool {
        self.is_called("libfabric.so")
    }
}

/// All of them, in the order of addresses.
pub(super) fn mappings() -> Vec<Mapping> {
    std::fs::read_to_string("/proc/self/maps").map(|maps| parse(&maps)).unwrap_or_default()
}

/// Removes the names of the library's shared segments. All ranks of this host have opened them by now, and a rank that
/// ends without `MPI_Finalize` would leave their memory in use.
pub(crate) fn unlink_segments() {
    let mut paths: Vec<PathBuf> = mappings().into_iter().filter(|m| is_segment(&m.path)).map(|m| m.path).collect();
    paths.dedup();
    for path in paths {
        // Another rank of the host may have removed it first.
        let _ = std::fs::remove_file(path);
    }
}

fn is_segment(path: &Path) -> bool {
    let name = path.strip_prefix("/dev/shm").ok().and_then(Path::to_str).unwrap_or_default();
    name.starts_with("mpich_shm_") && !name.contains(' ')
}

fn parse(maps: &str) -> Vec<Mapping> {
    let line = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let (from, to) = fields.next()?.split_once('-')?;
        let hex = |digits: &str| u64::from_str_radix(digits, 16).ok();
        let (device, inode) = (fields.nth(2)?, fields.next()?.parse::<u64>().ok()?);
        // The path is the rest of the line, whatever it contains.
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
7f00-7f10 r--p 00000000 fe:00 101 /opt/a/libmpi_abi.so.1
7f20-7f30 r-xp 00010000 fe:00 102 /opt/with space/libmpi.so.12.0
7f30-7f40 rw-p 00000000 00:00 0
7f40-7f50 r--p 00000000 fe:00 103 /usr/lib/libmpifort.so.12
7f50-7f60 rw-s 00000000 00:1a 104 /dev/shm/mpich_shm_12_0
7f60-7f70 rw-s 00000000 00:1a 105 /dev/shm/mpich_shm_12_0 (deleted)
";
        let found = parse(maps);
        let libraries: Vec<_> = found.iter().filter(|m| m.is_mpi()).map(|m| m.file.1).collect();
        assert_eq!(libraries, [101, 102], "and none of Fortran");
        assert!(found[0].has_standard_abi() && !found[1].has_standard_abi());
        assert!(found[1].contains(0x7f20) && !found[1].contains(0x7f30));
        let segments: Vec<_> = found.iter().filter(|m| is_segment(&m.path)).map(|m| m.file.1).collect();
        assert_eq!(segments, [104]);
    }
}
