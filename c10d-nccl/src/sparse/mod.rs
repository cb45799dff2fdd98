//! `all_reduce` of sparse tensors in device memory over NCCL.

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
