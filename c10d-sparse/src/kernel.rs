//! The kernels: which element type, which operation, how wide the keys.

use c10d_core::{Coo, DType, Error, Job, KernelContext, Outcome, ReduceOp, Request, Result};
use half::{bf16, f16};
use num_complex::{Complex32, Complex64};

use crate::keys::space;
use crate::run::{Call, Result2};
use crate::value::{Combine, Max, Min, Product, Sum, Value};

/// `all_reduce` on SparseCPU.
pub(crate) fn host(ctx: KernelContext<'_>, job: Job) {
    ctx.compose(job, |ctx, request| {
        let sparse = Sparse { ctx, request };
        with_type(request, &sparse)
    });
}

struct Sparse<'a> {
    ctx: &'a KernelContext<'a>,
    request: &'a Request,
}

impl Sparse<'_> {
    fn reduce<V: Value, C: Combine<V::Wide>>(&self) -> Result<Outcome> {
        let request = self.request;
        let layout = request.sparse();
        let (Some(layout), Some(values), Some(indices)) = (layout, request.input::<V>(0), request.input::<i64>(1))
        else {
            return Err(Error::invalid("a sparse tensor in host memory has values and indices there"));
        };
        let call = Call { ctx: self.ctx, request, layout };
        let (indices, values): Result2<V> = if space(layout) <= 1 << 32 {
            call.reduce::<u32, V, C>(indices, values)?
        } else {
            call.reduce::<u64, V, C>(indices, values)?
        };
        let result = Coo::new(&*layout.shape, layout.sparse_dim, indices, values)?.assume_coalesced();
        Ok(Outcome { payload: Some(Box::new(result)), ..Outcome::default() })
    }

    /// Types without an order.
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
}

fn with_type(request: &Request, sparse: &Sparse<'_>) -> Result<Outcome> {
    match request.dtype() {
        Some(DType::U8) => sparse.ordered::<u8>(),
        Some(DType::I8) => sparse.ordered::<i8>(),
        Some(DType::U16) => sparse.ordered::<u16>(),
        Some(DType::I16) => sparse.ordered::<i16>(),
        Some(DType::U32) => sparse.ordered::<u32>(),
        Some(DType::I32) => sparse.ordered::<i32>(),
        Some(DType::U64) => sparse.ordered::<u64>(),
        Some(DType::I64) => sparse.ordered::<i64>(),
        Some(DType::F16) => sparse.ordered::<f16>(),
        Some(DType::BF16) => sparse.ordered::<bf16>(),
        Some(DType::F32) => sparse.ordered::<f32>(),
        Some(DType::F64) => sparse.ordered::<f64>(),
        Some(DType::Bool) => sparse.ordered::<bool>(),
        Some(DType::Complex64) => sparse.unordered::<Complex32>(),
        Some(DType::Complex128) => sparse.unordered::<Complex64>(),
        other => Err(Error::unsupported(format!("sparse tensors of {other:?}"))),
    }
}
