//! Converts the capabilities of a backend to the form of the ABI.

use c10d_core::backend::{Capabilities, OpSet};
use c10d_core::{DispatchKey, OpKind};

use crate::abi::{self, codes};

/// The capabilities of a plugin's collectives, as rows of the ABI.
pub(super) struct CapabilityRows {
    pub(super) rows: Vec<abi::Capabilities>,
    /// The memory to which `by_op` of the rows points.
    _by_op: Box<[u32]>,
}

/// Makes one row for each of `keys` for which the ABI has a device type.
pub(super) fn rows(offers: &Capabilities, keys: &[DispatchKey]) -> CapabilityRows {
    let device_type = |key: &DispatchKey| match key {
        DispatchKey::Cpu => Some(codes::DEVICE_CPU),
        DispatchKey::Cuda => Some(codes::DEVICE_CUDA),
        DispatchKey::PrivateUse1 => Some(codes::DEVICE_PRIVATE),
        _ => None,
    };
    let has =
        |set: &OpSet| OpKind::ALL.iter().filter(|op| set.contains(**op)).fold(0, |bits, op| bits | 1 << *op as u32);
    let by_op: Box<[u32]> = offers.by_op.iter().map(|types| codes::bits(*types)).collect();
    let row = |device_type| abi::Capabilities {
        device_type,
        ops: has(&offers.ops),
        moves: codes::bits(offers.moves),
        reduces: offers.reduces.map(codes::bits),
        op_count: by_op.len() as u32,
        by_op: by_op.as_ptr(),
        ..abi::empty()
    };
    CapabilityRows { rows: keys.iter().filter_map(device_type).map(row).collect(), _by_op: by_op }
}

impl CapabilityRows {
    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}
