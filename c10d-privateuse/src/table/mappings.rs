//! The memory map of this process. Before c10d reads through a pointer of a plugin, it checks the pointer against this
//! map.

use c10d_core::library::{Mapping, mappings};

use crate::refusal::{Refusal, Rule};

/// The mappings of this process at one moment.
pub(super) struct Mappings(Vec<Mapping>);

impl Mappings {
    pub(super) fn now() -> Result<Mappings, Refusal> {
        let why = |e| Refusal::new(Rule::Table, format!("cannot check its pointers: /proc/self/maps: {e}"));
        mappings().map(Mappings).map_err(why)
    }

    /// Whether all of these bytes are mapped and readable. They may be in several adjacent mappings.
    pub(super) fn readable(&self, address: usize, len: usize) -> bool {
        let Some(end) = address.checked_add(len) else { return false };
        let mut at = address;
        for r in &self.0 {
            if r.contains(at) {
                if !r.readable {
                    return false;
                }
                at = r.addresses.end;
            }
            if at >= end {
                return true;
            }
        }
        false
    }

    pub(super) fn executable(&self, address: usize) -> bool {
        self.0.iter().any(|r| r.executable && r.contains(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_know_readable_and_executable_addresses() {
        let mappings = Mappings::now().unwrap();
        let (on_stack, code) = (7u64, mappings_know_readable_and_executable_addresses as *const () as usize);
        assert!(mappings.readable(&raw const on_stack as usize, 8));
        assert!(mappings.executable(code) && !mappings.executable(&raw const on_stack as usize));
        assert!(!mappings.readable(16, 8) && !mappings.readable(usize::MAX - 4, 8));
    }
}
