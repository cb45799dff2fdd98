//! Reductions by a closure, and scans.

mod cut;
mod exchange;

use std::time::Duration;

use c10d_core::{Element, Error, ProcessGroup, ReduceOp, Result, Root, op, reduce};

use crate::plain::Plain;
use exchange::Exchange;

/// The name of a reducing closure, and how long the call may take. A string literal converts into an `Operation`.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Operation {
    /// The operation's name. Ranks that give different names get a [`Mismatch`](crate::ErrorKind::Mismatch) of `type`.
    pub name: &'static str,
    /// How long the whole call may take; `None` means the group's timeout.
    pub timeout: Option<Duration>,
}

impl Operation {
    /// Makes an operation of this name, with the group's timeout.
    pub fn new(name: &'static str) -> Operation {
        Operation { name, timeout: None }
    }

    /// Sets how long the whole call may take.
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
/// The closure gets two slices of the same length, `acc` and `x`, and combines them element by element into `acc`:
/// `acc[i] = acc[i] ∘ x[i]`. The operation ∘ must be associative. It need not be commutative, since the ranks' elements
/// are combined in rank order from the left: 0 ∘ 1 ∘ 2 and so on. The closure is called on the caller's thread, with
/// pieces of the slices in any order, and may borrow from the caller. All ranks get the same bits. The work is divided
/// evenly over the ranks.
///
/// If the closure panics, the method panics on that rank. On the other ranks the call ends with
/// [`Aborted`](crate::ErrorKind::Aborted), which names the rank whose closure panicked, and the group can still be
/// used. As after every error, the contents of the slices are unspecified.
///
/// All methods also have the errors of [`op::all_to_all`]. Slices of different lengths, types or operation names are a
/// [`Mismatch`](crate::ErrorKind::Mismatch) of `count` or `type`.
///
/// ```
/// use c10d::Reductions;
/// # fn main() -> c10d::Result<()> {
/// /// Computes log(exp(a) + exp(b)), for which there is no built-in operation.
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
    /// Reduces the `x` of all ranks. All ranks get the result in `x`, bit for bit the same.
    fn all_reduce_with<T: Plain>(
        &self,
        x: &mut [T],
        operation: impl Into<Operation>,
        closure: impl FnMut(&mut [T], &[T]),
    ) -> Result;

    /// Reduces the `x` of all ranks into the root's `x`. The other ranks' `x` keep their values.
    fn reduce_with<T: Plain>(
        &self,
        x: &mut [T],
        operation: impl Into<Operation>,
        root: u32,
        closure: impl FnMut(&mut [T], &[T]),
    ) -> Result;

    /// Reduces the `input` of all ranks. Rank i gets the i-th part of the result in `output`. `input` must have as many
    /// elements as `output` times the world size.
    fn reduce_scatter_with<T: Plain>(
        &self,
        input: &[T],
        output: &mut [T],
        operation: impl Into<Operation>,
        closure: impl FnMut(&mut [T], &[T]),
    ) -> Result;

    /// Replaces `x` by the combination of the `x` of ranks 0 up to and including this one (MPI's `Scan`).
    fn scan_with<T: Plain>(
        &self,
        x: &mut [T],
        operation: impl Into<Operation>,
        closure: impl FnMut(&mut [T], &[T]),
    ) -> Result;

    /// Replaces `x` by the combination of the `x` of all ranks before this one (MPI's `Exscan`), and returns `true`. On
    /// rank 0, `x` keeps its values, and the result is `false`.
    fn exscan_with<T: Plain>(
        &self,
        x: &mut [T],
        operation: impl Into<Operation>,
        closure: impl FnMut(&mut [T], &[T]),
    ) -> Result<bool>;

    /// Does the same as [`scan_with`](Self::scan_with), with a built-in operation in place of a closure.
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
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) for `Avg` and `PreMulSum`, and for operations that are
    /// not defined on the type.
    fn scan<T: Element + Plain>(&self, x: &mut [T], operation: ReduceOp) -> Result;

    /// Does [`exscan_with`](Self::exscan_with) with a built-in operation. Its errors are those of [`scan`](Self::scan).
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
        let me = exchange.me();
        exchange.run(x, closure, |x, round, fold, rows| {
            let mut pieces = exchange.cut.pieces_mut(x, round);
            let own = std::mem::take(&mut pieces[me]);
            if me == 0 {
                fold.onto_first(own, rows);
            } else {
                fold.all(rows, me, own);
                own.copy_from_slice(rows.row(0));
            }
            exchange.spread(own, pieces)
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
        exchange.run(x, closure, |x, round, fold, rows| {
            fold.all(rows, exchange.me(), exchange.own(x, round));
            let to = if self.rank() == root { Root::Me(exchange.pieces_mut(x, round)) } else { Root::At(root) };
            exchange.within.run(op::gather(exchange.named(rows.row(0)), to)).map(drop)
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
            let what = format!("input has {whole} elements; it must have {n} times the {part} elements of output");
            return Err(Error::invalid(what));
        }
        let exchange = Exchange::new::<T>(self, operation.into(), input.len());
        let mut done = 0;
        exchange.run(input, closure, |input, round, fold, rows| {
            fold.all(rows, exchange.me(), exchange.own(input, round));
            let piece = rows.row(0);
            output[done..done + piece.len()].copy_from_slice(piece);
            done += piece.len();
            Ok(())
        })
    }

    fn scan_with<T: Plain>(
        &self,
        x: &mut [T],
        operation: impl Into<Operation>,
        closure: impl FnMut(&mut [T], &[T]),
    ) -> Result {
        let exchange = Exchange::new::<T>(self, operation.into(), x.len());
        exchange.run(x, closure, |x, round, fold, rows| {
            rows.set(exchange.me(), exchange.own(x, round));
            fold.prefixes(rows);
            let to_each = (0..self.size() as usize).map(|rank| exchange.named(rows.row(rank))).collect();
            exchange.within.run(op::all_to_all(to_each, exchange.pieces_mut(x, round))).map(drop)
        })
    }

    fn exscan_with<T: Plain>(
        &self,
        x: &mut [T],
        operation: impl Into<Operation>,
        closure: impl FnMut(&mut [T], &[T]),
    ) -> Result<bool> {
        let exchange = Exchange::new::<T>(self, operation.into(), x.len());
        let first = self.rank() == 0;
        exchange.run(x, closure, |x, round, fold, rows| {
            rows.set(exchange.me(), exchange.own(x, round));
            fold.prefixes(rows);
            // Rank r gets the combination of ranks 0 to r - 1, and rank 0 gets nothing.
            let before = |rank: usize| rank.checked_sub(1).map_or(&[][..], |rank| rows.row(rank));
            let to_each = (0..self.size() as usize).map(|rank| exchange.named(before(rank))).collect();
            let mut pieces = exchange.pieces_mut(x, round);
            if first {
                pieces.fill_with(|| exchange.named(&mut []));
            }
            exchange.within.run(op::all_to_all(to_each, pieces)).map(drop)
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

/// Returns the operation for a scan, or an error if `operation` is not defined for scans or on this type.
fn known<T: Element>(operation: ReduceOp) -> Result<Operation> {
    if matches!(operation, ReduceOp::Avg | ReduceOp::PreMulSum(_)) {
        return Err(Error::invalid(format!("a scan cannot use {operation}: scan with sum, then divide or multiply")));
    }
    if !operation.is_defined_on(T::DTYPE) {
        return Err(Error::invalid(format!("{operation} is not defined on {}", T::DTYPE)));
    }
    Ok(Operation::new(operation.name()))
}

fn combine<T: Element>(operation: ReduceOp, acc: &mut [T], x: &[T]) {
    let known = reduce::combine(operation, acc, x);
    debug_assert!(known, "every operation that is defined on a type has a kernel");
}
