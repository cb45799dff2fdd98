//! For backends that load a shared library: which file the user asks for, and which files this process has mapped.

use std::error::Error;
use std::ops::Range;
use std::path::PathBuf;

/// A mapping of this process's memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Mapping {
    /// The range of addresses.
    pub addresses: Range<usize>,
    /// Whether the memory can be read.
    pub readable: bool,
    /// Whether code in the memory can be executed.
    pub executable: bool,
    /// Device (in the format of `/proc/self/maps`) and inode of the mapped file.
    pub file: (String, u64),
    /// The path of the mapped file; empty if no file is mapped.
    pub path: PathBuf,
}

impl Mapping {
    /// Returns whether this address is in the mapping.
    pub fn contains(&self, address: usize) -> bool {
        self.addresses.contains(&address)
    }

    /// Returns whether the name of the mapped file begins with `begin`.
    pub fn is_called(&self, begin: &str) -> bool {
        self.path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(begin))
    }
}

/// Returns all mappings of this process, in the order of addresses.
///
/// # Errors
/// If `/proc/self/maps` cannot be read.
pub fn mappings() -> std::io::Result<Vec<Mapping>> {
    std::fs::read_to_string("/proc/self/maps").map(|maps| maps.lines().filter_map(parse).collect())
}

fn parse(line: &str) -> Option<Mapping> {
    let mut fields = line.split_ascii_whitespace();
    let (from, to) = fields.next()?.split_once('-')?;
    let hex = |digits: &str| usize::from_str_radix(digits, 16).ok();
    let flags = fields.next()?.as_bytes();
    let (device, inode) = (fields.nth(1)?, fields.next()?.parse().ok()?);
    Some(Mapping {
        addresses: hex(from)?..hex(to)?,
        readable: flags.first() == Some(&b'r'),
        executable: flags.get(2) == Some(&b'x'),
        file: (device.to_owned(), inode),
        // The path may contain spaces.
        path: line.find('/').map(|at| PathBuf::from(&line[at..])).unwrap_or_default(),
    })
}

/// Returns the value of an environment variable without surrounding spaces. `None` if the variable is not set, empty or
/// not UTF-8.
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}

/// Returns the file that the user asks for: the `argument` that the builder was given, else the `value` of the
/// environment variable `name`. If the function returns a file, the caller must not try any other file.
///
/// ```
/// # use c10d_core::library::requested;
/// assert_eq!(requested(Some("./mine.so"), "A_LIB", Some("/opt/a.so")), Ok(Some("./mine.so".into())));
/// assert_eq!(requested(None, "A_LIB", Some("/opt/a.so")), Ok(Some("/opt/a.so".into())));
/// assert_eq!(requested(None, "A_LIB", None), Ok(None));
/// assert!(requested(None, "A_LIB", Some("a.so")).is_err());
/// ```
///
/// # Errors
/// Returns a text if the value of the variable is not an absolute path.
pub fn requested(argument: Option<&str>, name: &str, value: Option<&str>) -> Result<Option<PathBuf>, String> {
    match (argument, value.map(PathBuf::from)) {
        (Some(path), _) => Ok(Some(PathBuf::from(path))),
        (None, Some(path)) if !path.is_absolute() => Err(format!("{name} is {path:?}; it must be an absolute path")),
        (None, path) => Ok(path),
    }
}

/// Returns the message of the dynamic linker, which libloading stores as the source of its errors. Without a source,
/// returns the message of `error`.
pub fn words(error: &dyn Error) -> String {
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_with_and_without_files_are_parsed() {
        let maps = "\
7f00-7f10 r--p 00000000 fe:00 101 /opt/a/libmpi_abi.so.1
7f20-7f30 r-xp 00010000 fe:00 102 /opt/with space/libmpi.so.12.0
7f30-7f40 ---p 00000000 00:00 0
7f60-7f70 rw-s 00000000 00:1a 105 /dev/shm/mpich_shm_12_0 (deleted)
7f70-7f80 rw-p 00000000 00:00 0 [stack]
";
        let found: Vec<Mapping> = maps.lines().filter_map(parse).collect();
        let files: Vec<u64> = found.iter().map(|m| m.file.1).collect();
        assert_eq!(files, [101, 102, 0, 105, 0]);
        assert!(found[0].is_called("libmpi_abi.so") && !found[1].is_called("libmpi_abi.so"));
        assert!(!found[2].is_called("") && found[4].path.as_os_str().is_empty());
        assert!(found[1].path.ends_with("with space/libmpi.so.12.0"));
        assert!(found[1].contains(0x7f20) && !found[1].contains(0x7f30));
        let flags: Vec<_> = found.iter().map(|m| (m.readable, m.executable)).collect();
        assert_eq!(flags, [(true, false), (true, true), (false, false), (true, false), (true, false)]);
    }
}
