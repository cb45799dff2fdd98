//! Sparse all-reduce over NCCL on the fake device. The results are compared with those of the definition, computed on
//! the CPU.

mod beside;
mod processes;
mod refused;
mod sums;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Instant;

use c10d_core::options::{Absent, AllReduceOptions};
use c10d_core::{Builder, Coo, DeviceCoo, Element, ErrorKind, ReduceOp, op};

use crate::common::{self, SECOND, builder, on, with_cpu, with_fake};

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

/// Computes the result by definition: combines the entries of each rank in their order, and then the results of the
/// ranks in rank order.
fn reference<T: Element>(tensors: &[Coo<T>], combine: fn(T, T) -> T) -> Entries<T> {
    let mut all = Entries::new();
    for t in tensors {
        let mut own = Entries::new();
        add(&mut own, entries(t), combine);
        add(&mut all, own.into_iter(), combine);
    }
    all
}

type Combine<T> = fn(T, T) -> T;

/// The ranks' tensors, and the operation on them.
type Round<T> = (Vec<Coo<T>>, AllReduceOptions, Combine<T>);

/// Runs the call with an owned tensor, with a borrowed tensor, and as a started call. Compares the results of all ranks
/// with the definition.
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

fn over_present(op: ReduceOp) -> AllReduceOptions {
    AllReduceOptions::new(op).with_absent(Absent::Ignored)
}
