//! Runs collectives of field elements, as provers do: a sum, products in an extension of the field, and the running
//! product of a permutation argument.
//!
//! Start it by `cargo run --release --example goldilocks`, or with `c10d run -n 4 --`, torchrun, mpirun or srun.

mod common;

use std::error::Error;

use bytemuck::{Pod, Zeroable};
use c10d::{Plain, Reductions};

/// 2^64 - 2^32 + 1.
const PRIME: u64 = 0xffff_ffff_0000_0001;
/// `Extension` adds a square root of this number to the field.
const ROOT_OF: u64 = 7;

/// An element of the field of integers modulo `PRIME`, as a number below `PRIME`.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(transparent)]
struct Goldilocks(u64);

/// `a + b √7`
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
struct Extension {
    a: Goldilocks,
    b: Goldilocks,
}

impl Plain for Goldilocks {
    const IDENTITY: &'static str = "goldilocks::Goldilocks/1";
}

impl Plain for Extension {
    const IDENTITY: &'static str = "goldilocks::Extension/1";
}

impl Goldilocks {
    fn add(self, other: Goldilocks) -> Goldilocks {
        let (sum, carried) = self.0.overflowing_add(other.0);
        // If the addition overflows, the result is `sum` + 2^64 - PRIME. This is `less`, which is computed modulo 2^64.
        let (less, borrowed) = sum.overflowing_sub(PRIME);
        Goldilocks(if carried || !borrowed { less } else { sum })
    }

    fn mul(self, other: Goldilocks) -> Goldilocks {
        Goldilocks((u128::from(self.0) * u128::from(other.0) % u128::from(PRIME)) as u64)
    }
}

impl Extension {
    const ONE: Extension = Extension { a: Goldilocks(1), b: Goldilocks(0) };

    fn mul(self, other: Extension) -> Extension {
        let cross = self.b.mul(other.b).mul(Goldilocks(ROOT_OF));
        Extension { a: self.a.mul(other.a).add(cross), b: self.a.mul(other.b).add(self.b.mul(other.a)) }
    }
}

fn sum(acc: &mut [Goldilocks], x: &[Goldilocks]) {
    acc.iter_mut().zip(x).for_each(|(acc, x)| *acc = acc.add(*x));
}

fn product(acc: &mut [Extension], x: &[Extension]) {
    acc.iter_mut().zip(x).for_each(|(acc, x)| *acc = acc.mul(*x));
}

/// Returns an element that depends on `rank` and `i`.
fn element(rank: u32, i: u64) -> Goldilocks {
    Goldilocks(PRIME - 1 - i * i).mul(Goldilocks(u64::from(rank) << 40 | 0x1234_5678_9abc))
}

fn main() -> Result<(), Box<dyn Error>> {
    let pg = common::group()?;
    let (rank, size) = (pg.rank(), pg.size());

    // Each rank's vector is replaced by the sum of all ranks' vectors.
    let of = |rank| (0..100_000).map(move |i| element(rank, i)).collect::<Vec<_>>();
    let mut x = of(rank);
    pg.all_reduce_with(&mut x, "sum", sum)?;
    let mut expected = of(0);
    (1..size).for_each(|rank| sum(&mut expected, &of(rank)));
    assert_eq!(x, expected);

    // The running product of a rank begins with the product of the rows of all ranks before it.
    let factor = |rank, i| Extension { a: element(rank, i), b: Goldilocks(i + 1) };
    let of_rows = |rank| (0..1000).fold(Extension::ONE, |product, i| product.mul(factor(rank, i)));
    let mut before = [of_rows(rank)];
    if !pg.exscan_with(&mut before, "product", product)? {
        before = [Extension::ONE];
    }
    assert_eq!(before[0], (0..rank).fold(Extension::ONE, |product, rank| product.mul(of_rows(rank))));

    // The root gets the product of all factors.
    let mut all = [of_rows(rank)];
    pg.reduce_with(&mut all, "product", 0, product)?;
    if rank == 0 {
        println!("sum of the first elements {:#018x}, product of all rows {:x?}", x[0].0, all[0]);
    }
    pg.shutdown()?;
    Ok(())
}
