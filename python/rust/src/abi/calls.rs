//! The functions of the interface that run or start a call.

use std::ffi::{c_int, c_void};

use c10d::Result;

use super::group::Group;
use super::structs::{CallSpec, Give, SparseSpec, Tensor};
use super::works::WorkHandle;
use super::{answer, guarded};
use crate::call::{self, Described};
use crate::error::CError;
use crate::memory::{Lent, Owner, slice};
use crate::sparse::{self, Entries};
use crate::work::Started;

/// Returns the arguments of a call as slices of the caller's lists.
///
/// # Safety
/// The caller must satisfy the requirements of `c10d_rs.h`. The lists must be valid as long as the result is used.
unsafe fn described(spec: &CallSpec, vendor: u8) -> Described<'_> {
    // SAFETY: the caller guarantees that the lists are valid.
    unsafe {
        Described {
            spec,
            vendor,
            inputs: slice(spec.inputs, spec.inputs_len),
            outputs: slice(spec.outputs, spec.outputs_len),
            input_splits: slice(spec.input_splits, spec.input_splits_len),
            output_splits: slice(spec.output_splits, spec.output_splits_len),
        }
    }
}

/// Makes buffers of the tensors of a call.
///
/// # Safety
/// The tensors' memory must satisfy the requirements of [`Lent::new`] until the buffers are dropped.
unsafe fn lent(call: &Described<'_>) -> Result<(Vec<Lent>, Vec<Lent>)> {
    let device = call.device()?;
    // SAFETY: the caller guarantees the requirements of `Lent::new`.
    let lend = |t: &Tensor| Ok(unsafe { Lent::new(t.data, t.offset, t.count, call::dtype(t.dtype)?, device) });
    let list = |tensors: &[Tensor]| tensors.iter().map(lend).collect::<Result<Vec<_>>>();
    Ok((list(call.inputs)?, list(call.outputs)?))
}

/// Runs a call on this thread and returns when it is finished. Returns 0, or 1 and an error.
///
/// # Safety
/// The caller must satisfy the requirements of `c10d_rs.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn c10drs_run(
    group: *const Group,
    spec: *const CallSpec,
    source: *mut u32,
    error: *mut *mut CError,
) -> c_int {
    // SAFETY: the caller guarantees that the pointers and the tensors are valid until this function returns. The
    // buffers are dropped before it returns.
    let result = guarded(|| unsafe {
        let Group { group, vendor } = &*group;
        let call = described(&*spec, *vendor);
        let (inputs, outputs) = lent(&call)?;
        Ok(group.run(call.call(inputs, outputs)?)?)
    });
    // SAFETY: the caller guarantees that `source` and `error` are null or valid for writes.
    unsafe {
        let result = result.map(|(_, _, from)| {
            if !source.is_null() {
                *source = from;
            }
        });
        answer(result, error)
    }
}

/// Starts a call. If it could not be started, the result is null, and `error` has the reason. Other errors come from
/// `c10drs_work_wait`. In every case `release(owner)` is called once, when the library no longer uses the memory.
///
/// # Safety
/// The caller must satisfy the requirements of `c10d_rs.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn c10drs_start(
    group: *const Group,
    spec: *const CallSpec,
    release: unsafe extern "C" fn(*mut c_void),
    owner: *mut c_void,
    error: *mut *mut CError,
) -> *mut WorkHandle {
    // SAFETY: the caller guarantees that `release(owner)` may be called once on any thread.
    let owner = unsafe { Owner::new(release, owner) };
    // SAFETY: the caller guarantees that the memory remains valid until `release(owner)` is called, which happens when
    // the buffers are dropped.
    let started = guarded(|| unsafe {
        let Group { group, vendor } = &*group;
        let call = described(&*spec, *vendor);
        let (mut inputs, mut outputs) = lent(&call)?;
        if let Some(first) = inputs.first_mut().or(outputs.first_mut()) {
            first.owned_by(owner);
        }
        Ok(Started::new(group.start(call.call(inputs, outputs)?)))
    });
    match started {
        Ok(started) => Box::into_raw(Box::new(WorkHandle(started))),
        Err(e) => {
            // SAFETY: the caller guarantees that `error` is null or valid for writes.
            unsafe { answer(Err(e), error) };
            std::ptr::null_mut()
        }
    }
}

/// Reduces a sparse tensor on this thread. If this succeeds, calls `give` with the result, and then returns 0.
/// Otherwise returns 1 and an error.
///
/// # Safety
/// The caller must satisfy the requirements of `c10d_rs.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn c10drs_sparse_all_reduce(
    group: *const Group,
    spec: *const CallSpec,
    tensor: *const SparseSpec,
    give: Give,
    context: *mut c_void,
    error: *mut *mut CError,
) -> c_int {
    // SAFETY: the caller guarantees that the pointers and lists are valid until this function returns, and that
    // `values` points to `values_len` elements of `dtype`.
    let result = guarded(|| unsafe {
        let Group { group, vendor } = &*group;
        let (call, tensor) = (described(&*spec, *vendor), &*tensor);
        let entries = Entries {
            shape: slice(tensor.shape, tensor.dims),
            sparse_dim: tensor.sparse_dim,
            coalesced: tensor.coalesced != 0,
            indices: slice(tensor.indices, tensor.nnz.saturating_mul(tensor.sparse_dim)),
            values: tensor.values,
            count: tensor.values_len,
            dtype: call::dtype(tensor.dtype)?,
        };
        let mut give = |indices: &[i64], values: *const c_void, len: usize| {
            give(context, indices.as_ptr(), indices.len(), values, len)
        };
        sparse::all_reduce(group, &entries, call.reduce()?, call.timeout(), &mut give)
    });
    // SAFETY: the caller guarantees that `error` is null or valid for writes.
    unsafe { answer(result, error) }
}
