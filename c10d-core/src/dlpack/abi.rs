//! DLPack's structs. Codes are integers instead of enums, since another library may write any value.

use std::ffi::c_void;

use crate::types::{DType, Device, DeviceKind};
use crate::{Error, Result};

/// `DLPackVersion`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Version {
    /// The major version; 1 is supported.
    pub major: u32,
    /// The minor version, which changes with additions such as new element types.
    pub minor: u32,
}

impl Version {
    /// The version of the tensors that this library exports.
    pub const OURS: Version = Version { major: 1, minor: 2 };
}

/// `DLDevice`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct DlDevice {
    /// `DLDeviceType`, e.g. 1 for host memory.
    pub kind: i32,
    /// The index of the device among those of its kind.
    pub index: i32,
}

/// `DLDataType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct DataType {
    /// `DLDataTypeCode`, e.g. 2 for IEEE floats.
    pub code: u8,
    /// The number of bits of each value.
    pub bits: u8,
    /// The number of values per element; always 1 here.
    pub lanes: u16,
}

/// `DLTensor`.
#[derive(Debug)]
#[repr(C)]
pub struct Tensor {
    /// The host address, device address or vendor's handle.
    pub data: *mut c_void,
    /// The device that has the data.
    pub device: DlDevice,
    /// The number of dimensions.
    pub ndim: i32,
    /// The element type.
    pub dtype: DataType,
    /// The sizes of the dimensions.
    pub shape: *mut i64,
    /// The distance between neighbours in each dimension, in elements. Null means that the tensor is contiguous.
    pub strides: *mut i64,
    /// The offset in bytes from `data` to the first element.
    pub byte_offset: u64,
}

/// `DLManagedTensor`, to which a capsule called `dltensor` points.
#[derive(Debug)]
#[repr(C)]
pub struct ManagedTensor {
    /// The tensor.
    pub tensor: Tensor,
    /// Private data of the library that owns the tensor.
    pub context: *mut c_void,
    /// The function that returns the tensor to its owner. It is called once.
    pub deleter: Option<unsafe extern "C" fn(*mut ManagedTensor)>,
}

/// `DLManagedTensorVersioned`, to which a capsule called `dltensor_versioned` points.
#[derive(Debug)]
#[repr(C)]
pub struct ManagedTensorVersioned {
    /// The version of the struct.
    pub version: Version,
    /// Private data of the library that owns the tensor.
    pub context: *mut c_void,
    /// The function that returns the tensor to its owner. It is called once.
    pub deleter: Option<unsafe extern "C" fn(*mut ManagedTensorVersioned)>,
    /// Further properties of the tensor.
    pub flags: Flags,
    /// The tensor.
    pub tensor: Tensor,
}

/// Bits of [`ManagedTensorVersioned::flags`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Flags(pub u64);

impl Flags {
    /// The tensor must not be written.
    pub const READ_ONLY: Flags = Flags(1);

    /// Returns whether the tensor must not be written.
    pub fn is_read_only(self) -> bool {
        self.0 & Flags::READ_ONLY.0 != 0
    }
}

#[cfg(target_pointer_width = "64")]
const _: () = {
    assert!(size_of::<Tensor>() == 48 && std::mem::offset_of!(Tensor, shape) == 24);
    assert!(size_of::<ManagedTensor>() == 64 && std::mem::offset_of!(ManagedTensor, deleter) == 56);
    assert!(size_of::<ManagedTensorVersioned>() == 80);
    assert!(std::mem::offset_of!(ManagedTensorVersioned, flags) == 24);
    assert!(std::mem::offset_of!(ManagedTensorVersioned, tensor) == 32);
};

impl DataType {
    /// Returns the DLPack type for an element type.
    pub const fn of(dtype: DType) -> DataType {
        let (code, bits) = dtype.dlpack();
        DataType { code, bits, lanes: 1 }
    }

    pub(super) fn dtype(self) -> Result<DType> {
        let found = DType::ALL.iter().copied().find(|dtype| DataType::of(*dtype) == self);
        found.ok_or_else(|| {
            let DataType { code, bits, lanes } = self;
            Error::invalid(format!(
                "a DLPack tensor of type code {code}, {bits} bits, {lanes} lanes has no element type that c10d supports"
            ))
        })
    }
}

impl DlDevice {
    /// Page-locked host memory, which CUDA devices can use.
    const CUDA_HOST: i32 = 3;
    /// Managed memory, which the host and CUDA devices can use.
    const CUDA_MANAGED: i32 = 13;

    pub(super) fn of(device: Device) -> DlDevice {
        DlDevice { kind: device.kind() as i32, index: i32::from(device.index()) }
    }

    pub(super) fn device(self) -> Result<Device> {
        let index = u16::try_from(self.index).ok();
        let known = |kind: DeviceKind| self.kind == kind as i32;
        match index {
            Some(_) if known(DeviceKind::Cpu) || self.kind == Self::CUDA_HOST => Ok(Device::CPU),
            Some(index) if known(DeviceKind::Cuda) || self.kind == Self::CUDA_MANAGED => Ok(Device::cuda(index)),
            Some(index) if known(DeviceKind::PrivateUse1) => Ok(Device::private(0, index)),
            _ => {
                let what = format!(
                    "a DLPack tensor on device kind {}, index {}, is on a device that c10d does not support",
                    self.kind, self.index
                );
                Err(Error::invalid(what))
            }
        }
    }
}
