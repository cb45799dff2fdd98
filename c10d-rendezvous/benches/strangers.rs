//! Measures how long set and get of an honest client take together while other clients attack the store. The store runs
//! in a separate process with PyTorch's limits. The attackers' threads have the lowest priority, as if they ran on
//! another machine.
//!
//! ```text
//! cargo bench -p c10d-rendezvous --bench strangers
//! ```

#[path = "../tests/common/mod.rs"]
mod common;

use std::io::Write;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use c10d_core::Store;
use common::load::{Latency, elsewhere, flooded};
use common::{Raw, ServerProcess, client, int, say, serve, soon, string};

/// The size of the attacks, and the number of measured sets and gets.
struct Size {
    rounds: usize,
    idle: usize,
    keys: usize,
    unfinished: usize,
}

const RUNS: usize = 7;
const FULL: Size = Size { rounds: 500, idle: 1014, keys: 1_000_000, unfinished: 1 << 30 };
/// Small, only to check that it runs.
const SMALL: Size = Size { rounds: 100, idle: 100, keys: 10_000, unfinished: 16 << 20 };

fn main() {
    if std::env::args().any(|arg| arg == "serve") {
        return serve();
    }
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

/// The medians of several runs, since other work on the machine does not matter here.
fn show(what: &str, addr: SocketAddr, size: &Size) {
    let runs: Vec<Latency> = (0..RUNS).map(|_| Latency::of(addr, size.rounds)).collect();
    println!("{what:48} {}", median(runs));
}

fn median(runs: Vec<Latency>) -> Latency {
    let of = |f: fn(&Latency) -> Duration| {
        let mut all: Vec<Duration> = runs.iter().map(f).collect();
        all.sort_unstable();
        all[all.len() / 2]
    };
    Latency { p50: of(|l| l.p50), p99: of(|l| l.p99), worst: of(|l| l.worst) }
}

fn nobody(size: &Size) {
    show("nobody", server(None).addr, size);
}

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
        flooded(server.addr, &say(code, &[]), || show(what, server.addr, size));
    }
}

fn idle(size: &Size) {
    let server = server(Some(size.idle + 10));
    let strangers: Vec<Raw> = (0..size.idle).map(|_| Raw::new(server.addr, common::HELLO)).collect();
    show(&format!("{} idle connections of {} descriptors", size.idle, size.idle + 10), server.addr, size);
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
    let what = |how: &str| format!("{taken} keys of one address, which wants {}{how}", size.keys);
    show(&what(""), server.addr, size);
    flooded(server.addr, &say(17, &[]), || show("  LIST_KEYS of them, without end, 4 connections", server.addr, size));
    let set = say(1, &[string(b"/new"), string(b"v")]);
    flooded(server.addr, &set, || show("  SET without end, 4 connections", server.addr, size));
}

/// The memory of the server's process in bytes.
fn held_by(server: &ServerProcess) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.child.id())).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim().trim_end_matches("kB").trim().parse::<usize>().unwrap_or(0) << 10
}

/// Requests that announce 8 MiB and lack the last byte. There are as many as fill all buffers, and they are repeated
/// whenever they are closed.
fn unfinished(size: &Size) {
    let server = server(None);
    let part = say(1, &[string(b"/large"), int(8 << 20), vec![0; (8 << 20) - 1]]);
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
        show(&format!("{} MiB of unfinished requests, 4 that send more", size.unfinished >> 20), server.addr, size);
        over.store(true, Ordering::Relaxed);
    });
}
