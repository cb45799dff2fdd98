//! The kernels. They select the code by the location and element type of the tensor, the operation, and the width of
//! keys.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use c10d_core::backend::{Job, KernelContext, Request};
use c10d_core::buffer::CooLayout;
use c10d_core::device::{DeviceBuffer, DeviceRuntime};
use c10d_core::{Coo, DType, DeviceCoo, Error, Outcome, ReduceOp, Result};
use half::{bf16, f16};
use num_complex::{Complex32, Complex64};

use crate::fold::By;
use crate::keys::space;
use crate::run::{Call, Tensor};
use crate::value::{Combine, Max, Min, Product, Sum, Value};

/// The kernel of `all_reduce` on SparseCPU.
pub(crate) fn host(ctx: KernelContext<'_>, job: Job) {
    ctx.compose(job, |ctx, request| Kernel { ctx, request, device: None }.with_type());
}

/// The kernel of `all_reduce` on SparseCUDA. It copies the tensor to host memory, and the result back to the device.
pub(crate) fn device(ctx: KernelContext<'_>, job: Job) {
    ctx.compose(job, |ctx, request| Kernel { ctx, request, device: Some(ctx.device()?) }.with_type());
}

struct Kernel<'a> {
    ctx: &'a KernelContext<'a>,
    request: &'a Request,
    /// The runtime of the tensor's device; `None` if the tensor is in host memory.
    device: Option<Arc<dyn DeviceRuntime>>,
}

impl Kernel<'_> {
    fn reduce<V: Value, C: Combine<V::Wide>>(&self) -> Result<Outcome> {
        let request = self.request;
        let layout = request.sparse().ok_or_else(|| Error::invalid("this kernel is for sparse tensors"))?;
        let call = Call { ctx: self.ctx, request, layout };
        // `Call::reduce` sends an error in the input to the other ranks.
        let input = self.input::<V>();
        let (indices, values) = if space(layout) <= 1 << 32 {
            call.reduce(&By::<u32, V>::of::<C>(), &input)?
        } else {
            call.reduce(&By::<u64, V>::of::<C>(), &input)?
        };
        let payload: Box<dyn std::any::Any + Send> = match &self.device {
            None => {
                let result = Coo::new(&*layout.shape, layout.sparse_dim, indices, values)?;
                Box::new(result.assume_coalesced())
            }
            Some(runtime) => Box::new(self.to_device(runtime, layout, &indices, &values)?),
        };
        Ok(Outcome { payload: Some(payload), ..Outcome::default() })
    }

    fn input<V: Value>(&self) -> Result<Tensor<'_, V>> {
        let request = self.request;
        if let Some(runtime) = &self.device {
            return Ok((Cow::Owned(request.fetch(1, &**runtime)?), Cow::Owned(request.fetch(0, &**runtime)?)));
        }
        let (Some(indices), Some(values)) = (request.input(1), request.input(0)) else {
            return Err(Error::invalid("the tensor is not in host memory"));
        };
        Ok((Cow::Borrowed(indices), Cow::Borrowed(values)))
    }

    fn to_device<V: Value>(
        &self,
        runtime: &Arc<dyn DeviceRuntime>,
        layout: &CooLayout,
        indices: &[i64],
        values: &[V],
    ) -> Result<DeviceCoo> {
        let index = self.request.inputs().first().map_or(0, |span| span.device().index());
        let left = || self.request.deadline().saturating_duration_since(Instant::now());
        let indices = DeviceBuffer::from_slice(runtime, index, indices, left())?;
        let values = DeviceBuffer::from_slice(runtime, index, values, left())?;
        Ok(DeviceCoo::new(&*layout.shape, layout.sparse_dim, indices, values)?.assume_coalesced())
    }

    /// Runs a sum or a product, the operations that all element types have.
    fn unordered<V: Value>(&self) -> Result<Outcome>
    where
        Sum: Combine<V::Wide>,
        Product: Combine<V::Wide>,
    {
        match self.request.params.reduce {
            ReduceOp::Sum => self.reduce::<V, Sum>(),
            ReduceOp::Product => self.reduce::<V, Product>(),
            other => Err(Error::unsupported(format!("{other} of sparse tensors of {}", V::DTYPE))),
        }
    }

    fn ordered<V: Value>(&self) -> Result<Outcome>
    where
        Sum: Combine<V::Wide>,
        Product: Combine<V::Wide>,
        Min: Combine<V::Wide>,
        Max: Combine<V::Wide>,
    {
        match self.request.params.reduce {
            ReduceOp::Min => self.reduce::<V, Min>(),
            ReduceOp::Max => self.reduce::<V, Max>(),
            _ => self.unordered::<V>(),
        }
    }

    fn with_type(&self) -> Result<Outcome> {
        match self.request.dtype() {
            Some(DType::U8) => self.ordered::<u8>(),
            Some(DType::I8) => self.ordered::<i8>(),
            Some(DType::U16) => self.ordered::<u16>(),
            Some(DType::I16) => self.ordered::<i16>(),
            Some(DType::U32) => self.ordered::<u32>(),
            Some(DType::I32) => self.ordered::<i32>(),
            Some(DType::U64) => self.ordered::<u64>(),
            Some(DType::I64) => self.ordered::<i64>(),
            Some(DType::F16) => self.ordered::<f16>(),
            Some(DType::BF16) => self.ordered::<bf16>(),
            Some(DType::F32) => self.ordered::<f32>(),
            Some(DType::F64) => self.ordered::<f64>(),
            Some(DType::Bool) => self.ordered::<bool>(),
            Some(DType::Complex64) => self.unordered::<Complex32>(),
            Some(DType::Complex128) => self.unordered::<Complex64>(),
            other => Err(Error::unsupported(format!("sparse tensors of {other:?}"))),
        }
    }
}
