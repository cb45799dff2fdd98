//! The blocking form of every op as a method. Each method calls `run(op::..)`. If the call fails, the method drops the
//! buffers.

use super::ProcessGroup;
use crate::buffer::{Buf, BufMut, InPlace, Root};
use crate::options::{
    AllReduceCoalescedOptions, AllReduceOptions, BarrierOptions, BroadcastOptions, MonitoredBarrierOptions,
    RecvOptions, ReduceOptions, ReduceScatterOptions, SendOptions,
};
use crate::{Result, op};

impl ProcessGroup {
    /// Sends `input` to rank `to`, which receives it by [`recv`](Self::recv) or
    /// [`recv_any_source`](Self::recv_any_source) with the same tag.
    ///
    /// Messages between two ranks with the same tag arrive in the order in which they were sent. Messages with
    /// different tags do not wait for each other. `send` returns `input` as soon as the caller may use `input` again. A
    /// message with zero elements is sent and must be received like any other.
    ///
    /// # Errors
    /// The errors of [every op](crate::op#errors). `InvalidArgument` if `to` is this rank. `Timeout` names the receiver
    /// if the receiver did not receive the message in time. If the receiver expects another count or element type, the
    /// receiver gets a `Mismatch`, which fails the group. If `send` has returned by then, a later call of this rank
    /// returns the error.
    ///
    /// # Example
    /// ```
    /// # fn main() -> c10d::Result<()> {
    /// c10d::run_ranks(2, |pg| {
    ///     match pg.rank() {
    ///         0 => drop(pg.send(&[1.5f32, 2.5][..], 1, 7)?),
    ///         _ => {
    ///             let mut message = [0f32; 2];
    ///             pg.recv(&mut message[..], 0, 7)?;
    ///             assert_eq!(message, [1.5, 2.5]);
    ///         }
    ///     }
    ///     Ok(())
    /// })?;
    /// # Ok(()) }
    /// ```
    #[inline]
    pub fn send<I: Buf>(&self, input: I, to: u32, tag: impl Into<SendOptions>) -> Result<I> {
        Ok(self.run(op::send(input, to, tag))?)
    }

    /// Receives into `output` the next message that rank `from` sent to this rank with this tag.
    ///
    /// The message must have the same number of elements as `output`, and the same element type.
    ///
    /// # Errors
    /// The errors of [every op](crate::op#errors). `Mismatch` of `count` or `dtype` if count or element type of the
    /// message differ from those of `output`. `PeerDead` if the sender ended without having sent such a message.
    ///
    /// # Example
    /// ```
    /// # fn main() -> c10d::Result<()> {
    /// c10d::run_ranks(2, |pg| {
    ///     if pg.rank() == 1 {
    ///         pg.send(&[10u64, 20, 30][..], 0, 0)?;
    ///     } else {
    ///         let message = pg.recv(vec![0u64; 3], 1, 0)?;
    ///         assert_eq!(message, [10, 20, 30]);
    ///     }
    ///     Ok(())
    /// })?;
    /// # Ok(()) }
    /// ```
    #[inline]
    pub fn recv<O: BufMut>(&self, output: O, from: u32, tag: impl Into<RecvOptions>) -> Result<O> {
        Ok(self.run(op::recv(output, from, tag))?)
    }

    /// Receives into `output` the first message with this tag, from any rank. Returns `output`, and the sender's rank.
    ///
    /// Messages of one sender arrive in order. If several ranks send, the order of their messages is not specified.
    ///
    /// # Errors
    /// The errors of [every op](crate::op#errors). `Unsupported` from backends that cannot wait for several ranks, such
    /// as NCCL. `Mismatch` if count or element type of the message differ from those of `output`.
    ///
    /// # Example
    /// ```
    /// # fn main() -> c10d::Result<()> {
    /// c10d::run_ranks(3, |pg| {
    ///     if pg.rank() == 0 {
    ///         let mut from = Vec::new();
    ///         for _ in 1..pg.size() {
    ///             let mut number = [0u32];
    ///             let (_, sender) = pg.recv_any_source(&mut number[..], 0)?;
    ///             assert_eq!(number[0], sender * 10);
    ///             from.push(sender);
    ///         }
    ///         from.sort();
    ///         assert_eq!(from, [1, 2]);
    ///     } else {
    ///         pg.send(&[pg.rank() * 10][..], 0, 0)?;
    ///     }
    ///     Ok(())
    /// })?;
    /// # Ok(()) }
    /// ```
    #[inline]
    pub fn recv_any_source<O: BufMut>(&self, output: O, tag: impl Into<RecvOptions>) -> Result<(O, u32)> {
        Ok(self.run(op::recv_any_source(output, tag))?)
    }

    /// Copies the `buffer` of rank `root` into the `buffer` of every other rank.
    ///
    /// All ranks must pass the same number of elements of the same type. Every rank except the root returns when its
    /// buffer holds the values. The root may return before the other ranks have the values.
    ///
    /// # Errors
    /// The errors of [every op](crate::op#errors). `InvalidArgument` if there is no rank `root`. `Mismatch` of `root`
    /// if ranks name different roots.
    ///
    /// # Example
    /// ```
    /// # fn main() -> c10d::Result<()> {
    /// c10d::run_ranks(3, |pg| {
    ///     let mut settings = if pg.rank() == 0 { [3, 1, 4] } else { [0; 3] };
    ///     pg.broadcast(&mut settings[..], 0)?;
    ///     assert_eq!(settings, [3, 1, 4]);
    ///     Ok(())
    /// })?;
    /// # Ok(()) }
    /// ```
    #[inline]
    pub fn broadcast<B: BufMut>(&self, buffer: B, root: impl Into<BroadcastOptions>) -> Result<B> {
        Ok(self.run(op::broadcast(buffer, root))?)
    }

    /// Reduces the buffers of all ranks, element by element, into the buffer of rank `root`. The buffers of other ranks
    /// do not change.
    ///
    /// All ranks must pass the same number of elements of the same type, and the same reduce operation.
    ///
    /// # Errors
    /// The errors of [every op](crate::op#errors). `InvalidArgument` if there is no rank `root`, or if the operation is
    /// not defined on the element type. `Mismatch` of `root` or `reduce_op` if these differ between ranks.
    ///
    /// # Example
    /// ```
    /// # fn main() -> c10d::Result<()> {
    /// # use c10d::ReduceOp;
    /// c10d::run_ranks(3, |pg| {
    ///     let mut x = [pg.rank() as f32, 1.0];
    ///     pg.reduce(&mut x[..], ReduceOp::Sum, 2)?;
    ///     if pg.rank() == 2 {
    ///         assert_eq!(x, [3.0, 3.0]);
    ///     }
    ///     Ok(())
    /// })?;
    /// # Ok(()) }
    /// ```
    #[inline]
    pub fn reduce<B: BufMut>(&self, buffer: B, options: impl Into<ReduceOptions>, root: u32) -> Result<B> {
        Ok(self.run(op::reduce(buffer, options, root))?)
    }

    /// Reduces the buffers of all ranks, element by element. Every rank gets a bit-identical result.
    ///
    /// All ranks must pass the same number of elements of the same type, and the same reduce operation. A [sparse
    /// tensor](crate::Coo) may have different entries on each rank; see [`op::all_reduce`].
    ///
    /// # Errors
    /// The errors of [every op](crate::op#errors). `InvalidArgument` if the operation is not defined on the element
    /// type. `Mismatch` of `count`, `dtype` or `reduce_op` if these differ between ranks; then no buffer has changed.
    ///
    /// # Example
    /// ```
    /// # fn main() -> c10d::Result<()> {
    /// # use c10d::ReduceOp;
    /// c10d::run_ranks(3, |pg| {
    ///     let mut x = vec![pg.rank() as f32; 1000];
    ///     pg.all_reduce(&mut x, ReduceOp::Avg)?;
    ///     assert_eq!(x, [1.0; 1000]);
    ///     Ok(())
    /// })?;
    /// # Ok(()) }
    /// ```
    #[inline]
    pub fn all_reduce<B: InPlace>(&self, buffer: B, options: impl Into<AllReduceOptions>) -> Result<B> {
        Ok(self.run(op::all_reduce(buffer, options))?)
    }

    /// The same as [`all_reduce`](Self::all_reduce), for several buffers at about the cost of one.
    ///
    /// All buffers must have the same element type. Their lengths may differ from each other, but must be the same on
    /// all ranks.
    ///
    /// # Errors
    /// The same as for `all_reduce`.
    ///
    /// # Example
    /// ```
    /// # fn main() -> c10d::Result<()> {
    /// # use c10d::ReduceOp;
    /// c10d::run_ranks(3, |pg| {
    ///     let (mut weights, mut bias) = (vec![1.0f32; 100], vec![pg.rank() as f32; 3]);
    ///     pg.all_reduce_coalesced(vec![&mut weights[..], &mut bias[..]], ReduceOp::Sum)?;
    ///     assert_eq!((weights[0], bias[0]), (3.0, 3.0));
    ///     Ok(())
    /// })?;
    /// # Ok(()) }
    /// ```
    #[inline]
    pub fn all_reduce_coalesced<B: BufMut>(
        &self,
        buffers: Vec<B>,
        options: impl Into<AllReduceCoalescedOptions>,
    ) -> Result<Vec<B>> {
        Ok(self.run(op::all_reduce_coalesced(buffers, options))?)
    }

    /// Gathers the `input` of every rank on every rank: `outputs[r]` gets the input of rank `r`.
    ///
    /// `outputs` has one buffer per rank, with the length of that rank's input. The lengths of the inputs may differ
    /// between ranks.
    ///
    /// # Errors
    /// The errors of [every op](crate::op#errors). `Mismatch` of `count` if the length of an `outputs[r]` differs from
    /// that of rank `r`'s input.
    ///
    /// # Example
    /// ```
    /// # fn main() -> c10d::Result<()> {
    /// c10d::run_ranks(3, |pg| {
    ///     let mine = vec![pg.rank(); pg.rank() as usize];
    ///     let outputs = (0..pg.size()).map(|r| vec![0u32; r as usize]).collect();
    ///     let (_, all) = pg.all_gather(&mine, outputs)?;
    ///     assert_eq!(all, [vec![], vec![1], vec![2, 2]]);
    ///     Ok(())
    /// })?;
    /// # Ok(()) }
    /// ```
    #[inline]
    pub fn all_gather<I: Buf, O: BufMut>(&self, input: I, outputs: Vec<O>) -> Result<(I, Vec<O>)> {
        Ok(self.run(op::all_gather(input, outputs))?)
    }

    /// Gathers the `input` of every rank into one `output` on every rank, in rank order.
    ///
    /// All inputs must have the same length; the length of `output` is world size times that length.
    ///
    /// # Errors
    /// The errors of [every op](crate::op#errors). `InvalidArgument` if `output` has another length.
    ///
    /// # Example
    /// ```
    /// # fn main() -> c10d::Result<()> {
    /// c10d::run_ranks(3, |pg| {
    ///     let mut all = [0u32; 6];
    ///     pg.all_gather_into(&[pg.rank(), 9][..], &mut all[..])?;
    ///     assert_eq!(all, [0, 9, 1, 9, 2, 9]);
    ///     Ok(())
    /// })?;
    /// # Ok(()) }
    /// ```
    #[inline]
    pub fn all_gather_into<I: Buf, O: BufMut>(&self, input: I, output: O) -> Result<(I, O)> {
        Ok(self.run(op::all_gather_into(input, output))?)
    }

    /// The same as [`all_gather`](Self::all_gather), for several inputs at about the cost of one: `outputs[i][r]` gets
    /// the `inputs[i]` of rank `r`.
    ///
    /// # Errors
    /// The same as for `all_gather`.
    ///
    /// # Example
    /// ```
    /// # fn main() -> c10d::Result<()> {
    /// c10d::run_ranks(2, |pg| {
    ///     let inputs = vec![vec![pg.rank()], vec![7, 8]];
    ///     let outputs = vec![vec![vec![0u32; 1]; 2], vec![vec![0u32; 2]; 2]];
    ///     let (_, outputs) = pg.all_gather_coalesced(inputs, outputs)?;
    ///     assert_eq!(outputs, [vec![vec![0], vec![1]], vec![vec![7, 8]; 2]]);
    ///     Ok(())
    /// })?;
    /// # Ok(()) }
    /// ```
    #[inline]
    pub fn all_gather_coalesced<I: Buf, O: BufMut>(
        &self,
        inputs: Vec<I>,
        outputs: Vec<Vec<O>>,
    ) -> Result<(Vec<I>, Vec<Vec<O>>)> {
        Ok(self.run(op::all_gather_coalesced(inputs, outputs))?)
    }

    /// The same as [`all_gather_into`](Self::all_gather_into), for several inputs at about the cost of one.
    ///
    /// The length of `outputs[i]` is world size times the length of `inputs[i]`.
    ///
    /// # Errors
    /// The same as for `all_gather_into`.
    ///
    /// # Example
    /// ```
    /// # fn main() -> c10d::Result<()> {
    /// c10d::run_ranks(2, |pg| {
    ///     let inputs = vec![vec![pg.rank()], vec![7, 8]];
    ///     let (_, outputs) = pg.all_gather_into_coalesced(inputs, vec![vec![0u32; 2], vec![0u32; 4]])?;
    ///     assert_eq!(outputs, [vec![0, 1], vec![7, 8, 7, 8]]);
    ///     Ok(())
    /// })?;
    /// # Ok(()) }
    /// ```
    #[inline]
    pub fn all_gather_into_coalesced<I: Buf, O: BufMut>(
        &self,
        inputs: Vec<I>,
        outputs: Vec<O>,
    ) -> Result<(Vec<I>, Vec<O>)> {
        Ok(self.run(op::all_gather_into_coalesced(inputs, outputs))?)
    }

    /// Reduces the `inputs[r]` of all ranks, element by element, into the `output` of rank `r`.
    ///
    /// `inputs` has one buffer per rank. Their lengths may differ from each other, but must be the same on all ranks.
    /// `output` has the length of `inputs[rank]`.
    ///
    /// # Errors
    /// The errors of [every op](crate::op#errors). `Mismatch` if lengths, element type or reduce operation differ
    /// between ranks.
    ///
    /// # Example
    /// ```
    /// # fn main() -> c10d::Result<()> {
    /// # use c10d::ReduceOp;
    /// c10d::run_ranks(3, |pg| {
    ///     let inputs = (0..pg.size()).map(|r| vec![r as i64; 1 + r as usize]).collect();
    ///     let (_, sum) = pg.reduce_scatter(inputs, vec![0; 1 + pg.rank() as usize], ReduceOp::Sum)?;
    ///     assert!(sum.iter().all(|&x| x == 3 * i64::from(pg.rank())));
    ///     Ok(())
    /// })?;
    /// # Ok(()) }
    /// ```
    #[inline]
    pub fn reduce_scatter<I: Buf, O: BufMut>(
        &self,
        inputs: Vec<I>,
        output: O,
        options: impl Into<ReduceScatterOptions>,
    ) -> Result<(Vec<I>, O)> {
        Ok(self.run(op::reduce_scatter(inputs, output, options))?)
    }

    /// Reduces the `input` of all ranks, element by element. The result is cut into as many equal parts as there are
    /// ranks, and rank `r` gets part `r` in its `output`.
    ///
    /// The length of `input` is world size times the length of `output`.
    ///
    /// # Errors
    /// The errors of [every op](crate::op#errors). `InvalidArgument` if `input` has another length, or if the operation
    /// is not defined on the element type.
    ///
    /// # Example
    /// ```
    /// # fn main() -> c10d::Result<()> {
    /// # use c10d::ReduceOp;
    /// c10d::run_ranks(3, |pg| {
    ///     let mut part = [0.0];
    ///     pg.reduce_scatter_into(&[1.0, 2.0, 3.0][..], &mut part[..], ReduceOp::Sum)?;
    ///     assert_eq!(part[0], 3.0 * (1.0 + pg.rank() as f64));
    ///     Ok(())
    /// })?;
    /// # Ok(()) }
    /// ```
    #[inline]
    pub fn reduce_scatter_into<I: Buf, O: BufMut>(
        &self,
        input: I,
        output: O,
        options: impl Into<ReduceScatterOptions>,
    ) -> Result<(I, O)> {
        Ok(self.run(op::reduce_scatter_into(input, output, options))?)
    }

    /// The same as [`reduce_scatter_into`](Self::reduce_scatter_into), for several inputs at about the cost of one.
    ///
    /// The length of `inputs[i]` is world size times the length of `outputs[i]`.
    ///
    /// # Errors
    /// The same as for `reduce_scatter_into`.
    ///
    /// # Example
    /// ```
    /// # fn main() -> c10d::Result<()> {
    /// # use c10d::ReduceOp;
    /// c10d::run_ranks(2, |pg| {
    ///     let inputs = vec![vec![1, 2], vec![10, 20, 30, 40]];
    ///     let (_, parts) = pg.reduce_scatter_into_coalesced(inputs, vec![vec![0; 1], vec![0; 2]], ReduceOp::Max)?;
    ///     assert_eq!(parts, if pg.rank() == 0 { [vec![1], vec![10, 20]] } else { [vec![2], vec![30, 40]] });
    ///     Ok(())
    /// })?;
    /// # Ok(()) }
    /// ```
    #[inline]
    pub fn reduce_scatter_into_coalesced<I: Buf, O: BufMut>(
        &self,
        inputs: Vec<I>,
        outputs: Vec<O>,
        options: impl Into<ReduceScatterOptions>,
    ) -> Result<(Vec<I>, Vec<O>)> {
        Ok(self.run(op::reduce_scatter_into_coalesced(inputs, outputs, options))?)
    }

    /// Gathers the `input` of every rank on one rank, the root.
    ///
    /// The root passes `Root::Me(outputs)`, with one buffer for each rank. Each buffer has the length of that rank's
    /// input. All other ranks pass `Root::At(root)`. The lengths of the inputs may differ between ranks.
    ///
    /// # Errors
    /// The errors of [every op](crate::op#errors). `Mismatch` of `root` if ranks name different roots, or if no rank or
    /// several ranks are the root. `Mismatch` of `count` if the length of the root's output for a rank differs from the
    /// length of that rank's input.
    ///
    /// # Example
    /// ```
    /// # fn main() -> c10d::Result<()> {
    /// # use c10d::Root;
    /// c10d::run_ranks(3, |pg| {
    ///     let root = if pg.rank() == 1 { Root::Me(vec![vec![0u32]; 3]) } else { Root::At(1) };
    ///     let (_, gathered) = pg.gather(&[pg.rank() * 2][..], root)?;
    ///     if let Some(gathered) = gathered {
    ///         assert_eq!(gathered, [[0], [2], [4]]);
    ///     }
    ///     Ok(())
    /// })?;
    /// # Ok(()) }
    /// ```
    #[inline]
    pub fn gather<I: Buf, O: BufMut>(&self, input: I, root: Root<Vec<O>>) -> Result<(I, Option<Vec<O>>)> {
        Ok(self.run(op::gather(input, root))?)
    }

    /// Sends each rank one of the root's buffers: `output` of rank `r` gets the root's `inputs[r]`.
    ///
    /// The root passes `Root::Me(inputs)`, with one buffer for each rank. All other ranks pass `Root::At(root)`. The
    /// lengths of the root's buffers may differ from each other.
    ///
    /// # Errors
    /// The errors of [every op](crate::op#errors). `Mismatch` of `root` if ranks name different roots, or if no rank or
    /// several ranks are the root. `Mismatch` of `count` if the length of a rank's output differs from that of the
    /// root's input for the rank.
    ///
    /// # Example
    /// ```
    /// # fn main() -> c10d::Result<()> {
    /// # use c10d::Root;
    /// c10d::run_ranks(3, |pg| {
    ///     let parts = vec![vec![1.0], vec![2.0], vec![3.0]];
    ///     let root = if pg.rank() == 0 { Root::Me(parts) } else { Root::At(0) };
    ///     let (_, part) = pg.scatter(root, vec![0.0])?;
    ///     assert_eq!(part, [1.0 + f64::from(pg.rank())]);
    ///     Ok(())
    /// })?;
    /// # Ok(()) }
    /// ```
    #[inline]
    pub fn scatter<I: Buf, O: BufMut>(&self, root: Root<Vec<I>>, output: O) -> Result<(Option<Vec<I>>, O)> {
        Ok(self.run(op::scatter(root, output))?)
    }

    /// Sends `inputs[r]` to rank `r`, for every `r`. `outputs[r]` gets the buffer that rank `r` sent to this rank.
    ///
    /// Both lists have one buffer per rank. The length of `inputs[r]` must be equal to the length of
    /// `outputs[this rank]` on rank `r`; different pairs of ranks may have different lengths.
    ///
    /// # Errors
    /// The errors of [every op](crate::op#errors). `Mismatch` of `count` for a pair of ranks whose lengths differ.
    ///
    /// # Example
    /// ```
    /// # fn main() -> c10d::Result<()> {
    /// c10d::run_ranks(3, |pg| {
    ///     let inputs = (0..3).map(|r| vec![10 * pg.rank() + r]).collect();
    ///     let (_, outputs) = pg.all_to_all(inputs, vec![vec![0u32]; 3])?;
    ///     assert_eq!(outputs[2], [20 + pg.rank()]);
    ///     Ok(())
    /// })?;
    /// # Ok(()) }
    /// ```
    #[inline]
    pub fn all_to_all<I: Buf, O: BufMut>(&self, inputs: Vec<I>, outputs: Vec<O>) -> Result<(Vec<I>, Vec<O>)> {
        Ok(self.run(op::all_to_all(inputs, outputs))?)
    }

    /// Sends part `r` of `input` to rank `r`, for every `r`. Part `r` of `output` gets the part that rank `r` sent to
    /// this rank.
    ///
    /// The parts are equal, so the lengths of `input` and `output` must be multiples of the world size. For parts of
    /// different sizes use [`Call::splits`](crate::Call::splits).
    ///
    /// # Errors
    /// The errors of [every op](crate::op#errors). `InvalidArgument` if a length is not a multiple of the world size.
    ///
    /// # Example
    /// ```
    /// # fn main() -> c10d::Result<()> {
    /// # use c10d::op;
    /// c10d::run_ranks(2, |pg| {
    ///     let mut received = [0; 2];
    ///     pg.all_to_all_single(&[pg.rank() * 10, pg.rank() * 10 + 1][..], &mut received[..])?;
    ///     assert_eq!(received, [pg.rank(), 10 + pg.rank()]);
    ///
    ///     // Rank 0 sends three elements to rank 1. Rank 1 sends one element to itself.
    ///     let (input, splits) = if pg.rank() == 0 { (vec![1, 2, 3], [0, 3]) } else { (vec![9], [0, 1]) };
    ///     let (output, from) = if pg.rank() == 0 { (vec![], [0, 0]) } else { (vec![0; 4], [3, 1]) };
    ///     let (_, output) = pg.run(op::all_to_all_single(input, output).splits(&splits, &from))?;
    ///     assert_eq!(output, if pg.rank() == 0 { vec![] } else { vec![1, 2, 3, 9] });
    ///     Ok(())
    /// })?;
    /// # Ok(()) }
    /// ```
    #[inline]
    pub fn all_to_all_single<I: Buf, O: BufMut>(&self, input: I, output: O) -> Result<(I, O)> {
        Ok(self.run(op::all_to_all_single(input, output))?)
    }

    /// Waits until every rank has called `barrier`.
    ///
    /// # Errors
    /// The errors of [every op](crate::op#errors). `Timeout` names the ranks that have not called it.
    ///
    /// # Example
    /// ```
    /// # fn main() -> c10d::Result<()> {
    /// c10d::run_ranks(3, |pg| {
    ///     // Each rank writes its part of a file here.
    ///     pg.barrier()?;
    ///     // All parts of the file are written.
    ///     Ok(())
    /// })?;
    /// # Ok(()) }
    /// ```
    #[inline]
    pub fn barrier(&self) -> Result {
        Ok(self.run(op::barrier(BarrierOptions::default()))?)
    }

    /// Waits until every rank has called `monitored_barrier`. If some ranks do not call it in time, the other ranks get
    /// an error.
    ///
    /// The error names the first missing rank, or all missing ranks with
    /// [`with_wait_all_ranks(true)`](crate::options::MonitoredBarrierOptions::with_wait_all_ranks).
    ///
    /// # Errors
    /// The errors of [every op](crate::op#errors). `Timeout` names the missing ranks.
    ///
    /// # Example
    /// ```
    /// # fn main() -> c10d::Result<()> {
    /// # use c10d::options::MonitoredBarrierOptions;
    /// c10d::run_ranks(3, |pg| {
    ///     pg.monitored_barrier(MonitoredBarrierOptions::default().with_wait_all_ranks(true))?;
    ///     Ok(())
    /// })?;
    /// # Ok(()) }
    /// ```
    #[inline]
    pub fn monitored_barrier(&self, options: impl Into<MonitoredBarrierOptions>) -> Result {
        Ok(self.run(op::monitored_barrier(options))?)
    }
}
