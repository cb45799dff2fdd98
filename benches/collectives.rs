//! Measures all-reduce between threads, by a built-in operation and by a closure: `cargo bench --bench collectives`. To
//! measure ranks as processes, use `c10d perf`.

use std::time::{Duration, Instant};

use c10d::{ProcessGroup, ReduceOp, Reductions, Result};
use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};

const RANKS: [u32; 2] = [2, 4];
const BYTES: [usize; 4] = [8, 8 << 10, 512 << 10, 4 << 20];

/// The size in bytes for the comparison with a closure.
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

criterion_group!(benches, all_reduce, all_reduce_with);
criterion_main!(benches);
