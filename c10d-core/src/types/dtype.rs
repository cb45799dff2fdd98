//! Element types.

use half::{bf16, f16};
use num_complex::{Complex32, Complex64};

/// An 8-bit float with 4 exponent and 3 mantissa bits (finite only, like PyTorch's `float8_e4m3fn`). Ops can move, but
/// not reduce, such elements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct F8E4M3(pub u8);

/// An 8-bit float with 5 exponent and 2 mantissa bits (PyTorch's `float8_e5m2`). Ops can move, but not reduce, such
/// elements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct F8E5M2(pub u8);

mod sealed {
    pub trait Sealed {}
}

/// An element type: plain data of one [`DType`]. Collectives accept slices of it.
///
/// The trait is sealed.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an element type of collectives",
    label = "not an element type",
    note = "element types are `u8` to `u64`, `i8` to `i64`, `f32`, `f64`, `bool`, `half::f16`, `half::bf16`, `num_complex::Complex` of `f32` or `f64`, and 8-bit floats",
    note = "send `usize` as `u64`, `isize` as `i64`, and structs through `c10d::plain`"
)]
pub trait Element: sealed::Sealed + Copy + Send + Sync + 'static {
    /// The [`DType`] of this Rust type.
    const DTYPE: DType;
}

macro_rules! dtypes {
    ($($(#[$doc:meta])* $variant:ident $rust:ty, $name:literal, $class:ident, $dlpack:literal;)*) => {
        /// The type of a tensor's elements. The discriminant is the code on the wire and in fingerprints.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum DType { $($(#[$doc])* $variant,)* }

        impl DType {
            /// Every element type, in code order.
            pub const ALL: &'static [DType] = &[$(DType::$variant,)*];
            const ROWS: &'static [Row] = &[$(Row {
                name: $name,
                size: size_of::<$rust>(),
                align: align_of::<$rust>(),
                class: Class::$class,
                dlpack: $dlpack,
            },)*];
        }

        $(impl sealed::Sealed for $rust {}
        impl Element for $rust { const DTYPE: DType = DType::$variant; })*
    };
}

struct Row {
    name: &'static str,
    size: usize,
    align: usize,
    class: Class,
    dlpack: u8,
}

/// The class of an element type. The class determines which reductions are defined on the type; see
/// [`ReduceOp::defined`](super::ReduceOp::defined).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Integer,
    Float,
    Bool,
    Complex,
    Opaque,
}

// Each row: the variant, its Rust type, its name, its class, and the code of its `DLDataType`.
dtypes! {
    /// `u8`
    U8 u8, "u8", Integer, 1;
    /// `i8`
    I8 i8, "i8", Integer, 0;
    /// `u16`
    U16 u16, "u16", Integer, 1;
    /// `i16`
    I16 i16, "i16", Integer, 0;
    /// `u32`
    U32 u32, "u32", Integer, 1;
    /// `i32`
    I32 i32, "i32", Integer, 0;
    /// `u64`
    U64 u64, "u64", Integer, 1;
    /// `i64`
    I64 i64, "i64", Integer, 0;
    /// IEEE half precision, `half::f16`
    F16 f16, "f16", Float, 2;
    /// bfloat16, `half::bf16`
    BF16 bf16, "bf16", Float, 4;
    /// `f32`
    F32 f32, "f32", Float, 2;
    /// `f64`
    F64 f64, "f64", Float, 2;
    /// `bool`, one byte, 0 or 1
    Bool bool, "bool", Bool, 6;
    /// A pair of `f32`
    Complex64 Complex32, "complex64", Complex, 5;
    /// A pair of `f64`
    Complex128 Complex64, "complex128", Complex, 5;
    /// [`F8E4M3`]
    F8E4M3 F8E4M3, "f8e4m3", Opaque, 10;
    /// [`F8E5M2`]
    F8E5M2 F8E5M2, "f8e5m2", Opaque, 12;
}

impl DType {
    /// Returns the size of one element in bytes.
    #[inline]
    pub const fn size(self) -> usize {
        Self::ROWS[self as usize].size
    }

    /// Returns the name that tables, errors and the command line use, e.g. `bf16`.
    pub const fn name(self) -> &'static str {
        Self::ROWS[self as usize].name
    }

    /// Returns the alignment, in bytes, of an element in host memory.
    #[inline]
    pub const fn align(self) -> usize {
        Self::ROWS[self as usize].align
    }

    /// Returns the code and the number of bits of the type's `DLDataType` in DLPack, whose number of lanes is 1.
    pub const fn dlpack(self) -> (u8, u8) {
        let row = &Self::ROWS[self as usize];
        (row.dlpack, 8 * row.size as u8)
    }

    pub(super) const fn class(self) -> Class {
        Self::ROWS[self as usize].class
    }

    /// Returns the element type with this code, if there is one.
    pub fn from_code(code: u8) -> Option<DType> {
        Self::ALL.get(code as usize).copied()
    }

    /// Returns the element type with this name (see [`DType::name`]), if there is one.
    pub fn from_name(name: &str) -> Option<DType> {
        Self::ALL.iter().copied().find(|d| d.name() == name)
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of element types.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DTypeSet(u32);

impl DTypeSet {
    /// No element type.
    pub const NONE: DTypeSet = DTypeSet(0);
    /// Every element type.
    pub const ALL: DTypeSet = DTypeSet((1 << DType::ALL.len()) - 1);

    /// Returns the set of the listed types.
    pub const fn of(list: &[DType]) -> DTypeSet {
        let (mut bits, mut i) = (0, 0);
        while i < list.len() {
            bits |= 1 << list[i] as u32;
            i += 1;
        }
        DTypeSet(bits)
    }

    /// Returns whether the set has this type.
    #[inline]
    pub const fn contains(self, d: DType) -> bool {
        self.0 & (1 << d as u32) != 0
    }

    /// Returns the types of the set, in the order of their codes.
    pub fn iter(self) -> impl Iterator<Item = DType> {
        DType::ALL.iter().copied().filter(move |d| self.contains(*d))
    }
}
