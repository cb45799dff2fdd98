//! One rank as a process that dies with its launcher.
#![allow(unsafe_code)]

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use c10d_core::{Error, ErrorKind, Result};
use rustix::process::{Pid, Signal, getpid, getppid, set_parent_process_death_signal};

use super::input::Source;
use super::options::Output;

pub(super) struct RankPlan {
    pub(super) rank: u32,
    pub(super) argv: Vec<OsString>,
    pub(super) env: Vec<(OsString, OsString)>,
}

impl RankPlan {
    /// Starts the process in the process group `group`, or in a new group if `group` is `None`. The operating
    /// system kills the process when the calling *thread* ends.
    pub(super) fn spawn(&self, output: Output, source: Source, group: Option<Pid>) -> io::Result<Child> {
        let (program, args) = self.argv.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let mut command = Command::new(program);
        command.args(args).envs(self.env.iter().map(|(name, value)| (name, value)));
        let input = match source {
            Source::Nothing => Stdio::null(),
            Source::Ours => Stdio::inherit(),
            Source::Fed | Source::Callers => Stdio::piped(),
        };
        let (out, err) = match output {
            Output::Inherit => (Stdio::inherit(), Stdio::inherit()),
            Output::Prefixed | Output::Captured | Output::Piped => (Stdio::piped(), Stdio::piped()),
        };
        command.stdin(input).stdout(out).stderr(err);
        command.process_group(group.map_or(0, |group| group.as_raw_nonzero().get()));
        let launcher = getpid();
        let die_with_launcher = move || {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            // If the launcher died before the call above, this process gets no signal.
            if getppid() == Some(launcher) { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
        };
        // SAFETY: between fork and exec, the closure only makes two system calls and allocates nothing.
        unsafe { command.pre_exec(die_with_launcher) };
        command.spawn()
    }
}

/// Returns an error if the program cannot be run.
pub(super) fn check_program(program: &OsStr) -> Result<()> {
    let runnable = |path: &Path| path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    let what = if program.as_encoded_bytes().contains(&b'/') {
        let path = Path::new(program);
        match path.metadata() {
            _ if runnable(path) => return Ok(()),
            Ok(_) => "it is not an executable file".to_owned(),
            Err(e) => e.to_string(),
        }
    } else {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let dirs: Vec<PathBuf> = std::env::split_paths(&path).collect();
        if dirs.iter().any(|dir| runnable(&dir.join(program))) {
            return Ok(());
        }
        let here = if runnable(Path::new(program)) { "; write ./ before it to run it from this directory" } else { "" };
        format!("no directory of PATH contains it{here}")
    };
    let name = Path::new(program).display();
    Err(Error::new(ErrorKind::Resource, format!("cannot run {name}: {what}")))
}
