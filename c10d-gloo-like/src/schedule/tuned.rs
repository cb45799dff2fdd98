//! The ops that have several algorithms.

use c10d_core::OpKind;

/// The ops for which a table chooses algorithms. Their coalesced forms and the monitored barrier use the same rules.
/// All other ops use the direct algorithm: their counts may differ between ranks, and each pair of ranks checks its own
/// counts.
pub const TUNED: [OpKind; 6] = [
    OpKind::AllReduce,
    OpKind::Reduce,
    OpKind::Broadcast,
    OpKind::ReduceScatterInto,
    OpKind::AllGatherInto,
    OpKind::Barrier,
];

/// Returns the index of the op in [`TUNED`]; `None` if the op is always direct.
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
