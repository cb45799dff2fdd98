//! One rank makes a call with another op or root than the others. (The tests run some of the combinations, or all with
//! `C10D_SUITE=full`.) A rank that only sends must get the error at the latest in its 8th collective after that call,
//! or when it leaves.

use std::sync::Arc;
use std::time::{Duration, Instant};

use c10d::launch::Launch;
use c10d::{DispatchKey, Error, ErrorKind, HashStore, OpKind, ProcessGroup, ReduceOp, Result, op};
use libtest_mimic::{Failed, Trial};

use crate::jobs::acts::{Arguments, WORLD, act};
use crate::jobs::{build_over, join, launch, lines, report_line, shown};
use crate::samples::Sample;
use crate::{jobs, samples};

/// A time limit that only a hang reaches.
const CAP: Duration = Duration::from_secs(20);
/// The value that selects the collectives of a plugin in place of a transport.
const PLUGIN: &str = "plugin";
/// A world size with which gloo-like runs small ops by plans, because exchanges allow only 8 ranks (`MOST_RANKS`).
const LARGE: u32 = 10;
/// A rank that only sends may complete at most this many collectives before it gets the error.
const AT_MOST: u32 = 8;

pub(crate) fn run_part(part: &str) -> Result {
    if part == "drop" { drop_in_disagreement() } else { disagree() }
}

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for transport in ["shm", "tcp", PLUGIN] {
        for world in 2..=4 {
            let name = format!("roots/{transport}/threads/{world}");
            trials.push(Trial::test(name, move || nothing(threads(world, transport))));
        }
        if transport != PLUGIN {
            let name = format!("roots/{transport}/threads/{LARGE}");
            trials.push(Trial::test(name, move || nothing(threads(LARGE, transport))));
        }
        trials.push(Trial::test(format!("roots/{transport}/processes"), move || processes(transport)));
        trials.push(Trial::test(format!("roots/{transport}/drop"), move || dropped(transport)));
    }
    trials
}

/// The op and the root of a call.
type Which = (OpKind, u32);

/// A case: the rank `odd` makes the call `other`, and all other ranks make the call `usual`.
#[derive(Clone, Copy, Debug)]
struct Case {
    odd: u32,
    usual: Which,
    other: Which,
    /// The ranks that only send make this many calls before the odd rank makes its only call.
    early: u32,
}

/// Returns the collectives that the group's backend offers.
fn collectives(pg: &ProcessGroup) -> Result<Vec<Which>> {
    let (world, offers) = (pg.size(), pg.capabilities(DispatchKey::Cpu)?);
    let collectives = OpKind::ALL.iter().copied().filter(|op| !op.is_p2p() && offers.ops.contains(*op));
    Ok(collectives.flat_map(|op| (0..if op.is_rooted() { world } else { 1 }).map(move |root| (op, root))).collect())
}

/// Returns some of the cases of a world, or all with `C10D_SUITE=full`.
fn cases(world: u32, collectives: &[Which]) -> Vec<Case> {
    let step = if std::env::var("C10D_SUITE").is_ok_and(|suite| suite == "full") { 1 } else { 7 * world as usize / 2 };
    let mut all = Vec::new();
    for usual in collectives.iter().copied().filter(|(op, _)| op.is_rooted()) {
        for other in collectives.iter().copied().filter(|other| *other != usual) {
            let n = all.len() as u32;
            all.push(Case { odd: n / 3 % world, usual, other, early: n % 9 });
        }
    }
    // These cases always run: ranks 0 and 1 each pass themselves, or each other, as the root.
    let named = (0..2).flat_map(|odd| {
        [OpKind::Broadcast, OpKind::Scatter, OpKind::Reduce, OpKind::Gather].map(|op| {
            let root = |rank| if matches!(op, OpKind::Broadcast | OpKind::Scatter) { rank } else { 1 - rank };
            Case { odd, usual: (op, root(1 - odd)), other: (op, root(odd)), early: 3 }
        })
    });
    all.into_iter().step_by(step).chain(named).collect()
}

/// Returns whether the rank receives nothing in the call.
pub(crate) fn only_sends((op, root): Which, rank: u32) -> bool {
    match op {
        OpKind::Broadcast | OpKind::Scatter => rank == root,
        OpKind::Reduce | OpKind::Gather => rank != root,
        _ => false,
    }
}

fn call(pg: &ProcessGroup, (op, root): Which) -> Result {
    act(pg, &Arguments { root, ..Arguments::of(op, 3, CAP) })
}

/// Sets a key, for which the other ranks wait.
fn say(pg: &ProcessGroup, what: &str) -> Result {
    pg.store().set(what, b"1", Instant::now() + CAP)
}

fn await_key(pg: &ProcessGroup, what: &str) -> Result {
    pg.store().wait(&[what], Instant::now() + CAP)
}

/// The number of calls that a rank made, and the error of the last one, if it failed.
type Learnt = (u32, Option<Error>);

/// Makes a call again and again until it fails, at most `most` times.
fn repeat(pg: &ProcessGroup, which: Which, most: u32) -> Learnt {
    for n in 1..=most {
        if let Err(e) = call(pg, which) {
            return (n, Some(e));
        }
    }
    (most, None)
}

/// Runs a case. Returns what is wrong, if anything.
fn play_one(pg: ProcessGroup, case: &Case) -> Result<Option<String>> {
    let me = pg.rank();
    let others = || (0..pg.size()).filter(|rank| *rank != case.odd);
    let mine = if me == case.odd { case.other } else { case.usual };
    let (learnt, leaves) = if me == case.odd {
        for rank in others() {
            await_key(&pg, &format!("early/{rank}"))?;
        }
        say(&pg, "enters")?;
        let result = call(&pg, case.other);
        say(&pg, "returned")?;
        for rank in others() {
            await_key(&pg, &format!("learnt/{rank}"))?;
        }
        ((1, result.err()), pg.shutdown().err())
    } else {
        let sends = only_sends(case.usual, me);
        if sends && let (n, Some(e)) = repeat(&pg, case.usual, case.early) {
            return Ok(Some(format!("rank {me}: early call {n}: {e}")));
        }
        say(&pg, &format!("early/{me}"))?;
        await_key(&pg, "enters")?;
        // The odd rank's call may wait for this rank's calls, so this rank waits only 20 ms for the odd rank.
        let soon = Instant::now() + Duration::from_millis(20);
        while Instant::now() < soon && !pg.store().check(&["returned"], Instant::now() + CAP)? {
            std::thread::sleep(Duration::from_millis(1));
        }
        let learnt = repeat(&pg, case.usual, if sends { AT_MOST } else { 10_000 });
        say(&pg, &format!("learnt/{me}"))?;
        (learnt, None)
    };
    let (calls, error) = learnt;
    let Some(error) = error.or(leaves) else { return Ok(Some(format!("rank {me}: no error after {calls} calls"))) };
    let culprit = |rank: &u32| if me == case.odd { *rank != me } else { *rank == case.odd };
    Ok((!is_about(&error, mine, culprit)).then(|| format!("rank {me}, call {calls}: {error}")))
}

/// Returns whether the error is a mismatch of this rank's first call (`mine`), and names the right ranks.
fn is_about(error: &Error, mine: Which, culprit: impl Fn(&u32) -> bool) -> bool {
    let report = error.report();
    let named = !report.guilty.is_empty() && report.guilty.iter().all(culprit);
    let kind = matches!(report.kind, ErrorKind::Mismatch { field: "op" | "root", .. });
    kind && named && report.op == Some(mine.0) && report.seq == Some(0)
}

fn play_all(pg: &ProcessGroup) -> Result<Vec<String>> {
    play_some(pg, 1)
}

/// Runs every n-th case, each in its own group. Returns what is wrong, if anything.
pub(crate) fn play_some(pg: &ProcessGroup, n: usize) -> Result<Vec<String>> {
    let everybody: Vec<u32> = (0..pg.size()).collect();
    let mut wrong = Vec::new();
    for case in cases(pg.size(), &collectives(pg)?).into_iter().step_by(n) {
        let Some(group) = pg.new_group(&everybody)? else { continue };
        wrong.extend(play_one(group, &case)?.map(|what| format!("{case:?}: {what}")));
    }
    for special in [leave_together, leave_apart, run_ahead, fall_behind, wait_elsewhere] {
        let Some(group) = pg.new_group(&everybody)? else { continue };
        wrong.extend(special(group)?);
    }
    Ok(wrong)
}

/// Makes the call, and waits until all ranks have made theirs.
fn call_together(pg: &ProcessGroup, which: Which) -> Result {
    call(pg, which)?;
    say(pg, &format!("called/{}", pg.rank()))?;
    (0..pg.size()).try_for_each(|rank| await_key(pg, &format!("called/{rank}")))
}

/// The last rank uses a different root than the others. The ranks that are no roots get the error before either root
/// has made its call.
fn roots_are_late(pg: ProcessGroup) -> Result<Option<String>> {
    let (me, odd, roots) = (pg.rank(), pg.size() - 1, [0, 5]);
    let early = || (0..odd).filter(|rank| !roots.contains(rank));
    let mine = (OpKind::Gather, if me == odd { roots[1] } else { roots[0] });
    let error = if me == odd {
        call(&pg, mine)?;
        say(&pg, "gave")?;
        early().try_for_each(|rank| await_key(&pg, &format!("learnt/{rank}")))?;
        pg.shutdown().err()
    } else if roots.contains(&me) {
        early().try_for_each(|rank| await_key(&pg, &format!("learnt/{rank}")))?;
        call(&pg, mine).and_then(|()| pg.shutdown()).err()
    } else {
        await_key(&pg, "gave")?;
        let (_, error) = repeat(&pg, mine, AT_MOST);
        say(&pg, &format!("learnt/{me}"))?;
        error
    };
    let culprit = |rank: &u32| if me == odd { *rank != me } else { *rank == odd };
    let right = error.as_ref().is_some_and(|e| is_about(e, mine, culprit));
    Ok((!right).then(|| format!("roots_are_late, rank {me}: {error:?}")))
}

/// Each rank passes itself as the root of a broadcast, and then leaves.
fn leave_together(pg: ProcessGroup) -> Result<Option<String>> {
    let me = pg.rank();
    let which = (OpKind::Broadcast, me);
    call_together(&pg, which)?;
    let left = pg.shutdown().err();
    let right = left.as_ref().is_some_and(|e| is_about(e, which, |rank| *rank != me));
    Ok((!right).then(|| format!("leave_together, rank {me}: {left:?}")))
}

/// The last rank makes its call, with itself as the root, after all other ranks have left.
fn leave_apart(pg: ProcessGroup) -> Result<Option<String>> {
    let (me, last) = (pg.rank(), pg.size() - 1);
    let store = pg.store().clone();
    let which = (OpKind::Broadcast, me);
    if me < last {
        let which = (OpKind::Broadcast, 0);
        call(&pg, which)?;
        let left = pg.shutdown().err();
        store.set(&format!("left/{me}"), b"1", Instant::now() + CAP)?;
        return Ok(left.map(|e| format!("leave_apart, rank {me}: {e}")));
    }
    for rank in 0..last {
        await_key(&pg, &format!("left/{rank}"))?;
    }
    let error = call(&pg, which).and_then(|()| pg.shutdown()).err();
    let right = error.as_ref().is_some_and(|e| is_about(e, which, |rank| *rank != me));
    Ok((!right).then(|| format!("leave_apart, rank {me}: {error:?}")))
}

/// Before the other ranks make any call, rank 0 makes 300 calls, more than gloo-like's call log stores.
fn run_ahead(pg: ProcessGroup) -> Result<Option<String>> {
    let me = pg.rank();
    let which = (OpKind::Broadcast, me);
    let begin = Instant::now();
    if me == 0 {
        for n in 0..300 {
            if let Err(e) = call(&pg, which) {
                return Ok(Some(format!("run_ahead, rank 0 cannot make call {n}: {e}")));
            }
        }
        say(&pg, "ahead")?;
        let late = begin.elapsed() > CAP / 2;
        // The other ranks must get the error from this rank's earlier calls.
        for rank in 1..pg.size() {
            await_key(&pg, &format!("learnt/{rank}"))?;
        }
        let (calls, error) = repeat(&pg, which, AT_MOST);
        let right = error.as_ref().is_some_and(|e| is_about(e, which, |rank| *rank != 0));
        return Ok((late || !right).then(|| format!("run_ahead, rank 0, call {calls}: {error:?}")));
    }
    await_key(&pg, "ahead")?;
    let (calls, error) = repeat(&pg, which, AT_MOST);
    say(&pg, &format!("learnt/{me}"))?;
    let right = error.as_ref().is_some_and(|e| is_about(e, which, |rank| *rank != me));
    Ok((!right).then(|| format!("run_ahead, rank {me}, call {calls}: {error:?}")))
}

/// Rank 1 sends once, and then only receives in 100 calls. After that, rank 2 makes its first call, with another root.
/// Rank 1 must still compare its first call, although more calls than gloo-like's call log stores followed.
fn fall_behind(pg: ProcessGroup) -> Result<Option<String>> {
    let (me, first, later) = (pg.rank(), (OpKind::Broadcast, 1), (OpKind::Broadcast, 0));
    // In larger worlds, ranks may have to forward a broadcast, so no rank can run ahead.
    if pg.size() != 3 {
        return Ok(None);
    }
    if me > 1 {
        await_key(&pg, "ahead/0")?;
        await_key(&pg, "ahead/1")?;
        call(&pg, (OpKind::Broadcast, me))?;
        say(&pg, "gave/2")?;
        return await_key(&pg, "learnt/1").map(|()| None);
    }
    call(&pg, first)?;
    for _ in 0..100 + if me == 0 { AT_MOST } else { 0 } {
        call(&pg, later)?;
    }
    say(&pg, &format!("ahead/{me}"))?;
    if me == 0 {
        return await_key(&pg, "learnt/1").map(|()| None);
    }
    await_key(&pg, "gave/2")?;
    let (calls, error) = repeat(&pg, later, AT_MOST);
    say(&pg, "learnt/1")?;
    let right = error.as_ref().is_some_and(|e| is_about(e, first, |rank| *rank > 1));
    Ok((!right).then(|| format!("fall_behind, call {calls}: {error:?}")))
}

/// A later call finds that earlier calls differ. The error is about the earlier call, and names the later one.
fn wait_elsewhere(pg: ProcessGroup) -> Result<Option<String>> {
    let me = pg.rank();
    let which = (OpKind::Broadcast, me);
    call_together(&pg, which)?;
    let error = pg.barrier().err();
    let right = error.as_ref().is_some_and(|e| {
        is_about(e, which, |rank| *rank != me) && e.report().what.ends_with("found in barrier, seq 1")
    });
    Ok((!right).then(|| format!("wait_elsewhere, rank {me}: {error:?}")))
}

/// Runs all cases of a world, or only `roots_are_late` in the world `LARGE`, with threads as ranks.
fn threads(world: u32, transport: &str) -> Vec<String> {
    samples::build(&[Sample::Rooted]);
    let store = Arc::new(HashStore::new());
    let rank = |rank: u32| {
        let builder = c10d::builder().rank(rank).size(world).store(store.clone()).timeout(CAP);
        let built = match transport {
            PLUGIN => build_over(builder, &Sample::Rooted.file()),
            _ => builder.hint("gloo-like.transport", transport).build(),
        };
        built.and_then(|pg| if world == LARGE { Ok(roots_are_late(pg)?.into_iter().collect()) } else { play_all(&pg) })
    };
    std::thread::scope(|s| {
        let ranks: Vec<_> = (0..world).map(|r| s.spawn(move || rank(r))).collect();
        let results = ranks.into_iter().map(|r| r.join().unwrap_or_else(|_| Ok(vec!["a rank panicked".into()])));
        results.flat_map(|r| r.unwrap_or_else(|e| vec![e.to_string()])).collect()
    })
}

fn disagree() -> Result {
    let pg = join(CAP)?;
    play_all(&pg)?.iter().for_each(report_line);
    pg.barrier()
}

/// Prepares ranks over a transport of gloo-like, or over the plugin.
fn ranks(part: &str, ranks: u32, transport: &str) -> Launch {
    if transport != PLUGIN {
        return launch(part, ranks, transport);
    }
    samples::build(&[Sample::Rooted]);
    launch(part, ranks, "shm").env(jobs::PLUGIN, Sample::Rooted.file())
}

fn nothing(wrong: Vec<String>) -> Result<(), Failed> {
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n").into()) }
}

fn processes(transport: &str) -> Result<(), Failed> {
    let report = ranks("disagree", WORLD, transport).run().map_err(|e| e.to_string())?;
    if !report.exits.iter().all(|exit| exit.success()) {
        return Err(shown(&report).into());
    }
    nothing((0..WORLD).flat_map(|rank| lines(&report, rank)).collect())
}

fn drop_in_disagreement() -> Result {
    let pg = join(CAP)?;
    let me = pg.rank();
    pg.run(op::reduce(vec![1i32; 4], ReduceOp::Sum, 1 - me).timeout(CAP))?;
    pg.store().add("made", 1, Instant::now() + CAP)?;
    while pg.store().add("made", 0, Instant::now() + CAP)? < 2 {
        std::thread::sleep(Duration::from_millis(1));
    }
    drop(pg);
    Ok(())
}

fn dropped(transport: &str) -> Result<(), Failed> {
    let report = ranks("drop", 2, transport).run().map_err(|e| e.to_string())?;
    for rank in 0..2 {
        let said = String::from_utf8_lossy(&report.output[rank].stderr).into_owned();
        let other = 1 - rank;
        let wanted = [
            format!("c10d: Mismatch (rank {other}): root is {other} here, {rank} there"),
            format!("[on rank {rank}, in reduce, seq 0"),
        ];
        if !wanted.iter().all(|words| said.contains(words)) {
            return Err(shown(&report).into());
        }
    }
    Ok(())
}
