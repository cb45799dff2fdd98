//! Tests which rank an error names if a rank waits for a rank that is itself waiting.

use std::time::{Duration, Instant};

use c10d::launch::{JobReport, Signal};
use c10d::options::BarrierOptions;
use c10d::{ProcessGroup, ReduceOp, Result, op};
use libtest_mimic::{Failed, Trial};
use rustix::process::{Signal as Sig, getpid, kill_process};

use crate::jobs::{Failure, failures, join, launch, lines, report_error, report_line, shown};

const WORLD: u32 = 4;
const CAP: Duration = Duration::from_secs(20);
/// The timeout of calls that cannot complete.
const TIMEOUT: Duration = Duration::from_millis(1000);
/// A message that is larger than the buffers of a link.
const LARGE: usize = 4 << 20;

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for transport in ["shm", "tcp"] {
        trials.push(Trial::test(format!("blame/{transport}/chains"), move || chains(transport)));
        trials.push(Trial::test(format!("blame/{transport}/circles"), move || circles(transport)));
        trials.push(Trial::test(format!("blame/{transport}/warnings"), move || warnings(transport)));
    }
    trials
}

pub(crate) fn run_part(part: &str) -> Result {
    if part == "warnings" || part == "quiet" {
        return come_late(part == "quiet");
    }
    let pg = join(CAP)?;
    let scenes: &[Scene] = if part == "chains" { &CHAINS } else { &CIRCLES };
    let groups = scenes.iter().map(|_| Ok(pg.new_group(&[0, 1, 2, 3])?.expect("all ranks are members")));
    let groups: Vec<ProcessGroup> = groups.collect::<Result<_>>()?;
    pg.barrier()?;
    if part == "chains" && pg.rank() == 0 {
        report_line("stops");
        let _ = kill_process(getpid(), Sig::STOP);
        std::thread::sleep(2 * CAP);
        return Ok(());
    }
    for (scene, group) in scenes.iter().zip(&groups) {
        match (scene.act)(group) {
            Err(e) => report_error(scene.name, &e),
            Ok(()) => report_line(format!("{}|none|||no error", scene.name)),
        }
        if part != "chains" {
            pg.barrier()?;
        }
    }
    Ok(())
}

/// A situation, with the calls that each rank makes in it.
struct Scene {
    name: &'static str,
    act: fn(&ProcessGroup) -> Result,
}

fn receive(group: &ProcessGroup, from: u32, tag: u32) -> Result {
    group.run(op::recv(vec![0u8; 8], from, tag).timeout(TIMEOUT)).map(drop).map_err(c10d::Error::from)
}

fn send(group: &ProcessGroup, to: u32, tag: u32, bytes: usize) -> Result {
    group.run(op::send(vec![0u8; bytes], to, tag).timeout(TIMEOUT)).map(drop).map_err(c10d::Error::from)
}

const CHAINS: [Scene; 3] = [
    // Each rank receives from the rank below it, and no rank sends.
    Scene { name: "receives", act: |group| receive(group, group.rank() - 1, group.rank()) },
    // Each rank sends to the rank below it, and no rank receives.
    Scene {
        name: "sends",
        act: |group| {
            let begin = Instant::now();
            while begin.elapsed() < CAP {
                send(group, group.rank() - 1, group.rank(), LARGE)?;
            }
            Ok(())
        },
    },
    // As in "receives", but with started calls.
    Scene {
        name: "started",
        act: |group| {
            let call = op::recv(vec![0u8; 8], group.rank() - 1, group.rank()).timeout(TIMEOUT);
            Ok(group.start(call).wait().map(drop)?)
        },
    },
];

fn chains(transport: &str) -> Result<(), Failed> {
    let job = launch("chains", WORLD, transport).spawn().map_err(|e| e.to_string())?;
    let begin = Instant::now();
    while begin.elapsed() < 2 * CAP && !(1..WORLD).all(|rank| job.has_ended(rank).unwrap_or(true)) {
        std::thread::sleep(Duration::from_millis(20));
    }
    job.signal(0, Signal::Kill).map_err(|e| e.to_string())?;
    let report = job.wait(Instant::now() + CAP).map_err(|e| e.to_string())?;
    for scene in &CHAINS {
        let mut words = Vec::new();
        for rank in 1..WORLD {
            let failure = failure_about(&report, rank, scene.name)?;
            if failure.kind != "Timeout"
                || failure.guilty != [0]
                || !failure.message.contains("rank 0 is stopped or unreachable")
            {
                return Err(format!("rank {rank} reported {failure:?}\n{}", shown(&report)).into());
            }
            words.push(failure.message);
        }
        // If rank 1, which waits for the stopped rank 0, times out first, its error ends the other calls, and no error
        // shows a chain.
        let chained = words.iter().any(|w| w.contains("rank 2 waits for rank 1 in "));
        let direct = words.iter().all(|w| !w.contains(" waits for "));
        if !chained && !direct {
            return Err(format!("{}: {words:?}", scene.name).into());
        }
    }
    Ok(())
}

fn failure_about(report: &JobReport, rank: u32, about: &str) -> Result<Failure, Failed> {
    let failure = failures(report, rank).into_iter().find(|failure| failure.about == about);
    failure.ok_or_else(|| {
        format!("rank {rank} reported nothing about {about}: {:?}\n{}", lines(report, rank), shown(report)).into()
    })
}

const CIRCLES: [Scene; 3] = [
    Scene { name: "circle", act: |group| receive(group, [1, 2, 0, 2][group.rank() as usize], group.rank()) },
    // Rank 1 receives a message that rank 2 would send after the barrier.
    Scene {
        name: "mixed",
        act: |group| match group.rank() {
            1 => receive(group, 2, 9),
            _ => Ok(group.run(op::barrier(BarrierOptions::default()).timeout(TIMEOUT))?),
        },
    },
    // Rank 1 makes an invalid call, and then no other call.
    Scene {
        name: "refused",
        act: |group| match group.rank() {
            1 => {
                let refused = group.broadcast(&mut [0u8; 8], 77).map(drop);
                std::thread::sleep(TIMEOUT + TIMEOUT / 2);
                refused
            }
            _ => group
                .run(op::all_reduce(vec![0f32; 8], ReduceOp::Sum).timeout(TIMEOUT))
                .map(drop)
                .map_err(c10d::Error::from),
        },
    },
];

fn circles(transport: &str) -> Result<(), Failed> {
    let report = launch("circles", WORLD, transport).run().map_err(|e| e.to_string())?;
    let mixed = "deadlock: rank 1 waits for rank 2 in recv tag 9, rank 2 waits for rank 1 in barrier seq 0";
    let expected: [(&str, &[u32], &str); 2] = [
        (
            "circle",
            &[0, 1, 2],
            "deadlock: rank 0 waits for rank 1 in recv tag 0, rank 1 waits for rank 2 in recv tag 1, rank 2 waits for \
             rank 0 in recv tag 2",
        ),
        ("mixed", &[1, 2], mixed),
    ];
    for (scene, guilty, words) in expected {
        for rank in 0..WORLD {
            let failure = failure_about(&report, rank, scene)?;
            if failure.kind != "Timeout" || failure.guilty != guilty || !failure.message.contains(words) {
                return Err(format!("rank {rank} reported {failure:?}").into());
            }
        }
    }
    for rank in [0, 2, 3] {
        let failure = failure_about(&report, rank, "refused")?;
        let words = "rejected its own last call, broadcast (InvalidArgument";
        if failure.kind != "Timeout" || failure.guilty != [1] || !failure.message.contains(words) {
            return Err(format!("rank {rank} reported {failure:?}").into());
        }
    }
    Ok(())
}

/// Rank 1 is late in joining. Unless `at_joining_only`, it is then late for a collective, for 200 messages, and for a
/// started collective.
fn come_late(at_joining_only: bool) -> Result {
    let late = |pg: Option<&ProcessGroup>| {
        let rank = pg.map_or_else(|| std::env::var("RANK").unwrap_or_default(), |pg| pg.rank().to_string());
        if rank == "1" {
            std::thread::sleep(LATE);
        }
    };
    late(None);
    let pg = join(CAP)?;
    if at_joining_only {
        return pg.barrier();
    }
    let all = [0, 1, 2, 3];
    let made = |_| Ok(pg.new_group(&all)?.expect("all ranks are members"));
    let groups: Vec<ProcessGroup> = (0..3).map(made).collect::<Result<_>>()?;
    for _ in 0..3 {
        groups[0].barrier()?;
    }
    late(Some(&groups[0]));
    groups[0].all_reduce(&mut [1f32][..], ReduceOp::Sum)?;
    late(Some(&groups[1]));
    let tags = 0..200;
    match pg.rank() {
        0 => {
            let started: Vec<_> = tags.map(|tag| groups[1].start(op::recv(vec![0u8; 8], 1, tag))).collect();
            started.into_iter().try_for_each(|work| Ok::<_, c10d::Error>(work.wait().map(drop)?))?;
        }
        1 => tags.into_iter().try_for_each(|tag| groups[1].send(&[0u8; 8][..], 0, tag).map(drop))?,
        _ => {}
    }
    late(Some(&groups[2]));
    groups[2].start(op::all_reduce(vec![1f32], ReduceOp::Sum)).wait()?;
    pg.barrier()
}

/// How late rank 1 is: three times the `C10D_WARN_AFTER` of the ranks.
const LATE: Duration = Duration::from_millis(900);

fn warnings(transport: &str) -> Result<(), Failed> {
    let said = |part: &str, after: &str| -> Result<Vec<Vec<String>>, Failed> {
        let job = launch(part, WORLD, transport).env("C10D_WARN_AFTER", after);
        let report = job.run().map_err(|e| e.to_string())?;
        if report.exits.iter().any(|exit| !exit.success()) {
            return Err(shown(&report).into());
        }
        let of = |rank: u32| {
            let text = String::from_utf8_lossy(&report.output[rank as usize].stderr).into_owned();
            text.lines().filter(|line| line.starts_with("c10d: ")).map(str::to_owned).collect()
        };
        Ok((0..WORLD).map(of).collect())
    };
    let loud = said("warnings", "0.3")?;
    let once = |rank: u32, words: &[&str]| -> Result<(), Failed> {
        let lines = &loud[rank as usize];
        let count = lines.iter().filter(|line| words.iter().all(|word| line.contains(word))).count();
        let wrong = || format!("rank {rank} printed {words:?} {count} times: {lines:#?}");
        if count == 1 { Ok(()) } else { Err(wrong().into()) }
    };
    for rank in [0, 2, 3] {
        once(rank, &["default/0", "in all_reduce seq 3", "rank 1 has not called it: rank 1 is at seq 2"])?;
        once(rank, &["default/2", "in all_reduce seq 0", "rank 1 has not called it"])?;
    }
    once(0, &["default/1", "recv tag 0", "rank 1 runs, but is in no call"])?;
    once(0, &["rank 0 joins group \"default\" of 4: rank 1 is missing"])?;
    if transport == "shm"
        && let Some(line) = said("quiet", "0")?.into_iter().flatten().next()
    {
        return Err(format!("a rank that should report nothing reported {line:?}").into());
    }
    Ok(())
}
