//! Device runtimes, each of which is opened once per process. A forked child opens its own runtimes, since a device's
//! handles belong to the process that opened the device.

use std::sync::Arc;

use crate::sync::Mutex;

use super::DeviceRegistration;
use crate::Result;
use crate::device::DeviceRuntime;
use crate::process::PerProcess;

type Opened = Vec<(&'static DeviceRegistration, Arc<dyn DeviceRuntime>)>;

static OPENED: PerProcess<Mutex<Opened>> = PerProcess::new();

/// Returns the runtime of this registration. The runtime is opened at the first call. If it cannot be opened, the next
/// call tries again.
pub(crate) fn open(registration: &'static DeviceRegistration) -> Result<Arc<dyn DeviceRuntime>> {
    let mut opened = OPENED.get().lock();
    if let Some((_, runtime)) = opened.iter().find(|(r, _)| std::ptr::eq(*r, registration)) {
        return Ok(runtime.clone());
    }
    let runtime = (registration.open)()?;
    opened.push((registration, runtime.clone()));
    Ok(runtime)
}
