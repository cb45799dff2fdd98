//! Sets of entries: sorted lists of keys, or one bit for each key of a range.

use std::ops::Range;

use c10d_core::Result;

use crate::bits::{each_bit, words};
use crate::keys::{Key, is_coalesced};
use crate::memory::{room_for, zeroed};

/// The entries of one rank in a range of keys.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Piece<'a, K> {
    /// The sorted keys, without duplicates.
    List(&'a [K]),
    /// One bit for each key of the range.
    Bits(&'a [u64]),
}

/// The entries of all ranks in a range of keys.
#[derive(Debug)]
pub(crate) enum Union<K> {
    List(Vec<K>),
    /// One bit for each key of the range, and the number of set bits before each word and in total.
    Bits(Vec<u64>, Vec<usize>),
}

/// Returns whether `count` keys of the range are sent as bits, because the bits are shorter than the list of keys.
/// Sender and receiver compute the same result.
pub(crate) fn sent_as_bits<K>(range: &Range<u64>, count: usize) -> bool {
    words(range).saturating_mul(8) < (count as u64).saturating_mul(size_of::<K>() as u64)
}

/// Returns the length of `count` keys as they are sent, in units of 32 bits.
pub(crate) fn wire_len<K>(range: &Range<u64>, count: usize) -> usize {
    if sent_as_bits::<K>(range, count) { 2 * words(range) as usize } else { count * (size_of::<K>() / 4) }
}

pub(crate) fn set_bits<K: Key>(range: &Range<u64>, keys: &[K], bits: &mut [u64]) {
    for key in keys {
        let at = key.number() - range.start;
        bits[(at / 64) as usize] |= 1 << (at % 64);
    }
}

impl<'a, K: Key> Piece<'a, K> {
    /// Reads received data. Returns `None` if it does not consist of `count` sorted keys of the range.
    pub(crate) fn read(range: &Range<u64>, count: usize, wire: &'a [u64]) -> Option<Piece<'a, K>> {
        if sent_as_bits::<K>(range, count) {
            let set: usize = wire.iter().map(|word| word.count_ones() as usize).sum();
            let beyond = match ((range.end - range.start) % 64, wire.last()) {
                (0, _) | (_, None) => 0,
                (used, Some(last)) => last >> used,
            };
            return (set == count && beyond == 0).then_some(Piece::Bits(wire));
        }
        let keys = bytemuck::cast_slice::<u64, K>(wire).get(..count)?;
        let inside = keys.first().is_none_or(|key| key.number() >= range.start)
            && keys.last().is_none_or(|key| key.number() < range.end);
        (inside && is_coalesced(keys)).then_some(Piece::List(keys))
    }

    /// Returns the part that is in one chunk of the range.
    pub(crate) fn part(&self, range: &Range<u64>, chunk: &Range<u64>) -> Piece<'a, K> {
        match self {
            Piece::List(keys) => Piece::List(&keys[within(keys, chunk)]),
            Piece::Bits(bits) => Piece::Bits(&bits[words_of(range, chunk)]),
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Piece::List(keys) => keys.len(),
            Piece::Bits(bits) => bits.iter().map(|word| word.count_ones() as usize).sum(),
        }
    }
}

/// The part of a union that is in one chunk.
#[derive(Clone, Copy)]
pub(crate) enum View<'a, K> {
    List(&'a [K]),
    /// The bits, and the number of the union's set bits before each word and at the chunk's end.
    Bits(&'a [u64], &'a [usize]),
}

impl<K> View<'_, K> {
    pub(crate) fn len(&self) -> usize {
        match self {
            View::List(keys) => keys.len(),
            View::Bits(_, before) => before.last().unwrap_or(&0) - before.first().unwrap_or(&0),
        }
    }
}

/// Returns the positions of a chunk's words in the range's words of bits. The chunk must begin at the first bit of a
/// word.
fn words_of(range: &Range<u64>, chunk: &Range<u64>) -> Range<usize> {
    let begin = (chunk.start - range.start) / 64;
    begin as usize..(begin + words(chunk)) as usize
}

/// Returns the positions of the keys that are in a chunk.
pub(crate) fn within<K: Key>(keys: &[K], chunk: &Range<u64>) -> Range<usize> {
    let below = |end: u64| keys.partition_point(|key| key.number() < end);
    below(chunk.start)..below(chunk.end)
}

impl<K: Key> Union<K> {
    /// Returns the part that is in one chunk of the range.
    pub(crate) fn part(&self, range: &Range<u64>, chunk: &Range<u64>) -> View<'_, K> {
        match self {
            Union::List(keys) => View::List(&keys[within(keys, chunk)]),
            Union::Bits(bits, before) => {
                let words = words_of(range, chunk);
                View::Bits(&bits[words.clone()], &before[words.start..=words.end])
            }
        }
    }

    /// Computes the union of pieces of one range. If the pieces together have at least one entry per 128 keys of the
    /// range, the union is stored as bits.
    ///
    /// # Errors
    /// `Resource` if there is not enough memory.
    pub(crate) fn of(range: &Range<u64>, pieces: &[Piece<'_, K>]) -> Result<Union<K>> {
        let total: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
        let bits = pieces.iter().any(|piece| matches!(piece, Piece::Bits(_)));
        if !bits && words(range) > total.saturating_mul(2) {
            let mut keys: Vec<K> = room_for(total as usize)?;
            for piece in pieces {
                if let Piece::List(list) = piece {
                    keys.extend_from_slice(list);
                }
            }
            // This sort is fast, because each piece is sorted already.
            keys.sort();
            keys.dedup();
            return Ok(Union::List(keys));
        }
        let mut all = zeroed(words(range) as usize, 1)?;
        for piece in pieces {
            match piece {
                Piece::List(keys) => set_bits(range, keys, &mut all),
                Piece::Bits(bits) => all.iter_mut().zip(*bits).for_each(|(all, bits)| *all |= bits),
            }
        }
        Union::from_bits(all)
    }

    fn from_bits(bits: Vec<u64>) -> Result<Union<K>> {
        let mut before = room_for(bits.len() + 1)?;
        let mut count = 0;
        for word in &bits {
            before.push(count);
            count += word.count_ones() as usize;
        }
        before.push(count);
        Ok(Union::Bits(bits, before))
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Union::List(keys) => keys.len(),
            Union::Bits(_, before) => before.last().copied().unwrap_or(0),
        }
    }

    /// Returns the entries in the form in which they are sent.
    pub(crate) fn to_wire(&self, range: &Range<u64>) -> Result<Vec<u64>> {
        let mut wire = zeroed::<u64>(wire_len::<K>(range, self.len()).div_ceil(2), 1)?;
        let mut list = bytemuck::cast_slice_mut::<u64, K>(&mut wire).iter_mut();
        match self {
            Union::Bits(bits, _) if sent_as_bits::<K>(range, self.len()) => wire.copy_from_slice(bits),
            Union::Bits(bits, _) => each_bit(range, bits, |key| {
                if let Some(to) = list.next() {
                    *to = K::new(key);
                }
            }),
            Union::List(keys) => list.zip(keys).for_each(|(to, key)| *to = *key),
        }
        Ok(wire)
    }
}
