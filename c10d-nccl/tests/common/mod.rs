//! Tests run in processes of their own in which the fake libcuda and libnccl are all that the linker finds.
#![allow(dead_code, unsafe_code)]

pub(crate) mod driver;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use c10d_core::device::{DeviceBuffer, DevicePtr, DeviceRuntime};
use c10d_core::{Buf, Builder, Element, Memory};

// Builds the fake, and nothing else of it is used here.
use c10d_fake_nccl as _;

/// Set in the processes in which tests really run.
const CHILD: &str = "C10D_NCCL_TEST_CHILD";
/// Names the library of `with_library`.
const LIBRARY: &str = "C10D_NCCL_TEST_LIBRARY";
/// Longer than any test takes.
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// The library that plays both.
pub(crate) fn fake() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let dirs = exe.ancestors().skip(1).take(2);
    let found = dirs.map(|dir| dir.join("libc10d_fake_nccl.so")).find(|file| file.exists());
    found.expect("the fake was built beside the tests")
}

/// A folder in which the fake is called as the real libraries are.
pub(crate) fn folder(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("c10d-nccl-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    for name in ["libcuda.so.1", "libnccl.so.2"] {
        let _ = std::os::unix::fs::symlink(fake(), dir.join(name));
    }
    dir
}

/// This program again, with the fakes in the linker's way and this script of faults.
pub(crate) fn command(folder: &Path, script: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env("LD_LIBRARY_PATH", folder).env("C10D_FAKE_NCCL", script);
    for name in ["C10D_NCCL_LIB", "VIRTUAL_ENV", "CONDA_PREFIX", "LOCAL_RANK"] {
        command.env_remove(name);
    }
    command
}

/// The path of a test in this program: its module has the name of the file that names it.
#[track_caller]
fn path(test: &str) -> String {
    let file = Path::new(std::panic::Location::caller().file());
    format!("{}::{test}", file.file_stem().unwrap().display())
}

/// Runs `body` in a process of its own, of which the test is a shell; on hardware, where that is said to be there.
#[track_caller]
pub(crate) fn with_fake(test: &str, script: &str, body: impl FnOnce()) {
    let test = path(test);
    let test = test.as_str();
    if std::env::var(CHILD).as_deref() == Ok(test) || std::env::var("C10D_HARDWARE").is_ok() {
        return body();
    }
    let dir = folder(&test.replace("::", "-"));
    in_process(test, &dir, script, None);
    let _ = std::fs::remove_dir_all(dir);
}

/// As `with_fake`, with this library in the place of the fake; `body` is given its name.
#[track_caller]
pub(crate) fn with_library(test: &str, library: impl FnOnce() -> PathBuf, body: impl FnOnce(&Path)) {
    let test = path(test);
    let test = test.as_str();
    if let (Ok(name), true) = (std::env::var(LIBRARY), std::env::var(CHILD).as_deref() == Ok(test)) {
        return body(Path::new(&name));
    }
    let library = library();
    let dir = library.parent().unwrap();
    std::os::unix::fs::symlink(&library, dir.join("libcuda.so.1")).unwrap();
    in_process(test, dir, "", Some(&library));
    let _ = std::fs::remove_dir_all(dir);
}

fn in_process(test: &str, dir: &Path, script: &str, library: Option<&Path>) {
    let mut command = command(dir, script);
    if let Some(name) = library {
        command.env(LIBRARY, name);
    }
    command.env(CHILD, test).args([test, "--exact", "--nocapture", "--test-threads=1"]);
    let output = output(command);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success() && out.contains("1 passed"), "{}\n{out}\n{err}", output.status);
}

/// Waits for it, but not for ever.
pub(crate) fn output(mut command: Command) -> Output {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let end = Arc::new(std::sync::Mutex::new(Some(child.id())));
    let guard = end.clone();
    std::thread::spawn(move || {
        std::thread::sleep(PATIENCE);
        if let Some(id) = *guard.lock().unwrap() {
            let _ = Command::new("kill").args(["-9", &id.to_string()]).status();
        }
    });
    let child: Child = child;
    let output = child.wait_with_output().unwrap();
    end.lock().unwrap().take();
    output
}

/// A builder of groups over the backend alone.
pub(crate) fn builder() -> Builder {
    Builder::new().providers(&[&c10d_nccl::PROVIDER]).backend("cuda:nccl").timeout(20 * SECOND)
}

/// A builder of groups that have a CPU backend, too.
pub(crate) fn with_cpu() -> Builder {
    let providers = [&c10d_nccl::PROVIDER, &c10d_gloo_like::PROVIDER];
    Builder::new().providers(&providers).backend("cpu:gloo-like,cuda:nccl").timeout(60 * SECOND)
}

/// The devices.
pub(crate) fn cuda() -> Arc<dyn DeviceRuntime> {
    (c10d_nccl::PROVIDER.devices[0].open)().unwrap()
}

/// Elements on a device.
pub(crate) fn on<T: Element>(index: u32, data: &[T]) -> DeviceBuffer {
    DeviceBuffer::from_slice(&cuda(), index as u16, data, 60 * SECOND).unwrap()
}

/// Whether this is over within the time.
pub(crate) fn within<T>(limit: Duration, body: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let done = body();
    assert!(begun.elapsed() < limit, "took {:?}", begun.elapsed());
    done
}

/// A whole test program that runs where the fakes are: starts itself again if it does not yet.
pub(crate) fn again_with_fake(body: impl FnOnce() -> ExitCode) -> ExitCode {
    if std::env::var(CHILD).is_ok() {
        return body();
    }
    if std::env::var("C10D_HARDWARE").is_ok() {
        // Over what there really is; see hardware/run.sh.
        if let (Ok(_), Ok(rank)) = (std::env::var("C10D_HARDWARE_HOSTID"), std::env::var("RANK")) {
            // SAFETY: the process has one thread yet.
            unsafe { std::env::set_var("NCCL_HOSTID", rank) };
        }
        return body();
    }
    let dir = folder("suite");
    let status = command(&dir, "").env(CHILD, "suite").args(std::env::args_os().skip(1)).status();
    let _ = std::fs::remove_dir_all(dir);
    match status {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// Where a buffer lies.
pub(crate) fn place(buffer: &mut DeviceBuffer) -> DevicePtr {
    match buffer.span().memory() {
        Memory::Cuda(at) => DevicePtr { base: at as *mut (), offset: 0 },
        other => panic!("{other:?}"),
    }
}
