//! The files that are mapped into this process.

use std::path::{Path, PathBuf};

use c10d_core::library::{self, Mapping};

/// Returns whether the file has the name of a library with the standard ABI.
pub(super) fn has_standard_abi(mapping: &Mapping) -> bool {
    mapping.is_called("libmpi_abi.so")
}

/// Returns whether the file has the name of an MPI library, with any ABI.
pub(super) fn is_mpi(mapping: &Mapping) -> bool {
    has_standard_abi(mapping) || mapping.is_called("libmpi.so")
}

/// Returns whether the file has the name of libfabric.
pub(super) fn is_fabric(mapping: &Mapping) -> bool {
    mapping.is_called("libfabric.so")
}

/// Returns all mappings of files in the order of their addresses, or an empty list if the system does not provide them.
pub(super) fn mappings() -> Vec<Mapping> {
    library::mappings().unwrap_or_default()
}

/// Removes the names of the MPI library's shared memory segments. Otherwise the segments would remain in `/dev/shm` if
/// a rank ended without `MPI_Finalize`. Before this call, all ranks of this host must have opened the segments.
pub(crate) fn unlink_segments() {
    let mut paths: Vec<PathBuf> = mappings().into_iter().map(|m| m.path).filter(|path| is_segment(path)).collect();
    paths.dedup();
    for path in paths {
        // Another rank of the host may have removed the name first.
        let _ = std::fs::remove_file(path);
    }
}

fn is_segment(path: &Path) -> bool {
    let name = path.strip_prefix("/dev/shm").ok().and_then(Path::to_str).unwrap_or_default();
    name.starts_with("mpich_shm_") && !name.contains(' ')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_recognised_by_their_names() {
        let named = |path: &str| Mapping { path: path.into(), ..mappings().swap_remove(0) };
        let [abi, other] = ["/opt/a/libmpi_abi.so.1", "/opt/with space/libmpi.so.12.0"].map(named);
        assert!(is_mpi(&abi) && has_standard_abi(&abi) && is_mpi(&other) && !has_standard_abi(&other));
        assert!(!is_mpi(&named("/usr/lib/libmpifort.so.12")), "libmpifort is not the MPI library");
        assert!(is_segment(Path::new("/dev/shm/mpich_shm_12_0")));
        assert!(!is_segment(Path::new("/dev/shm/mpich_shm_12_0 (deleted)")));
    }
}
