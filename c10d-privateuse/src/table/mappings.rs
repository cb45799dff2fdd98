//! The memory map of this process, with which a plugin's pointers are checked before they are followed.

use crate::refusal::{Refusal, Rule};

struct Region {
    begin: usize,
    end: usize,
    readable: bool,
    executable: bool,
}

/// The mappings of this process at one moment.
pub(super) struct Mappings(Vec<Region>);

impl Mappings {
    pub(super) fn now() -> Result<Mappings, Refusal> {
        let maps = std::fs::read_to_string("/proc/self/maps");
        let maps =
            maps.map_err(|e| Refusal::new(Rule::Table, format!("cannot check its pointers: /proc/self/maps: {e}")))?;
        Ok(Mappings(maps.lines().filter_map(region).collect()))
    }

    /// Whether these bytes can be read. They may lie in several mappings, one after the other.
    pub(super) fn readable(&self, address: usize, len: usize) -> bool {
        let Some(end) = address.checked_add(len) else { return false };
        let mut at = address;
        for r in &self.0 {
            if r.begin <= at && at < r.end {
                if !r.readable {
                    return false;
                }
                at = r.end;
            }
            if at >= end {
                return true;
            }
        }
        false
    }

    /// Whether code can be there.
    pub(super) fn executable(&self, address: usize) -> bool {
        self.0.iter().any(|r| r.executable && (r.begin..r.end).contains(&address))
    }
}

fn region(line: &str) -> Option<Region> {
    let (range, rest) = line.split_once(' ')?;
    let (begin, end) = range.split_once('-')?;
    let flags = rest.as_bytes();
    Some(Region {
        begin: usize::from_str_radix(begin, 16).ok()?,
        end: usize::from_str_radix(end, 16).ok()?,
        readable: flags.first() == Some(&b'r'),
        executable: flags.get(2) == Some(&b'x'),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_data_and_nothing() {
        let mappings = Mappings::now().unwrap();
        let (on_stack, code) = (7u64, code_data_and_nothing as *const () as usize);
        assert!(mappings.readable(&raw const on_stack as usize, 8));
        assert!(mappings.executable(code) && !mappings.executable(&raw const on_stack as usize));
        assert!(!mappings.readable(16, 8) && !mappings.readable(usize::MAX - 4, 8));
    }
}
