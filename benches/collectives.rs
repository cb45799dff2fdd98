//! All-reduce over threads: `cargo bench --bench collectives`. For ranks as processes there is `c10d perf`.

use std::time::{Duration, Instant};

use c10d::ReduceOp;
use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};

const RANKS: [u32; 2] = [2, 4];
const BYTES: [usize; 4] = [8, 8 << 10, 512 << 10, 4 << 20];

fn all_reduce(c: &mut Criterion) {
    let mut group = c.benchmark_group("all_reduce/gloo-like/f32");
    group.sampling_mode(SamplingMode::Flat).sample_size(10).measurement_time(Duration::from_secs(2));
    for ranks in RANKS {
        for bytes in BYTES {
            group.throughput(Throughput::Bytes(bytes as u64));
            group.bench_function(BenchmarkId::new(bytes.to_string(), ranks), |b| {
                b.iter_custom(|iters| slowest_rank(ranks, bytes, iters));
            });
        }
    }
    group.finish();
}

/// The time that the slowest rank takes for so many ops in a row.
fn slowest_rank(ranks: u32, bytes: usize, iters: u64) -> Duration {
    let times = c10d::run_ranks(ranks, |pg| {
        let mut x = vec![0f32; bytes / size_of::<f32>()];
        pg.all_reduce(&mut x, ReduceOp::Sum)?;
        pg.barrier()?;
        let start = Instant::now();
        for _ in 0..iters {
            pg.all_reduce(&mut x, ReduceOp::Sum)?;
        }
        let elapsed = start.elapsed();
        pg.shutdown()?;
        Ok(elapsed)
    });
    times.expect("the ranks agree").into_iter().max().unwrap_or_default()
}

criterion_group!(benches, all_reduce);
criterion_main!(benches);
