//! Tests that every method of the client returns, whatever the server does.

use crate::common;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use c10d_core::{Error, ErrorKind, Store};
use c10d_rendezvous::TcpStore;
use common::{HELLO, ServerProcess, client, soon};
use rustix::process::Signal;

/// A call that takes longer than this fails the test.
const HANG: Duration = Duration::from_secs(10);

/// Calls one method with this deadline. Returns its error, or `None` if it succeeded, which fails the test.
type Verb = fn(&TcpStore, Instant) -> Option<Error>;

const VERBS: &[(&str, Verb)] = &[
    ("set", |s, t| s.set("k", b"v", t).err()),
    ("get", |s, t| s.get("k", t).err()),
    ("wait", |s, t| s.wait(&["k", "l"], t).err()),
    ("add", |s, t| s.add("n", 1, t).err()),
    ("compare_set", |s, t| s.compare_set("k", b"", b"v", t).err()),
    ("append", |s, t| s.append("k", b"v", t).err()),
    ("check", |s, t| s.check(&["k"], t).err()),
    ("delete", |s, t| s.delete("k", t).err()),
    ("num_keys", |s, t| s.num_keys(t).err()),
    ("multi_get", |s, t| s.multi_get(&["k", "l"], t).err()),
    ("multi_set", |s, t| s.multi_set(&[("k", b"v")], t).err()),
    ("queue_push", |s, t| s.queue_push("q", b"v", t).err()),
    ("queue_pop", |s, t| s.queue_pop("q", t).err()),
    ("queue_try_pop", |s, t| s.queue_try_pop("q", t).err()),
    ("queue_len", |s, t| s.queue_len("q", t).err()),
    ("list_keys", |s, t| s.list_keys(t).err()),
    ("barrier", |s, t| s.barrier("b", 2, t).err()),
    ("count_worker", |s, t| s.count_worker(t).err()),
    ("set of 8 MiB", |s, t| s.set("big", &vec![0; 8 << 20], t).err()),
];

/// Calls every method, all at the same time, with a time limit of 0.2 s. Checks that each returns an error that says
/// that the call timed out.
fn all_time_out(store: &TcpStore) {
    std::thread::scope(|scope| {
        for (name, verb) in VERBS {
            scope.spawn(move || {
                let start = Instant::now();
                let error = verb(store, start + Duration::from_millis(200));
                let took = start.elapsed();
                let error = error.unwrap_or_else(|| panic!("{name} claims success"));
                assert_eq!(*error.kind(), ErrorKind::Store, "{name}: {error}");
                assert!(error.to_string().contains("timed out"), "{name}: {error}");
                assert!(took < HANG, "{name} took {took:?}");
                println!("{name}: {took:.1?}: {error}");
            });
        }
    });
}

#[test]
fn every_call_to_a_stopped_server_times_out_and_calls_succeed_when_it_continues() {
    let server = ServerProcess::start();
    let store = client(server.addr);
    store.set("before", b"1", soon()).unwrap();
    server.stop();
    all_time_out(&store);
    server.signal(Signal::CONT);
    assert_eq!(store.get("before", soon()).unwrap(), b"1");
    store.set("after", b"2", soon()).unwrap();
    assert!(store.check(&["before", "after"], soon()).unwrap());
}

#[test]
fn every_call_to_a_killed_server_fails_at_once() {
    let mut server = ServerProcess::start();
    let store = client(server.addr);
    server.child.kill().unwrap();
    server.child.wait().unwrap();
    for (name, verb) in VERBS {
        let start = Instant::now();
        let error = verb(&store, start + Duration::from_secs(60)).unwrap_or_else(|| panic!("{name} claims success"));
        assert_eq!(*error.kind(), ErrorKind::Store, "{name}: {error}");
        assert!(error.to_string().contains(&server.addr.to_string()), "{name}: {error}");
        assert!(start.elapsed() < HANG, "{name}");
    }
}

#[test]
fn a_waiting_call_learns_of_the_servers_death() {
    let mut server = ServerProcess::start();
    let store = client(server.addr);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| store.get("never", Instant::now() + Duration::from_secs(60)));
        // The wait must end, whether the server is killed before or after the wait begins.
        std::thread::sleep(Duration::from_millis(50));
        server.child.kill().unwrap();
        server.child.wait().unwrap();
        let start = Instant::now();
        assert!(waiter.join().unwrap().is_err());
        assert!(start.elapsed() < HANG);
    });
}

#[test]
fn one_waiting_call_does_not_keep_the_others_waiting() {
    let server = common::server();
    let store = client(server.local_addr());
    std::thread::scope(|scope| {
        let waiters: Vec<_> = (0..20).map(|_| scope.spawn(|| store.get("late", soon()).unwrap())).collect();
        for i in 0..50 {
            assert_eq!(store.add("n", 1, soon()).unwrap(), i + 1);
        }
        store.set("late", b"!", soon()).unwrap();
        waiters.into_iter().for_each(|w| assert_eq!(w.join().unwrap(), b"!"));
    });
}

#[test]
fn connecting_to_a_server_that_never_answers_the_handshake_fails_at_the_deadline() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let start = Instant::now();
    let error = TcpStore::connect("127.0.0.1", port, start + Duration::from_millis(200)).err().unwrap();
    assert!(start.elapsed() < HANG && *error.kind() == ErrorKind::Store, "{error}");
    assert!(error.to_string().contains(&port.to_string()) && error.to_string().contains("attempt"), "{error}");
}

#[test]
fn connecting_without_a_server_fails_at_the_deadline() {
    let port = common::free_port("127.0.0.1").unwrap();
    let start = Instant::now();
    let error = TcpStore::connect("127.0.0.1", port, start + Duration::from_secs(1)).err().unwrap();
    let chain = format!("{error:?}");
    assert!(error.to_string().contains("attempts") && chain.contains("refused"), "{chain}");
    assert!(start.elapsed() < HANG);
}

#[test]
fn an_answer_that_arrives_slowly_does_not_extend_the_deadline() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            std::thread::spawn(move || {
                let mut hello = [0; 10];
                stream.read_exact(&mut hello).unwrap();
                assert_eq!(hello[..5], *HELLO);
                stream.write_all(&hello[6..]).unwrap();
                // The answer to LIST_KEYS begins with the number of keys. Then keys of one byte follow, one every 5 ms.
                stream.read_exact(&mut [0]).unwrap();
                stream.write_all(&1_000_000u64.to_le_bytes()).unwrap();
                while stream.write_all(&[1]).is_ok()
                    && stream.write_all(&[0; 7]).is_ok()
                    && stream.write_all(b"k").is_ok()
                {
                    std::thread::sleep(Duration::from_millis(5));
                }
            });
        }
    });
    let store = client(addr);
    let start = Instant::now();
    let error = store.list_keys(start + Duration::from_millis(150)).unwrap_err().to_string();
    assert!(start.elapsed() < HANG, "{:?}", start.elapsed());
    assert!(error.contains("timed out"), "{error}");
}
