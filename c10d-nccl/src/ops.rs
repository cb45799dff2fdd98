//! Which NCCL calls each op makes.

use c10d_core::{DType, Error, OpKind, Result};

use crate::communicator::Issuer;
use crate::dialect::Dialect;
use crate::nccl::RedOp;
use crate::scratch::Scratch;
use crate::task::{DeviceSpan, Task};
use crate::types::reduction;

/// A task (the description of a job), with everything that is needed to issue its NCCL calls.
pub(crate) struct Plan<'t, 'i, 'a> {
    pub(crate) task: &'t Task,
    pub(crate) rank: usize,
    pub(crate) size: usize,
    pub(crate) issuer: &'i mut Issuer<'a>,
    /// The NCCL operation that was made for this task's reduction, if any.
    pub(crate) made: Option<RedOp>,
    /// Decides which calls are made, and how they are grouped. Both must be the same on all ranks of a communicator.
    pub(crate) dialect: &'t Dialect,
    pub(crate) scratch: &'t mut Scratch,
}

impl Plan<'_, '_, '_> {
    pub(crate) fn issue(&mut self) -> Result {
        match self.task.op {
            OpKind::Send => self.send(),
            OpKind::Recv => self.recv(),
            OpKind::Broadcast => self.broadcast(),
            OpKind::AllReduce => self.all_reduce(),
            OpKind::AllReduceCoalesced => self.all_reduce_coalesced(),
            OpKind::Reduce => self.reduce(),
            OpKind::AllGather | OpKind::AllGatherCoalesced => self.all_gather_lists(),
            OpKind::AllGatherInto => self.all_gather_into(),
            OpKind::AllGatherIntoCoalesced => self.all_gather_into_coalesced(),
            OpKind::ReduceScatter => self.reduce_scatter(),
            OpKind::ReduceScatterInto => self.reduce_scatter_into(),
            OpKind::ReduceScatterIntoCoalesced => self.reduce_scatter_into_coalesced(),
            OpKind::Gather => self.gather(),
            OpKind::Scatter => self.scatter(),
            OpKind::AllToAll => self.all_to_all(),
            OpKind::AllToAllSingle => self.all_to_all_single(),
            OpKind::Barrier => self.barrier(),
            op => Err(Error::unsupported(format!("NCCL has no {op}"))),
        }
    }

    fn input(&self, i: usize) -> DeviceSpan {
        self.task.inputs[i]
    }

    fn output(&self, i: usize) -> DeviceSpan {
        self.task.outputs[i]
    }

    fn root(&self) -> usize {
        self.task.params.root as usize
    }

    fn send(&mut self) -> Result {
        let (from, peer) = (self.input(0), self.peer());
        self.issuer.group(|i| i.send(from, peer))
    }

    fn recv(&mut self) -> Result {
        let (to, peer) = (self.output(0), self.peer());
        self.issuer.group(|i| i.recv(to, peer))
    }

    /// Runs `body` with NCCL's operation for the task's reduction. If the operation was made for this task, the channel
    /// destroys it when all calls are on the stream.
    fn reducing(&mut self, body: impl FnOnce(&mut Self, RedOp) -> Result) -> Result {
        let dtype = self.task.dtype.unwrap_or(DType::F32);
        let (op, made) = self.issuer.make(reduction(self.task.params.reduce, dtype))?;
        self.made = made;
        body(self, op)
    }

    /// Returns the other rank of a message, by its number in the communicator.
    fn peer(&self) -> u32 {
        // In a communicator of two ranks, the peer is the other rank, whatever its number in the group is.
        if self.size == 2 { 1 - self.rank as u32 } else { self.task.params.peer }
    }

    /// Issues one call for each of `calls`, in one NCCL group. With `TorchNccl2`, the calls are not in a group, as in
    /// PyTorch.
    fn each<T>(
        &mut self,
        calls: impl Iterator<Item = T>,
        mut call: impl FnMut(&mut Issuer<'_>, T) -> Result,
    ) -> Result {
        let all = |i: &mut Issuer<'_>| calls.into_iter().try_for_each(|c| call(i, c));
        if matches!(self.dialect, Dialect::TorchNccl2(_)) { all(self.issuer) } else { self.issuer.group(all) }
    }

    fn broadcast(&mut self) -> Result {
        let buffer = self.output(0);
        self.issuer.broadcast(buffer, buffer, self.task.params.root)
    }

    fn all_reduce(&mut self) -> Result {
        let buffer = self.output(0);
        self.reducing(|plan, op| plan.issuer.all_reduce(buffer, op))
    }

    fn all_reduce_coalesced(&mut self) -> Result {
        let buffers = &self.task.outputs;
        self.reducing(|plan, op| plan.each(buffers.iter(), |i, b| i.all_reduce(*b, op)))
    }

    fn reduce(&mut self) -> Result {
        let (buffer, root) = (self.output(0), self.task.params.root);
        self.reducing(|plan, op| plan.issuer.reduce(buffer, buffer, op, root))
    }

    /// Each rank broadcasts its input to all ranks, which receive it in their output for this rank. Lengths may differ.
    /// In the dialect `TorchLegacy`, tensors of the same length go through scratch memory, as in PyTorch.
    fn all_gather_lists(&mut self) -> Result {
        let (task, size) = (self.task, self.size);
        if *self.dialect == Dialect::TorchLegacy && all_alike(&task.outputs) {
            return self.all_gather_flat();
        }
        let list = |i: &mut Issuer<'_>, list: usize| {
            let outputs = &task.outputs[list * size..][..size];
            let mut parts = (0u32..).zip(outputs).filter(|(_, to)| to.count > 0);
            parts.try_for_each(|(root, to)| i.broadcast(task.inputs[list], *to, root))
        };
        let mut lists = 0..task.inputs.len();
        if self.dialect.is_native() {
            return self.issuer.group(|i| lists.try_for_each(|l| list(i, l)));
        }
        // PyTorch gathers the lists one after another.
        lists.try_for_each(|l| self.issuer.group(|i| list(i, l)))
    }

    fn all_gather_flat(&mut self) -> Result {
        let (from, outputs) = (self.input(0), &self.task.outputs);
        let flat = self.scratch.part(from.count * self.size, from.size)?;
        self.issuer.all_gather(from, flat)?;
        let parts = (0..).map(|r| flat.slice(r * from.count, from.count));
        parts.zip(outputs).try_for_each(|(part, to)| self.issuer.copy(part, *to))
    }

    fn all_gather_into(&mut self) -> Result {
        self.issuer.all_gather(self.task.inputs[0], self.task.outputs[0])
    }

    fn all_gather_into_coalesced(&mut self) -> Result {
        let task = self.task;
        self.each(task.inputs.iter().zip(&task.outputs), |i, (from, to)| i.all_gather(*from, *to))
    }

    /// For each rank, one reduction to that rank combines the inputs that all ranks have for that rank. Lengths may
    /// differ. In the dialect `TorchLegacy`, tensors of the same length go through scratch memory, as in PyTorch.
    fn reduce_scatter(&mut self) -> Result {
        let (task, rank, size) = (self.task, self.rank, self.size);
        if *self.dialect == Dialect::TorchLegacy && all_alike(&task.inputs) {
            return self.reduce_scatter_flat();
        }
        self.reducing(|plan, op| {
            plan.issuer.group(|i| {
                for root in (0..size).filter(|r| task.inputs[*r].count > 0) {
                    let from = task.inputs[root];
                    let to = if root == rank { task.outputs[0] } else { from };
                    i.reduce(from, to, op, root as u32)?;
                }
                Ok(())
            })
        })
    }

    fn reduce_scatter_flat(&mut self) -> Result {
        let (to, inputs) = (self.output(0), &self.task.inputs);
        let flat = self.scratch.part(to.count * self.size, to.size)?;
        let parts = (0..).map(|r| flat.slice(r * to.count, to.count));
        inputs.iter().zip(parts).try_for_each(|(from, part)| self.issuer.copy(*from, part))?;
        self.reducing(|plan, op| plan.issuer.reduce_scatter(flat, to, op))
    }

    fn reduce_scatter_into(&mut self) -> Result {
        let (from, to) = (self.input(0), self.output(0));
        self.reducing(|plan, op| plan.issuer.reduce_scatter(from, to, op))
    }

    fn reduce_scatter_into_coalesced(&mut self) -> Result {
        let task = self.task;
        self.reducing(|plan, op| {
            plan.each(task.inputs.iter().zip(&task.outputs), |i, (from, to)| i.reduce_scatter(*from, *to, op))
        })
    }

    fn gather(&mut self) -> Result {
        let (task, rank, root) = (self.task, self.rank, self.root());
        if rank != root {
            return self.issuer.group(|i| i.send(task.inputs[0], root as u32));
        }
        self.issuer.copy(task.inputs[0], task.outputs[rank])?;
        let others = (0..self.size).filter(|r| *r != rank);
        self.issuer.group(|i| others.into_iter().try_for_each(|r| i.recv(task.outputs[r], r as u32)))
    }

    fn scatter(&mut self) -> Result {
        let (task, rank, root) = (self.task, self.rank, self.root());
        if rank != root {
            return self.issuer.group(|i| i.recv(task.outputs[0], root as u32));
        }
        self.issuer.copy(task.inputs[rank], task.outputs[0])?;
        let others = (0..self.size).filter(|r| *r != rank);
        self.issuer.group(|i| others.into_iter().try_for_each(|r| i.send(task.inputs[r], r as u32)))
    }

    fn all_to_all(&mut self) -> Result {
        let (task, rank) = (self.task, self.rank);
        self.issuer.copy(task.inputs[rank], task.outputs[rank])?;
        let others = (0..self.size).filter(|r| *r != rank);
        self.issuer.group(|i| {
            others.into_iter().try_for_each(|r| {
                i.send(task.inputs[r], r as u32)?;
                i.recv(task.outputs[r], r as u32)
            })
        })
    }

    fn all_to_all_single(&mut self) -> Result {
        let (from, to, rank, size) = (self.input(0), self.output(0), self.rank, self.size);
        let (ins, outs) = (self.task.params.input_splits(), self.task.params.output_splits());
        // Some ranks may give splits while others do not. In the dialect `Native`, all of them make the same NCCL
        // calls: sends and receives. In PyTorch's dialects, a rank without splits calls NCCL's all-to-all if the
        // library has this call, as in PyTorch.
        let even = ins.is_empty() && outs.is_empty() && !self.dialect.is_native();
        if even && self.issuer.has_all_to_all() {
            return if from.count == 0 { Ok(()) } else { self.issuer.all_to_all(from, to, from.count / size) };
        }
        let (ins, outs) = (offsets(ins, from.count, size), offsets(outs, to.count, size));
        let part = |whole: DeviceSpan, at: &[usize], r: usize| whole.slice(at[r], at[r + 1] - at[r]);
        self.issuer.copy(part(from, &ins, rank), part(to, &outs, rank))?;
        self.issuer.group(|i| {
            (0..size).filter(|r| *r != rank).try_for_each(|r| {
                i.send(part(from, &ins, r), r as u32)?;
                i.recv(part(to, &outs, r), r as u32)
            })
        })
    }

    fn barrier(&mut self) -> Result {
        // The reduced value does not matter.
        let token = self.scratch.part(1, DType::F32.size())?;
        self.issuer.all_reduce(token, RedOp::SUM)
    }
}

fn all_alike(parts: &[DeviceSpan]) -> bool {
    parts.iter().all(|part| part.count == parts[0].count)
}

/// Returns the offset at which each rank's part begins, and the end of the last part.
fn offsets(splits: &[usize], count: usize, size: usize) -> Vec<usize> {
    let mut at = vec![0; size + 1];
    for r in 0..size {
        at[r + 1] = at[r] + splits.get(r).copied().unwrap_or(count / size);
    }
    at
}
