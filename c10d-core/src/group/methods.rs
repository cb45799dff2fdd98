//! The blocking form of every op, as a method: the same as `run(op::..)`, except that the buffers are dropped on
//! errors.

use super::ProcessGroup;
use crate::buffer::{Buf, BufMut, InPlace, Root};
use crate::options::{
    AllReduceCoalescedOptions, AllReduceOptions, BarrierOptions, BroadcastOptions, MonitoredBarrierOptions,
    RecvOptions, ReduceOptions, ReduceScatterOptions, SendOptions,
};
use crate::{Result, op};

impl ProcessGroup {
    /// Sends `input` to rank `to`, which receives it by [`recv`](Self::recv) or [`recv_any_source`](Self::recv_any_source)
    /// with the same tag.
    ///
    /// Messages between two ranks with the same tag arrive in the order in which they were sent. Messages with different
    /// tags do not wait for each other. `send` returns when `input` may be used again, which may be before the receiver
    /// has the message; it gives `input` back. A message of zero elements is a message.
    ///
    /// # Errors
    /// Those of [every op](crate::op#errors). `InvalidArgument` if `to` is this rank. `Timeout` names the receiver that
    /// did not take the message. If the receiver expects another count or element type, it gets a `Mismatch`.
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

    /// Receives into `output` the next message that rank `from` sent to this one with this tag.
    ///
    /// The message must have as many elements as `output`, and its element type. Returns when the message is in `output`,
    /// and gives `output` back.
    ///
    /// # Errors
    /// Those of [every op](crate::op#errors). `Mismatch` of `count` or `dtype` on both ranks if the message is another one
    /// than `output` expects. `PeerDead` if the sender ended and left no such message.
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
    /// Messages of one sender arrive in order. Which of several senders comes first is not determined.
    ///
    /// # Errors
    /// Those of [every op](crate::op#errors). `Unsupported` over backends that cannot wait for several ranks, such as
    /// NCCL. `Mismatch` if the message has another count or element type than `output`.
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

    /// Copies the `buffer` of rank `root` into that of every other rank.
    ///
    /// All ranks give the same number of elements of the same type. Returns when this rank's buffer holds the values (at
    /// the root: when it may be changed again), and gives the buffer back. The root may be done before the others have the
    /// values.
    ///
    /// # Errors
    /// Those of [every op](crate::op#errors). `InvalidArgument` if there is no rank `root`. `Mismatch` of `root` where
    /// ranks name different roots.
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

    /// Reduces the buffers of all ranks, element by element, into that of rank `root`. The other ranks' buffers keep their
    /// values.
    ///
    /// All ranks give the same number of elements of the same type, and the same reduce operation. Gives the buffer back.
    ///
    /// # Errors
    /// Those of [every op](crate::op#errors). `InvalidArgument` if there is no rank `root`, or if the operation has no
    /// meaning on the element type. `Mismatch` of `root` or `reduce_op` where ranks name different ones.
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

    /// Reduces the buffers of all ranks, element by element; every rank gets the result, bit for bit the same.
    ///
    /// All ranks give the same number of elements of the same type, and the same reduce operation. The result replaces the
    /// buffer's values. A [sparse tensor](crate::Coo) may have other entries on each rank: see [`op::all_reduce`]. Gives
    /// the buffer back.
    ///
    /// # Errors
    /// Those of [every op](crate::op#errors). `InvalidArgument` if the operation has no meaning on the element type.
    /// `Mismatch` of `count`, `dtype` or `reduce_op` where ranks differ in them; then no buffer was changed.
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

    /// [`all_reduce`](Self::all_reduce) of several buffers at about the cost of one.
    ///
    /// All buffers have one element type; their lengths may differ from each other, but not between ranks. Gives the
    /// buffers back.
    ///
    /// # Errors
    /// Those of [every op](crate::op#errors). As `all_reduce`.
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

    /// Gathers the `input` of every rank on every rank: `outputs[r]` is that of rank `r`.
    ///
    /// `outputs` has one buffer per rank, of the length of that rank's input. The inputs' lengths may differ between
    /// ranks. Gives `input` and `outputs` back.
    ///
    /// # Errors
    /// Those of [every op](crate::op#errors). `Mismatch` of `count` if an output has another length than that rank's
    /// input.
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
    /// All inputs have the same length; `output` has world size times that. Gives `input` and `output` back.
    ///
    /// # Errors
    /// Those of [every op](crate::op#errors). `InvalidArgument` if `output` has another length.
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

    /// [`all_gather`](Self::all_gather) of several inputs at about the cost of one: `outputs[i][r]` is the `inputs[i]`
    /// of rank `r`.
    ///
    /// # Errors
    /// Those of [every op](crate::op#errors). As `all_gather`.
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

    /// [`all_gather_into`](Self::all_gather_into) of several inputs at about the cost of one.
    ///
    /// `outputs[i]` has world size times the length of `inputs[i]`.
    ///
    /// # Errors
    /// Those of [every op](crate::op#errors). As `all_gather_into`.
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
    /// `inputs` has one buffer per rank. Their lengths may differ from each other, but not between ranks; `output` has the
    /// length of `inputs[rank]`. Gives `inputs` and `output` back.
    ///
    /// # Errors
    /// Those of [every op](crate::op#errors). `Mismatch` where ranks give other lengths, another element type or another
    /// reduce operation.
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

    /// Reduces the `input` of all ranks, element by element. The result is cut into world size equal parts, and rank
    /// `r` gets part `r` in its `output`.
    ///
    /// `input` has world size times the length of `output`. Gives both back.
    ///
    /// # Errors
    /// Those of [every op](crate::op#errors). `InvalidArgument` if `input` has another length, or if the operation has no
    /// meaning on the element type.
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

    /// [`reduce_scatter_into`](Self::reduce_scatter_into) of several inputs at about the cost of one.
    ///
    /// `inputs[i]` has world size times the length of `outputs[i]`.
    ///
    /// # Errors
    /// Those of [every op](crate::op#errors). As `reduce_scatter_into`.
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
    /// The root gives `Root::Me(outputs)`, with one buffer per rank of the length of that rank's input, its own included.
    /// All others give `Root::At(root)`. Inputs' lengths may differ between ranks. Gives `input` back, and at the root the
    /// outputs.
    ///
    /// # Errors
    /// Those of [every op](crate::op#errors). `Mismatch` of `root` where ranks name different roots, none, or several; of
    /// `count` where an output has another length than that rank's input.
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

    /// Hands each rank one of the root's buffers: `output` of rank `r` becomes the root's `inputs[r]`.
    ///
    /// The root gives `Root::Me(inputs)`, with one buffer per rank, its own included. All others give `Root::At(root)`.
    /// Lengths may differ between ranks. Gives the root's inputs back, and `output`.
    ///
    /// # Errors
    /// Those of [every op](crate::op#errors). `Mismatch` of `root` where ranks name different roots, none, or several; of
    /// `count` where an output has another length than the root's buffer for that rank.
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

    /// Sends `inputs[r]` to rank `r`, for every `r`; what comes from rank `r` is in `outputs[r]`.
    ///
    /// Both lists have one buffer per rank. `inputs[r]` here has the length of `outputs[this rank]` on rank `r`; apart
    /// from that, lengths may be any. Gives both lists back.
    ///
    /// # Errors
    /// Those of [every op](crate::op#errors). `Mismatch` of `count` for a pair of ranks whose lengths differ.
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

    /// Sends part `r` of `input` to rank `r`, for every `r`; what comes from rank `r` is part `r` of `output`.
    ///
    /// The parts are equal: the lengths of `input` and `output` are multiples of the world size. For parts of other
    /// sizes use [`Call::splits`](crate::Call::splits). Gives both buffers back.
    ///
    /// # Errors
    /// Those of [every op](crate::op#errors). `InvalidArgument` if a length is no multiple of the world size.
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
    ///     // Rank 0 keeps nothing and sends three; rank 1 keeps one.
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

    /// Waits until every rank has called it.
    ///
    /// # Errors
    /// Those of [every op](crate::op#errors). `Timeout` names the ranks that did not come.
    ///
    /// # Example
    /// ```
    /// # fn main() -> c10d::Result<()> {
    /// c10d::run_ranks(3, |pg| {
    ///     // Each rank writes its part of a file here.
    ///     pg.barrier()?;
    ///     // All parts are there.
    ///     Ok(())
    /// })?;
    /// # Ok(()) }
    /// ```
    #[inline]
    pub fn barrier(&self) -> Result {
        Ok(self.run(op::barrier(BarrierOptions::default()))?)
    }

    /// Waits until every rank has called it; if some do not come in time, every rank that came learns which.
    ///
    /// The error names the first missing rank, or all of them with
    /// [`with_wait_all_ranks(true)`](crate::options::MonitoredBarrierOptions::with_wait_all_ranks).
    ///
    /// # Errors
    /// Those of [every op](crate::op#errors). `Timeout` names the missing ranks.
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
