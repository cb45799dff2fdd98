//! The CUDA kernels for sparse tensors.

use c10d_core::DType;

use super::{Kernel, Module};

const fn kernel(name: &'static str, parameters: usize) -> Kernel {
    Kernel { module: Module::Sparse, name, parameters }
}

/// The kernels for one width of keys (the coordinates of entries as numbers, see `kernels/sparse.cu`). The comments
/// list the kernels' parameters: first the inputs, then (after ";") the outputs.
pub(crate) struct Keyed {
    /// The indices, the number of entries, the sizes of the sparse dimensions, the number of these dimensions; the
    /// keys, the flags.
    pub(crate) linearise: Kernel,
    /// The keys, their number, the number of possible keys; the flags.
    pub(crate) check: Kernel,
    /// The keys, their number, a sorted list of keys, its length; the keys' positions in the list, the flags.
    pub(crate) locate: Kernel,
    /// All lists of keys, the length of the longest, the lengths, the number of lists; for each position, 1 if its key
    /// is in no earlier list, else 0.
    pub(crate) mark: Kernel,
    /// The keys, their number, all lists, the length of the longest, the lengths, the number of lists, the prefix sums
    /// of the marks; the keys' positions in the union.
    pub(crate) place: Kernel,
    /// All lists, the length of the longest, the lengths, the number of lists, the prefix sums of the marks; the union.
    pub(crate) union: Kernel,
    /// The keys, their number, the sizes of the sparse dimensions, the number of these dimensions; the indices.
    pub(crate) gather: Kernel,
}

macro_rules! keyed {
    ($name:ident, $width:literal) => {
        pub(crate) static $name: Keyed = Keyed {
            linearise: kernel(concat!("c10d_sparse_linearise_", $width), 6),
            check: kernel(concat!("c10d_sparse_check_", $width), 4),
            locate: kernel(concat!("c10d_sparse_locate_", $width), 6),
            mark: kernel(concat!("c10d_sparse_mark_", $width), 5),
            place: kernel(concat!("c10d_sparse_place_", $width), 8),
            union: kernel(concat!("c10d_sparse_union_", $width), 6),
            gather: kernel(concat!("c10d_sparse_gather_", $width), 5),
        };
    };
}
keyed!(KEYED_U32, "u32");
keyed!(KEYED_U64, "u64");

/// Sums numbers by chunk. Parameters: the numbers, their count; the sum of each chunk.
pub(crate) static SUMS: Kernel = kernel("c10d_sparse_sums", 3);
/// Replaces numbers by prefix sums. Parameters: the sum before each chunk, or null; the numbers (in place), their
/// count.
pub(crate) static SCAN: Kernel = kernel("c10d_sparse_scan", 3);
/// The number of elements of a chunk. It must be the same in `kernels/sparse.cu`.
pub(crate) const CHUNK: usize = 64;

static FILL: [Kernel; 4] = [
    kernel("c10d_sparse_fill_8", 3),
    kernel("c10d_sparse_fill_16", 3),
    kernel("c10d_sparse_fill_32", 3),
    kernel("c10d_sparse_fill_64", 3),
];
static SCATTER: [Kernel; 4] = [
    kernel("c10d_sparse_scatter_8", 5),
    kernel("c10d_sparse_scatter_16", 5),
    kernel("c10d_sparse_scatter_32", 5),
    kernel("c10d_sparse_scatter_64", 5),
];

/// Returns the kernel that fills elements of 1, 2, 4 or 8 bytes. Parameters: the bits of the value; the elements, their
/// count.
pub(crate) fn fill(size: usize) -> &'static Kernel {
    &FILL[size.trailing_zeros() as usize & 3]
}

/// Returns the kernel that copies rows of elements of 1, 2, 4 or 8 bytes. Parameters: the rows, their positions, the
/// number of rows, the elements per row; the destination.
pub(crate) fn scatter(size: usize) -> &'static Kernel {
    &SCATTER[size.trailing_zeros() as usize & 3]
}

macro_rules! mergers {
    ($($dtype:ident $suffix:literal),*) => {
        static MERGERS: [(DType, Kernel); [$($suffix),*].len()] =
            [$((DType::$dtype, kernel(concat!("c10d_sparse_merge_", $suffix), 7))),*];
    };
}
mergers!(U8 "u8", I8 "i8", U32 "u32", I32 "i32", U64 "u64", I64 "i64", F16 "f16", BF16 "bf16", F32 "f32", F64 "f64");

/// Returns the kernel that merges rows of this type, or `None` if there is none. The rows of one segment, which have
/// the same coordinates, become one row. Parameters: the code of the operation, the rows, their order, the starts of
/// the segments, the number of segments, the elements per row; the merged rows.
pub(crate) fn merger(dtype: DType) -> Option<&'static Kernel> {
    MERGERS.iter().find(|(d, _)| *d == dtype).map(|(_, kernel)| kernel)
}

pub(crate) fn all() -> impl Iterator<Item = &'static Kernel> {
    let keyed = [&KEYED_U32, &KEYED_U64].into_iter();
    let keyed = keyed.flat_map(|k| [&k.linearise, &k.check, &k.locate, &k.mark, &k.place, &k.union, &k.gather]);
    let merge = MERGERS.iter().map(|(_, kernel)| kernel);
    keyed.chain([&SUMS, &SCAN]).chain(&FILL).chain(&SCATTER).chain(merge)
}
