//! Runs NCCL calls on host memory, as ops of a process group with the CPU backend.

use c10d_core::backend::Params;
use c10d_core::{DType, Device, OpKind, ProcessGroup, RawSpans, ReduceOp, Result, Span, Work};

#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) kind: Kind,
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) count: usize,
    pub(crate) dtype: DType,
    pub(crate) reduce: ReduceOp,
    /// The root of a collective, or the other rank of a message.
    pub(crate) peer: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    AllReduce,
    Reduce,
    Broadcast,
    AllGather,
    ReduceScatter,
    AllToAll,
    Send,
    Recv,
}

impl Call {
    fn bytes(&self) -> usize {
        self.count * self.dtype.size()
    }

    /// Returns the numbers of bytes that a rank reads and writes in a communicator of `size` ranks.
    pub(crate) fn ranges(&self, rank: u32, size: u32) -> (usize, usize) {
        let (one, all) = (self.bytes(), self.bytes() * size as usize);
        match self.kind {
            Kind::AllReduce => (one, one),
            Kind::Reduce => (one, if rank == self.peer { one } else { 0 }),
            Kind::Broadcast => (if rank == self.peer { one } else { 0 }, one),
            Kind::AllGather => (one, all),
            Kind::ReduceScatter => (all, one),
            Kind::AllToAll => (all, all),
            Kind::Send => (one, 0),
            Kind::Recv => (0, one),
        }
    }
}

/// Runs the calls of one launch, all at once. A launch is an NCCL group's calls on a communicator,
/// or one call outside of a group.
pub(crate) fn run(group: &ProcessGroup, calls: &[Call]) -> Result {
    let mut scratch: Vec<Vec<u128>> = Vec::new();
    let mut works: Vec<Work<_>> = Vec::new();
    // Messages of a rank to itself are copied.
    let own = |kind: Kind| calls.iter().filter(move |c| c.kind == kind && c.peer == group.rank());
    for (from, to) in own(Kind::Send).zip(own(Kind::Recv)) {
        copy(from.from, to.to, from.bytes());
    }
    for call in calls {
        let one = call.bytes();
        let span = |at: u64, count: usize| Span::new(at as *mut (), 0, count as u64, call.dtype, Device::CPU);
        let all = call.count * group.size() as usize;
        let mut spans = RawSpans::default();
        let mut params = Params::default();
        params.reduce = call.reduce;
        params.root = call.peer;
        params.peer = call.peer;
        let op = match call.kind {
            Kind::AllReduce => {
                copy(call.from, call.to, one);
                spans.outputs = vec![span(call.to, call.count)];
                OpKind::AllReduce
            }
            Kind::Reduce => {
                let mut to = call.to;
                if group.rank() != call.peer {
                    // On a rank that is not the root, the output must not be changed.
                    scratch.push(vec![0; one.div_ceil(16)]);
                    to = scratch.last().map_or(0, |s| s.as_ptr() as u64);
                }
                copy(call.from, to, one);
                spans.outputs = vec![span(to, call.count)];
                OpKind::Reduce
            }
            Kind::Broadcast => {
                if group.rank() == call.peer {
                    copy(call.from, call.to, one);
                }
                spans.outputs = vec![span(call.to, call.count)];
                OpKind::Broadcast
            }
            Kind::AllGather => {
                spans.inputs = vec![span(call.from, call.count)];
                spans.outputs = vec![span(call.to, all)];
                OpKind::AllGatherInto
            }
            Kind::ReduceScatter => {
                spans.inputs = vec![span(call.from, all)];
                spans.outputs = vec![span(call.to, call.count)];
                OpKind::ReduceScatterInto
            }
            Kind::AllToAll => {
                spans.inputs = vec![span(call.from, all)];
                spans.outputs = vec![span(call.to, all)];
                OpKind::AllToAllSingle
            }
            Kind::Send | Kind::Recv if call.peer == group.rank() => continue,
            Kind::Send => {
                spans.inputs = vec![span(call.from, call.count)];
                OpKind::Send
            }
            Kind::Recv => {
                spans.outputs = vec![span(call.to, call.count)];
                OpKind::Recv
            }
        };
        // SAFETY: the caller keeps the memory until the stream has finished the launch, and `scratch` exists until the
        // end of this function.
        works.push(unsafe { group.submit_raw(op, params, None, spans) });
    }
    // This function waits for all works, even if one fails, so that nothing uses the memory afterwards.
    let results: Vec<Result> = works.into_iter().map(|w| w.wait().map(drop).map_err(Into::into)).collect();
    results.into_iter().collect()
}

fn copy(from: u64, to: u64, bytes: usize) {
    if from != to && bytes > 0 {
        // SAFETY: both are ranges of device memory that were checked at the call.
        unsafe { std::ptr::copy(from as *const u8, to as *mut u8, bytes) };
    }
}
