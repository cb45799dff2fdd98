//! One constructor per op. A call does nothing until it is passed to `run` or `start` of
//! [`ProcessGroup`](crate::ProcessGroup).
//!
//! Inputs may be of any type that implements [`Buf`], outputs of any type that implements [`BufMut`]. All tensors of a
//! call have one element type and are on one device. A `Vec` of buffers is a list of tensors. Sizes are in elements.
//!
//! # Errors
//!
//! Every op may end with [`InvalidArgument`](crate::ErrorKind::InvalidArgument) or
//! [`Unsupported`](crate::ErrorKind::Unsupported). In both cases no result was written, and the group can still be
//! used. Except in a sparse call, no data was sent. For any other error, its status says whether the group has failed.
//! The most frequent of these errors name the guilty ranks: [`Mismatch`](crate::ErrorKind::Mismatch) if ranks made
//! different calls, [`Timeout`](crate::ErrorKind::Timeout) if a rank did not make its call or answer in time, and
//! [`PeerDead`](crate::ErrorKind::PeerDead) if a rank died or left.

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

/// Sends `input` to rank `to`, which must receive it with the same tag. Messages with one tag arrive in order. The call
/// is done when the caller may use the buffer again, perhaps before the receiver gets the message.
#[inline]
pub fn send<I: Buf>(input: I, to: u32, tag: impl Into<SendOptions>) -> Call<Source<I>> {
    let mut call = Call::new(OpKind::Send, tag.into(), Source(input));
    call.params.peer = to;
    call
}

/// Receives a message from rank `from` into `output`. The sender's count and element type must be the same.
#[inline]
pub fn recv<O: BufMut>(output: O, from: u32, tag: impl Into<RecvOptions>) -> Call<Target<O>> {
    let mut call = Call::new(OpKind::Recv, tag.into(), Target(output));
    call.params.peer = from;
    call
}

/// Receives into `output` the first message with this tag from any rank; returns the buffer and the sender's rank.
#[inline]
pub fn recv_any_source<O: BufMut>(output: O, tag: impl Into<RecvOptions>) -> Call<SourceKnown<O>> {
    Call::new(OpKind::RecvAnySource, tag.into(), SourceKnown(output))
}

/// Copies the root's `buffer` into the `buffer` of every rank.
#[inline]
pub fn broadcast<B: BufMut>(buffer: B, root: impl Into<BroadcastOptions>) -> Call<Target<B>> {
    Call::new(OpKind::Broadcast, root.into(), Target(buffer))
}

/// Reduces the `buffer` of all ranks into the `buffer` of the root. The other ranks' buffers keep their values.
#[inline]
pub fn reduce<B: BufMut>(buffer: B, options: impl Into<ReduceOptions>, root: u32) -> Call<Target<B>> {
    let mut call = Call::new(OpKind::Reduce, options.into(), Target(buffer));
    call.params.root = root;
    call
}

/// Reduces the `buffer` of all ranks. All ranks get a bit-identical result.
///
/// If the buffer is a sparse tensor ([`Coo`](crate::Coo)), the entries and their number may differ between ranks, but
/// the shape must be the same. The result is coalesced. The result has every entry that at least one rank has or, if
/// the option `sparse_indices` is set, the entries at these indices. Entries are summed; for minimum, maximum and
/// product see [`Absent`](crate::options::Absent). The order of a sparse call relative to dense calls may differ
/// between ranks.
#[inline]
pub fn all_reduce<B: InPlace>(buffer: B, options: impl Into<AllReduceOptions>) -> Call<B::Buffers> {
    Call::new(OpKind::AllReduce, options.into(), buffer.into_buffers())
}

/// Reduces several buffers of one element type at about the cost of one.
#[inline]
pub fn all_reduce_coalesced<B: BufMut>(
    buffers: Vec<B>,
    options: impl Into<AllReduceCoalescedOptions>,
) -> Call<Each<B>> {
    Call::new(OpKind::AllReduceCoalesced, options.into(), Each(buffers))
}

/// Gathers the `input` of all ranks into `outputs`, one buffer per rank, in rank order. Lengths may differ between
/// ranks.
#[inline]
pub fn all_gather<I: Buf, O: BufMut>(input: I, outputs: Vec<O>) -> Call<Both<One<I>, Many<O>>> {
    Call::new(OpKind::AllGather, (), Both(One(input), Many(outputs)))
}

/// Gathers one buffer of each rank into `buffers`, in rank order. `rank` is this rank, and `buffers[rank]` is its
/// input. Lengths may differ between ranks.
#[inline]
pub fn all_gather_in_place<B: BufMut>(buffers: Vec<B>, rank: u32) -> Call<Gathered<B>> {
    Call::new(OpKind::AllGather, (), Gathered(buffers, rank as usize))
}

/// Gathers the `input` of all ranks into `output`, whose length is the world size times the length of `input`.
#[inline]
pub fn all_gather_into<I: Buf, O: BufMut>(input: I, output: O) -> Call<Both<One<I>, One<O>>> {
    Call::new(OpKind::AllGatherInto, (), Both(One(input), One(output)))
}

/// The same as [`all_gather`], for several inputs at once. Each input has a list of outputs, one per rank.
#[inline]
pub fn all_gather_coalesced<I: Buf, O: BufMut>(inputs: Vec<I>, outputs: Vec<Vec<O>>) -> Call<Both<Many<I>, Rows<O>>> {
    Call::new(OpKind::AllGatherCoalesced, (), Both(Many(inputs), Rows(outputs)))
}

/// The same as [`all_gather_into`], for several inputs at once.
#[inline]
pub fn all_gather_into_coalesced<I: Buf, O: BufMut>(inputs: Vec<I>, outputs: Vec<O>) -> Call<Both<Many<I>, Many<O>>> {
    Call::new(OpKind::AllGatherIntoCoalesced, (), Both(Many(inputs), Many(outputs)))
}

/// Reduces the i-th input of all ranks into the `output` of rank i. The inputs of a rank may have different lengths.
#[inline]
pub fn reduce_scatter<I: Buf, O: BufMut>(
    inputs: Vec<I>,
    output: O,
    options: impl Into<ReduceScatterOptions>,
) -> Call<Both<Many<I>, One<O>>> {
    Call::new(OpKind::ReduceScatter, options.into(), Both(Many(inputs), One(output)))
}

/// Reduces the `input` of all ranks, and cuts the result into equal parts. Rank i gets the i-th part.
#[inline]
pub fn reduce_scatter_into<I: Buf, O: BufMut>(
    input: I,
    output: O,
    options: impl Into<ReduceScatterOptions>,
) -> Call<Both<One<I>, One<O>>> {
    Call::new(OpKind::ReduceScatterInto, options.into(), Both(One(input), One(output)))
}

/// The same as [`reduce_scatter_into`], for several inputs at once.
#[inline]
pub fn reduce_scatter_into_coalesced<I: Buf, O: BufMut>(
    inputs: Vec<I>,
    outputs: Vec<O>,
    options: impl Into<ReduceScatterOptions>,
) -> Call<Both<Many<I>, Many<O>>> {
    Call::new(OpKind::ReduceScatterIntoCoalesced, options.into(), Both(Many(inputs), Many(outputs)))
}

/// Gathers the `input` of all ranks into the root's buffers, one per rank. The root passes `Root::Me(buffers)`, the
/// others `Root::At(root)`. Lengths may differ between ranks.
#[inline]
pub fn gather<I: Buf, O: BufMut>(input: I, root: Root<Vec<O>>) -> Call<Both<One<I>, AtRoot<O>>> {
    let (outputs, at) = split_root(root);
    let call = Call::new(OpKind::Gather, (), Both(One(input), AtRoot(outputs)));
    at_root(call, at)
}

/// Sends the i-th of the root's buffers to rank i. The root passes `Root::Me(buffers)`, the others `Root::At(root)`.
/// Lengths may differ between ranks.
#[inline]
pub fn scatter<I: Buf, O: BufMut>(root: Root<Vec<I>>, output: O) -> Call<Both<AtRoot<I>, One<O>>> {
    let (inputs, at) = split_root(root);
    let call = Call::new(OpKind::Scatter, (), Both(AtRoot(inputs), One(output)));
    at_root(call, at)
}

/// Sends the i-th of `inputs` to rank i, for every i. The buffer that rank i sent arrives in the i-th of `outputs`.
/// Lengths may differ for each pair of ranks.
#[inline]
pub fn all_to_all<I: Buf, O: BufMut>(inputs: Vec<I>, outputs: Vec<O>) -> Call<Both<Many<I>, Many<O>>> {
    Call::new(OpKind::AllToAll, (), Both(Many(inputs), Many(outputs)))
}

/// Sends the i-th part of `input` to rank i, for every i. The part that rank i sent arrives in the i-th part of
/// `output`. The parts are equal unless [`splits`](Call::splits) sets their lengths.
#[inline]
pub fn all_to_all_single<I: Buf, O: BufMut>(input: I, output: O) -> Call<Both<One<I>, One<O>>> {
    Call::new(OpKind::AllToAllSingle, (), Both(One(input), One(output)))
}

impl<I, O> Call<Both<One<I>, One<O>>> {
    /// Sets the split sizes of [`all_to_all_single`]: the number of elements of the input for each rank, and the number
    /// of elements of the output from each rank.
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

/// Waits until all ranks have made this call. Pass [`BarrierOptions::default()`] unless a device must be chosen.
#[inline]
pub fn barrier(options: impl Into<BarrierOptions>) -> Call<Nothing> {
    Call::new(OpKind::Barrier, options.into(), Nothing)
}

/// Waits until all ranks have made this call. If ranks are missing at the deadline, the ranks that made the call get an
/// error that names the first missing rank ([`Missing::First`](crate::options::Missing)) or all missing ranks
/// ([`Missing::All`](crate::options::Missing)).
#[inline]
pub fn monitored_barrier(options: impl Into<MonitoredBarrierOptions>) -> Call<Nothing> {
    Call::new(OpKind::MonitoredBarrier, options.into(), Nothing)
}

/// Makes a call of any op, for code that iterates over the table of ops. `inputs` and `outputs` are the op's tensors as
/// lists: in-place ops and receives have only outputs, a send has one input. A list of lists is concatenated. On ranks
/// other than the root, lists that only the root has are empty. The call returns the lists and the sender's rank, which
/// is valid only for [`recv_any_source`].
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
/// This function returns no error. A call whose lists have wrong lengths is rejected when it is run.
#[inline]
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
