//! The libnccl of this process: its file, its version, its functions.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use c10d_core::library::{Mapping, mappings, words};
use c10d_core::process::PerProcess;
use c10d_core::sync::Mutex;
use c10d_core::{Error, ErrorKind, Result, Status};
use libloading::os::unix::{Library as Handle, RTLD_LOCAL, RTLD_NOW};

use super::search::Surroundings;
use super::types::{Comm, Config, DataType, NcclResult, RedOp, UniqueId, Version};

/// The oldest version that is accepted. The backend needs non-blocking calls (2.14) and `ncclCommSplit` (2.18).
const OLDEST: Version = Version::new(2, 18, 0);

/// The file name of each libnccl begins with this text. The file names of NCCL's plugins do not.
const SONAME: &str = "libnccl.so";

macro_rules! functions {
    (
        required { $($name:ident $symbol:literal ($($arg:ty),*);)* }
        optional { $($opt:ident $opt_symbol:literal ($($opt_arg:ty),*);)* }
    ) => {
        pub(super) struct Functions {
            $(pub(super) $name: unsafe extern "C" fn($($arg),*) -> NcclResult,)*
            $(pub(super) $opt: Option<unsafe extern "C" fn($($opt_arg),*) -> NcclResult>,)*
            pub(super) error_string: unsafe extern "C" fn(NcclResult) -> *const c_char,
            pub(super) last_error: Option<unsafe extern "C" fn(Comm) -> *const c_char>,
        }

        impl Functions {
            /// Finds the functions, or returns the names of the required ones that are missing.
            ///
            /// # Safety
            /// The handle is a libnccl, so that its functions have the declared types.
            unsafe fn find(handle: &Handle) -> std::result::Result<Functions, Vec<&'static str>> {
                let mut missing = Vec::new();
                // SAFETY: the caller guarantees that the functions have these types.
                $(let $name = unsafe { handle.get(concat!($symbol, "\0").as_bytes()) }.map(|s| *s)
                    .map_err(|_| missing.push($symbol));)*
                // SAFETY: the same as above.
                $(let $opt = unsafe { handle.get(concat!($opt_symbol, "\0").as_bytes()) }.map(|s| *s).ok();)*
                // SAFETY: the same as above.
                let error_string = unsafe { handle.get(b"ncclGetErrorString\0") }.map(|s| *s)
                    .map_err(|_| missing.push("ncclGetErrorString"));
                // SAFETY: the same as above.
                let last_error = unsafe { handle.get(b"ncclGetLastError\0") }.map(|s| *s).ok();
                match (($($name,)*), error_string) {
                    (($(Ok($name),)*), Ok(error_string)) => {
                        Ok(Functions { $($name,)* $($opt,)* error_string, last_error })
                    }
                    _ => Err(missing),
                }
            }
        }
    };
}

type Mut = *mut c_void;
type Const = *const c_void;

functions! {
    required {
        get_version "ncclGetVersion" (*mut c_int);
        get_unique_id "ncclGetUniqueId" (*mut UniqueId);
        init_rank_config "ncclCommInitRankConfig" (*mut Comm, c_int, UniqueId, c_int, *mut Config);
        split "ncclCommSplit" (Comm, c_int, c_int, *mut Comm, *mut Config);
        finalize "ncclCommFinalize" (Comm);
        destroy "ncclCommDestroy" (Comm);
        abort "ncclCommAbort" (Comm);
        get_async_error "ncclCommGetAsyncError" (Comm, *mut NcclResult);
        group_start "ncclGroupStart" ();
        group_end "ncclGroupEnd" ();
        premul_sum "ncclRedOpCreatePreMulSum" (*mut RedOp, Mut, DataType, c_int, Comm);
        destroy_op "ncclRedOpDestroy" (RedOp, Comm);
        all_reduce "ncclAllReduce" (Const, Mut, usize, DataType, RedOp, Comm, Mut);
        reduce "ncclReduce" (Const, Mut, usize, DataType, RedOp, c_int, Comm, Mut);
        broadcast "ncclBroadcast" (Const, Mut, usize, DataType, c_int, Comm, Mut);
        all_gather "ncclAllGather" (Const, Mut, usize, DataType, Comm, Mut);
        reduce_scatter "ncclReduceScatter" (Const, Mut, usize, DataType, RedOp, Comm, Mut);
        send "ncclSend" (Const, usize, DataType, c_int, Comm, Mut);
        recv "ncclRecv" (Mut, usize, DataType, c_int, Comm, Mut);
    }
    optional {
        init_rank_scalable "ncclCommInitRankScalable" (*mut Comm, c_int, c_int, c_int, *mut UniqueId, *mut Config);
        all_to_all "ncclAlltoAll" (Const, Mut, usize, DataType, Comm, Mut);
        shrink "ncclCommShrink" (Comm, *mut c_int, c_int, *mut Comm, *mut Config, c_int);
    }
}

/// A libnccl that was loaded and checked.
pub(crate) struct Library {
    pub(super) functions: Functions,
    pub(crate) path: PathBuf,
    pub(crate) version: Version,
    /// The path with which the library was opened.
    asked: PathBuf,
    _handle: Handle,
}

/// The only libnccl of the process. It is loaded at its first use, and never unloaded, since its threads keep running.
static LOADED: PerProcess<Mutex<Option<Arc<Library>>>> = PerProcess::new();

impl Library {
    /// Returns the libnccl of this process. `argument` is a file that the caller requires.
    ///
    /// # Errors
    /// `Unsupported` if there is no usable library (the error has everything that was tried), or if the process uses
    /// another libnccl than `argument` already.
    pub(crate) fn get(argument: Option<&str>) -> Result<Arc<Library>> {
        let mut loaded = LOADED.get().lock();
        if let Some(library) = &*loaded {
            return match argument {
                Some(path) if !library.is(Path::new(path)) => Err(unusable(format!(
                    "{} is loaded in this process already, and a second libnccl, {path}, cannot be used beside it; \
                     use one of them",
                    library.path.display()
                ))),
                _ => Ok(library.clone()),
            };
        }
        let library = Arc::new(Self::search(&Surroundings::of_process(argument))?);
        let (path, version) = (library.path.display(), library.version);
        tracing::info!(target: "c10d", %path, %version, "NCCL loaded");
        *loaded = Some(library.clone());
        Ok(library)
    }

    fn is(&self, path: &Path) -> bool {
        let real = |p: &Path| std::fs::canonicalize(p).ok();
        path == self.asked || real(path).is_some_and(|p| Some(p) == real(&self.path))
    }

    pub(super) fn search(surroundings: &Surroundings) -> Result<Library> {
        let candidates = surroundings.candidates().map_err(unusable)?;
        let mut tried = Vec::new();
        for path in &candidates {
            match Self::open(path) {
                Ok(library) => return Ok(library),
                Err(why) => tried.push(format!("{}: {why}", path.display())),
            }
        }
        Err(unusable(format!(
            "there is no usable libnccl; tried {}. Install NCCL, or set {} to its file",
            tried.join("; "),
            super::search::VARIABLE
        )))
    }

    fn open(path: &Path) -> std::result::Result<Library, String> {
        // SAFETY: loading runs the library's constructors. The user decides which file is loaded.
        let handle = unsafe { Handle::open(Some(path), RTLD_NOW | RTLD_LOCAL) }.map_err(|e| words(&e))?;
        // SAFETY: the declared types are those of NCCL's documented interface.
        let found = unsafe { Functions::find(&handle) };
        let mut version = 0;
        // SAFETY: the same as above. This function is looked up separately, so that the version can be reported even if
        // the library is too old.
        let get_version = unsafe { handle.get::<unsafe extern "C" fn(*mut c_int) -> NcclResult>(b"ncclGetVersion\0") };
        let get_version = get_version.map_err(|_| "is no libnccl: it has no ncclGetVersion".to_owned())?;
        // SAFETY: it writes one integer, to `version`.
        let result = unsafe { get_version(&mut version) };
        if result != NcclResult::SUCCESS {
            return Err(format!("ncclGetVersion failed: {result:?}"));
        }
        let version = Version(version);
        if version < OLDEST {
            return Err(format!("it is NCCL {version}; {OLDEST} or later is needed"));
        }
        let functions = found.map_err(|missing| format!("NCCL {version} lacks {}", missing.join(", ")))?;
        let mappings = mappings().unwrap_or_default();
        let own = mappings.iter().find(|m| m.contains(functions.get_version as usize));
        let own_file = own.map(|m| m.file.clone());
        let other = mappings.iter().find(|m| is_libnccl(m) && Some(&m.file) != own_file.as_ref());
        if let (Some(_), Some(other)) = (own, other) {
            return Err(format!(
                "another libnccl, {}, is loaded in this process already; give that file instead",
                other.path.display()
            ));
        }
        let path_loaded = own.map_or_else(|| path.to_owned(), |m| m.path.clone());
        Ok(Library { functions, path: path_loaded, version, asked: path.to_owned(), _handle: handle })
    }
}

/// Returns whether the file has the name of NCCL itself.
fn is_libnccl(mapping: &Mapping) -> bool {
    mapping.is_called(SONAME)
}

fn unusable(what: impl Into<String>) -> Error {
    let mut error = Error::new(ErrorKind::Unsupported, what);
    error.report_mut().status = Status::Rejected;
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_of_nccl_is_not_nccl() {
        let named = |path: &str| Mapping { path: path.into(), ..mappings().unwrap().swap_remove(0) };
        assert!(["/opt/a/libnccl.so.2", "/opt/with space/libnccl.so.2.30"].map(named).iter().all(is_libnccl));
        assert!(!["/usr/lib/libc.so.6", "/usr/lib/libnccl-net.so"].map(named).iter().any(is_libnccl));
    }
}
