//! Code that these tests share.
#![allow(dead_code, unreachable_pub)]

pub mod load;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use c10d_rendezvous::{ServerOptions, TcpStore, TcpStoreServer};

/// Returns a deadline that only a call that hangs reaches.
pub fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

pub fn server() -> TcpStoreServer {
    server_with(ServerOptions::default())
}

pub fn server_with(options: ServerOptions) -> TcpStoreServer {
    TcpStoreServer::bind("127.0.0.1:0".parse().unwrap(), options).unwrap()
}

pub fn client(addr: SocketAddr) -> TcpStore {
    TcpStore::connect(&addr.ip().to_string(), addr.port(), soon()).unwrap()
}

/// Returns the command that runs this test program again, with only the test `role` of the caller's file. That test
/// returns at once unless `C10D_TEST_ROLE` is its name.
#[track_caller]
pub fn role(role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(role_args(role)).env("C10D_TEST_ROLE", role);
    command
}

/// Returns the arguments with which this program runs only the test `role` of the caller's file.
#[track_caller]
pub fn role_args(role: &str) -> [String; 4] {
    let file = Path::new(std::panic::Location::caller().file());
    let module = if file.ends_with("mod.rs") { file.parent() } else { Some(file) };
    let module = module.and_then(|path| path.file_stem()).unwrap().display();
    [format!("{module}::{role}"), "--exact".into(), "--nocapture".into(), "--test-threads=1".into()]
}

pub fn plays(role: &str) -> bool {
    std::env::var("C10D_TEST_ROLE").is_ok_and(|playing| playing == role)
}

/// How long threads have run, and how long they were ready to run but waited for a core.
#[derive(Clone, Copy, Default)]
pub struct Cpu {
    pub ran: Duration,
    pub waited: Duration,
}

impl Cpu {
    /// Returns the times of the thread whose directory in `/proc` is given.
    pub fn of(thread: &Path) -> Option<Cpu> {
        let text = std::fs::read_to_string(thread.join("schedstat")).ok()?;
        let mut times = text.split(' ').map_while(|n| n.parse().ok().map(Duration::from_nanos));
        Some(Cpu { ran: times.next()?, waited: times.next()? })
    }

    pub fn since(self, start: Cpu) -> Cpu {
        Cpu { ran: self.ran.saturating_sub(start.ran), waited: self.waited.saturating_sub(start.waited) }
    }
}

/// A store server in a separate process, which is killed when this value is dropped.
pub struct ServerProcess {
    pub child: Child,
    pub addr: SocketAddr,
}

#[test]
fn role_server() {
    if plays("role_server") {
        serve();
    }
}

/// Serves a store, in the process of a [`ServerProcess`].
pub fn serve() {
    if let Some(limit) = std::env::var("C10D_TEST_DESCRIPTORS").ok().and_then(|n| n.parse().ok()) {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        setrlimit(Resource::Nofile, Rlimit { current: Some(limit), ..getrlimit(Resource::Nofile) }).unwrap();
    }
    let server = server();
    println!("\nlistening {}", server.local_addr());
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

impl ServerProcess {
    pub fn start() -> ServerProcess {
        ServerProcess::start_as(role("role_server"))
    }

    /// Starts the server with at most `n` descriptors.
    pub fn with_descriptors(n: u64) -> ServerProcess {
        let mut command = role("role_server");
        command.env("C10D_TEST_DESCRIPTORS", n.to_string());
        ServerProcess::start_as(command)
    }

    /// Starts the server by this command, which must call [`serve`].
    pub fn start_as(mut command: Command) -> ServerProcess {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let addr = lines
            .map_while(Result::ok)
            .find_map(|line| line.strip_prefix("listening ").map(|addr| addr.parse().unwrap()))
            .expect("the server process says where it listens");
        ServerProcess { child, addr }
    }

    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    /// Returns the server's CPU time, which does not advance while the machine runs other processes.
    pub fn worked(&self) -> Duration {
        self.cpu().ran
    }

    /// Returns the sums of the times of all threads of the server.
    pub fn cpu(&self) -> Cpu {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let times = tasks.flatten().filter_map(|task| Cpu::of(&task.path()));
        times.fold(Cpu::default(), |all, of| Cpu { ran: all.ran + of.ran, waited: all.waited + of.waited })
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }
}

impl ServerProcess {
    /// Stops all threads of the server, and waits until they are stopped.
    pub fn stop(&self) {
        self.signal(rustix::process::Signal::STOP);
        let stopped = |stat: String| stat.contains(") T ");
        let tasks = format!("/proc/{}/task", self.child.id());
        while !std::fs::read_dir(&tasks)
            .unwrap()
            .flatten()
            .all(|task| std::fs::read_to_string(task.path().join("stat")).is_ok_and(stopped))
        {
            std::thread::yield_now();
        }
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until `holds` returns `true`.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = soon();
    while !holds() {
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Returns a port at which no process listens, and which the system never chooses by itself. `None` means that this
/// machine does not have the address `ip`.
pub fn free_port(ip: &str) -> Option<u16> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let usable = std::net::TcpListener::bind((ip, 0)).is_ok();
    let mut candidates = (0..1000).map(|_| {
        let n = std::process::id().wrapping_mul(17).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        15_000 + (n % 17_000) as u16
    });
    if usable { candidates.find(|port| std::net::TcpListener::bind((ip, *port)).is_ok()) } else { None }
}

pub const HELLO: &[u8] = &[0x00, 0xce, 0xf7, 0x85, 0x3c];

/// A connection whose bytes a test reads and writes itself.
pub struct Raw(pub TcpStream);

impl Raw {
    pub fn new(addr: SocketAddr, first: &[u8]) -> Raw {
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut raw = Raw(stream);
        raw.send(first);
        raw
    }

    pub fn valid(addr: SocketAddr) -> Raw {
        let mut raw = Raw::new(addr, HELLO);
        raw.ping();
        raw
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    pub fn read(&mut self, n: usize) -> Vec<u8> {
        let mut bytes = vec![0; n];
        self.0.read_exact(&mut bytes).unwrap();
        bytes
    }

    pub fn ping(&mut self) {
        self.send(&[0x0d, 1, 2, 3, 4]);
        assert_eq!(self.read(4), [1, 2, 3, 4]);
    }

    /// Waits until the server closes the connection. Panics if the server answers or does not close it.
    pub fn closed(mut self) {
        match self.0.read(&mut [0; 64]) {
            Ok(0) => {}
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => {}
            other => panic!("not closed: {other:?}"),
        }
    }
}

pub fn string(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u64).to_le_bytes()[..], bytes].concat()
}

pub fn int(n: i64) -> Vec<u8> {
    n.to_le_bytes().to_vec()
}

/// Returns the bytes of a request: the code of the command, and its fields.
pub fn request(code: u8, fields: &[Vec<u8>]) -> Vec<u8> {
    [vec![code], fields.concat()].concat()
}
