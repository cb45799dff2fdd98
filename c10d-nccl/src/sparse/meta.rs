//! The first round: what each rank has, or what is wrong with it.

use std::sync::Arc;

use c10d_core::backend::Request;
use c10d_core::buffer::CooLayout;
use c10d_core::{DType, Error, ErrorKind, Phase, ReduceOp, Result};

/// Words of 64 bits that each rank sends.
pub(super) const WORDS: usize = 64;
/// Of these, those in front of the text.
const HEAD: usize = 16;
/// Dimensions whose sizes are sent, for errors; all are in the hash.
const DIMS: usize = 8;

/// What this rank has to say.
pub(super) fn told(
    request: &Request,
    layout: &CooLayout,
    nnz: &Result<usize, Error>,
    known: Option<&Arc<[i64]>>,
) -> Vec<u64> {
    let mut mine = vec![0u64; WORDS];
    match nnz {
        Ok(nnz) => mine[1] = *nnz as u64,
        Err(e) => {
            mine[0] = match e.kind() {
                ErrorKind::InvalidArgument => 1,
                ErrorKind::Unsupported => 2,
                _ => 3,
            };
            for (word, bytes) in mine[HEAD..].iter_mut().zip(e.report().what.as_bytes().chunks(8)) {
                let mut text = [0; 8];
                text[..bytes.len()].copy_from_slice(bytes);
                *word = u64::from_le_bytes(text);
            }
        }
    }
    mine[2] = layout.shape_hash();
    mine[3] = (layout.shape.len() as u64) << 32 | layout.sparse_dim as u64;
    mine[4..4 + DIMS].iter_mut().zip(&layout.shape).for_each(|(to, size)| *to = *size as u64);
    let mix = |hash: u64, index: &i64| (hash ^ *index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    mine[12] = known.map_or(0, |known| known.iter().fold(known.len() as u64, mix) | 1);
    mine[13] = request.dtype().map_or(u64::MAX, |dtype| dtype as u64);
    mine[14] = request.params.reduce.code().into();
    mine
}

/// What all ranks said.
pub(super) struct Meta(pub(super) Vec<u64>);

impl Meta {
    fn of(&self, rank: usize) -> &[u64] {
        &self.0[rank * WORDS..(rank + 1) * WORDS]
    }

    fn ranks(&self) -> std::ops::Range<usize> {
        0..self.0.len() / WORDS
    }

    /// How many different entries each rank has.
    pub(super) fn counts(&self) -> Vec<u64> {
        self.ranks().map(|rank| self.of(rank)[1]).collect()
    }

    /// Whether all ranks make the same call: `Mismatch` of what differs.
    pub(super) fn same(&self, rank: u32) -> Result {
        self.differs(
            rank,
            "dtype",
            |w| vec![w[13]],
            |w| DType::from_code(w[13] as u8).map_or("none", DType::name).to_owned(),
        )?;
        self.differs(rank, "reduce_op", |w| vec![w[14]], |w| ReduceOp::name_of(w[14] as u8).to_owned())?;
        self.differs(rank, "shape", |w| w[2..4 + DIMS].to_vec(), shape)
    }

    /// Whether all ranks were given the same indices of the result.
    pub(super) fn same_known(&self, rank: u32) -> Result {
        self.differs(
            rank,
            "sparse_indices",
            |w| vec![w[12]],
            |w| match w[12] {
                0 => "not given".to_owned(),
                hash => format!("given, with hash {hash:#018x},"),
            },
        )
    }

    fn differs(
        &self,
        rank: u32,
        field: &'static str,
        of: impl Fn(&[u64]) -> Vec<u64>,
        words: impl Fn(&[u64]) -> String,
    ) -> Result {
        let mine = self.of(rank as usize);
        let guilty: Vec<u32> = self.ranks().filter(|r| of(self.of(*r)) != of(mine)).map(|r| r as u32).collect();
        let Some(first) = guilty.first() else { return Ok(()) };
        let kind = ErrorKind::Mismatch { field, mine: words(mine), theirs: words(self.of(*first as usize)) };
        Err(Error::new(kind, "").guilty(guilty).phase(Phase::Announce))
    }

    /// Whether all ranks' tensors are sound. All ranks take the same decision, so that the group stays usable.
    pub(super) fn sound(&self, local: Option<&Error>) -> Result {
        let guilty: Vec<u32> = self.ranks().filter(|r| self.of(*r)[0] != 0).map(|r| r as u32).collect();
        let Some(first) = guilty.first().copied() else { return Ok(()) };
        let theirs = self.of(first as usize);
        let text: Vec<u8> = theirs[HEAD..].iter().flat_map(|word| word.to_le_bytes()).take_while(|b| *b != 0).collect();
        let text = String::from_utf8_lossy(&text);
        let error = match (local, theirs[0]) {
            (Some(mine), _) => mine.clone(),
            (None, 1) => Error::invalid(format!("the sparse tensor of rank {first}: {text}")),
            (None, 2) => Error::unsupported(format!("rank {first}: {text}")),
            (None, _) => Error::new(ErrorKind::Resource, format!("rank {first}: {text}")),
        };
        Err(error.guilty(guilty).phase(Phase::Validate).rejected())
    }
}

/// A shape out of a first round, in words.
fn shape(words: &[u64]) -> String {
    let dims = (words[3] >> 32) as usize;
    let sizes: Vec<String> = words[4..4 + DIMS.min(dims)].iter().map(u64::to_string).collect();
    let more = if dims > DIMS { ", .." } else { "" };
    format!("[{}{more}] of which {} sparse", sizes.join(", "), words[3] as u32)
}

#[cfg(test)]
mod tests {
    use c10d_core::Status;

    use super::*;

    /// Whatever it is, no rank has begun: the group stays usable.
    #[test]
    fn what_is_wrong_on_one_rank_is_rejected_on_all() {
        let kinds = [ErrorKind::InvalidArgument, ErrorKind::Unsupported, ErrorKind::Resource, ErrorKind::Resource];
        for (code, kind) in (1..).zip(kinds) {
            let mut words = vec![0; 2 * WORDS];
            assert!(Meta(words.clone()).sound(None).is_ok());
            words[WORDS] = code;
            words[WORDS + HEAD] = u64::from_le_bytes(*b"no room\0");
            let e = Meta(words).sound(None).unwrap_err();
            assert_eq!((e.kind(), &e.report().guilty[..], e.status()), (&kind, &[1][..], Status::Rejected), "{e}");
            assert!(e.report().what.contains("rank 1: no room"), "{e}");
        }
    }
}
