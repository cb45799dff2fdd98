//! `--tune`: compares gloo-like's algorithms, and writes which algorithm is the fastest for each size.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::Path;

use c10d::{OpKind, ProcessGroup};
use c10d_gloo_like::{Algorithm, Fabric, Rule, TUNED, Table};

use super::args::{Args, Transport};
use super::ops::compared;
use super::rank::{self, Contender};
use super::report::Row;

/// From one size to the next, the chosen algorithm changes only if another is faster by this factor.
const FASTER: f64 = 1.05;

/// Joins one group per algorithm.
pub(super) fn join(args: &Args) -> Result<Vec<Contender>, Box<dyn Error>> {
    let mut groups = Vec::new();
    for algorithm in compared() {
        let file = tempfile::NamedTempFile::new()?;
        fs::write(file.path(), Table::new(Vec::new()).preferring(algorithm).to_toml(""))?;
        let hint = file.path().to_string_lossy();
        let builder = rank::builder(args).name(&format!("perf {}", algorithm.name()));
        let pg = builder.hint("gloo-like.tuning", &hint).init("env://").build()?;
        let fabric = Some(fabric(&pg, args.transport)?.name());
        groups.push(Contender { pg, ops: Some(algorithm.ops()), fabric });
    }
    Ok(groups)
}

/// Returns the fabric of these ranks: how they are connected.
fn fabric(pg: &ProcessGroup, transport: Transport) -> c10d::Result<Fabric> {
    let mut hosts = pg.hosts()?;
    hosts.sort_unstable();
    hosts.dedup();
    Ok(match (hosts.len(), transport) {
        (1, Transport::Tcp) => Fabric::Loopback,
        (1, _) => Fabric::Shm,
        (n, Transport::Auto) if n < pg.size() as usize => Fabric::Mixed,
        _ => Fabric::Tcp,
    })
}

/// Writes the rules that follow from these rows. An existing file keeps its rules for each combination of op, fabric
/// and number of ranks for which there is no new rule.
pub(super) fn write(path: &Path, rows: &[Row]) -> Result<(), Box<dyn Error>> {
    let found = rules(rows);
    let mut table = if path.exists() { Table::of_file(path)? } else { Table::new(Vec::new()) };
    let replaced = |rule: &Rule| found.iter().any(|r| (r.op, r.fabric, r.ranks) == (rule.op, rule.fabric, rule.ranks));
    table.rules.retain(|rule| !replaced(rule));
    table.rules.extend(found);
    let head = "Written by `c10d perf --tune`: the fastest algorithm for each range of sizes. `up_to` counts bytes\n\
                (of a rank's block for all_gather_into and reduce_scatter_into). To use the rules, set C10D_TUNING\n\
                to this file on all ranks.";
    fs::write(path, table.to_toml(head))?;
    Ok(())
}

fn rules(rows: &[Row]) -> Vec<Rule> {
    let fabric_of = |row: &Row| Fabric::from_name(row.fabric.as_deref()?);
    let mut places: Vec<(OpKind, Fabric, u32)> = Vec::new();
    for row in rows {
        let op = TUNED.into_iter().find(|op| op.name() == row.op);
        if let Some(place) = op.zip(fabric_of(row)).map(|(op, fabric)| (op, fabric, row.ranks))
            && !places.contains(&place)
        {
            places.push(place);
        }
    }
    let mut rules = Vec::new();
    for (op, fabric, ranks) in places {
        let mut times = BTreeMap::<usize, Vec<(Algorithm, f64)>>::new();
        let here = |row: &&Row| (row.op.as_str(), row.ranks, fabric_of(row)) == (op.name(), ranks, Some(fabric));
        for row in rows.iter().filter(here) {
            let Some(algorithm) = row.algorithm.as_deref().and_then(Algorithm::from_name) else { continue };
            times.entry(row.bytes).or_default().push((algorithm, row.median_us));
        }
        let per_rank = matches!(op, OpKind::AllGatherInto | OpKind::ReduceScatterInto);
        let divisor = if per_rank { ranks as usize } else { 1 };
        let rule = |up_to, algorithm| Rule { op, fabric, ranks: (ranks, ranks), up_to, algorithm };
        rules.extend(steps(&times).into_iter().map(|(up_to, a)| rule(up_to.map_or(usize::MAX, |b| b / divisor), a)));
    }
    rules
}

/// Returns the fastest algorithms by size, each with the largest number of bytes for which it is used. This limit is
/// the geometric mean of the two sizes between which another algorithm becomes the fastest.
fn steps(times: &BTreeMap<usize, Vec<(Algorithm, f64)>>) -> Vec<(Option<usize>, Algorithm)> {
    let mut steps: Vec<(Option<usize>, Algorithm)> = Vec::new();
    let mut before = 0;
    for (&bytes, times) in times {
        let Some(best) = times.iter().copied().min_by(|a, b| a.1.total_cmp(&b.1)) else { continue };
        match steps.last_mut() {
            Some((limit, current)) => {
                let stays = times.iter().any(|(a, t)| a == current && *t <= best.1 * FASTER);
                if !stays {
                    *limit = Some((before as f64 * bytes as f64).sqrt() as usize);
                    steps.push((None, best.0));
                }
            }
            None => steps.push((None, best.0)),
        }
        before = bytes;
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_lie_between_the_sizes_and_noise_does_not_move_them() {
        use Algorithm::{Direct, OneShot, Ring};
        let times = BTreeMap::from([
            (8, vec![(OneShot, 1.0), (Direct, 2.0), (Ring, 3.0)]),
            // The direct algorithm is faster here, but not by enough.
            (1 << 10, vec![(OneShot, 2.0), (Direct, 1.95), (Ring, 3.0)]),
            (4 << 10, vec![(OneShot, 4.0), (Direct, 3.0), (Ring, 3.1)]),
            (1 << 20, vec![(Direct, 300.0), (Ring, 200.0)]),
        ]);
        assert_eq!(steps(&times), [(Some(2 << 10), OneShot), (Some(64 << 10), Direct), (None, Ring)]);
        assert!(steps(&BTreeMap::new()).is_empty());
    }
}
