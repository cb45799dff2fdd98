//! The blocking form of every op, as a method: sugar for `run(op::..)`, but for buffers on errors, which are dropped here.

use super::ProcessGroup;
use crate::buffer::{Buf, BufMut, InPlace, Root};
use crate::options::{
    AllReduceCoalescedOptions, AllReduceOptions, BarrierOptions, BroadcastOptions, MonitoredBarrierOptions,
    RecvOptions, ReduceOptions, ReduceScatterOptions, SendOptions,
};
use crate::{Result, op};

impl ProcessGroup {
    /// Runs [`op::send`].
    pub fn send<I: Buf>(&self, input: I, to: u32, tag: impl Into<SendOptions>) -> Result<I> {
        Ok(self.run(op::send(input, to, tag))?)
    }

    /// Runs [`op::recv`].
    pub fn recv<O: BufMut>(&self, output: O, from: u32, tag: impl Into<RecvOptions>) -> Result<O> {
        Ok(self.run(op::recv(output, from, tag))?)
    }

    /// Runs [`op::recv_any_source`].
    pub fn recv_any_source<O: BufMut>(&self, output: O, tag: impl Into<RecvOptions>) -> Result<(O, u32)> {
        Ok(self.run(op::recv_any_source(output, tag))?)
    }

    /// Runs [`op::broadcast`].
    pub fn broadcast<B: BufMut>(&self, buffer: B, root: impl Into<BroadcastOptions>) -> Result<B> {
        Ok(self.run(op::broadcast(buffer, root))?)
    }

    /// Runs [`op::reduce`].
    pub fn reduce<B: BufMut>(&self, buffer: B, options: impl Into<ReduceOptions>, root: u32) -> Result<B> {
        Ok(self.run(op::reduce(buffer, options, root))?)
    }

    /// Runs [`op::all_reduce`].
    pub fn all_reduce<B: InPlace>(&self, buffer: B, options: impl Into<AllReduceOptions>) -> Result<B> {
        Ok(self.run(op::all_reduce(buffer, options))?)
    }

    /// Runs [`op::all_reduce_coalesced`].
    pub fn all_reduce_coalesced<B: BufMut>(
        &self,
        buffers: Vec<B>,
        options: impl Into<AllReduceCoalescedOptions>,
    ) -> Result<Vec<B>> {
        Ok(self.run(op::all_reduce_coalesced(buffers, options))?)
    }

    /// Runs [`op::all_gather`].
    pub fn all_gather<I: Buf, O: BufMut>(&self, input: I, outputs: Vec<O>) -> Result<(I, Vec<O>)> {
        Ok(self.run(op::all_gather(input, outputs))?)
    }

    /// Runs [`op::all_gather_into`].
    pub fn all_gather_into<I: Buf, O: BufMut>(&self, input: I, output: O) -> Result<(I, O)> {
        Ok(self.run(op::all_gather_into(input, output))?)
    }

    /// Runs [`op::all_gather_coalesced`].
    pub fn all_gather_coalesced<I: Buf, O: BufMut>(
        &self,
        inputs: Vec<I>,
        outputs: Vec<Vec<O>>,
    ) -> Result<(Vec<I>, Vec<Vec<O>>)> {
        Ok(self.run(op::all_gather_coalesced(inputs, outputs))?)
    }

    /// Runs [`op::all_gather_into_coalesced`].
    pub fn all_gather_into_coalesced<I: Buf, O: BufMut>(
        &self,
        inputs: Vec<I>,
        outputs: Vec<O>,
    ) -> Result<(Vec<I>, Vec<O>)> {
        Ok(self.run(op::all_gather_into_coalesced(inputs, outputs))?)
    }

    /// Runs [`op::reduce_scatter`].
    pub fn reduce_scatter<I: Buf, O: BufMut>(
        &self,
        inputs: Vec<I>,
        output: O,
        options: impl Into<ReduceScatterOptions>,
    ) -> Result<(Vec<I>, O)> {
        Ok(self.run(op::reduce_scatter(inputs, output, options))?)
    }

    /// Runs [`op::reduce_scatter_into`].
    pub fn reduce_scatter_into<I: Buf, O: BufMut>(
        &self,
        input: I,
        output: O,
        options: impl Into<ReduceScatterOptions>,
    ) -> Result<(I, O)> {
        Ok(self.run(op::reduce_scatter_into(input, output, options))?)
    }

    /// Runs [`op::reduce_scatter_into_coalesced`].
    pub fn reduce_scatter_into_coalesced<I: Buf, O: BufMut>(
        &self,
        inputs: Vec<I>,
        outputs: Vec<O>,
        options: impl Into<ReduceScatterOptions>,
    ) -> Result<(Vec<I>, Vec<O>)> {
        Ok(self.run(op::reduce_scatter_into_coalesced(inputs, outputs, options))?)
    }

    /// Runs [`op::gather`].
    pub fn gather<I: Buf, O: BufMut>(&self, input: I, root: Root<Vec<O>>) -> Result<(I, Option<Vec<O>>)> {
        Ok(self.run(op::gather(input, root))?)
    }

    /// Runs [`op::scatter`].
    pub fn scatter<I: Buf, O: BufMut>(&self, root: Root<Vec<I>>, output: O) -> Result<(Option<Vec<I>>, O)> {
        Ok(self.run(op::scatter(root, output))?)
    }

    /// Runs [`op::all_to_all`].
    pub fn all_to_all<I: Buf, O: BufMut>(&self, inputs: Vec<I>, outputs: Vec<O>) -> Result<(Vec<I>, Vec<O>)> {
        Ok(self.run(op::all_to_all(inputs, outputs))?)
    }

    /// Runs [`op::all_to_all_single`] with equal parts.
    pub fn all_to_all_single<I: Buf, O: BufMut>(&self, input: I, output: O) -> Result<(I, O)> {
        Ok(self.run(op::all_to_all_single(input, output))?)
    }

    /// Runs [`op::barrier`] with default options.
    pub fn barrier(&self) -> Result {
        Ok(self.run(op::barrier(BarrierOptions::default()))?)
    }

    /// Runs [`op::monitored_barrier`].
    pub fn monitored_barrier(&self, options: impl Into<MonitoredBarrierOptions>) -> Result {
        Ok(self.run(op::monitored_barrier(options))?)
    }
}
