//! The loaded libnccl: its file, its version, its functions.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use c10d_core::library::{mappings, words};
use c10d_core::process::PerProcess;
use c10d_core::sync::Mutex;
use c10d_core::{Error, ErrorKind, Result, Status};
use libloading::os::unix::{Library as Handle, RTLD_LOCAL, RTLD_NOW};

use super::search::Surroundings;
use super::types::{Comm, Config, DataType, NcclResult, RedOp, UniqueId, Version};

/// Older versions lack functions that the backend needs: non-blocking calls (2.14), split (2.18).
const OLDEST: Version = Version::new(2, 18, 0);

/// How a libnccl's file is called, and none of its plugins'.
const SONAME: &str = "libnccl.so";

macro_rules! functions {
    (
        required { $($name:ident $symbol:literal ($($arg:ty),*);)* }
        optional { $($opt:ident $opt_symbol:literal ($($opt_arg:ty),*);)* }
    ) => {
        /// The functions, with the library's own names.
        pub(super) struct Functions {
            $(pub(super) $name: unsafe extern "C" fn($($arg),*) -> NcclResult,)*
            $(pub(super) $opt: Option<unsafe extern "C" fn($($opt_arg),*) -> NcclResult>,)*
            pub(super) error_string: unsafe extern "C" fn(NcclResult) -> *const c_char,
            pub(super) last_error: Option<unsafe extern "C" fn(Comm) -> *const c_char>,
        }

        impl Functions {
            /// Finds all functions, or returns the names of the missing ones.
            ///
            /// # Safety
            /// The handle is a libnccl, so its functions have the declared types.
            unsafe fn find(handle: &Handle) -> std::result::Result<Functions, Vec<&'static str>> {
                let mut missing = Vec::new();
                // SAFETY: the caller guarantees the types.
                $(let $name = unsafe { handle.get(concat!($symbol, "\0").as_bytes()) }.map(|s| *s)
                    .map_err(|_| missing.push($symbol));)*
                // SAFETY: as above.
                $(let $opt = unsafe { handle.get(concat!($opt_symbol, "\0").as_bytes()) }.map(|s| *s).ok();)*
                // SAFETY: as above.
                let error_string = unsafe { handle.get(b"ncclGetErrorString\0") }.map(|s| *s)
                    .map_err(|_| missing.push("ncclGetErrorString"));
                // SAFETY: as above.
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
    /// The path of its file.
    pub(crate) path: PathBuf,
    pub(crate) version: Version,
    /// The name with which it was opened.
    asked: PathBuf,
    _handle: Handle,
}

/// The only libnccl of the process. It is loaded at its first use and never unloaded, since it leaves threads running.
static LOADED: PerProcess<Mutex<Option<Arc<Library>>>> = PerProcess::new();

impl Library {
    /// The libnccl of this process. `argument` is a file that the caller requires.
    ///
    /// # Errors
    /// `Unsupported`, with everything that was tried, if no usable library exists.
    pub(crate) fn get(argument: Option<&str>) -> Result<Arc<Library>> {
        let mut loaded = LOADED.get().lock();
        if let Some(library) = &*loaded {
            return match argument {
                Some(path) if !library.is(Path::new(path)) => Err(unusable(format!(
                    "{} is loaded in this process already; a second libnccl, {path}, beside it would not know of the \
                     first: use one",
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
            "no usable libnccl; tried {}. Install NCCL, or set {} to the file",
            tried.join("; "),
            super::search::VARIABLE
        )))
    }

    fn open(path: &Path) -> std::result::Result<Library, String> {
        // SAFETY: loading runs the library's constructors; the user decides which file may be loaded.
        let handle = unsafe { Handle::open(Some(path), RTLD_NOW | RTLD_LOCAL) }.map_err(|e| words(&e))?;
        // SAFETY: the functions' declarations are those of NCCL's documented interface.
        let found = unsafe { Functions::find(&handle) };
        let mut version = 0;
        // SAFETY: as above. This function is looked up separately, so that the version of a library that is too old can
        // be reported.
        let get_version = unsafe { handle.get::<unsafe extern "C" fn(*mut c_int) -> NcclResult>(b"ncclGetVersion\0") };
        let get_version = get_version.map_err(|_| "is no libnccl: it has no ncclGetVersion".to_owned())?;
        // SAFETY: writes one integer.
        let result = unsafe { get_version(&mut version) };
        if result != NcclResult::SUCCESS {
            return Err(format!("its version cannot be had: {result:?}"));
        }
        let version = Version(version);
        if version < OLDEST {
            return Err(format!("is NCCL {version}; {OLDEST} or later is needed"));
        }
        let functions = found.map_err(|missing| format!("NCCL {version} lacks {}", missing.join(", ")))?;
        let mappings = mappings().unwrap_or_default();
        let own = mappings.iter().find(|m| m.contains(functions.get_version as usize));
        let own_file = own.map(|m| m.file.clone());
        let other = mappings.iter().find(|m| m.is_called(SONAME) && Some(&m.file) != own_file.as_ref());
        if let (Some(_), Some(other)) = (own, other) {
            return Err(format!(
                "another libnccl, {}, is in this process already and would not know of this one; name that file instead",
                other.path.display()
            ));
        }
        let path_loaded = own.map_or_else(|| path.to_owned(), |m| m.path.clone());
        Ok(Library { functions, path: path_loaded, version, asked: path.to_owned(), _handle: handle })
    }
}

fn unusable(what: impl Into<String>) -> Error {
    let mut error = Error::new(ErrorKind::Unsupported, what);
    error.report_mut().status = Status::Rejected;
    error
}
