//! Tests that clients outside of the job cannot disturb the job's clients.

use crate::common;

use std::io::Write;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use c10d_core::{ErrorKind, Store};
use c10d_rendezvous::{ServerOptions, TcpStore};
use common::load::{Latency, flooded};
use common::{Raw, ServerProcess, client, int, request, server_with, soon, string, until};

/// The limit of the server's CPU time during a set and a get, more than five times the observed value.
const FAST: Duration = Duration::from_millis(100);

/// Checks that the server uses little CPU time, for all clients together, while an honest client does a set and a get.
/// The test does not measure real time, since the machine may be busy with other work.
fn stays_fast(what: &str, server: &ServerProcess) {
    let latency = Latency::by(|| server.worked(), server.addr, 100);
    println!("{what}: a set and a get take {latency} of the server's time");
    assert!(latency.p99 < FAST, "{what}: a set and a get take {latency} of the server's time");
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
    let all: Vec<String> = (0..100_000).map(|i| format!("some/key/{}", i % 2000)).collect();
    let all = [int(100_000), all.iter().map(|key| string(format!("/{key}").as_bytes())).collect::<Vec<_>>().concat()];
    let absent: Vec<Vec<u8>> = (0..100_000).map(|i| string(format!("/no/{i}").as_bytes())).collect();
    let absent = request(6, &[int(100_000), absent.concat()]);
    let many = [int(2000), keys.iter().map(|key| string(format!("/{key}").as_bytes())).collect::<Vec<_>>().concat()];
    for (what, request) in [
        ("NUM_KEYS", request(7, &[])),
        ("LIST_KEYS", request(17, &[])),
        ("PING", request(13, &[vec![0; 4]])),
        ("CHECK of many keys", request(5, &many)),
        ("CHECK of very many keys", request(5, &all)),
        ("MULTI_GET of very many keys", request(10, &all)),
        ("WAIT for very many keys, and CANCEL_WAIT", [absent, request(12, &[])].concat()),
        ("GET of a large value", request(3, &[string(b"/big")])),
    ] {
        flooded(server.addr, &request, || stays_fast(what, &server));
    }
}

/// Clients with endless requests get at most half of a core.
#[test]
fn endless_requests_use_at_most_half_of_a_core() {
    let server = ServerProcess::start();
    let (ran, took) = flooded(server.addr, &request(7, &[]), || {
        // In the first 100 ms of work (`BURST`), the clients may use more than half of a core.
        std::thread::sleep(Duration::from_millis(500));
        let (before, start) = (server.worked(), Instant::now());
        std::thread::sleep(Duration::from_secs(1));
        (server.worked() - before, start.elapsed())
    });
    println!("the server ran {ran:?} of {took:?}");
    assert!(ran < took * 7 / 10, "the server ran {ran:?} of {took:?}");
}

/// A request about a hundred thousand keys is processed in pieces.
#[test]
fn a_request_about_many_keys_does_not_block_other_clients() {
    const KEYS: usize = 100_000;
    let server = ServerProcess::start();
    let addr = server.addr;
    let store = client(addr);
    let keys: Vec<String> = (0..KEYS).map(|i| format!("k{i}")).collect();
    let pairs: Vec<(&str, &[u8])> = keys.iter().map(|key| (key.as_str(), &b"v"[..])).collect();
    store.multi_set(&pairs, soon()).unwrap();
    let list = |prefix: &str| -> Vec<u8> {
        let keys: Vec<Vec<u8>> = keys.iter().map(|key| string(format!("/{prefix}{key}").as_bytes())).collect();
        [int(KEYS as i64), keys.concat()].concat()
    };
    let pairs: Vec<Vec<u8>> =
        keys.iter().map(|key| [string(format!("/{key}").as_bytes()), string(b"w")].concat()).collect();
    let pairs = [int(KEYS as i64), pairs.concat()].concat();
    // `answer` is the length of the answer, by which the test detects the answer's end.
    for (what, request, answer) in [
        ("CHECK", request(5, &[list("")]), 1),
        ("MULTI_GET", request(10, &[list("")]), KEYS * 9),
        ("MULTI_SET", [request(11, &[pairs]), request(13, &[vec![0; 4]])].concat(), 4),
        ("WAIT for absent keys, and CANCEL_WAIT", [request(6, &[list("no ")]), request(12, &[])].concat(), 1),
        ("LIST_KEYS", request(17, &[]), 8 + KEYS * 9),
    ] {
        let mut raw = Raw::valid(addr);
        let answered = std::thread::scope(|scope| {
            let asker = scope.spawn(|| {
                raw.send(&request);
                raw.read(answer)
            });
            let (mut rounds, mut other) = (0, Raw::valid(addr));
            while !asker.is_finished() {
                other.ping();
                rounds += 1;
            }
            asker.join().unwrap();
            rounds
        });
        println!("{what}: {answered} others' requests were answered meanwhile");
        assert!(answered > 0, "{what}");
        // The stranger's data stays, and does not slow down an honest client.
        drop(raw);
        stays_fast(what, &server);
    }
}

/// Connections of one address cannot take all descriptors, even if each connection has used a key.
#[test]
fn an_address_with_most_of_the_connections_makes_room_for_others() {
    let server = ServerProcess::with_descriptors(128);
    let other = |_| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&"127.0.0.2:0".parse::<SocketAddr>().unwrap().into()).unwrap();
        socket.connect(&server.addr.into()).unwrap();
        let mut raw = Raw(socket.into());
        // A client that has used a key is not closed as a stranger.
        let _ = raw.0.write_all(&[common::HELLO, &request(1, &[string(b"/x"), string(b"y")])].concat());
        raw
    };
    let crowd: Vec<Raw> = (0..300).map(other).collect();
    until("the server has taken most descriptors", || server.descriptors() > 100);
    let members: Vec<TcpStore> = (0..30).map(|_| client(server.addr)).collect();
    for (i, member) in members.iter().enumerate() {
        member.set(&i.to_string(), b"", soon()).unwrap();
    }
    drop(crowd);
}

/// A client for which there is no descriptor gets an error that says on which side the descriptors ran out.
#[test]
fn a_server_without_descriptors_says_so() {
    let server = ServerProcess::with_descriptors(40);
    let members: Vec<Option<TcpStore>> = (0..44)
        .map(|i| {
            let store = TcpStore::connect("127.0.0.1", server.addr.port(), soon());
            let set = store.and_then(|store| store.set(&format!("k{i}"), b"", soon()).map(|()| store));
            set.map_err(|e| {
                assert_eq!(*e.kind(), ErrorKind::Resource, "{e}");
                let words = e.to_string();
                assert!(words.contains("hosts the store") && words.contains("limit 40"), "{words}");
            })
            .ok()
        })
        .collect();
    let refused = members.iter().filter(|member| member.is_none()).count();
    assert!((3..40).contains(&refused), "{refused} of 44 were refused");
    for member in members.iter().flatten() {
        assert_eq!(member.get("k0", soon()).unwrap(), b"");
    }
}

#[test]
fn idle_strangers_make_room_for_members() {
    let server = ServerProcess::with_descriptors(128);
    let first = client(server.addr);
    first.set("first", b"here", soon()).unwrap();
    let strangers: Vec<Raw> = (0..300).map(|_| Raw::new(server.addr, common::HELLO)).collect();
    until("the server has taken most descriptors", || server.descriptors() > 100);
    let members: Vec<TcpStore> = (0..60).map(|_| client(server.addr)).collect();
    for (i, member) in members.iter().enumerate() {
        member.set(&i.to_string(), b"", soon()).unwrap();
    }
    // No connection that has used a key was closed.
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
    // Each of 12 connections announces a value of 8 MiB and sends only 3 MiB of it. Together these are 36 MiB. The
    // server may use 16 MiB.
    let part = request(1, &[string(b"/k"), int(8 << 20), vec![0; 3 << 20]]);
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
