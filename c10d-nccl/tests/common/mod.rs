//! Runs tests in separate processes, in which the linker finds only the fake libcuda and libnccl.
#![allow(dead_code, unsafe_code)]

pub(crate) mod driver;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use c10d_core::device::{DeviceBuffer, DevicePtr, DeviceRuntime};
use c10d_core::{Buf, Builder, Element, Memory};

// Cargo builds the fake only because of this use.
use c10d_fake_nccl as _;

/// The variable with the name of the test that a separate process runs.
const CHILD: &str = "C10D_NCCL_TEST_CHILD";
/// The variable with the path of the library of `with_library`.
const LIBRARY: &str = "C10D_NCCL_TEST_LIBRARY";
/// A time that is longer than any test takes.
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// Returns the path of the fake library, which is both libcuda and libnccl.
pub(crate) fn fake() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let dirs = exe.ancestors().skip(1).take(2);
    let found = dirs.map(|dir| dir.join("libc10d_fake_nccl.so")).find(|file| file.exists());
    found.expect("the fake was built beside the tests")
}

/// Makes a folder in which the fake has the names of the real libraries.
pub(crate) fn folder(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("c10d-nccl-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    for name in ["libcuda.so.1", "libnccl.so.2"] {
        let _ = std::os::unix::fs::symlink(fake(), dir.join(name));
    }
    dir
}

/// Makes a command that runs this program again, with a linker that finds the fakes, and with this script of faults.
pub(crate) fn command(folder: &Path, script: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env("LD_LIBRARY_PATH", folder).env("C10D_FAKE_NCCL", script);
    for name in ["C10D_NCCL_LIB", "VIRTUAL_ENV", "CONDA_PREFIX", "LOCAL_RANK"] {
        command.env_remove(name);
    }
    command
}

/// Returns the path of a test in this program. Its module is that of the calling file.
#[track_caller]
fn path(test: &str) -> String {
    let file = std::panic::Location::caller().file().trim_end_matches(".rs");
    let (_, module) = file.rsplit_once("tests/").expect("a file of the tests");
    format!("{}::{test}", module.replace('/', "::"))
}

/// Runs `body` in a separate process with the fakes. If `C10D_HARDWARE` is set, runs it in this process with the real
/// libraries.
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

/// The same as `with_fake`, with the library that `library` makes instead of the fake. `body` gets this library's path.
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

/// Runs a command, and kills it after [`PATIENCE`]. Returns its output.
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

/// Makes a builder of groups with only this backend.
pub(crate) fn builder() -> Builder {
    Builder::new().providers(&[&c10d_nccl::PROVIDER]).backend("cuda:nccl").timeout(20 * SECOND)
}

/// Makes a builder of groups that also have a CPU backend.
pub(crate) fn with_cpu() -> Builder {
    let providers = [&c10d_nccl::PROVIDER, &c10d_gloo_like::PROVIDER];
    Builder::new().providers(&providers).backend("cpu:gloo-like,cuda:nccl").timeout(60 * SECOND)
}

pub(crate) fn cuda() -> Arc<dyn DeviceRuntime> {
    (c10d_nccl::PROVIDER.devices[0].open)().unwrap()
}

pub(crate) fn on<T: Element>(index: u32, data: &[T]) -> DeviceBuffer {
    DeviceBuffer::from_slice(&cuda(), index as u16, data, 60 * SECOND).unwrap()
}

/// Checks that `body` ends within the time.
pub(crate) fn within<T>(limit: Duration, body: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let done = body();
    assert!(begun.elapsed() < limit, "took {:?}", begun.elapsed());
    done
}

/// Runs a whole test program with the fakes. If the program was not started with the fakes, it starts itself again with
/// them.
pub(crate) fn again_with_fake(body: impl FnOnce() -> ExitCode) -> ExitCode {
    if std::env::var(CHILD).is_ok() {
        return body();
    }
    if std::env::var("C10D_HARDWARE").is_ok() {
        // The real libraries are used; see hardware/run.sh.
        if let (Ok(_), Ok(rank)) = (std::env::var("C10D_HARDWARE_HOSTID"), std::env::var("RANK")) {
            // SAFETY: the process still has only one thread.
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

pub(crate) fn place(buffer: &mut DeviceBuffer) -> DevicePtr {
    match buffer.span().memory() {
        Memory::Cuda(at) => DevicePtr { base: at as *mut (), offset: 0 },
        other => panic!("{other:?}"),
    }
}
