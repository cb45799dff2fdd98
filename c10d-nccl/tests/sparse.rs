//! Compares the sparse all-reduce over NCCL with its definition, on the fake device, with ranks as threads and as
//! processes.

use crate::common;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Barrier};
use std::time::Instant;

use c10d_core::options::{Absent, AllReduceOptions};
use c10d_core::{Builder, Coo, DeviceCoo, DispatchKey, Element, ErrorKind, ProcessGroup, ReduceOp, Status, Store, op};
use c10d_rendezvous::tcp_store::ServerOptions;
use c10d_rendezvous::{TcpStore, TcpStoreServer};
use common::{SECOND, builder, on, with_cpu, with_fake};
use half::{bf16, f16};

/// Pseudo-random numbers, the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    }
}

fn tensor<T: Element>(shape: &[usize], sparse: usize, nnz: usize, random: &mut Random, value: fn(u64) -> T) -> Coo<T> {
    let nnz = if shape[..sparse].contains(&0) { 0 } else { nnz };
    let row: usize = shape[sparse..].iter().product();
    let mut indices = Vec::new();
    for size in &shape[..sparse] {
        indices.extend((0..nnz).map(|_| (random.next() % *size as u64) as i64));
    }
    Coo::new(shape, sparse, indices, (0..nnz * row).map(|_| value(random.next())).collect()).unwrap()
}

/// Copies a tensor to the GPU of this rank. Several ranks may share a GPU.
fn sent<T: Element>(t: &Coo<T>, rank: u32) -> DeviceCoo {
    let index = rank % u32::from(common::cuda().count().unwrap());
    let sent = DeviceCoo::new(t.shape(), t.sparse_dim(), on(index, t.indices()), on(index, t.values())).unwrap();
    if t.is_coalesced() { sent.assume_coalesced() } else { sent }
}

/// Copies a tensor to host memory.
fn fetched<T: Element>(t: &DeviceCoo) -> Coo<T> {
    let (indices, values) = (t.indices().to_vec(60 * SECOND).unwrap(), t.values().to_vec(60 * SECOND).unwrap());
    let host = Coo::new(t.shape(), t.sparse_dim(), indices, values).unwrap();
    if t.is_coalesced() { host.assume_coalesced() } else { host }
}

type Entries<T> = BTreeMap<Vec<i64>, Vec<T>>;

fn entries<T: Element>(t: &Coo<T>) -> impl Iterator<Item = (Vec<i64>, Vec<T>)> {
    let column = |i: usize| (0..t.sparse_dim()).map(|d| t.indices()[d * t.nnz() + i]).collect();
    (0..t.nnz()).map(move |i| (column(i), t.values()[i * t.row()..(i + 1) * t.row()].to_vec()))
}

fn add<T: Element>(to: &mut Entries<T>, more: impl Iterator<Item = (Vec<i64>, Vec<T>)>, combine: fn(T, T) -> T) {
    for (place, row) in more {
        match to.get_mut(&place) {
            Some(sum) => sum.iter_mut().zip(row).for_each(|(a, b)| *a = combine(*a, b)),
            None => drop(to.insert(place, row)),
        }
    }
}

/// The definition: it combines each rank's entries in order, then those of the ranks in rank order.
fn reference<T: Element>(tensors: &[Coo<T>], combine: fn(T, T) -> T) -> Entries<T> {
    let mut all = Entries::new();
    for t in tensors {
        let mut own = Entries::new();
        add(&mut own, entries(t), combine);
        add(&mut all, own.into_iter(), combine);
    }
    all
}

/// An operation that combines two values.
type Combine<T> = fn(T, T) -> T;
/// The ranks' tensors, and the operation on them.
type Round<T> = (Vec<Coo<T>>, AllReduceOptions, Combine<T>);

/// Compares all forms of the call on all ranks with the definition.
fn agrees<T: Element + PartialEq + Debug>(groups: Builder, rounds: &[Round<T>]) {
    let world = rounds[0].0.len() as u32;
    let results = groups.run_ranks(world, |pg| {
        let mut results = Vec::new();
        for (tensors, options, _) in rounds {
            let mine = || sent(&tensors[pg.rank() as usize], pg.rank());
            let blocking = fetched::<T>(&pg.all_reduce(mine(), options.clone())?);
            let mut borrowed = mine();
            pg.all_reduce(&mut borrowed, options.clone())?;
            let started = pg.start(op::all_reduce(mine(), options.clone())).wait()?;
            assert!(blocking == fetched(&borrowed) && blocking == fetched(&started));
            results.push(blocking);
        }
        pg.shutdown()?;
        Ok(results)
    });
    let results = results.unwrap();
    for (i, (tensors, _, combine)) in rounds.iter().enumerate() {
        let want = reference(tensors, *combine);
        assert!(results[0][i].is_coalesced());
        let got: Vec<_> = entries(&results[0][i]).collect();
        assert!(got.iter().map(|e| &e.0).eq(want.keys()), "round {i}: {got:?}\n{want:?}");
        assert!(got.iter().map(|e| &e.1).eq(want.values()), "round {i}: {got:?}\n{want:?}");
        results.iter().for_each(|rank| assert_eq!(rank[i], results[0][i]));
    }
}

const SHAPES: [(&[usize], usize); 11] = [
    (&[7], 1),
    (&[1000], 1),
    (&[100_000, 3], 1),
    (&[1_000_000_000], 1),
    (&[20, 30, 2, 2], 2),
    (&[5000, 7, 3], 3),
    (&[1 << 40, 1 << 20], 2),
    (&[1 << 20, 1 << 20, 1 << 20, 2], 3),
    (&[0, 5], 1),
    (&[5, 0], 1),
    (&[1 << 16, 1 << 16], 2),
];

/// Tensors with keys of both widths, with duplicates, with no entries on some or all ranks, and with rows without
/// elements.
#[test]
fn sums_of_anything() {
    with_fake("sums_of_anything", "", || {
        let mut random = Random(1);
        // One GPU has room for few ranks only.
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

fn over_present(op: ReduceOp) -> AllReduceOptions {
    AllReduceOptions::new(op).with_absent(Absent::Ignored)
}

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

/// Values with which the result does not depend on the order.
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

/// Entries of one rank with the same coordinates are combined in their order: 16-bit floats in f32, NaN propagates, and
/// a bool is 0 or 1.
#[test]
fn duplicates_are_added_in_order() {
    with_fake("duplicates_are_added_in_order", "", || {
        let one = |nnz: usize, values: Vec<f32>| Coo::new([9], 1, vec![4; nnz], values).unwrap();
        let values: Vec<f32> = (0..1000).map(|i| 1.0 / (i as f32 + 1.0)).collect();
        let sum = values.iter().copied().reduce(|a, b| a + b).unwrap();
        let halves = Coo::new([9], 1, vec![4; 3], [2048.0, 1.0, 1.0].map(f16::from_f32).to_vec()).unwrap();
        // There is one rank alone, or another rank that has no entries.
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
                assert_eq!(truth.values(), [true], "no number of 8 bits that begins again");
                assert_eq!((in_order.indices(), in_order.values()), (&[4i64][..], &[sum][..]));
                assert!(nan.values()[0].is_nan() && zero.values()[0].is_sign_negative());
                assert_eq!(halves.values(), [f16::from_f32(2050.0)]);
            }
        }
    });
}

/// If one rank's tensor is invalid, all ranks learn which rank's and why, and the group can still be used.
#[test]
fn wrong_indices() {
    with_fake("wrong_indices", "", || {
        let cases: [(Vec<i64>, bool, &str); 5] = [
            (vec![1, -1], false, "index -1 of entry 1"),
            (vec![1, 50], false, "index 50 of entry 1 is not within 0..50, dimension 0"),
            (vec![2, 1], true, "marked as coalesced, but entry 1"),
            (vec![1, 1], true, "marked as coalesced, but entry 1"),
            (vec![i64::MAX, i64::MIN], false, "of entry 0"),
        ];
        for groups in [builder(), with_cpu()] {
            let told = groups.run_ranks(3, |pg| {
                for (indices, coalesced, words) in &cases {
                    let indices = if pg.rank() == 1 { indices.clone() } else { vec![0, 1] };
                    let tensor = Coo::new([50], 1, indices, vec![1f32, 2.0])?;
                    let tensor = if *coalesced { tensor.assume_coalesced() } else { tensor };
                    let e = pg.all_reduce(sent(&tensor, pg.rank()), ReduceOp::Sum).unwrap_err();
                    let report = e.report();
                    assert_eq!((&report.kind, &report.guilty[..]), (&ErrorKind::InvalidArgument, &[1][..]), "{e}");
                    assert!(report.status == Status::Rejected && report.what.contains(words), "{e}");
                    let sum = Coo::new([50], 1, vec![7], vec![1f32])?;
                    let sum = fetched::<f32>(&pg.all_reduce(sent(&sum, pg.rank()), ReduceOp::Sum)?);
                    assert_eq!((sum.indices(), sum.values()), (&[7i64][..], &[3f32][..]));
                }
                // The index is outside the second dimension, although the resulting key would be that of another entry.
                let place = if pg.rank() == 1 { vec![1, 2, 3, 10] } else { vec![0, 1, 2, 3] };
                let tensor = Coo::new([5, 10], 2, place, vec![1f32, 2.0])?;
                let e = pg.all_reduce(sent(&tensor, pg.rank()), ReduceOp::Sum).unwrap_err();
                assert!(e.report().what.contains("index 10 of entry 1 is not within 0..10, dimension 1"), "{e}");
                pg.shutdown()
            });
            told.unwrap();
        }
    });
}

/// If one rank's call differs, all ranks get a mismatch.
fn differs<T: Element, U: Element>(field: &str, groups: Builder, odd: (Coo<T>, ReduceOp), rest: (Coo<U>, ReduceOp)) {
    let errors = groups.run_ranks(3, |pg| {
        let done = match pg.rank() {
            1 => pg.all_reduce(sent(&odd.0, 1), over_present(odd.1)),
            rank => pg.all_reduce(sent(&rest.0, rank), over_present(rest.1)),
        };
        Ok(done.unwrap_err())
    });
    for (rank, e) in errors.unwrap().iter().enumerate() {
        assert!(matches!(e.kind(), ErrorKind::Mismatch { field: f, .. } if *f == field), "rank {rank}: {e}");
        assert!(!e.report().guilty.is_empty(), "rank {rank}: {e}");
    }
}

#[test]
fn ranks_that_disagree() {
    with_fake("ranks_that_disagree", "", || {
        let row = |shape: [usize; 2]| Coo::new(shape, 1, vec![3], vec![1f32; shape[1]]).unwrap();
        let one = || Coo::new([9], 1, vec![3], vec![1i32]).unwrap();
        let wide = || Coo::new([9], 1, vec![3], vec![1f64]).unwrap();
        for groups in [builder, with_cpu] {
            differs("shape", groups(), (row([50, 2]), ReduceOp::Sum), (row([50, 3]), ReduceOp::Sum));
            differs("dtype", groups(), (wide(), ReduceOp::Sum), (one(), ReduceOp::Sum));
            differs("reduce_op", groups(), (one(), ReduceOp::Max), (one(), ReduceOp::Min));
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
                (fails(stray, all.clone()), "is not among them"),
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

/// Dense and sparse calls in different orders on different ranks, with and without a CPU backend. The sparse calls use
/// NCCL.
#[test]
fn beside_dense() {
    with_fake("beside_dense", "", || {
        for groups in [builder(), with_cpu()] {
            groups
                .run_ranks(3, |pg| {
                    assert_eq!(pg.backend(DispatchKey::SparseCuda)?, "nccl");
                    let mut dense = on(pg.rank(), &[1f32; 1000]);
                    let sparse = || sent(&Coo::new([9], 1, vec![3], vec![2f32]).unwrap(), pg.rank());
                    let sum = if pg.rank() == 1 {
                        pg.all_reduce(&mut dense, ReduceOp::Sum)?;
                        pg.all_reduce(sparse(), ReduceOp::Sum)?
                    } else {
                        let work = pg.start(op::all_reduce(sparse(), ReduceOp::Sum));
                        // Both orders are correct. The pause makes it likely that the sparse call is first.
                        std::thread::sleep(SECOND / 20);
                        pg.all_reduce(&mut dense, ReduceOp::Sum)?;
                        work.wait()?
                    };
                    assert_eq!(fetched::<f32>(&sum).values(), [6.0]);
                    assert_eq!(dense.to_vec::<f32>(60 * SECOND)?, [3.0; 1000]);
                    pg.shutdown()
                })
                .unwrap();
        }
    });
}

/// The call runs after the earlier work on the caller's stream. The fake reports races.
#[test]
fn the_callers_stream_comes_before() {
    with_fake("the_callers_stream_comes_before", "", || {
        let got = builder().run_ranks(2, |pg| {
            let (cuda, index) = (common::cuda(), pg.rank() as u16);
            let stream = cuda.create_stream(index)?;
            let (mut indices, mut values) = (on(pg.rank(), &[0i64; 2]), on(pg.rank(), &[0f32; 2]));
            let (keys, numbers) = ([7i64, 3], [1f32, 2.0]);
            let (to_indices, to_values) = (common::place(&mut indices), common::place(&mut values));
            let tensor = DeviceCoo::new([9], 1, indices, values)?;
            // SAFETY: the host memory exists until the call has ended, which is after both copies; the stream is not
            // destroyed.
            #[allow(unsafe_code)]
            let sum = unsafe {
                cuda.copy_in(index, stream, to_indices, keys.as_ptr().cast(), 16)?;
                cuda.copy_in(index, stream, to_values, numbers.as_ptr().cast(), 8)?;
                pg.run(op::all_reduce(tensor, ReduceOp::Sum).on_stream(stream))?
            };
            Ok(fetched::<f32>(&sum))
        });
        for sum in got.unwrap() {
            assert_eq!((sum.indices(), sum.values()), (&[3i64, 7][..], &[4f32, 2.0][..]));
        }
    });
}

/// Reductions that NCCL does not have, and sizes for which no GPU has enough memory.
#[test]
fn types_and_sizes_that_cannot_be() {
    with_fake("types_and_sizes_that_cannot_be", "", || {
        builder()
            .run_ranks(2, |pg| {
                let e =
                    pg.all_reduce(sent(&Coo::new([9], 1, vec![3], vec![2u16])?, pg.rank()), ReduceOp::Sum).unwrap_err();
                assert!(*e.kind() == ErrorKind::Unsupported && e.to_string().contains("sum of u16"), "{e}");
                // The positions are known, and there are many, so only the memory of the result is large.
                let known = AllReduceOptions::new(ReduceOp::Sum).with_sparse_indices(Some((0..64).collect()));
                for (row, words) in [(1usize << 56, "more than any GPU has"), (1 << 50, "OUT_OF_MEMORY")] {
                    let pg = pg.new_group(&[0, 1])?.unwrap();
                    let none = Coo::new([64, row], 1, vec![], Vec::<f32>::new())?;
                    let e = pg.all_reduce(sent(&none, pg.rank()), known.clone()).unwrap_err();
                    assert!(*e.kind() == ErrorKind::Resource && e.to_string().contains("64 entries"), "{e}");
                    assert!(e.to_string().contains(words), "{e}");
                }
                Ok(())
            })
            .unwrap();
    });
}

/// If a launch hangs, the error names it in time, and the peers learn on which rank it is.
#[test]
fn a_launch_that_hangs_is_named() {
    with_fake("a_launch_that_hangs_is_named", "rank=1,kernel=20", || {
        let errors = with_cpu().run_ranks(2, |pg| {
            let mine = || sent(&Coo::new([9], 1, vec![3], vec![2f32]).unwrap(), pg.rank());
            pg.all_reduce(mine(), ReduceOp::Sum)?;
            // The other rank learns of it long before its own deadline.
            let call = op::all_reduce(mine(), ReduceOp::Sum).timeout(SECOND * if pg.rank() == 1 { 1 } else { 100 });
            let begun = Instant::now();
            let e = pg.start(call).wait().unwrap_err().error;
            assert!(begun.elapsed() < 20 * SECOND);
            Ok(e)
        });
        let errors = errors.unwrap();
        assert!(*errors[1].kind() == ErrorKind::Timeout, "{}", errors[1]);
        assert!(errors.iter().all(|e| e.to_string().contains("CUDA has not returned from")), "{errors:?}");
        assert_eq!(errors[0].report().guilty, [1], "{}", errors[0]);
    });
}

/// A peer's keys are checked.
#[test]
fn keys_that_cannot_be_are_refused() {
    // The second launch of a call gathers keys.
    with_fake("keys_that_cannot_be_are_refused", "rank=1,garble=1", || {
        let errors = builder().run_ranks(3, |pg| {
            let mine = sent(&Coo::new([9], 1, vec![3, 4], vec![2f32, 1.0])?, pg.rank());
            Ok(pg.all_reduce(mine, ReduceOp::Sum).unwrap_err())
        });
        for e in errors.unwrap() {
            assert_eq!((e.kind(), &e.report().guilty[..]), (&ErrorKind::Protocol, &[1][..]), "{e}");
        }
    });
}

#[test]
fn without_kernels_all_ranks_are_told_why() {
    with_fake("without_kernels_all_ranks_are_told_why", "driver=11080", || {
        let errors = builder().run_ranks(2, |pg| {
            let mine = sent(&Coo::new([9], 1, vec![3], vec![2f32])?, pg.rank());
            Ok(pg.all_reduce(mine, ReduceOp::Sum).unwrap_err())
        });
        for e in errors.unwrap() {
            assert!(*e.kind() == ErrorKind::Unsupported && e.to_string().contains("11080"), "{e}");
        }
    });
}

/// A rank that learns of a mismatch after the others also names the right rank: no rank fails until all know of it.
/// Otherwise this rank would get another rank's view of the error.
#[test]
fn the_last_to_learn_of_a_disagreement() {
    with_fake("the_last_to_learn_of_a_disagreement", "rank=2,behind=0", || {
        let guilty = with_cpu().run_ranks(3, |pg| {
            let mine = Coo::new([if pg.rank() == 1 { 8 } else { 9 }], 1, vec![3], vec![1f32])?;
            Ok(pg.all_reduce(sent(&mine, pg.rank()), ReduceOp::Sum).unwrap_err().report().guilty.to_vec())
        });
        assert_eq!(guilty.unwrap(), [vec![1], vec![0, 2], vec![1]]);
    });
}

/// The captured call does not run, and the capture is not invalidated. All ranks learn the reason, and the group can
/// still be used.
#[test]
fn a_stream_that_records_a_graph_is_refused() {
    with_fake("a_stream_that_records_a_graph_is_refused", "", || {
        let ready = Barrier::new(2);
        builder()
            .run_ranks(2, |pg| {
                let mut mine = sent(&Coo::new([9], 1, vec![3], vec![2f32])?, pg.rank());
                let stream = common::cuda().create_stream(pg.rank() as u16)?;
                // During rank 1's capture, no other rank may even allocate memory.
                ready.wait();
                let e = if pg.rank() == 1 {
                    // SAFETY: the stream belongs to this device and is not destroyed.
                    #[allow(unsafe_code)]
                    let call = unsafe { op::all_reduce(&mut mine, ReduceOp::Sum).on_stream(stream) };
                    common::driver::recording(stream, || pg.run(call).map(drop).map_err(c10d_core::Error::from))
                } else {
                    pg.all_reduce(&mut mine, ReduceOp::Sum).map(drop)
                };
                ready.wait();
                let e = e.unwrap_err();
                assert_eq!((e.kind(), &e.report().guilty[..]), (&ErrorKind::InvalidArgument, &[1][..]), "{e}");
                assert!(e.report().what.contains("the stream is capturing a graph"), "{e}");
                let sum = fetched::<f32>(&pg.all_reduce(mine, ReduceOp::Sum)?);
                assert_eq!((sum.indices(), sum.values()), (&[3i64][..], &[4f32][..]));
                Ok(())
            })
            .unwrap();
    });
}

const PORT: &str = "C10D_NCCL_TEST_PORT";
const PLACE: &str = "C10D_NCCL_TEST_PLACE";

/// A rank of the tests with processes. `PLACE` has its number, the world size and the test's name.
#[test]
fn rank() {
    let (Ok(place), Ok(port)) = (std::env::var(PLACE), std::env::var(PORT)) else { return };
    let words: Vec<&str> = place.split(' ').collect();
    let (rank, size): (u32, u32) = (words[0].parse().unwrap(), words[1].parse().unwrap());
    let store = TcpStore::connect("127.0.0.1", port.parse().unwrap(), Instant::now() + 20 * SECOND).unwrap();
    let store = Arc::new(store);
    let pg = with_cpu().rank(rank).size(size).store(store.clone()).build().unwrap();
    if words[2] == "killed" {
        return killed(&pg, &*store);
    }
    for (round, (shape, sparse)) in SHAPES.into_iter().enumerate() {
        let value = |x: u64| x as i32;
        let of = |rank: u32| {
            let mut random = Random(100 * round as u64 + u64::from(rank));
            tensor(shape, sparse, 300 * (rank as usize + round) % 1000, &mut random, value)
        };
        let want = reference(&(0..size).map(of).collect::<Vec<_>>(), i32::wrapping_add);
        let sum = fetched::<i32>(&pg.all_reduce(sent(&of(rank), rank), ReduceOp::Sum).unwrap());
        assert!(sum.is_coalesced() && entries(&sum).eq(want), "{shape:?}");
    }
    pg.shutdown().unwrap();
    println!("rank {rank} is well");
}

fn killed(pg: &ProcessGroup, store: &dyn Store) {
    let one = || sent(&Coo::new([9], 1, vec![3], vec![1i32]).unwrap(), pg.rank());
    pg.all_reduce(one(), ReduceOp::Sum).unwrap();
    let soon = Instant::now() + 20 * SECOND;
    if pg.rank() == 1 {
        store.wait(&["well/0", "well/2"], soon).unwrap();
        std::process::abort();
    }
    store.set(&format!("well/{}", pg.rank()), b"", soon).unwrap();
    let e = pg.all_reduce(one(), ReduceOp::Sum).unwrap_err();
    println!("rank {} saw {} of {:?}", pg.rank(), e.kind().name(), e.report().guilty);
}

/// Runs this number of processes. The output of each must contain these texts.
fn processes(name: &str, size: u32, words: impl Fn(u32) -> Option<String>) {
    let server = TcpStoreServer::bind("127.0.0.1:0".parse().unwrap(), ServerOptions::default()).unwrap();
    let dir = common::folder(&format!("{name}-{size}"));
    let start = |rank: u32| {
        // If a peer is missing, the second call hangs in NCCL.
        let mut command = common::command(&dir, if name == "killed" { "hang=3" } else { "" });
        command.env(PLACE, format!("{rank} {size} {name}")).env(PORT, server.local_addr().port().to_string());
        command.args(["sparse::rank", "--exact", "--nocapture"]);
        std::thread::spawn(|| common::output(command))
    };
    let ranks: Vec<_> = (0..size).map(start).collect();
    for (rank, ended) in (0..).zip(ranks) {
        let output = ended.join().unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(words(rank).is_none_or(|words| out.contains(&words)), "rank {rank} of {size}:\n{out}\n{err}");
    }
    let _ = std::fs::remove_dir_all(dir);
}

#[test]
fn sums_over_processes() {
    (1..=4).for_each(|size| processes("sums", size, |rank| Some(format!("rank {rank} is well"))));
}

#[test]
fn a_peer_is_killed() {
    processes("killed", 3, |rank| (rank != 1).then(|| format!("rank {rank} saw PeerDead of [1]")));
}
