//! `all_reduce` of sparse tensors in device memory over NCCL. It computes the union of all ranks' keys (the key of an
//! entry is its coordinates as one number). Then it runs one dense all-reduce of the rows, each at the position of its
//! key.

mod bench;
mod entries;
mod form;
mod run;
mod steps;
mod worker;

use c10d_core::backend::{Job, KernelContext};

/// The kernel of `all_reduce` with the dispatch key SparseCUDA, in groups that use NCCL for CUDA tensors.
pub(crate) fn all_reduce(ctx: KernelContext<'_>, job: Job) {
    ctx.compose(job, run::reduce);
}
