//! The algorithm: it computes the union of all ranks' keys (the key of an entry is its coordinates as one number),
//! writes each row to the position of its key in the union, and runs one dense all-reduce of the rows.
#![allow(unsafe_code)]

use c10d_core::backend::{KernelContext, Request, SparseHeads};
use c10d_core::device::DeviceBuffer;
use c10d_core::{Call, DType, DeviceCoo, Error, ErrorKind, Outcome, Phase, ReduceOp, Result, op};

use super::bench::{Bench, Lent, Tensor};
use super::entries::{Entries, KnownIndices, SparseCall, prepare};
use super::steps::{self, FLAGS, Lists, NONE, Space};
use super::worker::Worker;
use crate::cuda::{CudaApi, Driver};

/// The number of 64-bit words that each rank sends first: its header, and room for the text of an error.
const WORDS: usize = 64;
/// The step number of the extra exchange that is made before a mismatch is reported.
const LAST: u8 = 127;

/// The coordinates and rows of the result.
type IndicesAndRows = (Tensor, Tensor);

/// Reduces the tensors of all ranks.
pub(super) fn reduce(ctx: &KernelContext<'_>, request: &Request) -> Result<Outcome> {
    let cuda = Driver::get()?;
    let worker = Worker::start(cuda.clone(), request)?;
    let call = Run { ctx, request, worker: &worker, stream: worker.call("making a stream", |b| Ok(b.stream()))? };
    // `call.reduce` sends an error that occurs here to all ranks, since they would otherwise wait for this rank.
    let facts = worker.is_open().and_then(|()| cuda.has_kernels()).and_then(|()| SparseCall::of(request));
    let (indices, rows) = call.reduce(facts)?;
    let (indices, rows): (DeviceBuffer, DeviceBuffer) = worker.call("returning the result", move |b| {
        b.settle()?;
        Ok((b.take(indices)?, b.take(rows)?))
    })?;
    let layout = request.sparse().ok_or_else(|| Error::invalid("this kernel is for sparse tensors"))?;
    let result = DeviceCoo::new(&*layout.shape, layout.sparse_dim, indices, rows)?.assume_coalesced();
    Ok(Outcome { payload: Some(Box::new(result)), ..Outcome::default() })
}

/// One call on one rank.
struct Run<'a> {
    ctx: &'a KernelContext<'a>,
    request: &'a Request,
    worker: &'a Worker,
    /// The stream on which all work of the call is enqueued.
    stream: u64,
}

impl Run<'_> {
    fn reduce(&self, facts: Result<SparseCall>) -> Result<IndicesAndRows> {
        let prepared = facts.and_then(|facts| {
            let mine = facts.clone();
            let prepared = self.worker.call("reading a tensor", move |b| prepare(b, &mine))?;
            Ok((facts, prepared))
        });
        if self.ctx.size() == 1 {
            let (facts, (space, entries, known)) = prepared?;
            return match known {
                Some(known) => self.sum_known(facts, entries, known),
                None => self.worker.call("copying a tensor", move |b| alone(b, &facts, space, entries)),
            };
        }
        let counts =
            self.meet(prepared.as_ref().map(|(_, (_, entries, _))| entries.keys.count).map_err(Error::clone))?;
        let (facts, (space, entries, known)) = prepared?;
        match known {
            Some(known) => self.sum_known(facts, entries, known),
            None => self.over_union(facts, space, entries, counts),
        }
    }

    /// Runs one dense op as a step of the call, after all work that was enqueued on the stream before.
    fn step<B: c10d_core::Buffers>(&self, step: u8, call: Call<B>) -> Result {
        // SAFETY: the stream belongs to the worker, which exists until the call has ended.
        let call = unsafe { call.on_stream(self.stream) };
        self.ctx.run_step(self.request, step, call).map(drop)
    }

    fn lend(&self, tensor: Tensor) -> Lent {
        // SAFETY: the worker keeps all tensors until the call has ended, and the call waits for each step. During a
        // step, the device gets no other work that uses them.
        unsafe { Lent::new(tensor, self.worker.index) }
    }

    /// Sends this rank's header to all ranks (or the error, if its tensor is not valid), and receives theirs. Returns
    /// the number of entries of each rank.
    fn meet(&self, nnz: Result<usize, Error>) -> Result<Vec<u64>> {
        let (ctx, request) = (self.ctx, self.request);
        let layout = request.sparse().ok_or_else(|| Error::invalid("this kernel is for sparse tensors"))?;
        let mut words = vec![0; WORDS];
        SparseHeads::write(&mut words, request, layout, nnz.as_ref().copied());
        let ranks = ctx.size() as usize;
        let (mine, all) = self.worker.call("exchanging the headers", move |b| {
            Ok((b.upload_numbers(&words)?, b.allocate(DType::U64, WORDS * ranks)?))
        })?;
        self.step(1, op::all_gather_into(self.lend(mine), self.lend(all)))?;
        let words = self.worker.call("exchanging the headers", move |b| b.download_numbers(all))?;
        let heads = SparseHeads::new(&words, ranks);
        let disagreed = |error| {
            // All ranks find the same mismatch, and each reports its own value in the field `mine` of
            // `ErrorKind::Mismatch`. If a rank failed at once, its report could reach ranks that have not read the
            // headers yet. These ranks would return the report instead of their own errors. So all ranks make one more
            // exchange before they fail.
            if let Ok(mine) = mine.slice(0, 1)
                && let Ok(all) = all.slice(0, ranks)
            {
                let _ = self.step(LAST, op::all_gather_into(self.lend(mine), self.lend(all)));
            }
            error
        };
        heads.same_call(ctx.rank()).map_err(disagreed)?;
        heads.sound(nnz.as_ref().err())?;
        heads.same_known(ctx.rank()).map_err(disagreed)?;
        Ok((0..ranks).map(|rank| heads.nnz(rank)).collect())
    }

    /// Reduces a tensor by one dense sum. All ranks know the coordinates of the result.
    fn sum_known(&self, facts: SparseCall, entries: Entries, known: KnownIndices) -> Result<IndicesAndRows> {
        let rows = self.worker.call("writing rows to their places", move |b| {
            let layout = &facts.layout;
            let rows = result(b, facts.values.dtype, known.indices.count / layout.sparse_dim, layout.row)?;
            // All values begin as zero, including the rows of coordinates at which no rank has an entry.
            steps::fill(b, rows, facts.form.part, 0)?;
            steps::scatter(b, facts.form, entries.rows, known.places, layout.row, rows)?;
            Ok((known.indices, rows))
        })?;
        self.sum(rows.1, ReduceOp::Sum)?;
        Ok(rows)
    }

    fn sum(&self, rows: Tensor, by: ReduceOp) -> Result {
        if self.ctx.size() == 1 || rows.count == 0 {
            return Ok(());
        }
        self.step(3, op::all_reduce(self.lend(rows), by))
    }

    /// Computes the union of all ranks' keys, and reduces one row for each key.
    fn over_union(
        &self,
        facts: SparseCall,
        space: Space,
        entries: Entries,
        counts: Vec<u64>,
    ) -> Result<IndicesAndRows> {
        let longest = counts.iter().copied().max().unwrap_or(0);
        let longest = usize::try_from(longest).unwrap_or(usize::MAX);
        let ranks = counts.len();
        let sent = counts.clone();
        let (mine, lists) = self.worker.call("gathering keys", move |b| {
            let places = longest.checked_mul(ranks).filter(|n| n.checked_mul(8).is_some());
            let places =
                places.ok_or_else(|| Error::new(ErrorKind::Resource, "more entries than any GPU has room for"))?;
            let all = b.allocate(space.dtype(), places)?;
            let mine = b.allocate(space.dtype(), longest)?;
            b.copy(entries.keys, mine)?;
            Ok((mine, Lists { keys: all, longest, counts: b.upload_numbers(&sent)? }))
        })?;
        if longest > 0 {
            self.step(2, op::all_gather_into(self.lend(mine), self.lend(lists.keys)))?;
        }
        let (parts, by) = (
            self.worker.call("uniting the keys", move |b| compact(b, &facts, space, entries, lists, &counts))?,
            self.request.params.reduce,
        );
        self.sum(parts.1, by)?;
        Ok(parts)
    }
}

/// Makes the coordinates of the result, and a row for each of them. At this point, the rows have only this rank's
/// values.
fn compact(
    bench: &mut Bench,
    facts: &SparseCall,
    space: Space,
    entries: Entries,
    lists: Lists,
    counts: &[u64],
) -> Result<IndicesAndRows> {
    let flags = steps::flags(bench, counts.len())?;
    for (rank, count) in counts.iter().enumerate() {
        let keys = lists.keys.slice(rank * lists.longest, *count as usize)?;
        steps::check(bench, space, keys, flags.slice(rank * FLAGS, FLAGS)?)?;
    }
    let numbers = steps::number(bench, space, lists)?;
    let said = bench.download_numbers(flags)?;
    if let Some(rank) = said.chunks(FLAGS).position(|flags| flags.iter().any(|flag| *flag != NONE)) {
        let what = format!("rank {rank} sent keys that are not sorted, or that are outside the tensor");
        return Err(Error::new(ErrorKind::Protocol, what).guilty([rank as u32]).phase(Phase::Transfer));
    }
    let all = bench.download_numbers(numbers.slice(numbers.count - 1, 1)?)?[0] as usize;
    let (layout, form) = (&facts.layout, facts.form);
    // All memory of the result is allocated before anything is written to it.
    let indices = result(bench, DType::I64, all, layout.sparse_dim)?;
    let rows = result(bench, facts.values.dtype, all, layout.row)?;
    let keys = bench.allocate(space.dtype(), all)?;
    let places = bench.allocate(DType::U64, entries.keys.count)?;
    steps::union(bench, space, lists, numbers, keys)?;
    steps::gather(bench, space, keys, indices)?;
    steps::place(bench, space, entries.keys, lists, numbers, places)?;
    steps::fill(bench, rows, form.part, form.neutral)?;
    steps::scatter(bench, form, entries.rows, places, layout.row, rows)?;
    Ok((indices, rows))
}

/// Makes the result in a group of one rank, from the rank's coalesced entries.
fn alone(bench: &mut Bench, facts: &SparseCall, space: Space, entries: Entries) -> Result<IndicesAndRows> {
    let layout = &facts.layout;
    let indices = result(bench, DType::I64, entries.keys.count, layout.sparse_dim)?;
    let rows = result(bench, facts.values.dtype, entries.keys.count, layout.row)?;
    steps::gather(bench, space, entries.keys, indices)?;
    bench.copy(entries.rows, rows)?;
    Ok((indices, rows))
}

/// Allocates memory for a part of the result: `each` elements for each entry.
fn result(bench: &mut Bench, dtype: DType, entries: usize, each: usize) -> Result<Tensor> {
    let none = |why: &str| {
        let what = format!("no memory for {entries} entries of {each} elements of {dtype}: {why}");
        Error::new(ErrorKind::Resource, what)
    };
    let count =
        entries.checked_mul(each).filter(|n| n.checked_mul(dtype.size()).is_some_and(|b| b <= isize::MAX as usize));
    let count = count.ok_or_else(|| none("more than any GPU has"))?;
    bench.allocate(dtype, count).map_err(|e| match e.kind() {
        ErrorKind::Resource => none(&e.report().what),
        _ => e,
    })
}
