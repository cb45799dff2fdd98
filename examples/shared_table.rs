//! A table for a prover: the powers of a root of unity. All ranks need it for their transforms, and each host has one
//! copy.
//!
//! Start it by `cargo run --release --example shared_table`, or with `c10d run -n 4 --`, torchrun, mpirun or srun.

mod common;

use std::error::Error;

use bytemuck::{Pod, Zeroable};
use c10d::{Plain, SharedTables};

/// 2^64 - 2^32 + 1. The multiplicative group modulo this prime has 2^32 · (2^32 - 1) elements, the powers of 7.
const PRIME: u64 = 0xffff_ffff_0000_0001;
const GENERATOR: Goldilocks = Goldilocks(7);
/// The number of coefficients of each rank's polynomial.
const ROWS: usize = 1 << 16;

/// An element of the field of integers modulo `PRIME`, as a number below `PRIME`.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(transparent)]
struct Goldilocks(u64);

impl Plain for Goldilocks {
    const IDENTITY: &'static str = "goldilocks::Goldilocks/1";
}

impl Goldilocks {
    fn add(self, other: Goldilocks) -> Goldilocks {
        Goldilocks(((u128::from(self.0) + u128::from(other.0)) % u128::from(PRIME)) as u64)
    }

    fn sub(self, other: Goldilocks) -> Goldilocks {
        self.add(Goldilocks((PRIME - other.0) % PRIME))
    }

    fn mul(self, other: Goldilocks) -> Goldilocks {
        Goldilocks((u128::from(self.0) * u128::from(other.0) % u128::from(PRIME)) as u64)
    }

    fn power(self, exponent: u64) -> Goldilocks {
        let bits = (0..64).rev().map(|bit| exponent >> bit & 1);
        bits.fold(Goldilocks(1), |x, bit| if bit == 1 { x.mul(x).mul(self) } else { x.mul(x) })
    }
}

/// Returns the values of a polynomial at all powers of a root of unity. `roots` has the first half of these powers.
fn transform(coefficients: &[Goldilocks], roots: &[Goldilocks]) -> Vec<Goldilocks> {
    let bits = coefficients.len().trailing_zeros();
    let mut x: Vec<_> =
        (0..coefficients.len()).map(|i| coefficients[i.reverse_bits() >> (usize::BITS - bits)]).collect();
    for half in (0..bits).map(|level| 1 << level) {
        for part in x.chunks_exact_mut(2 * half) {
            let (low, high) = part.split_at_mut(half);
            for (i, (a, b)) in low.iter_mut().zip(high).enumerate() {
                let turned = b.mul(roots[i * (roots.len() / half)]);
                (*a, *b) = (a.add(turned), a.sub(turned));
            }
        }
    }
    x
}

fn main() -> Result<(), Box<dyn Error>> {
    let pg = common::group()?;

    // The first rank of each host computes the powers.
    let root = GENERATOR.power((PRIME - 1) / ROWS as u64);
    let roots = pg.share_on_host(ROWS / 2, |roots: &mut [Goldilocks]| {
        let mut power = Goldilocks(1);
        for to in roots {
            *to = power;
            power = power.mul(root);
        }
        if power == Goldilocks(PRIME - 1) { Ok(()) } else { Err("the root to the power ROWS / 2 is not -1".into()) }
    })?;

    // Each rank has the coefficients of its own polynomial (a column), and reads the table as a slice.
    let column: Vec<_> = (0..ROWS as u64).map(|i| Goldilocks(i * i + u64::from(pg.rank())).mul(GENERATOR)).collect();
    let values = transform(&column, &roots);
    let point = root.power(12_345);
    let expected = column.iter().rev().fold(Goldilocks(0), |sum, coefficient| sum.mul(point).add(*coefficient));
    assert_eq!(values[12_345], expected);

    pg.barrier()?;
    if pg.rank() == 0 {
        println!("{} ranks transformed a column each, with {:?} per host", pg.size(), roots);
    }
    pg.shutdown()?;
    Ok(())
}
