//! The head that each rank sends before the entries of its sparse tensor, and the check of all heads.

use super::Request;
use crate::buffer::CooLayout;
use crate::text::harmless;
use crate::types::{DType, ReduceOp};
use crate::{Error, ErrorKind, Phase, Result};

/// The number of dimensions whose sizes are sent, for error messages. The hash of the shape covers all dimensions.
const DIMS: usize = 8;

// The positions of the words in a head:
/// The code of the tensor's error; 0 if the tensor is valid.
const FAULT: usize = 0;
const NNZ: usize = 1;
/// A hash of the shape, the numbers of all and of sparse dimensions, and the sizes of the first dimensions.
const SHAPE: std::ops::Range<usize> = 2..4 + DIMS;
/// A hash of the indices of the result, if the caller gave them; else 0.
const KNOWN: usize = 12;
const DTYPE: usize = 13;
const REDUCE: usize = 14;

/// The heads of all ranks of a sparse call. Each consists of [`WORDS`](SparseHeads::WORDS) words, followed by data of
/// the kernel or the text of an error.
pub struct SparseHeads<'a> {
    words: &'a [u64],
    /// The number of words of each rank.
    each: usize,
}

impl<'a> SparseHeads<'a> {
    /// The number of 64-bit words of a head.
    pub const WORDS: usize = 16;

    /// Writes this rank's head into `to`, which has at least [`WORDS`](SparseHeads::WORDS) words, all 0. The head
    /// describes the call, and contains the number of the tensor's distinct entries or, if the tensor is not valid, the
    /// code of the error. The text of an error is written after the head, and is cut if it does not fit.
    pub fn write(to: &mut [u64], request: &Request, layout: &CooLayout, nnz: Result<usize, &Error>) {
        let (head, text) = to.split_at_mut(Self::WORDS);
        match nnz {
            Ok(nnz) => head[NNZ] = nnz as u64,
            Err(e) => {
                head[FAULT] = match e.kind() {
                    ErrorKind::InvalidArgument => 1,
                    ErrorKind::Unsupported => 2,
                    _ => 3,
                };
                for (word, bytes) in text.iter_mut().zip(e.report().what.as_bytes().chunks(8)) {
                    let mut part = [0; 8];
                    part[..bytes.len()].copy_from_slice(bytes);
                    *word = u64::from_le_bytes(part);
                }
            }
        }
        let shape = &mut head[SHAPE];
        shape[0] = layout.shape_hash();
        shape[1] = (layout.shape.len() as u64) << 32 | layout.sparse_dim as u64;
        shape[2..].iter_mut().zip(&layout.shape).for_each(|(to, size)| *to = *size as u64);
        let mix = |hash: u64, index: &i64| (hash ^ *index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        let hash = |known: &[i64]| known.iter().fold(known.len() as u64, mix) | 1;
        head[KNOWN] = request.params.sparse_indices().map_or(0, |known| hash(known));
        head[DTYPE] = request.dtype().map_or(u64::MAX, |dtype| dtype as u64);
        head[REDUCE] = request.params.reduce.code().into();
    }

    /// Reads the heads of `ranks` ranks. `words` has the same number of words for each rank.
    pub fn new(words: &'a [u64], ranks: usize) -> SparseHeads<'a> {
        SparseHeads { words, each: words.len() / ranks }
    }

    fn ranks(&self) -> std::ops::Range<usize> {
        0..self.words.len() / self.each
    }

    /// Returns the words after a rank's head.
    pub fn behind(&self, rank: usize) -> &'a [u64] {
        &self.of(rank)[Self::WORDS..]
    }

    fn of(&self, rank: usize) -> &'a [u64] {
        &self.words[rank * self.each..(rank + 1) * self.each]
    }

    /// Returns the number of distinct entries of a rank.
    pub fn nnz(&self, rank: usize) -> u64 {
        self.of(rank)[NNZ]
    }

    /// Checks that all ranks make the same call as this rank, whose number is `rank`.
    ///
    /// # Errors
    /// `Mismatch` of the element type, the reduce operation or the shape.
    pub fn same_call(&self, rank: u32) -> Result {
        let dtype = |code: u64| u8::try_from(code).ok().and_then(DType::from_code).map_or("none", DType::name);
        self.same(rank, "dtype", DTYPE..DTYPE + 1, |of| dtype(of[0]).to_owned())?;
        self.same(rank, "reduce_op", REDUCE..REDUCE + 1, |of| ReduceOp::name_of(of[0] as u8).to_owned())?;
        self.same(rank, "shape", SHAPE, shape_words)
    }

    /// Checks that all ranks gave the same indices of the result as this rank, whose number is `rank`.
    ///
    /// # Errors
    /// `Mismatch` of the indices.
    pub fn same_known(&self, rank: u32) -> Result {
        self.same(rank, "sparse_indices", KNOWN..KNOWN + 1, |of| match of[0] {
            0 => "not given".to_owned(),
            hash => format!("given, with hash {hash:#018x},"),
        })
    }

    fn same(
        &self,
        rank: u32,
        field: &'static str,
        part: std::ops::Range<usize>,
        text: impl Fn(&[u64]) -> String,
    ) -> Result {
        let of = |rank: usize| &self.of(rank)[part.clone()];
        let mine = of(rank as usize);
        let guilty: Vec<u32> = self.ranks().filter(|r| of(*r) != mine).map(|r| r as u32).collect();
        let Some(first) = guilty.first() else { return Ok(()) };
        let kind = ErrorKind::Mismatch { field, mine: text(mine), theirs: text(of(*first as usize)) };
        Err(Error::new(kind, "").guilty(guilty).phase(Phase::Announce))
    }

    /// Checks that the tensors of all ranks are valid. `local` is the error of this rank's tensor, if that tensor is
    /// not valid. All ranks succeed or all fail, so the group can still be used.
    ///
    /// # Errors
    /// The error of the first rank whose tensor is not valid, or `local` on a rank whose own tensor is not valid. The
    /// status is `Rejected`.
    pub fn sound(&self, local: Option<&Error>) -> Result {
        let guilty: Vec<u32> = self.ranks().filter(|r| self.of(*r)[FAULT] != 0).map(|r| r as u32).collect();
        let Some(first) = guilty.first().map(|r| *r as usize) else { return Ok(()) };
        let text: Vec<u8> =
            self.behind(first).iter().flat_map(|word| word.to_le_bytes()).take_while(|byte| *byte != 0).collect();
        let text = harmless(&String::from_utf8_lossy(&text), 1024);
        let error = match (local, self.of(first)[FAULT]) {
            (Some(mine), _) => mine.clone(),
            (None, 1) => Error::invalid(format!("the sparse tensor of rank {first}: {text}")),
            (None, 2) => Error::unsupported(format!("rank {first}: {text}")),
            (None, _) => Error::new(ErrorKind::Resource, format!("rank {first}: {text}")),
        };
        Err(error.guilty(guilty).phase(Phase::Validate).rejected())
    }
}

fn shape_words(of: &[u64]) -> String {
    let dims = (of[1] >> 32) as usize;
    let sizes: Vec<String> = of[2..2 + DIMS.min(dims)].iter().map(u64::to_string).collect();
    let more = if dims > DIMS { ", .." } else { "" };
    format!("[{}{more}] of which {} sparse", sizes.join(", "), of[1] as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Status;

    /// All errors are rejections, since no rank has sent entries yet.
    #[test]
    fn an_invalid_tensor_of_one_rank_is_rejected_on_all() {
        const EACH: usize = 2 * SparseHeads::WORDS;
        let kinds = [ErrorKind::InvalidArgument, ErrorKind::Unsupported, ErrorKind::Resource, ErrorKind::Resource];
        for (code, kind) in (1..).zip(kinds) {
            let mut words = vec![0; 2 * EACH];
            assert!(SparseHeads::new(&words, 2).sound(None).is_ok());
            words[EACH] = code;
            words[EACH + SparseHeads::WORDS] = u64::from_le_bytes(*b"no room\0");
            let e = SparseHeads::new(&words, 2).sound(None).unwrap_err();
            assert_eq!((e.kind(), &e.report().guilty[..], e.status()), (&kind, &[1][..], Status::Rejected), "{e}");
            assert!(e.report().what.contains("rank 1: no room"), "{e}");
        }
    }
}
