//! Calls of the library about ranks and communicators. The documentation says which may block: these must run on
//! threads that can be given up.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::ffi::c_int;
use std::ptr::null;
use std::sync::atomic::{AtomicUsize, Ordering};

use c10d_core::{Error, ErrorKind, Result};

use super::library::{Functions, Kind, Library};
use super::types::{Errhandler, Group, Info, MAX_ERROR_STRING, RawComm, Session, THREAD_MULTIPLE};

/// The session that MPI was started with; 0: none.
static SESSION: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// The error code for which a handler was called on this thread.
    static REPORTED: Cell<c_int> = const { Cell::new(0) };
}

/// The error handler. MPICH's calls return 0 after a handler ran, so the error is kept here.
extern "C" fn on_error(_: *mut RawComm, code: *mut c_int) {
    // SAFETY: if the library passes a pointer, it points to the code.
    REPORTED.set(unsafe { code.as_ref() }.copied().unwrap_or(-1));
}

/// The library, after it was started or found started.
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

    /// Runs a call, and converts its status, or that of the handler, to an error.
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
        // SAFETY: the text has as many bytes as the standard says.
        let known = unsafe { (self.0.functions.error_string)(code, text.as_mut_ptr().cast(), &mut len) } == 0;
        let text =
            String::from_utf8_lossy(&text[..usize::try_from(len).unwrap_or(0).min(MAX_ERROR_STRING)]).into_owned();
        // The first lines are wrong in some libraries; the last has the most information.
        let last = text.lines().map(str::trim).rfind(|line| !line.is_empty());
        let words = last.filter(|_| known).unwrap_or("without words");
        Error::new(ErrorKind::Internal, format!("{what} of {} gave error {code}: {words}", self.0.version))
    }

    /// Whether other code has started the library by the world model, and not ended it.
    pub(crate) fn is_initialized(&self) -> Result<bool> {
        let (mut begun, mut over) = (0, 0);
        // SAFETY: each writes one integer, and may be called at any time.
        self.call("MPI_Initialized", |f| unsafe { (f.initialized)(&mut begun) })?;
        // SAFETY: as above.
        self.call("MPI_Finalized", |f| unsafe { (f.finalized)(&mut over) })?;
        if over != 0 {
            return Err(Error::unsupported("MPI_Finalize was called in this process, and MPI cannot be started again"));
        }
        Ok(begun != 0)
    }

    /// Starts the library for several threads, and returns the communicator of all processes. It blocks until all have
    /// come.
    pub(crate) fn start(&self) -> Result<Comm> {
        let world = match self.0.kind {
            // If a session cannot be opened, that is an error, while Init_thread would end the process. A session has
            // no COMM_SELF, which the world model provides; Intel's library has only one of the two.
            Kind::Mpich => {
                self.session()?;
                self.init()?
            }
            Kind::Intel | Kind::OpenMpi | Kind::Other => self.init()?,
        };
        // Failures while the library moves messages of any communicator are reported to COMM_SELF: without a handler
        // there, a peer's death could end this process.
        self.handle_errors(RawComm::SELF)?;
        self.handle_errors(world)?;
        Ok(Comm(world))
    }

    fn init(&self) -> Result<RawComm> {
        let mut given = 0;
        // SAFETY: no arguments are passed on; writes one integer.
        let init = |f: &Functions| unsafe { (f.init_thread)(null(), null(), THREAD_MULTIPLE, &mut given) };
        self.call("MPI_Init_thread", init)?;
        multiple(given)?;
        Ok(RawComm::WORLD)
    }

    /// Ends MPI for this process. It waits for the others.
    pub(crate) fn finalize(&self) -> Result {
        let mut session = Session(SESSION.swap(0, Ordering::AcqRel));
        if session.0 != 0 {
            // SAFETY: a handle of this library's, not used afterwards.
            self.call("MPI_Session_finalize", |f| unsafe { (f.session_finalize)(&mut session) })?;
        }
        // SAFETY: started by this crate, which makes no call after it.
        self.call("MPI_Finalize", |f| unsafe { (f.finalize)() })
    }

    /// The communicator of all processes of a library that other code has started.
    pub(crate) fn started_by_another(&self) -> Result<Comm> {
        let mut given = 0;
        // SAFETY: writes one integer.
        self.call("MPI_Query_thread", |f| unsafe { (f.query_thread)(&mut given) })?;
        multiple(given)?;
        Ok(Comm(RawComm::WORLD))
    }

    /// Begins a session, which ends with the process's MPI.
    fn session(&self) -> Result {
        let (mut info, mut session) = (Info::NULL, Session(0));
        // SAFETY: writes one handle.
        self.call("MPI_Info_create", |f| unsafe { (f.info_create)(&mut info) })?;
        let (key, level) = (c"thread_level", c"MPI_THREAD_MULTIPLE");
        // SAFETY: two strings with their NUL.
        self.call("MPI_Info_set", |f| unsafe { (f.info_set)(info, key.as_ptr(), level.as_ptr()) })?;
        // SAFETY: writes one handle.
        self.call("MPI_Session_init", |f| unsafe { (f.session_init)(info, Errhandler::RETURN, &mut session) })?;
        SESSION.store(session.0, Ordering::Release);
        Ok(())
    }

    fn own_handler(&self) -> Result<Errhandler> {
        let mut handler = Errhandler(0);
        // SAFETY: the function is there as long as the process, and never unwinds; writes one handle.
        self.call("MPI_Comm_create_errhandler", |f| unsafe { (f.comm_create_errhandler)(on_error, &mut handler) })?;
        Ok(handler)
    }

    /// Makes errors on a communicator be reported instead of ending the process.
    fn handle_errors(&self, comm: RawComm) -> Result {
        let handler = self.own_handler()?;
        // SAFETY: handles of this library.
        self.call("MPI_Comm_set_errhandler", |f| unsafe { (f.comm_set_errhandler)(comm, handler) })
    }

    /// This process's rank in a communicator, and how many it has.
    pub(crate) fn rank_and_size(&self, comm: Comm) -> Result<(u32, u32)> {
        let (mut rank, mut size) = (-1, -1);
        // SAFETY: writes one integer.
        self.call("MPI_Comm_rank", |f| unsafe { (f.comm_rank)(comm.0, &mut rank) })?;
        // SAFETY: as above.
        self.call("MPI_Comm_size", |f| unsafe { (f.comm_size)(comm.0, &mut size) })?;
        let number =
            |n: c_int| u32::try_from(n).map_err(|_| Error::new(ErrorKind::Internal, "MPI has a negative rank"));
        Ok((number(rank)?, number(size)?))
    }

    /// Makes a communicator of these ranks of another one, in this order. All of them call it. It blocks until they
    /// have come.
    pub(crate) fn create(&self, from: Comm, ranks: &[u32], tag: u16) -> Result<Comm> {
        let number = |r: &u32| c_int::try_from(*r).map_err(|_| Error::invalid(format!("{r} is no rank of MPI's")));
        let ranks = ranks.iter().map(number).collect::<Result<Vec<c_int>>>()?;
        let (mut all, mut some, mut comm) = (Group(0), Group(0), RawComm(0));
        // SAFETY: writes one handle.
        self.call("MPI_Comm_group", |f| unsafe { (f.comm_group)(from.0, &mut all) })?;
        // SAFETY: as many ranks as are said, which the library copies; writes one handle.
        let include = |f: &Functions| unsafe { (f.group_incl)(all, ranks.len() as c_int, ranks.as_ptr(), &mut some) };
        self.call("MPI_Group_incl", include)?;
        // The tag is one that every library has.
        let tag = c_int::from(tag & 0x7fff);
        // SAFETY: handles of this library; writes one handle.
        let create = |f: &Functions| unsafe { (f.comm_create_group)(from.0, some, tag, &mut comm) };
        self.call("MPI_Comm_create_group", create)?;
        for group in [&mut all, &mut some] {
            // SAFETY: a handle of this library's, not used afterwards.
            self.call("MPI_Group_free", |f| unsafe { (f.group_free)(group) })?;
        }
        self.handle_errors(comm)?;
        Ok(Comm(comm))
    }

    /// Frees a communicator with nothing in flight. It may block.
    pub(crate) fn free(&self, comm: Comm) -> Result {
        let mut raw = comm.0;
        // SAFETY: a handle of this library's; the caller has no request on it.
        self.call("MPI_Comm_free", |f| unsafe { (f.comm_free)(&mut raw) })
    }
}

/// Rejects a library that cannot be called from several threads.
fn multiple(given: c_int) -> Result {
    if given < THREAD_MULTIPLE {
        return Err(Error::unsupported(
            "MPI was started without MPI_THREAD_MULTIPLE, which c10d's threads need: start it by MPI_Init_thread with that \
             level, or leave the start to c10d",
        ));
    }
    Ok(())
}
