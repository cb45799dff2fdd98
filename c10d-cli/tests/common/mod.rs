//! Runs the program with a time limit.
#![allow(dead_code, reason = "each test file uses its part")]

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};
use socket2::{Domain, Socket, Type};

/// The time limit of a program. A program reaches this limit only if it hangs.
pub(crate) const CAP: Duration = Duration::from_secs(600);

pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A started `c10d`. The process is killed if the test ends first.
pub(crate) struct Running {
    child: Child,
    /// The pipe to standard input, if the test requested one.
    pub(crate) stdin: Option<ChildStdin>,
    lines: Option<BufReader<ChildStdout>>,
    stderr: Receiver<String>,
}

pub(crate) fn start(args: &[&str]) -> Running {
    start_with(args, &[])
}

pub(crate) fn start_with(args: &[&str], env: &[(&str, &str)]) -> Running {
    let mut command = Command::new(env!("CARGO_BIN_EXE_c10d"));
    command.args(args).envs(env.iter().copied());
    start_command(command.stdin(Stdio::null()))
}

pub(crate) fn start_piped(args: &[&str]) -> Running {
    start_command(Command::new(env!("CARGO_BIN_EXE_c10d")).args(args).stdin(Stdio::piped()))
}

pub(crate) fn start_command(command: &mut Command) -> Running {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let lines = Some(BufReader::new(child.stdout.take().unwrap()));
    let mut pipe = child.stderr.take().unwrap();
    let (send, stderr) = channel();
    std::thread::spawn(move || {
        let mut text = Vec::new();
        let _ = pipe.read_to_end(&mut text);
        let _ = send.send(String::from_utf8_lossy(&text).into_owned());
    });
    Running { stdin: child.stdin.take(), child, lines, stderr }
}

pub(crate) fn run(args: &[&str]) -> Ended {
    start(args).end()
}

impl Running {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn line(&mut self) -> String {
        self.await_output();
        let mut line = String::new();
        self.lines.as_mut().unwrap().read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Reads standard output until it contains this word.
    pub(crate) fn until_said(&mut self, word: &str) {
        let mut said = Vec::new();
        while !String::from_utf8_lossy(&said).contains(word) {
            self.await_output();
            let lines = self.lines.as_mut().unwrap();
            let buffer = lines.fill_buf().unwrap();
            assert!(!buffer.is_empty(), "it ended before {word:?}");
            said.extend_from_slice(&buffer[..1]);
            lines.consume(1);
        }
    }

    /// Waits until there is output that was not read, or until the output ends.
    fn await_output(&self) {
        let lines = self.lines.as_ref().unwrap();
        if lines.buffer().is_empty() {
            let limit = Timespec { tv_sec: CAP.as_secs() as i64, tv_nsec: 0 };
            let ready = poll(&mut [PollFd::new(lines.get_ref(), PollFlags::IN)], Some(&limit));
            assert_ne!(ready.unwrap(), 0, "c10d hangs");
        }
    }

    pub(crate) fn stop_reading(&mut self) {
        self.lines = None;
    }

    pub(crate) fn signal(&self, signal: Signal) {
        // Errors are ignored, because the process may have ended. Its pid is not reused before `wait`, so the signal
        // reaches no other process.
        let _ = kill_process(Pid::from_child(&self.child), signal);
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits until the process has ended. Returns its exit status, and its output since the last line that was read.
    pub(crate) fn end(mut self) -> Ended {
        drop(self.stdin.take());
        // Standard output ends only when the last process that holds it ends. So a thread reads it, and this function
        // waits for the thread with a time limit.
        let lines = self.lines.take();
        let (send, receive) = channel();
        std::thread::spawn(move || {
            let mut text = Vec::new();
            let _ = lines.map(|mut lines| lines.read_to_end(&mut text));
            let _ = send.send(String::from_utf8_lossy(&text).into_owned());
        });
        let stdout = receive.recv_timeout(CAP).expect("c10d hangs");
        let stderr = self.stderr.recv_timeout(CAP).expect("c10d hangs");
        let until = Instant::now() + CAP;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return Ended { status, stdout, stderr };
            }
            assert!(Instant::now() < until, "c10d hangs");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Builds a package with these files outside of this workspace, by `cargo build` with these arguments. The package has
/// the dependencies with which this checkout was built.
pub(crate) fn outside(files: &[(&str, &str)], args: &[&str]) -> Outside {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap();
    let dir = tempfile::Builder::new().prefix("c10d-outside-").tempdir().unwrap();
    let manifest =
        format!("[package]\nname = \"outside\"\nedition = \"2024\"\n\n[dependencies]\nc10d.path = {root:?}\n");
    for (name, text) in files.iter().copied().chain([("Cargo.toml", manifest.as_str())]) {
        let file = dir.path().join(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    }
    std::fs::copy(root.join("Cargo.lock"), dir.path().join("Cargo.lock")).unwrap();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--offline"]).args(args).current_dir(dir.path()).envs(outside_env());
    let out = cargo.output().unwrap();
    let program = dir.path().join("outside");
    if out.status.success() {
        std::fs::copy(outside_target().join("debug/outside"), &program).unwrap();
    }
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    Outside { _dir: dir, built: out.status.success(), said, program }
}

/// The target directory of all builds outside of this workspace, so that c10d is built once for them.
fn outside_target() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("outside")
}

/// The environment of all builds outside of this workspace. The programs are built without debug information, which is
/// faster.
pub(crate) fn outside_env() -> [(&'static str, OsString); 4] {
    [
        ("CARGO_TARGET_DIR", outside_target().into()),
        ("CARGO_NET_OFFLINE", "true".into()),
        ("CARGO_INCREMENTAL", "0".into()),
        ("CARGO_PROFILE_DEV_DEBUG", "0".into()),
    ]
}

pub(crate) struct Outside {
    _dir: tempfile::TempDir,
    pub(crate) built: bool,
    /// The output of cargo and the compiler.
    pub(crate) said: String,
    /// The path of the program, if it was built.
    pub(crate) program: PathBuf,
}

/// Returns an address of this host at which a server may listen. The returned socket is bound to the address, but does
/// not listen. So the operating system assigns the port to no other socket, but a server that binds to it by number,
/// with `SO_REUSEADDR`, can listen there.
pub(crate) fn reserved_place() -> (Socket, String) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let place = socket.local_addr().unwrap().as_socket().unwrap().to_string();
    (socket, place)
}

/// Returns whether a process runs. A process that has ended does not count, even if no process has waited for it yet.
pub(crate) fn is_running(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().next()).is_some_and(|state| !"ZX".contains(state))
}

/// Waits until `holds` returns `true`. Fails the test after [`CAP`].
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + CAP;
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
