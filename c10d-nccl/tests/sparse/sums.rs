//! Sums and other reductions, with ranks as threads.

use std::sync::Arc;

use half::{bf16, f16};

use super::*;

/// Tensors with keys of 32 and of 64 bits, with duplicates, with no entries on some or all ranks, and with rows without
/// elements.
#[test]
fn sums_of_anything() {
    with_fake("sums_of_anything", "", || {
        let mut random = Random(1);
        // The largest number of ranks. `hardware/run.sh` sets it to 1 or 2, because its ranks share one GPU.
        let most = std::env::var("C10D_HARDWARE_RANKS").ok().and_then(|n| n.parse().ok()).unwrap_or(4);
        for world in 1..=most {
            let mut rounds: Vec<Round<i32>> = Vec::new();
            for (shape, sparse) in SHAPES {
                for most in [1, 20, 3000] {
                    let nnz = |random: &mut Random| {
                        random.next() as usize % most * usize::from(!random.next().is_multiple_of(4))
                    };
                    let value = |x: u64| x as i32;
                    let tensors = (0..world).map(|_| {
                        let nnz = nnz(&mut random);
                        tensor(shape, sparse, nnz, &mut random, value)
                    });
                    rounds.push((tensors.collect(), ReduceOp::Sum.into(), i32::wrapping_add));
                }
            }
            agrees(if world % 2 == 0 { builder() } else { with_cpu() }, &rounds);
        }
    });
}

/// Tensors of three ranks, with duplicates, with few and with many entries.
fn some<T: Element>(value: fn(u64) -> T) -> Vec<Vec<Coo<T>>> {
    let mut random = Random(7);
    let worlds = [[3, 0, 5], [900, 1100, 70]];
    worlds.iter().map(|w| w.iter().map(|nnz| tensor(&[400, 3], 1, *nnz, &mut random, value)).collect()).collect()
}

/// Tests these operations on the tensors of [`some`].
fn by<T: Element + PartialEq + Debug>(value: fn(u64) -> T, ops: &[(ReduceOp, Combine<T>)]) {
    let rounds = ops
        .iter()
        .flat_map(|(op, combine)| some(value).into_iter().map(move |tensors| (tensors, over_present(*op), *combine)));
    agrees(builder(), &rounds.collect::<Vec<_>>());
}

macro_rules! whole_numbers {
    ($($t:ty)*) => {$(
        by(|x| x as $t, &[
            (ReduceOp::Sum, <$t>::wrapping_add),
            (ReduceOp::Product, <$t>::wrapping_mul),
            (ReduceOp::Min, <$t>::min),
            (ReduceOp::Max, <$t>::max),
        ]);
    )*};
}

#[test]
fn every_operation_on_whole_numbers() {
    with_fake("every_operation_on_whole_numbers", "", || {
        whole_numbers!(u8 i8 u32 i32 u64 i64);
        by(
            |x| x & 1 == 1,
            &[
                (ReduceOp::Sum, |a, b| a | b),
                (ReduceOp::Product, |a, b| a & b),
                (ReduceOp::Min, |a, b| a & b),
                (ReduceOp::Max, |a, b| a | b),
            ],
        );
    });
}

/// The values are such that the result does not depend on the order of the ranks.
#[test]
fn every_operation_on_floats() {
    with_fake("every_operation_on_floats", "", || {
        by(|x| x as i16 as f32, &[(ReduceOp::Sum, |a, b| a + b), (ReduceOp::Min, f32::min), (ReduceOp::Max, f32::max)]);
        by(|x| x as i32 as f64, &[(ReduceOp::Sum, |a, b| a + b), (ReduceOp::Min, f64::min), (ReduceOp::Max, f64::max)]);
        by(|x| if x % 2 == 0 { 1f64 } else { -1.0 }, &[(ReduceOp::Product, |a, b| a * b)]);
        by(|x| if x % 2 == 0 { 1f32 } else { -1.0 }, &[(ReduceOp::Product, |a, b| a * b)]);
        by(
            |x| f16::from_f32((x % 16) as f32),
            &[
                (ReduceOp::Sum, |a: f16, b: f16| f16::from_f32(a.to_f32() + b.to_f32())),
                (ReduceOp::Min, |a, b| if a < b { a } else { b }),
                (ReduceOp::Max, |a, b| if a > b { a } else { b }),
            ],
        );
        by(
            |x| bf16::from_f32((x % 4) as f32),
            &[
                (ReduceOp::Sum, |a: bf16, b: bf16| bf16::from_f32(a.to_f32() + b.to_f32())),
                (ReduceOp::Min, |a, b| if a < b { a } else { b }),
                (ReduceOp::Max, |a, b| if a > b { a } else { b }),
            ],
        );
        use num_complex::Complex;
        by(|x| Complex::new(x as i8 as f32, 1.0), &[(ReduceOp::Sum, |a, b| a + b)]);
        by(|x| Complex::new(1.0, x as i8 as f64), &[(ReduceOp::Sum, |a, b| a + b)]);
    });
}

/// Entries of one rank with the same coordinates are combined in their order. 16-bit floats are combined in f32, NaN
/// propagates, and a bool stays 0 or 1.
#[test]
fn duplicates_are_added_in_order() {
    with_fake("duplicates_are_added_in_order", "", || {
        let one = |nnz: usize, values: Vec<f32>| Coo::new([9], 1, vec![4; nnz], values).unwrap();
        let values: Vec<f32> = (0..1000).map(|i| 1.0 / (i as f32 + 1.0)).collect();
        let sum = values.iter().copied().reduce(|a, b| a + b).unwrap();
        let halves = Coo::new([9], 1, vec![4; 3], [2048.0, 1.0, 1.0].map(f16::from_f32).to_vec()).unwrap();
        // Rank 0 is alone, or there is another rank without entries.
        for world in [1, 2] {
            let results = builder().run_ranks(world, |pg| {
                let mine = |nnz: usize, values: Vec<f32>| {
                    let t = if pg.rank() == 0 { one(nnz, values) } else { one(0, vec![]) };
                    sent(&t, pg.rank())
                };
                let in_order = fetched::<f32>(&pg.all_reduce(mine(1000, values.clone()), ReduceOp::Sum)?);
                let nan = mine(3, vec![1.0, f32::NAN, 2.0]);
                let nan = fetched::<f32>(&pg.all_reduce(nan, over_present(ReduceOp::Min))?);
                let zero = fetched::<f32>(&pg.all_reduce(mine(1, vec![-0.0]), ReduceOp::Sum)?);
                let halves = if pg.rank() == 0 { halves.clone() } else { Coo::new([9], 1, vec![], vec![])? };
                let halves = fetched::<f16>(&pg.all_reduce(sent(&halves, pg.rank()), ReduceOp::Sum)?);
                let many = if pg.rank() == 0 { 256 } else { 0 };
                let many = Coo::new([9], 1, vec![4; many], vec![true; many])?;
                let truth = fetched::<bool>(&pg.all_reduce(sent(&many, pg.rank()), ReduceOp::Sum)?);
                Ok((in_order, nan, zero, halves, truth))
            });
            for (in_order, nan, zero, halves, truth) in results.unwrap() {
                assert_eq!(truth.values(), [true], "256 times true must not wrap around to false");
                assert_eq!((in_order.indices(), in_order.values()), (&[4i64][..], &[sum][..]));
                assert!(nan.values()[0].is_nan() && zero.values()[0].is_sign_negative());
                assert_eq!(halves.values(), [f16::from_f32(2050.0)]);
            }
        }
    });
}

#[test]
fn known_indices() {
    with_fake("known_indices", "", || {
        let told = builder().run_ranks(3, |pg| {
            let (all, rank): (Arc<[i64]>, i64) = ((0..90).collect(), pg.rank().into());
            let known = |indices: Arc<[i64]>| AllReduceOptions::new(ReduceOp::Sum).with_sparse_indices(Some(indices));
            let mine = || Coo::new([100], 1, vec![rank, 50, 50], vec![1f64, 2.0, 3.0]).unwrap();
            let sum = fetched::<f64>(&pg.all_reduce(sent(&mine(), pg.rank()), known(all.clone()))?);
            let want = |i: i64| if i < 3 { 1.0 } else { f64::from(u8::from(i == 50)) * 15.0 };
            // If no rank has an entry, the value is 0.0, not -0.0.
            let same = |v: f64, i: i64| v.to_bits() == want(i).to_bits();
            assert!(sum.indices() == &all[..] && sum.values().iter().zip(0..).all(|(v, i)| same(*v, i)));
            let fails = |tensor: Coo<f64>, indices: Arc<[i64]>| {
                pg.all_reduce(sent(&tensor, pg.rank()), known(indices)).unwrap_err()
            };
            // An error on one rank is reported on all ranks.
            let only = |bad: Arc<[i64]>| if rank == 1 { bad } else { all.clone() };
            let stray = Coo::new([100], 1, vec![if rank == 1 { 95 } else { 5 }], vec![1f64])?;
            let errors = [
                (fails(stray, all.clone()), "is not among the indices"),
                (fails(mine(), only(Arc::new([3, 2]))), "must be sorted"),
                (fails(mine(), only(Arc::new([0, 100]))), "index 100 of entry 1"),
            ];
            for (e, words) in errors {
                assert!(*e.kind() == ErrorKind::InvalidArgument && e.report().guilty == [1], "{e}");
                assert!(e.report().what.contains(words), "{e}");
            }
            Ok(fails(mine(), only((0..80).collect())))
        });
        for e in told.unwrap() {
            assert!(matches!(e.kind(), ErrorKind::Mismatch { field: "sparse_indices", .. }), "{e}");
        }
    });
}
