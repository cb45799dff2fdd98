//! Reduce operations, and the element types on which they are defined.

use super::dtype::Class;
use super::{DType, DTypeSet};

/// The operation that combines the values of ranks. The codes are those of PyTorch.
///
/// Not every operation is defined on every type, see [`ReduceOp::is_defined_on`]. Integer sums and products wrap. NaN
/// propagates through min and max. f16 and bf16 are accumulated in f32. On `bool`, sum and max are "or", product and
/// min are "and".
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum ReduceOp {
    /// The sum.
    #[default]
    Sum,
    /// The sum divided by the world size. Floats and complex only.
    Avg,
    /// The product.
    Product,
    /// The smallest value; NaN if any rank has NaN.
    Min,
    /// The largest value; NaN if any rank has NaN.
    Max,
    /// Bitwise and. Integers and bool.
    Band,
    /// Bitwise or. Integers and bool.
    Bor,
    /// Bitwise exclusive or. Integers and bool.
    Bxor,
    /// The sum of each rank's value times this factor, which must be the same on all ranks. Floats and complex only.
    PreMulSum(f64),
}

impl ReduceOp {
    /// The number of operations. Every [`ReduceOp::code`] is less than this number.
    pub const COUNT: usize = 9;
    const NAMES: [&'static str; Self::COUNT] =
        ["sum", "avg", "product", "min", "max", "band", "bor", "bxor", "premul_sum"];

    /// Returns PyTorch's code of the operation, 0 to 8.
    #[inline]
    pub const fn code(self) -> u8 {
        match self {
            ReduceOp::Sum => 0,
            ReduceOp::Avg => 1,
            ReduceOp::Product => 2,
            ReduceOp::Min => 3,
            ReduceOp::Max => 4,
            ReduceOp::Band => 5,
            ReduceOp::Bor => 6,
            ReduceOp::Bxor => 7,
            ReduceOp::PreMulSum(_) => 8,
        }
    }

    /// Returns the operation with this code, if there is one. Only `PreMulSum` uses `factor`.
    pub fn from_code(code: u8, factor: f64) -> Option<ReduceOp> {
        use ReduceOp::*;
        [Sum, Avg, Product, Min, Max, Band, Bor, Bxor, PreMulSum(factor)].get(code as usize).copied()
    }

    /// Returns the operation with this name (see [`ReduceOp::name`]), if there is one. `premul_sum` gets the factor 1.
    pub fn from_name(name: &str) -> Option<ReduceOp> {
        let code = Self::NAMES.iter().position(|n| *n == name)?;
        Self::from_code(code as u8, 1.0)
    }

    /// Returns the name that tables, errors and the command line use.
    pub const fn name(self) -> &'static str {
        Self::NAMES[self.code() as usize]
    }

    /// Returns the name of the operation with this code, or `unknown`. For errors about a code from a peer.
    pub fn name_of(code: u8) -> &'static str {
        Self::NAMES.get(code as usize).copied().unwrap_or("unknown")
    }

    /// Returns whether this operation is defined on this type. Otherwise a call with this operation and type ends with
    /// `InvalidArgument` on every rank before any byte is sent.
    #[inline]
    pub const fn is_defined_on(self, dtype: DType) -> bool {
        Self::DEFINED[self.code() as usize].contains(dtype)
    }

    const DEFINED: [DTypeSet; Self::COUNT] = {
        let mut table = [DTypeSet::NONE; Self::COUNT];
        let mut code = 0;
        while code < Self::COUNT {
            table[code] = Self::defined(code as u8);
            code += 1;
        }
        table
    };

    /// Returns the types on which the operation with this code is defined.
    pub const fn defined(code: u8) -> DTypeSet {
        let mut bits: [DType; DType::ALL.len()] = [DType::U8; DType::ALL.len()];
        let (mut i, mut n) = (0, 0);
        let mut any = false;
        while i < DType::ALL.len() {
            let d = DType::ALL[i];
            let yes = match d.class() {
                Class::Opaque => false,
                Class::Integer => code != 1 && code != 8,
                Class::Float => code < 5 || code == 8,
                Class::Bool => code != 1 && code != 8,
                Class::Complex => code < 3 || code == 8,
            };
            if yes {
                bits[n] = d;
                n += 1;
                any = true;
            }
            i += 1;
        }
        // The unused entries repeat the first, which does not change the set.
        while any && n < bits.len() {
            bits[n] = bits[0];
            n += 1;
        }
        DTypeSet::of(&bits)
    }
}

impl std::fmt::Display for ReduceOp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ReduceOp::PreMulSum(factor) => write!(f, "premul_sum({factor})"),
            op => f.write_str(op.name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_defined_by_element_class() {
        use DType::*;
        let rows: [(DType, &[u8]); 6] = [
            (I32, &[0, 2, 3, 4, 5, 6, 7]),
            (BF16, &[0, 1, 2, 3, 4, 8]),
            (F64, &[0, 1, 2, 3, 4, 8]),
            (Bool, &[0, 2, 3, 4, 5, 6, 7]),
            (Complex128, &[0, 1, 2, 8]),
            (F8E4M3, &[]),
        ];
        for (dtype, codes) in rows {
            for code in 0..9 {
                let op = ReduceOp::from_code(code, 1.0).unwrap();
                assert_eq!(op.is_defined_on(dtype), codes.contains(&code), "{op} on {dtype}");
            }
        }
    }

    #[test]
    fn names_and_codes_are_read_back() {
        for code in 0..9 {
            let op = ReduceOp::from_code(code, 1.0).unwrap();
            assert_eq!(op.code(), code);
            assert_eq!(ReduceOp::from_name(op.name()), Some(op));
        }
        for d in DType::ALL {
            assert_eq!(DType::from_name(d.name()), Some(*d));
            assert_eq!(DType::from_code(*d as u8), Some(*d));
        }
    }
}
