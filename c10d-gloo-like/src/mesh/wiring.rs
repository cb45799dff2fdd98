//! What a rank is given to find the others.

use std::sync::Arc;
use std::time::{Duration, Instant};

use c10d_core::Store;
use c10d_core::backend::Reports;

/// Which way bytes may take between ranks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Transport {
    /// Shared memory within a host, where it can be had; TCP otherwise.
    #[default]
    Auto,
    /// Shared memory or an error.
    Shm,
    /// TCP even within a process.
    Tcp,
}

impl Transport {
    /// Its name, as users write it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Transport::Auto => "auto",
            Transport::Shm => "shm",
            Transport::Tcp => "tcp",
        }
    }

    /// The transport of this name.
    pub(crate) fn from_name(name: &str) -> Option<Transport> {
        [Transport::Auto, Transport::Shm, Transport::Tcp].into_iter().find(|t| t.name() == name)
    }

    pub(super) fn from_code(code: u8) -> Option<Transport> {
        [Transport::Auto, Transport::Shm, Transport::Tcp].get(usize::from(code)).copied()
    }
}

/// By what a rank chooses its algorithms; the same on all ranks.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Tuning {
    /// Equal where the choices are.
    pub(crate) hash: u64,
    /// The file that has them; empty: the built-in ones.
    pub(crate) file: String,
}

impl Tuning {
    /// For an error.
    pub(super) fn words(&self) -> String {
        match &*self.file {
            "" => format!("the built-in one ({:016x})", self.hash),
            file => format!("file {file} ({:016x})", self.hash),
        }
    }
}

/// What a rank needs to find the others.
pub(crate) struct Wiring {
    /// The group's name.
    pub(crate) group: Arc<str>,
    /// The own rank.
    pub(crate) rank: u32,
    /// How many ranks there are.
    pub(crate) size: u32,
    /// Random, the same on all ranks, another one for every group of every run.
    pub(crate) session: [u8; 16],
    /// A part of a store that belongs to this group and session alone.
    pub(crate) store: Arc<dyn Store>,
    /// What ranks tell each other that cannot join.
    pub(crate) reports: Arc<Reports>,
    /// The way bytes may take.
    pub(crate) transport: Transport,
    /// By what algorithms are chosen.
    pub(crate) tuning: Tuning,
    /// When all must be connected.
    pub(crate) deadline: Instant,
    /// How long nothing may be heard of a peer's host over TCP before the peer is given up. A peer that is stopped or
    /// late is heard: its kernel answers.
    pub(crate) silence: Duration,
    /// Tells which ranks are known to be gone already, from the group that this one is made from.
    pub(crate) lost: Lost,
    /// After how long a wait is spoken of.
    pub(crate) warn_after: Option<Duration>,
}

/// See [`Wiring`].
pub(crate) type Lost = Box<dyn Fn() -> Vec<u32> + Send + Sync>;
