//! The plugin's entry. It makes the plugin's tables from a registration.
#![allow(unsafe_code)]

use std::sync::OnceLock;

use c10d_core::backend::Capabilities;
use c10d_core::{Error, Result};

use super::catch::caught;
use super::exported::{Exported, Tables};
use super::store::HostTable;
use super::{collectives, device, rows};
use crate::abi::{self, Sized32};

/// Returns the plugin's table, which is made at the first call. If the provider panics, or lacks the exported backend
/// or device, writes the reason to the host's log and returns null.
///
/// # Safety
/// `host` is null or the table of the host.
pub unsafe fn entry<E: Exported>(host: *const abi::Host, offers: Option<Capabilities>) -> *const abi::Plugin {
    if host.is_null() {
        return std::ptr::null();
    }
    let made = caught(|| plugin::<E>(offers)).flatten();
    made.unwrap_or_else(|e| {
        // SAFETY: the caller guarantees that `host` is the host's table, and the check above ensures that it is not
        // null.
        unsafe { HostTable::new(host) }.error(&e.report().what);
        std::ptr::null()
    })
}

fn plugin<E: Exported>(offers: Option<Capabilities>) -> Result<*const abi::Plugin> {
    let tables = E::statics().tables.get_or_init(|| make::<E>(offers));
    if tables.device.is_none() && tables.collectives.is_none() {
        let what = if offers.is_some() { "backend or device" } else { "device" };
        let source = E::provider().source;
        return Err(Error::unsupported(format!("provider {source:?} has no {what} {:?}", E::NAME)));
    }
    let pointer = |table: Option<&abi::Device>| table.map_or(std::ptr::null(), std::ptr::from_ref);
    Ok(std::ptr::from_ref(tables.plugin.get_or_init(|| abi::Plugin {
        abi_minor: u32::from(abi::MINOR),
        name: E::NAME.as_ptr().cast(),
        name_len: E::NAME.len() as u64,
        version: E::VERSION.as_ptr().cast(),
        version_len: E::VERSION.len() as u64,
        device: pointer(tables.device.as_ref()),
        collectives: tables.collectives.as_ref().map_or(std::ptr::null(), std::ptr::from_ref),
        ..abi::empty()
    })))
}

fn make<E: Exported>(offers: Option<Capabilities>) -> Tables {
    let provider = E::provider();
    let device = provider.devices.iter().any(|d| d.name == E::NAME).then(device::table::<E>);
    let backend = offers.and_then(|offers| Some((offers, provider.backends.iter().find(|r| r.name == E::NAME)?)));
    let rows = backend.map(|(offers, r)| rows::rows(&offers, r.keys)).filter(|rows| !rows.is_empty());
    let collectives = rows.as_ref().map(collectives::table::<E>);
    Tables { device, _rows: rows, collectives, plugin: OnceLock::new() }
}

const _: () = assert!(<abi::Plugin as Sized32>::LEAST == size_of::<abi::Plugin>());

#[cfg(test)]
mod tests {
    use std::ffi::c_char;

    use c10d_core::backend::Provider;
    use c10d_core::sync::Mutex;

    use super::*;
    use crate::export::Statics;

    static TOLD: Mutex<Vec<String>> = Mutex::new(Vec::new());

    unsafe extern "C" fn log(_: *const abi::Host, _: u32, text: *const c_char, len: u64) {
        // SAFETY: by the ABI, the text has `len` bytes.
        TOLD.lock().push(unsafe { abi::text(text, len) }.into_owned());
    }

    struct Misspelt;
    struct Panics;

    impl Exported for Misspelt {
        const NAME: &'static str = "acmee";
        const VERSION: &'static str = "1";
        fn provider() -> &'static Provider {
            static PROVIDER: Provider = Provider { source: "acme's crate", ..Provider::EMPTY };
            &PROVIDER
        }
        fn statics() -> &'static Statics {
            static STATICS: Statics = Statics::new();
            &STATICS
        }
    }

    impl Exported for Panics {
        const NAME: &'static str = "acme";
        const VERSION: &'static str = "1";
        fn provider() -> &'static Provider {
            panic!("there is no driver")
        }
        fn statics() -> &'static Statics {
            static STATICS: Statics = Statics::new();
            &STATICS
        }
    }

    #[test]
    fn the_log_says_why_there_is_no_table() {
        let host = abi::Host { log: Some(log), ..abi::empty() };
        // SAFETY: `host` is a valid table.
        let tables = unsafe { [entry::<Misspelt>(&host, None), entry::<Panics>(&host, None)] };
        assert!(tables.iter().all(|table| table.is_null()));
        let told = TOLD.lock();
        assert_eq!(told[0], "provider \"acme's crate\" has no device \"acmee\"");
        assert!(told[1].contains("there is no driver"), "{}", told[1]);
        assert_eq!(told.len(), 2);
    }
}
