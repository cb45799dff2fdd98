//! The plugin's side of the ABI, for plugins in Rust. A plugin's tables are made from the registrations of a vendor's
//! crate.
//!
//! Use the macros in a separate small crate, whose only crate type is `cdylib`: two libraries that export the entry
//! function cannot be linked into one program.

mod catch;
mod collectives;
mod device;
mod entry;
mod exported;
mod group;
mod reporter;
mod rows;
mod store;
mod watched;
mod work;

pub use entry::entry;
pub use exported::{Exported, Statics};

/// Exports the backend that has this name in a [`Provider`](c10d_core::backend::Provider) as a plugin. If the provider
/// also has a device with this name, the device is exported, too. The third argument is the
/// [`Capabilities`](c10d_core::backend::Capabilities) of the backend; without it, the plugin offers every op for every
/// element type.
///
/// A panic of the backend becomes an error of the operation.
///
/// ```no_run
/// # use c10d_core::{DispatchKey, backend::{Provider, Registration}};
/// # static PROVIDER: Provider = Provider::EMPTY;
/// c10d_privateuse::export_backend!("acme", PROVIDER);
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! export_backend {
    ($name:literal, $provider:path) => {
        $crate::export_backend!($name, $provider, $crate::__private::Capabilities::ALL);
    };
    ($name:literal, $provider:path, $capabilities:expr) => {
        $crate::__export!($name, $provider, Some($capabilities));
    };
}

/// Exports the device that has this name in a [`Provider`](c10d_core::backend::Provider) as a plugin. Every op works on
/// the buffers of this device: c10d copies them through host memory.
///
/// A panic of the device becomes an error.
///
/// ```no_run
/// # static PROVIDER: c10d_core::backend::Provider = c10d_core::backend::Provider::EMPTY;
/// c10d_privateuse::export_device!("acme", PROVIDER);
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! export_device {
    ($name:literal, $provider:path) => {
        $crate::__export!($name, $provider, None);
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __export {
    ($name:literal, $provider:path, $capabilities:expr) => {
        #[allow(unsafe_code)]
        const _: () = {
            struct Plugin;
            static STATICS: $crate::__private::Statics = $crate::__private::Statics::new();

            impl $crate::__private::Exported for Plugin {
                const NAME: &'static str = $name;
                const VERSION: &'static str = env!("CARGO_PKG_VERSION");
                fn provider() -> &'static $crate::__private::Provider {
                    &$provider
                }
                fn statics() -> &'static $crate::__private::Statics {
                    &STATICS
                }
            }

            #[used]
            #[unsafe(link_section = ".note.c10d")]
            static NOTE: $crate::abi::Note = $crate::abi::note($name);

            /// The entry function of `c10d_plugin.h`.
            #[unsafe(no_mangle)]
            pub extern "C" fn c10d_plugin_v1(host: *const $crate::abi::Host) -> *const $crate::abi::Plugin {
                // SAFETY: by the ABI, `host` is the table of the host.
                unsafe { $crate::__private::entry::<Plugin>(host, $capabilities) }
            }
        };
    };
}
