//! Starts all ranks, or none.

use std::io;
use std::process::ChildStdin;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::Instant;

use c10d_core::sync::Mutex;
use c10d_core::{Error, Result};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::{Plan, Rank, Running, Supervisor, failed};
use crate::launch::child::check_program;
use crate::launch::guardian::Guardian;
use crate::launch::input::{self, Source};
use crate::launch::options::Output;
use crate::launch::output::{self, CapturedOutput, Channel, Stream};
use crate::launch::report::Captured;
use crate::launch::requests::{Requests, event};
use crate::launch::signals::Forwarding;

impl Supervisor {
    /// Starts all ranks. If one cannot be started, the others are ended.
    pub(in crate::launch) fn start(plan: Plan, requests: Arc<Requests>) -> Result<(Supervisor, Vec<Rank>)> {
        // The launchers have connected, so the other hosts learn of an error.
        check_program(&plan.program)?;
        let forwarding = if plan.forward_signals {
            Some(Forwarding::start().map_err(|e| failed("cannot take over signals").caused_by(e))?)
        } else {
            None
        };
        let guardian = Guardian::start()
            .inspect_err(|e| {
                tracing::warn!(
                    error = %e,
                    "cannot start the guardian process: if this process dies, child processes of the ranks keep running"
                );
            })
            .ok();
        let kept: CapturedOutput = Arc::new(Mutex::new(vec![Captured::default(); plan.ranks.len()]));
        let mut supervisor = Supervisor {
            children: Vec::new(),
            guardian,
            forwarding,
            requests,
            started: Instant::now(),
            kept,
            printer: None,
            feeder: None,
            failure: None,
            asked: Vec::new(),
            elsewhere: None,
            reader_gone: false,
            ended: false,
            kill_at: None,
            overdue_known: false,
            overdue: Vec::new(),
            plan,
        };
        let (mut ranks, mut streams, mut sinks) = (Vec::new(), Vec::new(), Vec::new());
        for index in 0..supervisor.plan.ranks.len() {
            let (rank, program) = {
                let plan = &supervisor.plan.ranks[index];
                (plan.rank, plan.argv.first().cloned().unwrap_or_default())
            };
            match supervisor.spawn(index, &mut streams, &mut sinks) {
                Ok(rank) => ranks.push(rank),
                Err(e) => {
                    supervisor.end_by_force();
                    let what = format!("cannot start rank {rank}: {}; the other ranks were ended", program.display());
                    return Err(Error::no_thread(what, e));
                }
            }
        }
        supervisor.print(streams).and_then(|()| supervisor.feed(sinks)).map_err(|e| {
            supervisor.end_by_force();
            Error::no_thread("cannot pass on the ranks' input and output", e)
        })?;
        Ok((supervisor, ranks))
    }

    fn spawn(&mut self, index: usize, streams: &mut Vec<Stream>, sinks: &mut Vec<ChildStdin>) -> io::Result<Rank> {
        let plan = &self.plan.ranks[index];
        let output = self.plan.output;
        let source = Source::of(output, self.plan.stdin, plan.rank);
        let mut child = plan.spawn(output, source, self.guardian.as_ref().map(Guardian::group))?;
        let (mut stdin, mut stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
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
        if source == Source::Fed {
            sinks.extend(stdin.take());
        }
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
        let (kept, until, requests) = (self.kept.clone(), stop.clone(), self.requests.clone());
        let (done, printed) = sync_channel(1);
        std::thread::Builder::new().name("c10d-output".into()).spawn(move || {
            output::pump(streams, &kept, &until, &requests);
            let _ = done.send(());
        })?;
        self.printer = Some((printed, stop));
        Ok(())
    }

    fn feed(&mut self, sinks: Vec<ChildStdin>) -> io::Result<()> {
        if sinks.is_empty() {
            return Ok(());
        }
        let stop = Arc::new(event()?);
        let until = stop.clone();
        std::thread::Builder::new().name("c10d-input".into()).spawn(move || input::feed(sinks, &until))?;
        self.feeder = Some(stop);
        Ok(())
    }
}
