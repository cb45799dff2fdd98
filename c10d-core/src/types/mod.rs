//! Basic types that every crate shares: element types, reduce operations, devices, dispatch keys.

mod device;
mod dtype;
mod identity;
mod key;
mod reduce;
mod vendor;

pub use device::{Device, DeviceKind};
pub use dtype::{DType, DTypeSet, Element, F8E4M3, F8E5M2};
pub use identity::Identity;
pub use key::{DispatchKey, KeySet};
pub use reduce::ReduceOp;
pub use vendor::vendor;
pub(crate) use vendor::{private_use1_name, rename_default, vendor_name};
