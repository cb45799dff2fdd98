//! The options of ops. Most fields are those of PyTorch's options structs. No field sets the timeout:
//! [`Call::timeout`](crate::Call::timeout) does that.
//!
//! A constructor in [`op`](crate::op) accepts any type that converts into the op's options. If no other option is set,
//! pass a reduce operation, a root or a tag.

pub(crate) mod params;

use std::sync::Arc;

pub(crate) use params::Params;

use crate::types::ReduceOp;

mod sealed {
    pub trait Sealed {}
}

/// The options of an op. This trait is sealed.
pub trait Options: sealed::Sealed {
    /// Writes the options into a call's parameters.
    fn apply(self, params: &mut Params);
}

impl sealed::Sealed for () {}

/// The options of an op that has none.
impl Options for () {
    fn apply(self, _: &mut Params) {}
}

macro_rules! options {
    ($($(#[$doc:meta])* $name:ident { $($(#[$fdoc:meta])* $field:ident / $with:ident: $type:ty,)* }
        |$self:ident, $params:ident| $apply:block;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, Default)]
        #[non_exhaustive]
        pub struct $name {
            $($(#[$fdoc])* pub $field: $type,)*
        }

        impl $name {
            $($(#[$fdoc])* #[must_use] pub fn $with(mut self, value: $type) -> Self { self.$field = value; self })*
        }

        impl sealed::Sealed for $name {}

        impl Options for $name {
            #[inline]
            fn apply($self, $params: &mut Params) { $apply }
        }
    )*};
}

options! {
    /// The options of `send`.
    SendOptions {
        /// The tag, which the receiver must also give.
        tag / with_tag: u32,
    } |self, p| { p.tag = self.tag; };
    /// The options of `recv` and `recv_any_source`.
    RecvOptions {
        /// The tag, which the sender must also have given.
        tag / with_tag: u32,
    } |self, p| { p.tag = self.tag; };
    /// The options of `broadcast`.
    BroadcastOptions {
        /// The rank that sends its values to all others.
        root_rank / with_root_rank: u32,
        /// The index of the root's tensor, for PyTorch's ranks with several tensors. It must be 0: a rank of c10d has
        /// one tensor.
        root_tensor / with_root_tensor: u32,
    } |self, p| { p.root = self.root_rank; p.root_tensor = self.root_tensor; };
    /// The options of `all_reduce`.
    AllReduceOptions {
        /// How values are combined.
        reduce_op / with_reduce_op: ReduceOp,
        /// For a sparse tensor: the indices of the result, if all ranks know them. They are sparse_dim × nnz numbers
        /// (nnz of the result) in host memory, sorted, without duplicates. They must include the indices of every rank.
        /// With this option, which is only allowed for sums, the ranks do not compute the union of their indices.
        sparse_indices / with_sparse_indices: Option<Arc<[i64]>>,
        /// For a sparse tensor: what an entry counts as on a rank that does not have it.
        absent / with_absent: Absent,
    } |self, p| {
        p.reduce = self.reduce_op;
        if self.absent != Absent::default() { p.rare().absent = self.absent; }
        if self.sparse_indices.is_some() { p.rare().sparse_indices = self.sparse_indices; }
    };
    /// The options of `all_reduce_coalesced`.
    AllReduceCoalescedOptions {
        /// How values are combined.
        reduce_op / with_reduce_op: ReduceOp,
    } |self, p| { p.reduce = self.reduce_op; };
    /// The options of `reduce`.
    ReduceOptions {
        /// How values are combined.
        reduce_op / with_reduce_op: ReduceOp,
        /// The index of the root's tensor, for PyTorch's ranks with several tensors. It must be 0: a rank of c10d has
        /// one tensor.
        root_tensor / with_root_tensor: u32,
    } |self, p| { p.reduce = self.reduce_op; p.root_tensor = self.root_tensor; };
    /// The options of the `reduce_scatter` ops.
    ReduceScatterOptions {
        /// How values are combined.
        reduce_op / with_reduce_op: ReduceOp,
    } |self, p| { p.reduce = self.reduce_op; };
    /// The options of `barrier`.
    BarrierOptions {
        /// The indices of accelerators. The barrier only checks whether the list is empty. If the list is not empty,
        /// the barrier runs on the accelerator to which the builder bound the rank, else on the first of CUDA and
        /// PrivateUse1 that the group serves. If the list is empty, the barrier runs on the device to which the builder
        /// bound the rank, else on the first of CPU, CUDA and PrivateUse1 that the group serves.
        device_ids / with_device_ids: Vec<u16>,
    } |self, p| { if !self.device_ids.is_empty() { p.rare().device_ids = self.device_ids; } };
    /// The options of `monitored_barrier`.
    MonitoredBarrierOptions {
        /// Whether the error names every missing rank instead of only the first.
        wait_all_ranks / with_wait_all_ranks: bool,
    } |self, p| { p.wait_all_ranks = self.wait_all_ranks; };
}

macro_rules! reduce_first {
    ($($name:ident)*) => {$(
        impl $name {
            /// Makes options with this reduce operation.
            #[inline]
            pub fn new(reduce_op: ReduceOp) -> Self { Self { reduce_op, ..Self::default() } }
        }
        impl From<ReduceOp> for $name {
            #[inline]
            fn from(op: ReduceOp) -> Self { Self::new(op) }
        }
    )*};
}
reduce_first!(AllReduceOptions AllReduceCoalescedOptions ReduceOptions ReduceScatterOptions);

macro_rules! number_first {
    ($($name:ident $field:ident)*) => {$(
        impl From<u32> for $name {
            #[inline]
            fn from($field: u32) -> Self { Self { $field, ..Self::default() } }
        }
    )*};
}
number_first!(SendOptions tag RecvOptions tag BroadcastOptions root_rank);

/// What an entry of a sparse tensor counts as on a rank that does not have it.
///
/// In a sum, an absent entry counts as zero. With zeros, almost every result of a minimum, maximum or product would be
/// dense. So these operations ignore absent entries, and the caller must request this by `Ignored`:
///
/// ```
/// # use c10d_core::{ReduceOp, options::{Absent, AllReduceOptions}};
/// let largest = AllReduceOptions::new(ReduceOp::Max).with_absent(Absent::Ignored);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Absent {
    /// Zero. Only allowed for sums.
    #[default]
    Zero,
    /// The entry is ignored: the result is the reduction over the ranks that have the entry.
    Ignored,
}

/// Which missing ranks a monitored barrier names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Missing {
    /// Only the lowest missing rank.
    #[default]
    First,
    /// All missing ranks.
    All,
}

impl From<Missing> for MonitoredBarrierOptions {
    fn from(missing: Missing) -> Self {
        Self { wait_all_ranks: missing == Missing::All, ..Self::default() }
    }
}
