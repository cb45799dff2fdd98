//! The ops that have several algorithms.

use c10d_core::OpKind;

/// The ops for which a table chooses algorithms; ops with several buffers use the same names. All others are direct:
/// their counts may differ between ranks, and each pair checks its own.
pub const TUNED: [OpKind; 6] = [
    OpKind::AllReduce,
    OpKind::Reduce,
    OpKind::Broadcast,
    OpKind::ReduceScatterInto,
    OpKind::AllGatherInto,
    OpKind::Barrier,
];

/// The index of the op in [`TUNED`].
pub(crate) const fn tuned(op: OpKind) -> Option<usize> {
    match op {
        OpKind::AllReduce | OpKind::AllReduceCoalesced => Some(0),
        OpKind::Reduce => Some(1),
        OpKind::Broadcast => Some(2),
        OpKind::ReduceScatterInto | OpKind::ReduceScatterIntoCoalesced => Some(3),
        OpKind::AllGatherInto | OpKind::AllGatherIntoCoalesced => Some(4),
        OpKind::Barrier | OpKind::MonitoredBarrier => Some(5),
        _ => None,
    }
}
