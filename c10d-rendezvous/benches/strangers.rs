//! Measures how long set and get of an honest client take together while other clients attack the store. The store runs
//! in a separate process with PyTorch's limits. The attackers' threads have the lowest priority, as if they ran on
//! another machine. With `same-machine` they have the same priority as the store and its clients.
//!
//! ```text
//! cargo bench -p c10d-rendezvous --bench strangers
//! cargo bench -p c10d-rendezvous --bench strangers -- same-machine
//! ```

#[path = "../tests/common/mod.rs"]
mod common;

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use c10d_core::Store;
use common::load::{Latency, SAME_MACHINE, busy, elsewhere, flooded, set_and_get};
use common::{Cpu, Raw, ServerProcess, client, int, request, serve, soon, string};

struct Size {
    /// The number of set-and-get pairs that each run measures.
    rounds: usize,
    /// The number of idle connections.
    idle: usize,
    /// The number of keys that one address tries to set.
    keys: usize,
    /// The number of bytes of unfinished requests.
    unfinished: usize,
}

const RUNS: usize = 7;
const FULL: Size = Size { rounds: 500, idle: 1014, keys: 1_000_000, unfinished: 1 << 30 };
/// A small size, for a run that only checks that the program works.
const SMALL: Size = Size { rounds: 100, idle: 100, keys: 10_000, unfinished: 16 << 20 };

fn main() {
    if std::env::args().any(|arg| arg == "serve") {
        return serve();
    }
    SAME_MACHINE.store(std::env::args().any(|arg| arg == "same-machine"), Ordering::Relaxed);
    let size = if std::env::args().any(|arg| arg == "--test") { SMALL } else { FULL };
    nobody(&size);
    questions(&size);
    idle(&size);
    keys(&size);
    unfinished(&size);
}

fn server(descriptors: Option<usize>) -> ServerProcess {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg("serve");
    if let Some(n) = descriptors {
        command.env("C10D_TEST_DESCRIPTORS", n.to_string());
    }
    ServerProcess::start_as(command)
}

/// The measurement of one set and one get: how long both took together, and how long the server's threads and the
/// client's thread ran and waited for a core in this period.
#[derive(Clone, Copy, Default)]
struct Round {
    took: Duration,
    server: Cpu,
    client: Cpu,
}

fn run(server: &ServerProcess, rounds: usize) -> Vec<Round> {
    let store = client(server.addr);
    let own = || Cpu::of(Path::new("/proc/thread-self")).unwrap_or_default();
    let round = |i| {
        let (server_before, own_before, start) = (server.cpu(), own(), Instant::now());
        set_and_get(&store, i);
        let took = start.elapsed();
        Round { took, server: server.cpu().since(server_before), client: own().since(own_before) }
    };
    (0..rounds).map(round).collect()
}

/// Prints the medians of several runs, the p99 of each run, and where the slowest hundredth of all rounds spent their
/// time.
fn show(what: &str, server: &ServerProcess, size: &Size) {
    let runs: Vec<Vec<Round>> = (0..RUNS).map(|_| run(server, size.rounds)).collect();
    let each: Vec<Latency> = runs.iter().map(|run| Latency::of(run.iter().map(|round| round.took))).collect();
    let p99: Vec<String> = each.iter().map(|latency| format!("{:.1}", ms(latency.p99))).collect();
    println!("{what:52} {}; p99 of each run: {}", median(&each), p99.join(" "));
    let mut rounds = runs.concat();
    rounds.sort_unstable_by_key(|round| std::cmp::Reverse(round.took));
    rounds.truncate(rounds.len().div_ceil(100));
    let mean = |f: fn(&Round) -> Duration| ms(rounds.iter().map(f).sum::<Duration>()) / rounds.len() as f64;
    println!(
        "  slowest hundredth: {:.1} ms; the server ran {:.1} ms and waited {:.1} ms for a core, the client {:.1} and {:.1} ms",
        mean(|round| round.took),
        mean(|round| round.server.ran),
        mean(|round| round.server.waited),
        mean(|round| round.client.ran),
        mean(|round| round.client.waited),
    );
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn median(runs: &[Latency]) -> Latency {
    let of = |f: fn(&Latency) -> Duration| {
        let mut all: Vec<Duration> = runs.iter().map(f).collect();
        all.sort_unstable();
        all[all.len() / 2]
    };
    Latency { p50: of(|l| l.p50), p99: of(|l| l.p99), worst: of(|l| l.worst) }
}

fn nobody(size: &Size) {
    let server = server(None);
    show("nobody", &server, size);
    busy(|| show("8 threads that compute, without a connection", &server, size));
}

/// Sets `keys` keys, a thousand at a time, until the server refuses a key. Returns the number of keys before the
/// refused thousand, or `keys`.
fn fill(addr: SocketAddr, prefix: &str, keys: usize) -> usize {
    let store = client(addr);
    for start in (0..keys).step_by(1000) {
        let keys: Vec<String> = (start..start + 1000).map(|i| format!("{prefix}/{i}")).collect();
        let pairs: Vec<(&str, &[u8])> = keys.iter().map(|key| (key.as_str(), &b"v"[..])).collect();
        if store.multi_set(&pairs, soon()).is_err() {
            return start;
        }
    }
    keys
}

fn questions(size: &Size) {
    let server = server(None);
    fill(server.addr, "some", 2000);
    for (what, code) in
        [("NUM_KEYS without end, 4 connections", 7), ("LIST_KEYS of 2,000, without end, 4 connections", 17)]
    {
        flooded(server.addr, &request(code, &[]), || show(what, &server, size));
    }
}

fn idle(size: &Size) {
    let server = server(Some(size.idle + 10));
    let strangers: Vec<Raw> = (0..size.idle).map(|_| Raw::new(server.addr, common::HELLO)).collect();
    show(&format!("{} idle connections of {} descriptors", size.idle, size.idle + 10), &server, size);
    std::thread::sleep(Duration::from_secs(1));
    let mut members = Vec::new();
    let begun = Instant::now();
    let joins = Latency::among(
        100,
        || begun.elapsed(),
        |i| {
            let member = client(server.addr);
            member.set(&format!("member {i}"), b"", soon()).unwrap();
            members.push(member);
        },
    );
    println!("{:48} {joins}", "  a new member connects and sets, 100 of them");
    drop(strangers);
}

fn keys(size: &Size) {
    let server = server(None);
    let each = size.keys / 8;
    let taken: usize = (0..8).map(|i| fill(server.addr, &format!("stranger {i}"), each)).sum();
    let what = |how: &str| format!("{taken} keys from one address, which tried {}{how}", size.keys);
    show(&what(""), &server, size);
    flooded(server.addr, &request(17, &[]), || show("  LIST_KEYS of them, without end, 4 connections", &server, size));
    let set = request(1, &[string(b"/new"), string(b"v")]);
    flooded(server.addr, &set, || show("  SET without end, 4 connections", &server, size));
}

/// Returns the bytes of memory of the server's process.
fn held_by(server: &ServerProcess) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.child.id())).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim().trim_end_matches("kB").trim().parse::<usize>().unwrap_or(0) << 10
}

/// Attacks the store with requests that announce 8 MiB and lack the last byte, each over a new connection, until the
/// measurement ends. The measurement begins when the server's process uses nine tenths of `size.unfinished` bytes of
/// memory, or after a minute.
fn unfinished(size: &Size) {
    let server = server(None);
    let part = request(1, &[string(b"/large"), int(8 << 20), vec![0; (8 << 20) - 1]]);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                elsewhere();
                let mut held = std::collections::VecDeque::new();
                while !over.load(Ordering::Relaxed) {
                    let mut raw = Raw::valid(server.addr);
                    let _ = raw.0.write_all(&part);
                    held.push_back(raw);
                    if held.len() * part.len() * 4 > size.unfinished + (64 << 20) {
                        held.pop_front();
                    }
                }
            });
        }
        let begun = Instant::now();
        while held_by(&server) < size.unfinished * 9 / 10 && begun.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(10));
        }
        show(&format!("{} MiB of unfinished requests, 4 that send more", size.unfinished >> 20), &server, size);
        over.store(true, Ordering::Relaxed);
    });
}
