//! The work of every rank of a run.

use std::io;
use std::time::{Duration, Instant};

use c10d::{Error, ErrorKind, OpKind, ProcessGroup, ReduceOp, Result};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::args::{Args, Transport, word};
use super::case::{Case, Form, Setting};
use super::compute::{compute, hidden, units};
use super::layout::Layout;
use super::measure::{Timing, measure};
use super::memory::Memory;
use super::ops::PerfOp;
use super::report::Row;
use super::sample::{Sample, with_sample};
use super::sparse;

/// The timeout of each op.
const PATIENCE: Duration = Duration::from_secs(60);

/// Returns the builder of a run's group. The caller adds a store or an init method.
pub(super) fn builder(args: &Args) -> c10d::Builder {
    let builder = c10d::builder().name("perf").timeout(PATIENCE);
    let builder = args.backend.iter().fold(builder, |builder, map| builder.backend(map));
    match args.transport {
        Transport::Auto => builder,
        forced => builder.hint("gloo-like.transport", &word(forced)),
    }
}

/// Binds the calling thread to one of the cores that it may use.
pub(super) fn pin(rank: u32) -> Result {
    let pinned = || {
        let allowed = sched_getaffinity(None)?;
        let place = rank % allowed.count().max(1);
        let core = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).nth(place as usize);
        let mut one = CpuSet::new();
        one.set(core.unwrap_or(0));
        sched_setaffinity(None, &one)
    };
    pinned().map_err(|e| Error::new(ErrorKind::Resource, "cannot bind a rank to a core").caused_by(e))
}

/// A group that is timed.
pub(super) struct Contender {
    pub(super) pg: ProcessGroup,
    /// The ops to time in the group; `None`: all.
    pub(super) ops: Option<&'static [OpKind]>,
    /// How the ranks are connected (a name of gloo-like's `Fabric`: shm, loopback, tcp or mixed). `None` unless
    /// `--tune` compares algorithms.
    pub(super) fabric: Option<&'static str>,
}

impl Contender {
    /// Makes the only group of a run, for all ops.
    pub(super) fn alone(pg: ProcessGroup) -> Vec<Contender> {
        vec![Contender { pg, ops: None, fabric: None }]
    }
}

/// Times everything that `args` ask for. Rank 0 passes a row per point to `emit`, and ends the run if `emit` fails. If
/// several groups run an op, they take turns.
pub(super) fn run(groups: &[Contender], args: &Args, emit: impl FnMut(Row) -> io::Result<()>) -> Result {
    with_sample!(args.dtype, T => points::<T>(groups, args, emit))
}

fn points<T: Sample>(groups: &[Contender], args: &Args, mut emit: impl FnMut(Row) -> io::Result<()>) -> Result {
    let mut emit = |row| emit(row).map_err(|e| Error::new(ErrorKind::Resource, "cannot show a result").caused_by(e));
    for op in args.ops().map_err(Error::invalid)? {
        let able = |group: &&Contender| group.ops.is_none_or(|ops| ops.contains(&op.kind()));
        let groups: Vec<&Contender> = groups.iter().filter(able).collect();
        if op == PerfOp::AllReduceSparse {
            for (pg, point) in groups.iter().flat_map(|g| args.sparse_points().map(move |point| (&g.pg, point))) {
                let row = sparse::measured::<T>(pg, args, point)?;
                if pg.rank() == 0 {
                    emit(row)?;
                }
            }
            continue;
        }
        let mut most = usize::MAX;
        for bytes in args.sizes(op) {
            if bytes > most {
                continue;
            }
            let results = in_turns::<T>(&groups, args, op, bytes)?;
            if results.iter().all(|result| result.timing.too_slow) {
                most = bytes;
            }
            for (group, result) in groups.iter().zip(results).filter(|(group, _)| group.pg.rank() == 0) {
                let fabric = group.fabric.map(str::to_owned);
                emit(Row { fabric, ..row::<T>(&group.pg, args, op, bytes, result) })?;
            }
        }
    }
    Ok(())
}

#[derive(Clone, Copy)]
struct Measured {
    timing: Timing,
    /// The number of wrong elements on all ranks.
    errors: u64,
    /// The share of the op's time that a computation hides, if ops are started.
    hidden: Option<f64>,
}

/// Checks and times one op at one size in each group. Several groups take turns several times, so that a disturbance of
/// the machine affects all groups.
fn in_turns<T: Sample>(groups: &[&Contender], args: &Args, op: PerfOp, bytes: usize) -> Result<Vec<Measured>> {
    const TURNS: usize = 3;
    let mut results = vec![Vec::new(); groups.len()];
    for _ in 0..if groups.len() > 1 { TURNS } else { 1 } {
        for (group, results) in groups.iter().zip(&mut results) {
            results.push(point::<T>(&group.pg, args, op, bytes)?);
        }
    }
    let middle = |mut turns: Vec<Measured>| {
        let errors = turns.iter().map(|turn| turn.errors).sum();
        turns.sort_by(|a, b| a.timing.median.total_cmp(&b.timing.median));
        Measured { errors, ..turns[turns.len() / 2] }
    };
    Ok(results.into_iter().map(middle).collect())
}

/// Checks and times one op at one size.
fn point<T: Sample>(pg: &ProcessGroup, args: &Args, op: PerfOp, bytes: usize) -> Result<Measured> {
    let form = if args.started { Form::Started } else { Form::Blocking };
    let layout = Layout::of(op, count::<T>(bytes), pg.size(), pg.rank() == 0);
    let (mut inputs, mut outputs) = (Memory::<T>::new(layout.inputs)?, Memory::<T>::new(layout.outputs)?);
    let setting = Setting { pg, op, reduce: args.reduce, form, layout };
    let mut case = Case::new(&setting, inputs.tensors(), outputs.tensors());

    let mut errors = [case.verify()?];
    case.ready();
    let timing = time(pg, args, |i| case.step(i))?;
    let hidden = match form {
        Form::Blocking => None,
        _ => {
            let trips = trips(op);
            let units = units(timing.median / f64::from(trips));
            let computation = time(pg, args, |_| {
                compute(u64::from(trips) * units);
                Ok(())
            })?;
            case.form = Form::Overlapped(units);
            let both = time(pg, args, |i| case.step(i))?;
            Some(hidden(timing.median, computation.median, both.median))
        }
    };
    errors[0] += case.verify_last();
    pg.all_reduce(&mut errors, ReduceOp::Sum)?;
    Ok(Measured { timing, errors: errors[0], hidden })
}

/// Times a step. The time of a batch of steps is that of the slowest rank.
fn time(pg: &ProcessGroup, args: &Args, mut step: impl FnMut(u64) -> Result) -> Result<Timing> {
    measure(args.budget(), |iterations| {
        pg.barrier()?;
        let start = Instant::now();
        for i in 0..iterations {
            step(i)?;
        }
        let mut slowest = [start.elapsed().as_secs_f64()];
        pg.all_reduce(&mut slowest, ReduceOp::Max)?;
        Ok(slowest[0])
    })
}

/// Returns how many ops one step runs, one after the other. A round trip counts as two ops, one per message.
fn trips(op: PerfOp) -> u32 {
    if op == PerfOp::SendRecv { 2 } else { 1 }
}

/// Returns the number of elements in `bytes` bytes. `bytes` must be a multiple of the element size.
fn count<T>(bytes: usize) -> usize {
    bytes / size_of::<T>()
}

fn row<T: Sample>(pg: &ProcessGroup, args: &Args, op: PerfOp, bytes: usize, result: Measured) -> Row {
    let Measured { timing, errors, hidden } = result;
    let layout = Layout::of(op, count::<T>(bytes), pg.size(), true);
    let larger = layout.inputs.elements().max(layout.outputs.elements()) * size_of::<T>();
    let algorithm = pg.algorithm(op.kind(), larger, T::DTYPE, args.reduce);
    let trips = f64::from(trips(op));
    let (median, min) = (timing.median / trips, timing.min / trips);
    let algbw = if median > 0.0 { bytes as f64 / median / 1e9 } else { 0.0 };
    Row {
        op: op.name().to_owned(),
        dtype: if op.is_bare() { "-" } else { T::DTYPE.name() }.to_owned(),
        bytes,
        ranks: pg.size(),
        transport: args.transport_name(),
        algorithm: algorithm.map(|a| a.name.to_owned()),
        iters: timing.iterations,
        median_us: median * 1e6,
        min_us: min * 1e6,
        algbw,
        busbw: algbw * op.bus_factor(pg.size()),
        errors,
        hidden,
        fabric: None,
        sparse: None,
    }
}
