//! What a library finds when it starts: the process's variables, and a fabric library where none is there.
#![allow(unsafe_code)]

use std::ffi::OsString;
use std::path::Path;

use libloading::os::unix::{Library as Handle, RTLD_LOCAL, RTLD_NOW};

use super::library::{Kind, Library};
use super::mapped::mappings;

/// Runs a call with other values of some variables, `None` for a variable that must not be there, and gives them back
/// their own: children of this process must not take them for theirs. Not safe beside threads that read or write the
/// environment in C; Rust's own functions have a lock.
pub(crate) fn with_variables<T>(values: &[(&str, Option<String>)], call: impl FnOnce() -> T) -> T {
    let own: Vec<(&str, Option<OsString>)> = values.iter().map(|(name, _)| (*name, std::env::var_os(name))).collect();
    let set = |name: &str, value: Option<OsString>| match value {
        // SAFETY: as is said above. No other way tells a library in the same process.
        Some(value) => unsafe { std::env::set_var(name, value) },
        // SAFETY: as above.
        None => unsafe { std::env::remove_var(name) },
    };
    values.iter().for_each(|(name, value)| set(name, value.clone().map(OsString::from)));
    let result = call();
    own.into_iter().for_each(|(name, value)| set(name, value));
    result
}

/// Has a function called when the program ends, after its `main`.
pub(crate) fn at_exit(call: extern "C" fn()) {
    // SAFETY: the function is there as long as the process, and does not unwind. Where there is no room for it, the launcher
    // is told nothing at the end.
    unsafe { libc::atexit(call) };
}

/// Loads the libfabric of a Python wheel, which the library beside it finds only through `LD_LIBRARY_PATH`. Where the
/// process has one, or the library is a system's, that is left to the system.
pub(crate) fn preload_fabric(library: &Library) -> Option<(&'static str, String)> {
    let folder = library.path.parent()?;
    let fabric = folder.join("libfabric.so.1");
    let is_wheel = library.kind == Kind::Intel && folder.join("libmpi_shm_heap_proxy.so").exists() && fabric.exists();
    if !is_wheel || mappings().iter().any(|m| m.is_fabric()) {
        return None;
    }
    load(&fabric)?;
    Some(("FI_PROVIDER_PATH", folder.to_str()?.to_owned()))
}

fn load(path: &Path) -> Option<()> {
    // SAFETY: running a library's constructors is what loading is; it lies beside the MPI library, which would load it.
    match unsafe { Handle::open(Some(path), RTLD_NOW | RTLD_LOCAL) } {
        Ok(handle) => {
            std::mem::forget(handle);
            Some(())
        }
        Err(e) => {
            tracing::debug!(target: "c10d", "{} is not loaded: {}", path.display(), super::library::words(&e));
            None
        }
    }
}
