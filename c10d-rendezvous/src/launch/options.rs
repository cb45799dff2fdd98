//! The options of a launch.

use std::time::Duration;

/// The hosts and ranks of a job, and how its launchers find each other.
pub(super) struct Topology {
    /// The number of ranks on each host.
    pub(super) ranks: u32,
    pub(super) nodes: u32,
    pub(super) node_rank: u32,
    /// `host:port` of the store on host 0.
    pub(super) rdzv: Option<String>,
    pub(super) join_timeout: Duration,
}

impl Topology {
    /// Converts the number of a rank on this host to its rank in the job.
    pub(super) fn rank(&self, local: u32) -> u32 {
        self.node_rank * self.ranks + local
    }
}

/// What happens to the ranks' standard output and error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Output {
    /// The output is printed line by line on the launcher's own standard output and error. Each line begins with its
    /// rank.
    #[default]
    Prefixed,
    /// The ranks write directly to the launcher's own standard output and error. Errors do not quote a rank's last
    /// lines.
    Inherit,
    /// The output is kept for the [`JobReport`](super::JobReport): at least the last 16 MiB of each stream, and at most
    /// 32 MiB.
    Captured,
    /// Standard input and output are pipes for the caller ([`Job::take_stdin`](super::Job::take_stdin),
    /// [`Job::take_stdout`](super::Job::take_stdout)). Standard error is handled as for [`Prefixed`](Output::Prefixed).
    Piped,
}

/// Which ranks get the launcher's standard input. All other ranks have an empty standard input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stdin {
    /// No rank.
    #[default]
    None,
    /// Rank 0.
    Rank0,
    /// All ranks of this host. Each rank gets the whole input, at the speed of the slowest rank.
    All,
}
