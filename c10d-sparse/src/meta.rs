//! The first round: what each rank has, and small tensors as a whole.

use c10d_core::backend::{KernelContext, Request};
use c10d_core::buffer::CooLayout;
use c10d_core::{Error, ErrorKind, Phase, Result, op};

use crate::coalesce::Entries;
use crate::keys::{Key, is_coalesced};
use crate::value::Value;

/// Words of 64 bits that each rank sends.
const WORDS: usize = 256;
/// Of these, those in front of the payload.
const HEAD: usize = 16;
const PAYLOAD: usize = WORDS - HEAD;
/// Dimensions whose sizes are sent, for errors; all are in the hash.
const DIMS: usize = 8;

/// The step after which ranks that disagree part.
const LAST: u8 = 127;

/// What all ranks sent in the first round.
pub(crate) struct Meta {
    words: Vec<u64>,
    row_bytes: usize,
}

/// Words for a whole tensor.
fn whole(nnz: usize, row_bytes: usize) -> usize {
    nnz.saturating_add(nnz.saturating_mul(row_bytes).div_ceil(8))
}

impl Meta {
    /// Tells all ranks what this one has, or that its tensor is wrong; learns the same of them.
    ///
    /// # Errors
    /// On all ranks: `Mismatch` of the shape, or of `sparse_indices`; what is wrong with some rank's tensor.
    pub(crate) fn exchange<K: Key, V: Value>(
        ctx: &KernelContext<'_>,
        request: &Request,
        layout: &CooLayout,
        local: Result<(&Entries<'_, K, V>, u64), &Error>,
    ) -> Result<Meta> {
        let row_bytes = layout.row.saturating_mul(size_of::<V>());
        let mut mine = [0u64; WORDS];
        mine[2] = layout.shape_hash();
        mine[3] = (layout.shape.len() as u64) << 32 | layout.sparse_dim as u64;
        mine[4..4 + DIMS].iter_mut().zip(&layout.shape).for_each(|(to, size)| *to = *size as u64);
        let known = local.as_ref().map_or(0, |(_, known)| *known);
        let payload = &mut mine[HEAD..];
        match local {
            Ok((entries, _)) => {
                write_entries(entries, row_bytes, payload);
                mine[1] = entries.keys.len() as u64;
            }
            Err(e) => {
                let text = e.report().what.as_bytes();
                let to = bytemuck::cast_slice_mut::<u64, u8>(payload);
                to.iter_mut().zip(text).for_each(|(to, byte)| *to = *byte);
                mine[0] = if *e.kind() == ErrorKind::InvalidArgument { 1 } else { 2 };
            }
        }
        mine[12] = known;
        let words = vec![0; WORDS * ctx.size() as usize];
        let (_, words) = ctx.run_step(request, 1, op::all_gather_into(&mine[..], words))?;
        let meta = Meta { words, row_bytes };
        let disagreed = |error| {
            // All ranks know it by now, or will: whoever left at once would be taken for the cause by those that do not.
            let _ = ctx.run_step(request, LAST, op::all_gather_into(&[0u8][..], vec![0u8; ctx.size() as usize]));
            error
        };
        meta.same_shape(ctx.rank(), layout).map_err(disagreed)?;
        meta.sound(local.err())?;
        meta.same_known(ctx.rank()).map_err(disagreed)?;
        Ok(meta)
    }

    fn of(&self, rank: usize) -> &[u64] {
        &self.words[rank * WORDS..(rank + 1) * WORDS]
    }

    fn ranks(&self) -> std::ops::Range<usize> {
        0..self.words.len() / WORDS
    }

    /// How many entries a rank has.
    pub(crate) fn nnz(&self, rank: usize) -> usize {
        self.of(rank)[1] as usize
    }

    fn same_shape(&self, rank: u32, layout: &CooLayout) -> Result {
        let mine = self.of(rank as usize);
        let shape = |words: &[u64]| words[2..4 + DIMS].to_vec();
        let guilty = self.ranks().filter(|r| shape(self.of(*r)) != shape(mine)).map(|r| r as u32).collect::<Vec<u32>>();
        if let Some(first) = guilty.first() {
            let theirs = shape_words(self.of(*first as usize));
            let kind = ErrorKind::Mismatch { field: "shape", mine: layout.to_string(), theirs };
            return Err(Error::new(kind, "").guilty(guilty).phase(Phase::Announce));
        }
        Ok(())
    }

    fn same_known(&self, rank: u32) -> Result {
        let mine = self.of(rank as usize)[12];
        let guilty = self.ranks().filter(|r| self.of(*r)[12] != mine).map(|r| r as u32).collect::<Vec<u32>>();
        if let Some(first) = guilty.first() {
            let words = |rank: u32| match self.of(rank as usize)[12] {
                0 => "not given".to_owned(),
                hash => format!("given, with hash {hash:#018x},"),
            };
            let kind = ErrorKind::Mismatch { field: "sparse_indices", mine: words(rank), theirs: words(*first) };
            return Err(Error::new(kind, "").guilty(guilty).phase(Phase::Announce));
        }
        Ok(())
    }

    /// Whether all ranks' tensors are sound. All ranks take the same decision, so that the group stays usable.
    fn sound(&self, local: Option<&Error>) -> Result {
        let guilty: Vec<u32> = self.ranks().filter(|r| self.of(*r)[0] != 0).map(|r| r as u32).collect();
        let Some(first) = guilty.first().copied() else { return Ok(()) };
        let theirs = self.of(first as usize);
        let text = bytemuck::cast_slice::<u64, u8>(&theirs[HEAD..]);
        let text = String::from_utf8_lossy(text.split(|byte| *byte == 0).next().unwrap_or_default());
        let error = match local {
            Some(mine) => mine.clone(),
            None if theirs[0] == 1 => Error::invalid(format!("the sparse tensor of rank {first}: {text}")),
            None => Error::new(ErrorKind::Resource, format!("rank {first}: {text}")),
        };
        Err(error.guilty(guilty).phase(Phase::Validate).rejected())
    }

    /// Whether all ranks' tensors came with this round.
    pub(crate) fn is_all(&self) -> bool {
        self.ranks().all(|r| self.is_whole(r))
    }

    /// Bytes that a rank sends to another, about.
    pub(crate) fn bytes_per_pair(&self) -> usize {
        let rows: u128 = self.ranks().map(|rank| self.nnz(rank) as u128).sum();
        let bytes = rows * self.row_bytes as u128 / (self.ranks().len() * self.ranks().len()) as u128;
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }

    fn is_whole(&self, rank: usize) -> bool {
        whole(self.nnz(rank), self.row_bytes) <= PAYLOAD
    }

    /// A rank's keys: all of them, or a sample at equal distances.
    ///
    /// # Errors
    /// `Protocol` if they are not sorted keys of the tensor.
    pub(crate) fn keys<K: Key>(&self, rank: usize, space: u64) -> Result<Vec<K>> {
        let sent = if self.is_whole(rank) { self.nnz(rank) } else { self.nnz(rank).min(PAYLOAD) };
        let keys = &self.of(rank)[HEAD..HEAD + sent];
        if !is_coalesced(keys) || keys.last().is_some_and(|last| *last >= space) {
            return Err(unsound(rank, "keys that are not sorted, or outside of the tensor"));
        }
        Ok(keys.iter().map(|key| K::new(*key)).collect())
    }

    /// A rank's rows, if its tensor came as a whole.
    pub(crate) fn values<V: Value>(&self, rank: usize, row: usize) -> Vec<V> {
        let nnz = self.nnz(rank);
        let mut values = vec![V::zeroed(); nnz * row];
        V::read(bytemuck::cast_slice(&self.of(rank)[HEAD + nnz..]), &mut values);
        values
    }
}

/// All entries if they fit, else a sample of the keys.
fn write_entries<K: Key, V: Value>(entries: &Entries<'_, K, V>, row_bytes: usize, payload: &mut [u64]) {
    let nnz = entries.keys.len();
    if whole(nnz, row_bytes) <= PAYLOAD {
        let (keys, values) = payload.split_at_mut(nnz);
        keys.iter_mut().zip(&entries.keys).for_each(|(to, key)| *to = key.number());
        let bytes = V::bytes(&entries.values);
        bytemuck::cast_slice_mut::<u64, u8>(values)[..bytes.len()].copy_from_slice(bytes);
        return;
    }
    let sample = nnz.min(PAYLOAD);
    for (i, to) in payload[..sample].iter_mut().enumerate() {
        *to = entries.keys[(i as u128 * nnz as u128 / sample as u128) as usize].number();
    }
}

/// A shape out of a first round, in words.
fn shape_words(words: &[u64]) -> String {
    let dims = (words[3] >> 32) as usize;
    let sizes: Vec<String> = words[4..4 + DIMS.min(dims)].iter().map(u64::to_string).collect();
    let more = if dims > DIMS { ", .." } else { "" };
    format!("[{}{more}] of which {} sparse", sizes.join(", "), words[3] as u32)
}

/// A peer sent what cannot be.
#[cold]
pub(crate) fn unsound(rank: usize, what: &str) -> Error {
    Error::new(ErrorKind::Protocol, format!("rank {rank} sent {what}")).guilty([rank as u32]).phase(Phase::Transfer)
}
