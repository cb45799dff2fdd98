//! The types and constants of MPI 5.0's standard ABI (chapter 20 and appendix A of its report).

use std::ffi::{c_int, c_void};

macro_rules! handles {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(transparent)]
        pub(super) struct $name(pub(super) usize);
    )*};
}

handles! {
    RawComm;
    Datatype;
    Errhandler;
    /// A set of ranks.
    Group;
    /// Settings.
    Info;
    /// A message that was matched and not yet received.
    Message;
    /// An operation in progress.
    Request;
    Session;
}

impl RawComm {
    pub(super) const WORLD: RawComm = RawComm(0x101);
    pub(super) const SELF: RawComm = RawComm(0x102);
}

impl Datatype {
    pub(super) const BYTE: Datatype = Datatype(0x247);
}

impl Errhandler {
    pub(super) const RETURN: Errhandler = Errhandler(0x143);
}

impl Info {
    pub(super) const NULL: Info = Info(0x130);
}

impl Request {
    pub(super) const NULL: Request = Request(0x180);
}

pub(super) const ANY_SOURCE: c_int = -1;
pub(super) const THREAD_MULTIPLE: c_int = 4096;
/// The largest lengths in bytes of an error text and of a version text, with their NUL.
pub(super) const MAX_ERROR_STRING: usize = 512;
pub(super) const MAX_LIBRARY_VERSION: usize = 8192;

/// The status of a received message.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct Status {
    pub(super) source: c_int,
    pub(super) tag: c_int,
    pub(super) error: c_int,
    internal: [c_int; 5],
}

const _: () = assert!(size_of::<Status>() == 32 && size_of::<RawComm>() == size_of::<*mut c_void>());
