//! Sends signals to the ranks, and ends them.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, getpgid, pidfd_send_signal};

use signal_hook::low_level::signal_name;

use super::{Running, Supervisor};
use crate::launch::guardian::Guardian;

/// A second SIGINT that arrives at least this time after the first kills the ranks at once. A second SIGINT that
/// arrives earlier is the first one, delivered twice (to the process and to its group).
const IMPATIENCE: Duration = Duration::from_secs(1);

impl Supervisor {
    pub(super) fn pass_on(&mut self, signal: Signal) {
        match signal {
            Signal::INT | Signal::TERM => self.asked_to_end(signal),
            // Ranks that handle or ignore SIGHUP continue, as they would without a launcher.
            Signal::HUP => {
                self.signal(Signal::HUP);
                self.signal(Signal::CONT);
            }
            // Only the ranks get these signals. Their children do not, because SIGUSR1 and SIGUSR2 end a process by
            // default.
            _ => {
                for child in self.children.iter().filter(|child| child.exit.is_none()) {
                    let _ = pidfd_send_signal(&child.pidfd, signal);
                }
            }
        }
    }

    fn asked_to_end(&mut self, signal: Signal) {
        let now = Instant::now();
        let earlier = self.asked.iter().find(|(asked, _)| *asked == signal).map(|(_, at)| *at);
        match earlier {
            None => {
                self.asked.push((signal, now));
                let name = signal_name(signal.as_raw()).unwrap_or("a signal");
                self.requests.failed_here(format!("the job was ended by {name}"));
                self.end_with(signal);
            }
            Some(at) if signal == Signal::INT && now.saturating_duration_since(at) >= IMPATIENCE => {
                self.kill_at = None;
                self.signal(Signal::KILL);
            }
            // The ranks are being ended already.
            Some(_) => {}
        }
    }

    /// Ends the ranks, unless they are being ended already.
    pub(super) fn end(&mut self) {
        if self.kill_at.is_none() && !self.overdue_known {
            self.end_with(Signal::TERM);
        }
    }

    /// Sends the signal now, and SIGKILL after the grace time.
    fn end_with(&mut self, signal: Signal) {
        self.signal(signal);
        self.signal(Signal::CONT);
        if !self.overdue_known {
            self.kill_at.get_or_insert(Instant::now() + self.plan.grace);
        }
    }

    /// Kills the ranks that did not end within the grace time.
    pub(super) fn kill_if_due(&mut self) {
        if self.kill_at.is_some_and(|at| Instant::now() >= at) {
            self.kill_at = None;
            self.overdue_known = true;
            self.overdue = self.children.iter().filter(|child| child.exit.is_none()).map(|child| child.rank).collect();
            self.signal(Signal::KILL);
        }
    }

    /// Sends a signal to the ranks and their children.
    pub(super) fn signal(&self, signal: Signal) {
        let group = self.guardian.as_ref().map(Guardian::group);
        if let Some(guardian) = &self.guardian {
            guardian.signal(signal);
        }
        for child in self.children.iter().filter(|child| child.exit.is_none() && !child.is_in(group)) {
            let _ = pidfd_send_signal(&child.pidfd, signal);
        }
    }

    pub(super) fn end_by_force(&mut self) {
        self.signal(Signal::KILL);
        for child in &mut self.children {
            let _ = child.child.kill();
            let _ = child.child.wait();
        }
    }
}

impl Running {
    /// Whether the rank is still in its original process group, which it may leave by `setsid`.
    fn is_in(&self, group: Option<Pid>) -> bool {
        group.is_some() && getpgid(Some(Pid::from_child(&self.child))).ok() == group
    }
}
