//! The algorithm: ranges of keys, each reduced by one rank.

use std::borrow::Cow;
use std::ops::Range;

use c10d_core::buffer::CooLayout;
use c10d_core::{Error, KernelContext, Request, Result, op};

use crate::coalesce::{Entries, coalesce};
use crate::fold::fold;
use crate::keys::{Key, delinearise, space};
use crate::known::Known;
use crate::memory::zeroed;
use crate::meta::{Meta, unsound};
use crate::split::split;
use crate::union::{Piece, Union, bits_of, sent_as_bits, set_bits, wire_len, words};
use crate::value::{Combine, Value};

/// Coordinates and values of a tensor.
pub(crate) type Parts<'a, V> = (Cow<'a, [i64]>, Cow<'a, [V]>);

/// One call on one rank.
pub(crate) struct Call<'a> {
    pub(crate) ctx: &'a KernelContext<'a>,
    pub(crate) request: &'a Request,
    pub(crate) layout: &'a CooLayout,
}

impl Call<'_> {
    /// Reduces the tensors of all ranks.
    pub(crate) fn reduce<K: Key, V: Value, C: Combine<V::Wide>>(
        &self,
        input: &Result<Parts<'_, V>>,
    ) -> Result<(Vec<i64>, Vec<V>)> {
        let known = self.request.params.sparse_indices();
        let prepared = input.as_ref().map_err(Error::clone).and_then(|(indices, values)| {
            let local = coalesce::<K, V, C>(self.layout, indices, values)?;
            let known = known.map(|known| Known::new(self.layout, known, &local)).transpose()?;
            Ok((local, known))
        });
        if self.ctx.size() == 1 {
            return match (prepared?, known) {
                ((local, Some(keys)), Some(known)) => self.sum_known::<K, V, C>(known, keys, &local),
                ((local, _), _) => self.alone(local),
            };
        }
        let told = prepared.as_ref().map(|(local, known)| (local, known.as_ref().map_or(0, |known| known.hash)));
        let meta = Meta::exchange(self.ctx, self.request, self.layout, told)?;
        let (local, keys) = prepared?;
        if let (Some(keys), Some(known)) = (keys, known) {
            return self.sum_known::<K, V, C>(known, keys, &local);
        }
        if meta.is_all() { self.at_once::<K, V, C>(&meta) } else { self.by_ranges::<K, V, C>(&meta, local) }
    }

    fn alone<K: Key, V: Value>(&self, local: Entries<'_, K, V>) -> Result<(Vec<i64>, Vec<V>)> {
        let mut indices = zeroed(local.keys.len(), self.layout.sparse_dim)?;
        delinearise(self.layout, local.keys.iter().map(|key| key.number()), &mut indices, 0);
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

    /// All tensors came with the first round: every rank reduces everything.
    fn at_once<K: Key, V: Value, C: Combine<V::Wide>>(&self, meta: &Meta) -> Result<(Vec<i64>, Vec<V>)> {
        let (space, row) = (space(self.layout), self.layout.row);
        let all: Vec<(Vec<K>, Vec<V>)> = (0..self.ctx.size() as usize)
            .map(|rank| Ok((meta.keys(rank, space)?, meta.values(rank, row))))
            .collect::<Result<_>>()?;
        let range = 0..space;
        let keys: Vec<Piece<'_, K>> = all.iter().map(|(keys, _)| Piece::List(keys)).collect();
        let union = Union::of(&range, &keys);
        let mut indices = zeroed(union.len(), self.layout.sparse_dim)?;
        let mut values = zeroed(union.len(), row)?;
        let pieces: Vec<(Piece<'_, K>, &[V])> =
            all.iter().map(|(keys, values)| (Piece::List(keys), &values[..])).collect();
        fold::<K, V, C>(&range, &union, &pieces, row, &mut values);
        match &union {
            Union::List(keys) => delinearise(self.layout, keys.iter().map(|key| key.number()), &mut indices, 0),
            Union::Bits(bits, _) => delinearise(self.layout, bits_of(&range, bits), &mut indices, 0),
        }
        Ok((indices, values))
    }

    /// Each rank reduces a range of keys; the result is the ranges' results, one after the other.
    fn by_ranges<K: Key, V: Value, C: Combine<V::Wide>>(
        &self,
        meta: &Meta,
        local: Entries<'_, K, V>,
    ) -> Result<(Vec<i64>, Vec<V>)> {
        let (ranks, me) = (self.ctx.size() as usize, self.ctx.rank() as usize);
        let (space, row, sparse_dim) = (space(self.layout), self.layout.row, self.layout.sparse_dim);
        let samples = (0..ranks).map(|rank| Ok((meta.nnz(rank), meta.keys::<K>(rank, space)?)));
        let ranges = split(space, &samples.collect::<Result<Vec<_>>>()?);
        let range = ranges[me].clone();
        let cuts: Vec<Range<usize>> = ranges.iter().map(|range| within(&local.keys, range)).collect();
        let mine = &local.keys[cuts[me].clone()];

        let counts = self.counts(meta, &ranges, &cuts)?;
        let wires = self.send_keys(&ranges, &cuts, &local.keys, &counts)?;
        let mut pieces: Vec<Piece<'_, K>> = Vec::with_capacity(ranks);
        for (rank, wire) in wires.iter().enumerate() {
            let piece = if rank == me { Some(Piece::List(mine)) } else { Piece::read(&range, counts[rank], wire) };
            pieces
                .push(piece.ok_or_else(|| unsound(rank, "entries outside of this rank's range, or not as announced"))?);
        }
        let union = Union::of(&range, &pieces);
        let sizes = self.sizes(&ranges, union.len())?;
        let total = sizes.iter().try_fold(0usize, |sum, size| sum.checked_add(*size)).unwrap_or(usize::MAX);
        let mut indices = zeroed::<i64>(total, sparse_dim)?;
        let mut values = zeroed::<V>(total, row)?;
        self.gather_keys(&ranges, &sizes, &union, &mut indices)?;

        let theirs = self.send_rows(&cuts, &counts, &local.values)?;
        let own = &local.values[cuts[me].start * row..cuts[me].end * row];
        let rows = theirs.iter().enumerate().map(|(rank, rows)| if rank == me { own } else { &rows[..] });
        let pieces: Vec<(Piece<'_, K>, &[V])> = pieces.into_iter().zip(rows).collect();
        let mut parts = parts(&mut values, sizes.iter().map(|size| size * row));
        fold::<K, V, C>(&range, &union, &pieces, row, parts[me]);
        drop(theirs);
        self.ctx.run_step(self.request, 7, op::all_gather_in_place(std::mem::take(&mut parts), me as u32))?;
        Ok((indices, values))
    }

    /// How many entries each rank has in this one's range.
    fn counts(&self, meta: &Meta, ranges: &[Range<u64>], cuts: &[Range<usize>]) -> Result<Vec<usize>> {
        let mine: Vec<u64> = cuts.iter().map(|cut| cut.len() as u64).collect();
        let theirs = vec![0u64; mine.len()];
        let (_, theirs) = self.ctx.run_step(self.request, 2, op::all_to_all_single(mine, theirs))?;
        let range = &ranges[self.ctx.rank() as usize];
        let most = range.end - range.start;
        for (rank, count) in theirs.iter().enumerate() {
            if *count > most || *count > meta.nnz(rank) as u64 {
                return Err(unsound(rank, "a number of entries that cannot be"));
            }
        }
        Ok(theirs.into_iter().map(|count| count as usize).collect())
    }

    /// Sends every rank the keys of its range; gives what came, to be read as pieces of this rank's.
    fn send_keys<K: Key>(
        &self,
        ranges: &[Range<u64>],
        cuts: &[Range<usize>],
        keys: &[K],
        counts: &[usize],
    ) -> Result<Vec<Vec<u64>>> {
        let me = self.ctx.rank() as usize;
        let mut bits: Vec<Vec<u64>> = Vec::with_capacity(ranges.len());
        for (rank, (range, cut)) in ranges.iter().zip(cuts).enumerate() {
            let mut set = Vec::new();
            if rank != me && sent_as_bits::<K>(range, cut.len()) {
                set = zeroed(words(range) as usize, 1)?;
                set_bits(range, &keys[cut.clone()], &mut set);
            }
            bits.push(set);
        }
        let inputs = bits.iter().zip(cuts).enumerate().map(|(rank, (bits, cut))| match bits.is_empty() {
            _ if rank == me => &[][..],
            true => bytemuck::cast_slice::<K, u32>(&keys[cut.clone()]),
            false => bytemuck::cast_slice::<u64, u32>(bits),
        });
        let lens: Vec<usize> = counts
            .iter()
            .enumerate()
            .map(|(rank, count)| if rank == me { 0 } else { wire_len::<K>(&ranges[me], *count) })
            .collect();
        let mut wires: Vec<Vec<u64>> = lens.iter().map(|len| zeroed(len.div_ceil(2), 1)).collect::<Result<_>>()?;
        let outputs = wires.iter_mut().zip(&lens).map(|(wire, len)| &mut bytemuck::cast_slice_mut(wire)[..*len]);
        let call = op::all_to_all(inputs.collect(), outputs.collect::<Vec<&mut [u32]>>());
        self.ctx.run_step(self.request, 3, call)?;
        Ok(wires)
    }

    /// How many entries the result has in each range.
    fn sizes(&self, ranges: &[Range<u64>], mine: usize) -> Result<Vec<usize>> {
        let all = vec![0u64; ranges.len()];
        let (_, all) = self.ctx.run_step(self.request, 4, op::all_gather_into(&[mine as u64], all))?;
        for (rank, (size, range)) in all.iter().zip(ranges).enumerate() {
            if *size > range.end - range.start {
                return Err(unsound(rank, "more entries than its range has"));
            }
        }
        Ok(all.into_iter().map(|size| size as usize).collect())
    }

    /// Gathers the keys of the result, as coordinates.
    fn gather_keys<K: Key>(
        &self,
        ranges: &[Range<u64>],
        sizes: &[usize],
        union: &Union<K>,
        indices: &mut [i64],
    ) -> Result {
        let me = self.ctx.rank() as usize;
        let lens: Vec<usize> = ranges.iter().zip(sizes).map(|(range, size)| wire_len::<K>(range, *size)).collect();
        let mut wires: Vec<Vec<u64>> = Vec::with_capacity(lens.len());
        for (rank, len) in lens.iter().enumerate() {
            wires.push(if rank == me { union.to_wire(&ranges[me]) } else { zeroed(len.div_ceil(2), 1)? });
        }
        let buffers = wires.iter_mut().zip(&lens).map(|(wire, len)| &mut bytemuck::cast_slice_mut(wire)[..*len]);
        let buffers: Vec<&mut [u32]> = buffers.collect();
        self.ctx.run_step(self.request, 5, op::all_gather_in_place(buffers, me as u32))?;
        let mut at = 0;
        for (rank, (range, wire)) in ranges.iter().zip(&wires).enumerate() {
            match Piece::<K>::read(range, sizes[rank], wire) {
                Some(Piece::List(keys)) => {
                    delinearise(self.layout, keys.iter().map(|key| key.number()), indices, at);
                }
                Some(Piece::Bits(bits)) => delinearise(self.layout, bits_of(range, bits), indices, at),
                None => return Err(unsound(rank, "entries outside of its range, or not as announced")),
            }
            at += sizes[rank];
        }
        Ok(())
    }

    /// Sends every rank the rows of its range; gives what came.
    fn send_rows<V: Value>(&self, cuts: &[Range<usize>], counts: &[usize], values: &[V]) -> Result<Vec<Vec<V>>> {
        let (me, row) = (self.ctx.rank() as usize, self.layout.row);
        let inputs = cuts
            .iter()
            .enumerate()
            .map(|(rank, cut)| if rank == me { &[][..] } else { &values[cut.start * row..cut.end * row] });
        let counts = counts.iter().enumerate().map(|(rank, count)| if rank == me { 0 } else { *count });
        let mut theirs: Vec<Vec<V>> = counts.map(|count| zeroed(count, row)).collect::<Result<_>>()?;
        let outputs = theirs.iter_mut().map(|rows| &mut rows[..]).collect();
        self.ctx.run_step(self.request, 6, op::all_to_all(inputs.collect(), outputs))?;
        Ok(theirs)
    }
}

/// The keys of a range.
fn within<K: Key>(keys: &[K], range: &Range<u64>) -> Range<usize> {
    let below = |end: u64| keys.partition_point(|key| key.number() < end);
    below(range.start)..below(range.end)
}

/// Cuts into parts of these lengths.
fn parts<T>(mut all: &mut [T], lens: impl Iterator<Item = usize>) -> Vec<&mut [T]> {
    lens.map(|len| all.split_off_mut(..len).unwrap_or_default()).collect()
}
