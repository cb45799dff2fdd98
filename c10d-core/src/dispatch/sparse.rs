//! Calls with sparse tensors: their dispatch key and their validation.

use crate::backend::Request;
use crate::buffer::CooLayout;
use crate::options::Absent;
use crate::types::{DType, DispatchKey, ReduceOp};
use crate::{Error, Result};

/// Returns the dispatch key of sparse tensors on the devices whose dense tensors have the dispatch key `dense`.
pub(crate) fn sparse_key(dense: DispatchKey) -> Result<DispatchKey> {
    match dense {
        DispatchKey::Cpu => Ok(DispatchKey::SparseCpu),
        DispatchKey::Cuda => Ok(DispatchKey::SparseCuda),
        key => Err(Error::unsupported(format!("sparse tensors on {key} are not supported"))),
    }
}

/// Checks a call with a sparse tensor. The kernel checks the values of the indices.
pub(super) fn validate(request: &Request, layout: &CooLayout) -> Result {
    let op = request.op;
    if !op.row().keys.contains(request.key) {
        return Err(Error::unsupported(format!("{op} does not support sparse tensors")));
    }
    let [values, indices] = request.inputs() else {
        return Err(Error::invalid("a sparse tensor has values and indices"));
    };
    super::validate::span(values)?;
    super::validate::span(indices)?;
    let lengths = (layout.nnz.checked_mul(layout.row), layout.nnz.checked_mul(layout.sparse_dim));
    if lengths != (Some(values.count()), Some(indices.count())) || indices.dtype() != DType::I64 {
        return Err(Error::invalid("values and indices do not fit the shape of the sparse tensor"));
    }
    if indices.device() != values.device() {
        let (a, b) = (indices.device(), values.device());
        return Err(Error::invalid(format!("the indices of a sparse tensor are on {a}, its values on {b}")));
    }
    let reduce = request.params.reduce;
    if !reduce.is_defined_on(values.dtype()) {
        return Err(Error::invalid(format!("{reduce} is not defined on {}", values.dtype())));
    }
    match (reduce, request.params.absent()) {
        (ReduceOp::Sum, _) => {}
        (ReduceOp::Min | ReduceOp::Max | ReduceOp::Product, Absent::Ignored) => {}
        (ReduceOp::Min | ReduceOp::Max | ReduceOp::Product, Absent::Zero) => {
            return Err(Error::invalid(format!(
                "{reduce} of sparse tensors reduces only entries that are present; pass Absent::Ignored to ask for that"
            )));
        }
        _ => {
            return Err(Error::invalid(format!(
                "sparse tensors can be reduced by sum, min, max and product, not by {reduce}"
            )));
        }
    }
    if let Some(known) = request.params.sparse_indices() {
        if reduce != ReduceOp::Sum {
            return Err(Error::invalid(format!("sparse_indices are for sums only, not for {reduce}")));
        }
        if !known.len().is_multiple_of(layout.sparse_dim) {
            let what = format!("there are {} sparse_indices, but each entry needs {}", known.len(), layout.sparse_dim);
            return Err(Error::invalid(what));
        }
    }
    Ok(())
}
