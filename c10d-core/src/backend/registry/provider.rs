//! What a crate registers.

use std::sync::Arc;

use super::{InitMethod, PluginLoader};
use crate::Result;
use crate::backend::{Backend, GroupInit, Job, KernelContext};
use crate::catalog::OpKind;
use crate::device::DeviceRuntime;
use crate::types::DispatchKey;

/// Everything one crate brings: its backends and its kernels.
///
/// One static per crate, submitted with [`submit!`](crate::submit):
///
/// ```
/// use c10d_core::backend::Provider;
///
/// pub static PROVIDER: Provider = Provider { source: env!("CARGO_PKG_NAME"), ..Provider::EMPTY };
/// c10d_core::submit!(PROVIDER);
/// ```
pub struct Provider {
    /// The crate's name, for errors and for `c10d info`.
    pub source: &'static str,
    /// Its backends.
    pub backends: &'static [Registration],
    /// Its devices, on which every op works through the CPU backend.
    pub devices: &'static [DeviceRegistration],
    /// Its kernels; most crates have none, since core has those of all dense rows.
    pub kernels: &'static [KernelRow],
    /// The hints that its backends and devices read, each beginning with the name of one of them and a dot. Others that
    /// begin so are said to be read by nobody; a backend whose crate lists none may have any.
    pub hints: &'static [&'static str],
    /// The environment variables of the form `C10D_..` that it reads. Those that no provider lists are said to be read by
    /// nobody.
    pub variables: &'static [&'static str],
    /// Its init methods.
    pub init_methods: &'static [InitMethod],
    /// What loads plugins, in the one crate that does.
    pub load_plugins: Option<PluginLoader>,
}

impl Provider {
    /// Nothing, for the fields that a crate does not use.
    pub const EMPTY: Provider = Provider {
        source: "",
        backends: &[],
        devices: &[],
        kernels: &[],
        hints: &[],
        variables: &[],
        init_methods: &[],
        load_plugins: None,
    };
}

/// A kind of device by name.
pub struct DeviceRegistration {
    /// The name that backend maps use for the device: `cuda`, or a vendor's own.
    pub name: &'static str,
    /// CUDA, or PrivateUse1 for a vendor's own.
    pub key: DispatchKey,
    /// Gives the runtime, or says why it cannot be had here. Called at most until it first succeeds.
    pub open: &'static (dyn Fn() -> Result<Arc<dyn DeviceRuntime>> + Sync),
}

/// A backend by name.
pub struct Registration {
    /// The name that backend maps use.
    pub name: &'static str,
    /// The keys that it serves.
    pub keys: &'static [DispatchKey],
    /// Where a map names no backend for a device, the highest priority is taken.
    pub priority: u16,
    /// Whether it could work on this machine, else why not. Must be cheap and free of side effects.
    pub probe: &'static (dyn Fn() -> Result + Sync),
    /// Makes one rank's backend for a group; blocks until the ranks are connected, by `init.deadline` at latest.
    pub create: &'static (dyn Fn(&GroupInit) -> Result<Arc<dyn Backend>> + Sync),
}

/// A kernel: takes a call that was validated and numbered, and sees to it.
pub type Kernel = fn(KernelContext<'_>, Job);

/// A row of the registration table.
#[derive(Clone, Copy)]
pub struct KernelRow {
    /// The op.
    pub op: OpKind,
    /// The key.
    pub key: DispatchKey,
    /// `Some(name)`: only for groups in which the key is served by this backend, where it beats the row with `None`.
    pub backend: Option<&'static str>,
    /// The function.
    pub kernel: Kernel,
}

/// What [`submit!`](crate::submit) collects.
pub struct Submitted(pub &'static Provider);

inventory::collect!(Submitted);

/// Registers a crate's [`Provider`](crate::backend::Provider) at link time.
///
/// A crate that nobody names is not linked at all: its users write `use the_crate as _;` or hand the provider to the
/// group builder.
#[macro_export]
macro_rules! submit {
    ($provider:expr) => {
        $crate::__private::inventory::submit! { $crate::backend::Submitted(&$provider) }
    };
}

/// Registers a crate's devices under a name, as a [`Provider`](crate::backend::Provider) called `PROVIDER`, where that is
/// all that the crate brings. Takes the name, and what makes the [`DeviceRuntime`](crate::device::DeviceRuntime).
///
/// ```
/// # use c10d_core::{Error, Result, device::{DevicePtr, DeviceRuntime, Stream}};
/// # fn absent() -> Error { Error::invalid("this device is only there to be registered") }
/// struct Acme;
/// # unsafe impl DeviceRuntime for Acme {
/// #     fn name(&self) -> &'static str { "acme" }
/// #     fn allocate(&self, _: u16, _: usize) -> Result<*mut ()> { Err(absent()) }
/// #     unsafe fn free(&self, _: u16, _: *mut ()) {}
/// #     unsafe fn copy_in(&self, _: u16, _: Stream, _: DevicePtr, _: *const u8, _: usize) -> Result { Err(absent()) }
/// #     unsafe fn copy_out(&self, _: u16, _: Stream, _: *mut u8, _: DevicePtr, _: usize) -> Result { Err(absent()) }
/// #     unsafe fn copy(&self, _: u16, _: Stream, _: DevicePtr, _: DevicePtr, _: usize) -> Result { Err(absent()) }
/// # }
/// c10d_core::submit_device!("acme", Acme);
/// # fn main() -> Result {
/// let acme = c10d_core::backend::Registry::collect(&[&PROVIDER])?.device("acme")?;
/// assert_eq!(acme.count()?, 1);
/// # Ok(()) }
/// ```
#[macro_export]
macro_rules! submit_device {
    ($name:literal, $runtime:expr) => {
        #[doc = concat!("The registration of the devices `", $name, "`.")]
        pub static PROVIDER: $crate::backend::Provider = $crate::backend::Provider {
            source: env!("CARGO_PKG_NAME"),
            devices: &[$crate::backend::DeviceRegistration {
                name: $name,
                key: $crate::DispatchKey::PrivateUse1,
                open: &|| Ok(::std::sync::Arc::new($runtime)),
            }],
            ..$crate::backend::Provider::EMPTY
        };
        $crate::submit!(PROVIDER);
    };
}
