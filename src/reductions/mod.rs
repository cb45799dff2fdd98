//! Reductions by the program's own operations, and scans.

mod cut;
mod exchange;

use std::time::Duration;

use c10d_core::{Element, Error, ProcessGroup, ReduceOp, Result, Root, op, reduce};

use crate::plain::Plain;
use exchange::{Exchange, Rows};

/// What a closure that reduces is called, and how long the call may take. A name alone converts into it.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Operation {
    /// Ranks that give different names get a [`Mismatch`](crate::ErrorKind::Mismatch) of `type`.
    pub name: &'static str,
    /// `None`: the group's.
    pub timeout: Option<Duration>,
}

impl Operation {
    /// The operation of this name.
    pub fn new(name: &'static str) -> Operation {
        Operation { name, timeout: None }
    }

    /// How long the whole call may take.
    #[must_use]
    pub fn with_timeout(self, timeout: Duration) -> Operation {
        Operation { timeout: Some(timeout), ..self }
    }
}

impl From<&'static str> for Operation {
    fn from(name: &'static str) -> Operation {
        Operation::new(name)
    }
}

/// Reductions of [`Plain`] elements by a closure, and scans.
///
/// The closure is given `acc` and `x`, two slices of one length, and makes `acc` what the two come to, element by element:
/// `acc[i] = acc[i] ∘ x[i]`. It must be associative; it need not be commutative, since ranks are combined in their order,
/// 0 ∘ 1 ∘ 2 and so on, from the left. It is called on the thread of the caller, with pieces of the slices in any order,
/// and may borrow. All ranks get the same bits, because each element is combined on one rank. No rank combines more than
/// its share, and the bytes that travel are those of a built-in reduction.
///
/// If the closure panics, the panic unwinds its caller, the call ends with [`Aborted`](crate::ErrorKind::Aborted) on the other
/// ranks, naming the rank, and the group goes on. The slices' contents are then unspecified, as on every error.
///
/// Further errors, for all: as of [`op::all_to_all`]. A slice of another length, another type or an operation of another
/// name is a [`Mismatch`](crate::ErrorKind::Mismatch) of `count` or `type`.
///
/// ```
/// use c10d::Reductions;
/// # fn main() -> c10d::Result<()> {
/// /// log(exp(a) + exp(b)), which no built-in operation is.
/// fn log_sum_exp(acc: &mut [f64], x: &[f64]) {
///     for (a, x) in acc.iter_mut().zip(x) {
///         let largest = a.max(*x);
///         *a = largest + ((*a - largest).exp() + (x - largest).exp()).ln();
///     }
/// }
///
/// let sums = c10d::run_ranks(4, |pg| {
///     let mut x = [0f64; 3];
///     pg.all_reduce_with(&mut x, "log_sum_exp", log_sum_exp)?;
///     Ok(x[2])
/// })?;
/// assert!(sums.iter().all(|sum| (sum - 4f64.ln()).abs() < 1e-12));
/// # Ok(()) }
/// ```
pub trait Reductions {
    /// Reduces everybody's `x`; all get the result, bit for bit the same.
    fn all_reduce_with<T: Plain>(
        &self,
        x: &mut [T],
        operation: impl Into<Operation>,
        closure: impl FnMut(&mut [T], &[T]),
    ) -> Result;

    /// Reduces everybody's `x` into the root's; the others' keep their values.
    fn reduce_with<T: Plain>(
        &self,
        x: &mut [T],
        operation: impl Into<Operation>,
        root: u32,
        closure: impl FnMut(&mut [T], &[T]),
    ) -> Result;

    /// Reduces everybody's `input`, which has world size times the length of `output`; rank i gets the i-th part.
    fn reduce_scatter_with<T: Plain>(
        &self,
        input: &[T],
        output: &mut [T],
        operation: impl Into<Operation>,
        closure: impl FnMut(&mut [T], &[T]),
    ) -> Result;

    /// Makes `x` what the `x` of ranks 0 to this one come to (MPI's `Scan`).
    fn scan_with<T: Plain>(
        &self,
        x: &mut [T],
        operation: impl Into<Operation>,
        closure: impl FnMut(&mut [T], &[T]),
    ) -> Result;

    /// Makes `x` what the `x` of the ranks before this one come to (MPI's `Exscan`). There is none before rank 0, whose `x`
    /// keeps its values: it gets `false`, the others `true`.
    fn exscan_with<T: Plain>(
        &self,
        x: &mut [T],
        operation: impl Into<Operation>,
        closure: impl FnMut(&mut [T], &[T]),
    ) -> Result<bool>;

    /// [`scan_with`](Self::scan_with) by a built-in operation.
    ///
    /// ```
    /// use c10d::{ReduceOp, Reductions};
    /// # fn main() -> c10d::Result<()> {
    /// let sums = c10d::run_ranks(4, |pg| {
    ///     let mut x = [pg.rank() + 1];
    ///     pg.scan(&mut x, ReduceOp::Sum)?;
    ///     Ok(x[0])
    /// })?;
    /// assert_eq!(sums, [1, 3, 6, 10]);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) for `Avg` and `PreMulSum`, and for operations that have no
    /// meaning on the type.
    fn scan<T: Element + Plain>(&self, x: &mut [T], operation: ReduceOp) -> Result;

    /// [`exscan_with`](Self::exscan_with) by a built-in operation; see [`scan`](Self::scan).
    fn exscan<T: Element + Plain>(&self, x: &mut [T], operation: ReduceOp) -> Result<bool>;
}

impl Reductions for ProcessGroup {
    fn all_reduce_with<T: Plain>(
        &self,
        x: &mut [T],
        operation: impl Into<Operation>,
        closure: impl FnMut(&mut [T], &[T]),
    ) -> Result {
        let exchange = Exchange::new::<T>(self, operation.into(), x.len());
        let mut rows = Rows::new(self.size(), &exchange.cut);
        exchange.with(closure, |fold| {
            (0..exchange.cut.rounds()).try_for_each(|round| {
                exchange.collect(x, round, &mut rows)?;
                fold.all(&mut rows);
                let results =
                    exchange.cut.pieces_mut(x, round).into_iter().map(|piece| exchange.named(piece)).collect();
                exchange.within.run(op::all_gather(exchange.named(rows.row(0)), results)).map(drop)
            })
        })
    }

    fn reduce_with<T: Plain>(
        &self,
        x: &mut [T],
        operation: impl Into<Operation>,
        root: u32,
        closure: impl FnMut(&mut [T], &[T]),
    ) -> Result {
        if root >= self.size() {
            return Err(Error::invalid(format!("root {root} is not a rank of a group of {}", self.size())));
        }
        let exchange = Exchange::new::<T>(self, operation.into(), x.len());
        let mut rows = Rows::new(self.size(), &exchange.cut);
        exchange.with(closure, |fold| {
            (0..exchange.cut.rounds()).try_for_each(|round| {
                exchange.collect(x, round, &mut rows)?;
                fold.all(&mut rows);
                let to = if self.rank() == root {
                    let pieces = exchange.cut.pieces_mut(x, round);
                    Root::Me(pieces.into_iter().map(|piece| exchange.named(piece)).collect())
                } else {
                    Root::At(root)
                };
                exchange.within.run(op::gather(exchange.named(rows.row(0)), to)).map(drop)
            })
        })
    }

    fn reduce_scatter_with<T: Plain>(
        &self,
        input: &[T],
        output: &mut [T],
        operation: impl Into<Operation>,
        closure: impl FnMut(&mut [T], &[T]),
    ) -> Result {
        if output.len().checked_mul(self.size() as usize) != Some(input.len()) {
            let (whole, part, n) = (input.len(), output.len(), self.size());
            let what = format!("input has {whole} elements; it must have {n} times the {part} of output");
            return Err(Error::invalid(what));
        }
        let exchange = Exchange::new::<T>(self, operation.into(), input.len());
        let mut rows = Rows::new(self.size(), &exchange.cut);
        let mut done = 0;
        exchange.with(closure, |fold| {
            (0..exchange.cut.rounds()).try_for_each(|round| {
                exchange.collect(input, round, &mut rows)?;
                fold.all(&mut rows);
                let piece = rows.row(0);
                output[done..done + piece.len()].copy_from_slice(piece);
                done += piece.len();
                Ok(())
            })
        })
    }

    fn scan_with<T: Plain>(
        &self,
        x: &mut [T],
        operation: impl Into<Operation>,
        closure: impl FnMut(&mut [T], &[T]),
    ) -> Result {
        let exchange = Exchange::new::<T>(self, operation.into(), x.len());
        let mut rows = Rows::new(self.size(), &exchange.cut);
        exchange.with(closure, |fold| {
            (0..exchange.cut.rounds()).try_for_each(|round| {
                exchange.collect(x, round, &mut rows)?;
                fold.prefixes(&mut rows);
                let to_each = (0..self.size() as usize).map(|rank| exchange.named(rows.row(rank))).collect();
                let results =
                    exchange.cut.pieces_mut(x, round).into_iter().map(|piece| exchange.named(piece)).collect();
                exchange.within.run(op::all_to_all(to_each, results)).map(drop)
            })
        })
    }

    fn exscan_with<T: Plain>(
        &self,
        x: &mut [T],
        operation: impl Into<Operation>,
        closure: impl FnMut(&mut [T], &[T]),
    ) -> Result<bool> {
        let exchange = Exchange::new::<T>(self, operation.into(), x.len());
        let mut rows = Rows::new(self.size(), &exchange.cut);
        let first = self.rank() == 0;
        exchange.with(closure, |fold| {
            (0..exchange.cut.rounds()).try_for_each(|round| {
                exchange.collect(x, round, &mut rows)?;
                fold.prefixes(&mut rows);
                // Rank r gets what ranks 0 to r - 1 come to, and rank 0 nothing.
                let before = |rank: usize| rank.checked_sub(1).map_or(&[][..], |rank| rows.row(rank));
                let to_each = (0..self.size() as usize).map(|rank| exchange.named(before(rank))).collect();
                let pieces = exchange.cut.pieces_mut(x, round).into_iter();
                let results = pieces.map(|piece| exchange.named(if first { &mut [] } else { piece })).collect();
                exchange.within.run(op::all_to_all(to_each, results)).map(drop)
            })
        })?;
        Ok(!first)
    }

    fn scan<T: Element + Plain>(&self, x: &mut [T], operation: ReduceOp) -> Result {
        self.scan_with(x, known::<T>(operation)?, |acc, x| combine(operation, acc, x))
    }

    fn exscan<T: Element + Plain>(&self, x: &mut [T], operation: ReduceOp) -> Result<bool> {
        self.exscan_with(x, known::<T>(operation)?, |acc, x| combine(operation, acc, x))
    }
}

/// The name of a built-in operation that has a meaning in scans of this type.
fn known<T: Element>(operation: ReduceOp) -> Result<Operation> {
    if matches!(operation, ReduceOp::Avg | ReduceOp::PreMulSum(_)) {
        return Err(Error::invalid(format!("a scan has no {operation}: divide or multiply a sum instead")));
    }
    if !operation.is_defined_on(T::DTYPE) {
        return Err(Error::invalid(format!("{operation} has no meaning on {}", T::DTYPE)));
    }
    Ok(Operation::new(operation.name()))
}

fn combine<T: Element>(operation: ReduceOp, acc: &mut [T], x: &[T]) {
    let known = reduce::combine(operation, acc, x);
    debug_assert!(known, "an operation that is defined has a kernel");
}
