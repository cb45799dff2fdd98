//! Ranks that fork: the child is not a member of the group, and does not affect the group.
#![allow(unsafe_code)]

use crate::{jobs, samples};

use std::time::{Duration, Instant};

use c10d::launch::JobReport;
use c10d::{Error, ErrorKind, ProcessGroup, ReduceOp, Result, op};
use jobs::{failures, join, launch, lines, report_error, report_line, shown};
use libtest_mimic::{Failed, Trial};
use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, test_kill_process, waitpid};
use samples::Sample;

const TRANSPORTS: [&str; 3] = ["shm", "tcp", PLUGIN];
const PLUGIN: &str = "c-collectives";
const WORLD: u32 = 3;
/// A time limit that only a hang reaches.
const CAP: Duration = Duration::from_secs(20);
/// The time in seconds after which a child that idles or hangs ends.
const LIFE: u32 = 30;

pub(crate) fn run_part(part: &str) -> Result {
    if part == "threads" {
        return threads();
    }
    let pg = join(CAP)?;
    add(&pg)?;
    match part {
        "drop" => drops(pg),
        "use" => uses(&pg),
        "own" => makes_its_own(&pg),
        _ => dies(&pg),
    }
}

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for transport in TRANSPORTS {
        for part in ["drop", "use", "own", "die"] {
            trials.push(Trial::test(format!("forks/{transport}/{part}"), move || run(part, transport)));
        }
    }
    for transport in ["shm", "tcp"] {
        trials.push(Trial::test(format!("forks/{transport}/threads"), move || {
            let report = launch("threads", 1, transport).run().map_err(|e| e.to_string())?;
            all_well(&report)
        }));
    }
    trials
}

fn run(part: &str, transport: &str) -> Result<(), Failed> {
    let store = std::env::temp_dir().join(format!("c10d-forks-{}-{part}-{transport}", std::process::id()));
    let ranks = match transport {
        PLUGIN => {
            samples::build(&[Sample::CCollectives]);
            launch(part, WORLD, "shm").env(jobs::PLUGIN, Sample::CCollectives.file())
        }
        _ => launch(part, WORLD, transport),
    };
    let report = ranks.env("C10D_TEST_STORE", &store).run().map_err(|e| e.to_string());
    let _ = std::fs::remove_file(&store);
    let report = report?;
    if part == "die" { died(&report) } else { all_well(&report) }
}

fn all_well(report: &JobReport) -> Result<(), Failed> {
    match report.exits.iter().all(|exit| exit.success()) {
        true => Ok(()),
        false => Err(shown(report).into()),
    }
}

/// Forks a child. The child runs `body`, and ends like a program that returns from main.
pub(crate) fn fork(body: impl FnOnce() -> Result) -> Pid {
    // SAFETY: the other threads of this program wait for peers or for work, so none of them holds a lock that the child
    // needs.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: `alarm` takes no pointers. It ends a child that hangs.
        unsafe { libc::alarm(LIFE) };
        let code = match body() {
            Ok(()) => 0,
            Err(e) => {
                report_error("child", &e);
                1
            }
        };
        std::process::exit(code);
    }
    Pid::from_raw(pid).expect("a fork")
}

pub(crate) fn ended_well(child: Pid) -> Result {
    match waitpid(Some(child), WaitOptions::empty()) {
        Ok(Some((_, status))) if status.exit_status() == Some(0) => Ok(()),
        other => Err(Error::new(ErrorKind::Internal, format!("the child: {other:?}"))),
    }
}

fn add(pg: &ProcessGroup) -> Result {
    for count in [1, 3000, 200_000] {
        let x = pg.all_reduce(vec![pg.rank() as f32 + 1.0; count], ReduceOp::Sum)?;
        assert_eq!(x, vec![(pg.size() * (pg.size() + 1) / 2) as f32; count]);
    }
    Ok(())
}

/// A forked child drops the handles that it inherited and returns from main.
fn drops(pg: ProcessGroup) -> Result {
    let started = pg.start(op::all_reduce(vec![1f32; 8], ReduceOp::Sum));
    if pg.rank() == 1 {
        let mut copy = Some(pg.clone());
        let child = fork(|| {
            // SAFETY: the child ends without using or dropping `pg` again, so the handle is dropped once.
            let last = unsafe { std::ptr::read(&raw const pg) };
            drop((copy.take(), last));
            Ok(())
        });
        ended_well(child)?;
    }
    started.wait()?;
    add(&pg)?;
    pg.shutdown()
}

/// Checks that the result is the error for a group that belongs to another process.
fn is_foreign(what: &str, result: Result<impl Sized>) -> Result {
    let wrong = |why: String| Err(Error::new(ErrorKind::Internal, format!("{what}: {why}")));
    match result {
        Ok(_) => wrong("worked in a child".into()),
        Err(e) if e.to_string().contains("a fork of it: make a new one here") => Ok(()),
        Err(e) => wrong(e.to_string()),
    }
}

fn uses(pg: &ProcessGroup) -> Result {
    if pg.rank() == 1 {
        let started = pg.start(op::recv(vec![0f32; 4], 0, 9));
        let mut started = Some(started);
        let child = fork(|| {
            let begin = Instant::now();
            is_foreign("barrier", pg.barrier())?;
            is_foreign("all_reduce", pg.all_reduce(vec![1f32; 9], ReduceOp::Sum))?;
            is_foreign("start", pg.start(op::all_reduce(vec![1f32; 9], ReduceOp::Sum)).wait().map_err(Error::from))?;
            is_foreign("send", pg.send(&[1f32], 0, 0))?;
            is_foreign("a receive of the parent", started.take().expect("one").wait().map_err(Error::from))?;
            is_foreign("split", pg.split(Some(1), 0))?;
            is_foreign("shrink", pg.shrink(&[0]))?;
            is_foreign("shutdown", pg.clone().shutdown())?;
            is_foreign("failure", pg.failure().map_or(Ok(()), |e| Err(e.clone())))?;
            pg.abort("the child may not abort");
            assert!(begin.elapsed() < CAP / 2);
            Ok(())
        });
        ended_well(child)?;
        add(pg)?;
        started.expect("the parent's").wait()?;
    } else {
        add(pg)?;
        if pg.rank() == 0 {
            pg.send(&[1f32; 4], 1, 9)?;
        }
    }
    pg.barrier()
}

fn makes_its_own(pg: &ProcessGroup) -> Result {
    let rank = pg.rank();
    let child = fork(|| {
        let store = std::env::var("C10D_TEST_STORE").unwrap_or_default();
        let url = format!("file://{store}?rank={rank}&world_size={WORLD}");
        let own = jobs::build(c10d::builder().init(&url).timeout(CAP))?;
        add(&own)?;
        own.start(op::all_reduce(vec![1f32; 5], ReduceOp::Sum)).wait()?;
        let (next, last) = ((rank + 1) % WORLD, (rank + WORLD - 1) % WORLD);
        let sent = own.start(op::send(vec![rank as f32; 5], next, 0));
        assert_eq!(own.recv(vec![0f32; 5], last, 0)?, vec![last as f32; 5]);
        sent.wait()?;
        let part = own.split(Some(0), 0)?.expect("all have a color");
        add(&part)?;
        is_foreign("the parent's", pg.barrier())?;
        part.shutdown()?;
        own.shutdown()
    });
    for _ in 0..20 {
        add(pg)?;
    }
    ended_well(child)?;
    add(pg)
}

/// Rank 1 is killed, and its idle child still has copies of all its resources.
fn dies(pg: &ProcessGroup) -> Result {
    if pg.rank() == 1 {
        let child = fork(|| {
            // SAFETY: this closes only standard input, output and error, which nothing uses afterwards. The launcher
            // waits until they are closed.
            unsafe { libc::syscall(libc::SYS_close_range, 0, 2, 0) };
            std::thread::sleep(Duration::from_secs(LIFE.into()));
            Ok(())
        });
        report_line(format!("child {}", child.as_raw_pid()));
        let _ = kill_process(getpid(), Signal::KILL);
    }
    loop {
        if let Err(e) = add(pg) {
            report_error("add", &e);
            return Ok(());
        }
    }
}

fn died(report: &JobReport) -> Result<(), Failed> {
    let child = lines(report, 1).iter().find_map(|line| line.strip_prefix("child ")?.parse().ok());
    let child = child.and_then(Pid::from_raw).ok_or_else(|| shown(report))?;
    // The run must not wait for the child, so the child must still be alive after it.
    let lived = test_kill_process(child);
    let _ = kill_process(child, Signal::KILL);
    lived.map_err(|e| format!("the run ended only after the child ({e})\n{}", shown(report)))?;
    for rank in [0, 2] {
        let reported = failures(report, rank);
        if !reported.iter().any(|t| t.kind == "PeerDead" && t.guilty == [1]) {
            return Err(format!("rank {rank} reported {reported:?}\n{}", shown(report)).into());
        }
    }
    Ok(())
}

/// Ranks that are threads: a forked child has none of the other threads.
fn threads() -> Result {
    c10d::run_ranks(2, |pg| {
        add(&pg)?;
        if pg.rank() == 0 {
            let child = fork(|| {
                is_foreign("barrier", pg.barrier())?;
                // The child makes its own threads and groups.
                c10d::run_ranks(2, |own| add(&own)).map(drop)
            });
            ended_well(child)?;
        }
        add(&pg)
    })
    .map(drop)
}
