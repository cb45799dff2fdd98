//! Allocates memory for results and received data. If there is not enough memory, the allocation returns an error
//! before anything is written.

use c10d_core::{Element, Error, Result, buffer};

/// Allocations of fewer bytes than this are not compared with the available memory of the system.
const LARGE: usize = 256 << 20;

/// Allocates `rows` rows of `row` zeros.
///
/// # Errors
/// `Resource` if there is not enough memory.
pub(crate) fn zeroed<V: Element>(rows: usize, row: usize) -> Result<Vec<V>> {
    let count = count_of::<V>(rows, row)?;
    buffer::zeroed(count).ok_or_else(|| none::<V>(rows, row, "refused by the system"))
}

/// Allocates capacity for `count` elements.
///
/// # Errors
/// `Resource` if there is not enough memory.
pub(crate) fn room_for<T>(count: usize) -> Result<Vec<T>> {
    let mut room = Vec::new();
    room.try_reserve_exact(count_of::<T>(count, 1)?).map_err(|_| none::<T>(count, 1, "refused by the system"))?;
    Ok(room)
}

fn none<T>(rows: usize, row: usize, why: &str) -> Error {
    let what = format!("no memory for {rows} entries of {row} elements of {} bytes: {why}", size_of::<T>());
    Error::no_memory(what)
}

/// Returns the number of elements in `rows` rows of `row` elements, or an error if memory cannot hold them.
fn count_of<T>(rows: usize, row: usize) -> Result<usize> {
    let count = rows.checked_mul(row);
    let bytes = count.and_then(|count| count.checked_mul(size_of::<T>())).filter(|b| isize::try_from(*b).is_ok());
    let (Some(count), Some(bytes)) = (count, bytes) else {
        return Err(none::<T>(rows, row, "more than any machine has"));
    };
    if bytes >= LARGE
        && let Some(available) = available()
        && bytes > available
    {
        // The system would allow the allocation, and kill the process when it writes to the memory.
        return Err(none::<T>(rows, row, &format!("{available} bytes are available")));
    }
    Ok(count)
}

/// Returns the number of bytes that can be used before the system kills processes, or `None` if it is not known.
fn available() -> Option<usize> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kilobytes: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use c10d_core::ErrorKind;

    use super::*;

    #[test]
    fn too_large_allocations_are_an_error() {
        assert_eq!(zeroed::<u32>(3, 2).unwrap(), [0; 6]);
        assert!(zeroed::<u32>(0, usize::MAX).unwrap().is_empty());
        for (rows, row) in [(usize::MAX, 2), (usize::MAX / 2, 1), (1 << 40, 64)] {
            let e = zeroed::<u64>(rows, row).unwrap_err();
            assert_eq!(*e.kind(), ErrorKind::Resource, "{e}");
            let e = room_for::<[u64; 64]>(rows).unwrap_err();
            assert_eq!(*e.kind(), ErrorKind::Resource, "{e}");
        }
    }
}
