//! The error type of the library. An error says which rank failed, what happened, where, after which time, and what to
//! do.

use std::fmt;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use crate::catalog::OpKind;
use crate::resource;

/// The result of the functions of this library. The error is an [`Error`] unless another type is given.
pub type Result<T = (), E = Error> = std::result::Result<T, E>;

/// An error. It is `Clone`, since every waiting or later call of a failed group gets the error that failed the group.
#[derive(Clone)]
pub struct Error(Box<ErrorReport>);

/// The beginning of `how` in [`ErrorKind::PeerDead`] for a peer whose program ended while it was in the group.
pub const ENDED_WITHOUT_LEAVING: &str =
    "ended without leaving the group: call shutdown, or drop it before main returns";

/// The kind of an error, with the data that only this kind has.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The call is not valid (shape, element type, root, or a reduce operation that is not defined on the type).
    InvalidArgument,
    /// The call is valid, but the chosen backend does not offer it, or no backend serves the dispatch key.
    Unsupported,
    /// The guilty rank made a different call: its call or message differs from the matching call or message of this
    /// rank.
    Mismatch {
        /// The field that differs: `op`, `seq`, `dtype`, `count`, `reduce_op`, `root`, `splits`, ..
        field: &'static str,
        /// The value on this rank.
        mine: String,
        /// The value on the guilty rank.
        theirs: String,
    },
    /// The guilty rank's process is gone, or the rank left the group.
    PeerDead {
        /// How this rank noticed that: `connection closed`, `left the group`, `exited`, ..
        how: String,
    },
    /// The deadline passed while this rank waited for the guilty ranks, for a device or for an earlier call.
    Timeout,
    /// `abort` was called, on this rank or on the guilty rank, or the op was cancelled.
    Aborted,
    /// A backend dropped the operation without completing it.
    Abandoned,
    /// The group was shut down.
    Shutdown,
    /// The store returned an error or could not be reached.
    Store,
    /// The ranks could not find each other, or disagree about the group.
    Rendezvous,
    /// A peer sent bytes that the protocol does not allow.
    Protocol,
    /// The system refused memory, descriptors, threads or ports.
    Resource,
    /// A device, or the runtime that drives it, failed.
    Device,
    /// A plugin broke its contract.
    Plugin,
    /// A bug of this library or of a backend.
    Internal,
}

/// Whether the group can still be used after the error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// No payload was sent; the group stays usable.
    Rejected,
    /// Ranks may have got different results. The group cannot be used any more; make a new one.
    Failed,
}

/// The phase of an operation, or of making a group, in which an error arose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// Before any payload was sent.
    Validate,
    /// The ranks find each other through the store.
    Rendezvous,
    /// The ranks connect to each other.
    Connect,
    /// The rank waits until the peers announce the call: each sends the fingerprint of its call before the payload.
    Announce,
    /// The payload is sent and received.
    Transfer,
    /// All bytes have been sent and received.
    Complete,
}

/// The contents of an [`Error`]. Fields that do not apply to an error are empty.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ErrorReport {
    /// The kind of the error.
    pub kind: ErrorKind,
    /// Whether the group is still usable.
    pub status: Status,
    /// A text that says what happened and what to do.
    pub what: String,
    /// The ranks that caused the error, in ascending order, in the numbering of the group.
    pub guilty: Vec<u32>,
    /// The same ranks in the numbering of the group that the builder made, if this group was made from that group.
    pub guilty_global: Vec<u32>,
    /// The phase in which the error arose.
    pub phase: Option<Phase>,
    /// The group's name.
    pub group: Option<Arc<str>>,
    /// The operation's sequence number in its lane.
    pub seq: Option<u64>,
    /// The operation.
    pub op: Option<OpKind>,
    /// The backend's name; empty if none was chosen yet.
    pub backend: &'static str,
    /// The rank that reports the error.
    pub rank: Option<u32>,
    /// The time since the operation was called, including the time in queues; 0 if the operation failed without
    /// waiting.
    pub elapsed: Option<Duration>,
    /// The operation's timeout.
    pub deadline: Option<Duration>,
    /// The error that caused this error.
    pub source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// Makes an error of this kind. `what` says what happened and, where it helps, what to do.
    pub fn new(kind: ErrorKind, what: impl Into<String>) -> Error {
        let status = match kind {
            ErrorKind::InvalidArgument | ErrorKind::Unsupported => Status::Rejected,
            _ => Status::Failed,
        };
        Error(Box::new(ErrorReport {
            kind,
            status,
            what: what.into(),
            guilty: Vec::new(),
            guilty_global: Vec::new(),
            phase: None,
            group: None,
            seq: None,
            op: None,
            backend: "",
            rank: None,
            elapsed: None,
            deadline: None,
            source: None,
        }))
    }

    /// Makes an [`ErrorKind::InvalidArgument`].
    pub fn invalid(what: impl Into<String>) -> Error {
        Error::new(ErrorKind::InvalidArgument, what)
    }

    /// Makes an [`ErrorKind::Unsupported`].
    pub fn unsupported(what: impl Into<String>) -> Error {
        Error::new(ErrorKind::Unsupported, what)
    }

    /// Sets the ranks that caused the error.
    pub fn guilty(mut self, ranks: impl IntoIterator<Item = u32>) -> Error {
        self.0.guilty = ranks.into_iter().collect();
        self.0.guilty.sort_unstable();
        self.0.guilty.dedup();
        self
    }

    /// Sets the phase in which the error arose.
    pub fn phase(mut self, phase: Phase) -> Error {
        self.0.phase = Some(phase);
        self
    }

    /// Sets the status to [`Status::Rejected`]: no payload was sent, and the group stays usable.
    pub fn rejected(mut self) -> Error {
        self.0.status = Status::Rejected;
        self
    }

    /// Adds the error that caused this error; [`source`](std::error::Error::source) returns it.
    ///
    /// If the cause is a system error which says that a resource ran out (descriptors, memory, space, ..), this error
    /// becomes an [`ErrorKind::Resource`] that names the resource and its limit. The error then names no guilty ranks.
    pub fn caused_by(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Error {
        if let Some(what) = resource::ran_out(&source) {
            self = self.ran_out(&what);
        }
        self.0.source = Some(Arc::new(source));
        self
    }

    /// Makes an [`ErrorKind::Resource`] for a thread or process that could not be started. If a limit was reached
    /// (`WouldBlock`), the error names this limit or, if it is not known, all limits on threads and processes.
    pub fn no_thread(what: impl Into<String>, source: std::io::Error) -> Error {
        let error = Error::new(ErrorKind::Resource, what);
        if source.kind() == std::io::ErrorKind::WouldBlock {
            return error.ran_out(&resource::no_threads()).caused_by(source);
        }
        error.caused_by(source)
    }

    /// Makes an [`ErrorKind::Resource`] for memory that could not be allocated. The error names the limits on memory.
    pub fn no_memory(what: impl Into<String>) -> Error {
        Error::new(ErrorKind::Resource, what).ran_out(&format!("no memory left ({})", resource::memory()))
    }

    /// Makes an [`ErrorKind::Resource`] for memory that could not be locked (kept at its place for a device or a
    /// network adapter). The error names the limit on locked memory.
    pub fn no_locked_memory(what: impl Into<String>) -> Error {
        let limit = resource::locked_memory();
        Error::new(ErrorKind::Resource, what).ran_out(&format!("no locked memory left ({limit})"))
    }

    fn ran_out(mut self, what: &str) -> Error {
        let report = &mut *self.0;
        report.kind = ErrorKind::Resource;
        let sep = if report.what.is_empty() { "" } else { ": " };
        report.what += sep;
        report.what += what;
        report.guilty.clear();
        report.guilty_global.clear();
        self
    }

    /// Returns the kind of the error.
    pub fn kind(&self) -> &ErrorKind {
        &self.0.kind
    }

    /// Returns whether the group is still usable.
    pub fn status(&self) -> Status {
        self.0.status
    }

    /// Returns the fields of the error.
    pub fn report(&self) -> &ErrorReport {
        &self.0
    }

    /// Returns the fields of the error, for code that fills in further fields. By convention, fields that are set
    /// already are not changed.
    pub fn report_mut(&mut self) -> &mut ErrorReport {
        &mut self.0
    }
}

impl ErrorKind {
    /// The kinds without fields. Ranks send a kind as its index in this list, so the order must not change.
    pub const PLAIN: &[ErrorKind] = &[
        ErrorKind::Timeout,
        ErrorKind::Aborted,
        ErrorKind::Abandoned,
        ErrorKind::Shutdown,
        ErrorKind::Store,
        ErrorKind::Rendezvous,
        ErrorKind::Protocol,
        ErrorKind::Resource,
        ErrorKind::Plugin,
        ErrorKind::InvalidArgument,
        ErrorKind::Unsupported,
        ErrorKind::Internal,
        ErrorKind::Device,
    ];

    /// The fields of [`Mismatch`](ErrorKind::Mismatch) in which calls can differ. Ranks send a field as its index in
    /// this list, so the order must not change. A field that is not in the list is sent as `call`.
    pub const FIELDS: &[&str] = &[
        "op",
        "dtype",
        "reduce_op",
        "root",
        "count",
        "seq",
        "step",
        "shape",
        "factor",
        "tensors",
        "splits",
        "call",
        "type",
        "sparse_indices",
    ];

    /// Returns the code of a field of a mismatch: its index in [`ErrorKind::FIELDS`].
    pub fn field_code(field: &str) -> u8 {
        let place = |name| ErrorKind::FIELDS.iter().position(|known| *known == name);
        place(field).or(place("call")).unwrap_or(0) as u8
    }

    /// Returns the kind's name, as errors print it.
    pub fn name(&self) -> &'static str {
        match self {
            ErrorKind::InvalidArgument => "InvalidArgument",
            ErrorKind::Unsupported => "Unsupported",
            ErrorKind::Mismatch { .. } => "Mismatch",
            ErrorKind::PeerDead { .. } => "PeerDead",
            ErrorKind::Timeout => "Timeout",
            ErrorKind::Aborted => "Aborted",
            ErrorKind::Abandoned => "Abandoned",
            ErrorKind::Shutdown => "Shutdown",
            ErrorKind::Store => "Store",
            ErrorKind::Rendezvous => "Rendezvous",
            ErrorKind::Protocol => "Protocol",
            ErrorKind::Resource => "Resource",
            ErrorKind::Device => "Device",
            ErrorKind::Plugin => "Plugin",
            ErrorKind::Internal => "Internal",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::Validate => "validate",
            Phase::Rendezvous => "rendezvous",
            Phase::Connect => "connect",
            Phase::Announce => "announce",
            Phase::Transfer => "transfer",
            Phase::Complete => "complete",
        })
    }
}

fn ranks(f: &mut fmt::Formatter<'_>, list: &[u32]) -> fmt::Result {
    f.write_str(if list.len() == 1 { "rank " } else { "ranks " })?;
    for (i, r) in list.iter().enumerate() {
        write!(f, "{}{r}", if i == 0 { "" } else { ", " })?;
    }
    Ok(())
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let r = &*self.0;
        f.write_str(r.kind.name())?;
        if !r.guilty.is_empty() {
            f.write_str(" (")?;
            ranks(f, &r.guilty)?;
            if !r.guilty_global.is_empty() {
                f.write_str("; global ")?;
                ranks(f, &r.guilty_global)?;
            }
            f.write_str(")")?;
        }
        match &r.kind {
            ErrorKind::Mismatch { field, mine, theirs } => write!(f, ": {field} is {mine} here, {theirs} there")?,
            ErrorKind::PeerDead { how } => write!(f, ": {how}")?,
            _ => {}
        }
        if !r.what.is_empty() {
            write!(f, ": {}", r.what)?;
        }
        let mut sep = " [";
        let mut field = |f: &mut fmt::Formatter<'_>, text: fmt::Arguments<'_>| {
            let out = write!(f, "{sep}{text}");
            sep = ", ";
            out
        };
        let mut any = false;
        if let Some(rank) = r.rank {
            field(f, format_args!("on rank {rank}"))?;
            any = true;
        }
        if let Some(op) = r.op {
            field(f, format_args!("in {}", op.name()))?;
            any = true;
        }
        if let Some(seq) = r.seq {
            field(f, format_args!("seq {seq}"))?;
            any = true;
        }
        if let Some(group) = &r.group {
            field(f, format_args!("group {group:?}"))?;
            any = true;
        }
        if !r.backend.is_empty() {
            field(f, format_args!("backend {}", r.backend))?;
            any = true;
        }
        if let Some(phase) = r.phase {
            field(f, format_args!("phase {phase}"))?;
            any = true;
        }
        if let Some(elapsed) = r.elapsed {
            match elapsed.is_zero() {
                true => field(f, format_args!("at once"))?,
                false => field(f, format_args!("after {elapsed:.3?}"))?,
            }
            any = true;
        }
        if let Some(deadline) = r.deadline {
            field(f, format_args!("timeout {deadline:?}"))?;
            any = true;
        }
        if any {
            f.write_str("]")?;
        }
        Ok(())
    }
}

/// Prints the error as [`Display`](fmt::Display) does, followed by its causes. If `main` returns the error, Rust prints
/// it in this form.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)?;
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|s| &**s as &(dyn std::error::Error + 'static))
    }
}

/// The error of a call that owned its buffers, with these buffers. If a backend still holds the buffers and may never
/// release them, `buffer` is `None` and their memory is leaked.
///
/// The contents of the buffers are unspecified.
#[must_use]
pub struct OpError<B> {
    /// What went wrong.
    pub error: Error,
    /// The buffers, unless they are leaked.
    pub buffer: Option<B>,
}

impl<B> From<OpError<B>> for Error {
    fn from(e: OpError<B>) -> Error {
        e.error
    }
}

impl<B> fmt::Debug for OpError<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.error, f)
    }
}

impl<B> fmt::Display for OpError<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.error, f)
    }
}

impl<B> std::error::Error for OpError<B> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&self.error)
    }
}

const _: () = assert!(size_of::<Result<(), Error>>() == 8);

/// Prints an error on stderr, because the library cannot return it to a caller.
pub(crate) fn complain(error: &Error) {
    let _ = writeln!(std::io::stderr(), "c10d: {error:?}");
}
