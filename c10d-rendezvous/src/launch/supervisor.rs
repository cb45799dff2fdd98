//! The thread that starts the ranks and sees them end.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdin, ChildStdout};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use c10d_core::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::Output;
use super::child::RankPlan;
use super::guardian::Guardian;
use super::output::{self, Channel, Kept, Stream};
use super::report::{Captured, Exit, Failure, Report};
use super::signals::Forwarding;

/// How long a first failure may turn out to follow from another. A process that is killed closes its connections before
/// its end can be seen, so a rank that fails for the lack of it may be seen first.
const HINDSIGHT: Duration = Duration::from_millis(100);

pub(super) struct Plan {
    pub(super) ranks: Vec<RankPlan>,
    pub(super) output: Output,
    pub(super) keep_going: bool,
    pub(super) forward_signals: bool,
    pub(super) grace: Duration,
}

/// What the owner of the job asks of the supervisor.
pub(super) struct Requests {
    wake: OwnedFd,
    kill: AtomicBool,
    /// A failure on another host, and one on this host, in words.
    elsewhere: Mutex<Option<String>>,
    here: Mutex<Option<String>>,
}

impl Requests {
    pub(super) fn new() -> io::Result<Requests> {
        Ok(Requests {
            wake: event()?,
            kill: AtomicBool::new(false),
            elsewhere: Mutex::new(None),
            here: Mutex::new(None),
        })
    }

    /// Kill all ranks now.
    pub(super) fn kill(&self) {
        self.kill.store(true, Ordering::Release);
        raise(&self.wake);
    }

    /// End the ranks: one failed on another host.
    pub(super) fn failed_elsewhere(&self, what: String) {
        self.elsewhere.lock().get_or_insert(what);
        raise(&self.wake);
    }

    fn failed_here(&self, what: String) {
        self.here.lock().get_or_insert(what);
    }

    /// What failed on this host, told once.
    pub(super) fn take_failure(&self) -> Option<String> {
        self.here.lock().take()
    }
}

/// One rank of this host.
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
    kept: Kept,
    /// Says when all output is printed; what makes it stop early.
    printer: Option<(Receiver<()>, Arc<OwnedFd>)>,
    failure: Option<Exit>,
    forwarded: Option<Signal>,
    elsewhere: Option<String>,
    /// The owner had the ranks killed.
    killed: bool,
    /// When SIGKILL follows SIGTERM.
    kill_at: Option<Instant>,
}

struct Running {
    rank: u32,
    child: Child,
    pidfd: Arc<OwnedFd>,
    exit: Option<Exit>,
}

impl Supervisor {
    /// Starts all ranks; where one cannot start, none is left.
    pub(super) fn start(plan: Plan, requests: Arc<Requests>) -> Result<(Supervisor, Vec<Rank>)> {
        let forwarding = if plan.forward_signals {
            Some(Forwarding::start().map_err(|e| failed("cannot take over signals").source(e))?)
        } else {
            None
        };
        let guardian = Guardian::start()
            .inspect_err(|e| tracing::warn!(error = %e, "no guardian: if this process is killed, only the ranks end"))
            .ok();
        let kept: Kept = Arc::new(Mutex::new(vec![Captured::default(); plan.ranks.len()]));
        let mut supervisor = Supervisor {
            children: Vec::new(),
            guardian,
            forwarding,
            requests,
            started: Instant::now(),
            kept,
            printer: None,
            failure: None,
            forwarded: None,
            elsewhere: None,
            killed: false,
            kill_at: None,
            plan,
        };
        let (mut ranks, mut streams) = (Vec::new(), Vec::new());
        for index in 0..supervisor.plan.ranks.len() {
            let (rank, program) = {
                let plan = &supervisor.plan.ranks[index];
                (plan.rank, plan.argv.first().cloned().unwrap_or_default())
            };
            match supervisor.spawn(index, &mut streams) {
                Ok(rank) => ranks.push(rank),
                Err(e) => {
                    supervisor.end_by_force();
                    let what = format!("cannot start rank {rank}: {}; no rank was kept", program.display());
                    return Err(failed(&what).source(e));
                }
            }
        }
        supervisor.print(streams).map_err(|e| {
            supervisor.end_by_force();
            failed("cannot read the ranks' output").source(e)
        })?;
        Ok((supervisor, ranks))
    }

    fn spawn(&mut self, index: usize, streams: &mut Vec<Stream>) -> io::Result<Rank> {
        let plan = &self.plan.ranks[index];
        let output = self.plan.output;
        let mut child = plan.spawn(output, self.guardian.as_ref().map(Guardian::group))?;
        let (stdin, mut stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (rank, pid) = (plan.rank, child.id());
        let opened = i32::try_from(pid)
            .ok()
            .and_then(Pid::from_raw)
            .ok_or_else(|| io::Error::other("a process id out of range"))
            .and_then(|pid| Ok(pidfd_open(pid, PidfdFlags::empty())?));
        let pidfd = match opened {
            Ok(pidfd) => Arc::new(pidfd),
            Err(e) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(e);
            }
        };
        self.children.push(Running { rank, child, pidfd: pidfd.clone(), exit: None });
        let capture = output == Output::Captured;
        if output != Output::Piped
            && let Some(out) = stdout.take()
        {
            streams.push(Stream::new(out.into(), index, rank, Channel::Out, capture)?);
        }
        if let Some(err) = stderr {
            streams.push(Stream::new(err.into(), index, rank, Channel::Err, capture)?);
        }
        Ok(Rank { rank, pid, pidfd, stdin, stdout })
    }

    fn print(&mut self, streams: Vec<Stream>) -> io::Result<()> {
        if streams.is_empty() {
            return Ok(());
        }
        let stop = Arc::new(event()?);
        let (kept, until) = (self.kept.clone(), stop.clone());
        let (done, printed) = sync_channel(1);
        std::thread::Builder::new().name("c10d-output".into()).spawn(move || {
            output::pump(streams, &kept, &until);
            let _ = done.send(());
        })?;
        self.printer = Some((printed, stop));
        Ok(())
    }

    /// Waits for the end of all ranks.
    pub(super) fn run(mut self) -> Report {
        while self.children.iter().any(|child| child.exit.is_none()) {
            self.wait_for_news();
            self.look_at_requests();
            self.reap();
            if self.kill_at.is_some_and(|at| Instant::now() >= at) {
                self.kill_at = None;
                self.signal(Signal::KILL);
            }
        }
        let elapsed = self.started.elapsed();
        // Ends what the ranks left behind, which may hold their output open.
        self.guardian = None;
        self.finish_output();
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
        Report {
            exits: self.children.iter().filter_map(|child| child.exit.clone()).collect(),
            failure,
            elsewhere: self.elsewhere,
            forwarded: self.forwarded.map(Signal::as_raw),
            output,
            elapsed,
        }
    }

    fn wait_for_news(&self) {
        let mut fds = vec![PollFd::new(&self.requests.wake, PollFlags::IN)];
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
            tracing::warn!(error = %e, "the launcher cannot poll; looking again soon");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn look_at_requests(&mut self) {
        let _ = rustix::io::read(&self.requests.wake, &mut [0; 8]);
        if self.requests.kill.swap(false, Ordering::AcqRel) {
            self.kill_at = None;
            self.killed = true;
            self.signal(Signal::KILL);
        }
        let elsewhere = self.requests.elsewhere.lock().take();
        if let Some(what) = elsewhere
            && self.failure.is_none()
        {
            self.elsewhere = Some(what);
            self.terminate();
        }
        for signal in self.forwarding.as_mut().map_or_else(Vec::new, Forwarding::take) {
            if self.forwarded.is_some() {
                self.signal(Signal::KILL);
            } else {
                self.forwarded = Some(signal);
                self.signal(signal);
            }
        }
    }

    fn reap(&mut self) {
        let mut failed = self.collect();
        // A rank that the launcher ended says nothing about what failed.
        if failed.is_empty() || self.failure.is_some() || self.killed || self.elsewhere.is_some() {
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
        if !self.plan.keep_going && self.forwarded.is_none() {
            self.terminate();
        }
    }

    /// Takes note of the ranks that have ended since the last look; gives those that failed.
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

    fn terminate(&mut self) {
        self.signal(Signal::TERM);
        self.kill_at = Some(Instant::now() + self.plan.grace);
    }

    fn signal(&self, signal: Signal) {
        match &self.guardian {
            Some(guardian) => guardian.signal(signal),
            None => {
                for child in self.children.iter().filter(|child| child.exit.is_none()) {
                    let _ = pidfd_send_signal(&child.pidfd, signal);
                }
            }
        }
    }

    fn end_by_force(&mut self) {
        self.signal(Signal::KILL);
        for child in &mut self.children {
            let _ = child.child.kill();
            let _ = child.child.wait();
        }
    }

    /// The ranks are gone, so the pipes are at their ends, unless somebody who left the group holds them.
    fn finish_output(&mut self) {
        let Some((printed, stop)) = self.printer.take() else { return };
        let patience = Duration::from_secs(1);
        if printed.recv_timeout(patience).is_err() {
            raise(&stop);
            // Longer only if nobody reads what we print; then the rest is lost.
            let _ = printed.recv_timeout(patience);
        }
    }
}

fn event() -> io::Result<OwnedFd> {
    Ok(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}

fn raise(event: &OwnedFd) {
    let _ = rustix::io::write(event, &1u64.to_ne_bytes());
}

fn failed(what: &str) -> Error {
    Error::new(ErrorKind::Resource, what)
}
