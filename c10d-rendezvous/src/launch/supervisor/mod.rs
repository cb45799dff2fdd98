//! The thread that starts the ranks and waits for their end.

mod ending;
mod start;

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdin, ChildStdout};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use c10d_core::{Error, ErrorKind};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;

use super::child::RankPlan;
use super::guardian::Guardian;
use super::options::{Output, Stdin};
use super::output::{self, CapturedOutput};
use super::report::{Exit, Failure, JobReport, Success};
use super::requests::{PendingRequests, Requests, raise};
use super::signals::Forwarding;

/// How long the launcher waits after a first failure for the failure that caused it. When a rank dies, the launcher may
/// first see the end of another rank that lost its connection to the dead rank.
const HINDSIGHT: Duration = Duration::from_millis(100);

pub(super) struct Plan {
    pub(super) program: OsString,
    pub(super) ranks: Vec<RankPlan>,
    pub(super) output: Output,
    pub(super) stdin: Stdin,
    pub(super) keep_going: bool,
    pub(super) success: Success,
    pub(super) forward_signals: bool,
    pub(super) grace: Duration,
}

pub(super) struct Rank {
    pub(super) rank: u32,
    pub(super) pid: u32,
    pub(super) pidfd: Arc<OwnedFd>,
    pub(super) stdin: Option<ChildStdin>,
    pub(super) stdout: Option<ChildStdout>,
}

pub(super) struct Supervisor {
    plan: Plan,
    children: Vec<Running>,
    guardian: Option<Guardian>,
    forwarding: Option<Forwarding>,
    requests: Arc<Requests>,
    started: Instant,
    kept: CapturedOutput,
    /// The channel that gets a message when all output is printed, and the descriptor that makes the printer stop
    /// early.
    printer: Option<(Receiver<()>, Arc<OwnedFd>)>,
    /// The descriptor that stops the thread that copies standard input.
    feeder: Option<Arc<OwnedFd>>,
    failure: Option<Exit>,
    /// The SIGINT and SIGTERM that were passed on, each at most once, with their times.
    asked: Vec<(Signal, Instant)>,
    elsewhere: Option<String>,
    reader_gone: bool,
    /// Whether the launcher ended the ranks for a reason other than a failed rank or a signal that the launcher passed
    /// on.
    ended: bool,
    /// The time at which SIGKILL is sent, if the ranks are being ended.
    kill_at: Option<Instant>,
    /// Whether SIGKILL was sent at the end of the grace time, so that `overdue` is known.
    overdue_known: bool,
    /// The ranks that did not end within the grace time.
    overdue: Vec<u32>,
}

struct Running {
    rank: u32,
    child: Child,
    pidfd: Arc<OwnedFd>,
    exit: Option<Exit>,
}

impl Supervisor {
    pub(super) fn run(mut self) -> JobReport {
        while self.children.iter().any(|child| child.exit.is_none()) {
            self.wait_for_news();
            self.look_at_requests();
            self.reap();
            self.kill_if_due();
        }
        let elapsed = self.started.elapsed();
        // This ends processes that the ranks left behind.
        self.guardian = None;
        if let Some(stop) = &self.feeder {
            raise(stop);
        }
        self.finish_output();
        // The reader may have closed the output while the last lines were printed.
        self.reader_gone |= self.requests.take().reader_gone;
        let mut output = std::mem::take(&mut *self.kept.lock());
        let failure = self.failure.take().map(|exit| {
            let index = self.children.iter().position(|child| child.rank == exit.rank);
            let stderr =
                index.and_then(|index| output.get(index)).map_or_else(String::new, |o| output::tail(&o.stderr));
            Failure { exit, stderr }
        });
        if self.plan.output != Output::Captured {
            output.clear();
        }
        JobReport {
            exits: self.children.iter().filter_map(|child| child.exit.clone()).collect(),
            failure,
            elsewhere: self.elsewhere,
            forwarded: self.asked.first().map(|(signal, _)| signal.as_raw()),
            reader_gone: self.reader_gone,
            overdue: self.overdue,
            success: self.plan.success,
            output,
            elapsed,
        }
    }

    fn wait_for_news(&self) {
        let mut fds = vec![PollFd::new(self.requests.wake(), PollFlags::IN)];
        for child in self.children.iter().filter(|child| child.exit.is_none()) {
            fds.push(PollFd::from_borrowed_fd(child.pidfd.as_fd(), PollFlags::IN));
        }
        if let Some(forwarding) = &self.forwarding {
            fds.extend(forwarding.fds().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        }
        let timeout = self.kill_at.map(|at| {
            let left = at.saturating_duration_since(Instant::now());
            Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() }
        });
        if let Err(e) = poll(&mut fds, timeout.as_ref())
            && e != rustix::io::Errno::INTR
        {
            tracing::warn!(error = %e, "the launcher cannot poll; it tries again in 20 ms");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn look_at_requests(&mut self) {
        let PendingRequests { kill, end, reader_gone, elsewhere } = self.requests.take();
        if kill {
            self.kill_at = None;
            self.ended = true;
            self.requests.failed_here("the owner of the job killed its ranks".into());
            self.signal(Signal::KILL);
        }
        if reader_gone && !self.reader_gone {
            self.reader_gone = true;
            self.ended = true;
            self.requests.failed_here("nobody reads the ranks' output any more".into());
            self.end();
        }
        if end {
            self.ended = true;
            self.requests.failed_here("the job's time limit has passed".into());
            self.end();
        }
        if let Some(what) = elsewhere
            && self.failure.is_none()
        {
            self.elsewhere.get_or_insert(what);
            if !self.plan.keep_going {
                self.ended = true;
                self.end();
            }
        }
        for signal in self.forwarding.as_mut().map_or_else(Vec::new, Forwarding::take) {
            self.pass_on(signal);
        }
    }

    fn reap(&mut self) {
        let mut failed = self.collect();
        // If `ended` is set, the launcher itself caused these exits, so they are not failures.
        if failed.is_empty() || self.failure.is_some() || self.ended {
            return;
        }
        let until = Instant::now() + HINDSIGHT;
        let killed = |failed: &[Exit]| failed.iter().any(|exit| exit.signal.is_some());
        while !killed(&failed) && self.children.iter().any(|child| child.exit.is_none()) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(2));
            failed.extend(self.collect());
        }
        let Some(exit) = failed.into_iter().min_by_key(|exit| (exit.signal.is_none(), exit.elapsed, exit.rank)) else {
            return;
        };
        self.requests.failed_here(format!("rank {} {exit}", exit.rank));
        self.failure = Some(exit);
        if !self.plan.keep_going {
            self.end();
        }
    }

    /// Collects the ranks that have ended since the last call. Returns those that failed.
    fn collect(&mut self) -> Vec<Exit> {
        let mut failed = Vec::new();
        for child in self.children.iter_mut().filter(|child| child.exit.is_none()) {
            let (code, signal) = match child.child.try_wait() {
                Ok(None) => continue,
                Ok(Some(status)) => (status.code(), status.signal()),
                Err(_) => (None, None),
            };
            let exit = Exit { rank: child.rank, code, signal, elapsed: self.started.elapsed() };
            child.exit = Some(exit.clone());
            if !exit.success() {
                failed.push(exit);
            }
        }
        failed
    }

    /// Waits for the rest of the output. A process outside of the process group may still hold a pipe open.
    fn finish_output(&mut self) {
        let Some((printed, stop)) = self.printer.take() else { return };
        let patience = Duration::from_secs(1);
        if printed.recv_timeout(patience).is_err() {
            raise(&stop);
            // If nobody reads the printer's output, the rest of the output is lost.
            let _ = printed.recv_timeout(patience);
        }
    }
}

fn failed(what: &str) -> Error {
    Error::new(ErrorKind::Resource, what)
}
