//! The loaded library: its file, its version and its functions.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_int, c_void};
use std::path::{Path, PathBuf};

use c10d_core::library::{Mapping, words};
use c10d_core::process::PerProcess;
use c10d_core::sync::Mutex;
use c10d_core::{Error, Result};
use libloading::os::unix::{Library as Handle, RTLD_LOCAL, RTLD_NOW};

use super::mapped::{has_standard_abi, is_mpi, mappings};
use super::search::Surroundings;
use super::types::{
    Datatype, Errhandler, Group, Info, MAX_LIBRARY_VERSION, Message, RawComm, Request, Session, Status,
};

/// The major version of the ABI to which the declarations here belong.
const ABI: c_int = 1;
/// Keeps a library loaded after its handle is closed: threads and signal handlers of MPI may still exist.
const RTLD_NODELETE: c_int = 0x1000;

macro_rules! functions {
    ($($name:ident $symbol:literal ($($arg:ty),*);)*) => {
        /// The functions, by their names in the standard without `MPI_` and without `_c`.
        pub(super) struct Functions {
            $(pub(super) $name: unsafe extern "C" fn($($arg),*) -> c_int,)*
        }

        impl Functions {
            /// Finds all functions. Returns the names of missing functions as an error.
            ///
            /// # Safety
            /// The handle is of a library with the standard ABI.
            unsafe fn find(handle: &Handle) -> std::result::Result<Functions, Vec<&'static str>> {
                let mut missing = Vec::new();
                // SAFETY: the caller guarantees the standard ABI, and the types are those of the standard.
                $(let $name = unsafe { handle.get(concat!($symbol, "\0").as_bytes()) }.map(|s| *s)
                    .map_err(|_| missing.push($symbol));)*
                match ($($name,)*) {
                    ($(Ok($name),)*) => Ok(Functions { $($name,)* }),
                    _ => Err(missing),
                }
            }
        }
    };
}

/// The type of an error handler. The standard's type is variadic. On x86-64 and AArch64, a function with only the named
/// arguments is called in the same way.
pub(super) type Handler = extern "C" fn(*mut RawComm, *mut c_int);

type P = *const c_void;
type M = *mut c_void;

functions! {
    initialized "MPI_Initialized" (*mut c_int);
    finalized "MPI_Finalized" (*mut c_int);
    init_thread "MPI_Init_thread" (P, P, c_int, *mut c_int);
    finalize "MPI_Finalize" ();
    query_thread "MPI_Query_thread" (*mut c_int);
    session_init "MPI_Session_init" (Info, Errhandler, *mut Session);
    session_finalize "MPI_Session_finalize" (*mut Session);
    info_create "MPI_Info_create" (*mut Info);
    info_set "MPI_Info_set" (Info, *const c_char, *const c_char);
    comm_group "MPI_Comm_group" (RawComm, *mut Group);
    group_incl "MPI_Group_incl" (Group, c_int, *const c_int, *mut Group);
    group_free "MPI_Group_free" (*mut Group);
    comm_create_group "MPI_Comm_create_group" (RawComm, Group, c_int, *mut RawComm);
    comm_free "MPI_Comm_free" (*mut RawComm);
    comm_rank "MPI_Comm_rank" (RawComm, *mut c_int);
    comm_size "MPI_Comm_size" (RawComm, *mut c_int);
    comm_create_errhandler "MPI_Comm_create_errhandler" (Handler, *mut Errhandler);
    comm_set_errhandler "MPI_Comm_set_errhandler" (RawComm, Errhandler);
    error_string "MPI_Error_string" (c_int, *mut c_char, *mut c_int);
    isend "MPI_Isend_c" (P, i64, Datatype, c_int, c_int, RawComm, *mut Request);
    irecv "MPI_Irecv_c" (M, i64, Datatype, c_int, c_int, RawComm, *mut Request);
    improbe "MPI_Improbe" (c_int, c_int, RawComm, *mut c_int, *mut Message, *mut Status);
    imrecv "MPI_Imrecv_c" (M, i64, Datatype, *mut Message, *mut Request);
    test "MPI_Test" (*mut Request, *mut c_int, *mut Status);
    cancel "MPI_Cancel" (*mut Request);
    get_count "MPI_Get_count_c" (*const Status, Datatype, *mut i64);
}

/// The implementation of MPI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Mpich,
    Intel,
    OpenMpi,
    Other,
}

impl Kind {
    fn of(version: &str) -> Kind {
        let begins = |words: &str| version.trim_start().starts_with(words);
        match () {
            () if begins("Intel(R) MPI") => Kind::Intel,
            () if begins("MPICH") => Kind::Mpich,
            () if begins("Open MPI") => Kind::OpenMpi,
            () => Kind::Other,
        }
    }
}

pub(crate) struct Library {
    pub(super) functions: Functions,
    pub(crate) path: PathBuf,
    /// The first line of the library's version text.
    pub(crate) version: String,
    pub(crate) kind: Kind,
    /// The path with which the library was opened.
    asked: PathBuf,
    _handle: Handle,
}

/// The process's MPI library. It is loaded when it is first needed, and never unloaded.
static LOADED: PerProcess<Mutex<Option<&'static Library>>> = PerProcess::new();

impl Library {
    /// Returns the process's MPI library, and loads it if needed. `argument` is the file that the caller requires.
    ///
    /// # Errors
    /// `Unsupported` if no library can be used (the error lists all files that were tried), or if a file other than
    /// `argument` is loaded already.
    pub(crate) fn get(argument: Option<&str>) -> Result<&'static Library> {
        let mut loaded = LOADED.get().lock();
        if let Some(library) = *loaded {
            return match argument {
                Some(path) if !library.is(Path::new(path)) => Err(Error::unsupported(format!(
                    "{} is loaded in this process already, and a process has one MPI; {path} cannot be loaded beside it",
                    library.path.display()
                ))),
                _ => Ok(library),
            };
        }
        let library: &'static Library = Box::leak(Box::new(Self::search(&Surroundings::of_process(argument))?));
        let (path, version) = (library.path.display(), &library.version);
        tracing::info!(target: "c10d", %path, %version, "MPI loaded");
        *loaded = Some(library);
        Ok(library)
    }

    pub(crate) fn loaded() -> Option<&'static Library> {
        *LOADED.get().lock()
    }

    /// Checks whether an MPI library seems to exist, without loading it.
    ///
    /// # Errors
    /// `Unsupported`, with the paths that were searched.
    pub(crate) fn probe() -> Result {
        if LOADED.get().try_lock().is_some_and(|loaded| loaded.is_some()) {
            return Ok(());
        }
        let found = Surroundings::of_process(None).found();
        found.map_err(|why| Error::unsupported(format!("no MPI library: {why}. {}", remedy())))
    }

    fn is(&self, path: &Path) -> bool {
        let real = |p: &Path| std::fs::canonicalize(p).ok();
        path == self.asked || real(path).is_some_and(|p| Some(p) == real(&self.path))
    }

    pub(super) fn search(surroundings: &Surroundings) -> Result<Library> {
        let candidates = surroundings.candidates().map_err(Error::unsupported)?;
        let mut tried = Vec::new();
        for path in &candidates {
            match Self::open(path) {
                Ok(library) => return Ok(library),
                Err(why) => tried.push(format!("{}: {why}", path.display())),
            }
        }
        let mut what = format!("no usable MPI library; tried {}. ", tried.join("; "));
        if let Some(other) = surroundings.without_the_abi().first() {
            what += &format!("{} exists, but does not have MPI's standard ABI. ", other.display());
        }
        Err(Error::unsupported(what + &remedy()))
    }

    fn open(path: &Path) -> std::result::Result<Library, String> {
        // Opening a library runs its constructors, which must not run in a process that has another MPI library. So
        // this check comes first. If a library with the standard ABI is mapped already, the candidate may be that
        // library, so only the check after opening can decide.
        let mapped = mappings();
        if !mapped.iter().any(has_standard_abi)
            && let Some(other) = mapped.iter().find(|m| is_mpi(m))
        {
            return Err(second(other));
        }
        // SAFETY: loading runs the constructors of the library. The user chooses which file may be loaded.
        let handle =
            unsafe { Handle::open(Some(path), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE) }.map_err(|e| words(&e))?;
        // SAFETY: the type is that of the standard. This function is called before all others, since its result shows
        // whether the types of the others are those of the standard, too.
        let abi =
            unsafe { handle.get::<unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int>(b"MPI_Abi_get_version\0") };
        let abi = abi.map_err(|_| "does not have MPI's standard ABI: it has no MPI_Abi_get_version".to_owned())?;
        let (mut major, mut minor) = (-1, -1);
        // SAFETY: writes two integers, and may be called before MPI is started.
        let result = unsafe { abi(&mut major, &mut minor) };
        if result != 0 || major != ABI {
            return Err(format!("is of version {major}.{minor} of MPI's standard ABI; {ABI} is needed"));
        }
        // SAFETY: the check above has shown that the library has the standard ABI.
        let functions =
            unsafe { Functions::find(&handle) }.map_err(|missing| format!("lacks {}", missing.join(", ")))?;
        // SAFETY: the check above has shown that the library has the standard ABI.
        let version = unsafe { version(&handle) }?;
        let mappings = mappings();
        let own = mappings.iter().find(|m| m.contains(functions.test as usize));
        let path_loaded = own.map_or_else(|| path.to_owned(), |m| m.path.clone());
        let kind = Kind::of(&version);
        // Open MPI's library of the standard ABI is a layer over another file of Open MPI, `libmpi.so`. So with Open
        // MPI, two mapped MPI libraries are no error.
        if let (Some(own), true) = (own, kind != Kind::OpenMpi)
            && let Some(other) = mappings.iter().find(|m| is_mpi(m) && m.file != own.file)
        {
            return Err(second(other));
        }
        Ok(Library { functions, path: path_loaded, kind, version, asked: path.to_owned(), _handle: handle })
    }
}

/// Returns advice for a user who has no usable library.
fn remedy() -> String {
    format!(
        "MPI 5.0's standard ABI (libmpi_abi.so.1) is in MPICH 5 (`pip install mpich`), in Intel MPI 2021.17 \
         (`pip install impi-rt`) and in Open MPI 6: install one, load the cluster's module, or set {} to the file",
        super::VARIABLE
    )
}

/// Returns the reason for not using a library in a process that already has another MPI library.
fn second(other: &Mapping) -> String {
    format!(
        "another MPI library, {}, is in this process already; both would use the same connection to the launcher, so \
         let the program use only one",
        other.path.display()
    )
}

/// Returns the first line of the library's version text.
///
/// # Safety
/// The handle is of a library with the standard ABI.
unsafe fn version(handle: &Handle) -> std::result::Result<String, String> {
    // SAFETY: the caller guarantees the standard ABI, and the type is that of the standard.
    let get =
        unsafe { handle.get::<unsafe extern "C" fn(*mut c_char, *mut c_int) -> c_int>(b"MPI_Get_library_version\0") };
    let get = get.map_err(|_| "lacks MPI_Get_library_version".to_owned())?;
    let (mut text, mut len) = (vec![0u8; MAX_LIBRARY_VERSION], 0);
    // SAFETY: the text has MAX_LIBRARY_VERSION bytes, the most that the standard lets this function write.
    let result = unsafe { get(text.as_mut_ptr().cast(), &mut len) };
    if result != 0 {
        return Err(format!("its version is unknown: MPI_Get_library_version returned {result}"));
    }
    text.truncate(usize::try_from(len).unwrap_or(0).min(MAX_LIBRARY_VERSION));
    let words: Vec<String> = String::from_utf8_lossy(&text)
        .split(['\n', '\0'])
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    Ok(words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_implementation_is_recognised() {
        assert_eq!(Kind::of("MPICH Version: 5.0.2"), Kind::Mpich);
        assert_eq!(Kind::of("Intel(R) MPI Library 2021.18"), Kind::Intel);
        assert_eq!(Kind::of("Open MPI v6.1.0a1"), Kind::OpenMpi);
        assert_eq!(Kind::of(""), Kind::Other);
    }

    #[test]
    fn the_error_lists_the_files_that_were_tried() {
        let missing = |variable: &str| {
            let surroundings =
                Surroundings { argument: None, variable: Some(variable.to_owned()), mapped: None, roots: Vec::new() };
            let Err(e) = Library::search(&surroundings) else { panic!("{variable} was loaded") };
            e.to_string()
        };
        let e = missing("/nowhere/libmpi_abi.so.1");
        assert!(e.contains("tried /nowhere/libmpi_abi.so.1: ") && e.contains("pip install mpich"), "{e}");
        // libc is a library, but not an MPI library.
        let libc = mappings().into_iter().find(|m| m.path.to_string_lossy().contains("libc.so")).unwrap();
        let e = missing(&libc.path.to_string_lossy());
        assert!(e.contains("it has no MPI_Abi_get_version"), "{e}");
    }
}
