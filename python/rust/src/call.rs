//! Converts a call from C to a call of the library.

use std::time::Duration;

use c10d::backend::Params;
use c10d::types::DeviceKind;
use c10d::{Call, DType, Device, Error, OpKind, ReduceOp, Result, op};

use crate::abi::{CallSpec, Tensor};
use crate::memory::Lent;

/// The buffers of a call that [`op::any`] makes of lent memory.
pub(crate) type Lists = c10d::buffer::Lists<Lent, Lent>;

pub(crate) struct Described<'a> {
    pub(crate) spec: &'a CallSpec,
    /// The number that `c10d::device::vendor` gives the vendor of the PrivateUse1 devices; 0 if `c10drs_init` names
    /// none.
    pub(crate) vendor: u8,
    pub(crate) inputs: &'a [Tensor],
    pub(crate) outputs: &'a [Tensor],
    pub(crate) input_splits: &'a [u64],
    pub(crate) output_splits: &'a [u64],
}

impl Described<'_> {
    pub(crate) fn op(&self) -> Result<OpKind> {
        let code = self.spec.op;
        let op = u8::try_from(code).ok().and_then(OpKind::from_code);
        op.ok_or_else(|| Error::invalid(format!("there is no op with the code {code}")))
    }

    pub(crate) fn reduce(&self) -> Result<ReduceOp> {
        let code = self.spec.reduce;
        let op = u8::try_from(code).ok().and_then(|code| ReduceOp::from_code(code, self.spec.factor));
        op.ok_or_else(|| Error::invalid(format!("there is no reduce operation with the code {code}")))
    }

    pub(crate) fn device(&self) -> Result<Device> {
        device(self.spec.device_kind, self.spec.device_index, self.vendor)
    }

    pub(crate) fn timeout(&self) -> Option<Duration> {
        u64::try_from(self.spec.timeout_ms).ok().map(Duration::from_millis)
    }

    /// Makes the call, with these buffers for its tensors.
    pub(crate) fn call(&self, inputs: Vec<Lent>, outputs: Vec<Lent>) -> Result<Call<Lists>> {
        let mut params = Params::default();
        let op = self.op()?;
        if op.reduces() {
            params.reduce = self.reduce()?;
        }
        params.root = self.spec.root;
        params.peer = self.spec.peer;
        params.tag = self.spec.tag;
        params.stream = self.spec.stream;
        params.wait_all_ranks = self.spec.wait_all_ranks != 0;
        let sizes = |splits: &[u64]| splits.iter().map(|n| *n as usize).collect();
        params.set_splits(sizes(self.input_splits), sizes(self.output_splits));
        let call = op::any(op, params, inputs, outputs);
        Ok(match self.timeout() {
            Some(timeout) => call.timeout(timeout),
            None => call,
        })
    }
}

pub(crate) fn dtype(code: u32) -> Result<DType> {
    let dtype = u8::try_from(code).ok().and_then(DType::from_code);
    dtype.ok_or_else(|| Error::invalid(format!("there is no element type with the code {code}")))
}

pub(crate) fn device(kind: u32, index: u32, vendor: u8) -> Result<Device> {
    let index =
        u16::try_from(index).map_err(|_| Error::invalid(format!("there is no device with the index {index}")))?;
    match kind {
        k if k == DeviceKind::Cpu as u32 => Ok(Device::CPU),
        k if k == DeviceKind::Cuda as u32 => Ok(Device::cuda(index)),
        k if k == DeviceKind::PrivateUse1 as u32 => Ok(Device::private(vendor, index)),
        _ => Err(Error::invalid(format!("there is no device kind with the code {kind}"))),
    }
}
