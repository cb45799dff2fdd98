//! Shared code of test modules in which ranks check values, or in which one rank differs or dies.

use std::time::{Duration, Instant};

use c10d::launch::{JobReport, Launch};
use c10d::{ProcessGroup, Result, Status};
use libtest_mimic::{Failed, Trial};
use rustix::process::{Signal, getpid, kill_process};

use super::acts::{VICTIM, WORLD};
use super::{failures, launch_of, lines, report_error, report_line, shown};

/// A time limit that only a hang reaches.
pub(crate) const CAP: Duration = Duration::from_secs(30);

/// Checks the values on this rank. Returns what is wrong, if anything.
pub(crate) type Values = fn(&ProcessGroup) -> Result<Option<String>>;
/// Checks the reports of a part. The error says what is wrong.
pub(crate) type Judge = fn(&str, u32, &JobReport) -> Result<(), String>;

/// Makes the tests of a module: `values` in groups of several sizes, over threads and over processes, and each of
/// `parts` over each transport.
pub(crate) fn of_values(module: &'static str, values: Values, parts: &[&'static str], judge: Judge) -> Vec<Trial> {
    let mut trials = vec![over_threads(format!("{module}/threads/values"), 1..=5, values)];
    for transport in ["shm", "tcp"] {
        for world in if transport == "shm" { 1..=5 } else { 2..=3 } {
            trials.push(Trial::test(format!("{module}/{transport}/values_of_{world}"), move || {
                run(module, "values", world, transport, judge)
            }));
        }
        trials.extend(of_parts(module, transport, parts, judge));
    }
    trials
}

/// Makes the test of a module's values over threads.
pub(crate) fn over_threads(
    name: String,
    worlds: impl IntoIterator<Item = u32> + Send + 'static,
    values: impl Fn(&ProcessGroup) -> Result<Option<String>> + Send + Sync + 'static,
) -> Trial {
    Trial::test(name, move || {
        for world in worlds {
            let wrong = c10d::run_ranks(world, |pg| values(&pg)).map_err(|e| format!("world {world}: {e}"))?;
            if let Some(wrong) = wrong.into_iter().flatten().next() {
                return Err(format!("world {world}: {wrong}").into());
            }
        }
        Ok(())
    })
}

/// Makes the tests of a module's parts over one transport.
pub(crate) fn of_parts(
    module: &'static str,
    transport: &'static str,
    parts: &[&'static str],
    judge: Judge,
) -> impl Iterator<Item = Trial> {
    parts.iter().map(move |&part| {
        Trial::test(format!("{module}/{transport}/{part}"), move || run(module, part, WORLD, transport, judge))
    })
}

fn run(module: &str, part: &str, world: u32, transport: &str, judge: Judge) -> Result<(), Failed> {
    judged(launch_of(module, part, world, transport), part, world, judge)
}

/// Runs the launched ranks of a part, and checks their reports.
pub(crate) fn judged(launch: Launch, part: &str, world: u32, judge: Judge) -> Result<(), Failed> {
    let report = launch.run().map_err(|e| e.to_string())?;
    judge(part, world, &report).map_err(|what| format!("{what}\n{}", shown(&report)).into())
}

/// Checks that every rank reported success, or in the part `killed`, that every rank but the victim names the victim.
pub(crate) fn well_or_killed(part: &str, world: u32, report: &JobReport) -> Result<(), String> {
    for rank in (0..world).filter(|rank| part != "killed" || *rank != VICTIM) {
        match (part, &failures(report, rank)[..]) {
            ("killed", [one]) if one.kind == "PeerDead" && one.guilty == [VICTIM] => {}
            ("killed", _) => return Err(format!("rank {rank}: no error that names only the victim as dead")),
            _ if lines(report, rank) == ["well"] => {}
            _ => return Err(format!("rank {rank}: did not report success")),
        }
    }
    Ok(())
}

/// Reports what is wrong on this rank, or success (`well`), and leaves the group.
pub(crate) fn leave(pg: ProcessGroup, wrong: Option<String>) -> Result {
    report_line(wrong.unwrap_or_else(|| "well".into()));
    pg.shutdown()
}

/// Checks that the result is an error with the status `Rejected` and these contents. Returns what is wrong, if
/// anything.
pub(crate) fn rejected<T>(result: Result<T>, kind: &str, guilty: &[u32], words: &[&str]) -> Option<String> {
    let Err(e) = result else { return Some("no error".into()) };
    let (report, text) = (e.report(), e.to_string());
    let right = report.kind.name() == kind && report.guilty == guilty && report.status == Status::Rejected;
    (!right || !words.iter().all(|word| text.contains(word))).then_some(text)
}

/// Makes a call in which the victim differs in one respect, and reports the error of the call.
pub(crate) fn differs(call: impl FnOnce() -> Result) -> Result {
    match call() {
        Err(e) => report_error("differs", &e),
        Ok(()) => report_line("no error"),
    }
    until_all_have_reported(WORLD)
}

/// Waits until this number of ranks have reported. If a rank left earlier, the errors of the others would say only that
/// it left.
pub(crate) fn until_all_have_reported(ranks: u32) -> Result {
    let store = c10d::init("env://", CAP)?.store;
    let deadline = Instant::now() + CAP;
    if store.add("failed", 1, deadline)? == i64::from(ranks) {
        store.set("all have failed", b"", deadline)?;
    }
    store.wait(&["all have failed"], deadline)
}

/// Runs rounds, in one of which the victim dies. The other ranks report the error that they get then.
pub(crate) fn victim_dies(pg: &ProcessGroup, mut round: impl FnMut() -> Result) -> Result {
    round()?;
    if pg.rank() == VICTIM {
        std::thread::spawn(|| {
            std::thread::sleep(Duration::from_millis(20));
            let _ = kill_process(getpid(), Signal::KILL);
        });
    }
    let begin = Instant::now();
    while begin.elapsed() < CAP {
        if let Err(e) = round() {
            report_error("killed", &e);
            return until_all_have_reported(WORLD - 1);
        }
    }
    Ok(())
}
