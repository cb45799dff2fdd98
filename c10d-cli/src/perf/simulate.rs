//! `--simulate`: the cost of the ops on a cluster. A model of the cluster computes the time of the plans of gloo-like's
//! algorithms.

use std::error::Error;
use std::io::{self, Write};
use std::time::Instant;

use c10d::OpKind;
use c10d_gloo_like::model::{Cluster, Outcome, Scenario, simulate as run};
use c10d_gloo_like::{Algorithm, Table};
use comfy_table::{CellAlignment, Table as Shown, presets};
use serde::Serialize;

use super::args::{Args, Format, Transport};
use super::ops::{PerfOp, compared};
use super::report::{number, size};
use crate::Bad;

/// A result: an [`Outcome`], and after each value the lower bound for any algorithm. Times are in microseconds.
#[derive(Serialize)]
struct Row {
    op: &'static str,
    bytes: usize,
    algorithm: &'static str,
    time_us: f64,
    bound_us: f64,
    rounds: u32,
    rounds_bound: u32,
    sent: u64,
    sent_bound: u64,
}

impl Row {
    fn new(scenario: Scenario, outcome: &Outcome) -> Row {
        let bounds = outcome.bounds;
        Row {
            op: scenario.op.name(),
            bytes: scenario.bytes,
            algorithm: outcome.algorithm.name(),
            time_us: outcome.seconds * 1e6,
            bound_us: bounds.seconds * 1e6,
            rounds: outcome.rounds,
            rounds_bound: bounds.rounds,
            sent: outcome.sent,
            sent_bound: bounds.sent,
        }
    }
}

/// Simulates everything that `args` ask for, and prints the results.
pub(super) fn simulate(args: &Args) -> Result<(), Box<dyn Error>> {
    let Some(shape) = args.simulate else { return Ok(()) };
    let (hosts, each) = (shape.hosts, shape.each);
    let mut cluster = Cluster::new(hosts, each, args.network * 1e9, args.latency * 1e-6);
    if hosts == 1 {
        cluster = Cluster::one_host(each, cluster.cores, !matches!(args.transport, Transport::Tcp));
    } else if matches!(args.transport, Transport::Tcp) {
        cluster.shm = false;
        cluster.inside = Cluster::one_host(each, each, false).inside;
    }
    cluster.cores = args.cores.unwrap_or(cluster.cores);
    let started = Instant::now();
    let mut rows = Vec::new();
    for op in args.ops().map_err(Bad::argument)? {
        let PerfOp::Table(kind) = op else { continue };
        for bytes in args.sizes(op) {
            let scenario = Scenario { op: kind, bytes, elem: args.dtype.size() };
            for how in algorithms(args, kind) {
                let outcome = run(scenario, &cluster, &Table::builtin(), how)?;
                rows.push(Row::new(scenario, &outcome));
            }
        }
    }
    show(args, &cluster, &rows, started)?;
    Ok(())
}

/// Returns the algorithms to simulate: with `--compare` all that have plans for the op, otherwise only `None`, which
/// means the algorithm that the table selects.
fn algorithms(args: &Args, op: OpKind) -> Vec<Option<Algorithm>> {
    let able: Vec<_> = compared().filter(|a| args.compare && a.ops().contains(&op)).map(Some).collect();
    if able.is_empty() { vec![None] } else { able }
}

fn show(args: &Args, cluster: &Cluster, rows: &[Row], started: Instant) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match args.format {
        Format::Csv => {
            writeln!(out, "op,bytes,algorithm,time_us,bound_us,rounds,rounds_bound,sent,sent_bound")?;
            for Row { op, bytes, algorithm, time_us, bound_us, rounds, rounds_bound, sent, sent_bound } in rows {
                writeln!(
                    out,
                    "{op},{bytes},{algorithm},{time_us:.3},{bound_us:.3},{rounds},{rounds_bound},{sent},{sent_bound}"
                )?;
            }
            Ok(())
        }
        Format::Json => {
            let json = serde_json::json!({ "hosts": cluster.hosts, "ranks_per_host": cluster.per_host, "rows": rows });
            writeln!(out, "{json:#}")
        }
        Format::Table => {
            let mut table = Shown::new();
            table.load_style(presets::NOTHING);
            table.set_header(["op", "bytes", "algorithm", "µs", "bound", "rounds", "bound", "sent", "bound"]);
            for row in rows {
                table.add_row([
                    row.op.to_owned(),
                    size(row.bytes),
                    row.algorithm.to_owned(),
                    number(row.time_us),
                    number(row.bound_us),
                    row.rounds.to_string(),
                    row.rounds_bound.to_string(),
                    row.sent.to_string(),
                    row.sent_bound.to_string(),
                ]);
            }
            for column in table.column_iter_mut().enumerate().filter(|(i, _)| *i == 1 || *i > 2) {
                column.1.set_cell_alignment(CellAlignment::Right);
            }
            let (hosts, each, cores) = (cluster.hosts, cluster.per_host, cluster.cores);
            let network = match hosts {
                1 => String::new(),
                _ => format!(", {} GB/s and {} µs between hosts", args.network, args.latency),
            };
            writeln!(out, "simulated: {hosts} hosts with {each} ranks and {cores} cores each{network}\n")?;
            writeln!(out, "{}\n", table.trim_fmt())?;
            writeln!(out, "{} rows, {:.1} s", rows.len(), started.elapsed().as_secs_f64())
        }
    }
}
