//! Measures the speed of the functions that reduce host memory (`reduce::kernel`), in GiB/s. Only the bytes of one
//! source are counted: with k sources, such a function reads k times as many bytes.
//!
//! ```text
//! cargo bench -p c10d-core --bench kernels
//! ```
#![allow(missing_docs, unsafe_code)]

use std::time::Duration;

use c10d_core::{DType, ReduceOp, reduce};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

fn kernels(c: &mut Criterion) {
    for (bytes, name) in [(16 << 10, "16K"), (1 << 20, "1M")] {
        for k in [2, 4] {
            let mut group = c.benchmark_group(format!("{name}x{k}"));
            group.throughput(Throughput::Bytes(bytes as u64)).sample_size(20);
            group.warm_up_time(Duration::from_millis(50)).measurement_time(Duration::from_millis(150));
            for (op, dtype) in rows() {
                let kernel = reduce::kernel(op, dtype, true).expect("defined");
                // The byte 0x3D makes small normal values in every float type.
                let mut memory = vec![vec![0x3Du8; bytes]; k];
                let target = memory[0].as_mut_ptr();
                let sources: Vec<*const u8> = memory.iter().map(|m| m.as_ptr()).collect();
                group.bench_function(BenchmarkId::new(op.name(), dtype), |b| {
                    // SAFETY: each source has `bytes` bytes; the result replaces the first source.
                    b.iter(|| unsafe { kernel(target, &sources, bytes / dtype.size(), 1.0) })
                });
            }
        }
    }
}

fn rows() -> Vec<(ReduceOp, DType)> {
    let ops = (0..ReduceOp::COUNT as u8).filter_map(|code| ReduceOp::from_code(code, 1.0));
    ops.flat_map(|op| DType::ALL.iter().map(move |d| (op, *d))).filter(|(op, d)| op.is_defined_on(*d)).collect()
}

criterion_group!(benches, kernels);
criterion_main!(benches);
