//! The guardian: a process that kills the ranks' children when the launcher dies. The operating system kills only
//! the ranks themselves (parent-death signal, see `child.rs`).

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};

/// The leader of the process group of all ranks. When the launcher dies for any reason, the launcher's end of the pipe
/// closes, and the guardian kills the group, including itself.
pub(super) struct Guardian {
    child: Child,
    group: Pid,
    _pipe: Option<ChildStdin>,
}

const SCRIPT: &str = "trap '' HUP INT TERM USR1 USR2 WINCH; while read -r _; do :; done; kill -9 0";

impl Guardian {
    pub(super) fn start() -> io::Result<Guardian> {
        let mut child = Command::new("/bin/sh")
            .args(["-c", SCRIPT])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        let pipe = child.stdin.take();
        match i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
            Some(group) => Ok(Guardian { child, group, _pipe: pipe }),
            None => Err(io::Error::other("a process id out of range")),
        }
    }

    pub(super) fn group(&self) -> Pid {
        self.group
    }

    pub(super) fn signal(&self, signal: Signal) {
        let _ = kill_process_group(self.group, signal);
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        // The group's id is not reused before the guardian is reaped, so this kills no other process.
        self.signal(Signal::KILL);
        let _ = self.child.wait();
    }
}
