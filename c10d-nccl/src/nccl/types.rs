//! The types of libnccl's ABI: integers and plain structs. Codes are not Rust enums, since a newer library may return
//! unknown codes.

use std::ffi::c_void;
use std::fmt;

/// A result code.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct NcclResult(pub(crate) i32);

impl NcclResult {
    /// The call is done, or was accepted.
    pub(crate) const SUCCESS: NcclResult = NcclResult(0);
    /// The library rejected the call.
    pub(crate) const INVALID_USAGE: NcclResult = NcclResult(5);
    /// A peer is lost, or the network to it is broken.
    pub(crate) const REMOTE_ERROR: NcclResult = NcclResult(6);
    /// The call is still running. The communicator's state must be checked later.
    pub(crate) const IN_PROGRESS: NcclResult = NcclResult(7);

    /// Whether the library has accepted the call, which is then done or still running.
    pub(crate) fn is_accepted(self) -> bool {
        [Self::SUCCESS, Self::IN_PROGRESS].contains(&self)
    }
}

impl fmt::Debug for NcclResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.0 {
            0 => "success",
            1 => "unhandled CUDA error",
            2 => "system error",
            3 => "internal error",
            4 => "invalid argument",
            5 => "invalid usage",
            6 => "remote error",
            7 => "in progress",
            8 => "timeout",
            code => return write!(f, "result {code}"),
        };
        write!(f, "{name} ({})", self.0)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct DataType(pub(crate) i32);

impl DataType {
    pub(crate) const I8: DataType = DataType(0);
    pub(crate) const U8: DataType = DataType(1);
    pub(crate) const I32: DataType = DataType(2);
    pub(crate) const U32: DataType = DataType(3);
    pub(crate) const I64: DataType = DataType(4);
    pub(crate) const U64: DataType = DataType(5);
    pub(crate) const F16: DataType = DataType(6);
    pub(crate) const F32: DataType = DataType(7);
    pub(crate) const F64: DataType = DataType(8);
    pub(crate) const BF16: DataType = DataType(9);
}

/// An operation of reductions. Operations that `premul_sum` makes have numbers that are not listed here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct RedOp(pub(crate) i32);

impl RedOp {
    pub(crate) const SUM: RedOp = RedOp(0);
    pub(crate) const PROD: RedOp = RedOp(1);
    pub(crate) const MAX: RedOp = RedOp(2);
    pub(crate) const MIN: RedOp = RedOp(3);
    pub(crate) const AVG: RedOp = RedOp(4);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct Comm(pub(crate) *mut c_void);

impl Comm {
    pub(crate) const NULL: Comm = Comm(std::ptr::null_mut());

    pub(crate) fn is_null(self) -> bool {
        self.0.is_null()
    }
}

// SAFETY: it is a handle. Its users follow the library's rules about threads.
#[allow(unsafe_code)]
unsafe impl Send for Comm {}
// SAFETY: the same as for `Send`.
#[allow(unsafe_code)]
unsafe impl Sync for Comm {}

/// An id by which ranks find each other. One rank makes it, and all ranks of a communicator get it.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct UniqueId(pub(crate) [u8; UniqueId::SIZE]);

impl UniqueId {
    /// The size in bytes.
    pub(crate) const SIZE: usize = 128;
}

impl Default for UniqueId {
    fn default() -> Self {
        UniqueId([0; UniqueId::SIZE])
    }
}

impl fmt::Debug for UniqueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = &self.0[..16];
        write!(f, "UniqueId({head:02x?}..)")
    }
}

/// The settings of a communicator, in the layout of NCCL 2.28. An older library reads only the fields that it knows. A
/// newer library finds out from `version` which fields exist, and uses its defaults for the other fields.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Config {
    size: usize,
    magic: u32,
    version: u32,
    /// 0: calls return immediately, and `ncclCommGetAsyncError` reports whether they are done.
    pub(crate) blocking: i32,
    cga_cluster_size: i32,
    min_ctas: i32,
    max_ctas: i32,
    net_name: *const c_void,
    /// 1: a communicator that is split off shares its parent's resources.
    pub(crate) split_share: i32,
    traffic_class: i32,
    comm_name: *const c_void,
    collnet_enable: i32,
    cta_policy: i32,
    shrink_share: i32,
    nvls_ctas: i32,
    channels_per_net_peer: i32,
    nvlink_centric_sched: i32,
}

impl Config {
    const UNDEFINED: i32 = i32::MIN;

    /// Settings with which calls do not block.
    pub(crate) const NONBLOCKING: Config = Config {
        size: size_of::<Config>(),
        magic: 0xcafe_beef,
        version: 22800,
        blocking: 0,
        cga_cluster_size: Self::UNDEFINED,
        min_ctas: Self::UNDEFINED,
        max_ctas: Self::UNDEFINED,
        net_name: std::ptr::null(),
        split_share: Self::UNDEFINED,
        traffic_class: Self::UNDEFINED,
        comm_name: std::ptr::null(),
        collnet_enable: Self::UNDEFINED,
        cta_policy: Self::UNDEFINED,
        shrink_share: Self::UNDEFINED,
        nvls_ctas: Self::UNDEFINED,
        channels_per_net_peer: Self::UNDEFINED,
        nvlink_centric_sched: Self::UNDEFINED,
    };
}

const _: () = assert!(size_of::<Config>() == 80);

/// A version of the library, as `ncclGetVersion` encodes it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(pub(crate) i32);

impl Version {
    pub(crate) const fn new(major: i32, minor: i32, patch: i32) -> Version {
        // Up to 2.8, the library used another encoding.
        if major <= 2 && minor <= 8 {
            return Version(major * 1000 + minor * 100 + patch);
        }
        Version(major * 10000 + minor * 100 + patch)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = self.0;
        let major = if code < 10000 { 1000 } else { 10000 };
        write!(f, "{}.{}.{}", code / major, code % major / 100, code % 100)
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_displayed_as_major_minor_patch() {
        for (code, text) in [(23203, "2.32.3"), (22809, "2.28.9"), (2708, "2.7.8"), (21805, "2.18.5")] {
            assert_eq!(Version(code).to_string(), text);
        }
        assert_eq!(Version::new(2, 18, 0).0, 21800);
        assert_eq!(Version::new(2, 7, 8).0, 2708);
    }

    #[test]
    fn unknown_results_are_no_success() {
        assert_eq!(format!("{:?}", NcclResult(99)), "result 99");
        assert_ne!(NcclResult(8), NcclResult::SUCCESS);
    }
}
