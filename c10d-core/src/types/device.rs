//! Devices. The codes of their kinds are the device type codes of DLPack.

use super::{DispatchKey, vendor};

/// The kind of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum DeviceKind {
    /// Host memory.
    Cpu = 1,
    /// An NVIDIA GPU.
    Cuda = 2,
    /// A vendor's own accelerator.
    PrivateUse1 = 12,
}

/// The device that has the memory of a span. `vendor` is a slot: the number that this process gives to a vendor of
/// PrivateUse1 devices. Slot 0, the default slot, names no vendor: the group's backend for PrivateUse1 handles the
/// buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Device {
    kind: DeviceKind,
    vendor: u8,
    index: u16,
}

impl Device {
    /// The host.
    pub const CPU: Device = Device { kind: DeviceKind::Cpu, vendor: 0, index: 0 };

    /// Returns CUDA device `index`.
    pub const fn cuda(index: u16) -> Device {
        Device { kind: DeviceKind::Cuda, vendor: 0, index }
    }

    /// Returns device `index` of a vendor's accelerator. `vendor` is the slot that [`vendor`](super::vendor()) gave to
    /// the vendor's crate, or 0 for the default slot.
    pub const fn private(vendor: u8, index: u16) -> Device {
        Device { kind: DeviceKind::PrivateUse1, vendor, index }
    }

    /// Returns the kind of the device.
    #[inline]
    pub const fn kind(self) -> DeviceKind {
        self.kind
    }

    /// Returns the vendor's slot, which is 0 for all kinds except PrivateUse1.
    #[inline]
    pub const fn vendor(self) -> u8 {
        self.vendor
    }

    /// Returns the index among the devices of the same kind and vendor.
    pub const fn index(self) -> u16 {
        self.index
    }

    /// Returns the dispatch key of a dense buffer on this device.
    #[inline]
    pub const fn key(self) -> DispatchKey {
        match self.kind {
            DeviceKind::Cpu => DispatchKey::Cpu,
            DeviceKind::Cuda => DispatchKey::Cuda,
            DeviceKind::PrivateUse1 => DispatchKey::PrivateUse1,
        }
    }
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.kind {
            DeviceKind::Cpu => f.write_str("cpu"),
            DeviceKind::Cuda => write!(f, "cuda:{}", self.index),
            DeviceKind::PrivateUse1 => {
                let name = vendor::vendor_name(self.vendor).unwrap_or_else(vendor::private_use1_name);
                write!(f, "{name}:{}", self.index)
            }
        }
    }
}
