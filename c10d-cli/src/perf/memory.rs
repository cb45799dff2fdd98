//! Buffers whose addresses have the same alignment in all compared runs.

use c10d::{Error, Result};

use super::layout::TensorList;
use super::sample::Sample;

const PAGE: usize = 4 << 10;
const HUGE_PAGE: usize = 2 << 20;

/// Memory for the inputs or for the outputs of a call. It begins at a page boundary or, from 2 MiB on, at a huge page
/// boundary.
pub(super) struct Memory<T> {
    room: Vec<T>,
    start: usize,
    list: TensorList,
}

impl<T: Sample> Memory<T> {
    pub(super) fn new(list: TensorList) -> Result<Memory<T>> {
        let bytes = list.elements() * size_of::<T>();
        let align = if bytes >= HUGE_PAGE { HUGE_PAGE } else { PAGE };
        let mut room = Vec::new();
        let length = list.elements() + align / size_of::<T>();
        room.try_reserve_exact(length)
            .map_err(|_| Error::no_memory(format!("no memory for a buffer of {bytes} bytes")).rejected())?;
        room.resize(length, T::whole(0));
        // Memory without elements has no meaningful address, so any start is valid.
        let start = room.as_ptr().align_offset(align).min(room.len() - list.elements());
        Ok(Memory { room, start, list })
    }

    /// Returns the tensors, which are one after the other in the memory.
    pub(super) fn tensors(&mut self) -> Vec<&mut [T]> {
        let TensorList { tensors, pieces, len } = self.list;
        let all = &mut self.room[self.start..self.start + self.list.elements()];
        match pieces * len {
            0 => (0..tensors).map(|_| Default::default()).collect(),
            each => all.chunks_mut(each).collect(),
        }
    }
}

/// Rejects buffers that need more memory than this host has available, or than a process may map. `of_one` is the
/// number of bytes that one rank needs, and `ranks` the number of ranks on this host.
pub(super) fn check_room(of_one: u128, ranks: u32, what: &str) -> std::result::Result<(), String> {
    let of_all = of_one * u128::from(ranks);
    match (left(), address_space()) {
        (Some(left), _) if of_all > left => Err(format!(
            "{what}: the buffers of {ranks} ranks take {}; the limit is the {} of memory that this host has left",
            amount(of_all),
            amount(left)
        )),
        (_, Some(most)) if of_one > most => Err(format!(
            "{what}: the buffers of a rank take {}; the limit is the {} that a process may map (ulimit -v)",
            amount(of_one),
            amount(most)
        )),
        _ => Ok(()),
    }
}

/// Returns the number of bytes that the operating system could still provide; `None` if `/proc/meminfo` does not say.
fn left() -> Option<u128> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.split_whitespace().next()?.parse::<u128>().ok()? << 10)
}

/// Returns the limit of this process's address space, if it has one.
fn address_space() -> Option<u128> {
    let text = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Max address space"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn amount(bytes: u128) -> String {
    let (unit, name) = match bytes {
        b if b >= 1 << 30 => (1u128 << 30, "GiB"),
        b if b >= 1 << 20 => (1 << 20, "MiB"),
        _ => (1, "bytes"),
    };
    format!("{} {name}", bytes.div_ceil(unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_are_aligned_and_cover_the_side() {
        for (tensors, pieces, len, align) in [(1, 1, 3, PAGE), (4, 3, 1000, PAGE), (2, 1, 1 << 20, HUGE_PAGE)] {
            let mut memory = Memory::<f32>::new(TensorList { tensors, pieces, len }).unwrap();
            let found = memory.tensors();
            assert_eq!(found.len(), tensors);
            assert!(found.iter().all(|t| t.len() == pieces * len));
            assert_eq!(found[0].as_ptr() as usize % align, 0);
        }
        assert_eq!(Memory::<u8>::new(TensorList { tensors: 3, pieces: 1, len: 0 }).unwrap().tensors().len(), 3);
    }

    #[test]
    fn buffers_larger_than_memory_are_rejected() {
        assert!(check_room(1 << 20, 2, "x").is_ok());
        let error = check_room(1 << 60, 4, "all_reduce of 1 bytes").unwrap_err();
        assert!(error.contains("of 4 ranks take 4294967296 GiB; the limit is"), "{error}");
        assert!(Memory::<f64>::new(TensorList { tensors: 1, pieces: 1, len: 1 << 58 }).is_err());
    }
}
