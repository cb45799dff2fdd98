//! One constructor per op. A call does nothing until a verb of [`ProcessGroup`](crate::ProcessGroup) runs it.
//!
//! Buffers: inputs are anything that implements [`Buf`], outputs [`BufMut`]; all tensors of a call have one element type
//! and lie on one device. A `Vec` of buffers is a list of tensors. Sizes are in elements.
//!
//! # Errors
//!
//! Every op may end with [`InvalidArgument`](crate::ErrorKind::InvalidArgument) or
//! [`Unsupported`](crate::ErrorKind::Unsupported): nothing was sent, and the group goes on. The others name the guilty ranks
//! and fail the group: [`Mismatch`](crate::ErrorKind::Mismatch) if ranks made different calls,
//! [`Timeout`](crate::ErrorKind::Timeout) if a rank did not come or answer in time, and
//! [`PeerDead`](crate::ErrorKind::PeerDead) if one is gone.

use crate::buffer::{
    AtRoot, Both, Buf, BufMut, Each, Gathered, InPlace, Lists, Many, Nothing, One, Root, Rows, Source, SourceKnown,
    Target,
};
use crate::call::Call;
use crate::catalog::{OpKind, Shape};
use crate::options::{
    AllReduceCoalescedOptions, AllReduceOptions, BarrierOptions, BroadcastOptions, MonitoredBarrierOptions, Params,
    RecvOptions, ReduceOptions, ReduceScatterOptions, SendOptions,
};

/// Sends `input` to rank `to`, which must ask for it by the same tag. Messages with one tag arrive in order. Over when
/// the buffer may be used again, which may be before the receiver has it.
pub fn send<I: Buf>(input: I, to: u32, tag: impl Into<SendOptions>) -> Call<Source<I>> {
    let mut call = Call::new(OpKind::Send, tag.into(), Source(input));
    call.params.peer = to;
    call
}

/// Receives into `output` from rank `from`; the sender's count and element type must be the same.
pub fn recv<O: BufMut>(output: O, from: u32, tag: impl Into<RecvOptions>) -> Call<Target<O>> {
    let mut call = Call::new(OpKind::Recv, tag.into(), Target(output));
    call.params.peer = from;
    call
}

/// Receives into `output` from whichever rank sends first with this tag; gives the buffer and the sender's rank.
pub fn recv_any_source<O: BufMut>(output: O, tag: impl Into<RecvOptions>) -> Call<SourceKnown<O>> {
    Call::new(OpKind::RecvAnySource, tag.into(), SourceKnown(output))
}

/// Copies the root's `buffer` into everybody's.
pub fn broadcast<B: BufMut>(buffer: B, root: impl Into<BroadcastOptions>) -> Call<Target<B>> {
    Call::new(OpKind::Broadcast, root.into(), Target(buffer))
}

/// Reduces everybody's `buffer` into the root's; the others' keep their values.
pub fn reduce<B: BufMut>(buffer: B, options: impl Into<ReduceOptions>, root: u32) -> Call<Target<B>> {
    let mut call = Call::new(OpKind::Reduce, options.into(), Target(buffer));
    call.params.root = root;
    call
}

/// Reduces everybody's `buffer`; all get the result, bit for bit the same.
///
/// Of a sparse tensor ([`Coo`](crate::Coo)) the ranks may have different entries, and different numbers of them; the
/// result has those that any rank has, and is coalesced. It is summed; see [`Absent`](crate::options::Absent) for minimum,
/// maximum and product. Shapes must be the same. Sparse and dense calls have numbers of their own: their order may differ
/// between ranks.
pub fn all_reduce<B: InPlace>(buffer: B, options: impl Into<AllReduceOptions>) -> Call<B::Buffers> {
    Call::new(OpKind::AllReduce, options.into(), buffer.into_buffers())
}

/// Reduces several buffers of one element type at once, at the cost of one.
pub fn all_reduce_coalesced<B: BufMut>(
    buffers: Vec<B>,
    options: impl Into<AllReduceCoalescedOptions>,
) -> Call<Each<B>> {
    Call::new(OpKind::AllReduceCoalesced, options.into(), Each(buffers))
}

/// Gathers everybody's `input` into `outputs`, one buffer per rank, in rank order. Lengths may differ between ranks.
pub fn all_gather<I: Buf, O: BufMut>(input: I, outputs: Vec<O>) -> Call<Both<One<I>, Many<O>>> {
    Call::new(OpKind::AllGather, (), Both(One(input), Many(outputs)))
}

/// Gathers into `buffers`, one per rank, in rank order, of which `buffers[rank]`, where `rank` is this one, is what this
/// rank gives. Lengths may differ between ranks.
pub fn all_gather_in_place<B: BufMut>(buffers: Vec<B>, rank: u32) -> Call<Gathered<B>> {
    Call::new(OpKind::AllGather, (), Gathered(buffers, rank as usize))
}

/// Gathers everybody's `input` into `output`, which has world size times its length.
pub fn all_gather_into<I: Buf, O: BufMut>(input: I, output: O) -> Call<Both<One<I>, One<O>>> {
    Call::new(OpKind::AllGatherInto, (), Both(One(input), One(output)))
}

/// [`all_gather`] of several inputs at once: for each a list of outputs, one per rank.
pub fn all_gather_coalesced<I: Buf, O: BufMut>(inputs: Vec<I>, outputs: Vec<Vec<O>>) -> Call<Both<Many<I>, Rows<O>>> {
    Call::new(OpKind::AllGatherCoalesced, (), Both(Many(inputs), Rows(outputs)))
}

/// [`all_gather_into`] of several inputs at once.
pub fn all_gather_into_coalesced<I: Buf, O: BufMut>(inputs: Vec<I>, outputs: Vec<O>) -> Call<Both<Many<I>, Many<O>>> {
    Call::new(OpKind::AllGatherIntoCoalesced, (), Both(Many(inputs), Many(outputs)))
}

/// Reduces the i-th of everybody's `inputs` into rank i's `output`. Lengths may differ between ranks.
pub fn reduce_scatter<I: Buf, O: BufMut>(
    inputs: Vec<I>,
    output: O,
    options: impl Into<ReduceScatterOptions>,
) -> Call<Both<Many<I>, One<O>>> {
    Call::new(OpKind::ReduceScatter, options.into(), Both(Many(inputs), One(output)))
}

/// Reduces everybody's `input`; rank i gets the i-th of world size equal parts.
pub fn reduce_scatter_into<I: Buf, O: BufMut>(
    input: I,
    output: O,
    options: impl Into<ReduceScatterOptions>,
) -> Call<Both<One<I>, One<O>>> {
    Call::new(OpKind::ReduceScatterInto, options.into(), Both(One(input), One(output)))
}

/// [`reduce_scatter_into`] of several inputs at once.
pub fn reduce_scatter_into_coalesced<I: Buf, O: BufMut>(
    inputs: Vec<I>,
    outputs: Vec<O>,
    options: impl Into<ReduceScatterOptions>,
) -> Call<Both<Many<I>, Many<O>>> {
    Call::new(OpKind::ReduceScatterIntoCoalesced, options.into(), Both(Many(inputs), Many(outputs)))
}

/// Gathers everybody's `input` into the root's buffers, one per rank: `Root::Me(buffers)` there, `Root::At(rank)`
/// elsewhere. Lengths may differ between ranks.
pub fn gather<I: Buf, O: BufMut>(input: I, root: Root<Vec<O>>) -> Call<Both<One<I>, AtRoot<O>>> {
    let (outputs, at) = split_root(root);
    let call = Call::new(OpKind::Gather, (), Both(One(input), AtRoot(outputs)));
    at_root(call, at)
}

/// Hands the i-th of the root's buffers to rank i: `Root::Me(buffers)` there, `Root::At(rank)` elsewhere. Lengths may
/// differ between ranks.
pub fn scatter<I: Buf, O: BufMut>(root: Root<Vec<I>>, output: O) -> Call<Both<AtRoot<I>, One<O>>> {
    let (inputs, at) = split_root(root);
    let call = Call::new(OpKind::Scatter, (), Both(AtRoot(inputs), One(output)));
    at_root(call, at)
}

/// Sends the i-th of `inputs` to rank i, which has it as `outputs[this rank]`. Lengths may differ pair by pair.
pub fn all_to_all<I: Buf, O: BufMut>(inputs: Vec<I>, outputs: Vec<O>) -> Call<Both<Many<I>, Many<O>>> {
    Call::new(OpKind::AllToAll, (), Both(Many(inputs), Many(outputs)))
}

/// Sends the i-th part of `input` to rank i, which has it as the part `this rank` of `output`. The parts are equal,
/// unless [`splits`](Call::splits) says otherwise.
pub fn all_to_all_single<I: Buf, O: BufMut>(input: I, output: O) -> Call<Both<One<I>, One<O>>> {
    Call::new(OpKind::AllToAllSingle, (), Both(One(input), One(output)))
}

impl<I, O> Call<Both<One<I>, One<O>>> {
    /// Of [`all_to_all_single`]: elements of the input that go to each rank, and of the output that come from each.
    pub fn splits(mut self, input: &[usize], output: &[usize]) -> Self {
        if self.op == OpKind::AllToAllSingle {
            let rare = self.params.rare();
            (rare.input_splits, rare.output_splits) = (input.to_vec(), output.to_vec());
        } else {
            self.error = Some(crate::Error::invalid(format!("{} has no split sizes", self.op)));
        }
        self
    }
}

/// Waits for all ranks. [`BarrierOptions::default()`] will do.
pub fn barrier(options: impl Into<BarrierOptions>) -> Call<Nothing> {
    Call::new(OpKind::Barrier, options.into(), Nothing)
}

/// Waits for all ranks; if some do not come in time, the error names the first of them
/// ([`Missing::First`](crate::options::Missing)) or all ([`Missing::All`](crate::options::Missing)), on every rank that came.
pub fn monitored_barrier(options: impl Into<MonitoredBarrierOptions>) -> Call<Nothing> {
    Call::new(OpKind::MonitoredBarrier, options.into(), Nothing)
}

/// A call of any op, for code that goes over the table of ops. `inputs` and `outputs` are the op's tensors as lists:
/// in-place ops and receives have outputs alone, a send has one input. A list of lists is given end to end. A root's own
/// lists are empty on the other ranks. Gives the lists back, and the sender's rank, which [`recv_any_source`] alone has.
///
/// ```
/// # use c10d_core::backend::Params;
/// # use c10d_core::{OpKind, op};
/// let mut params = Params::default();
/// params.root = 1;
/// let call = op::any(OpKind::Broadcast, params, Vec::<Vec<f32>>::new(), vec![vec![0f32; 8]]);
/// assert_eq!(call.op(), OpKind::Broadcast);
/// ```
///
/// # Errors
/// As of the op's own constructor; lists of wrong lengths are refused when the call is run.
pub fn any<I: Buf, O: BufMut>(op: OpKind, params: Params, inputs: Vec<I>, outputs: Vec<O>) -> Call<Lists<I, O>> {
    let lists = op.row().shape == Shape::GatherLists && !inputs.is_empty();
    let row = if lists { outputs.len() / inputs.len() } else { 0 };
    Call { op, params, timeout: None, error: None, buffers: Lists { inputs, outputs, row } }
}

fn split_root<B>(root: Root<Vec<B>>) -> (Option<Vec<B>>, u32) {
    match root {
        Root::Me(buffers) => (Some(buffers), Params::ROOT_IS_ME),
        Root::At(rank) => (None, rank),
    }
}

fn at_root<B>(mut call: Call<B>, at: u32) -> Call<B> {
    call.params.root = at;
    call
}
