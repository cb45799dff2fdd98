//! Which device of each kind is a rank's own.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::DeviceRuntime;
use crate::Result;
use crate::types::{Device, DispatchKey};

/// The facts that decide which devices belong to a rank.
#[derive(Clone, Default)]
pub(crate) struct Seat {
    /// The device that the program bound the rank to.
    pub(crate) bound: Option<Device>,
    pub(crate) hints: Arc<BTreeMap<String, String>>,
    /// The rank in the first group.
    pub(crate) rank: u32,
}

impl Seat {
    /// The index of the rank's device among those of the runtime, which have this key and vendor slot; `None` if it is
    /// not decided.
    pub(crate) fn index(&self, of: (DispatchKey, u8), runtime: &dyn DeviceRuntime) -> Result<Option<u16>> {
        match self.bound {
            Some(device) if (device.key(), device.vendor()) == of => Ok(Some(device.index())),
            _ => runtime.default_index(&self.hints, self.rank),
        }
    }
}
