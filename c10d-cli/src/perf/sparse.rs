//! `all_reduce_sparse`: its inputs, whose sums are known, and its timing. A place is an index of the tensor's first
//! dimension, at which an entry can be.

use std::time::Instant;

use c10d::{Coo, Error, ProcessGroup, ReduceOp, Result, op};

use super::args::Args;
use super::case::Form;
use super::measure::measure;
use super::ops::PerfOp;
use super::point::{PLACES, SparsePoint};
use super::report::Row;
use super::sample::Sample;

/// The inputs of all ranks, and their sum.
struct Inputs {
    point: SparsePoint,
    ranks: u32,
    /// For each entry of the result, in the order of places: the place, and the rank that has an entry there. `None`
    /// means that all ranks have one.
    entries: Vec<(usize, Option<u32>)>,
}

impl Inputs {
    fn new(point: SparsePoint, ranks: u32) -> Inputs {
        let mut places: Vec<(u64, usize)> =
            (0..point.nnz * PLACES).map(|place| (shuffled(place as u64), place)).collect();
        places.sort_unstable();
        let own = point.nnz - point.common();
        let owner = |i: usize| i.checked_sub(point.common()).map(|i| (i / own) as u32);
        let entries = places.into_iter().take(point.union(ranks)).enumerate();
        let mut entries: Vec<(usize, Option<u32>)> = entries.map(|(i, (_, place))| (place, owner(i))).collect();
        entries.sort_unstable();
        Inputs { point, ranks, entries }
    }

    fn of<T: Sample>(&self, rank: u32) -> Result<Coo<T>> {
        let mine = self.entries.iter().filter(|(_, owner)| owner.is_none_or(|owner| owner == rank));
        let places: Vec<usize> = mine.map(|(place, _)| *place).collect();
        let indices = places.iter().map(|place| *place as i64).collect();
        let row = 0..self.point.row;
        let values =
            places.iter().flat_map(|place| row.clone().map(move |i| T::whole(value(*place, i, rank)))).collect();
        Ok(Coo::new([self.point.nnz * PLACES, self.point.row], 1, indices, values)?.assume_coalesced())
    }

    /// Returns the number of wrong elements of a result.
    fn errors<T: Sample>(&self, sum: &Coo<T>) -> u64 {
        let places = self.entries.iter().map(|(place, _)| *place as i64);
        if !sum.is_coalesced() || !places.eq(sum.indices().iter().copied()) {
            return (self.entries.len() * self.point.row.max(1)) as u64;
        }
        let wanted = self.entries.iter().flat_map(|(place, owner)| {
            let ranks = owner.map_or(0..self.ranks, |owner| owner..owner + 1);
            (0..self.point.row).map(move |i| T::whole(ranks.clone().map(|rank| value(*place, i, rank)).sum()))
        });
        sum.values().iter().zip(wanted).filter(|(have, want)| !have.is_near(*want, 0.01)).count() as u64
    }
}

/// Returns the value of a rank in column `i` at a place. The value is small, so that sums are exact.
fn value(place: usize, i: usize, rank: u32) -> i64 {
    ((place + i) % 5) as i64 + i64::from(rank % 2)
}

/// Maps a place to a pseudo-random number. The places with the smallest numbers get the entries.
fn shuffled(x: u64) -> u64 {
    let x = (x.wrapping_add(1)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

/// Brings the allocator into the state of a program that uses tensors. Until a first large block is freed, glibc
/// returns the memory of tensors to the system after each op, and page faults would cost more time than the next op.
fn free_a_large_block() {
    drop(std::hint::black_box(vec![1u8; 16 << 20]));
}

/// Checks and times one point. Each op replaces its input by the result, so the input is copied before each op, outside
/// of the measured time.
pub(super) fn measured<T: Sample>(pg: &ProcessGroup, args: &Args, point: SparsePoint) -> Result<Row> {
    let form = if args.started { Form::Started } else { Form::Blocking };
    let inputs = Inputs::new(point, pg.size());
    let mine = inputs.of::<T>(pg.rank())?;
    free_a_large_block();
    let mut errors = [inputs.errors(&form.run(pg, op::all_reduce(mine.clone(), ReduceOp::Sum))?)];
    let mut last = None;
    let timing = measure(args.budget(), |iterations| {
        let mut seconds = 0.0;
        for _ in 0..iterations {
            drop(last.take());
            let input = mine.clone();
            pg.barrier()?;
            let start = Instant::now();
            last = Some(form.run(pg, op::all_reduce(input, ReduceOp::Sum))?);
            seconds += start.elapsed().as_secs_f64();
        }
        let mut slowest = [seconds];
        pg.all_reduce(&mut slowest, ReduceOp::Max)?;
        Ok::<f64, Error>(slowest[0])
    })?;
    errors[0] += last.map_or(0, |last| inputs.errors(&last));
    pg.all_reduce(&mut errors, ReduceOp::Sum)?;

    let bytes = point.nnz * (point.row * size_of::<T>() + size_of::<i64>());
    let algbw = if timing.median > 0.0 { bytes as f64 / timing.median / 1e9 } else { 0.0 };
    Ok(Row {
        op: PerfOp::AllReduceSparse.name().to_owned(),
        dtype: T::DTYPE.name().to_owned(),
        bytes,
        ranks: pg.size(),
        transport: args.transport_name(),
        algorithm: None,
        iters: timing.iterations,
        median_us: timing.median * 1e6,
        min_us: timing.min * 1e6,
        algbw,
        busbw: algbw * PerfOp::AllReduceSparse.bus_factor(pg.size()),
        errors: errors[0],
        hidden: None,
        fabric: None,
        sparse: Some(point),
    })
}
