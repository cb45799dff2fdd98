//! Sparse all-reduce over real processes: sums, faults, and the order relative to dense calls.

use crate::jobs;

use std::sync::Arc;

use c10d::launch::JobReport;
use c10d::options::{Absent, AllReduceOptions};
use c10d::{Coo, DispatchKey, ErrorKind, ProcessGroup, ReduceOp, Result, Status, op};
use jobs::acts::{VICTIM, WORLD};
use jobs::trials::{self, CAP, of_parts, until_all_have_reported, victim_dies};
use jobs::{failures, join, lines, report_line};
use libtest_mimic::Trial;

type Part = fn(&ProcessGroup) -> Result;

const PARTS: [(&str, Part); 8] = [
    ("sums", sums),
    ("shape", shape),
    ("dtype", dtype),
    ("reduce_op", reduce_op),
    ("wrong_indices", wrong_indices),
    ("known_indices", known_indices),
    ("beside_dense", beside_dense),
    ("killed", killed),
];

pub(crate) fn run_part(part: &str) -> Result {
    let body = PARTS.iter().find(|(name, _)| *name == part).expect("a part of the list").1;
    join(CAP).and_then(|pg| body(&pg))
}

pub(crate) fn trials() -> Vec<Trial> {
    let parts = PARTS.map(|(part, _)| part);
    ["shm", "tcp"].into_iter().flat_map(|transport| of_parts("sparse", transport, &parts, judge)).collect()
}

fn judge(part: &str, world: u32, report: &JobReport) -> Result<(), String> {
    for rank in (0..world).filter(|rank| part != "killed" || *rank != VICTIM) {
        let wrong = |why: &str| Err(format!("rank {rank}: {why}"));
        let reported = failures(report, rank);
        let names_victim = |guilty: &[u32]| if rank == VICTIM { !guilty.is_empty() } else { guilty == [VICTIM] };
        match (part, &reported[..]) {
            ("shape" | "dtype" | "reduce_op", [one]) if one.kind == "Mismatch" && one.field == part => {
                if !names_victim(&one.guilty) {
                    return wrong("the error names other ranks");
                }
            }
            ("killed", [one]) if one.kind == "PeerDead" && one.guilty == [VICTIM] => {}
            ("shape" | "dtype" | "reduce_op" | "killed", _) => return wrong("not the expected error"),
            _ if lines(report, rank) == ["well"] => {}
            _ => return wrong("did not report success"),
        }
    }
    Ok(())
}

fn tensor(pg: &ProcessGroup, nnz: i64) -> Result<Coo<f32>> {
    let rank = i64::from(pg.rank());
    let indices: Vec<i64> = (0..nnz).map(|i| if i % 2 == 0 { 6 * i } else { 6 * i + rank + 1 }).collect();
    let values = (0..2 * nnz).map(|i| (i % 7 + rank) as f32).collect();
    Ok(Coo::new([6 * nnz as usize + 6, 2], 1, indices, values)?.assume_coalesced())
}

fn right(pg: &ProcessGroup, nnz: i64, sum: &Coo<f32>) -> bool {
    let world = i64::from(pg.size());
    let (mut indices, mut values) = (Vec::new(), Vec::new());
    for i in 0..nnz {
        let at = |j: i64, rank: i64| ((2 * i + j) % 7 + rank) as f32;
        if i % 2 == 0 {
            indices.push(6 * i);
            values.extend((0..2).map(|j| (0..world).map(|rank| at(j, rank)).sum::<f32>()));
        } else {
            indices.extend((0..world).map(|rank| 6 * i + rank + 1));
            values.extend((0..world).flat_map(|rank| (0..2).map(move |j| at(j, rank))));
        }
    }
    sum.is_coalesced() && sum.indices() == indices && sum.values() == values
}

fn sums(pg: &ProcessGroup) -> Result {
    let mut well = true;
    for nnz in [0, 1, 10, 300, 3000, 100_000] {
        let sum = pg.all_reduce(tensor(pg, nnz)?, ReduceOp::Sum)?;
        well &= right(pg, nnz, &sum);
        let work: Vec<_> =
            (0..3).map(|_| Ok(pg.start(op::all_reduce(tensor(pg, nnz)?, ReduceOp::Sum)))).collect::<Result<_>>()?;
        // This call runs after the three started ones.
        well &= right(pg, nnz, &pg.all_reduce(tensor(pg, nnz)?, ReduceOp::Sum)?);
        for work in work {
            well &= right(pg, nnz, &work.wait()?);
        }
    }
    report_line(if well { "well" } else { "wrong sums" });
    pg.clone().shutdown()
}

/// The victim's call differs in one respect.
fn differs(pg: &ProcessGroup, mine: impl FnOnce() -> Result, others: impl FnOnce() -> Result) -> Result {
    trials::differs(|| if pg.rank() == VICTIM { mine() } else { others() })
}

fn shape(pg: &ProcessGroup) -> Result {
    let with =
        |shape: [usize; 2]| pg.all_reduce(Coo::new(shape, 1, vec![3], vec![1f32; shape[1]])?, ReduceOp::Sum).map(drop);
    differs(pg, || with([50, 2]), || with([50, 3]))
}

fn dtype(pg: &ProcessGroup) -> Result {
    differs(
        pg,
        || pg.all_reduce(Coo::new([9], 1, vec![3], vec![1f64])?, ReduceOp::Sum).map(drop),
        || pg.all_reduce(Coo::new([9], 1, vec![3], vec![1f32])?, ReduceOp::Sum).map(drop),
    )
}

fn reduce_op(pg: &ProcessGroup) -> Result {
    let with = |op| {
        let options = AllReduceOptions::new(op).with_absent(Absent::Ignored);
        pg.all_reduce(Coo::new([9], 1, vec![3], vec![1i32])?, options).map(drop)
    };
    differs(pg, || with(ReduceOp::Max), || with(ReduceOp::Min))
}

fn wrong_indices(pg: &ProcessGroup) -> Result {
    let mut well = true;
    let cases: [(Vec<i64>, bool, &str); 4] = [
        (vec![1, -1], false, "index -1 of entry 1"),
        (vec![1, 50], false, "index 50 of entry 1"),
        (vec![2, 1], true, "marked as coalesced"),
        (vec![1, 1], true, "marked as coalesced"),
    ];
    for (indices, coalesced, words) in cases {
        let indices = if pg.rank() == VICTIM { indices } else { vec![0, 1] };
        let tensor = Coo::new([50], 1, indices, vec![1f32, 2.0])?;
        let tensor = if coalesced { tensor.assume_coalesced() } else { tensor };
        let Err(e) = pg.all_reduce(tensor, ReduceOp::Sum) else {
            well = false;
            continue;
        };
        let report = e.report();
        well &= report.kind == ErrorKind::InvalidArgument && report.guilty == [VICTIM];
        well &= report.status == Status::Rejected && report.what.contains(words);
        well &= right(pg, 500, &pg.all_reduce(self::tensor(pg, 500)?, ReduceOp::Sum)?);
    }
    report_line(if well { "well" } else { "wrong errors" });
    pg.clone().shutdown()
}

fn known_indices(pg: &ProcessGroup) -> Result {
    let all: Arc<[i64]> = (0..90).collect();
    let rank = i64::from(pg.rank());
    let options = AllReduceOptions::new(ReduceOp::Sum).with_sparse_indices(Some(all.clone()));
    let mine = || Coo::new([100], 1, vec![rank, 50, 50], vec![1f64, 2.0, 3.0]);
    let sum = pg.all_reduce(mine()?, options.clone())?;
    let want = |i: i64| {
        if i < 3 {
            1.0
        } else if i == 50 {
            15.0
        } else {
            0.0
        }
    };
    let mut well = sum.indices() == &all[..] && sum.values().iter().zip(0..).all(|(v, i)| *v == want(i));
    let stray = Coo::new([100], 1, vec![if pg.rank() == VICTIM { 95 } else { 5 }], vec![1f64])?;
    let e = pg.all_reduce(stray, options).err();
    well &= e.is_some_and(|e| *e.kind() == ErrorKind::InvalidArgument && e.report().guilty == [VICTIM]);
    let short = if pg.rank() == VICTIM { all[..80].into() } else { all };
    let options = AllReduceOptions::new(ReduceOp::Sum).with_sparse_indices(Some(short));
    let e = pg.all_reduce(mine()?, options).err();
    well &= e.is_some_and(|e| matches!(e.kind(), ErrorKind::Mismatch { field: "sparse_indices", .. }));
    report_line(if well { "well" } else { "wrong" });
    until_all_have_reported(WORLD)
}

/// The victim makes a dense call first; the other ranks start the sparse call first.
fn beside_dense(pg: &ProcessGroup) -> Result {
    let mut well = true;
    for nnz in [200, 20_000] {
        let mut dense = vec![1f32; 1000];
        let sum = if pg.rank() == VICTIM {
            pg.all_reduce(&mut dense, ReduceOp::Sum)?;
            pg.all_reduce(tensor(pg, nnz)?, ReduceOp::Sum)?
        } else {
            let work = pg.start(op::all_reduce(tensor(pg, nnz)?, ReduceOp::Sum));
            pg.all_reduce(&mut dense, ReduceOp::Sum)?;
            work.wait()?
        };
        well &= right(pg, nnz, &sum) && dense == vec![WORLD as f32; 1000];
    }
    well &= pg.backend(DispatchKey::SparseCpu)? == "gloo-like";
    report_line(if well { "well" } else { "wrong sums" });
    pg.clone().shutdown()
}

fn killed(pg: &ProcessGroup) -> Result {
    victim_dies(pg, || pg.all_reduce(tensor(pg, 20_000)?, ReduceOp::Sum).map(drop))
}
