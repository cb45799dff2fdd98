//! The environment in which the MPI library starts: the process's environment variables, and libfabric, which is loaded
//! here if the MPI library would not find it by itself.
#![allow(unsafe_code)]

use std::ffi::OsString;
use std::path::Path;

use c10d_core::library::words;
use libloading::os::unix::{Library as Handle, RTLD_LOCAL, RTLD_NOW};

use super::library::{Kind, Library};
use super::mapped::{is_fabric, mappings};

/// Runs `call` while the environment variables in `values` have these values (`None` removes a variable). Restores the
/// variables afterwards, since children of this process must not inherit the values. A call of this function is unsound
/// if another thread reads or writes the environment by functions of C at the same time. (Rust's own functions use a
/// lock.) `docs/cluster.md` tells users how to avoid this.
pub(crate) fn with_variables<T>(values: &[(&str, Option<String>)], call: impl FnOnce() -> T) -> T {
    let own: Vec<(&str, Option<OsString>)> = values.iter().map(|(name, _)| (*name, std::env::var_os(name))).collect();
    let set = |name: &str, value: Option<OsString>| match value {
        // SAFETY: this is sound if no other thread uses the environment by functions of C now, as the function's doc
        // says. There is no other way to pass the values to a library in this process.
        Some(value) => unsafe { std::env::set_var(name, value) },
        // SAFETY: as for `set_var`.
        None => unsafe { std::env::remove_var(name) },
    };
    values.iter().for_each(|(name, value)| set(name, value.clone().map(OsString::from)));
    let result = call();
    own.into_iter().for_each(|(name, value)| set(name, value));
    result
}

/// Registers a function that is called when the program ends, after `main`.
pub(crate) fn at_exit(call: extern "C" fn()) {
    // SAFETY: the function exists until the process ends, and does not unwind. If it cannot be registered, MPI is not
    // finalized.
    unsafe { libc::atexit(call) };
}

/// Loads the libfabric that is in the Python wheel of Intel MPI. The MPI library itself would find this libfabric only
/// through `LD_LIBRARY_PATH`. Returns the name and the value of the variable that MPI needs for this libfabric. Returns
/// `None` if the MPI library is not from this wheel, if the process already has a libfabric, or if the wheel's
/// libfabric cannot be loaded.
pub(crate) fn preload_fabric(library: &Library) -> Option<(&'static str, String)> {
    let folder = library.path.parent()?;
    let fabric = folder.join("libfabric.so.1");
    let is_wheel = library.kind == Kind::Intel && folder.join("libmpi_shm_heap_proxy.so").exists() && fabric.exists();
    if !is_wheel || mappings().iter().any(is_fabric) {
        return None;
    }
    load(&fabric)?;
    Some(("FI_PROVIDER_PATH", folder.to_str()?.to_owned()))
}

fn load(path: &Path) -> Option<()> {
    // SAFETY: loading runs the constructors of libfabric. The file belongs to the MPI library, in whose folder it is,
    // so it is trusted as much as the MPI library.
    match unsafe { Handle::open(Some(path), RTLD_NOW | RTLD_LOCAL) } {
        Ok(handle) => {
            std::mem::forget(handle);
            Some(())
        }
        Err(e) => {
            tracing::debug!(target: "c10d", "cannot load {}: {}", path.display(), words(&e));
            None
        }
    }
}
