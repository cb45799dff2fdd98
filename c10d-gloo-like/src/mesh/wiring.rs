//! The data with which a rank finds the other ranks.

use std::sync::Arc;
use std::time::{Duration, Instant};

use c10d_core::Store;
use c10d_core::backend::Reports;

/// The transport of payload between ranks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Transport {
    /// Shared memory within a host if possible, otherwise TCP.
    #[default]
    Auto,
    /// Shared memory or an error.
    Shm,
    /// TCP, even between ranks of one process.
    Tcp,
}

impl Transport {
    /// Returns the name that users write.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Transport::Auto => "auto",
            Transport::Shm => "shm",
            Transport::Tcp => "tcp",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Transport> {
        [Transport::Auto, Transport::Shm, Transport::Tcp].into_iter().find(|t| t.name() == name)
    }

    pub(super) fn from_code(code: u8) -> Option<Transport> {
        [Transport::Auto, Transport::Shm, Transport::Tcp].get(usize::from(code)).copied()
    }
}

/// The table by which a rank chooses its algorithms, the same on all ranks.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Tuning {
    /// A hash of the choices, equal on ranks that make the same choices.
    pub(crate) hash: u64,
    /// The file with the rules; empty for the built-in table.
    pub(crate) file: String,
}

impl Tuning {
    pub(super) fn words(&self) -> String {
        match &*self.file {
            "" => format!("the built-in one ({:016x})", self.hash),
            file => format!("file {file} ({:016x})", self.hash),
        }
    }
}

/// The data with which a rank finds the other ranks, and the settings of their connections.
pub(crate) struct Wiring {
    pub(crate) group: Arc<str>,
    pub(crate) rank: u32,
    pub(crate) size: u32,
    /// A random value, the same on all ranks and different for every group of every run.
    pub(crate) session: [u8; 16],
    /// The part of a store that only this group and session use.
    pub(crate) store: Arc<dyn Store>,
    /// The failure reports of ranks that cannot join.
    pub(crate) reports: Arc<Reports>,
    pub(crate) transport: Transport,
    /// Whether ranks on one host may read each other's private memory.
    pub(crate) cma: bool,
    pub(crate) tuning: Tuning,
    /// The time by which all ranks must be connected.
    pub(crate) deadline: Instant,
    /// How long a peer's host may be silent over TCP before the peer counts as dead. The operating system of a stopped
    /// or late peer still answers.
    pub(crate) silence: Duration,
    /// Returns the ranks that left the parent group or died, as far as the parent group knows.
    pub(crate) lost: Lost,
    /// The time after which a waiting op is reported; `None`: never.
    pub(crate) warn_after: Option<Duration>,
}

/// See [`Wiring::lost`].
pub(crate) type Lost = Box<dyn Fn() -> Vec<u32> + Send + Sync>;
