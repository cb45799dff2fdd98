//! The first exchange: each rank sends the head of its tensor ([`SparseHeads`]). After the head, it sends the whole
//! tensor if the tensor is small, or else a sample of the tensor's keys.

use c10d_core::backend::{KernelContext, Request, SparseHeads};
use c10d_core::buffer::CooLayout;
use c10d_core::{Error, ErrorKind, Phase, Result, op};

use crate::coalesce::Entries;
use crate::keys::{Key, is_coalesced};
use crate::value::Value;

/// The number of 64-bit words that each rank sends in the first exchange.
const WORDS: usize = 256;
/// The number of words after the head.
const PAYLOAD: usize = WORDS - SparseHeads::WORDS;

/// The step number of the extra exchange that is made before a mismatch is reported.
const LAST: u8 = 127;

/// The data that all ranks sent in the first exchange: each rank's head, and its entries or a sample of its keys.
pub(crate) struct Meta {
    words: Vec<u64>,
    row_bytes: usize,
}

/// Returns the number of words that `nnz` entries need. An entry has a key (its coordinates as one number, in one word)
/// and a row (its values, `row_bytes` bytes).
fn whole(nnz: usize, row_bytes: usize) -> usize {
    nnz.saturating_add(nnz.saturating_mul(row_bytes).div_ceil(8))
}

impl Meta {
    /// Sends this rank's head and entries to all ranks, and receives theirs. If there are too many entries, only a
    /// sample of the keys is sent. If `local` is an error in this rank's tensor, the error is sent instead of the
    /// entries.
    ///
    /// # Errors
    /// Each of these errors is returned on all ranks: a `Mismatch` of the call or of `sparse_indices`, or the error in
    /// some rank's tensor.
    pub(crate) fn exchange<K: Key, V: Value>(
        ctx: &KernelContext<'_>,
        request: &Request,
        layout: &CooLayout,
        local: Result<&Entries<'_, K, V>, &Error>,
    ) -> Result<Meta> {
        let row_bytes = layout.row.saturating_mul(size_of::<V>());
        let mut mine = [0u64; WORDS];
        SparseHeads::write(&mut mine, request, layout, local.map(|entries| entries.keys.len()));
        if let Ok(entries) = local {
            write_entries(entries, row_bytes, &mut mine[SparseHeads::WORDS..]);
        }
        let words = vec![0; WORDS * ctx.size() as usize];
        let (_, words) = ctx.run_step(request, 1, op::all_gather_into(&mine[..], words))?;
        let meta = Meta { words, row_bytes };
        let disagreed = |error| {
            // Every rank finds the mismatch. All ranks make one more exchange before they return the error, so that no
            // rank leaves before its peers have read the heads.
            let _ = ctx.run_step(request, LAST, op::all_gather_into(&[0u8][..], vec![0u8; ctx.size() as usize]));
            error
        };
        meta.heads().same_call(ctx.rank()).map_err(disagreed)?;
        meta.heads().sound(local.err())?;
        meta.heads().same_known(ctx.rank()).map_err(disagreed)?;
        Ok(meta)
    }

    fn heads(&self) -> SparseHeads<'_> {
        SparseHeads::new(&self.words, self.words.len() / WORDS)
    }

    fn payload(&self, rank: usize) -> &[u64] {
        self.heads().behind(rank)
    }

    fn ranks(&self) -> std::ops::Range<usize> {
        0..self.words.len() / WORDS
    }

    pub(crate) fn nnz(&self, rank: usize) -> usize {
        self.heads().nnz(rank) as usize
    }

    pub(crate) fn is_all(&self) -> bool {
        self.ranks().all(|r| self.is_whole(r))
    }

    /// Returns the approximate number of bytes that one rank sends to another if each rank splits its rows among all
    /// ranks.
    pub(crate) fn bytes_per_pair(&self) -> usize {
        let rows: u128 = self.ranks().map(|rank| self.nnz(rank) as u128).sum();
        let bytes = rows * self.row_bytes as u128 / (self.ranks().len() * self.ranks().len()) as u128;
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }

    fn is_whole(&self, rank: usize) -> bool {
        whole(self.nnz(rank), self.row_bytes) <= PAYLOAD
    }

    /// Returns the keys that a rank sent: all of its keys if they fit, or else a sample at equal distances.
    ///
    /// # Errors
    /// `Protocol` if the keys are not sorted or are outside the tensor.
    pub(crate) fn keys<K: Key>(&self, rank: usize, space: u64) -> Result<Vec<K>> {
        let sent = if self.is_whole(rank) { self.nnz(rank) } else { self.nnz(rank).min(PAYLOAD) };
        let keys = &self.payload(rank)[..sent];
        if !is_coalesced(keys) || keys.last().is_some_and(|last| *last >= space) {
            return Err(unsound(rank, "keys that are not sorted, or that are outside the tensor"));
        }
        Ok(keys.iter().map(|key| K::new(*key)).collect())
    }

    /// Returns the rows of a rank whose tensor was sent whole.
    pub(crate) fn values<V: Value>(&self, rank: usize, row: usize) -> Vec<V> {
        let nnz = self.nnz(rank);
        let mut values = vec![V::zeroed(); nnz * row];
        V::read(bytemuck::cast_slice(&self.payload(rank)[nnz..]), &mut values);
        values
    }
}

/// Writes all entries if they fit, or else as many of the keys as fit, at equal distances.
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

#[cold]
pub(crate) fn unsound(rank: usize, what: &str) -> Error {
    Error::new(ErrorKind::Protocol, format!("rank {rank} sent {what}")).guilty([rank as u32]).phase(Phase::Transfer)
}
