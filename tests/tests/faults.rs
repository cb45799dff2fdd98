//! Faults of real processes, for every op, over gloo-like, a plugin, pairs of backends, and MPI libraries. The tests
//! check which ranks the errors of each rank name, and that nothing hangs.

use crate::roots::only_sends;
use crate::{jobs, samples, wheels};

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use c10d::backend::Shape;
use c10d::launch::{JobReport, Launch, Signal};
use c10d::{OpKind, ProcessGroup, ReduceOp, Result};
use jobs::acts::{Arguments, VICTIM, WORLD, act};
use jobs::{Failure, failures, join, launch, report_error, report_line, shown};
use libtest_mimic::{Failed, Trial};
use rustix::process::{Signal as Sig, getpid, kill_process};
use samples::Sample;

const PLUGIN: &str = "c-collectives";
/// Two tiers: gloo-like inside simulated hosts, and gloo-like (`TIERED`) or MPI (`TIERED_MPI`) between hosts.
const TIERED: &str = "tiered";
const TIERED_MPI: &str = "tiered_mpi";
/// A time limit that only a hang reaches.
const CAP: Duration = Duration::from_secs(10);
/// How long making the group may take.
const START: Duration = Duration::from_secs(60);
/// The timeout of the ops that wait for a victim that is stopped or makes no call.
const OP_TIMEOUT: Duration = Duration::from_secs(1);
const SURVIVORS: [u32; 2] = [0, 2];

pub(crate) fn run_part(part: &str) -> Result {
    match part.split_once(':') {
        Some(("kill", op)) => be_killed(op_named(op)),
        _ if part == "stop" || part == "absent" => stand_still(part),
        _ => disagree(),
    }
}

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    let mut transports = vec!["shm", "tcp", PLUGIN, TIERED];
    for library in &wheels::LIBRARIES {
        match library.path() {
            Ok(_) => transports.push(library.name),
            Err(why) => trials.push(Trial::test(format!("faults/{}/skipped", library.name), move || {
                println!("skipped: {why}");
                Ok(())
            })),
        }
    }
    let pair = wheels::LIBRARIES[0].path().is_ok().then_some(TIERED_MPI);
    for transport in transports.iter().copied().chain(pair) {
        for op in OpKind::ALL.iter().copied() {
            let name = format!("faults/{transport}/killed/{op}");
            trials.push(Trial::test(name, move || killed(op, transport)));
        }
        // These parts make a group for each op, which takes long with two tiers. So only one pair of tiers is tested.
        for part in ["stop", "absent"].into_iter().filter(|_| transport != TIERED_MPI) {
            let report = Arc::new(OnceLock::new());
            for op in OpKind::ALL.iter().copied() {
                let report = report.clone();
                let name = format!("faults/{transport}/{part}/{op}");
                trials.push(Trial::test(name, move || {
                    timed_out(op, report.get_or_init(|| still(part, transport)).as_ref().map_err(Failed::from)?)
                }));
            }
        }
        let report = Arc::new(OnceLock::new());
        for (op, field) in disagreements() {
            let report = report.clone();
            let name = format!("faults/{transport}/mismatch/{op}/{field}");
            trials.push(Trial::test(name, move || {
                mismatched(op, field, report.get_or_init(|| run("disagree", transport)).as_ref().map_err(Failed::from)?)
            }));
        }
    }
    let names: Vec<String> = trials.iter().map(|trial| trial.name().to_owned()).collect();
    trials.push(Trial::test("faults/no_op_is_missing", move || no_op_is_missing(&names, &transports)));
    trials
}

fn op_named(name: &str) -> OpKind {
    OpKind::from_name(name).expect("the part has the name of an op")
}

fn ranks(part: &str, transport: &str) -> Launch {
    match transport {
        PLUGIN => {
            samples::build(&[Sample::CCollectives]);
            launch(part, WORLD, "shm").env(jobs::PLUGIN, Sample::CCollectives.file())
        }
        TIERED => launch(part, WORLD, "shm").env(jobs::BACKEND, "cpu:gloo-like+gloo-like"),
        TIERED_MPI => {
            let ranks = launch(part, WORLD, "shm").env(jobs::BACKEND, "cpu:gloo-like+mpi");
            ranks.env("C10D_MPI_LIB", wheels::LIBRARIES[0].path().unwrap_or_default())
        }
        _ => match wheels::LIBRARIES.iter().find(|library| library.name == transport) {
            Some(library) => {
                let ranks = launch(part, WORLD, "shm").env(jobs::BACKEND, "cpu:mpi");
                let ranks = ranks.env("C10D_MPI_LIB", library.path().unwrap_or_default());
                library.variables.iter().fold(ranks, |ranks, (name, value)| ranks.env(*name, *value))
            }
            None => launch(part, WORLD, transport),
        },
    }
}

fn run(part: &str, transport: &str) -> Result<JobReport, String> {
    ranks(part, transport).timeout(2 * START).run().map_err(|e| e.to_string())
}

fn no_op_is_missing(names: &[String], transports: &[&str]) -> Result<(), Failed> {
    for transport in transports {
        for op in OpKind::ALL {
            for kind in ["killed", "stop", "absent", "mismatch"] {
                let start = format!("faults/{transport}/{kind}/{op}");
                if !names.iter().any(|name| *name == start || name.starts_with(&format!("{start}/"))) {
                    return Err(format!("no test of {start}").into());
                }
            }
        }
    }
    Ok(())
}

// The victim is killed while ops run.

fn be_killed(op: OpKind) -> Result {
    let pg = join(START)?;
    // The blocks are so large that peers read them out of the victim's memory.
    let arguments = Arguments::of(op, 100_000, CAP);
    if pg.rank() == VICTIM {
        // The victim completes one op before it is killed. The other ranks may complete further ops, for which the
        // victim had already sent its data.
        act(&pg, &arguments)?;
        std::thread::spawn(|| {
            std::thread::sleep(Duration::from_millis(20));
            let _ = kill_process(getpid(), Sig::KILL);
        });
    }
    let begin = Instant::now();
    while begin.elapsed() < CAP {
        if let Err(e) = act(&pg, &arguments) {
            report_error(op.name(), &e);
            return Ok(());
        }
    }
    Ok(())
}

fn killed(op: OpKind, transport: &str) -> Result<(), Failed> {
    let report = run(&format!("kill:{op}"), transport)?;
    // If a rank sends a message to the dead rank over TCP, MPI itself sometimes ends the sender and other processes.
    let by_mpi = transport.ends_with("_tcp")
        && report.output.iter().any(|o| String::from_utf8_lossy(&o.stderr).contains("MPIDI_OFI_handle_cq_error"));
    let silent = |rank: u32| by_mpi && failures(&report, rank).is_empty();
    let dead: Vec<u32> = (0..WORLD).filter(|rank| *rank == VICTIM || silent(*rank)).collect();
    for rank in SURVIVORS.into_iter().filter(|rank| !dead.contains(rank)) {
        let failure = only(&report, rank, op.name())?;
        let right = !failure.guilty.is_empty() && failure.guilty.iter().all(|rank| dead.contains(rank));
        if failure.kind != "PeerDead" || !right {
            return Err(format!("rank {rank} reported {failure:?}\n{}", shown(&report)).into());
        }
    }
    Ok(())
}

/// Returns the rank's failure that is about this op or field.
fn only(report: &JobReport, rank: u32, about: &str) -> Result<Failure, Failed> {
    let failure = failures(report, rank).into_iter().find(|failure| failure.about == about);
    failure.ok_or_else(|| format!("rank {rank} reported nothing about {about}\n{}", shown(report)).into())
}

// The victim is stopped, or does not make the call.

fn stand_still(part: &str) -> Result {
    let pg = join(CAP)?;
    let groups: Vec<(OpKind, ProcessGroup)> = OpKind::ALL
        .iter()
        .map(|op| Ok((*op, pg.new_group(&[0, 1, 2])?.expect("all ranks are members"))))
        .collect::<Result<_>>()?;
    pg.barrier()?;
    if pg.rank() == VICTIM {
        if part == "stop" {
            let _ = kill_process(getpid(), Sig::STOP);
        }
        std::thread::sleep(2 * CAP);
        return Ok(());
    }
    for some in groups.chunks(5) {
        std::thread::scope(|s| {
            for (op, group) in some {
                s.spawn(move || {
                    let begin = Instant::now();
                    // The first calls may succeed, because buffers hold the data for a rank that does not read.
                    while begin.elapsed() < CAP {
                        if let Err(e) = act(group, &Arguments::of(*op, 50_000, OP_TIMEOUT)) {
                            report_error(op.name(), &e);
                            return;
                        }
                    }
                });
            }
        });
    }
    Ok(())
}

/// Runs the part until the survivors have ended, and then kills the victim.
fn still(part: &str, transport: &str) -> Result<JobReport, String> {
    let job = ranks(part, transport).spawn().map_err(|e| e.to_string())?;
    let begin = Instant::now();
    while begin.elapsed() < 3 * CAP && !SURVIVORS.iter().all(|rank| job.has_ended(*rank).unwrap_or(true)) {
        std::thread::sleep(Duration::from_millis(20));
    }
    job.signal(VICTIM, Signal::Kill).map_err(|e| e.to_string())?;
    job.wait(Instant::now() + CAP).map_err(|e| e.to_string())
}

fn timed_out(op: OpKind, report: &JobReport) -> Result<(), Failed> {
    for rank in SURVIVORS {
        let failure = only(report, rank, op.name())?;
        // A receive from any source waits for all ranks that could send.
        let any = op == OpKind::RecvAnySource;
        // On a busy machine a live rank may not answer in time. The error then names this rank as silent.
        let silent = |rank: &u32| failure.message.contains(&format!("rank {rank} is stopped or unreachable"));
        let others_excused = failure.guilty.iter().all(|rank| *rank == VICTIM || any || silent(rank));
        // On a busy machine c10d may end an operation of the plugin before the plugin has reported for which ranks it
        // waits.
        let given_up =
            failure.kind == "Plugin" && failure.message.contains("did not return within the operation's time");
        if given_up || failure.kind == "Aborted" && failure.message.contains(": Plugin: plugin \"c-collectives\"") {
            continue;
        }
        if failure.kind != "Timeout" || !failure.guilty.contains(&VICTIM) || !others_excused {
            return Err(format!("rank {rank} reported {failure:?}").into());
        }
    }
    Ok(())
}

// The victim makes another call than its peers.

/// Returns every op with every field in which ranks can disagree.
fn disagreements() -> Vec<(OpKind, &'static str)> {
    let mut out = Vec::new();
    for op in OpKind::ALL.iter().copied() {
        let has_buffers = op.row().shape != Shape::Nothing;
        let fields = [
            ("op", !op.is_p2p()),
            ("dtype", has_buffers),
            ("count", has_buffers),
            ("reduce_op", op.reduces()),
            ("root", op.is_rooted()),
            ("splits", op == OpKind::AllToAllSingle),
        ];
        out.extend(fields.iter().filter(|(_, has)| *has).map(|(field, _)| (op, *field)));
    }
    out
}

fn disagree() -> Result {
    let pg = join(START)?;
    for (op, field) in disagreements() {
        let group = pg.new_group(&[0, 1, 2])?.expect("all ranks are members");
        let usual = Arguments::of(op, 60, CAP / 2);
        let mut mine = usual;
        if pg.rank() == VICTIM {
            match field {
                "op" => mine.op = if op == OpKind::Broadcast { OpKind::AllReduce } else { OpKind::Broadcast },
                "dtype" => mine.wide = true,
                "count" => mine.count += 1,
                "reduce_op" => mine.reduce = ReduceOp::Max,
                "root" => mine.root = 2,
                _ => mine.shifted = true,
            }
        }
        let about = format!("{op}/{field}");
        let called = act(&group, &mine);
        match leave(group, &mine, called) {
            Err(e) => report_error(&about, &e),
            Ok(()) => report_line(format!("{about}|none|||no error")),
        }
    }
    pg.barrier()
}

/// Returns the error of the call. If the call succeeded, returns the error of the rank's next action: a rank that only
/// sends (except over the plugin) leaves when all ranks have made the call, and any other rank calls a barrier.
fn leave(group: ProcessGroup, mine: &Arguments, called: Result) -> Result {
    let sends = only_sends((mine.op, mine.root), group.rank());
    if std::env::var_os(jobs::PLUGIN).is_some() || !sends {
        let _ = group.store().add("made", 1, Instant::now() + CAP);
        return called.and_then(|()| act(&group, &Arguments::of(OpKind::Barrier, 1, CAP / 2)));
    }
    let until = Instant::now() + CAP;
    group.store().add("made", 1, until)?;
    while group.store().add("made", 0, until)? < i64::from(WORLD) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(1));
    }
    called.and(group.shutdown())
}

fn mismatched(op: OpKind, field: &str, report: &JobReport) -> Result<(), Failed> {
    for rank in 0..WORLD {
        let failure = only(report, rank, &format!("{op}/{field}"))?;
        // In ops that allow different counts, each pair of ranks compares the length that one sends to the other. The
        // field of this error is `count` or `splits`.
        let field_right =
            failure.field == field || (op.is_uneven() && matches!(failure.field.as_str(), "count" | "splits"));
        // If two ranks disagree about a transfer between them, a third rank cannot know which of them is wrong.
        let in_pairs = op.is_p2p() || field == "splits" || (op.is_uneven() && field == "count");
        let named = match failure.guilty[..] {
            _ if rank == VICTIM => !failure.guilty.is_empty(),
            [one] => one == VICTIM,
            _ => in_pairs && failure.guilty.contains(&VICTIM),
        };
        if failure.kind != "Mismatch" || !field_right || !named {
            return Err(format!("rank {rank} reported {failure:?}").into());
        }
    }
    Ok(())
}
