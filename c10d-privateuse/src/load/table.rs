//! A plugin's table, validated field by field before anything in it is used.
#![allow(unsafe_code)]

use c10d_core::ops::{OpKind, OpSet};
use c10d_core::{Capabilities, DTypeSet, DispatchKey};

use super::elf::NoteInfo;
use super::rule::{Refusal, Rule};
use super::space::Space;
use crate::abi::{self, Sized32, codes};

/// What a plugin offers, as a copy that it cannot change any more.
#[derive(Clone)]
pub(crate) struct Table {
    pub(crate) minor: u32,
    pub(crate) version: String,
    pub(crate) device: Option<abi::Device>,
    pub(crate) collectives: Option<(abi::Collectives, Offer)>,
}

/// What the collectives serve.
#[derive(Clone, Debug)]
pub(crate) struct Offer {
    pub(crate) keys: Vec<DispatchKey>,
    pub(crate) capabilities: Capabilities,
}

/// More kinds of devices there are not.
const MOST_ROWS: u32 = 16;
/// No version of a table will have more.
const MOST_BYTES: usize = 4096;

pub(crate) fn read(plugin: *const abi::Plugin, note: &NoteInfo) -> Result<Table, Refusal> {
    if plugin.is_null() {
        return Err(bad("its entry returned null: it cannot work at all"));
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
    let serves_device = collectives.as_ref().is_some_and(|(_, offer)| offer.keys.contains(&DispatchKey::PrivateUse1));
    if serves_device && device.is_none_or(|d| d.retain.is_none()) {
        return Err(bad(
            "its collectives serve a device of its own, but it has no device part with retain and release",
        ));
    }
    Ok(Table { minor: table.abi_minor, version, device, collectives })
}

fn bad(what: impl Into<String>) -> Refusal {
    Refusal::new(Rule::Table, what)
}

struct Look {
    space: Space,
}

impl Look {
    /// As much of a struct as both sides have; zeros behind it.
    fn copy<T: Sized32>(&self, from: *const T, what: &str) -> Result<T, Refusal> {
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

    /// The functions of tables are where code can be. Which words are functions is known by type: see `words`.
    fn functions<T: Sized32>(&self, value: &T, what: &str) -> Result<(), Refusal> {
        let skip = match what {
            "its device" => 8,
            "its collectives" => 16,
            _ => return Ok(()),
        };
        for at in (skip..size_of::<T>()).step_by(8) {
            // SAFETY: within the value; the tables consist of 8-byte function pointers from `skip` on (layout.rs).
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
        Ok((c, self.offer(&c)?))
    }

    fn offer(&self, c: &abi::Collectives) -> Result<Offer, Refusal> {
        let mut offer = Offer { keys: Vec::new(), capabilities: Capabilities::ALL };
        if c.capability_count == 0 || c.capability_count > MOST_ROWS {
            return Err(bad(format!("its collectives have {} rows of capabilities", c.capability_count)));
        }
        let mut at = c.capabilities;
        for _ in 0..c.capability_count {
            let row = self.copy(at, "a row of its capabilities")?;
            let key = match row.device_type {
                codes::DEVICE_CPU => DispatchKey::Cpu,
                codes::DEVICE_PRIVATE => DispatchKey::PrivateUse1,
                other => return Err(bad(format!("its collectives serve device type {other}; 1 and 12 are possible"))),
            };
            if offer.keys.contains(&key) {
                return Err(bad(format!("its collectives have two rows for {key}")));
            }
            offer.keys.push(key);
            narrow(&mut offer.capabilities, &row, key);
            at = at.wrapping_byte_add(row.struct_size as usize);
        }
        if offer.capabilities.ops == OpSet::NONE {
            return Err(bad("its collectives offer no op"));
        }
        Ok(offer)
    }
}

/// One backend has one set of capabilities: what all rows have, of the ops that there are on their devices.
fn narrow(have: &mut Capabilities, row: &abi::Capabilities, key: DispatchKey) {
    let lacks = |op: &OpKind| op.row().keys.contains(key) && row.ops & (1 << *op as u32) == 0;
    let missing: Vec<OpKind> = OpKind::ALL.iter().copied().filter(lacks).collect();
    have.ops = have.ops.without(&missing);
    have.moves = both(have.moves, codes::dtypes(row.moves));
    for (have, bits) in have.reduces.iter_mut().zip(row.reduces) {
        *have = both(*have, codes::dtypes(bits));
    }
}

fn both(a: DTypeSet, b: DTypeSet) -> DTypeSet {
    codes::dtypes(codes::bits(a) & codes::bits(b))
}
