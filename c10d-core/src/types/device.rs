//! Devices. The codes of their kinds are those of DLPack.

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

/// Where a span lives: kind, vendor (PrivateUse1 only; 0 is the default slot) and index.
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

    /// CUDA device `index`.
    pub const fn cuda(index: u16) -> Device {
        Device { kind: DeviceKind::Cuda, vendor: 0, index }
    }

    /// Device `index` of a vendor's accelerator; `vendor` is the slot that the vendor's crate was given (0 = default).
    pub const fn private(vendor: u8, index: u16) -> Device {
        Device { kind: DeviceKind::PrivateUse1, vendor, index }
    }

    /// The kind.
    #[inline]
    pub const fn kind(self) -> DeviceKind {
        self.kind
    }

    /// The vendor's slot; 0 except on PrivateUse1.
    #[inline]
    pub const fn vendor(self) -> u8 {
        self.vendor
    }

    /// The index among the devices of that kind.
    pub const fn index(self) -> u16 {
        self.index
    }

    /// The dispatch key of a dense buffer on this device.
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
