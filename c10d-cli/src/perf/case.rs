//! One op on one rank, with its buffers: its call, its inputs and its expected results.

use c10d::backend::{Params, Shape};
use c10d::{Buffers, Call, OpKind, ProcessGroup, ReduceOp, Result, op};

use super::check::{self, Patterns};
use super::compute::compute;
use super::layout::{Layout, TensorList};
use super::ops::PerfOp;
use super::sample::Sample;

const ROOT: u32 = 0;
const TAG: u32 = 0;

/// How calls are run.
#[derive(Clone, Copy, Debug)]
pub(super) enum Form {
    /// By a blocking call.
    Blocking,
    /// Started, then waited for.
    Started,
    /// Started, then waited for after a computation of this many units.
    Overlapped(u64),
}

impl Form {
    pub(super) fn run<B: Buffers>(self, pg: &ProcessGroup, call: Call<B>) -> Result<B::Back> {
        match self {
            Form::Blocking => Ok(pg.run(call)?),
            Form::Started => pg.scope(|s| s.start(call).wait()),
            Form::Overlapped(units) => pg.scope(|s| {
                let work = s.start(call);
                compute(units);
                work.wait()
            }),
        }
    }
}

#[derive(Clone, Copy)]
pub(super) struct Setting<'a> {
    pub(super) pg: &'a ProcessGroup,
    pub(super) op: PerfOp,
    pub(super) reduce: ReduceOp,
    pub(super) form: Form,
    pub(super) layout: Layout,
}

/// One op with its buffers, which all repetitions use.
pub(super) struct Case<'a, 'm, T> {
    set: &'a Setting<'a>,
    /// How the next repetitions are run.
    pub(super) form: Form,
    patterns: Patterns,
    inputs: Vec<&'m mut [T]>,
    outputs: Vec<&'m mut [T]>,
    /// The number of messages whose source was not the expected rank.
    strays: u64,
}

impl<'a, 'm, T: Sample> Case<'a, 'm, T> {
    pub(super) fn new(set: &'a Setting<'a>, inputs: Vec<&'m mut [T]>, outputs: Vec<&'m mut [T]>) -> Self {
        let ranks = set.pg.size();
        let reduce = set.op.kind().reduces().then_some(set.reduce);
        let patterns = Patterns { ranks, dtype: T::DTYPE, reduce };
        Case { set, form: set.form, patterns, inputs, outputs, strays: 0 }
    }

    /// Runs the op once on known values. Returns the number of wrong elements.
    pub(super) fn verify(&mut self) -> Result<u64> {
        self.fill();
        // With this iteration number, `broadcast_rotating` has the last rank as its root, unlike `broadcast`.
        let last = self.set.pg.size() - 1;
        self.step(last.into())?;
        Ok(self.wrong(last, false))
    }

    /// Fills the inputs with this rank's values, and the outputs as [`reset`](Case::reset) does.
    fn fill(&mut self) {
        let (rank, patterns) = (self.set.pg.rank(), self.patterns);
        pieces(&mut self.inputs, self.set.layout.inputs, |p, piece| check::fill(piece, &patterns.given(rank, p)));
        self.reset(false);
    }

    /// Makes the buffers ready for any number of repetitions.
    pub(super) fn ready(&mut self) {
        self.reset(self.accumulates());
    }

    /// Returns the number of wrong elements after the repetitions.
    pub(super) fn verify_last(&mut self) -> u64 {
        self.wrong(0, self.accumulates()) + self.strays
    }

    /// Returns whether a repetition works on the result of the previous repetition. If so, the buffers are filled with
    /// zeros, and every result is zero.
    fn accumulates(&self) -> bool {
        let op = self.set.op.kind();
        op.reduces() && matches!(op.row().shape, Shape::InPlace | Shape::InPlaceList)
    }

    /// Fills the outputs. With `zeros` the outputs get zeros. If this rank has no inputs, as in an in-place op, the
    /// outputs get this rank's values. Otherwise the outputs get the values of a rank that does not exist, so that a
    /// call that writes nothing is noticed.
    fn reset(&mut self, zeros: bool) {
        let (rank, patterns) = (self.set.pg.rank(), self.patterns);
        let in_place = self.set.layout.inputs == TensorList::default();
        let strange = if in_place { rank } else { u32::MAX - 1 };
        let fill = |p: usize, piece: &mut [T]| {
            check::fill(piece, &if zeros { Patterns::zeros() } else { patterns.given(strange, p) });
        };
        pieces(&mut self.outputs, self.set.layout.outputs, fill);
    }

    fn wrong(&mut self, rotated_root: u32, zeros: bool) -> u64 {
        let mut wrong = 0;
        let (set, patterns) = (self.set, self.patterns);
        pieces(&mut self.outputs, set.layout.outputs, |p, piece| {
            let pattern = if zeros { Patterns::zeros() } else { expected(set, &patterns, p, rotated_root) };
            wrong += check::errors(piece, &pattern, patterns.tolerance());
        });
        wrong
    }

    /// Runs the op once, as iteration `i` of a batch.
    pub(super) fn step(&mut self, i: u64) -> Result {
        let Setting { pg, op, reduce, .. } = *self.set;
        let form = self.form;
        let (kind, root) = match op {
            PerfOp::Table(OpKind::Send) => return self.one_way(0),
            PerfOp::Table(OpKind::Recv | OpKind::RecvAnySource) => return self.one_way(1),
            PerfOp::Table(kind) => (kind, ROOT),
            PerfOp::BroadcastRotating => (OpKind::Broadcast, (i % u64::from(pg.size())) as u32),
            PerfOp::SendRecv => return self.round_trip(),
            PerfOp::AllReduceSparse => return Err(c10d::Error::invalid("sparse tensors have no dense buffers")),
        };
        let mut params = Params::default();
        (params.reduce, params.root) = (reduce, root);
        let (inputs, outputs) = (std::mem::take(&mut self.inputs), std::mem::take(&mut self.outputs));
        (self.inputs, self.outputs, _) = form.run(pg, op::any(kind, params, inputs, outputs))?;
        Ok(())
    }

    /// Sends a message from rank `from`, which is 0 or 1, to the other of these two ranks.
    fn one_way(&mut self, from: u32) -> Result {
        let (Setting { pg, op, .. }, form) = (*self.set, self.form);
        let to = 1 - from;
        if pg.rank() == from {
            form.run(pg, op::send(&*self.outputs[0], to, TAG)).map(drop)
        } else if pg.rank() != to {
            Ok(())
        } else if op.kind() == OpKind::RecvAnySource {
            let (_, source) = form.run(pg, op::recv_any_source(&mut *self.outputs[0], TAG))?;
            self.strays += u64::from(source != from);
            Ok(())
        } else {
            form.run(pg, op::recv(&mut *self.outputs[0], from, TAG)).map(drop)
        }
    }

    fn round_trip(&mut self) -> Result {
        self.one_way(0)?;
        self.one_way(1)
    }
}

/// Calls `body` for every piece of these tensors, with the number of the piece.
fn pieces<'t, 'm: 't, T: 'm>(
    tensors: impl IntoIterator<Item = &'t mut &'m mut [T]>,
    list: TensorList,
    mut body: impl FnMut(usize, &mut [T]),
) {
    for (t, tensor) in tensors.into_iter().enumerate() {
        for (k, piece) in tensor.chunks_mut(list.len.max(1)).enumerate() {
            body(t * list.pieces + k, piece);
        }
    }
}

/// Returns the expected values of piece `p` of the outputs after one run.
fn expected<T: Sample>(set: &Setting<'_>, patterns: &Patterns, p: usize, rotated_root: u32) -> Vec<T> {
    let (me, n) = (set.pg.rank(), set.pg.size() as usize);
    let (mine, of) = (me as usize, |rank, piece| patterns.given(rank, piece));
    match (set.op, set.op.kind().row().shape) {
        (PerfOp::BroadcastRotating, _) => of(rotated_root, p),
        (PerfOp::SendRecv, _) => of(if me < 2 { 0 } else { me }, p),
        (_, Shape::Source) => of(if me == 1 { 0 } else { me }, p),
        (_, Shape::Target) => of(if me == 0 { 1 } else { me }, p),
        (PerfOp::Table(OpKind::Broadcast), _) => of(ROOT, p),
        (PerfOp::Table(OpKind::Reduce), _) if me != ROOT => of(me, p),
        (_, Shape::InPlace | Shape::InPlaceList) => patterns.reduced(p),
        (_, Shape::GatherList | Shape::GatherFlat | Shape::GatherLists | Shape::GatherFlats | Shape::RootGather) => {
            of((p % n) as u32, p / n)
        }
        (_, Shape::ScatterList | Shape::ScatterFlat | Shape::ScatterFlats) => patterns.reduced(p * n + mine),
        (_, Shape::RootScatter) => of(ROOT, mine),
        (_, Shape::ExchangeList | Shape::ExchangeFlat) => of(p as u32, mine),
        (_, Shape::Nothing) => Vec::new(),
    }
}

#[cfg(all(test, feature = "gloo-like"))]
mod tests {
    use super::super::memory::Memory;
    use super::*;

    #[test]
    fn right_results_pass_and_a_call_that_did_nothing_is_noticed() {
        for form in [Form::Blocking, Form::Started, Form::Overlapped(100)] {
            for op in PerfOp::all() {
                let wrong = c10d::run_ranks(3, |pg| {
                    let layout = Layout::of(op, 999, pg.size(), pg.rank() == 0);
                    let (mut inputs, mut outputs) =
                        (Memory::<f32>::new(layout.inputs).unwrap(), Memory::new(layout.outputs).unwrap());
                    let setting = Setting { pg: &pg, op, reduce: ReduceOp::Sum, form, layout };
                    let mut case = Case::new(&setting, inputs.tensors(), outputs.tensors());
                    let mut wrong = case.verify()?;
                    case.ready();
                    (0..4).try_for_each(|i| case.step(i))?;
                    wrong += case.verify_last();
                    case.fill();
                    Ok((wrong, case.wrong(2, false)))
                });
                let (ran, idle): (Vec<u64>, Vec<u64>) = wrong.unwrap().into_iter().unzip();
                assert_eq!(ran, [0, 0, 0], "{}", op.name());
                assert!(op.is_bare() || idle.iter().sum::<u64>() > 0, "{}", op.name());
            }
        }
    }
}
