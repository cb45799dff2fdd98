//! Ranks as threads over the CPU backend, and the definition of a sparse all-reduce.
#![allow(dead_code, unreachable_pub)]

pub mod device;

use std::collections::BTreeMap;
use std::time::Duration;

use c10d_core::{Builder, Coo, Element, ProcessGroup, Result};

pub fn builder() -> Builder {
    let providers = [&c10d_gloo_like::PROVIDER, &c10d_sparse::PROVIDER];
    Builder::new().providers(&providers).timeout(Duration::from_secs(30))
}

/// Runs `body` on `size` ranks. Returns the results in rank order.
pub fn world<T: Send>(size: u32, body: impl Fn(ProcessGroup) -> Result<T> + Sync) -> Result<Vec<T>> {
    builder().run_ranks(size, body)
}

/// Pseudo-random numbers, the same in every run.
#[derive(Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    }

    pub fn below(&mut self, end: u64) -> u64 {
        if end == 0 { 0 } else { self.next() % end }
    }
}

/// Returns the coordinates of each entry.
pub fn columns<T: Element>(t: &Coo<T>) -> Vec<Vec<i64>> {
    (0..t.nnz()).map(|i| (0..t.sparse_dim()).map(|d| t.indices()[d * t.nnz() + i]).collect()).collect()
}

/// Computes the result by definition: combines the entries of each rank in their order, and then the results of the
/// ranks in rank order.
pub fn reference<T: Element>(tensors: &[Coo<T>], combine: impl Fn(T, T) -> T) -> BTreeMap<Vec<i64>, Vec<T>> {
    let mut all: BTreeMap<Vec<i64>, Vec<T>> = BTreeMap::new();
    for t in tensors {
        let mut own: BTreeMap<Vec<i64>, Vec<T>> = BTreeMap::new();
        add(&mut own, columns(t).into_iter().zip(rows(t)), &combine);
        add(&mut all, own.into_iter(), &combine);
    }
    all
}

fn rows<T: Element>(t: &Coo<T>) -> Vec<Vec<T>> {
    (0..t.nnz()).map(|i| t.values()[i * t.row()..(i + 1) * t.row()].to_vec()).collect()
}

fn add<T: Element>(
    to: &mut BTreeMap<Vec<i64>, Vec<T>>,
    entries: impl Iterator<Item = (Vec<i64>, Vec<T>)>,
    combine: &impl Fn(T, T) -> T,
) {
    for (place, row) in entries {
        match to.get_mut(&place) {
            Some(sum) => sum.iter_mut().zip(row).for_each(|(a, b)| *a = combine(*a, b)),
            None => drop(to.insert(place, row)),
        }
    }
}

/// Checks a result. The error says what is wrong.
pub fn check<T: Element + PartialEq + std::fmt::Debug>(
    result: &Coo<T>,
    want: &BTreeMap<Vec<i64>, Vec<T>>,
) -> std::result::Result<(), String> {
    if !result.is_coalesced() {
        return Err("the result is not coalesced".into());
    }
    let places = columns(result);
    if !places.iter().eq(want.keys()) {
        return Err(format!("entries {places:?}\nwant {:?}", want.keys()));
    }
    match rows(result).iter().zip(want).find(|(row, (_, wanted))| row != wanted) {
        Some((row, (place, wanted))) => Err(format!("{row:?} at {place:?}, want {wanted:?}")),
        None => Ok(()),
    }
}
