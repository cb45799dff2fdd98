//! What clients that take no part in the job cannot do to those who do.

use crate::common;

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use c10d_core::Store;
use c10d_rendezvous::{ServerOptions, TcpStore};
use common::{Raw, ServerProcess, client, int, say, server, server_with, soon, string};

/// How long the slowest of an honest client's sets and gets takes, but for one in a hundred.
fn p99(addr: SocketAddr, rounds: usize) -> Duration {
    let store = client(addr);
    let mut took: Vec<Duration> = (0..rounds)
        .map(|i| {
            let start = Instant::now();
            store.set("honest", &[i as u8; 64], soon()).unwrap();
            assert_eq!(store.get("honest", soon()).unwrap(), [i as u8; 64]);
            start.elapsed()
        })
        .collect();
    took.sort_unstable();
    took[rounds * 99 / 100]
}

/// Whether honest clients are fast: the machine may be busy with other things, but not each of three times.
fn stays_fast(what: &str, addr: SocketAddr) {
    let slow = (0..3).map(|_| p99(addr, 200)).take_while(|p99| *p99 > Duration::from_millis(300));
    let slow: Vec<Duration> = slow.collect();
    assert!(slow.len() < 3, "{what}: set and get take {slow:?}");
}

/// Asks for the same without end, over four connections, and takes the answers; meanwhile `f` runs.
fn flooded<R>(addr: SocketAddr, request: &[u8], f: impl FnOnce() -> R) -> R {
    let block = request.repeat((64 << 10) / request.len() + 1);
    let floods: Vec<Raw> = (0..4).map(|_| Raw::valid(addr)).collect();
    std::thread::scope(|scope| {
        for raw in &floods {
            let (mut sender, mut receiver, block) = (&raw.0, &raw.0, &block[..]);
            scope.spawn(move || while sender.write_all(block).is_ok() {});
            let mut buffer = vec![0; 256 << 10];
            scope.spawn(move || while receiver.read(&mut buffer).is_ok_and(|n| n > 0) {});
        }
        std::thread::sleep(Duration::from_millis(200));
        let result = f();
        for raw in &floods {
            let _ = raw.0.shutdown(std::net::Shutdown::Both);
        }
        result
    })
}

#[test]
fn requests_without_end_do_not_slow_the_others() {
    let server = ServerProcess::start();
    let store = client(server.addr);
    let keys: Vec<String> = (0..2000).map(|i| format!("some/key/{i}")).collect();
    let pairs: Vec<(&str, &[u8])> = keys.iter().map(|key| (key.as_str(), &b"value"[..])).collect();
    store.multi_set(&pairs, soon()).unwrap();
    let big = vec![1; 4 << 20];
    store.set("big", &big, soon()).unwrap();
    let many = [int(2000), keys.iter().map(|key| string(format!("/{key}").as_bytes())).collect::<Vec<_>>().concat()];
    for (what, request) in [
        ("NUM_KEYS", say(7, &[])),
        ("LIST_KEYS", say(17, &[])),
        ("PING", say(13, &[vec![0; 4]])),
        ("CHECK of many keys", say(5, &many)),
        ("GET of a large value", say(3, &[string(b"/big")])),
    ] {
        flooded(server.addr, &request, || stays_fast(what, server.addr));
    }
}

#[test]
fn idle_strangers_make_room_for_members() {
    let server = ServerProcess::with_descriptors(128);
    let first = client(server.addr);
    first.set("first", b"here", soon()).unwrap();
    let strangers: Vec<Raw> = (0..300).map(|_| Raw::new(server.addr, common::HELLO)).collect();
    std::thread::sleep(Duration::from_millis(200));
    let members: Vec<TcpStore> = (0..60).map(|_| client(server.addr)).collect();
    for (i, member) in members.iter().enumerate() {
        member.set(&i.to_string(), b"", soon()).unwrap();
    }
    // Nobody who takes part was closed.
    for member in members.iter().chain([&first]) {
        assert_eq!(member.get("first", soon()).unwrap(), b"here");
    }
    drop(strangers);
}

#[test]
fn one_connection_cannot_fill_the_store() {
    let mut options = ServerOptions::default();
    options.limits.keys = 4000;
    options.limits.total = 4 << 20;
    options.limits.per_key = 4 << 20;
    let server = server_with(options);
    let greedy = client(server.local_addr());
    let keys = (0..5000).take_while(|i| greedy.set(&format!("k{i}"), b"", soon()).is_ok()).count();
    assert!((900..=1000).contains(&keys), "{keys} of 4000 keys");
    let other = client(server.local_addr());
    for i in 0..100 {
        other.set(&format!("other{i}"), &[0; 1000], soon()).unwrap();
    }
    let queued = client(server.local_addr());
    let bytes = (0..5000).take_while(|_| queued.queue_push("q", &[0; 1000], soon()).is_ok()).count();
    assert!((100..1000).contains(&bytes), "{bytes} kB of 4 MiB");
    other.set("other", &[0; 1000], soon()).unwrap();
}

#[test]
fn unfinished_requests_of_strangers_do_not_close_an_honest_one() {
    let mut options = ServerOptions::default();
    options.limits.buffers = 16 << 20;
    let server = server_with(options);
    let addr = server.local_addr();
    let store = client(addr);
    // Each announces a value of 8 MiB and never ends it; together they would hold far more than is allowed.
    let part = say(1, &[string(b"/k"), int(8 << 20), vec![0; 3 << 20]]);
    let strangers: Vec<Raw> = (0..12)
        .map(|_| {
            let mut raw = Raw::valid(addr);
            let _ = raw.0.write_all(&part);
            raw
        })
        .collect();
    let value = vec![7; 7 << 20];
    for i in 0..10 {
        store.set("large", &value, soon()).unwrap();
        assert!(store.get("large", soon()).unwrap() == value, "round {i}");
    }
    drop(strangers);
}

#[test]
fn many_connections_that_send_large_requests_do_not_slow_the_others() {
    let server = server();
    let addr = server.local_addr();
    let set = say(1, &[string(b"/k"), string(&vec![0; 1 << 20])]);
    flooded(addr, &set, || stays_fast("SET of large values", addr));
}
