//! The algorithm: the keys are divided into ranges, and each rank reduces one range.

use std::borrow::Cow;
use std::ops::Range;

use c10d_core::backend::{KernelContext, Request};
use c10d_core::buffer::CooLayout;
use c10d_core::{Error, ErrorKind, ReduceOp, Result, op};

use crate::bits::words;
use crate::coalesce::{Entries, coalesce};
use crate::fold::By;
use crate::keys::{Columns, Key, space};
use crate::known::known;
use crate::memory::zeroed;
use crate::meta::{Meta, unsound};
use crate::split::Ranges;
use crate::union::{Piece, Union, View, sent_as_bits, set_bits, wire_len, within};
use crate::value::Value;

/// The number of bytes of rows that one rank sends to another at a time. The rows of one chunk stay in the cache until
/// they are combined and the results are sent.
const CHUNK: usize = 512 << 10;
/// The largest number of chunks into which a rank's range is divided.
const MOST_CHUNKS: usize = 64;

/// The coordinates and values of a tensor.
pub(crate) type Tensor<'a, V> = (Cow<'a, [i64]>, Cow<'a, [V]>);

pub(crate) struct Call<'a> {
    pub(crate) ctx: &'a KernelContext<'a>,
    pub(crate) request: &'a Request,
    pub(crate) layout: &'a CooLayout,
}

impl Call<'_> {
    /// Reduces the tensors of all ranks.
    pub(crate) fn reduce<K: Key, V: Value>(
        &self,
        by: &By<K, V>,
        input: &Result<Tensor<'_, V>>,
    ) -> Result<(Vec<i64>, Vec<V>)> {
        let given = self.request.params.sparse_indices();
        let prepared = input.as_ref().map_err(Error::clone).and_then(|(indices, values)| {
            let local = coalesce(by, self.layout, indices, values)?;
            let keys = given.map(|given| known(self.layout, given, &local)).transpose()?;
            Ok((local, keys))
        });
        if self.ctx.size() == 1 {
            return match (prepared?, given) {
                ((local, Some(keys)), Some(given)) => self.sum_known(by, given, &keys, &local),
                ((local, _), _) => self.alone(local),
            };
        }
        let told = prepared.as_ref().map(|(local, _)| local);
        let meta = match (Meta::exchange(self.ctx, self.request, self.layout, told), told) {
            // The exchange timed out before this rank could send its own error. The rank returns its own error, not the
            // timeout.
            (Err(late), Err(own)) if *late.kind() == ErrorKind::Timeout => return Err(own.clone()),
            (meta, _) => meta?,
        };
        let (local, keys) = prepared?;
        if let (Some(keys), Some(given)) = (keys, given) {
            return self.sum_known(by, given, &keys, &local);
        }
        if meta.is_all() { self.at_once(by, &meta) } else { self.by_ranges(by, &meta, local) }
    }

    fn alone<K: Key, V: Value>(&self, local: Entries<'_, K, V>) -> Result<(Vec<i64>, Vec<V>)> {
        let mut indices = zeroed(local.keys.len(), self.layout.sparse_dim)?;
        Columns::new(self.layout, &mut indices).list(&local.keys);
        let values = match local.values {
            Cow::Owned(values) => values,
            Cow::Borrowed(values) => {
                let mut copy = zeroed(values.len(), 1)?;
                copy.copy_from_slice(values);
                copy
            }
        };
        Ok((indices, values))
    }

    /// Reduces tensors if all ranks gave the coordinates of the result (`indices`): only a dense sum of the rows is
    /// needed. `by` is always the sum.
    fn sum_known<K: Key, V: Value>(
        &self,
        by: &By<K, V>,
        indices: &[i64],
        known: &[K],
        local: &Entries<'_, K, V>,
    ) -> Result<(Vec<i64>, Vec<V>)> {
        let row = self.layout.row;
        let mut values = zeroed::<V>(known.len(), row)?;
        let mut copy = zeroed::<i64>(indices.len(), 1)?;
        copy.copy_from_slice(indices);
        let mine = [(Piece::List(&local.keys[..]), &local.values[..])];
        (by.fold)(&(0..space(self.layout)), View::List(known), &mine, row, &mut values)?;
        if self.ctx.size() > 1 {
            self.ctx.run_step(self.request, 2, op::all_reduce(&mut values[..], ReduceOp::Sum))?;
        }
        Ok((copy, values))
    }

    /// Reduces tensors that were all sent whole in the first exchange.
    fn at_once<K: Key, V: Value>(&self, by: &By<K, V>, meta: &Meta) -> Result<(Vec<i64>, Vec<V>)> {
        let (space, row) = (space(self.layout), self.layout.row);
        let all: Vec<(Vec<K>, Vec<V>)> = (0..self.ctx.size() as usize)
            .map(|rank| Ok((meta.keys(rank, space)?, meta.values(rank, row))))
            .collect::<Result<_>>()?;
        let range = 0..space;
        let keys: Vec<Piece<'_, K>> = all.iter().map(|(keys, _)| Piece::List(keys)).collect();
        let union = Union::of(&range, &keys)?;
        let mut indices = zeroed(union.len(), self.layout.sparse_dim)?;
        let mut values = zeroed(union.len(), row)?;
        let pieces: Vec<(Piece<'_, K>, &[V])> =
            all.iter().map(|(keys, values)| (Piece::List(keys), &values[..])).collect();
        (by.fold)(&range, union.part(&range, &range), &pieces, row, &mut values)?;
        match &union {
            Union::List(keys) => Columns::new(self.layout, &mut indices).list(keys),
            Union::Bits(bits, _) => Columns::new(self.layout, &mut indices).bits(&range, bits),
        }
        Ok((indices, values))
    }

    /// Reduces by ranges: each rank reduces the entries in one range of keys.
    fn by_ranges<K: Key, V: Value>(
        &self,
        by: &By<K, V>,
        meta: &Meta,
        local: Entries<'_, K, V>,
    ) -> Result<(Vec<i64>, Vec<V>)> {
        let (ranks, me) = (self.ctx.size() as usize, self.ctx.rank() as usize);
        let (space, row, sparse_dim) = (space(self.layout), self.layout.row, self.layout.sparse_dim);
        let samples = (0..ranks).map(|rank| Ok((meta.nnz(rank), meta.keys::<K>(rank, space)?)));
        let per_rank = meta.bytes_per_pair().div_ceil(CHUNK).clamp(1, MOST_CHUNKS);
        let ranges = Ranges::new(space, &samples.collect::<Result<Vec<_>>>()?, per_rank);
        let range = ranges.of(me);
        // The positions of this rank's entries in each chunk of each rank's range.
        let cuts: Vec<Range<usize>> = ranges.chunks().iter().map(|chunk| within(&local.keys, chunk)).collect();

        let counts = self.counts(meta, &ranges, &cuts)?;
        let wires = self.send_keys(&ranges, &cuts, &local.keys, &counts)?;
        let mut pieces: Vec<Piece<'_, K>> = Vec::with_capacity(ranks);
        for (rank, wire) in wires.iter().enumerate() {
            let counts = &counts[rank * per_rank..(rank + 1) * per_rank];
            let piece = match rank == me {
                true => Some(Piece::List(&local.keys[whole(&cuts, me, per_rank)])),
                false => Piece::read(&range, counts.iter().sum(), wire),
            };
            let mut chunks = ranges.chunks_of(me).iter().zip(counts);
            let sound = |piece: &Piece<'_, K>| chunks.all(|(chunk, count)| piece.part(&range, chunk).len() == *count);
            let what = "entries that are outside the receiver's range, or whose number is not as announced";
            pieces.push(piece.filter(sound).ok_or_else(|| unsound(rank, what))?);
        }
        let union = Union::of(&range, &pieces)?;
        let sizes = self.sizes(&ranges, &union)?;
        let total = sizes.iter().try_fold(0usize, |sum, size| sum.checked_add(*size)).unwrap_or(usize::MAX);
        let mut indices = zeroed::<i64>(total, sparse_dim)?;
        let mut values = zeroed::<V>(total, row)?;
        self.gather_keys(&ranges, &sizes, &union, &mut indices)?;

        let mut results: Vec<&mut [V]> = cut(&mut values, sizes.iter().map(|size| size * row)).collect();
        let mut theirs = self.room_for_rows(&counts, per_rank)?;
        for (c, chunk) in ranges.chunks_of(me).iter().enumerate() {
            let of_chunk = |rank: usize| rank * per_rank + c;
            self.send_rows(&cuts, &counts, of_chunk, &local.values, &mut theirs)?;
            let own = cuts[of_chunk(me)].clone();
            let rows = |rank: usize| match rank == me {
                true => &local.values[own.start * row..own.end * row],
                false => &theirs[rank][..counts[of_chunk(rank)] * row],
            };
            let pieces: Vec<(Piece<'_, K>, &[V])> =
                pieces.iter().enumerate().map(|(rank, piece)| (piece.part(&range, chunk), rows(rank))).collect();
            (by.fold)(chunk, union.part(&range, chunk), &pieces, row, results[of_chunk(me)])?;
            // The reduced rows of the chunk are still in the cache, so they are gathered now.
            let results = (0..ranks).map(|rank| std::mem::take(&mut results[of_chunk(rank)])).collect();
            self.ctx.run_step(self.request, 7, op::all_gather_in_place(results, me as u32))?;
        }
        Ok((indices, values))
    }

    /// Returns the number of entries of each rank in each chunk of this rank's range.
    fn counts(&self, meta: &Meta, ranges: &Ranges, cuts: &[Range<usize>]) -> Result<Vec<usize>> {
        let mine: Vec<u64> = cuts.iter().map(|cut| cut.len() as u64).collect();
        let theirs = vec![0u64; mine.len()];
        let (_, theirs) = self.ctx.run_step(self.request, 2, op::all_to_all_single(mine, theirs))?;
        for (rank, counts) in theirs.chunks(ranges.per_rank()).enumerate() {
            let sum = counts.iter().try_fold(0u64, |sum, count| sum.checked_add(*count));
            if sum.is_none_or(|sum| sum > meta.nnz(rank) as u64) {
                return Err(unsound(rank, "an impossible number of entries"));
            }
        }
        Ok(theirs.into_iter().map(|count| count as usize).collect())
    }

    /// Sends to every rank the keys that are in that rank's range. Returns the data received from each rank, which
    /// `Piece::read` reads.
    fn send_keys<K: Key>(
        &self,
        ranges: &Ranges,
        cuts: &[Range<usize>],
        keys: &[K],
        counts: &[usize],
    ) -> Result<Vec<Vec<u64>>> {
        let (me, per_rank) = (self.ctx.rank() as usize, ranges.per_rank());
        let mine = |rank: usize| &keys[whole(cuts, rank, per_rank)];
        let mut bits: Vec<Vec<u64>> = Vec::with_capacity(self.ctx.size() as usize);
        for (rank, range) in ranges.ranges().enumerate() {
            let mut set = Vec::new();
            if rank != me && sent_as_bits::<K>(&range, mine(rank).len()) {
                set = zeroed(words(&range) as usize, 1)?;
                set_bits(&range, mine(rank), &mut set);
            }
            bits.push(set);
        }
        let inputs = bits.iter().enumerate().map(|(rank, bits)| match bits.is_empty() {
            _ if rank == me => &[][..],
            true => bytemuck::cast_slice::<K, u32>(mine(rank)),
            false => bytemuck::cast_slice::<u64, u32>(bits),
        });
        let range = ranges.of(me);
        let len = |(rank, counts): (usize, &[usize])| match rank == me {
            true => 0,
            false => wire_len::<K>(&range, counts.iter().sum()),
        };
        let lens: Vec<usize> = counts.chunks(per_rank).enumerate().map(len).collect();
        let mut wires: Vec<Vec<u64>> = lens.iter().map(|len| zeroed(len.div_ceil(2), 1)).collect::<Result<_>>()?;
        let outputs = wires.iter_mut().zip(&lens).map(|(wire, len)| &mut bytemuck::cast_slice_mut(wire)[..*len]);
        let call = op::all_to_all(inputs.collect(), outputs.collect::<Vec<&mut [u32]>>());
        self.ctx.run_step(self.request, 3, call)?;
        Ok(wires)
    }

    /// Returns the number of entries of the result in each chunk of each range.
    fn sizes<K: Key>(&self, ranges: &Ranges, union: &Union<K>) -> Result<Vec<usize>> {
        let me = self.ctx.rank() as usize;
        let size = |chunk| union.part(&ranges.of(me), chunk).len() as u64;
        let mine: Vec<u64> = ranges.chunks_of(me).iter().map(size).collect();
        let all = vec![0u64; ranges.chunks().len()];
        let (_, all) = self.ctx.run_step(self.request, 4, op::all_gather_into(mine, all))?;
        for (i, (size, chunk)) in all.iter().zip(ranges.chunks()).enumerate() {
            if *size > chunk.end - chunk.start {
                return Err(unsound(i / ranges.per_rank(), "more entries than its range has"));
            }
        }
        Ok(all.into_iter().map(|size| size as usize).collect())
    }

    /// Gathers the keys of the result, and writes them as coordinates.
    fn gather_keys<K: Key>(&self, ranges: &Ranges, sizes: &[usize], union: &Union<K>, indices: &mut [i64]) -> Result {
        let me = self.ctx.rank() as usize;
        let sizes: Vec<usize> = sizes.chunks(ranges.per_rank()).map(|sizes| sizes.iter().sum()).collect();
        let lens: Vec<usize> = ranges.ranges().zip(&sizes).map(|(range, size)| wire_len::<K>(&range, *size)).collect();
        let mut wires: Vec<Vec<u64>> = Vec::with_capacity(lens.len());
        for (rank, len) in lens.iter().enumerate() {
            wires.push(if rank == me { union.to_wire(&ranges.of(me))? } else { zeroed(len.div_ceil(2), 1)? });
        }
        let buffers = wires.iter_mut().zip(&lens).map(|(wire, len)| &mut bytemuck::cast_slice_mut(wire)[..*len]);
        let buffers: Vec<&mut [u32]> = buffers.collect();
        self.ctx.run_step(self.request, 5, op::all_gather_in_place(buffers, me as u32))?;
        let mut columns = Columns::new(self.layout, indices);
        for (rank, (range, wire)) in ranges.ranges().zip(&wires).enumerate() {
            match Piece::<K>::read(&range, sizes[rank], wire) {
                Some(Piece::List(keys)) => columns.list(keys),
                Some(Piece::Bits(bits)) => columns.bits(&range, bits),
                None => {
                    let what = "entries that are outside the sender's range, or whose number is not as announced";
                    return Err(unsound(rank, what));
                }
            }
        }
        Ok(())
    }

    /// Allocates memory for the rows of each other rank, enough for any chunk.
    fn room_for_rows<V: Value>(&self, counts: &[usize], per_rank: usize) -> Result<Vec<Vec<V>>> {
        let me = self.ctx.rank() as usize;
        let most = counts.chunks(per_rank).map(|counts| counts.iter().copied().max().unwrap_or(0));
        most.enumerate().map(|(rank, most)| zeroed(if rank == me { 0 } else { most }, self.layout.row)).collect()
    }

    /// Sends to every rank the rows that are in one chunk of that rank's range. Receives into `theirs`, from every
    /// rank, the rows that are in the same chunk of this rank's range. `of_chunk` returns the index of this chunk of a
    /// rank's range in `cuts` and `counts`.
    fn send_rows<V: Value>(
        &self,
        cuts: &[Range<usize>],
        counts: &[usize],
        of_chunk: impl Fn(usize) -> usize,
        values: &[V],
        theirs: &mut [Vec<V>],
    ) -> Result {
        let (me, row) = (self.ctx.rank() as usize, self.layout.row);
        let inputs = (0..theirs.len()).map(|rank| match rank == me {
            true => &[][..],
            false => &values[cuts[of_chunk(rank)].start * row..cuts[of_chunk(rank)].end * row],
        });
        let inputs = inputs.collect();
        let outputs = theirs.iter_mut().enumerate().map(|(rank, rows)| match rank == me {
            true => &mut [][..],
            false => &mut rows[..counts[of_chunk(rank)] * row],
        });
        let outputs = outputs.collect();
        self.ctx.run_step(self.request, 6, op::all_to_all(inputs, outputs)).map(drop)
    }
}

/// Returns the positions of the entries in all chunks of a rank's range.
fn whole(cuts: &[Range<usize>], rank: usize, per_rank: usize) -> Range<usize> {
    cuts[rank * per_rank].start..cuts[(rank + 1) * per_rank - 1].end
}

fn cut<T>(mut all: &mut [T], lens: impl Iterator<Item = usize>) -> impl Iterator<Item = &mut [T]> {
    lens.map(move |len| all.split_off_mut(..len).unwrap_or_default())
}
