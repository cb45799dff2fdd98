//! The CUDA kernels of the folder `kernels/`, with their PTX.

mod reduce;
pub(crate) mod sparse;
#[cfg(test)]
mod tests;

use std::ffi::CStr;

pub(crate) use reduce::{SCALED, reducer, reduces, scaler};

/// A source file of kernels. The driver loads its PTX.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Module {
    Reduce,
    Scale,
    Sparse,
}

/// A function of a module. All its parameters have 64 bits.
#[derive(Debug, PartialEq)]
pub(crate) struct Kernel {
    pub(crate) module: Module,
    pub(crate) name: &'static str,
    pub(crate) parameters: usize,
}

macro_rules! ptx {
    ($file:literal) => {
        match CStr::from_bytes_with_nul(
            concat!(include_str!(concat!("../../kernels/generated/", $file)), "\0").as_bytes(),
        ) {
            Ok(text) => text,
            Err(_) => panic!("PTX is text"),
        }
    };
}

const REDUCE: &CStr = ptx!("reduce.ptx");
const SCALE: &CStr = ptx!("scale.ptx");
const SPARSE: &CStr = ptx!("sparse.ptx");

impl Module {
    /// Returns the PTX as the driver needs it, with a zero byte at the end.
    pub(crate) fn ptx(self) -> &'static CStr {
        match self {
            Module::Reduce => REDUCE,
            Module::Scale => SCALE,
            Module::Sparse => SPARSE,
        }
    }
}
