//! The handle of a running job.

use std::process::{ChildStdin, ChildStdout};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use c10d_core::store::deadline_after;
use c10d_core::sync::{Condvar, Mutex};
use c10d_core::{Error, ErrorKind, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::pidfd_send_signal;

use super::nodes::Node;
use super::report::JobReport;
use super::requests::Requests;
use super::supervisor::{Plan, Rank, Supervisor};

/// How long killed ranks may take to end.
const KILLED: Duration = Duration::from_secs(5);

/// A signal for [`Job::signal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum Signal {
    Interrupt,
    Terminate,
    Kill,
    Stop,
    Continue,
}

/// The running ranks of one launcher. Dropping a `Job` kills its ranks.
pub struct Job {
    ranks: Vec<Rank>,
    requests: Arc<Requests>,
    over: Arc<Over>,
    node: Node,
}

#[derive(Default)]
struct Over {
    report: Mutex<Option<JobReport>>,
    ended: Condvar,
}

impl Job {
    pub(super) fn start(plan: Plan, mut node: Node) -> Result<Job> {
        let cannot = |e: std::io::Error| Error::no_thread("cannot launch", e);
        let requests = Arc::new(Requests::new().map_err(cannot)?);
        node.watch(&requests).map_err(cannot)?;
        let over = Arc::new(Over::default());
        let (send, receive) = sync_channel(1);
        let (asked, shared) = (requests.clone(), over.clone());
        // The operating system kills the ranks when the thread that started them ends.
        std::thread::Builder::new()
            .name("c10d-launch".into())
            .spawn(move || match Supervisor::start(plan, asked) {
                Err(e) => {
                    let _ = send.send(Err(e));
                }
                Ok((supervisor, ranks)) => {
                    let _ = send.send(Ok(ranks));
                    let report = supervisor.run();
                    *shared.report.lock() = Some(report);
                    shared.ended.notify_all();
                }
            })
            .map_err(cannot)?;
        let started = receive.recv().map_err(|_| Error::new(ErrorKind::Internal, "the launcher's thread ended"))?;
        let ranks = started.inspect_err(|e| requests.failed_here(e.to_string()))?;
        Ok(Job { ranks, requests, over, node })
    }

    fn rank(&self, rank: u32) -> Result<&Rank> {
        self.ranks.iter().find(|r| r.rank == rank).ok_or_else(|| no_such(rank))
    }

    fn rank_mut(&mut self, rank: u32) -> Result<&mut Rank> {
        self.ranks.iter_mut().find(|r| r.rank == rank).ok_or_else(|| no_such(rank))
    }

    /// Returns the ranks of this host.
    pub fn ranks(&self) -> impl Iterator<Item = u32> + '_ {
        self.ranks.iter().map(|rank| rank.rank)
    }

    /// Returns the process id of a rank. After the rank's process has ended, the system may give the id to another
    /// process; [`signal`](Job::signal) never reaches that process.
    pub fn pid(&self, rank: u32) -> Result<u32> {
        self.rank(rank).map(|rank| rank.pid)
    }

    /// Takes the pipe to a rank's standard input, for [`Output::Piped`](super::Output::Piped). The pipe can be taken
    /// once.
    pub fn take_stdin(&mut self, rank: u32) -> Result<ChildStdin> {
        self.rank_mut(rank)?.stdin.take().ok_or_else(|| no_pipe(rank, "input"))
    }

    /// Takes the pipe from a rank's standard output, for [`Output::Piped`](super::Output::Piped). The pipe can be taken
    /// once.
    pub fn take_stdout(&mut self, rank: u32) -> Result<ChildStdout> {
        self.rank_mut(rank)?.stdout.take().ok_or_else(|| no_pipe(rank, "output"))
    }

    /// Sends a signal to a rank's process. If the process has ended, nothing happens.
    pub fn signal(&self, rank: u32, signal: Signal) -> Result {
        let signal = match signal {
            Signal::Interrupt => rustix::process::Signal::INT,
            Signal::Terminate => rustix::process::Signal::TERM,
            Signal::Kill => rustix::process::Signal::KILL,
            Signal::Stop => rustix::process::Signal::STOP,
            Signal::Continue => rustix::process::Signal::CONT,
        };
        match pidfd_send_signal(&self.rank(rank)?.pidfd, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(e) => Err(Error::new(ErrorKind::Resource, format!("cannot signal rank {rank}")).caused_by(e)),
        }
    }

    /// Kills all ranks of this host and their children.
    pub fn kill_all(&self) {
        self.requests.kill();
    }

    /// Whether a rank's process has ended.
    pub fn has_ended(&self, rank: u32) -> Result<bool> {
        let mut fds = [PollFd::new(&self.rank(rank)?.pidfd, PollFlags::IN)];
        Ok(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|n| n > 0))
    }

    /// Waits for the end of all ranks of this host. The ranks that still run at the deadline are killed, and the error
    /// names them. On host 0 of several hosts, also waits for the launchers of the other hosts, at most until the
    /// deadline.
    pub fn wait(self, deadline: Instant) -> Result<JobReport> {
        if let Some(report) = self.over.until(deadline) {
            return Ok(self.node.finish(report, Some(deadline)));
        }
        let running: Vec<u32> = self.ranks().filter(|rank| !self.has_ended(*rank).unwrap_or(true)).collect();
        self.kill_all();
        let gone = self.over.until(Instant::now() + KILLED).is_some();
        let what = if gone { "were killed" } else { "cannot be killed" };
        let what = format!("launched ranks still ran at the deadline and {what}");
        Err(Error::new(ErrorKind::Timeout, what).guilty(running))
    }

    /// Waits for the end of all ranks. The ranks that still run at the deadline get SIGTERM and, after the grace time,
    /// SIGKILL; the error names them.
    pub(super) fn wait_or_end(self, deadline: Instant, grace: Duration) -> Result<JobReport> {
        if let Some(report) = self.over.until(deadline) {
            return Ok(self.node.finish(report, Some(deadline)));
        }
        let running: Vec<u32> = self.ranks().filter(|rank| !self.has_ended(*rank).unwrap_or(true)).collect();
        self.requests.end();
        let gone = self.over.until(deadline_after(grace.saturating_add(KILLED))).is_some();
        let what = if gone { "were ended" } else { "cannot be ended" };
        let what = format!("launched ranks still ran at the job's time limit and {what}");
        Err(Error::new(ErrorKind::Timeout, what).guilty(running))
    }

    /// Waits for the end of all ranks of this host, however long they run. On host 0 of several hosts, also waits for
    /// the launchers of the other hosts.
    pub fn join(self) -> Result<JobReport> {
        loop {
            if let Some(report) = self.over.until(Instant::now() + Duration::from_secs(5)) {
                return Ok(self.node.finish(report, None));
            }
            if Arc::strong_count(&self.over) == 1 {
                return Err(Error::new(ErrorKind::Internal, "the launcher's thread ended without a report"));
            }
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.requests.kill();
        let _ = self.over.until(Instant::now() + KILLED);
    }
}

impl Over {
    fn until(&self, deadline: Instant) -> Option<JobReport> {
        let mut report = self.report.lock();
        while report.is_none() {
            if self.ended.wait_until(&mut report, deadline).timed_out() {
                break;
            }
        }
        report.clone()
    }
}

fn no_such(rank: u32) -> Error {
    Error::invalid(format!("rank {rank} was not launched on this host"))
}

fn no_pipe(rank: u32, which: &str) -> Error {
    let what = format!("no pipe to the standard {which} of rank {rank}");
    Error::invalid(format!("{what}: the output is not Output::Piped, or the pipe was taken before"))
}
