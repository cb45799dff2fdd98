//! Element types and reductions that a program defines itself. Also ranks whose calls differ, ranks whose closure
//! panics, and ranks that die.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytemuck::{Pod, Zeroable};
use c10d::launch::JobReport;
use c10d::{DType, ErrorKind, Plain, ProcessGroup, ReduceOp, Reductions, Result, Root, Status, op, plain};
use libtest_mimic::Trial;

use crate::jobs::acts::{VICTIM, WORLD};
use crate::jobs::trials::{self, CAP, of_values, victim_dies};
use crate::jobs::{failures, join, lines, report_line};

/// The numbers of elements: none, fewer than ranks, some, and so many that matrices are exchanged in several rounds.
const LENGTHS: [usize; 6] = [0, 1, 2, 7, 1000, 66_001];

/// A 2 × 2 matrix. The product of matrices is not commutative.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
struct Matrix([u32; 4]);

impl Plain for Matrix {
    const IDENTITY: &'static str = "tests::Matrix/1";
}

/// Another type of the same size.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
struct Quad([u32; 4]);

impl Plain for Quad {
    const IDENTITY: &'static str = "tests::Quad/1";
}

fn product(acc: &mut [Matrix], x: &[Matrix]) {
    for (Matrix([a, b, c, d]), Matrix([e, f, g, h])) in acc.iter_mut().zip(x) {
        let dot = |p: u32, q: u32, r: u32, s: u32| p.wrapping_mul(q).wrapping_add(r.wrapping_mul(s));
        (*a, *b, *c, *d) = (dot(*a, *e, *b, *g), dot(*a, *f, *b, *h), dot(*c, *e, *d, *g), dot(*c, *f, *d, *h));
    }
}

fn log_sum_exp(acc: &mut [f32], x: &[f32]) {
    for (a, x) in acc.iter_mut().zip(x) {
        let largest = a.max(*x);
        *a = largest + ((*a - largest).exp() + (x - largest).exp()).ln();
    }
}

/// Element types with values for each rank.
trait Sample: Plain + PartialEq {
    fn of(rank: u32, i: usize) -> Self;
    fn all(rank: u32, len: usize) -> Vec<Self> {
        (0..len).map(|i| Self::of(rank, i)).collect()
    }
}

impl Sample for Matrix {
    fn of(rank: u32, i: usize) -> Matrix {
        let i = i as u32;
        Matrix([i % 5 + 1, rank + 1, i ^ rank, 3 * rank + i % 3])
    }
}

impl Sample for f32 {
    fn of(rank: u32, i: usize) -> f32 {
        (i % 11) as f32 * 0.37 + rank as f32 * 0.81
    }
}

impl Sample for i32 {
    fn of(rank: u32, i: usize) -> i32 {
        i as i32 * 7 - rank as i32 * 1001
    }
}

/// Returns the values of these ranks, combined in rank order.
fn folded<T: Sample>(ranks: std::ops::Range<u32>, len: usize, mut f: impl FnMut(&mut [T], &[T])) -> Vec<T> {
    let mut ranks = ranks.map(|rank| T::all(rank, len));
    let first = ranks.next().unwrap_or_default();
    ranks.fold(first, |mut acc, x| (f(&mut acc, &x), acc).1)
}

/// Tests every op that takes a closure. Returns what is wrong, if anything.
fn check<T: Sample>(pg: &ProcessGroup, name: &'static str, f: fn(&mut [T], &[T])) -> Result<Option<String>> {
    let (me, n) = (pg.rank(), pg.size());
    let wrong = |what: &str, len: usize| Ok(Some(format!("{what} of {len} {}", T::IDENTITY)));
    for len in LENGTHS {
        let mine = T::all(me, len);
        let whole = folded(0..n, len, f);

        let mut x = mine.clone();
        let mut calls = 0;
        // The closure borrows from the caller.
        pg.all_reduce_with(&mut x, name, |acc, x| {
            calls += 1;
            f(acc, x);
        })?;
        if x != whole || (calls == 0) != (len <= me as usize || n == 1) {
            return wrong("all_reduce_with", len);
        }
        for root in [0, n - 1] {
            let mut x = mine.clone();
            pg.reduce_with(&mut x, name, root, f)?;
            if x != if me == root { whole.clone() } else { mine.clone() } {
                return wrong("reduce_with", len);
            }
        }
        let mut x = mine.clone();
        pg.scan_with(&mut x, name, f)?;
        if x != folded(0..me + 1, len, f) {
            return wrong("scan_with", len);
        }
        let mut x = mine.clone();
        let has = pg.exscan_with(&mut x, name, f)?;
        if has != (me > 0) || x != if me > 0 { folded(0..me, len, f) } else { mine } {
            return wrong("exscan_with", len);
        }
        let all = T::all(me, len * n as usize);
        let mut part = vec![T::zeroed(); len];
        pg.reduce_scatter_with(&all, &mut part, name, f)?;
        if part != folded(0..n, len * n as usize, f)[len * me as usize..][..len] {
            return wrong("reduce_scatter_with", len);
        }
    }
    Ok(None)
}

/// Tests scans with built-in operations.
fn check_scans(pg: &ProcessGroup) -> Result<Option<String>> {
    let every = (0..ReduceOp::COUNT as u8).filter_map(|code| ReduceOp::from_code(code, 2.0));
    for operation in every.filter(|operation| operation.is_defined_on(DType::I32)) {
        let by = |acc: &mut [i32], x: &[i32]| {
            let both = [&*acc, x].map(bytemuck::cast_slice::<i32, u8>);
            let reduced = c10d_conformance::reduced(DType::I32, operation, &both);
            bytemuck::cast_slice_mut::<i32, u8>(acc).copy_from_slice(&reduced);
        };
        for len in LENGTHS {
            let mut x = i32::all(pg.rank(), len);
            pg.scan(&mut x, operation)?;
            let mut before = i32::all(pg.rank(), len);
            let has = pg.exscan(&mut before, operation)?;
            let expected = if has { folded(0..pg.rank(), len, by) } else { i32::all(0, len) };
            if x != folded(0..pg.rank() + 1, len, by) || before != expected || has != (pg.rank() > 0) {
                return Ok(Some(format!("scan of {len} by {operation}")));
            }
        }
    }
    for (refused, words) in [(ReduceOp::Avg, "cannot use avg"), (ReduceOp::PreMulSum(2.0), "cannot use premul_sum")] {
        let e = pg.scan(&mut [1f32], refused).err();
        if !e.is_some_and(|e| e.status() == Status::Rejected && e.report().what.contains(words)) {
            return Ok(Some(format!("{refused} is not rejected")));
        }
    }
    Ok(None)
}

/// Tests ops that move data, with an element type of the program.
fn check_moves(pg: &ProcessGroup) -> Result<Option<String>> {
    let (me, n) = (pg.rank(), pg.size() as usize);
    let wrong = |what: &str| Ok(Some(what.to_owned()));
    let ranks = || 0..n as u32;
    for len in [1, 5, 20_000] {
        let mine = Matrix::all(me, len);
        let all: Vec<Matrix> = ranks().flat_map(|rank| Matrix::all(rank, len)).collect();

        let mut x = mine.clone();
        pg.broadcast(plain(&mut x), n as u32 - 1)?;
        if x != Matrix::all(n as u32 - 1, len) {
            return wrong("broadcast");
        }
        let mut flat = vec![Matrix::zeroed(); len * n];
        pg.all_gather_into(plain(&mine), plain(&mut flat))?;
        if flat != all {
            return wrong("all_gather_into");
        }
        // Owned buffers with different lengths.
        let lists = ranks().map(|rank| plain(vec![Matrix::zeroed(); len + rank as usize])).collect();
        let work = pg.start(op::all_gather(plain(Matrix::all(me, len + me as usize)), lists));
        let (_, lists) = work.wait()?;
        if !ranks().zip(lists).all(|(rank, list)| list.into_inner() == Matrix::all(rank, len + rank as usize)) {
            return wrong("all_gather");
        }
        let root = match me {
            0 => Root::Me(ranks().map(|_| plain(vec![Matrix::zeroed(); len])).collect()),
            _ => Root::At(0),
        };
        let (_, gathered) = pg.gather(plain(&mine[..]), root)?;
        let gathered = gathered.map(|lists| lists.into_iter().flat_map(|list| list.into_inner()).collect::<Vec<_>>());
        if gathered != (me == 0).then(|| all.clone()) {
            return wrong("gather");
        }
        let root = match me {
            0 => Root::Me(ranks().map(|rank| plain(Matrix::all(rank, len))).collect()),
            _ => Root::At(0),
        };
        let mut x = vec![Matrix::zeroed(); len];
        pg.scatter(root, plain(&mut x))?;
        if x != mine {
            return wrong("scatter");
        }
        // Rank r sends r + s + 1 elements to rank s: splits are in elements.
        let splits: Vec<usize> = ranks().map(|rank| (rank + me) as usize + 1).collect();
        let total = splits.iter().sum();
        let mut x = vec![Matrix::zeroed(); total];
        pg.run(op::all_to_all_single(plain(Matrix::all(me, total)), plain(&mut x)).splits(&splits, &splits))?;
        let part = |from: u32| {
            let before: usize = (0..me).map(|to| (from + to) as usize + 1).sum();
            let len = (from + me) as usize + 1;
            Matrix::all(from, before + len)[before..].to_vec()
        };
        if x != ranks().flat_map(part).collect::<Vec<_>>() {
            return wrong("all_to_all_single");
        }
        if n > 1 {
            let (to, from) = ((me + 1) % n as u32, (me + n as u32 - 1) % n as u32);
            let mut x = vec![Matrix::zeroed(); len];
            pg.scope(|s| {
                let sent = s.start(op::send(plain(&mine), to, 4));
                pg.recv(plain(&mut x), from, 4)?;
                sent.wait().map(drop)
            })?;
            if x != Matrix::all(from, len) {
                return wrong("send and recv");
            }
        }
    }
    // Invalid calls are rejected, and the group can still be used.
    let e = pg.all_reduce(plain(&mut [Matrix::zeroed()]), ReduceOp::Sum).err();
    if !e.is_some_and(|e| *e.kind() == ErrorKind::InvalidArgument && e.report().what.contains("tests::Matrix/1")) {
        return wrong("a built-in reduction is not rejected");
    }
    let odd = n as u64 + 1;
    let e = pg.all_to_all_single(plain(vec![odd; n + 1]), plain(vec![odd; n + 1])).err();
    if n > 1 && !e.is_some_and(|e| e.report().what.contains("which is not a multiple of the number of ranks")) {
        return wrong("parts of elements");
    }
    Ok(None)
}

fn values(pg: &ProcessGroup) -> Result<Option<String>> {
    type Check = fn(&ProcessGroup) -> Result<Option<String>>;
    let checks: [Check; 5] = [
        |pg| check::<Matrix>(pg, "product", product),
        // The result depends on the order of the ranks.
        |pg| check::<f32>(pg, "log_sum_exp", log_sum_exp),
        |pg| check::<f32>(pg, "sum", |acc, x| acc.iter_mut().zip(x).for_each(|(a, x)| *a += x)),
        check_scans,
        check_moves,
    ];
    for check in checks {
        if let Some(wrong) = check(pg)? {
            return Ok(Some(wrong));
        }
    }
    Ok(None)
}

const PARTS: [&str; 6] = ["type", "operation", "count", "moved_type", "panics", "killed"];

pub(crate) fn trials() -> Vec<Trial> {
    of_values("reductions", values, &PARTS, judge)
}

fn judge(part: &str, world: u32, report: &JobReport) -> Result<(), String> {
    for rank in (0..world).filter(|rank| part != "killed" || *rank != VICTIM) {
        let wrong = |why: &str| Err(format!("rank {rank}: {why}"));
        let reported = failures(report, rank);
        let field = match part {
            "type" | "operation" | "moved_type" => "type",
            _ => "count",
        };
        match (part, &reported[..]) {
            ("type" | "operation" | "count" | "moved_type", [one]) => {
                let names = if rank == VICTIM { !one.guilty.is_empty() } else { one.guilty == [VICTIM] };
                // The error has both values, on every rank.
                let both: &[&str] = match part {
                    "type" | "moved_type" => &["tests::Matrix/1", "tests::Quad/1"],
                    "operation" => &["tests::Matrix/1 by product", "tests::Matrix/1 by difference"],
                    _ => &["40", "41"],
                };
                if one.kind != "Mismatch" || one.field != field || !names {
                    return wrong("no mismatch of this field that names the right ranks");
                }
                if !both.iter().all(|name| one.message.contains(name)) {
                    return wrong("the error does not have both values");
                }
            }
            ("killed", [one]) if one.kind == "PeerDead" && one.guilty == [VICTIM] => {}
            ("killed", _) => return wrong("no error that names only the victim as dead"),
            _ if lines(report, rank) == ["well"] => {}
            _ => return wrong("did not report success"),
        }
    }
    Ok(())
}

pub(crate) fn run_part(part: &str) -> Result {
    let pg = join(CAP)?;
    let victim = pg.rank() == VICTIM;
    match part {
        "values" => {
            report_line(values(&pg)?.unwrap_or_else(|| "well".into()));
            pg.shutdown()
        }
        "type" => differs(&pg, || match victim {
            true => pg.all_reduce_with(&mut [Quad::zeroed(); 40], "product", |_, _| {}),
            false => pg.all_reduce_with(&mut [Matrix::zeroed(); 40], "product", product),
        }),
        "operation" => differs(&pg, || {
            let name = if victim { "difference" } else { "product" };
            pg.scan_with(&mut [Matrix::zeroed(); 40], name, product)
        }),
        "count" => differs(&pg, || {
            let len = if victim { 41 } else { 40 };
            pg.all_reduce_with(&mut vec![Matrix::zeroed(); len], "product", product)
        }),
        "moved_type" => differs(&pg, || match victim {
            true => pg.all_gather_into(plain(&[Quad::zeroed(); 3]), plain(&mut [Quad::zeroed(); 9])).map(drop),
            false => pg.all_gather_into(plain(&[Matrix::zeroed(); 3]), plain(&mut [Matrix::zeroed(); 9])).map(drop),
        }),
        "panics" => panics(&pg),
        "killed" => killed(&pg),
        _ => Ok(()),
    }
}

/// The victim's call differs in one respect.
fn differs(pg: &ProcessGroup, call: impl FnOnce() -> Result) -> Result {
    // An error can show only names that the process itself has used, so all ranks first use all names.
    pg.broadcast(plain(&mut [Matrix::zeroed()]), 0)?;
    pg.broadcast(plain(&mut [Quad::zeroed()]), 0)?;
    for name in ["product", "difference"] {
        pg.all_reduce_with(&mut [Matrix::zeroed()], name, product)?;
        pg.all_reduce_with(&mut [Quad::zeroed()], name, |_, _| {})?;
    }
    trials::differs(call)
}

/// A closure panics. The panic continues on its rank, and the errors of the other ranks name this rank.
fn panics(pg: &ProcessGroup) -> Result {
    let victim = pg.rank() == VICTIM;
    type Call = fn(&ProcessGroup, &mut [f32], &mut dyn FnMut(&mut [f32], &[f32])) -> Result;
    let calls: [Call; 5] = [
        |pg, x, f| pg.all_reduce_with(x, "sum", f),
        |pg, x, f| pg.reduce_with(x, "sum", 0, f),
        |pg, x, f| pg.scan_with(x, "sum", f),
        |pg, x, f| pg.exscan_with(x, "sum", f).map(drop),
        |pg, x, f| {
            let part = x.len() / pg.size() as usize;
            pg.reduce_scatter_with(&x[..part * pg.size() as usize], &mut vec![0.0; part], "sum", f)
        },
    ];
    let mut well = true;
    for call in calls {
        for len in [9, 700_000] {
            let mut x = vec![1f32; len];
            let mut panicking = |_: &mut [f32], _: &[f32]| {
                if victim {
                    panic!("as the test wants it");
                }
            };
            match catch_unwind(AssertUnwindSafe(|| call(pg, &mut x, &mut panicking))) {
                Err(panic) => well &= victim && panic.downcast_ref() == Some(&"as the test wants it"),
                Ok(Err(e)) => {
                    let report = e.report();
                    well &= !victim && report.kind == ErrorKind::Aborted && report.guilty == [VICTIM];
                    well &= report.status == Status::Rejected && report.what.contains("\"sum\" panicked");
                }
                Ok(Ok(())) => well = false,
            }
        }
        let mut x = [1f32; 5];
        pg.all_reduce_with(&mut x, "sum", |acc, x| acc.iter_mut().zip(x).for_each(|(a, x)| *a += x))?;
        well &= x == [WORLD as f32; 5];
    }
    report_line(if well { "well" } else { "a wrong panic, error or sum" });
    pg.clone().shutdown()
}

fn killed(pg: &ProcessGroup) -> Result {
    let mut x = vec![1f32; 300_000];
    victim_dies(pg, || {
        pg.all_reduce_with(&mut x, "max", |acc, x| acc.iter_mut().zip(x).for_each(|(a, x)| *a = a.max(*x)))?;
        pg.scan(&mut x[..1000], ReduceOp::Max)
    })
}
