//! The capabilities of a plugin's collectives, for each kind of device.
#![allow(unsafe_code)]

use c10d_core::backend::{Capabilities, OpSet};
use c10d_core::{DispatchKey, OpKind};

use super::memory::{PluginMemory, bad};
use crate::abi::{self, codes};
use crate::refusal::Refusal;

/// The kinds of devices that the collectives serve, and their capabilities on each.
#[derive(Clone, Debug)]
pub(crate) struct Offer {
    pub(crate) rows: Vec<(DispatchKey, Capabilities)>,
}

/// The largest number of ops in any version of the ABI.
const MOST_OPS: u32 = 64;

impl Offer {
    pub(crate) fn keys(&self) -> impl Iterator<Item = DispatchKey> {
        self.rows.iter().map(|(key, _)| *key)
    }

    /// Returns the kind of device that the collectives serve besides host memory, if there is one.
    pub(crate) fn accelerator(&self) -> Option<DispatchKey> {
        self.keys().find(|key| *key != DispatchKey::Cpu)
    }

    pub(super) fn read(memory: &PluginMemory, c: &abi::Collectives) -> Result<Offer, Refusal> {
        let mut offer = Offer { rows: Vec::new() };
        if c.capability_count == 0 {
            return Err(bad("its collectives have no rows of capabilities"));
        }
        let mut at = c.capabilities;
        for _ in 0..c.capability_count {
            let row = memory.copy(at, "a row of its capabilities")?;
            let key = key(row.device_type).ok_or_else(|| {
                bad(format!("its collectives serve device type {}; only 1, 2 and 12 are possible", row.device_type))
            })?;
            if offer.keys().any(|k| k == key) {
                return Err(bad(format!("its collectives have two rows for {key}")));
            }
            if key != DispatchKey::Cpu && offer.accelerator().is_some() {
                return Err(bad("its collectives serve two kinds of devices; a plugin drives one"));
            }
            let capabilities = capabilities(memory, &row)?;
            if capabilities.ops == OpSet::NONE {
                return Err(bad(format!("its collectives offer no op on {key}")));
            }
            offer.rows.push((key, capabilities));
            at = at.wrapping_byte_add(row.struct_size as usize);
        }
        Ok(offer)
    }
}

/// Returns the dispatch key of a kind of device, or `None` if the ABI does not know the type.
pub(super) fn key(device_type: i32) -> Option<DispatchKey> {
    match device_type {
        codes::DEVICE_CPU => Some(DispatchKey::Cpu),
        codes::DEVICE_CUDA => Some(DispatchKey::Cuda),
        codes::DEVICE_PRIVATE => Some(DispatchKey::PrivateUse1),
        _ => None,
    }
}

fn capabilities(memory: &PluginMemory, row: &abi::Capabilities) -> Result<Capabilities, Refusal> {
    let missing: Vec<OpKind> = OpKind::ALL.iter().copied().filter(|op| row.ops & (1 << *op as u32) == 0).collect();
    let mut offers = Capabilities {
        ops: OpSet::ALL.without(&missing),
        moves: codes::dtypes(row.moves),
        reduces: row.reduces.map(codes::dtypes),
        ..Capabilities::ALL
    };
    if row.by_op.is_null() {
        return Ok(offers);
    }
    let place = row.by_op as usize;
    if row.op_count > MOST_OPS || !place.is_multiple_of(4) || !memory.readable(place, row.op_count as usize * 4) {
        return Err(bad(format!("`by_op` has {} entries at {place:#x}: too many, or not readable", row.op_count)));
    }
    for (i, types) in offers.by_op.iter_mut().enumerate().take(row.op_count as usize) {
        // SAFETY: the checks above ensure that the list is aligned and readable, and that the index is in range.
        *types = codes::dtypes(unsafe { row.by_op.add(i).read() });
    }
    Ok(offers)
}
