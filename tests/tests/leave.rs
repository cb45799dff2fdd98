//! Ranks that are late, that leave, and that end without leaving.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use c10d::launch::{JobReport, Signal};
use c10d::{ErrorKind, OpKind, ProcessGroup, Result, op};
use c10d_core::ENDED_WITHOUT_LEAVING as ENDED;
use libtest_mimic::{Failed, Trial};
use rustix::process::{Signal as Sig, getpid, kill_process};

use crate::jobs::acts::{Arguments, VICTIM, WORLD, act};
use crate::jobs::{self, failures, launch, lines, report_error, report_line, shown};
use crate::samples::{self, Sample};

const TRANSPORTS: [&str; 2] = ["shm", "tcp"];
/// A time limit that only a hang reaches.
const CAP: Duration = Duration::from_secs(30);
/// The seconds of silence after which a link counts as cut, in these tests.
const LINK: &str = "1";
/// How late a living rank is: more than twice the time of `LINK`.
const LATE: Duration = Duration::from_millis(2500);
/// How a rank of two groups ends: it shuts both down, drops the second, or ends its process.
const WAYS: [&str; 3] = ["shutdown", "drop", "exit"];

/// A group that is never dropped.
static KEPT: OnceLock<ProcessGroup> = OnceLock::new();

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = vec![
        Trial::test("leave/tcp/late", late),
        Trial::test("leave/tcp/stopped_at_shutdown", || stopped("shutdown")),
        Trial::test("leave/tcp/stopped_at_drop", || stopped("drop")),
    ];
    for plugin in [Sample::Rooted, Sample::CCollectives] {
        let name = format!("leave/{}/exit_is_named", plugin.name());
        trials.push(Trial::test(name, move || missed_by_a_plugin(plugin)));
    }
    for transport in TRANSPORTS {
        for way in WAYS {
            trials.push(Trial::test(format!("leave/{transport}/taken/{way}"), move || taken(way, transport)));
        }
        trials.push(Trial::test(format!("leave/{transport}/exit_is_named"), move || exit_is_named(transport)));
        for op in OpKind::ALL.iter().copied() {
            trials.push(Trial::test(format!("leave/{transport}/end/{op}"), move || end(op, transport)));
        }
    }
    trials
}

/// Runs a rank.
pub(crate) fn run_part(part: &str) -> Result {
    match part.split_once(':').unwrap_or((part, "")) {
        ("late", _) => be_late(),
        ("taken", way) => be_taken(way),
        ("stopped", way) => be_stopped(way),
        ("exit", _) => be_missed(),
        ("plugin_exit", _) => be_missed_by_a_plugin(),
        (_, op) => be_ended(OpKind::from_name(op).expect("the part has the name of an op")),
    }
}

fn join() -> Result<ProcessGroup> {
    builder().build()
}

fn builder() -> c10d::Builder {
    c10d::builder().init("env://").timeout(CAP).hint("gloo-like.link_timeout", LINK)
}

fn run(part: &str, ranks: u32, transport: &str) -> Result<JobReport, Failed> {
    launch(part, ranks, transport).run().map_err(|e| e.to_string().into())
}

/// Checks that all ranks succeeded and reported no failure.
fn all_well(report: &JobReport) -> Result<(), Failed> {
    let well = report.exits.iter().all(|exit| exit.success() && failures(report, exit.rank).is_empty());
    if well { Ok(()) } else { Err(shown(report).into()) }
}

// A living rank is late.

/// The sizes of the messages and broadcasts, in bytes.
const SIZES: [usize; 3] = [8, 1 << 20, 64 << 20];

fn be_late() -> Result {
    let pg = join()?;
    let other = pg.new_group(&[0, 1])?.expect("all ranks are members");
    if pg.rank() == 1 {
        std::thread::sleep(LATE);
    }
    std::thread::scope(|s| {
        let messages = s.spawn(|| -> Result {
            for (size, tag) in SIZES.into_iter().zip(0..) {
                if pg.rank() == 0 {
                    pg.send(&vec![7u8; size], 1, tag)?;
                } else {
                    let mut x = vec![0u8; size];
                    pg.recv(&mut x, 0, tag)?;
                    assert!(x.iter().all(|b| *b == 7));
                }
            }
            Ok(())
        });
        for size in SIZES {
            let mut x = vec![7 * (1 - pg.rank() as u8); size];
            other.broadcast(&mut x, 0)?;
            assert!(x.iter().all(|b| *b == 7));
        }
        messages.join().expect("no panic")
    })?;
    other.shutdown()?;
    pg.shutdown()
}

fn late() -> Result<(), Failed> {
    all_well(&run("late", 2, "tcp")?)
}

// One of two ranks leaves, or ends, right after its ops; the other receives the data much later.

fn be_taken(way: &str) -> Result {
    let pg = KEPT.get_or_init(|| join().expect("a group"));
    let other = pg.new_group(&[0, 1])?.expect("all ranks are members");
    // Over TCP the data is more than the receiver's buffers hold; over shared memory it is less than a ring holds.
    let tcp = std::env::var("C10D_TRANSPORT").is_ok_and(|t| t == "tcp");
    let mut x = vec![7u8; if tcp { 300_000 } else { 100_000 }];
    pg.barrier()?;
    if pg.rank() == 0 {
        pg.send(&x, 1, 0)?;
        other.send(&x, 1, 0)?;
        other.broadcast(&mut x, 0)?;
        match way {
            "shutdown" => other.shutdown()?,
            "drop" => drop(other),
            _ => std::mem::forget(other),
        }
        if way == "shutdown" {
            pg.clone().shutdown()?;
        }
        // The first group is in a static, so it is never dropped.
        return Ok(());
    }
    std::thread::sleep(if tcp { LATE } else { Duration::from_millis(300) });
    for group in [pg, &other] {
        x.fill(0);
        group.recv(&mut x, 0, 0)?;
        assert!(x.iter().all(|b| *b == 7));
    }
    x.fill(0);
    other.broadcast(&mut x, 0)?;
    assert!(x.iter().all(|b| *b == 7));
    // The missing rank had sent all data, so no group has failed.
    assert!(pg.failure().is_none() && other.failure().is_none());
    Ok(())
}

fn taken(way: &str, transport: &str) -> Result<(), Failed> {
    all_well(&run(&format!("taken:{way}"), 2, transport)?)
}

// A rank is stopped while another rank leaves.

fn be_stopped(way: &str) -> Result {
    let pg = builder().drop_within(Duration::from_millis(300)).build()?;
    pg.barrier()?;
    if pg.rank() == VICTIM {
        let _ = kill_process(getpid(), Sig::STOP);
        return Ok(());
    }
    // The message fits into the buffers of both ranks together, so the send returns.
    pg.send(&vec![7u8; 300_000], VICTIM, 0)?;
    let begin = Instant::now();
    match way {
        "shutdown" => {
            let e = pg.shutdown_within(Duration::from_millis(300)).unwrap_err();
            report_error("shutdown", &e);
        }
        _ => drop(pg),
    }
    report_line(format!("after {}", begin.elapsed().as_secs()));
    Ok(())
}

fn stopped(way: &str) -> Result<(), Failed> {
    let job = launch(&format!("stopped:{way}"), 2, "tcp").spawn().map_err(|e| e.to_string())?;
    let begin = Instant::now();
    while begin.elapsed() < CAP && !job.has_ended(0).unwrap_or(true) {
        std::thread::sleep(Duration::from_millis(20));
    }
    job.signal(VICTIM, Signal::Kill).map_err(|e| e.to_string())?;
    let report = job.wait(Instant::now() + CAP).map_err(|e| e.to_string())?;
    let named = match way {
        "shutdown" => failures(&report, 0).iter().any(|t| t.kind == "Timeout" && t.guilty == [VICTIM]),
        _ => {
            let said = String::from_utf8_lossy(&report.output[0].stderr).into_owned();
            said.contains("c10d: Timeout") && said.contains("rank 1")
        }
    };
    let soon = lines(&report, 0).iter().any(|line| ["after 0", "after 1", "after 2"].contains(&line.as_str()));
    if named && soon { Ok(()) } else { Err(shown(&report).into()) }
}

// A rank ends its program while others wait for it.

fn be_missed() -> Result {
    let pg = join()?;
    let started = pg.new_group(&[0, 1, 2])?.expect("all ranks are members");
    let unused = pg.new_group(&[0, 1, 2])?.expect("all ranks are members");
    pg.barrier()?;
    if pg.rank() == VICTIM {
        std::thread::sleep(Duration::from_millis(50));
        std::process::exit(0);
    }
    let work = started.start(op::barrier(c10d::options::BarrierOptions::default()));
    let named = |e: &c10d::Error| {
        let words = matches!(e.kind(), ErrorKind::PeerDead { how } if how.starts_with(ENDED));
        report_line(format!("{}", words && e.report().guilty == [VICTIM]));
        if !words {
            report_error("not named", e);
        }
    };
    named(&pg.barrier().unwrap_err());
    named(pg.failure().expect("a failed group"));
    // The group must fail although the handle of its op is not polled.
    let begin = Instant::now();
    while started.failure().is_none() && begin.elapsed() < CAP {
        std::thread::sleep(Duration::from_millis(1));
    }
    named(started.failure().expect("the started op needs the rank that ended"));
    named(&work.wait().unwrap_err().error);
    // No op of this group needs the ended rank yet.
    if unused.failure().is_some() {
        report_line("failed although no op needed the rank");
    }
    let pair = if pg.rank() == 0 { 2 } else { 0 };
    unused.send(&[1u8], pair, 0)?;
    unused.recv(&mut [0u8], pair, 0)?;
    // The first op that needs the ended rank fails the group on both ranks, so both must have their message first.
    let soon = Instant::now() + CAP;
    unused.store().set(&format!("heard/{}", pg.rank()), b"", soon)?;
    unused.store().wait(&["heard/0", "heard/2"], soon)?;
    named(&unused.recv(&mut [0u8], VICTIM, 0).unwrap_err());
    Ok(())
}

fn exit_is_named(transport: &str) -> Result<(), Failed> {
    let report = run("exit", WORLD, transport)?;
    for rank in [0, 2] {
        if lines(&report, rank) != ["true"; 5] {
            return Err(format!("rank {rank}:\n{}", shown(&report)).into());
        }
    }
    Ok(())
}

// A rank ends its program while others wait for it, over a plugin's collectives.

fn be_missed_by_a_plugin() -> Result {
    let pg = jobs::build(c10d::builder().init("env://").timeout(CAP))?;
    let others = pg.new_group(&[0, 2])?;
    let started = pg.new_group(&[0, 1, 2])?.expect("all ranks are members");
    let mut x = [7i32];
    started.reduce(&mut x, c10d::ReduceOp::Sum, 0)?;
    started.broadcast(&mut x, 0)?;
    if pg.rank() == VICTIM {
        std::thread::sleep(Duration::from_millis(300));
        std::process::exit(0);
    }
    let named = |e: &c10d::Error| {
        let words = matches!(e.kind(), ErrorKind::PeerDead { how } if how.starts_with(ENDED));
        report_line(format!("{}", words && e.report().guilty == [VICTIM]));
        if !words {
            report_error("not named", e);
        }
    };
    // The started op waits while the rank ends. The op on `pg` is called afterwards.
    let work = started.start(op::broadcast(vec![1i32], VICTIM));
    named(&work.wait().unwrap_err().error);
    named(started.failure().expect("a failed group"));
    named(&pg.broadcast(&mut x, VICTIM).unwrap_err());
    // A group without the rank still works.
    others.expect("a member").broadcast(&mut x, 0).map(drop)
}

fn missed_by_a_plugin(plugin: Sample) -> Result<(), Failed> {
    samples::build(&[plugin]);
    let launch = launch("plugin_exit", WORLD, "shm").env(jobs::PLUGIN, plugin.file());
    let report = launch.run().map_err(|e| e.to_string())?;
    for rank in [0, 2] {
        if !report.exits[rank as usize].success() || lines(&report, rank) != ["true"; 3] {
            return Err(format!("rank {rank}:\n{}", shown(&report)).into());
        }
    }
    Ok(())
}

// One rank ends its program after an op, another starts the op and leaves at once, and the third makes the call late.

fn be_ended(kind: OpKind) -> Result {
    let pg = join()?;
    let mut arguments = Arguments::of(kind, 20_000, CAP);
    if matches!(kind, OpKind::Broadcast | OpKind::Scatter) {
        arguments.root = VICTIM;
    }
    match pg.rank() {
        VICTIM => act(KEPT.get_or_init(|| pg), &arguments),
        2 => {
            // The op is only started. Then `pg` is dropped, so this rank leaves.
            arguments.started = true;
            act(&pg, &arguments)
        }
        _ => {
            std::thread::sleep(Duration::from_millis(30));
            act(&pg, &arguments)?;
            if let Some(e) = pg.failure() {
                report_error("an op failed that needed no missing rank", e);
            }
            let e = pg.recv(&mut [0u8], VICTIM, 99).unwrap_err();
            if !matches!(e.kind(), ErrorKind::PeerDead { how } if how.starts_with(ENDED))
                || e.report().guilty != [VICTIM]
            {
                report_error("the error does not name the rank that ended", &e);
            }
            Ok(())
        }
    }
}

fn end(op: OpKind, transport: &str) -> Result<(), Failed> {
    all_well(&run(&format!("end:{op}"), WORLD, transport)?)
}
