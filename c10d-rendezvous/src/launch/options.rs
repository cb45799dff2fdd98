//! What a launch is told, as its parts need it.

use std::time::Duration;

/// The hosts and ranks of a job, and how its launchers meet.
pub(super) struct Topology {
    /// Ranks on each host.
    pub(super) ranks: u32,
    pub(super) nodes: u32,
    pub(super) node_rank: u32,
    /// `host:port` of the store on host 0.
    pub(super) rdzv: Option<String>,
    pub(super) join_timeout: Duration,
}

impl Topology {
    /// The rank of the job that is this one of this host.
    pub(super) fn rank(&self, local: u32) -> u32 {
        self.node_rank * self.ranks + local
    }
}

/// What happens to the ranks' standard output and error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Output {
    /// It goes line by line to the launcher's own, each line with its rank in front.
    #[default]
    Prefixed,
    /// The ranks write to the launcher's own directly. Errors then cannot quote a rank's last lines.
    Inherit,
    /// It is kept for the [`JobReport`](super::JobReport), the last 16 MiB of each stream.
    Captured,
    /// Standard input and output are pipes for the caller ([`Job::take_stdin`](super::Job::take_stdin), [`Job::take_stdout`](super::Job::take_stdout)). Standard error
    /// is handled as for [`Prefixed`](Output::Prefixed).
    Piped,
}

/// Which ranks get the launcher's standard input. The standard input of the others is empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stdin {
    /// None.
    #[default]
    None,
    /// Rank 0.
    Rank0,
    /// All ranks of this host; each gets all of it. The slowest reader sets the speed.
    All,
}
