//! Which device of each kind belongs to a rank.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::DeviceRuntime;
use crate::Result;
use crate::types::{Device, DispatchKey};

/// The data that determine which devices belong to a rank.
#[derive(Clone, Default)]
pub(crate) struct Seat {
    /// The device to which the program bound the rank.
    pub(crate) bound: Option<Device>,
    pub(crate) hints: Arc<BTreeMap<String, String>>,
    /// The rank in the group that the builder made.
    pub(crate) rank: u32,
}

impl Seat {
    /// Returns the index of the rank's device among the runtime's devices. `of` is the dispatch key and the vendor's
    /// slot of these devices. `None` if the rank may use any of the devices.
    pub(crate) fn index(&self, of: (DispatchKey, u8), runtime: &dyn DeviceRuntime) -> Result<Option<u16>> {
        match self.bound {
            Some(device) if (device.key(), device.vendor()) == of => Ok(Some(device.index())),
            _ => runtime.default_index(&self.hints, self.rank),
        }
    }
}
