//! Fingerprints: the properties of calls that all ranks compare before any payload is used.

use crate::catalog::{OpKind, Shape};
use crate::types::{DType, Identity, ReduceOp};

/// The properties of a call on which all ranks must agree. Its 24 bytes are sent before the call's payload.
///
/// A fingerprint is not a hash, so that an error can name the field that differs. Values that may legally differ
/// between ranks (split sizes, lengths of uneven lists, which rank has outputs) are not part of it; transports check
/// them for each pair of ranks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Fingerprint {
    /// The call's number in its lane (low 32 bits); 0 for point-to-point.
    pub seq: u32,
    /// The op's code.
    pub op: u8,
    /// The element type's code; or [`Fingerprint::OWN_TYPE`], or [`Fingerprint::NO_DTYPE`].
    pub dtype: u8,
    /// The reduce operation's code, or [`Fingerprint::NO_REDUCE`].
    pub reduce: u8,
    /// The number of the step, if the backend or kernel runs the call as several steps; else 0. Calls with sparse
    /// tensors also have the bit [`Fingerprint::SPARSE`].
    pub step: u8,
    /// The number of elements per rank, in all tensors of a coalesced op together. For uneven ops it is the number
    /// given to [`Call::agreed_count`](crate::Call::agreed_count), or 0 if none was given. For a call with a sparse
    /// tensor it is 0.
    pub count: u64,
    /// The root of a rooted op, or the tag of a point-to-point op. For a coalesced op: the number of tensors (upper 12
    /// bits) and the length of the first tensor (lower 20 bits; 0 for `all_gather_coalesced`, whose lengths may differ
    /// between ranks). For other ops with `PreMulSum`: the bits of the factor, rounded to `f32`. For a call with a
    /// sparse tensor: 0.
    pub root: u32,
    /// A hash of properties that only some calls have: the factor of `PreMulSum`, the lengths of coalesced tensors, the
    /// shape of a sparse tensor, the identity of a program's own type.
    pub rest: u32,
}

impl Fingerprint {
    /// The length of the wire form in bytes.
    pub const SIZE: usize = 24;
    /// The code for "no element type" (barriers).
    pub const NO_DTYPE: u8 = 255;
    /// The code for "a type of the program's own". `rest` is then the XOR of two hashes: that of the type's identity,
    /// and that of the other properties (0 unless the op is coalesced).
    pub const OWN_TYPE: u8 = 254;
    /// The code for "does not reduce".
    pub const NO_REDUCE: u8 = 255;
    /// The bit in `step` that marks calls with sparse tensors. In a call's own fingerprint, `rest` is then a hash of
    /// the tensor's shape and its number of sparse dimensions. In the fingerprint of a step of the call's kernel,
    /// `rest` combines three values of the step's dense op: the op's `rest`, its code and its element type.
    pub const SPARSE: u8 = 0x80;

    /// Returns the wire form as three numbers, each of which is written little endian. The code uses shifts, because
    /// the processor stalls if a word is read right after its bytes were written one by one.
    #[inline]
    pub fn to_words(&self) -> [u64; 3] {
        let small = u32::from_le_bytes([self.op, self.dtype, self.reduce, self.step]);
        let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        [pair(self.seq, small), self.count, pair(self.root, self.rest)]
    }

    /// Returns the wire form.
    pub fn to_bytes(&self) -> [u8; Self::SIZE] {
        let mut out = [0; Self::SIZE];
        for (bytes, word) in out.chunks_exact_mut(8).zip(self.to_words()) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        out
    }

    /// Reads the wire form. Any 24 bytes are accepted. Bytes that do not describe a valid call differ from the
    /// fingerprint of every valid call.
    pub fn from_bytes(b: &[u8; Self::SIZE]) -> Fingerprint {
        let u32_at = |i: usize| u32::from_le_bytes([b[i], b[i + 1], b[i + 2], b[i + 3]]);
        Fingerprint {
            seq: u32_at(0),
            op: b[4],
            dtype: b[5],
            reduce: b[6],
            step: b[7],
            count: u64::from(u32_at(8)) | u64::from(u32_at(12)) << 32,
            root: u32_at(16),
            rest: u32_at(20),
        }
    }

    const MOST_TENSORS: u32 = (1 << 12) - 1;
    const MOST_LENGTH: u32 = (1 << 20) - 1;

    /// Returns whether `root` describes the list of tensors of this op.
    pub(super) fn has_list(op: OpKind) -> bool {
        use Shape::*;
        matches!(op.row().shape, InPlaceList | ScatterFlats | GatherFlats | GatherLists)
    }

    /// Returns the value of `root` that describes a list with this number of tensors, whose first has `first` elements.
    /// A value that does not fit into its bits is replaced by the largest value that fits.
    pub(super) fn list(tensors: usize, first: usize) -> u32 {
        let bounded = |value: usize, most: u32| u32::try_from(value).map_or(most, |v| v.min(most));
        bounded(tensors, Self::MOST_TENSORS) << 20 | bounded(first, Self::MOST_LENGTH)
    }

    /// Returns how the lists of two calls differ. A fingerprint has only the number of tensors, the length of the first
    /// tensor and the sum of all lengths.
    ///
    /// Returns `None` if the numbers of tensors are equal and one of these is true, so that
    /// [`disagreement`](Fingerprint::disagreement) must compare further fields:
    /// - `count`, `seq` or `step` differs.
    /// - `root` is equal, and the difference in `rest` may come from a program's own type or a factor.
    fn list_disagreement(&self, theirs: &Fingerprint) -> Option<(&'static str, String, String)> {
        let tensors = |f: &Fingerprint| f.root >> 20;
        if tensors(self) != tensors(theirs) {
            return Some(("tensors", tensors(self).to_string(), tensors(theirs).to_string()));
        }
        let is_elsewhere = (self.count, self.seq, self.step) != (theirs.count, theirs.seq, theirs.step);
        let is_mixed = self.dtype == Self::OWN_TYPE || self.reduce == ReduceOp::PreMulSum(0.0).code();
        if is_elsewhere || is_mixed && self.root == theirs.root {
            return None;
        }
        let (mine, other) = (self.lengths(), theirs.lengths());
        let other = if mine == other { format!("{other}, but different after the first") } else { other };
        Some(("tensors", mine, other))
    }

    fn lengths(&self) -> String {
        let first = self.root & Self::MOST_LENGTH;
        match self.root >> 20 {
            2 if first < Self::MOST_LENGTH => format!("lengths [{first}, {}]", self.count.wrapping_sub(first.into())),
            tensors => format!("lengths [{first}, ..], {tensors} tensors with {} elements in all", self.count),
        }
    }

    /// Returns whether `root` describes a list.
    fn is_of_list(&self) -> bool {
        self.step & Self::SPARSE == 0 && OpKind::from_code(self.op).is_some_and(Self::has_list)
    }

    /// Returns whether `root` holds a factor.
    fn is_of_factor(&self) -> bool {
        let rooted = OpKind::from_code(self.op).is_some_and(|op| op.is_rooted());
        self.reduce == ReduceOp::PreMulSum(0.0).code() && !rooted && !self.is_of_list()
    }

    /// Returns the first field in which `theirs` differs, with both values in words: (field, mine, theirs).
    ///
    /// If the returned field is `seq`, the calls have the same op, types, reduce operation, count and root (of a list,
    /// only the number of tensors), and one rank is ahead of the other.
    pub fn disagreement(&self, theirs: &Fingerprint) -> Option<(&'static str, String, String)> {
        let op = |code: u8| OpKind::from_code(code).map_or("unknown", OpKind::name).to_owned();
        let dtype = |print: &Fingerprint| match print.dtype {
            Self::OWN_TYPE => own_type(print.rest),
            code => DType::from_code(code).map_or("none", DType::name).to_owned(),
        };
        if self == theirs {
            None
        } else if self.op != theirs.op {
            Some(("op", op(self.op), op(theirs.op)))
        } else if self.dtype != theirs.dtype {
            Some(("dtype", dtype(self), dtype(theirs)))
        } else if self.dtype == Self::OWN_TYPE
            && self.rest != theirs.rest
            && (Identity::of_hash(self.rest).is_some() || Identity::of_hash(theirs.rest).is_some())
        {
            Some(("type", own_type(self.rest), own_type(theirs.rest)))
        } else if self.reduce != theirs.reduce {
            Some(("reduce_op", ReduceOp::name_of(self.reduce).into(), ReduceOp::name_of(theirs.reduce).into()))
        } else if let Some(lists) = self.is_of_list().then(|| self.list_disagreement(theirs)).flatten() {
            Some(lists)
        } else if self.root != theirs.root && !self.is_of_list() && !self.is_of_factor() {
            Some(("root", self.root.to_string(), theirs.root.to_string()))
        } else if self.count != theirs.count {
            Some(("count", self.count.to_string(), theirs.count.to_string()))
        } else if self.seq != theirs.seq {
            Some(("seq", self.seq.to_string(), theirs.seq.to_string()))
        } else if self.step != theirs.step {
            Some(("step", self.step.to_string(), theirs.step.to_string()))
        } else if self.root != theirs.root && self.is_of_factor() {
            let factor = |f: &Fingerprint| f32::from_bits(f.root).to_string();
            Some(("factor", factor(self), factor(theirs)))
        } else if self.step & Self::SPARSE != 0 {
            let field = if self.step == Self::SPARSE { "shape" } else { "step" };
            Some((field, format!("{:#010x}", self.rest), format!("{:#010x}", theirs.rest)))
        } else {
            let field = if self.reduce == ReduceOp::PreMulSum(0.0).code() { "factor" } else { "tensors" };
            Some((field, format!("{:#010x}", self.rest), format!("{:#010x}", theirs.rest)))
        }
    }
}

/// Returns the name of a program's own type. If this process has not used a type with the hash `rest`, the text
/// contains `rest` instead of a name.
fn own_type(rest: u32) -> String {
    Identity::of_hash(rest)
        .map_or_else(|| format!("a type of the program ({rest:#010x})"), |identity| identity.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use crate::backend::{Caller, Request, summary::fingerprint};
    use crate::buffer::Span;
    use crate::options::Params;

    /// Returns the field in which the fingerprints differ.
    fn field(a: &Fingerprint, b: &Fingerprint) -> &'static str {
        let (field, ..) = a.disagreement(b).unwrap();
        assert!(ErrorKind::FIELDS.contains(&field), "{field} has no code, so peers would get another field");
        field
    }

    #[test]
    fn a_fingerprint_is_read_back_and_names_the_differing_field() {
        let a = Fingerprint { seq: 7, op: 4, dtype: 10, reduce: 0, step: 0, count: 1 << 40, root: 3, rest: 9 };
        assert_eq!(Fingerprint::from_bytes(&a.to_bytes()), a);
        assert_eq!(a.disagreement(&a), None);
        let cases: [(Fingerprint, &str); 7] = [
            (Fingerprint { op: 3, ..a }, "op"),
            (Fingerprint { dtype: 11, ..a }, "dtype"),
            (Fingerprint { reduce: 4, ..a }, "reduce_op"),
            (Fingerprint { root: 1, ..a }, "root"),
            (Fingerprint { count: 1, ..a }, "count"),
            (Fingerprint { seq: 8, ..a }, "seq"),
            (Fingerprint { rest: 1, ..a }, "tensors"),
        ];
        for (b, expected) in cases {
            assert_eq!(field(&a, &b), expected);
        }
        let named = |name| Identity::new(name, 8, "").unwrap().hash();
        let own = Fingerprint { dtype: Fingerprint::OWN_TYPE, rest: named("test::Mine"), ..a };
        let other = Fingerprint { rest: named("test::Other"), ..own };
        assert_eq!(field(&own, &other), "type");
        assert_eq!(own.disagreement(&other), Some(("type", "test::Mine".into(), "test::Other".into())));
        assert_eq!(a.disagreement(&own), Some(("dtype", "f32".into(), "test::Mine".into())));
        let unheard = own.disagreement(&Fingerprint { rest: 5, ..own }).unwrap();
        assert_eq!((unheard.0, &*unheard.2), ("type", "a type of the program (0x00000005)"));
        let sparse = Fingerprint { step: Fingerprint::SPARSE, ..a };
        assert_eq!(field(&sparse, &Fingerprint { rest: 1, ..sparse }), "shape");
        let step = Fingerprint { step: Fingerprint::SPARSE | 2, ..a };
        assert_eq!(field(&step, &Fingerprint { rest: 1, ..step }), "step");
        assert_eq!(a.disagreement(&Fingerprint { op: 99, ..a }).unwrap().2, "unknown");
    }

    fn request(op: OpKind, params: Params) -> Request {
        Request::new(op, Caller::Waits, params, std::time::Duration::ZERO)
    }

    /// Returns the fingerprint of `all_reduce_coalesced` with tensors of these lengths.
    fn coalesced(lengths: &[usize]) -> Fingerprint {
        let mut request = request(OpKind::AllReduceCoalesced, Params::default());
        request.spans.outputs.extend(lengths.iter().map(|len| Span::host(std::ptr::null_mut::<f32>(), *len)));
        fingerprint(&request)
    }

    #[test]
    fn lists_show_their_lengths() {
        let differ = |mine: &[usize], theirs: &[usize]| coalesced(mine).disagreement(&coalesced(theirs));
        let text = |field, mine: &str, theirs: &str| Some((field, mine.to_owned(), theirs.to_owned()));
        assert_eq!(differ(&[3, 2], &[3, 2]), None);
        assert_eq!(differ(&[3, 2], &[3, 1, 1]), text("tensors", "2", "3"));
        assert_eq!(differ(&[3, 2], &[3, 3]), text("count", "5", "6"));
        assert_eq!(differ(&[3, 2], &[2, 3]), text("tensors", "lengths [3, 2]", "lengths [2, 3]"));
        let of = |first| format!("lengths [{first}, ..], 3 tensors with 6 elements in all");
        assert_eq!(differ(&[3, 2, 1], &[2, 3, 1]), text("tensors", &of(3), &of(2)));
        let other = of(3) + ", but different after the first";
        assert_eq!(differ(&[3, 2, 1], &[3, 1, 2]), text("tensors", &of(3), &other));
        // These lengths do not fit into 20 bits.
        assert_eq!(differ(&[1 << 40, 1, 0], &[1 << 40, 0, 1]).unwrap().0, "tensors");
        assert_eq!(differ(&vec![1; 5000], &vec![1; 5000]), None);
        assert_eq!(differ(&vec![1; 5000], &vec![1; 5001]).unwrap().0, "count");
    }

    #[test]
    fn a_mismatch_of_factors_has_both_factors() {
        let of = |factor| {
            let params = Params { reduce: ReduceOp::PreMulSum(factor), ..Default::default() };
            let mut request = request(OpKind::AllReduce, params);
            request.spans.outputs.push(Span::host(std::ptr::null_mut::<f32>(), 4));
            fingerprint(&request)
        };
        assert_eq!(of(0.5).disagreement(&of(0.5)), None);
        assert_eq!(field(&of(0.5), &of(0.25)), "factor");
        assert_eq!(of(0.5).disagreement(&of(0.25)), Some(("factor", "0.5".to_owned(), "0.25".to_owned())));
    }
}
