//! The results of a job.

use std::fmt;
use std::time::Duration;

use c10d_core::{Error, ErrorKind, Result};

/// Which ranks of a host must succeed for the job to be a success.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Success {
    /// All ranks.
    #[default]
    All,
    /// All ranks that no signal killed, and at least one rank. This is for programs that continue without dead ranks
    /// (`shrink`).
    Survivors,
    /// At least one rank, whatever happens to the others.
    Any,
}

/// How a rank ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Exit {
    /// The rank.
    pub rank: u32,
    /// The rank's exit code, if it exited.
    pub code: Option<i32>,
    /// The signal that killed the rank, if one did.
    pub signal: Option<i32>,
    /// The time from the start of the first rank to the end of this rank.
    pub elapsed: Duration,
}

impl Exit {
    /// Whether the rank succeeded.
    pub fn success(&self) -> bool {
        self.code == Some(0)
    }

    /// Returns the status as a shell reports it: the exit code, or 128 + the signal.
    pub fn status(&self) -> i32 {
        self.code.unwrap_or_else(|| 128 + self.signal.unwrap_or(0))
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code, self.signal) {
            (Some(code), _) => write!(f, "exited with code {code}"),
            (None, Some(signal)) => match signal_hook::low_level::signal_name(signal) {
                Some(name) => write!(f, "was killed by signal {signal} ({name})"),
                None => write!(f, "was killed by signal {signal}"),
            },
            (None, None) => write!(f, "ended in an unknown way"),
        }
    }
}

/// The first rank that failed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Failure {
    /// How the rank ended.
    pub exit: Exit,
    /// The rank's last lines of standard error, if the launcher read them.
    pub stderr: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rank {} {} after {:.1?}", self.exit.rank, self.exit, self.exit.elapsed)?;
        if !self.stderr.is_empty() {
            write!(f, "; its last lines of stderr:")?;
            for line in self.stderr.lines() {
                write!(f, "\n    {line}")?;
            }
        }
        Ok(())
    }
}

/// The kept output of one rank.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Captured {
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
}

/// The result of a job.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct JobReport {
    /// How each rank of this host ended, in rank order.
    pub exits: Vec<Exit>,
    /// The first rank of this host that failed. Once the launcher has begun to end the ranks, a failure counts only if
    /// the launcher ends them because of a SIGINT or SIGTERM that it passed on.
    pub failure: Option<Failure>,
    /// The report of a launcher on another host about the failure that happened there first.
    pub elsewhere: Option<String>,
    /// The first of SIGINT and SIGTERM that this process passed on to the ranks, if it got one.
    pub forwarded: Option<i32>,
    /// Whether the ranks were ended because nobody read their output any more.
    pub reader_gone: bool,
    /// The ranks of this host that did not end within the grace time, and were killed.
    pub overdue: Vec<u32>,
    /// Which ranks had to succeed.
    pub success: Success,
    /// The output of each rank of this host, for [`Output::Captured`](super::Output::Captured).
    pub output: Vec<Captured>,
    /// The time from the first rank's start to the last rank's end.
    pub elapsed: Duration,
}

impl JobReport {
    /// Returns the exit code for a program that launched this job, by the first of these rules that applies:
    ///
    /// 1. 128 + signal if SIGINT or SIGTERM was passed on and not all ranks succeeded;
    /// 2. 0 if [`Success::Survivors`] or [`Success::Any`] was chosen and holds, and `reader_gone` is `false`;
    /// 3. the status of the rank that failed first (128 + signal if a signal killed it);
    /// 4. 141 (128 + SIGPIPE) if nobody read the output any more;
    /// 5. 1 if the job failed on another host;
    /// 6. the status of the lowest rank that did not succeed, or 0 if all succeeded.
    pub fn exit_code(&self) -> i32 {
        let failed = self.exits.iter().map(Exit::status).find(|status| *status != 0);
        match (&self.failure, self.forwarded) {
            (_, Some(signal)) if failed.is_some() => 128 + signal,
            _ if self.forgiven() => 0,
            (Some(failure), _) => failure.exit.status(),
            _ if self.reader_gone => 128 + signal_hook::consts::SIGPIPE,
            _ if self.elsewhere.is_some() => 1,
            _ => failed.unwrap_or(0),
        }
    }

    /// Whether the job is a success although ranks failed, because the job's success does not depend on these ranks.
    fn forgiven(&self) -> bool {
        let tolerable = |exit: &Exit| match self.success {
            Success::All => exit.success(),
            Success::Survivors => exit.success() || exit.signal.is_some(),
            Success::Any => true,
        };
        let asked = self.success != Success::All && !self.reader_gone;
        asked && self.exits.iter().any(Exit::success) && self.exits.iter().all(tolerable)
    }

    /// Returns the report of a successful job, or an error that names the rank that failed first.
    pub fn ok(self) -> Result<JobReport> {
        if self.forgiven() {
            return Ok(self);
        }
        if let Some(failure) = &self.failure {
            let how = failure.exit.to_string();
            let what = failure.to_string();
            return Err(Error::new(ErrorKind::PeerDead { how }, what).guilty([failure.exit.rank]));
        }
        if let Some(what) = &self.elsewhere {
            let how = "failed on another host".into();
            return Err(Error::new(ErrorKind::PeerDead { how }, what.clone()));
        }
        match self.exits.iter().find(|exit| !exit.success()) {
            Some(exit) => Err(Error::new(ErrorKind::PeerDead { how: exit.to_string() }, "").guilty([exit.rank])),
            None => Ok(self),
        }
    }
}
