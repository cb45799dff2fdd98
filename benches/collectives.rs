//! Measures all-reduce between threads: `cargo bench --bench collectives`. To measure ranks as processes, use
//! `c10d perf`.

use std::time::{Duration, Instant};

use c10d::{ProcessGroup, ReduceOp, Reductions, Result, op};
use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};

const RANKS: [u32; 2] = [2, 4];
const BYTES: [usize; 4] = [8, 8 << 10, 512 << 10, 4 << 20];

/// The larger of the two sizes in bytes in the comparison with a closure.
const LARGE: usize = 16 << 20;

fn all_reduce(c: &mut Criterion) {
    let mut group = c.benchmark_group("all_reduce/gloo-like/f32");
    group.sampling_mode(SamplingMode::Flat).sample_size(10).measurement_time(Duration::from_secs(2));
    for ranks in RANKS {
        for bytes in BYTES {
            group.throughput(Throughput::Bytes(bytes as u64));
            group.bench_function(BenchmarkId::new(bytes.to_string(), ranks), |b| {
                b.iter_custom(|iters| slowest_rank(ranks, bytes, iters, built_in));
            });
        }
    }
    group.finish();
}

/// Compares a sum by a closure with the built-in sum.
fn all_reduce_with(c: &mut Criterion) {
    let mut group = c.benchmark_group("all_reduce_with/gloo-like/f32");
    group.sampling_mode(SamplingMode::Flat).sample_size(10).measurement_time(Duration::from_secs(2));
    for ranks in RANKS {
        for bytes in [8, LARGE] {
            group.throughput(Throughput::Bytes(bytes as u64));
            for (name, op) in [("built_in", built_in as Op), ("closure", closure)] {
                group.bench_function(BenchmarkId::new(format!("{name}/{bytes}"), ranks), |b| {
                    b.iter_custom(|iters| slowest_rank(ranks, bytes, iters, op));
                });
            }
        }
    }
    group.finish();
}

/// The number of floats of each call in [`started`].
const FLOATS: usize = 1024;
/// The number of calls that [`started`] starts together.
const CALLS: usize = 32;

/// Compares 32 calls that are started together with 32 blocking calls, and one started call with one blocking call.
fn started(c: &mut Criterion) {
    let mut group = c.benchmark_group("started/gloo-like/f32/4096");
    group.sampling_mode(SamplingMode::Flat).sample_size(10).measurement_time(Duration::from_secs(2));
    for calls in [1, CALLS] {
        for (name, op) in [("blocking", blocking as Op), ("started", together)] {
            group.bench_function(BenchmarkId::new(name, calls), |b| {
                b.iter_custom(|iters| slowest_rank(2, calls * FLOATS * size_of::<f32>(), iters, op));
            });
        }
    }
    group.finish();
}

fn blocking(pg: &ProcessGroup, x: &mut [f32]) -> Result {
    x.chunks_mut(FLOATS).try_for_each(|part| built_in(pg, part))
}

fn together(pg: &ProcessGroup, x: &mut [f32]) -> Result {
    pg.scope(|s| {
        let start = |part| s.start(op::all_reduce(part, ReduceOp::Sum));
        let works: Vec<_> = x.chunks_mut(FLOATS).map(start).collect();
        works.into_iter().try_for_each(|work| work.wait().map(drop))
    })
}

/// Compares two groups of the same ranks, in which two threads make calls at the same time, with one group in which one
/// thread makes all these calls.
fn groups(c: &mut Criterion) {
    let mut group = c.benchmark_group("groups/gloo-like/f32");
    group.sampling_mode(SamplingMode::Flat).sample_size(10).measurement_time(Duration::from_secs(2));
    for bytes in [4096, 512 << 10] {
        for (name, threads) in [("one", 1), ("two", 2)] {
            group.bench_function(BenchmarkId::new(name, bytes), |b| {
                b.iter_custom(|iters| in_groups(threads, bytes, iters));
            });
        }
    }
    group.finish();
}

/// Returns the time that the slowest of two ranks takes for `2 * iters` ops, which are divided among `threads` groups.
fn in_groups(threads: u64, bytes: usize, iters: u64) -> Duration {
    let times = c10d::run_ranks(2, |pg| {
        let all: Vec<u32> = (0..pg.size()).collect();
        let groups = (0..threads).map(|_| pg.new_group(&all)).collect::<Result<Vec<_>>>()?;
        pg.barrier()?;
        let start = Instant::now();
        std::thread::scope(|s| {
            let run = |group: &Option<ProcessGroup>| {
                let Some(group) = group else { return Ok(()) };
                let mut x = vec![0f32; bytes / size_of::<f32>()];
                (0..2 * iters / threads).try_for_each(|_| built_in(group, &mut x))
            };
            let threads: Vec<_> = groups.iter().map(|group| s.spawn(move || run(group))).collect();
            threads.into_iter().try_for_each(|thread| thread.join().expect("no panic"))
        })?;
        let elapsed = start.elapsed();
        pg.barrier()?;
        pg.shutdown()?;
        Ok(elapsed)
    });
    times.expect("the ranks agree").into_iter().max().unwrap_or_default()
}

type Op = fn(&ProcessGroup, &mut [f32]) -> Result;

fn built_in(pg: &ProcessGroup, x: &mut [f32]) -> Result {
    pg.all_reduce(x, ReduceOp::Sum).map(drop)
}

fn closure(pg: &ProcessGroup, x: &mut [f32]) -> Result {
    pg.all_reduce_with(x, "sum", |acc, x| acc.iter_mut().zip(x).for_each(|(acc, x)| *acc += x))
}

/// Returns the time that the slowest rank takes for `iters` ops in a row.
fn slowest_rank(ranks: u32, bytes: usize, iters: u64, op: Op) -> Duration {
    let times = c10d::run_ranks(ranks, |pg| {
        let mut x = vec![0f32; bytes / size_of::<f32>()];
        op(&pg, &mut x)?;
        pg.barrier()?;
        let start = Instant::now();
        for _ in 0..iters {
            op(&pg, &mut x)?;
        }
        let elapsed = start.elapsed();
        pg.shutdown()?;
        Ok(elapsed)
    });
    times.expect("the ranks agree").into_iter().max().unwrap_or_default()
}

criterion_group!(benches, all_reduce, all_reduce_with, started, groups);
criterion_main!(benches);
