//! MPI's functions for ranks and communicators. A function whose documentation says that it blocks must be called on a
//! thread that may stay blocked.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::ffi::c_int;
use std::ptr::null;
use std::sync::atomic::{AtomicUsize, Ordering};

use c10d_core::{Error, ErrorKind, Result};

use super::library::{Functions, Kind, Library};
use super::types::{Errhandler, Group, Info, MAX_ERROR_STRING, RawComm, Session, THREAD_MULTIPLE};

/// The MPI session that was opened before MPI was started; 0 if there is none.
static SESSION: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// The error code that the error handler got on this thread.
    static REPORTED: Cell<c_int> = const { Cell::new(0) };
}

/// The error handler. Calls of MPICH return 0 even if the handler was called, so the handler keeps the error code.
extern "C" fn on_error(_: *mut RawComm, code: *mut c_int) {
    // SAFETY: MPI passes a pointer to the error code, which is valid during this call; a null pointer gives `None`.
    REPORTED.set(unsafe { code.as_ref() }.copied().unwrap_or(-1));
}

/// The loaded library, with methods that call its functions.
#[derive(Clone, Copy)]
pub(crate) struct Mpi(&'static Library);

/// A communicator that this process is a member of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Comm(pub(super) RawComm);

impl Mpi {
    pub(crate) fn new(library: &'static Library) -> Mpi {
        Mpi(library)
    }

    pub(crate) fn library(&self) -> &'static Library {
        self.0
    }

    /// Calls a function of MPI. Returns an error if the function, or the error handler, reports one.
    pub(super) fn call(&self, what: &str, call: impl FnOnce(&Functions) -> c_int) -> Result {
        REPORTED.set(0);
        let result = call(&self.0.functions);
        match (result, REPORTED.get()) {
            (0, 0) => Ok(()),
            (0, code) | (code, _) => Err(self.error(what, code)),
        }
    }

    #[cold]
    fn error(&self, what: &str, code: c_int) -> Error {
        let (mut text, mut len) = ([0u8; MAX_ERROR_STRING], 0);
        // SAFETY: the text has MAX_ERROR_STRING bytes, the most that the standard lets this function write.
        let known = unsafe { (self.0.functions.error_string)(code, text.as_mut_ptr().cast(), &mut len) } == 0;
        let text =
            String::from_utf8_lossy(&text[..usize::try_from(len).unwrap_or(0).min(MAX_ERROR_STRING)]).into_owned();
        // In some libraries, the first lines of the text are wrong. The last line has the most information.
        let last = text.lines().map(str::trim).rfind(|line| !line.is_empty());
        let words = last.filter(|_| known).unwrap_or("no description");
        Error::new(ErrorKind::Internal, format!("{what} of {} failed with error {code}: {words}", self.0.version))
    }

    /// Returns whether other code has called `MPI_Init`. Returns an error if `MPI_Finalize` was called.
    pub(crate) fn is_initialized(&self) -> Result<bool> {
        let (mut begun, mut over) = (0, 0);
        // SAFETY: each function writes one integer, and may be called at any time.
        self.call("MPI_Initialized", |f| unsafe { (f.initialized)(&mut begun) })?;
        // SAFETY: writes one integer, and may be called at any time.
        self.call("MPI_Finalized", |f| unsafe { (f.finalized)(&mut over) })?;
        if over != 0 {
            return Err(Error::unsupported("MPI_Finalize was called in this process, so MPI cannot be started again"));
        }
        Ok(begun != 0)
    }

    /// Starts MPI so that several threads may call it, and returns the communicator of all processes. Blocks until all
    /// processes have called this function.
    pub(crate) fn start(&self) -> Result<Comm> {
        let world = match self.0.kind {
            // A session is opened first: if MPI cannot start, opening the session returns an error, while
            // MPI_Init_thread would end the process. COMM_SELF exists only after MPI_Init_thread. Intel MPI does not
            // support a session together with MPI_Init_thread.
            Kind::Mpich => {
                self.session()?;
                self.init()?
            }
            Kind::Intel | Kind::OpenMpi | Kind::Other => self.init()?,
        };
        // MPI may notice the death of a peer while it moves messages of any communicator. It then calls the error
        // handler of COMM_SELF. The default handler could end this process.
        self.handle_errors(RawComm::SELF)?;
        self.handle_errors(world)?;
        Ok(Comm(world))
    }

    fn init(&self) -> Result<RawComm> {
        let mut given = 0;
        // SAFETY: null is allowed for both arguments; the function writes one integer.
        let init = |f: &Functions| unsafe { (f.init_thread)(null(), null(), THREAD_MULTIPLE, &mut given) };
        self.call("MPI_Init_thread", init)?;
        multiple(given)?;
        Ok(RawComm::WORLD)
    }

    /// Finalizes MPI. Blocks until all other processes have finalized MPI, too.
    pub(crate) fn finalize(&self) -> Result {
        let mut session = Session(SESSION.swap(0, Ordering::AcqRel));
        if session.0 != 0 {
            // SAFETY: the handle is from this library, and is not used afterwards.
            self.call("MPI_Session_finalize", |f| unsafe { (f.session_finalize)(&mut session) })?;
        }
        // SAFETY: this crate has started MPI, and calls no function of MPI afterwards.
        self.call("MPI_Finalize", |f| unsafe { (f.finalize)() })
    }

    /// Returns the communicator of all processes of an MPI that other code has started.
    pub(crate) fn started_by_another(&self) -> Result<Comm> {
        let mut given = 0;
        // SAFETY: writes one integer.
        self.call("MPI_Query_thread", |f| unsafe { (f.query_thread)(&mut given) })?;
        multiple(given)?;
        Ok(Comm(RawComm::WORLD))
    }

    /// Opens an MPI session, which stays open until MPI is finalized.
    fn session(&self) -> Result {
        let (mut info, mut session) = (Info::NULL, Session(0));
        // SAFETY: writes one handle.
        self.call("MPI_Info_create", |f| unsafe { (f.info_create)(&mut info) })?;
        let (key, level) = (c"thread_level", c"MPI_THREAD_MULTIPLE");
        // SAFETY: both strings end with NUL.
        self.call("MPI_Info_set", |f| unsafe { (f.info_set)(info, key.as_ptr(), level.as_ptr()) })?;
        // SAFETY: writes one handle.
        self.call("MPI_Session_init", |f| unsafe { (f.session_init)(info, Errhandler::RETURN, &mut session) })?;
        SESSION.store(session.0, Ordering::Release);
        Ok(())
    }

    fn own_handler(&self) -> Result<Errhandler> {
        let mut handler = Errhandler(0);
        // SAFETY: the handler exists as long as the process, and never unwinds. The call writes one handle.
        self.call("MPI_Comm_create_errhandler", |f| unsafe { (f.comm_create_errhandler)(on_error, &mut handler) })?;
        Ok(handler)
    }

    /// Sets the error handler of a communicator, so that errors are reported instead of ending the process.
    fn handle_errors(&self, comm: RawComm) -> Result {
        let handler = self.own_handler()?;
        // SAFETY: both handles are from this library.
        self.call("MPI_Comm_set_errhandler", |f| unsafe { (f.comm_set_errhandler)(comm, handler) })
    }

    /// Returns this process's rank in a communicator, and the number of ranks.
    pub(crate) fn rank_and_size(&self, comm: Comm) -> Result<(u32, u32)> {
        let (mut rank, mut size) = (-1, -1);
        // SAFETY: writes one integer.
        self.call("MPI_Comm_rank", |f| unsafe { (f.comm_rank)(comm.0, &mut rank) })?;
        // SAFETY: writes one integer.
        self.call("MPI_Comm_size", |f| unsafe { (f.comm_size)(comm.0, &mut size) })?;
        let number =
            |n: c_int| u32::try_from(n).map_err(|_| Error::new(ErrorKind::Internal, "MPI returned a negative number"));
        Ok((number(rank)?, number(size)?))
    }

    /// Makes a communicator of the ranks `ranks` of `from`, in this order. Blocks until all these ranks have called
    /// this function.
    pub(crate) fn create(&self, from: Comm, ranks: &[u32], tag: u16) -> Result<Comm> {
        let number = |r: &u32| c_int::try_from(*r).map_err(|_| Error::invalid(format!("{r} is not a rank of MPI")));
        let ranks = ranks.iter().map(number).collect::<Result<Vec<c_int>>>()?;
        let (mut all, mut some, mut comm) = (Group(0), Group(0), RawComm(0));
        // SAFETY: writes one handle.
        self.call("MPI_Comm_group", |f| unsafe { (f.comm_group)(from.0, &mut all) })?;
        // SAFETY: the length is that of `ranks`, which the library copies. The call writes one handle.
        let include = |f: &Functions| unsafe { (f.group_incl)(all, ranks.len() as c_int, ranks.as_ptr(), &mut some) };
        self.call("MPI_Group_incl", include)?;
        // Every library supports tags of this size.
        let tag = c_int::from(tag & 0x7fff);
        // SAFETY: the handles are from this library; the call writes one handle.
        let create = |f: &Functions| unsafe { (f.comm_create_group)(from.0, some, tag, &mut comm) };
        self.call("MPI_Comm_create_group", create)?;
        for group in [&mut all, &mut some] {
            // SAFETY: the handle is from this library, and is not used afterwards.
            self.call("MPI_Group_free", |f| unsafe { (f.group_free)(group) })?;
        }
        self.handle_errors(comm)?;
        Ok(Comm(comm))
    }

    /// Frees a communicator that has no unfinished messages. May block.
    pub(crate) fn free(&self, comm: Comm) -> Result {
        let mut raw = comm.0;
        // SAFETY: the handle is from this library, and the caller has no request on it.
        self.call("MPI_Comm_free", |f| unsafe { (f.comm_free)(&mut raw) })
    }
}

/// Returns an error if MPI may not be called from several threads.
fn multiple(given: c_int) -> Result {
    if given < THREAD_MULTIPLE {
        return Err(Error::unsupported(
            "MPI was started without MPI_THREAD_MULTIPLE, which the threads of c10d need: start MPI by MPI_Init_thread \
             with this level, or let c10d start it",
        ));
    }
    Ok(())
}
