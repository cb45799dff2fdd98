//! A plugin's table, validated field by field before anything in it is used.
#![allow(unsafe_code)]

use c10d_core::DispatchKey;

use super::elf::NoteInfo;
use super::offer::{self, Offer};
use super::rule::{Refusal, Rule};
use super::space::Space;
use crate::abi::{self, Sized32};

/// What a plugin offers, as a copy that it cannot change any more.
#[derive(Clone)]
pub(crate) struct Table {
    pub(crate) minor: u32,
    pub(crate) version: String,
    pub(crate) device: Option<abi::Device>,
    pub(crate) collectives: Option<(abi::Collectives, Offer)>,
}

/// No version of a table will have more.
const MOST_BYTES: usize = 4096;

pub(crate) fn read(plugin: *const abi::Plugin, note: &NoteInfo) -> Result<Table, Refusal> {
    if plugin.is_null() {
        return Err(bad("its entry returned null: it cannot work at all, and may have told the log why"));
    }
    let look = Look { space: Space::now()? };
    let table = look.copy(plugin, "c10d_plugin")?;
    let name = look.text(table.name, table.name_len, "its name")?;
    if name != note.name {
        return Err(bad(format!("its table calls it {name:?}, its note {:?}", note.name)));
    }
    let version = look.text(table.version, table.version_len, "its version")?;
    let device = if table.device.is_null() { None } else { Some(look.device(table.device)?) };
    let collectives = if table.collectives.is_null() { None } else { Some(look.collectives(table.collectives)?) };
    if device.is_none() && collectives.is_none() {
        return Err(bad("it has neither a device nor collectives"));
    }
    if let Some(key) = collectives.as_ref().and_then(|(_, offer)| offer.accelerator())
        && device.is_none_or(|d| d.retain.is_none() || device_key(&d) != Some(key))
    {
        let what = format!("its collectives serve {key}, but it has no device part for that with retain and release");
        return Err(bad(what));
    }
    Ok(Table { minor: table.abi_minor, version, device, collectives })
}

pub(super) fn bad(what: impl Into<String>) -> Refusal {
    Refusal::new(Rule::Table, what)
}

/// The kind of device that a device part drives.
pub(crate) fn device_key(device: &abi::Device) -> Option<DispatchKey> {
    match i32::try_from(device.device_type) {
        Ok(0) => Some(DispatchKey::PrivateUse1),
        Ok(code) => offer::key(code).filter(|key| *key != DispatchKey::Cpu),
        Err(_) => None,
    }
}

/// Looks at what is at the plugin's addresses.
pub(super) struct Look {
    space: Space,
}

impl Look {
    pub(super) fn readable(&self, address: usize, len: usize) -> bool {
        self.space.readable(address, len)
    }

    /// As much of a struct as both sides have; zeros behind it.
    pub(super) fn copy<T: Sized32>(&self, from: *const T, what: &str) -> Result<T, Refusal> {
        let address = from as usize;
        if !address.is_multiple_of(align_of::<T>()) || !self.space.readable(address, 4) {
            return Err(bad(format!("{what} is at {from:p}, where nothing can be")));
        }
        // SAFETY: aligned and readable, as just seen.
        let size = unsafe { from.cast::<u32>().read() } as usize;
        if size < T::LEAST || size > MOST_BYTES {
            return Err(bad(format!("{what} says that it has {size} bytes; version 1.0 has {}", T::LEAST)));
        }
        if !self.space.readable(address, size) {
            return Err(bad(format!("{what} says that it has {size} bytes, which are not there")));
        }
        let mut value = abi::empty::<T>();
        // SAFETY: readable for `size`, and no more than the value has is copied; what is copied are numbers and
        // pointers, all of whose bytes are valid.
        unsafe {
            let len = size.min(size_of::<T>());
            std::ptr::copy_nonoverlapping(from.cast::<u8>(), (&raw mut value).cast::<u8>(), len);
        }
        self.functions(&value, what)?;
        Ok(value)
    }

    /// The functions of tables are where code can be.
    fn functions<T: Sized32>(&self, value: &T, what: &str) -> Result<(), Refusal> {
        for at in (T::FUNCTIONS..size_of::<T>()).step_by(8) {
            // SAFETY: within the value, which consists of 8-byte function pointers from there on (layout.rs).
            let address = unsafe { (&raw const *value).cast::<u8>().add(at).cast::<usize>().read() };
            if address != 0 && !self.space.executable(address) {
                return Err(bad(format!("{what}: the function at byte {at} is at {address:#x}, where no code is")));
            }
        }
        Ok(())
    }

    fn text(&self, data: *const std::ffi::c_char, len: u64, what: &str) -> Result<String, Refusal> {
        let size = usize::try_from(len).unwrap_or(usize::MAX);
        if size > 256 || (size > 0 && !self.space.readable(data as usize, size)) {
            return Err(bad(format!("{what} is {len} bytes at {data:p}")));
        }
        // SAFETY: readable, as just seen, or empty.
        Ok(if size == 0 { String::new() } else { unsafe { abi::text(data, len) }.into_owned() })
    }

    fn device(&self, from: *const abi::Device) -> Result<abi::Device, Refusal> {
        let d = self.copy(from, "its device")?;
        if device_key(&d).is_none() {
            return Err(bad(format!("its device is of type {}; 2 and 12 are possible", d.device_type)));
        }
        let needed = [
            ("count", d.count.is_some()),
            ("allocate", d.allocate.is_some()),
            ("free", d.free.is_some()),
            ("copy_in", d.copy_in.is_some()),
            ("copy_out", d.copy_out.is_some()),
            ("copy", d.copy.is_some()),
        ];
        if let Some((name, _)) = needed.iter().find(|(_, there)| !there) {
            return Err(bad(format!("its device has no function {name}")));
        }
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

    fn collectives(&self, from: *const abi::Collectives) -> Result<(abi::Collectives, Offer), Refusal> {
        let c = self.copy(from, "its collectives")?;
        let needed = [
            ("create_group", c.create_group.is_some()),
            ("destroy_group", c.destroy_group.is_some()),
            ("submit", c.submit.is_some()),
            ("abort", c.abort.is_some()),
        ];
        if let Some((name, _)) = needed.iter().find(|(_, there)| !there) {
            return Err(bad(format!("its collectives have no function {name}")));
        }
        Ok((c, Offer::read(self, &c)?))
    }
}
