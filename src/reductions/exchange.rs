//! The steps that all reductions by a closure share. In each round, a rank collects the elements of its piece from all
//! ranks and combines them in rank order. At the end every rank learns whose closure panicked.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use c10d_core::{Error, ErrorKind, ProcessGroup, Result, op};

use super::Operation;
use super::cut::Cut;
use crate::plain::{Plain, PlainBuf};
use crate::within::Within;

/// One reduction that is running. (This is not an exchange in the sense of the glossary.)
pub(super) struct Exchange<'a> {
    pub(super) within: Within<'a>,
    name: &'static str,
    pub(super) cut: Cut,
}

impl<'a> Exchange<'a> {
    /// Starts a reduction of `len` elements of `T` over all ranks.
    pub(super) fn new<T: Plain>(pg: &'a ProcessGroup, operation: Operation, len: usize) -> Exchange<'a> {
        let Operation { name, timeout } = operation;
        Exchange { within: Within::new(pg, timeout), name, cut: Cut::new(len, pg.size(), size_of::<T>()) }
    }

    /// Wraps elements with the names of this reduction's type and operation.
    pub(super) fn named<B>(&self, elements: B) -> PlainBuf<B> {
        PlainBuf::reduced_by(elements, self.name)
    }

    /// Returns this round's pieces of `x`, in rank order.
    pub(super) fn pieces_mut<'x, T: Plain>(&self, x: &'x mut [T], round: usize) -> Vec<PlainBuf<&'x mut [T]>> {
        self.cut.pieces_mut(x, round).into_iter().map(|piece| self.named(piece)).collect()
    }

    /// Returns this rank's number as an index.
    pub(super) fn me(&self) -> usize {
        self.within.pg.rank() as usize
    }

    /// Returns the piece of `x` that this rank combines in this round.
    pub(super) fn own<'x, T>(&self, x: &'x [T], round: usize) -> &'x [T] {
        &x[self.cut.at(self.me(), round)]
    }

    /// Collects this rank's piece of the round from all other ranks into `rows`. This rank's own elements are not
    /// copied into a row.
    fn collect<T: Plain>(&self, x: &[T], round: usize, rows: &mut Pieces<T>) -> Result {
        rows.cut_to(self.own(x, round).len());
        let mut pieces = self.cut.pieces(x, round);
        pieces[self.me()] = &[];
        let inputs = pieces.into_iter().map(|piece| self.named(piece)).collect();
        let others = |(rank, row)| self.named(if rank == self.me() { &mut [][..] } else { row });
        let outputs = rows.all_mut().enumerate().map(others).collect();
        self.within.run(op::all_to_all(inputs, outputs).agreed_count(self.cut.len() as u64)).map(drop)
    }

    /// Sends this rank's result to all other ranks, and receives their results into `pieces`, which has an empty slice
    /// for this rank.
    pub(super) fn spread<T: Plain>(&self, result: &[T], pieces: Vec<&mut [T]>) -> Result {
        let to = |rank| self.named(if rank == self.me() { &[][..] } else { result });
        let inputs = (0..pieces.len()).map(to).collect();
        let outputs = pieces.into_iter().map(|piece| self.named(piece)).collect();
        self.within.run(op::all_to_all(inputs, outputs)).map(drop)
    }

    /// Runs all rounds: collects the pieces of `x`, then calls `body`, which combines and sends them. If the closure
    /// panics, this rank still takes part in all rounds, so that no rank waits for it. At the end this rank resumes the
    /// panic.
    pub(super) fn run<T: Plain, X: AsRef<[T]>, F: FnMut(&mut [T], &[T])>(
        &self,
        mut x: X,
        closure: F,
        mut body: impl FnMut(&mut X, usize, &mut Fold<F>, &mut Pieces<T>) -> Result,
    ) -> Result {
        let (mut fold, mut rows) = (Fold { closure, panic: None }, Pieces::new(self.within.pg.size(), &self.cut));
        let outcome = (0..self.cut.rounds()).try_for_each(|round| {
            self.collect(x.as_ref(), round, &mut rows)?;
            body(&mut x, round, &mut fold, &mut rows)
        });
        match (fold.panic, outcome) {
            (None, outcome) => outcome.and_then(|()| self.tell(false)),
            (Some(panic), outcome) => {
                let _ = outcome.and_then(|()| self.tell(true));
                resume_unwind(panic)
            }
        }
    }

    /// Tells all ranks whether this rank's closure panicked. Returns an error if the closure of another rank panicked.
    fn tell(&self, panicked: bool) -> Result {
        let mut all = vec![0u8; self.within.pg.size() as usize];
        self.within.run(op::all_gather_into(self.named(&[u8::from(panicked)]), self.named(&mut all)))?;
        let guilty: Vec<u32> = (0u32..).zip(all).filter(|(_, panicked)| *panicked != 0).map(|(rank, _)| rank).collect();
        if guilty.is_empty() || panicked {
            return Ok(());
        }
        let what = format!(
            "the closure of {:?} panicked on the guilty ranks; the call failed, but the group can still be used",
            self.name
        );
        Err(self.within.ended(Error::new(ErrorKind::Aborted, what).guilty(guilty)))
    }
}

/// The piece that this rank combines in a round: one row for each rank, with the elements of that rank.
pub(super) struct Pieces<T> {
    rows: Vec<Vec<T>>,
    len: usize,
}

impl<T: Plain> Pieces<T> {
    fn new(ranks: u32, cut: &Cut) -> Pieces<T> {
        Pieces { rows: (0..ranks).map(|_| vec![T::zeroed(); cut.piece()]).collect(), len: 0 }
    }

    fn cut_to(&mut self, len: usize) {
        self.len = len;
    }

    fn all_mut(&mut self) -> impl Iterator<Item = &mut [T]> {
        let len = self.len;
        self.rows.iter_mut().map(move |row| &mut row[..len])
    }

    pub(super) fn row(&self, rank: usize) -> &[T] {
        &self.rows[rank][..self.len]
    }

    /// Copies `piece` into the row of `rank`.
    pub(super) fn set(&mut self, rank: usize, piece: &[T]) {
        self.rows[rank][..self.len].copy_from_slice(piece);
    }
}

/// The closure. It is not called again after a panic.
pub(super) struct Fold<F> {
    closure: F,
    panic: Option<Box<dyn Any + Send>>,
}

impl<F> Fold<F> {
    /// Combines the rows of all ranks into the first row, in rank order. `own` is used in place of the row of rank
    /// `me`.
    pub(super) fn all<T: Plain>(&mut self, rows: &mut Pieces<T>, me: usize, own: &[T])
    where
        F: FnMut(&mut [T], &[T]),
    {
        if me == 0 {
            rows.set(0, own);
        }
        let len = rows.len;
        let Some((first, rest)) = rows.rows.split_first_mut() else { return };
        for (rank, row) in (1..).zip(rest) {
            self.one(&mut first[..len], if rank == me { own } else { &row[..len] });
        }
    }

    /// Combines the rows of all other ranks into `first`, the piece of rank 0, in rank order.
    pub(super) fn onto_first<T: Plain>(&mut self, first: &mut [T], rows: &Pieces<T>)
    where
        F: FnMut(&mut [T], &[T]),
    {
        for row in &rows.rows[1..] {
            self.one(first, &row[..rows.len]);
        }
    }

    /// Replaces each row by the combination of all rows up to and including it, in rank order.
    pub(super) fn prefixes<T: Plain>(&mut self, rows: &mut Pieces<T>)
    where
        F: FnMut(&mut [T], &[T]),
    {
        let len = rows.len;
        let mut sum = rows.row(0).to_vec();
        for row in &mut rows.rows[1..] {
            self.one(&mut sum, &row[..len]);
            row[..len].copy_from_slice(&sum);
        }
    }

    fn one<T>(&mut self, acc: &mut [T], x: &[T])
    where
        F: FnMut(&mut [T], &[T]),
    {
        if acc.is_empty() || self.panic.is_some() {
            return;
        }
        // After a panic the call fails on all ranks, so `acc` is not used.
        let called = catch_unwind(AssertUnwindSafe(|| (self.closure)(acc, x)));
        self.panic = called.err();
    }
}
