//! Errors of the driver.

use c10d_core::{Error, ErrorKind};
use cudarc::driver::result::DriverError;
use cudarc::driver::sys;

/// Returns the driver's description of an error.
pub(super) fn describe(e: DriverError) -> String {
    let name = e.error_name().map_or_else(|_| format!("code {}", e.0 as u32), |s| s.to_string_lossy().into_owned());
    let words = e.error_string().map_or_else(|_| String::new(), |s| format!(" ({})", s.to_string_lossy()));
    format!("{name}{words}")
}

/// Makes the error of a failed call. After some errors the context is unusable for the whole process; the text says so.
pub(crate) fn failed(doing: &str, e: DriverError) -> Error {
    use sys::CUresult::*;
    let lost = matches!(
        e.0,
        CUDA_ERROR_ILLEGAL_ADDRESS
            | CUDA_ERROR_LAUNCH_FAILED
            | CUDA_ERROR_LAUNCH_TIMEOUT
            | CUDA_ERROR_HARDWARE_STACK_ERROR
            | CUDA_ERROR_ILLEGAL_INSTRUCTION
            | CUDA_ERROR_MISALIGNED_ADDRESS
            | CUDA_ERROR_INVALID_ADDRESS_SPACE
            | CUDA_ERROR_INVALID_PC
            | CUDA_ERROR_ASSERT
            | CUDA_ERROR_ECC_UNCORRECTABLE
            | CUDA_ERROR_CONTEXT_IS_DESTROYED
            | CUDA_ERROR_DEINITIALIZED
    );
    let advice = if lost { "; the CUDA context is lost: restart this process" } else { "" };
    let what = format!("CUDA failed at {doing}: {}{advice}", describe(e));
    let kind = if e.0 == CUDA_ERROR_OUT_OF_MEMORY { ErrorKind::Resource } else { ErrorKind::Device };
    Error::new(kind, what)
}
