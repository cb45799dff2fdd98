//! Reductions on the device.
#![allow(unsafe_code)]

use c10d_core::device::{DevicePtr, DeviceReduce, Elements};
use c10d_core::{DTypeSet, Error, ErrorKind, ReduceOp, Result};

use crate::log::What;
use crate::reduce;
use crate::runtime::Guarded;
use crate::stream::Task;

// SAFETY: the runtime gives the guarantees: a stream runs its work in order, on memory that exists.
unsafe impl DeviceReduce for Guarded {
    fn reduces(&self, op: ReduceOp) -> DTypeSet {
        reduce::types(op)
    }

    unsafe fn reduce(
        &self,
        index: u16,
        stream: u64,
        op: ReduceOp,
        Elements { dtype, count }: Elements,
        acc: DevicePtr,
        with: DevicePtr,
    ) -> Result {
        self.enter(index, "reduce")?;
        let no_way = || Error::new(ErrorKind::Device, format!("{} does not reduce {dtype} with {op}", self.name));
        let by = reduce::reducer(op, dtype).ok_or_else(no_way)?;
        let line = self.stream(index, stream)?;
        let bytes = count * dtype.size();
        let (acc, with) = (self.memory.part(acc, bytes)?, self.memory.part(with, bytes)?);
        let entry = self.given(index, stream, What::Reduce, bytes);
        line.push(Task::Reduce { acc, with, by, entry });
        Ok(())
    }
}
