//! Combines all ranks' rows for a range of keys into one row per entry, in rank order.

use std::ops::Range;

use c10d_core::Result;

use crate::bits::each_bit;
use crate::keys::Key;
use crate::memory::zeroed;
use crate::union::{Piece, View};
use crate::value::{Combine, Value};

/// The number of words of bits (of 64 keys each) in a block. The rows of all ranks in one block are combined before the
/// next block begins.
const BLOCK: usize = 64;

/// One operation on one element type, as function pointers, so that the calling code is not compiled for each
/// operation.
pub(crate) struct By<K: Key, V: Value> {
    pub(crate) fold: Fold<K, V>,
    pub(crate) merge: Merge<K, V>,
}

/// The type of [`fold`].
type Fold<K, V> = fn(&Range<u64>, View<'_, K>, &[(Piece<'_, K>, &[V])], usize, &mut [V]) -> Result;
/// The type of [`merge`].
type Merge<K, V> = fn(&[(K, usize)], &[V], usize, &mut [V]) -> Result;

impl<K: Key, V: Value> By<K, V> {
    pub(crate) fn of<C: Combine<V::Wide>>() -> By<K, V> {
        By { fold: fold::<K, V, C>, merge: merge::<K, V, C> }
    }
}

/// Combines the rows that have the same key into one. `order` has the sorted keys with the positions of their rows.
fn merge<K: Key, V: Value, C: Combine<V::Wide>>(
    order: &[(K, usize)],
    values: &[V],
    row: usize,
    out: &mut [V],
) -> Result {
    V::accumulate(out, |out| {
        for (same, i) in order.chunk_by(|a, b| a.0 == b.0).zip(0..) {
            let out = &mut out[i * row..(i + 1) * row];
            for (n, (_, entry)) in same.iter().enumerate() {
                let values = &values[entry * row..(entry + 1) * row];
                if n == 0 { set(out, values) } else { add::<V, C>(out, values) }
            }
        }
        Ok(())
    })
}

/// Reduces the rows of `pieces` into `out`, which has one row for each entry of the union. The pieces are in rank
/// order, and all their keys are in the union. `union` and `pieces` have only the keys in `chunk`.
fn fold<K: Key, V: Value, C: Combine<V::Wide>>(
    chunk: &Range<u64>,
    union: View<'_, K>,
    pieces: &[(Piece<'_, K>, &[V])],
    row: usize,
    out: &mut [V],
) -> Result {
    if row == 0 {
        return Ok(());
    }
    V::accumulate(out, |out| {
        match (union, C::NEUTRAL) {
            (View::Bits(bits, _), Some(neutral)) if row == 1 => {
                by_position::<K, V, C>(chunk, bits, neutral, pieces, out)
            }
            (View::Bits(bits, before), _) => by_bits::<K, V, C>(chunk, bits, before, pieces, row, out),
            (View::List(keys), _) => return by_search::<K, V, C>(keys, pieces, row, out),
        }
        Ok(())
    })
}

/// Reduces rows of a single value, in a table with one element for each key of a block.
fn by_position<K: Key, V: Value, C: Combine<V::Wide>>(
    chunk: &Range<u64>,
    bits: &[u64],
    neutral: V::Wide,
    pieces: &[(Piece<'_, K>, &[V])],
    out: &mut [V::Wide],
) {
    let mut pieces = pieces.to_vec();
    let mut places = [neutral; BLOCK * 64];
    let mut out = out.iter_mut();
    for (words, base) in bits.chunks(BLOCK).zip((chunk.start..).step_by(BLOCK * 64)) {
        places.fill(neutral);
        for (piece, values) in &mut pieces {
            let count = match piece {
                Piece::List(keys) => {
                    let mut count = 0;
                    for (key, value) in keys.iter().zip(values.iter()) {
                        let place = (key.number() - base) as usize;
                        let Some(sum) = places.get_mut(place) else { break };
                        *sum = C::combine(*sum, value.widen());
                        count += 1;
                    }
                    *keys = &keys[count..];
                    count
                }
                Piece::Bits(bits) => {
                    let (now, later) = bits.split_at(words.len());
                    *bits = later;
                    let mut count = 0;
                    each_bit(&(0..0), now, |place| {
                        let sum = &mut places[place as usize % (BLOCK * 64)];
                        *sum = C::combine(*sum, values[count].widen());
                        count += 1;
                    });
                    count
                }
            };
            *values = &values[count..];
        }
        each_bit(&(0..0), words, |place| {
            if let Some(out) = out.next() {
                *out = places[place as usize % (BLOCK * 64)];
            }
        });
    }
}

/// The entries of one rank that are not combined yet.
struct Rest<'a, K, V> {
    piece: Piece<'a, K>,
    values: &'a [V],
}

impl<'a, K: Key, V> Rest<'a, K, V> {
    /// Takes the next word of bits. The first bit of this word stands for the key `base`.
    fn word(&mut self, base: u64) -> u64 {
        match &mut self.piece {
            Piece::Bits(bits) => {
                let (first, rest) = bits.split_first().unwrap_or((&0, &[]));
                *bits = rest;
                *first
            }
            Piece::List(keys) => {
                let (mut word, mut n) = (0, 0);
                while let Some(key) = keys.get(n)
                    && key.number() - base < 64
                {
                    word |= 1 << (key.number() - base);
                    n += 1;
                }
                *keys = &keys[n..];
                word
            }
        }
    }

    fn take(&mut self, count: usize) -> &'a [V] {
        let (now, later) = self.values.split_at(count);
        self.values = later;
        now
    }
}

/// Reduces the rows of a chunk whose union is stored as bits. `before` has the number of entries of the union before
/// each word of bits.
fn by_bits<K: Key, V: Value, C: Combine<V::Wide>>(
    chunk: &Range<u64>,
    bits: &[u64],
    before: &[usize],
    pieces: &[(Piece<'_, K>, &[V])],
    row: usize,
    out: &mut [V::Wide],
) {
    let mut rests: Vec<Rest<'_, K, V>> = pieces.iter().map(|(piece, values)| Rest { piece: *piece, values }).collect();
    let mut seen = [0u64; BLOCK];
    for (block, words) in bits.chunks(BLOCK).enumerate() {
        seen.fill(0);
        for rest in &mut rests {
            for (i, all) in words.iter().copied().enumerate() {
                let w = block * BLOCK + i;
                let mine = rest.word(chunk.start + 64 * w as u64);
                if mine == 0 {
                    continue;
                }
                let values = rest.take(mine.count_ones() as usize * row);
                let out = &mut out[(before[w] - before[0]) * row..(before[w + 1] - before[0]) * row];
                word::<V, C>(all, seen[i], mine, values, row, out);
                seen[i] |= mine;
            }
        }
    }
}

/// Combines one rank's rows for one word of bits with the rows of the result. `all` has the bits of the union, `mine`
/// those of this rank, and `seen` those of the ranks that have been combined before.
#[inline]
fn word<V: Value, C: Combine<V::Wide>>(all: u64, seen: u64, mine: u64, values: &[V], row: usize, out: &mut [V::Wide]) {
    if mine == all && seen == 0 {
        return set(out, values);
    }
    if mine == all && seen == all {
        return add::<V, C>(out, values);
    }
    let mut rest = mine;
    for values in values.chunks_exact(row) {
        let bit = rest & rest.wrapping_neg();
        rest ^= bit;
        let place = (all & (bit - 1)).count_ones() as usize * row;
        let out = &mut out[place..place + row];
        if seen & bit == 0 { set(out, values) } else { add::<V, C>(out, values) }
    }
}

/// Reduces the rows of a chunk whose union is stored as a list of keys.
fn by_search<K: Key, V: Value, C: Combine<V::Wide>>(
    all: &[K],
    pieces: &[(Piece<'_, K>, &[V])],
    row: usize,
    out: &mut [V::Wide],
) -> Result {
    let mut seen = zeroed::<bool>(all.len(), 1)?;
    for (piece, values) in pieces {
        let Piece::List(keys) = piece else { continue };
        let mut at = 0;
        for (key, values) in keys.iter().zip(values.chunks_exact(row)) {
            at += leap(&all[at..], *key);
            let out = &mut out[at * row..(at + 1) * row];
            if seen[at] {
                add::<V, C>(out, values)
            } else {
                set(out, values)
            }
            seen[at] = true;
        }
    }
    Ok(())
}

/// Returns the position of a key, which must be in the list. This is a galloping search: the key is usually near the
/// beginning of the list.
fn leap<K: Key>(sorted: &[K], key: K) -> usize {
    let mut step = 1;
    while step < sorted.len() && sorted[step] <= key {
        step *= 2;
    }
    let from = step / 2;
    from + sorted[from..sorted.len().min(step)].partition_point(|k| *k < key)
}

#[inline]
fn set<V: Value>(out: &mut [V::Wide], values: &[V]) {
    out.iter_mut().zip(values).for_each(|(out, value)| *out = value.widen());
}

#[inline]
fn add<V: Value, C: Combine<V::Wide>>(out: &mut [V::Wide], values: &[V]) {
    out.iter_mut().zip(values).for_each(|(out, value)| *out = C::combine(*out, value.widen()));
}
