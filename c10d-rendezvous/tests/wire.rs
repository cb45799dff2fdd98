//! Tests of the bytes on the wire: this library's client with a scripted server, and its server with scripted clients.

use crate::common;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use c10d_core::{Result, Store};
use c10d_rendezvous::TcpStore;
use common::{HELLO, Raw, client, int, request, server, soon, string};

/// The bytes of a request, or of a request and a ping, and the bytes of the answer.
type Exchange = (Vec<u8>, Vec<u8>);

/// Starts a server that expects these requests and sends these answers, in one piece or byte by byte. Returns a client
/// of the server, and the server's thread.
fn script(exchanges: Vec<Exchange>, bytewise: bool) -> (TcpStore, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        // PyTorch's server needs the whole handshake in one piece.
        let mut hello = [0; 64];
        let n = stream.read(&mut hello).unwrap();
        assert_eq!(hello[..6], [HELLO, &[0x0d]].concat());
        assert_eq!(n, 10);
        stream.write_all(&hello[6..10]).unwrap();
        for (expected, answer) in exchanges {
            let mut bytes = vec![0; expected.len()];
            stream.read_exact(&mut bytes).unwrap();
            assert_eq!(bytes, expected);
            if bytewise {
                for byte in answer {
                    stream.write_all(&[byte]).unwrap();
                }
            } else {
                stream.write_all(&answer).unwrap();
            }
        }
        assert_eq!(stream.read(&mut [0]).unwrap(), 0, "the client sends nothing more");
    });
    (client(addr), thread)
}

#[test]
fn the_client_sends_the_bytes_that_pytorchs_client_sends() {
    let pid = std::process::id().to_le_bytes();
    let ping = [&[0x0d][..], &pid].concat();
    let k = || string(b"/k");
    // A request without an answer is followed by a ping.
    let without_answer = |request: Vec<u8>| vec![([request, ping.clone()].concat(), pid.to_vec())];
    type Verb = fn(&TcpStore, Instant) -> Result<String>;
    let cases: Vec<(Verb, Vec<Exchange>, &str)> = vec![
        (|s, t| s.set("k", b"v", t).map(|()| "ok".into()), without_answer(request(1, &[k(), string(b"v")])), "ok"),
        (
            |s, t| s.get("k", t).map(|v| String::from_utf8(v).unwrap()),
            vec![(request(6, &[int(1), k()]), vec![0]), (request(3, &[k()]), string(b"value"))],
            "value",
        ),
        (
            |s, t| s.wait(&["k", "l"], t).map(|()| "ok".into()),
            vec![(request(6, &[int(2), k(), string(b"/l")]), vec![0])],
            "ok",
        ),
        (|s, t| s.add("k", -3, t).map(|n| n.to_string()), vec![(request(4, &[k(), int(-3)]), int(39))], "39"),
        (
            |s, t| s.compare_set("k", b"", b"x", t).map(|v| String::from_utf8(v).unwrap()),
            vec![(request(2, &[k(), string(b""), string(b"x")]), string(b"x"))],
            "x",
        ),
        (|s, t| s.append("k", b"v", t).map(|()| "ok".into()), without_answer(request(9, &[k(), string(b"v")])), "ok"),
        (|s, t| s.check(&["k"], t).map(|b| b.to_string()), vec![(request(5, &[int(1), k()]), vec![1])], "false"),
        (|s, t| s.delete("k", t).map(|b| b.to_string()), vec![(request(8, &[k()]), int(1))], "true"),
        (|s, t| s.num_keys(t).map(|n| n.to_string()), vec![(vec![7], int(12))], "12"),
        (
            |s, t| s.multi_get(&["k", "l"], t).map(|v| String::from_utf8(v.join(&b'|')).unwrap()),
            vec![
                (request(6, &[int(2), k(), string(b"/l")]), vec![0]),
                (request(10, &[int(2), k(), string(b"/l")]), [string(b"1"), string(b"")].concat()),
            ],
            "1|",
        ),
        (
            |s, t| s.multi_set(&[("k", b"1"), ("l", b"")], t).map(|()| "ok".into()),
            without_answer(request(11, &[int(2), k(), string(b"1"), string(b"/l"), string(b"")])),
            "ok",
        ),
        (
            |s, t| s.queue_push("k", b"v", t).map(|()| "ok".into()),
            without_answer(request(14, &[k(), string(b"v")])),
            "ok",
        ),
        (
            |s, t| s.queue_pop("k", t).map(|v| String::from_utf8(v).unwrap()),
            // Another client takes the item between the first wait and the first pop.
            vec![
                (request(6, &[int(1), k()]), vec![0]),
                (request(15, &[k()]), int(0)),
                (request(6, &[int(1), k()]), vec![0]),
                (request(15, &[k()]), [int(1), string(b"item")].concat()),
            ],
            "item",
        ),
        (|s, t| s.queue_try_pop("k", t).map(|v| format!("{v:?}")), vec![(request(15, &[k()]), int(0))], "None"),
        (|s, t| s.queue_len("k", t).map(|n| n.to_string()), vec![(request(16, &[k()]), int(4))], "4"),
        (
            |s, t| s.list_keys(t).map(|v| v.join("|")),
            vec![(vec![17], [int(3), k(), string(b"init/"), string(b"/a/b")].concat())],
            "k|a/b",
        ),
        (|s, t| s.barrier("k", 4, t).map(|()| "ok".into()), vec![(request(18, &[k(), int(4)]), vec![0])], "ok"),
        (|s, t| s.count_worker(t).map(|n| n.to_string()), vec![(request(4, &[string(b"init/"), int(1)]), int(2))], "2"),
    ];
    for (verb, exchange, result) in cases {
        for bytewise in [false, true] {
            let (store, server) = script(exchange.clone(), bytewise);
            assert_eq!(verb(&store, soon()).unwrap(), result);
            drop(store);
            server.join().unwrap();
        }
    }
}

#[test]
fn a_connection_that_the_server_closed_meanwhile_is_replaced() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let (closed, wait) = std::sync::mpsc::channel();
    let server = std::thread::spawn(move || {
        for answer in [11, 12] {
            let (mut stream, _) = listener.accept().unwrap();
            let mut hello = [0; 10];
            stream.read_exact(&mut hello).unwrap();
            stream.write_all(&hello[6..]).unwrap();
            stream.read_exact(&mut [0]).unwrap();
            stream.write_all(&int(answer)).unwrap();
            drop(stream);
            closed.send(()).unwrap();
        }
    });
    let store = client(addr);
    for answer in [11, 12] {
        assert_eq!(store.num_keys(soon()).unwrap(), answer);
        wait.recv().unwrap();
    }
    server.join().unwrap();
}

/// Returns the bytes of a session with every command, and the bytes of all answers.
fn session() -> (Vec<u8>, Vec<u8>) {
    let (k, q) = (|| string(b"/k"), || string(b"/q"));
    let exchanges = [
        (HELLO.to_vec(), vec![]),
        (vec![13, 9, 8, 7, 6], vec![9, 8, 7, 6]),
        (request(1, &[k(), string(b"\0v\xff")]), vec![]),
        (request(3, &[k()]), string(b"\0v\xff")),
        (request(3, &[string(b"/none")]), string(b"")),
        (request(2, &[string(b"/c"), string(b""), string(b"1")]), string(b"1")),
        (request(4, &[string(b"/n"), int(-4)]), int(-4)),
        (request(5, &[int(2), k(), string(b"/none")]), vec![1]),
        (request(5, &[int(0)]), vec![0]),
        (request(6, &[int(2), k(), string(b"/n")]), vec![0]),
        (vec![7], int(3)),
        (request(8, &[k()]), int(1)),
        (request(8, &[k()]), int(0)),
        (request(9, &[k(), string(b"ab")]), vec![]),
        (request(9, &[k(), string(b"")]), vec![]),
        (request(11, &[int(2), string(b"/x"), string(b""), k(), string(b"y")]), vec![]),
        (
            request(10, &[int(3), k(), string(b"/x"), string(b"/n")]),
            [string(b"y"), string(b""), string(b"-4")].concat(),
        ),
        (vec![12], vec![1]),
        (request(14, &[q(), string(b"item")]), vec![]),
        (request(16, &[q()]), int(1)),
        (request(15, &[q()]), [int(1), string(b"item")].concat()),
        (request(15, &[q()]), int(0)),
        (request(18, &[string(b"/b"), int(1)]), vec![0]),
        (request(8, &[k()]), int(1)),
        (request(8, &[string(b"/x")]), int(1)),
        (request(8, &[string(b"/n")]), int(1)),
        (request(8, &[string(b"/b")]), int(1)),
        (vec![17], [int(1), string(b"/c")].concat()),
        (request(8, &[string(b"/c")]), int(1)),
    ];
    let (sent, received): (Vec<_>, Vec<_>) = exchanges.into_iter().unzip();
    (sent.concat(), received.concat())
}

#[test]
fn the_server_answers_alike_wherever_the_bytes_are_cut() {
    let server = server();
    let (sent, received) = session();
    for cut in 0..=sent.len() {
        let mut raw = Raw::new(server.local_addr(), &sent[..cut]);
        // With this pause, the server usually gets the first part alone.
        std::thread::sleep(Duration::from_micros(300));
        raw.send(&sent[cut..]);
        assert_eq!(raw.read(received.len()), received, "cut at {cut}");
    }
    let mut raw = Raw::new(server.local_addr(), &[]);
    for byte in sent {
        raw.send(&[byte]);
    }
    assert_eq!(raw.read(received.len()), received);
    raw.0.shutdown(std::net::Shutdown::Write).unwrap();
    raw.closed();
}

#[test]
fn a_wait_is_answered_when_its_keys_come_from_others() {
    let server = server();
    let (mut a, mut b) = (Raw::valid(server.local_addr()), Raw::valid(server.local_addr()));
    a.send(&request(6, &[int(2), string(b"/x"), string(b"/y")]));
    b.send(&request(1, &[string(b"/x"), string(b"")]));
    // An answer to the wait of `a` would come before the answer to the ping of `a`.
    b.ping();
    a.ping();
    b.send(&request(4, &[string(b"/y"), int(1)]));
    assert_eq!(b.read(8), int(1));
    assert_eq!(a.read(1), [0]);
    a.send(&request(6, &[int(1), string(b"/z")]));
    a.send(&[12]);
    assert_eq!(a.read(1), [1]);
    b.send(&request(1, &[string(b"/z"), string(b"")]));
    b.ping();
    a.ping();
}
