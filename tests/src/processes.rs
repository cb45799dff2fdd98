//! Runs ranks as processes: this program starts itself again for each rank of a world.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::{Duration, Instant};

use c10d_core::{Error, ErrorKind, Result};
use c10d_rendezvous::launch::{Launch, Output};

use crate::run::{Verdict, run as run_cases};
use crate::suite::{Suite, Verdicts, no_group};

/// The variable that makes this program run a rank: `world size:first case`.
const ROLE: &str = "C10D_CONFORMANCE_RANK";
/// The variable with the name of the suite, in a program with several suites.
pub(crate) const SUITE: &str = "C10D_CONFORMANCE_SUITE";
/// The prefix of the lines that the harness reads.
const MARK: &str = "c10d-conformance ";
/// The time limit of a world. Only ranks that hang outside of an op reach it.
const LIMIT: Duration = Duration::from_secs(1800);

impl Suite {
    /// If this process was started as a rank, runs that rank and ends the process; otherwise does nothing. A program
    /// that runs the suite over processes calls this first in `main`, or in the test that runs the suite.
    pub fn serve_rank(&self) {
        let Ok(role) = std::env::var(ROLE) else { return };
        // The test harness may have written the beginning of a line.
        println!();
        let code = match self.rank(&role) {
            Ok(()) => 0,
            Err(e) => {
                println!("{MARK}end {}", one_line(&e.to_string()));
                3
            }
        };
        let _ = std::io::stdout().flush();
        std::process::exit(code);
    }

    fn rank(&self, role: &str) -> Result {
        let unclear = || Error::invalid(format!("{ROLE}={role:?} is not world:begin"));
        let (world, begin) = role.split_once(':').ok_or_else(unclear)?;
        let (world, begin) = (world.parse().map_err(|_| unclear())?, begin.parse().map_err(|_| unclear())?);
        let cases = self.cases_of(world)?;
        let joined = c10d_rendezvous::init("env://", self.timeout)?;
        let pg = self.builder().rank(joined.rank).size(joined.size).store(joined.store).build()?;
        let device = self.rank_device(joined.rank)?;
        run_cases(&pg, cases.get(begin..).unwrap_or_default(), device.as_ref(), |_, verdict| {
            let mut line = MARK.to_owned();
            let written = match verdict {
                Verdict::Passed(digest) => write!(line, "passed {digest:016x}"),
                Verdict::Wrong(what) => write!(line, "wrong {}", one_line(&what)),
                Verdict::Failed(what) => write!(line, "failed {}", one_line(&what)),
            };
            debug_assert!(written.is_ok());
            println!("{line}");
        });
        if pg.failure().is_none() { pg.shutdown() } else { Ok(()) }
    }
}

pub(crate) fn run(suite: &Suite, world: u32, begin: usize) -> Vec<Verdicts> {
    launch(suite, world, begin).unwrap_or_else(|e| no_group(world, &e))
}

fn launch(suite: &Suite, world: u32, begin: usize) -> Result<Vec<Verdicts>> {
    if std::env::var_os(ROLE).is_some() {
        return Err(Error::invalid("a rank runs the suite instead of serving it: call `Suite::serve_rank` before"));
    }
    let cannot = |e: std::io::Error| Error::new(ErrorKind::Resource, "cannot find the running program").caused_by(e);
    let program = std::env::current_exe().map_err(cannot)?;
    let arguments = suite.arguments.clone().unwrap_or_else(|| std::env::args_os().skip(1).collect());
    let launch = Launch::new(program, arguments).ranks(world).env(ROLE, format!("{world}:{begin}"));
    let launch = suite.environment.iter().fold(launch, |launch, (name, value)| launch.env(name, value));
    // With `spawn`, a signal ends this program, and thereby the ranks.
    let report = launch.output(Output::Captured).keep_going().spawn()?.wait(Instant::now() + LIMIT)?;
    let ranks = report.output.iter().zip(&report.exits).map(|(output, exit)| {
        let mut verdicts = Vec::new();
        let mut end = exit.to_string();
        for line in String::from_utf8_lossy(&output.stdout).lines().filter_map(|line| line.strip_prefix(MARK)) {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            match word {
                "passed" => verdicts.push(Verdict::Passed(u64::from_str_radix(rest, 16).unwrap_or_default())),
                "wrong" => verdicts.push(Verdict::Wrong(rest.to_owned())),
                "failed" => verdicts.push(Verdict::Failed(rest.to_owned())),
                _ => end = rest.to_owned(),
            }
        }
        let stderr = String::from_utf8_lossy(&output.stderr);
        for line in stderr.lines().rev().take(5) {
            end = format!("{end}; {line}");
        }
        Verdicts { verdicts, end }
    });
    Ok(ranks.collect())
}

fn one_line(text: &str) -> String {
    text.replace('\n', "; ")
}
