//! Ops in which all ranks, or some of them, pass buffers of the group (`GroupBuf`), and the other ranks pass their own
//! memory.

use c10d::{GroupBuf, GroupMemory, ProcessGroup, ReduceOp, Result, Root, op};
use libtest_mimic::Trial;

use crate::jobs::acts::WORLD;
use crate::jobs::trials::{CAP, judged, leave, over_threads, victim_dies, well_or_killed};
use crate::jobs::{join, launch};

/// The numbers of elements of a rank's part. The smallest part is copied, the others are read in place.
const COUNTS: [usize; 3] = [100, 20_000, 80_000];

/// Returns element `i` of the input of `rank`.
fn given(rank: u32, i: usize) -> u32 {
    (i as u32).wrapping_mul(2_654_435_761).wrapping_add(rank * 77)
}

/// A buffer of the group, or a buffer of the rank's own.
enum Either {
    Group(GroupBuf<u32>),
    Own(Vec<u32>),
}

impl Either {
    fn slice(&mut self) -> &mut [u32] {
        match self {
            Either::Group(x) => x,
            Either::Own(x) => x,
        }
    }

    fn filled(mut self, with: impl Fn(usize) -> u32) -> Either {
        self.slice().iter_mut().enumerate().for_each(|(i, x)| *x = with(i));
        self
    }
}

/// Tests collectives and messages. `grouped` says which ranks pass buffers of the group. Returns what is wrong.
fn ops(pg: &ProcessGroup, grouped: impl Fn(u32) -> bool) -> Result<Option<String>> {
    let (me, n) = (pg.rank(), pg.size());
    let alloc = |len: usize| -> Result<Either> {
        let buffer = pg.alloc::<u32>(len)?;
        Ok(if grouped(me) { Either::Group(buffer) } else { Either::Own(vec![0; len]) })
    };
    for count in COUNTS {
        let all = count * n as usize;
        let wrong = |what: &str| Ok(Some(format!("{what} of {count}")));
        let sum = |i: usize| (0..n).fold(0u32, |sum, rank| sum.wrapping_add(given(rank, i)));
        let is = |x: &[u32], with: &dyn Fn(usize) -> u32| x.iter().enumerate().all(|(i, x)| *x == with(i));
        let (mut part, mut whole, mut other) = (alloc(count)?, alloc(all)?, alloc(all)?);
        for round in 0..2 {
            part = part.filled(|i| given(me, i));
            pg.all_reduce(part.slice(), ReduceOp::Sum)?;
            if !is(part.slice(), &sum) {
                return wrong("all_reduce");
            }
            let root = round % n;
            part = part.filled(|i| given(me, i));
            pg.broadcast(part.slice(), root)?;
            if !is(part.slice(), &|i| given(root, i)) {
                return wrong("broadcast");
            }
            part = part.filled(|i| given(me, i));
            pg.all_gather_into(&*part.slice(), whole.slice())?;
            if !is(whole.slice(), &|i| given((i / count) as u32, i % count)) {
                return wrong("all_gather_into");
            }
            pg.all_to_all_single(&*whole.slice(), other.slice())?;
            // All ranks pass the same parts, so rank r gets part r from every rank.
            if !is(other.slice(), &|i| given(me, i % count)) {
                return wrong("all_to_all_single");
            }
            whole = whole.filled(|i| given(me, i));
            pg.reduce_scatter_into(&*whole.slice(), part.slice(), ReduceOp::Sum)?;
            if !is(part.slice(), &|i| sum(me as usize * count + i)) {
                return wrong("reduce_scatter_into");
            }
            part = part.filled(|i| given(me, i));
            pg.reduce(part.slice(), ReduceOp::Sum, root)?;
            if !is(part.slice(), &|i| if me == root { sum(i) } else { given(me, i) }) {
                return wrong("reduce");
            }
            part = part.filled(|i| given(me, i));
            let outputs: Vec<&mut [u32]> = whole.slice().chunks_exact_mut(count).collect();
            let outputs = if me == root { Root::Me(outputs) } else { Root::At(root) };
            pg.gather(&*part.slice(), outputs)?;
            if me == root && !is(whole.slice(), &|i| given((i / count) as u32, i % count)) {
                return wrong("gather");
            }
            let inputs: Vec<&[u32]> = whole.slice().chunks_exact(count).collect();
            pg.scatter(if me == root { Root::Me(inputs) } else { Root::At(root) }, part.slice())?;
            if !is(part.slice(), &|i| given(me, i)) {
                return wrong("scatter");
            }
            let (to, from) = ((me + 1) % n, (me + n - 1) % n);
            if n > 1 {
                let (sent, got) = (part.slice(), &mut other.slice()[..count]);
                pg.scope(|scope| {
                    let sending = scope.start(op::send(&*sent, to, 3));
                    pg.recv(&mut *got, from, 3)?;
                    sending.wait().map(drop)
                })?;
                if !is(&other.slice()[..count], &|i| given(from, i)) {
                    return wrong("recv");
                }
            }
        }
        // The call owns the buffer and returns it.
        let mut back = match part.filled(|i| given(me, i)) {
            Either::Group(x) => Either::Group(pg.start(op::all_reduce(x, ReduceOp::Sum)).wait()?),
            Either::Own(x) => Either::Own(pg.start(op::all_reduce(x, ReduceOp::Sum)).wait()?),
        };
        if !is(back.slice(), &sum) {
            return wrong("started all_reduce");
        }
    }
    Ok(None)
}

/// Returns whether a rank passes buffers of the group.
type Grouped = fn(u32) -> bool;

/// The choices of ranks that pass buffers of the group, with their names.
const GROUPED: [(&str, Grouped); 3] =
    [("all", |_| true), ("the_first", |rank| rank == 0), ("all_others", |rank| rank != 0)];

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for (name, grouped) in GROUPED {
        trials.push(over_threads(format!("group_bufs/threads/{name}"), 1..=4, move |pg| ops(pg, grouped)));
        for (transport, worlds) in [("shm", 1..=4), ("tcp", 2..=2)] {
            for world in worlds {
                let trial = format!("group_bufs/{transport}/{name}_of_{world}");
                trials.push(Trial::test(trial, move || run(name, world, transport)));
            }
        }
    }
    trials.push(Trial::test("group_bufs/shm/killed", || run("killed", WORLD, "shm")));
    trials
}

fn run(part: &str, world: u32, transport: &str) -> Result<(), libtest_mimic::Failed> {
    judged(launch(part, world, transport), part, world, well_or_killed)
}

pub(crate) fn run_part(part: &str) -> Result {
    let pg = join(CAP)?;
    let Some((_, grouped)) = GROUPED.iter().find(|(name, _)| *name == part) else { return killed(&pg) };
    let said = ops(&pg, grouped)?;
    // The same ops run in another group, which has these ranks in reverse order.
    let ranks: Vec<u32> = (0..pg.size()).rev().collect();
    let said = match (said, pg.new_group(&ranks)?) {
        (None, Some(group)) => ops(&group, grouped)?,
        (said, _) => said,
    };
    leave(pg, said)
}

/// A rank dies while the other ranks read its memory.
fn killed(pg: &ProcessGroup) -> Result {
    let mut x = pg.alloc::<u32>(1 << 20)?;
    victim_dies(pg, || {
        x.fill(1);
        pg.all_reduce(&mut x, ReduceOp::Sum)?;
        if x.iter().all(|x| *x == WORLD) { Ok(()) } else { Err(c10d::Error::invalid("a wrong result")) }
    })
}
