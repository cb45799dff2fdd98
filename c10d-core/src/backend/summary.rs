//! The fingerprint of a request.

use super::Fingerprint;
use super::Request;
use crate::buffer::CooLayout;
use crate::catalog::{OpKind, Shape};
use crate::types::ReduceOp;

/// Computes the fingerprint of a request. The lane sets `seq` later, when the call takes its turn.
pub(crate) fn fingerprint(request: &Request) -> Fingerprint {
    if let Some(layout) = request.sparse() {
        return sparse_fingerprint(request, layout);
    }
    let op = request.op;
    let (inputs, outputs) = (request.inputs(), request.outputs());
    let mut rest = 0;
    let mut total = 0u64;
    let mut list = 0;
    let mut mix = |value: u64| rest = (rest ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    let count = match op.row().shape {
        Shape::Source => inputs[0].count() as u64,
        Shape::InPlace | Shape::Target => outputs[0].count() as u64,
        Shape::GatherFlat => inputs[0].count() as u64,
        Shape::ScatterFlat => outputs[0].count() as u64,
        Shape::InPlaceList | Shape::ScatterFlats | Shape::GatherFlats => {
            let per_rank = if op.row().shape == Shape::GatherFlats { inputs } else { outputs };
            let bytes = request.identity().map_or(1, |identity| identity.bytes());
            list = Fingerprint::list(per_rank.len(), per_rank.first().map_or(0, |s| s.count() / bytes));
            per_rank.iter().for_each(|s| {
                total += s.count() as u64;
                mix(s.count() as u64);
            });
            mix(per_rank.len() as u64);
            total
        }
        Shape::GatherLists => {
            list = Fingerprint::list(inputs.len(), 0);
            mix(inputs.len() as u64);
            0
        }
        // A barrier has no count. In the ops of all shapes that are not listed above, counts may differ between ranks:
        // the backend checks them for each pair of ranks.
        _ => 0,
    };
    if let (true, ReduceOp::PreMulSum(factor)) = (op.reduces(), request.params.reduce) {
        mix(factor.to_bits());
    }
    let folded = (rest ^ rest >> 32) as u32;
    let (dtype, count, rest) = match request.identity() {
        None => (request.dtype().map_or(Fingerprint::NO_DTYPE, |d| d as u8), count, folded),
        Some(identity) => (Fingerprint::OWN_TYPE, count / identity.bytes() as u64, folded ^ identity.hash()),
    };
    let count = if op.is_uneven() { request.params.agreed_count() } else { count };
    Fingerprint {
        seq: request.seq as u32,
        // Sender and receiver of a message have the same fingerprint.
        op: if op.is_p2p() { OpKind::Send as u8 } else { op as u8 },
        dtype,
        reduce: if op.reduces() { request.params.reduce.code() } else { Fingerprint::NO_REDUCE },
        step: 0,
        count,
        root: match request.params.reduce {
            _ if op.is_rooted() => request.params.root,
            _ if Fingerprint::has_list(op) => list,
            ReduceOp::PreMulSum(factor) if op.reduces() => (factor as f32).to_bits(),
            _ => request.params.tag,
        },
        rest,
    }
}

/// Computes the fingerprint of a request with a sparse tensor. The fingerprint has a hash of the shape and of the
/// number of sparse dimensions, but not the number of entries, which may differ between ranks.
fn sparse_fingerprint(request: &Request, layout: &CooLayout) -> Fingerprint {
    let hash = layout.shape_hash();
    Fingerprint {
        seq: request.seq as u32,
        op: request.op as u8,
        dtype: request.dtype().map_or(Fingerprint::NO_DTYPE, |d| d as u8),
        reduce: request.params.reduce.code(),
        step: Fingerprint::SPARSE,
        count: 0,
        root: 0,
        rest: (hash ^ hash >> 32) as u32,
    }
}
