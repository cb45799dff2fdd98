//! CUDA and NCCL that do what they are asked for, behind the traits: host memory plays the device's, and the group's CPU
//! backend does the collectives. It is the fake library, called from Rust instead of through the loader and the bindings.

mod cuda;
mod nccl;
mod strict;
mod suite;

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use c10d_core::backend::{Backend, DeviceRegistration, GroupInit, Provider, Registration};
use c10d_core::sync::Mutex;
use c10d_core::{DispatchKey, Error, Result};
use c10d_fake_nccl::Cpu;

use self::cuda::FakeCuda;
use self::nccl::FakeNccl;
use crate::backend::Nccl;
use crate::start::Facts;

/// The backend over the fakes, and their devices. The group must have a CPU backend.
static PROVIDER: Provider = Provider {
    source: "executing",
    backends: &[Registration {
        name: "executing",
        keys: &[DispatchKey::Cuda],
        priority: 100,
        probe: &|| Ok(()),
        create: &create,
    }],
    devices: &[DeviceRegistration { name: "executing", key: DispatchKey::Cuda, open: &|| Ok(Arc::new(FakeCuda)) }],
    ..Provider::EMPTY
};

/// The CPU backends that were given away, by group and rank.
static GIVEN: Mutex<BTreeMap<(String, u32), Weak<dyn Backend>>> = Mutex::new(BTreeMap::new());

fn create(init: &GroupInit) -> Result<Arc<dyn Backend>> {
    let cpu = init.cpu.ok_or_else(|| Error::invalid("a group without the CPU backend that does the collectives"))?;
    let cpu: Arc<dyn Backend> = init.own_backend(cpu, "executing")?;
    GIVEN.lock().insert((init.group.to_string(), init.rank), Arc::downgrade(&cpu));
    let nccl = FakeNccl(Cpu::given(cpu, init.rank, init.size));
    let device = (init.rank % u32::from(cuda::count()?)) as u16;
    Ok(Arc::new(Nccl::connect(Arc::new(nccl), Arc::new(FakeCuda), Facts::of(init, device)?)?))
}
