use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::link::Link;

/// The bytes of a WAIT for the key `k`: the command, the number of keys, and the key with its length.
const WAIT: &[u8] = &[6, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, b'k'];
const LONG: Duration = Duration::from_secs(20);

/// Starts a server that accepts the handshake, reads one WAIT and one CANCEL_WAIT, and then sends `answer`. Returns a
/// connection to the server, and the server's thread. The thread returns all bytes that the client sends after the
/// answer.
fn server(answer: &'static [u8]) -> (Link, JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut hello = [0; 10];
        stream.read_exact(&mut hello).unwrap();
        stream.write_all(&hello[6..]).unwrap();
        let mut wait = [0; WAIT.len() + 1];
        stream.read_exact(&mut wait).unwrap();
        assert_eq!(wait, *[WAIT, &[12]].concat());
        stream.write_all(answer).unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        rest
    });
    (Link::open(addr, Instant::now() + LONG).unwrap(), thread)
}

#[test]
fn a_wait_that_times_out_is_cancelled() {
    let (mut link, server) = server(&[1]);
    assert!(!link.wait(WAIT, Instant::now() + Duration::from_millis(20), LONG).unwrap());
    assert!(link.usable());
    drop(link);
    assert_eq!(server.join().unwrap(), b"");
}

#[test]
fn an_answer_that_crosses_the_cancellation_is_success() {
    let (mut link, server) = server(&[0, 1]);
    assert!(link.wait(WAIT, Instant::now() + Duration::from_millis(20), LONG).unwrap());
    assert!(link.usable());
    drop(link);
    server.join().unwrap();
}

#[test]
fn any_other_answer_is_an_error() {
    for answer in [&[2][..], &[0, 0], &[0, 2]] {
        let (mut link, server) = server(answer);
        let error = link.wait(WAIT, Instant::now() + Duration::from_millis(20), LONG).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
        drop(link);
        server.join().unwrap();
    }
}

#[test]
fn without_any_answer_the_wait_still_ends() {
    let (mut link, server) = server(&[]);
    let now = Instant::now();
    let error = link.wait(WAIT, now + Duration::from_millis(20), Duration::from_millis(20)).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    drop(link);
    server.join().unwrap();
}
