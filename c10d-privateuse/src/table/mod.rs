//! Reads a plugin's table, and validates all its fields before c10d uses anything in the table.

mod mappings;
mod memory;
mod offer;

use c10d_core::DispatchKey;

use crate::abi;
use crate::refusal::Refusal;
use memory::{PluginMemory, bad};
use offer::Offer;

/// A copy of a plugin's table, which the plugin cannot change.
#[derive(Clone)]
pub(crate) struct Table {
    pub(crate) minor: u32,
    pub(crate) version: String,
    pub(crate) device: Option<abi::Device>,
    pub(crate) collectives: Option<(abi::Collectives, Offer)>,
}

/// Reads and validates the table at this address. `note` is the name in the file's note.
pub(crate) fn read(plugin: *const abi::Plugin, note: &str) -> Result<Table, Refusal> {
    if plugin.is_null() {
        return Err(bad("its entry returned null: the plugin cannot work, and may have logged the reason"));
    }
    let memory = PluginMemory::now()?;
    let table = memory.copy(plugin, "c10d_plugin")?;
    let name = memory.text(table.name, table.name_len, "its name")?;
    if name != note {
        return Err(bad(format!("its name is {name:?} in its table, but {note:?} in its note")));
    }
    let version = memory.text(table.version, table.version_len, "its version")?;
    let device = if table.device.is_null() { None } else { Some(read_device(&memory, table.device)?) };
    let collectives =
        if table.collectives.is_null() { None } else { Some(read_collectives(&memory, table.collectives)?) };
    if device.is_none() && collectives.is_none() {
        return Err(bad("it has neither a device nor collectives"));
    }
    if let Some(key) = collectives.as_ref().and_then(|(_, offer)| offer.accelerator())
        && device.is_none_or(|d| d.retain.is_none() || device_key(&d) != Some(key))
    {
        let what = format!("its collectives serve {key}, but it has no device part for {key} with retain and release");
        return Err(bad(what));
    }
    Ok(Table { minor: table.abi_minor, version, device, collectives })
}

/// Returns the kind of device that a device part drives, or `None` if the ABI does not know the type.
pub(crate) fn device_key(device: &abi::Device) -> Option<DispatchKey> {
    match i32::try_from(device.device_type) {
        Ok(0) => Some(DispatchKey::PrivateUse1),
        Ok(code) => offer::key(code).filter(|key| *key != DispatchKey::Cpu),
        Err(_) => None,
    }
}

fn has_all(whose: &str, needed: &[(&str, bool)]) -> Result<(), Refusal> {
    match needed.iter().find(|(_, there)| !there) {
        Some((name, _)) => Err(bad(format!("{whose} no function {name}"))),
        None => Ok(()),
    }
}

fn read_device(memory: &PluginMemory, from: *const abi::Device) -> Result<abi::Device, Refusal> {
    let d = memory.copy(from, "its device")?;
    if device_key(&d).is_none() {
        return Err(bad(format!("its device is of type {}; only 0, 2 and 12 are possible", d.device_type)));
    }
    let needed = [
        ("count", d.count.is_some()),
        ("allocate", d.allocate.is_some()),
        ("free", d.free.is_some()),
        ("copy_in", d.copy_in.is_some()),
        ("copy_out", d.copy_out.is_some()),
        ("copy", d.copy.is_some()),
    ];
    has_all("its device has", &needed)?;
    let streams = [
        d.create_stream.is_some(),
        d.destroy_stream.is_some(),
        d.create_event.is_some(),
        d.destroy_event.is_some(),
        d.record.is_some(),
        d.wait.is_some(),
        d.query.is_some(),
    ];
    let together: [(&str, &[bool]); 4] = [
        ("streams and events", &streams),
        ("retain and release", &[d.retain.is_some(), d.release.is_some()]),
        ("allocate_host and free_host", &[d.allocate_host.is_some(), d.free_host.is_some()]),
        ("reduces and reduce", &[d.reduces.is_some(), d.reduce.is_some()]),
    ];
    for (what, there) in together {
        if there.iter().any(|t| *t != there[0]) {
            return Err(bad(format!("its device has some, but not all functions of {what}")));
        }
    }
    Ok(d)
}

fn read_collectives(
    memory: &PluginMemory,
    from: *const abi::Collectives,
) -> Result<(abi::Collectives, Offer), Refusal> {
    let c = memory.copy(from, "its collectives")?;
    let needed = [
        ("create_group", c.create_group.is_some()),
        ("destroy_group", c.destroy_group.is_some()),
        ("submit", c.submit.is_some()),
        ("abort", c.abort.is_some()),
    ];
    has_all("its collectives have", &needed)?;
    Ok((c, Offer::read(memory, &c)?))
}
