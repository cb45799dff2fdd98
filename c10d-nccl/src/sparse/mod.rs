//! `all_reduce` of sparse tensors in device memory, over NCCL: the union of all ranks' keys, and one dense all-reduce of
//! rows in their places of it.

mod bench;
mod entries;
mod form;
mod run;
mod steps;
mod worker;

use c10d_core::backend::{Job, KernelContext};

/// `all_reduce` on SparseCUDA in groups whose CUDA tensors NCCL serves.
pub(crate) fn all_reduce(ctx: KernelContext<'_>, job: Job) {
    ctx.compose(job, run::reduce);
}
