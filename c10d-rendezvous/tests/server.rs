//! Tests of the server with clients that misbehave, and with many clients.

use crate::common;

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use c10d_core::Store;
use c10d_rendezvous::{Limits, ServerOptions, TcpStore, TcpStoreServer};
use common::{HELLO, Raw, ServerProcess, client, int, request, server, server_with, soon, string, until};

fn small() -> ServerOptions {
    let mut limits = Limits::default();
    limits.reply = 4 << 20;
    limits.buffers = 16 << 20;
    limits.total = 8 << 20;
    limits.per_key = 2 << 20;
    limits.request = 4 << 20;
    let mut options = ServerOptions::default();
    options.limits = limits;
    options
}

#[test]
fn bytes_that_are_no_handshake_close_the_connection_and_execute_nothing() {
    let server = server();
    let store = client(server.local_addr());
    let set = request(1, &[string(b"/evil"), string(b"1")]);
    let wrong_magic = [0x00, 0xef, 0xbe, 0xad, 0xde];
    for garbage in [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        b"SSH-2.0-OpenSSH_9.0\r\n".to_vec(),
        vec![0x16, 0x03, 0x01, 0x02, 0x00],
        vec![0xff; 1000],
        set.clone(),
        [&[0x0d, 1, 0, 0, 0][..], &set].concat(),
        [&wrong_magic[..], &set].concat(),
        [&[0x00, 0xce][..], &set].concat(),
    ] {
        let mut raw = Raw::new(server.local_addr(), &[]);
        // The server may close the connection while more data is being sent.
        let _ = raw.0.write_all(&garbage);
        raw.closed();
    }
    assert_eq!(store.num_keys(soon()).unwrap(), 0);
}

#[test]
fn silent_connections_are_dropped_after_the_handshake_timeout_and_validated_ones_kept() {
    let mut options = ServerOptions::default();
    assert_eq!(options.handshake_timeout, Duration::from_secs(5));
    options.handshake_timeout = Duration::from_millis(500);
    let server = server_with(options);
    let mut valid = Raw::valid(server.local_addr());
    let start = Instant::now();
    let silent = Raw::new(server.local_addr(), &[]);
    let mut half = Raw::new(server.local_addr(), &HELLO[..3]);
    let trickle = std::thread::spawn(move || {
        // Bytes that arrive without completing the handshake do not extend the time.
        std::thread::sleep(Duration::from_millis(200));
        let _ = half.0.write_all(&HELLO[3..4]);
        half.closed();
    });
    silent.closed();
    trickle.join().unwrap();
    assert!(start.elapsed() >= Duration::from_millis(490), "dropped after {:?}", start.elapsed());
    valid.ping();
}

#[test]
fn breaking_a_rule_closes_only_that_connection() {
    let mut options = small();
    // One connection may use a quarter of this, 8 MiB, and one address half.
    options.limits.total = 32 << 20;
    let server = server_with(options);
    let addr = server.local_addr();
    let mut other = Raw::valid(addr);
    other.send(&request(1, &[string(b"/text"), string(b"hello")]));
    let key = |n: usize| string(&vec![b'k'; n]);
    let append = request(9, &[string(b"/k"), string(&vec![0; 1 << 20])]);
    let cases = [
        ("a second handshake", HELLO.to_vec()),
        ("an unknown command", vec![200]),
        ("add to text", request(4, &[string(b"/text"), int(1)])),
        (
            "add beyond 64 bits",
            [request(4, &[string(b"/n"), int(i64::MAX)]), request(4, &[string(b"/n"), int(1)])].concat(),
        ),
        ("a key of 8193 bytes", request(1, &[key(8193), string(b"")])),
        ("a value of 8 MiB + 1", request(1, &[string(b"/k"), int((8 << 20) + 1)])),
        ("131073 keys", request(5, &[int(131_073)])),
        ("a length of 2^63", request(3, &[int(i64::MIN)])),
        ("two waits at once", request(6, &[int(1), string(b"/x")]).repeat(2)),
        ("appending without end", append.repeat(3)),
        ("queueing without end", request(14, &[string(b"/q"), string(&vec![0; 1 << 20])]).repeat(3)),
        (
            "a request of many megabytes",
            request(11, &[int(9), [string(b"/m"), string(&vec![0; 1 << 20])].concat().repeat(5)]),
        ),
    ];
    for (what, request) in cases {
        let mut bad = Raw::valid(addr);
        let _ = bad.0.write_all(&request);
        // The server may answer the valid beginning of the bytes before it closes the connection.
        let mut rest = Vec::new();
        match bad.0.read_to_end(&mut rest) {
            Ok(n) => assert!(n <= 8, "{what}: {n} bytes answered"),
            Err(e) => assert_eq!(e.kind(), std::io::ErrorKind::ConnectionReset, "{what}"),
        }
        other.ping();
    }
    // The server closes a connection that would exceed its share of 8 MiB. The client then opens another connection, so
    // it can use up the share of its address, 16 MiB. When it has deleted four keys, it can set a key again.
    let store = client(addr);
    let filled: Vec<String> = (0..40).map(|i| format!("fill{i}")).collect();
    let filled: Vec<&String> = filled.iter().filter(|key| store.set(key, &vec![0; 1 << 20], soon()).is_ok()).collect();
    assert!((8..16).contains(&filled.len()), "{} MiB in a share of 16 MiB", filled.len());
    assert!(store.set("one more", &vec![0; 1 << 20], soon()).is_err());
    filled.iter().take(4).for_each(|key| assert!(store.delete(key, soon()).unwrap()));
    store.set("one more", &vec![0; 1 << 20], soon()).unwrap();
}

#[test]
fn a_value_above_the_limit_is_the_callers_error_and_the_connection_lives() {
    let server = server();
    let store = client(server.local_addr());
    let error = store.set("k", &vec![0; (8 << 20) + 1], soon()).unwrap_err().to_string();
    assert!(error.contains("8388609") && error.contains("8388608") && error.contains("\"k\""), "{error}");
    assert!(store.set(&"k".repeat(8192), b"", soon()).is_err());
    let keys: Vec<&str> = vec!["k"; (128 << 10) + 1];
    assert!(store.check(&keys, soon()).is_err());
    assert_eq!(store.num_keys(soon()).unwrap(), 0);
    let most = vec![7; 8 << 20];
    store.set("k", &most, soon()).unwrap();
    assert!(store.get("k", soon()).unwrap() == most);
}

#[test]
fn a_client_that_never_reads_is_closed_and_delays_no_other() {
    let mut options = small();
    options.request_timeout = Duration::from_millis(200);
    let server = server_with(options);
    let store = client(server.local_addr());
    store.set("big", &vec![1; 1 << 20], soon()).unwrap();
    let mut greedy = Raw::valid(server.local_addr());
    greedy.0.set_nonblocking(true).unwrap();
    let get = request(3, &[string(b"/big")]);
    // Each request is for 1 MiB, so a million of them are for almost 1 TiB. The server stops reading long before the
    // last request.
    let mut asked = 0;
    while asked < 1_000_000 && greedy.0.write_all(&get).is_ok() {
        asked += 1;
    }
    for _ in 0..100 {
        assert_eq!(store.get("big", soon()).unwrap().len(), 1 << 20);
    }
    // The server closes the connection, because the client has read nothing for too long.
    until("the server closes the connection", || {
        let mut fds = [rustix::event::PollFd::new(&greedy.0, rustix::event::PollFlags::RDHUP)];
        rustix::event::poll(&mut fds, Some(&rustix::event::Timespec::default())).unwrap() > 0
    });
    greedy.0.set_nonblocking(false).unwrap();
    let mut received = 0;
    let mut buffer = vec![0; 1 << 20];
    while let Ok(n @ 1..) = greedy.0.read(&mut buffer) {
        received += n;
    }
    assert!(received < asked * (1 << 20), "{received} bytes of {asked} MiB");
}

#[test]
fn a_client_that_reads_slowly_gets_it_all() {
    let server = server_with(small());
    client(server.local_addr()).set("big", &vec![1; 1 << 20], soon()).unwrap();
    let mut slow = Raw::valid(server.local_addr());
    rustix::net::sockopt::set_socket_recv_buffer_size(&slow.0, 64 << 10).unwrap();
    let mut asking = slow.0.try_clone().unwrap();
    let asker =
        std::thread::spawn(move || (0..50).for_each(|_| asking.write_all(&request(3, &[string(b"/big")])).unwrap()));
    for _ in 0..50 {
        assert_eq!(slow.read(8), int(1 << 20));
        assert_eq!(slow.read(1 << 20), vec![1; 1 << 20]);
    }
    asker.join().unwrap();
}

#[test]
fn a_request_that_does_not_end_is_dropped() {
    let mut options = ServerOptions::default();
    options.request_timeout = Duration::from_millis(300);
    let server = server_with(options);
    let mut slow = Raw::valid(server.local_addr());
    slow.send(&request(1, &[string(b"/k")]));
    let mut waiting = Raw::valid(server.local_addr());
    waiting.send(&request(6, &[int(1), string(b"/later")]));
    slow.closed();
    // Single bytes that arrive without end do not extend the time.
    let mut trickle = Raw::valid(server.local_addr());
    trickle.send(&request(1, &[string(b"/k"), int(10_000)]));
    let mut sender = trickle.0.try_clone().unwrap();
    let sent = std::thread::spawn(move || {
        let more = || sender.write_all(b"x").is_ok();
        std::iter::repeat_with(more)
            .take(1000)
            .inspect(|_| std::thread::sleep(Duration::from_millis(10)))
            .position(|ok| !ok)
    });
    trickle.closed();
    assert!(sent.join().unwrap().is_some(), "1000 bytes were taken");
    // A complete request that waits has no time limit.
    waiting.ping();
    client(server.local_addr()).set("later", b"", soon()).unwrap();
    assert_eq!(waiting.read(1), [0]);
}

#[test]
fn the_oldest_unvalidated_connections_make_room() {
    let mut options = ServerOptions::default();
    options.max_unvalidated = 3;
    let server = server_with(options);
    let mut valid = Raw::valid(server.local_addr());
    let mut silent: Vec<Raw> = (0..4).map(|_| Raw::new(server.local_addr(), &[])).collect();
    silent.remove(0).closed();
    for raw in &mut silent {
        raw.send(HELLO);
        raw.ping();
    }
    valid.ping();
}

#[test]
fn dead_waiters_are_forgotten() {
    let server = server();
    let store = client(server.local_addr());
    for _ in 0..100 {
        Raw::valid(server.local_addr()).send(&request(6, &[int(1), string(b"/ghost")]));
    }
    store.set("ghost", b"", soon()).unwrap();
    assert_eq!(store.num_keys(soon()).unwrap(), 1);
}

#[test]
fn both_address_families_work_and_a_taken_port_is_an_error() {
    for addr in ["127.0.0.1:0", "[::1]:0"] {
        let Ok(server) = TcpStoreServer::bind(addr.parse().unwrap(), ServerOptions::default()) else {
            println!("skipped: no {addr} on this machine");
            continue;
        };
        client(server.local_addr()).set("k", b"v", soon()).unwrap();
        let error = TcpStoreServer::bind(server.local_addr(), ServerOptions::default()).unwrap_err().to_string();
        assert!(error.contains(&server.local_addr().to_string()), "{error}");
    }
}

#[test]
fn a_dropped_server_is_gone_and_a_draining_one_stays_for_its_clients() {
    let stopped = server();
    let addr = stopped.local_addr();
    let store = client(addr);
    drop(stopped);
    assert!(store.check(&["k"], soon()).is_err());

    let draining = server();
    let (host, other) = (client(draining.local_addr()), client(draining.local_addr()));
    host.set("k", b"v", soon()).unwrap();
    drop(host);
    let thread = std::thread::spawn(move || draining.drain(Duration::from_secs(20)));
    assert_eq!(other.get("k", soon()).unwrap(), b"v");
    drop(other);
    let start = Instant::now();
    thread.join().unwrap();
    assert!(start.elapsed() < Duration::from_secs(15), "it waited for nobody");

    let draining = server();
    let stays = client(draining.local_addr());
    draining.drain(Duration::from_millis(50));
    assert!(stays.check(&["k"], soon()).is_err());
}

#[test]
fn ten_thousand_idle_clients_are_served() {
    const CLIENTS: usize = 10_000;
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    if limit.is_some_and(|limit| limit < CLIENTS as u64 + 500) {
        println!("skipped: {limit:?} open files are not enough for {CLIENTS} clients");
        return;
    }
    let server = ServerProcess::start();
    let resident = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", server.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
    };
    let store = client(server.addr);
    store.set("k", b"v", soon()).unwrap();
    let before = resident();
    let mut idle: Vec<Raw> = (0..CLIENTS).map(|_| Raw::valid(server.addr)).collect();
    let per_client = resident().saturating_sub(before) / CLIENTS;
    println!("{per_client} bytes per idle client");
    assert!(per_client <= 4096);
    for i in 0..100 {
        assert_eq!(store.add("n", 1, soon()).unwrap(), i + 1);
    }
    idle.iter_mut().step_by(97).for_each(Raw::ping);
    let wait = request(6, &[int(1), string(b"/go")]);
    idle.iter_mut().for_each(|raw| raw.send(&wait));
    idle.iter_mut().rev().step_by(997).for_each(Raw::ping);
    store.set("go", b"", soon()).unwrap();
    idle.iter_mut().for_each(|raw| assert_eq!(raw.read(1), [0]));
}

/// Without descriptors, the server continues to serve its clients. When descriptors are free again, the server accepts
/// new clients.
#[test]
fn role_server_without_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    if !common::plays("role_server_without_descriptors") {
        return;
    }
    let server = server();
    let store: TcpStore = client(server.local_addr());
    let mut raws: Vec<Raw> = (0..8).map(|_| Raw::valid(server.local_addr())).collect();
    for raw in &mut raws {
        // For a new client of the same address, the server closes only connections that have used no key. So each of
        // these connections uses a key.
        raw.send(&request(4, &[string(b"/n"), int(1)]));
        raw.read(8);
    }
    store.set("before", b"", soon()).unwrap();
    // The limit allows only the lowest free descriptor. The client's end of a connection uses it, so there is none for
    // the server's end.
    let next = std::fs::File::open("/dev/null").unwrap().as_raw_fd() as u64;
    setrlimit(Resource::Nofile, Rlimit { current: Some(next + 1), ..getrlimit(Resource::Nofile) }).unwrap();
    let mut waiting = std::net::TcpStream::connect(server.local_addr()).unwrap();
    waiting.write_all(&[HELLO, &[0x0d, 5, 6, 7, 8]].concat()).unwrap();
    waiting.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    assert!(waiting.read(&mut [0; 4]).is_err(), "the server accepted it although no descriptor should be free");
    store.set("while", b"", soon()).unwrap();
    drop(raws);
    waiting.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut pong = [0; 4];
    waiting.read_exact(&mut pong).unwrap();
    assert_eq!(pong, [5, 6, 7, 8]);
    println!("\nserved without descriptors");
}

/// Runs a role, which must succeed and print this text at its end.
fn plays_well(mut role: std::process::Command, says: &str) {
    let out = role.output().unwrap();
    let (text, errors) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success() && text.contains(says), "{text}{errors}");
}

#[test]
fn a_server_without_descriptors_serves_its_clients() {
    plays_well(common::role("role_server_without_descriptors"), "served without descriptors");
}

/// Connects, and returns how long it takes until the server refuses this client because no descriptor is free. Before
/// that, waits until this process has a descriptor for the client's end.
fn refused_after(addr: std::net::SocketAddr) -> Duration {
    let (start, mut stream) = loop {
        let start = Instant::now();
        match std::net::TcpStream::connect(addr) {
            Err(e) if e.raw_os_error() == Some(libc::EMFILE) => std::thread::sleep(Duration::from_millis(1)),
            other => break (start, other.unwrap()),
        }
    };
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut word = [0; 4];
    stream.read_exact(&mut word).unwrap();
    assert_eq!(word, 0xC10D_0024u32.to_le_bytes(), "the server has another answer than that no descriptor is free");
    start.elapsed()
}

/// A client waits 1 s for a descriptor if one has been free since the last client was refused.
#[test]
fn role_server_short_of_descriptors_again() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    if !common::plays("role_server_short_of_descriptors_again") {
        return;
    }
    let server = server();
    let addr = server.local_addr();
    let uses_a_key = |raw: &mut Raw| {
        raw.send(&request(4, &[string(b"/n"), int(1)]));
        raw.read(8);
    };
    let mut raws: Vec<Raw> = (0..4).map(|_| Raw::valid(addr)).collect();
    raws.iter_mut().for_each(uses_a_key);
    // The limit allows only one more descriptor, for the client's end of a connection.
    let next = std::fs::File::open("/dev/null").unwrap().as_raw_fd() as u64;
    setrlimit(Resource::Nofile, Rlimit { current: Some(next + 1), ..getrlimit(Resource::Nofile) }).unwrap();
    let second = Duration::from_secs(1);
    assert!(refused_after(addr) >= second);
    // The client has left, so a descriptor is free. When the server answers the ping, it has tried again to accept a
    // client (`ACCEPT_PAUSE` is 50 ms).
    std::thread::sleep(Duration::from_millis(60));
    raws[1].ping();
    let quiet = refused_after(addr);
    // Two descriptors are free, and a client uses them.
    drop(raws.pop());
    let mut member = Raw::valid(addr);
    uses_a_key(&mut member);
    let used = refused_after(addr);
    println!("\nrefused after {quiet:?} when nobody came, and after {used:?} when a client was let in");
    assert!(quiet >= second && used >= second);
    println!("\nwaited each time");
}

#[test]
fn a_client_waits_for_a_descriptor_if_one_was_free_since_the_last_refusal() {
    plays_well(common::role("role_server_short_of_descriptors_again"), "waited each time");
}
