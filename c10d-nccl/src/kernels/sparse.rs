//! Kernels for sparse tensors.

use c10d_core::DType;

use super::{Kernel, Module};

const fn kernel(name: &'static str, parameters: usize) -> Kernel {
    Kernel { module: Module::Sparse, name, parameters }
}

/// The kernels for one width of keys. The comments list the parameters: the inputs; then the outputs.
pub(crate) struct Keyed {
    /// Indices, their number, sizes, dimensions; keys, flags.
    pub(crate) linearise: Kernel,
    /// Keys, their number, the number of possible keys; flags.
    pub(crate) check: Kernel,
    /// Keys, their number, a sorted list, its length; positions, flags.
    pub(crate) locate: Kernel,
    /// All lists, the length of the longest, their lengths, their number; marks.
    pub(crate) mark: Kernel,
    /// Keys, their number, all lists, the length of the longest, their lengths, their number, prefix sums; positions.
    pub(crate) place: Kernel,
    /// All lists, the length of the longest, their lengths, their number, prefix sums; the union.
    pub(crate) union: Kernel,
    /// Keys, their number, sizes, dimensions; indices.
    pub(crate) gather: Kernel,
}

macro_rules! keyed {
    ($name:ident, $width:literal) => {
        /// The kernels for keys of this width.
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

/// Values, their number; the sums of chunks.
pub(crate) static SUMS: Kernel = kernel("c10d_sparse_sums", 3);
/// The sums before each chunk, or nothing; values, their number.
pub(crate) static SCAN: Kernel = kernel("c10d_sparse_scan", 3);
/// The number of elements in a chunk, as in the source.
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

/// For elements of 1, 2, 4 or 8 bytes. Parameters: the bits of the value; the elements, their number.
pub(crate) fn fill(size: usize) -> &'static Kernel {
    &FILL[size.trailing_zeros() as usize & 3]
}

/// For elements of 1, 2, 4 or 8 bytes. Parameters: rows, positions, their number, elements per row; the destination.
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

/// Merges rows. Parameters: the code of the operation, rows, their order, starts of segments, number of segments,
/// elements per row; merged rows.
pub(crate) fn merger(dtype: DType) -> Option<&'static Kernel> {
    MERGERS.iter().find(|(d, _)| *d == dtype).map(|(_, kernel)| kernel)
}

/// All kernels of this module.
pub(crate) fn all() -> impl Iterator<Item = &'static Kernel> {
    let keyed = [&KEYED_U32, &KEYED_U64].into_iter();
    let keyed = keyed.flat_map(|k| [&k.linearise, &k.check, &k.locate, &k.mark, &k.place, &k.union, &k.gather]);
    let merge = MERGERS.iter().map(|(_, kernel)| kernel);
    keyed.chain([&SUMS, &SCAN]).chain(&FILL).chain(&SCATTER).chain(merge)
}
