//! The GPU of a rank if the group's builder was given no device.

use std::collections::BTreeMap;

use c10d_core::{Error, Result};

const HINT: &str = "nccl.device";

/// Returns the GPU that the hint names. Without the hint, returns the launcher's local rank (`LOCAL_RANK`) modulo the
/// number of devices, and without a local rank, `rank` modulo the number of devices.
pub(super) fn default_index(hints: &BTreeMap<String, String>, rank: u32, count: u16) -> Result<u16> {
    if let Some(text) = hints.get(HINT) {
        let index = text.parse().ok().filter(|index| *index < count);
        return index.ok_or_else(|| Error::invalid(format!("{HINT} is {text:?}; there are {count} CUDA devices")));
    }
    let local = std::env::var("LOCAL_RANK").ok().and_then(|text| text.parse::<u32>().ok());
    Ok((local.unwrap_or(rank) % u32::from(count)) as u16)
}
