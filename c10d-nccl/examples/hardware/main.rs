//! The programs that `hardware/run.sh` runs besides the suite: measurements for comparison with PyTorch, a communicator
//! with a rank of PyTorch, ops that do not end by themselves, and derived groups. The ranks get their numbers from the
//! variables of a launcher (`c10d run`).

mod derived;
mod ends;
mod mixed;
mod times;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use c10d_core::device::{DeviceBuffer, DeviceRuntime};
use c10d_core::{Builder, Element, Error, Result};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let word = std::env::args().nth(1).unwrap_or_default();
    let rank = std::env::var("RANK").unwrap_or_default();
    if std::env::var_os("C10D_HARDWARE_HOSTID").is_some() {
        // NCCL before 2.30 accepts two ranks on one GPU only if they seem to be on two hosts.
        // SAFETY: the process still has only one thread.
        #[allow(unsafe_code)]
        unsafe {
            std::env::set_var("NCCL_HOSTID", &rank);
        }
    }
    let done = match word.as_str() {
        "world1" => times::world_of_one(),
        "staged" => times::staged(),
        "mixed" => mixed::run(),
        "ends" => ends::run(),
        "derived" => derived::run(),
        _ => {
            eprintln!("usage: hardware world1 | staged | mixed DIALECT | ends | derived");
            return ExitCode::FAILURE;
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            println!("failed: {e}");
            ExitCode::FAILURE
        }
    }
}

/// Returns the runtime of the CUDA devices. All ranks use its first GPU.
fn cuda() -> Result<Arc<dyn DeviceRuntime>> {
    (c10d_nccl::PROVIDER.devices[0].open)()
}

fn on<T: Element>(data: &[T]) -> Result<DeviceBuffer> {
    DeviceBuffer::from_slice(&cuda()?, 0, data, MINUTE)
}

fn builder(map: &str) -> Builder {
    let providers = [&c10d_nccl::PROVIDER, &c10d_gloo_like::PROVIDER];
    Builder::new().providers(&providers).backend(map).hint("nccl.device", "0").timeout(MINUTE)
}

fn same(what: &str, got: &[f32], want: &[f32]) -> Result<()> {
    if got == want { Ok(()) } else { Err(Error::invalid(format!("{what} gave {got:?} instead of {want:?}"))) }
}
