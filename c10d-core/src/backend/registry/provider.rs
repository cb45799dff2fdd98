//! Providers: the registrations of a crate.

use std::sync::Arc;

use super::{InitMethod, PluginLoader};
use crate::Result;
use crate::backend::{Backend, GroupInit, Job, KernelContext};
use crate::catalog::OpKind;
use crate::device::DeviceRuntime;
use crate::types::DispatchKey;

/// Everything that one crate registers: backends, devices, kernels, init methods and settings.
///
/// A crate has one static provider and submits it with [`submit!`](crate::submit):
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
    /// The crate's backends.
    pub backends: &'static [Registration],
    /// The crate's devices. Ops on their dense buffers can run through host memory and the CPU backend.
    pub devices: &'static [DeviceRegistration],
    /// The crate's kernels. Most crates have none.
    pub kernels: &'static [KernelRow],
    /// The hints that the crate's backends and devices read. Each begins with the name of a backend or device and a
    /// dot. A hint that no provider lists causes a warning. If no hint is listed for a backend or device, its hints are
    /// not checked.
    pub hints: &'static [&'static str],
    /// The environment variables `C10D_..` that the crate reads. A `C10D_..` variable that no provider lists causes a
    /// warning.
    pub variables: &'static [&'static str],
    /// The crate's init methods.
    pub init_methods: &'static [InitMethod],
    /// Backends that are not in this build: the name of each, with advice on how to add it to the build. If a program
    /// asks for such a backend, the error contains the advice.
    pub absent: &'static [(&'static str, &'static str)],
    /// The function that loads plugins. Only one crate of a program has it.
    pub load_plugins: Option<PluginLoader>,
}

impl Provider {
    /// An empty provider, for the fields that a crate does not use.
    pub const EMPTY: Provider = Provider {
        source: "",
        backends: &[],
        devices: &[],
        kernels: &[],
        hints: &[],
        variables: &[],
        init_methods: &[],
        absent: &[],
        load_plugins: None,
    };
}

/// The registration of a kind of devices.
pub struct DeviceRegistration {
    /// The name that backend maps use for the device: `cuda`, or a vendor's own name.
    pub name: &'static str,
    /// The dispatch key of dense buffers: CUDA, or PrivateUse1 for a vendor's devices.
    pub key: DispatchKey,
    /// Opens the runtime, or returns an error that says why that is not possible. After it has succeeded, it is not
    /// called again in the same process.
    pub open: &'static (dyn Fn() -> Result<Arc<dyn DeviceRuntime>> + Sync),
}

/// The registration of a backend.
pub struct Registration {
    /// The name that backend maps use.
    pub name: &'static str,
    /// The dispatch keys that the backend serves.
    pub keys: &'static [DispatchKey],
    /// The preference: if a map names no backend for a device, the backend with the highest priority is chosen.
    pub priority: u16,
    /// Returns `Ok` if the backend could work on this machine, else an error that says why not. The function must be
    /// fast and have no side effects.
    pub probe: &'static (dyn Fn() -> Result + Sync),
    /// Makes one rank's backend for a group. The function blocks until the ranks are connected, at most until
    /// `init.deadline`.
    pub create: &'static (dyn Fn(&GroupInit) -> Result<Arc<dyn Backend>> + Sync),
}

/// A kernel: a function that gets a validated, numbered call and must complete it.
pub type Kernel = fn(KernelContext<'_>, Job);

/// A row of the registration table.
#[derive(Clone, Copy)]
pub struct KernelRow {
    /// The op.
    pub op: OpKind,
    /// The dispatch key.
    pub key: DispatchKey,
    /// If this field is `Some`, the row is used only in groups in which this backend serves the key. In these groups,
    /// the row has precedence over a row with `None`.
    pub backend: Option<&'static str>,
    /// The kernel.
    pub kernel: Kernel,
}

/// A provider that was registered by [`submit!`](crate::submit).
pub struct Submitted(pub &'static Provider);

inventory::collect!(Submitted);

/// Registers a crate's [`Provider`](crate::backend::Provider) at link time.
///
/// The linker removes a crate to which no code refers. So users of the crate write `use the_crate as _;` or pass the
/// provider to the group builder.
#[macro_export]
macro_rules! submit {
    ($provider:expr) => {
        $crate::__private::inventory::submit! { $crate::backend::Submitted(&$provider) }
    };
}

/// Registers a crate's devices under a name, for a crate that has nothing else to register. The macro makes a
/// [`Provider`](crate::backend::Provider) called `PROVIDER`. The arguments are the name, and an expression that makes
/// the [`DeviceRuntime`](crate::device::DeviceRuntime).
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
