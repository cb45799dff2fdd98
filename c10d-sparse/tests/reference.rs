//! Compares the results with the definition of a sparse all-reduce, for many shapes, world sizes, types and operations.

use crate::common;

use c10d_core::options::{Absent, AllReduceOptions};
use c10d_core::{Coo, Element, ReduceOp, op};
use common::device::{self, RUNTIME, on_device, on_host};
use common::{Random, check, reference, world};
use half::{bf16, f16};
use proptest::prelude::*;

/// Makes a tensor with this number of entries, of which some may have the same coordinates.
fn tensor<T: Element>(
    shape: &[usize],
    sparse_dim: usize,
    nnz: usize,
    random: &mut Random,
    value: fn(u64) -> T,
) -> Coo<T> {
    let space: usize = shape[..sparse_dim].iter().product();
    let nnz = if space == 0 { 0 } else { nnz };
    let row: usize = shape[sparse_dim..].iter().product();
    let indices = shape[..sparse_dim].iter().flat_map(|size| {
        let mut random = Random(random.next());
        (0..nnz).map(move |_| random.below(*size as u64) as i64).collect::<Vec<_>>()
    });
    let indices = indices.collect();
    Coo::new(shape, sparse_dim, indices, (0..nnz * row).map(|_| value(random.next())).collect()).unwrap()
}

/// Runs the call with an owned tensor, with a borrowed tensor, and as a started call, in host memory and on devices.
/// Checks the results of all ranks.
fn agrees<T: Element + PartialEq + std::fmt::Debug>(
    tensors: &[Coo<T>],
    options: &AllReduceOptions,
    combine: fn(T, T) -> T,
) {
    let want = reference(tensors, combine);
    let results = world(tensors.len() as u32, |pg| {
        let mine = &tensors[pg.rank() as usize];
        let blocking = pg.all_reduce(mine.clone(), options.clone())?;
        let mut borrowed = mine.clone();
        pg.all_reduce(&mut borrowed, options.clone())?;
        let started = pg.start(op::all_reduce(mine.clone(), options.clone())).wait()?;
        assert!(blocking == borrowed && blocking == started);
        Ok(blocking)
    });
    let on_devices = device::builder().run_ranks(tensors.len() as u32, |pg| {
        let mine = || on_device(&RUNTIME, &tensors[pg.rank() as usize], pg.rank());
        let blocking = on_host(&pg.all_reduce(mine()?, options.clone())?)?;
        let mut replaced = mine()?;
        pg.all_reduce(&mut replaced, options.clone())?;
        let started = pg.start(op::all_reduce(mine()?, options.clone())).wait()?;
        assert!(blocking == on_host(&replaced)? && blocking == on_host(&started)?);
        Ok(blocking)
    });
    let results = results.unwrap();
    for result in results.iter().chain(&on_devices.unwrap()) {
        check(result, &want).unwrap();
        assert_eq!(result, &results[0]);
    }
}

fn nnz() -> impl Strategy<Value = usize> {
    prop_oneof![2 => Just(0usize), 3 => 1usize..20, 3 => 100usize..2000, 1 => 5_000usize..20_000]
}

fn shapes() -> impl Strategy<Value = (Vec<usize>, usize)> {
    prop_oneof![
        Just((vec![7], 1)),
        Just((vec![1000], 1)),
        Just((vec![100_000, 3], 1)),
        Just((vec![1_000_000_000], 1)),
        Just((vec![20, 30, 2, 2], 2)),
        Just((vec![5000, 7, 3], 3)),
        Just((vec![1 << 40, 1 << 20], 2)),
        Just((vec![1 << 20, 1 << 20, 1 << 20, 2], 3)),
        Just((vec![0, 5], 1)),
        Just((vec![5, 0], 1)),
        Just((vec![300, 65], 1)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_sum_is_correct((shape, sparse_dim) in shapes(), counts in prop::collection::vec(nnz(), 1..=5), seed: u64) {
        let mut random = Random(seed);
        let tensors: Vec<Coo<i32>> =
            counts.iter().map(|nnz| tensor(&shape, sparse_dim, *nnz, &mut random, |x| x as i32)).collect();
        agrees(&tensors, &ReduceOp::Sum.into(), i32::wrapping_add);
    }
}

/// Tests rows that are sent in several chunks: with keys as bits, with keys as lists, and with few keys that have most
/// of the entries.
#[test]
fn large_rows_go_in_chunks() {
    let mut random = Random(3);
    for (shape, sparse_dim) in
        [(vec![9000, 300], 1), (vec![1 << 40, 300], 1), (vec![70, 50, 20, 15], 2), (vec![3, 70_000], 1)]
    {
        for counts in [&[3000, 2000][..], &[2500, 0, 4000, 1], &[4000, 3000, 2000]] {
            let nnz = |nnz: &usize| if shape[0] == 3 { nnz / 150 } else { *nnz };
            let value = |x: u64| x as i32;
            let tensors: Vec<Coo<i32>> =
                counts.iter().map(|n| tensor(&shape, sparse_dim, nnz(n), &mut random, value)).collect();
            agrees(&tensors, &ReduceOp::Sum.into(), i32::wrapping_add);
        }
    }
}

/// Tests keys that are far apart. Several ranks have the same keys.
#[test]
fn keys_that_are_far_apart_and_shared_are_summed() {
    let mut random = Random(5);
    for counts in [&[700, 500][..], &[600, 0, 900], &[1000, 300, 5, 800]] {
        let tensors: Vec<Coo<i32>> = counts
            .iter()
            .map(|nnz| {
                let indices = (0..*nnz).map(|_| (random.below(1000) << 28 | 5) as i64).collect();
                Coo::new([1 << 40, 3], 1, indices, (0..3 * *nnz).collect()).unwrap()
            })
            .collect();
        agrees(&tensors, &ReduceOp::Sum.into(), i32::wrapping_add);
    }
}

/// Makes the tensors of several groups, small tensors for the first group.
fn some<T: Element>(value: fn(u64) -> T) -> Vec<Vec<Coo<T>>> {
    let mut random = Random(7);
    let worlds = [vec![3, 0, 5], vec![900, 1100, 0, 2000], vec![3000, 2500]];
    worlds
        .iter()
        .map(|counts| counts.iter().map(|nnz| tensor(&[4000, 3], 1, *nnz, &mut random, value)).collect())
        .collect()
}

#[test]
fn every_operation_on_integers_and_floats_is_as_defined() {
    let over_present = |op| AllReduceOptions::new(op).with_absent(Absent::Ignored);
    for tensors in some(|x| x as i16) {
        agrees(&tensors, &over_present(ReduceOp::Sum), i16::wrapping_add);
        agrees(&tensors, &over_present(ReduceOp::Product), i16::wrapping_mul);
        agrees(&tensors, &over_present(ReduceOp::Min), i16::min);
        agrees(&tensors, &over_present(ReduceOp::Max), i16::max);
    }
    // The reference combines in rank order, so all bits are equal.
    for tensors in some(|x| (x as u32 as f64).sqrt()) {
        agrees(&tensors, &over_present(ReduceOp::Sum), |a, b| a + b);
        agrees(&tensors, &over_present(ReduceOp::Product), |a, b| a * b);
        agrees(&tensors, &over_present(ReduceOp::Min), f64::min);
        agrees(&tensors, &over_present(ReduceOp::Max), f64::max);
    }
}

#[test]
fn sums_of_every_type_are_as_defined() {
    fn sum<T: Element + PartialEq + std::fmt::Debug>(value: fn(u64) -> T, combine: fn(T, T) -> T) {
        some(value).iter().for_each(|tensors| agrees(tensors, &ReduceOp::Sum.into(), combine));
    }
    sum(|x| x as u8, u8::wrapping_add);
    sum(|x| x as i8, i8::wrapping_add);
    sum(|x| x as u16, u16::wrapping_add);
    sum(|x| x as u32, u32::wrapping_add);
    sum(|x| x, u64::wrapping_add);
    sum(|x| x as i64, i64::wrapping_add);
    sum(|x| x as i32 as f32, |a, b| a + b);
    sum(|x| x & 1 == 1, |a, b| a | b);
    use num_complex::Complex;
    sum(|x| Complex::new(x as i8 as f32, 1.0), |a, b| a + b);
    sum(|x| Complex::new(1.0, x as i8 as f64), |a, b| a + b);
    // The values are small integers, whose sums are exact.
    sum(|x| f16::from_f32((x % 16) as f32), |a, b| f16::from_f32(a.to_f32() + b.to_f32()));
    sum(|x| bf16::from_f32((x % 8) as f32), |a, b| bf16::from_f32(a.to_f32() + b.to_f32()));
}

#[test]
fn halves_are_rounded_once() {
    // 2048 + 1 + 1 is 2050 in f32, and 2048 if every sum is rounded to f16.
    let row = |x: f32| Coo::new([3], 1, vec![1], vec![f16::from_f32(x)]).unwrap();
    let sums = world(3, |pg| pg.all_reduce(row(if pg.rank() == 0 { 2048.0 } else { 1.0 }), ReduceOp::Sum)).unwrap();
    assert!(sums.iter().all(|t| t.values() == [f16::from_f32(2050.0)]));
}

#[test]
fn minimum_and_maximum_with_nan_are_nan() {
    for op in [ReduceOp::Min, ReduceOp::Max] {
        let options = AllReduceOptions::new(op).with_absent(Absent::Ignored);
        let results = world(3, |pg| {
            let values = if pg.rank() == 1 { vec![f32::NAN, 1.0] } else { vec![0.0, 2.0] };
            pg.all_reduce(Coo::new([9], 1, vec![2, 4], values)?, options.clone())
        });
        for result in results.unwrap() {
            assert!(result.values()[0].is_nan() && !result.values()[1].is_nan());
        }
    }
}
