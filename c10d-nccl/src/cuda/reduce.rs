//! Reductions on the device. In a staged reduction, the CPU backend only moves the data between the ranks, and each
//! rank reduces its part on the device.
#![allow(unsafe_code)]

use c10d_core::device::{DevicePtr, DeviceReduce, Elements, Scale, Stream};
use c10d_core::{DTypeSet, Error, ReduceOp, Result};

use super::api::CudaApi;
use super::driver::{Driver, address};
use crate::kernels::{SCALED, reducer, reduces, scaler};

// SAFETY: kernels run in the order of their stream, and access only the elements in their arguments.
unsafe impl DeviceReduce for Driver {
    fn reduces(&self, op: ReduceOp) -> DTypeSet {
        reduces(op)
    }

    unsafe fn reduce(
        &self,
        index: u16,
        stream: Stream,
        op: ReduceOp,
        Elements { dtype, count }: Elements,
        acc: DevicePtr,
        with: DevicePtr,
    ) -> Result {
        let kernel = reducer(dtype).ok_or_else(|| Error::unsupported(format!("no kernel reduces {dtype}")))?;
        let arguments = [u64::from(op.code()), address(acc), address(with), count as u64];
        // SAFETY: the caller guarantees the memory, and the arguments fit the kernel.
        unsafe { self.launch(index, stream, kernel, count, &arguments) }
    }

    fn scales(&self) -> DTypeSet {
        SCALED
    }

    unsafe fn scale(&self, index: u16, stream: Stream, by: Scale, elements: Elements, at: DevicePtr) -> Result {
        let Elements { dtype, count } = elements;
        let kernel = scaler(dtype).ok_or_else(|| Error::unsupported(format!("no kernel scales {dtype}")))?;
        let (divides, factor) = match by {
            Scale::Times(factor) => (0, factor),
            Scale::Over(divisor) => (1, divisor),
        };
        // SAFETY: the caller guarantees the memory, and the arguments fit the kernel.
        unsafe { self.launch(index, stream, kernel, count, &[divides, factor.to_bits(), address(at), count as u64]) }
    }
}
