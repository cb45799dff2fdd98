//! The ops as NCCL's calls, one function each.

use c10d_core::{DType, Error, OpKind, Result};

use crate::nccl::{Issuer, RedOp};
use crate::task::{Part, Task};
use crate::types::{Reduction, reduction};

/// Issues a task's calls.
pub(crate) struct Plan<'t, 'i, 'a> {
    pub(crate) task: &'t Task,
    pub(crate) rank: usize,
    pub(crate) size: usize,
    pub(crate) issuer: &'i mut Issuer<'a>,
    /// A reduction that was made for the calls.
    pub(crate) made: Option<RedOp>,
    /// One float in device memory, for barriers.
    pub(crate) token: Part,
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

    fn input(&self, i: usize) -> Part {
        self.task.inputs[i]
    }

    fn output(&self, i: usize) -> Part {
        self.task.outputs[i]
    }

    fn root(&self) -> usize {
        self.task.params.root as usize
    }

    /// On a communicator of two, of which the sender is rank 0.
    fn send(&mut self) -> Result {
        let from = self.input(0);
        self.issuer.group(|i| i.send(from, 1))
    }

    fn recv(&mut self) -> Result {
        let to = self.output(0);
        self.issuer.group(|i| i.recv(to, 0))
    }

    fn broadcast(&mut self) -> Result {
        let buffer = self.output(0);
        self.issuer.broadcast(buffer, buffer, self.task.params.root)
    }

    fn all_reduce(&mut self) -> Result {
        let buffer = self.output(0);
        self.issuer.reducing(reduction_of(self.task), &mut self.made, |i, op| i.all_reduce(buffer, op))
    }

    fn all_reduce_coalesced(&mut self) -> Result {
        let buffers = &self.task.outputs;
        self.issuer.reducing(reduction_of(self.task), &mut self.made, |i, op| {
            i.group(|i| buffers.iter().try_for_each(|b| i.all_reduce(*b, op)))
        })
    }

    fn reduce(&mut self) -> Result {
        let (buffer, root) = (self.output(0), self.task.params.root);
        self.issuer.reducing(reduction_of(self.task), &mut self.made, |i, op| i.reduce(buffer, buffer, op, root))
    }

    /// Each rank broadcasts its input into everybody's output of that rank: any lengths, no scratch memory.
    fn all_gather_lists(&mut self) -> Result {
        let (task, size) = (self.task, self.size);
        self.issuer.group(|i| {
            for (list, input) in task.inputs.iter().enumerate() {
                for root in 0..size {
                    let to = task.outputs[list * size + root];
                    if to.count > 0 {
                        i.broadcast(*input, to, root as u32)?;
                    }
                }
            }
            Ok(())
        })
    }

    fn all_gather_into(&mut self) -> Result {
        self.issuer.all_gather(self.task.inputs[0], self.task.outputs[0])
    }

    fn all_gather_into_coalesced(&mut self) -> Result {
        let task = self.task;
        self.issuer.group(|i| task.inputs.iter().zip(&task.outputs).try_for_each(|(from, to)| i.all_gather(*from, *to)))
    }

    /// Each rank's output is the reduction of everybody's input for it: any lengths, no scratch memory.
    fn reduce_scatter(&mut self) -> Result {
        let (task, rank, size) = (self.task, self.rank, self.size);
        self.issuer.reducing(reduction_of(task), &mut self.made, |i, op| {
            i.group(|i| {
                for root in (0..size).filter(|r| task.inputs[*r].count > 0) {
                    let from = task.inputs[root];
                    let to = if root == rank { task.outputs[0] } else { from };
                    i.reduce(from, to, op, root as u32)?;
                }
                Ok(())
            })
        })
    }

    fn reduce_scatter_into(&mut self) -> Result {
        let (from, to) = (self.input(0), self.output(0));
        self.issuer.reducing(reduction_of(self.task), &mut self.made, |i, op| i.reduce_scatter(from, to, op))
    }

    fn reduce_scatter_into_coalesced(&mut self) -> Result {
        let task = self.task;
        self.issuer.reducing(reduction_of(task), &mut self.made, |i, op| {
            i.group(|i| {
                let mut pairs = task.inputs.iter().zip(&task.outputs);
                pairs.try_for_each(|(from, to)| i.reduce_scatter(*from, *to, op))
            })
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
        let even = ins.is_empty() && outs.is_empty();
        if even && self.issuer.has_all_to_all() {
            return if from.count == 0 { Ok(()) } else { self.issuer.all_to_all(from, to, from.count / size) };
        }
        let (ins, outs) = (offsets(ins, from.count, size), offsets(outs, to.count, size));
        let part = |whole: Part, at: &[usize], r: usize| whole.slice(at[r], at[r + 1] - at[r]);
        self.issuer.copy(part(from, &ins, rank), part(to, &outs, rank))?;
        self.issuer.group(|i| {
            (0..size).filter(|r| *r != rank).try_for_each(|r| {
                i.send(part(from, &ins, r), r as u32)?;
                i.recv(part(to, &outs, r), r as u32)
            })
        })
    }

    fn barrier(&mut self) -> Result {
        self.issuer.all_reduce(self.token, RedOp::SUM)
    }
}

fn reduction_of(task: &Task) -> Reduction {
    reduction(task.params.reduce, task.dtype.unwrap_or(DType::F32))
}

/// Where each rank's part begins, and where the last ends.
fn offsets(splits: &[usize], count: usize, size: usize) -> Vec<usize> {
    let mut at = vec![0; size + 1];
    for r in 0..size {
        at[r + 1] = at[r] + splits.get(r).copied().unwrap_or(count / size);
    }
    at
}
