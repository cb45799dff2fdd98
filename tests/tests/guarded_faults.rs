//! Ranks that die, stop, or pass a different root than their peer, in ops on the guarded device.

use crate::jobs;

use std::sync::Arc;
use std::time::{Duration, Instant};

use c10d::device::{DeviceBuffer, DeviceRuntime};
use c10d::launch::{JobReport, Launch, Signal};
use c10d::{ErrorKind, OpKind, ProcessGroup, ReduceOp, Result, Root};
use jobs::acts::{VICTIM, WORLD};
use jobs::{Failure, failures, launch, report_error, shown};
use libtest_mimic::{Failed, Trial};
use rustix::process::{Signal as Sig, getpid, kill_process};

/// A time limit that only a hang reaches.
const CAP: Duration = Duration::from_secs(10);
const OP_TIMEOUT: Duration = Duration::from_secs(2);
const SURVIVORS: [u32; 2] = [0, 2];
const OPS: [OpKind; 6] = [
    OpKind::AllReduce,
    OpKind::Broadcast,
    OpKind::AllGatherInto,
    OpKind::AllToAllSingle,
    OpKind::Barrier,
    OpKind::Recv,
];

pub(crate) fn run_part(part: &str) -> Result {
    let (what, op) = part.split_once(':').unwrap_or((part, ""));
    be(what, OpKind::from_name(op).expect("the part has the name of an op"))
}

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for op in OPS {
        trials.push(Trial::test(format!("guarded_faults/killed/{op}"), move || named(op, "kill", "PeerDead")));
        trials.push(Trial::test(format!("guarded_faults/stopped/{op}"), move || named(op, "stop", "Timeout")));
    }
    trials.push(Trial::test("guarded_faults/roots", roots));
    trials
}

/// Runs ops until one fails. The victim is killed or stopped 20 ms after its first op.
fn be(what: &str, op: OpKind) -> Result {
    let timeout = if what == "stop" { OP_TIMEOUT } else { CAP };
    let builder = c10d::builder().init("env://").timeout(timeout).hint("staged.chunk", "16384");
    let pg = builder.providers(&[&c10d_guarded::PROVIDER]).backend("guarded:gloo-like").build()?;
    if pg.rank() == VICTIM {
        // The victim completes one op before the signal. The other ranks may complete further ops, for which the victim
        // had already sent its data.
        act(&pg, op)?;
        let signal = if what == "stop" { Sig::STOP } else { Sig::KILL };
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            let _ = kill_process(getpid(), signal);
        });
    }
    let begin = Instant::now();
    while begin.elapsed() < CAP {
        if let Err(e) = act(&pg, op) {
            report_error(op.name(), &e);
            return Ok(());
        }
    }
    Ok(())
}

fn act(pg: &ProcessGroup, op: OpKind) -> Result {
    let device: Arc<dyn DeviceRuntime> = c10d_guarded::runtime();
    let buffer = |count: usize| DeviceBuffer::from_slice(&device, 0, &vec![1i32; count], CAP);
    let count = 30_000;
    let mut x = buffer(count)?;
    match op {
        OpKind::Broadcast => pg.broadcast(&mut x, VICTIM).map(drop),
        OpKind::AllGatherInto => pg.all_gather_into(&x, buffer(count * WORLD as usize)?).map(drop),
        OpKind::AllToAllSingle => pg.all_to_all_single(&x, buffer(count)?).map(drop),
        OpKind::Barrier => pg.barrier(),
        OpKind::Recv if pg.rank() == VICTIM => SURVIVORS.iter().try_for_each(|to| pg.send(&x, *to, 3).map(drop)),
        OpKind::Recv => pg.recv(&mut x, VICTIM, 3).map(drop),
        _ => pg.all_reduce(&mut x, ReduceOp::Sum).map(drop),
    }
}

/// Runs the part until the survivors have ended, and then kills the victim.
fn awakened(launch: Launch) -> Result<JobReport, String> {
    let job = launch.spawn().map_err(|e| e.to_string())?;
    let begin = Instant::now();
    while begin.elapsed() < 3 * CAP && !SURVIVORS.iter().all(|rank| job.has_ended(*rank).unwrap_or(true)) {
        std::thread::sleep(Duration::from_millis(20));
    }
    job.signal(VICTIM, Signal::Kill).map_err(|e| e.to_string())?;
    job.wait(Instant::now() + CAP).map_err(|e| e.to_string())
}

fn named(op: OpKind, what: &str, kind: &str) -> Result<(), Failed> {
    let launch = launch(&format!("{what}:{op}"), WORLD, "shm");
    let report = if what == "stop" { awakened(launch)? } else { launch.run().map_err(|e| e.to_string())? };
    for rank in SURVIVORS {
        let failure = failures(&report, rank).into_iter().find(|failure: &Failure| failure.about == op.name());
        let failure = failure.ok_or_else(|| format!("rank {rank} reported nothing about {op}\n{}", shown(&report)))?;
        // On a busy machine a live rank may not answer in time. The error then names this rank as silent.
        let silent = |rank: &u32| failure.message.contains(&format!("rank {rank} is stopped or unreachable"));
        let right =
            failure.guilty.contains(&VICTIM) && failure.guilty.iter().all(|rank| *rank == VICTIM || silent(rank));
        if failure.kind != kind || !right || !failure.message.contains("guarded staged by gloo-like") {
            return Err(format!("rank {rank} reported {failure:?}\n{}", shown(&report)).into());
        }
    }
    Ok(())
}

/// The ranks pass different roots, so that both only send. Each rank gets the error at the latest in its 8th call after
/// the other rank's first call, or when it leaves.
fn roots() -> Result<(), Failed> {
    for op in [OpKind::Broadcast, OpKind::Reduce, OpKind::Gather, OpKind::Scatter] {
        for more in [8, 0] {
            let builder = c10d::builder().timeout(CAP).providers(&[&c10d_guarded::PROVIDER]);
            let said = builder.backend("guarded:gloo-like").run_ranks(2, |pg| {
                let first = rooted(&pg, op);
                let until = Instant::now() + CAP;
                pg.store().add("called", 1, until)?;
                while pg.store().add("called", 0, until)? < 2 && Instant::now() < until {
                    std::thread::sleep(Duration::from_millis(1));
                }
                let later = (0..more).try_for_each(|_| rooted(&pg, op));
                Ok(first.and(later).and_then(|()| if more == 0 { pg.shutdown() } else { Ok(()) }))
            });
            for (rank, said) in said.map_err(|e| e.to_string())?.into_iter().enumerate() {
                let Err(e) = said else { return Err(format!("{op}, {more} more, rank {rank}: no error").into()) };
                let report = e.report();
                let about = (report.op, report.seq, &report.guilty[..]) == (Some(op), Some(0), &[1 - rank as u32]);
                if !about || !matches!(report.kind, ErrorKind::Mismatch { field: "root", .. }) {
                    return Err(format!("{op}, {more} more, rank {rank}: {e}").into());
                }
            }
        }
    }
    Ok(())
}

fn rooted(pg: &ProcessGroup, op: OpKind) -> Result {
    let device: Arc<dyn DeviceRuntime> = c10d_guarded::runtime();
    let one = || DeviceBuffer::from_slice(&device, 0, &[1i32; 10], CAP);
    let (me, other) = (pg.rank(), 1 - pg.rank());
    match op {
        OpKind::Broadcast => pg.broadcast(one()?, me).map(drop),
        OpKind::Reduce => pg.reduce(one()?, ReduceOp::Sum, other).map(drop),
        OpKind::Gather => pg.gather(one()?, Root::<Vec<DeviceBuffer>>::At(other)).map(drop),
        _ => pg.scatter(Root::Me(vec![one()?, one()?]), one()?).map(drop),
    }
}
