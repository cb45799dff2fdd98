//! Grids of ranks, and groups by host. The group along an axis must consist of the ranks whose coordinates differ from
//! this rank's only on that axis, in the order of that coordinate.

use c10d::launch::JobReport;
use c10d::{Mesh, ProcessGroup, ReduceOp, Result, Status};
use libtest_mimic::Trial;

use crate::jobs::acts::{VICTIM, WORLD};
use crate::jobs::trials::{CAP, judged, leave, of_parts, over_threads, well_or_killed};
use crate::jobs::{failures, join, launch, report_error, report_line};

/// Returns the ranks of the group `of`, in its order, by their numbers in `pg`.
fn members(pg: &ProcessGroup, of: &ProcessGroup) -> Result<Vec<u32>> {
    let mut all = vec![0u32; of.size() as usize];
    of.all_gather_into(&[pg.rank()], &mut all)?;
    Ok(all)
}

/// Tests all grids of three axes, invalid calls, and groups by host. Returns what is wrong, if anything.
fn grids(pg: &ProcessGroup) -> Result<Option<String>> {
    let (me, n) = (pg.rank(), pg.size());
    for a in (1..=n).filter(|a| n.is_multiple_of(*a)) {
        for b in (1..=n / a).filter(|b| (n / a).is_multiple_of(*b)) {
            let c = n / a / b;
            let wrong = |what: &str| Ok(Some(format!("{what} of {a} x {b} x {c}")));
            let mesh = Mesh::new(pg, &[("a", a), ("b", b), ("c", c)])?;
            let (i, j, k) = (me / (b * c), me / c % b, me % c);
            let at = |i: u32, j: u32, k: u32| (i * b + j) * c + k;
            if mesh.coordinates() != [i, j, k] || mesh.rank_at(&[i, j, k]) != Some(me) {
                return wrong("coordinates");
            }
            if mesh.axes().collect::<Vec<_>>() != [("a", a), ("b", b), ("c", c)] || mesh.rank_at(&[a, 0, 0]).is_some() {
                return wrong("axes");
            }
            let along: [(&str, Vec<u32>, u32); 3] = [
                ("a", (0..a).map(|i| at(i, j, k)).collect(), i),
                ("b", (0..b).map(|j| at(i, j, k)).collect(), j),
                ("c", (0..c).map(|k| at(i, j, k)).collect(), k),
            ];
            for (axis, expected, mine) in along {
                let group = mesh.group(axis)?;
                if members(pg, group)? != expected || group.rank() != mine {
                    return wrong("group");
                }
                let len = expected.len() as i64;
                for by in -len..=len {
                    let to = i64::from(mine) + by;
                    let inside = (0..len).contains(&to).then(|| expected[to as usize]);
                    let around = Some(expected[to.rem_euclid(len) as usize]);
                    if mesh.shift(axis, by, false)? != inside || mesh.shift(axis, by, true)? != around {
                        return wrong("shift");
                    }
                }
            }
            // Two axes are flattened into one, in the requested order.
            let expected: Vec<u32> = (0..c).flat_map(|k| (0..a).map(move |i| at(i, j, k))).collect();
            if members(pg, &mesh.flatten(&["c", "a"])?)? != expected {
                return wrong("flatten");
            }
            let slice = mesh.slice(&["c", "a"])?;
            if members(pg, slice.whole())? != expected || slice.coordinates() != [k, i] {
                return wrong("slice");
            }
            if slice.whole().rank() != k * a + i || slice.rank_at(&[k, i]) != Some(slice.whole().rank()) {
                return wrong("ranks of a slice");
            }
            let mut sum = [me];
            slice.group("a")?.all_reduce(&mut sum, ReduceOp::Sum)?;
            if sum[0] != (0..a).map(|i| at(i, j, k)).sum::<u32>() {
                return wrong("sum over a slice's axis");
            }
        }
    }
    let mesh = Mesh::new(pg, &[("x", n)])?;
    for (result, words) in [
        (mesh.group("y").map(drop), "no axis \"y\"; it has x"),
        (mesh.shift("y", 1, true).map(drop), "no axis"),
        (mesh.flatten(&["x", "x"]).map(drop), "named twice"),
        (mesh.slice(&["z"]).map(drop), "no axis"),
        (Mesh::new(pg, &[("x", n), ("x", 1)]).map(drop), "two axes have the name \"x\""),
        (Mesh::new(pg, &[("x", n + 1)]).map(drop), "does not make a grid of"),
    ] {
        if !result.is_err_and(|e| e.status() == Status::Rejected && e.report().what.contains(words)) {
            return Ok(Some(format!("no error: {words}")));
        }
    }
    hosts(pg)
}

/// Tests groups by host. Here all ranks are on one host.
fn hosts(pg: &ProcessGroup) -> Result<Option<String>> {
    let all: Vec<u32> = (0..pg.size()).collect();
    if pg.hosts()? != vec![0; pg.size() as usize] {
        return Ok(Some("hosts".into()));
    }
    if members(pg, &pg.split_by_host()?)? != all || members(pg, &pg.split_by_memory()?)? != all {
        return Ok(Some("split_by_host".into()));
    }
    let mesh = Mesh::by_host(pg)?;
    if mesh.coordinates() != [0, pg.rank()] || members(pg, mesh.group("local")?)? != all {
        return Ok(Some("by_host".into()));
    }
    Ok(None)
}

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = vec![over_threads("mesh/threads/grids".into(), [1, 2, 3, 4, 5, 6, 8], grids)];
    for transport in ["shm", "tcp"] {
        for world in [1, 2, 4, 5] {
            trials.push(Trial::test(format!("mesh/{transport}/grids_of_{world}"), move || {
                judged(launch("grids", world, transport), "grids", world, well_or_killed)
            }));
        }
        trials.extend(of_parts("mesh", transport, &["axes"], judge_axes));
    }
    trials
}

fn judge_axes(_: &str, world: u32, report: &JobReport) -> Result<(), String> {
    for rank in 0..world {
        let right = failures(report, rank).first().is_some_and(|one| {
            let guilty: &[u32] = if rank == VICTIM { &[0, 2] } else { &[VICTIM] };
            let both = one.message.contains("dp=3 × tp=1") && one.message.contains("dp=1 × tp=3");
            one.kind == "Mismatch" && one.field == "axes" && one.guilty == guilty && both
        });
        if !right {
            return Err(format!("rank {rank}: no mismatch with both axes and the right ranks"));
        }
    }
    Ok(())
}

pub(crate) fn run_part(part: &str) -> Result {
    let pg = join(CAP)?;
    if part == "grids" {
        let wrong = grids(&pg)?;
        return leave(pg, wrong);
    }
    let sizes = if pg.rank() == VICTIM { [1, WORLD] } else { [WORLD, 1] };
    match Mesh::new(&pg, &[("dp", sizes[0]), ("tp", sizes[1])]) {
        Ok(_) => report_line("no error"),
        Err(e) => report_error("axes", &e),
    }
    // The group can still be used.
    Mesh::new(&pg, &[("dp", WORLD)])?;
    pg.shutdown()
}
