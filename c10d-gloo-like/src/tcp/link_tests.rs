use std::io::Write;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use c10d_core::ErrorKind;
use socket2::SockRef;

use super::*;
use crate::link::Link;
use crate::link::tests::{exchange, seeds};
use crate::tcp::{Listener, dial};

fn pair(ip: IpAddr) -> Option<(TcpStream, TcpStream)> {
    let listener = match Listener::bind(ip) {
        Ok(l) => l,
        Err(e) => {
            println!("skipped: {e}");
            return None;
        }
    };
    let deadline = Instant::now() + Duration::from_secs(10);
    let a = dial(listener.address().unwrap(), deadline).unwrap();
    Some((a, listener.accept(deadline).unwrap().unwrap().0))
}

fn any() -> (TcpStream, TcpStream) {
    pair(IpAddr::from([127, 0, 0, 1])).unwrap()
}

fn run(ip: IpAddr) {
    let Some((a, b)) = pair(ip) else { return };
    std::thread::scope(|s| {
        s.spawn(|| exchange(Link::Tcp(TcpLink::new(a, 1)), 0, seeds(), 1 << 20));
        s.spawn(|| exchange(Link::Tcp(TcpLink::new(b, 0)), 1, seeds(), 1 << 20));
    });
}

#[test]
fn a_whole_item_is_shown_when_its_last_byte_has_come() {
    let (mut a, b) = any();
    let mut link = TcpLink::new(b, 0);
    assert!(link.peek_whole(8).is_none());
    a.write_all(&[1, 2, 3, 4, 5]).unwrap();
    while link.peek_whole(5).is_none() {}
    assert!(link.peek_whole(8).is_none());
    a.write_all(&[6, 7, 8, 9]).unwrap();
    let bytes = loop {
        if let Some(bytes) = link.peek_whole(8) {
            break bytes.to_vec();
        }
    };
    assert_eq!(bytes[..8], [1, 2, 3, 4, 5, 6, 7, 8]);
    // `peek_whole` does not report the end of the connection. A read or a `peek` reports it.
    drop(a);
    link.consume(bytes.len());
    let mut rest = vec![0; 9 - bytes.len()];
    while !rest.is_empty() && link.read(&mut rest).unwrap() == 0 {}
    while link.gone.is_none() {
        assert!(link.peek_whole(8).is_none());
    }
    assert!(link.peek().is_err());
}

#[test]
fn items_of_any_size_arrive_over_ipv4() {
    run(IpAddr::from([127, 0, 0, 1]));
}

#[test]
fn items_of_any_size_arrive_over_ipv6() {
    run("::1".parse().unwrap());
}

/// Waits until the link shows more than `more_than` bytes, and returns their number. Panics after ten seconds.
fn wait(link: &mut TcpLink, more_than: usize) -> Result<usize> {
    let end = Instant::now() + Duration::from_secs(10);
    while Instant::now() < end {
        let n = link.peek()?.len();
        if n > more_than {
            return Ok(n);
        }
    }
    panic!("neither bytes nor an error");
}

/// Returns how the peer, rank 4, died.
fn how(e: Error) -> String {
    assert_eq!(e.report().guilty, [4]);
    match e.kind() {
        ErrorKind::PeerDead { how } => how.clone(),
        _ => panic!("{e}"),
    }
}

#[test]
fn the_end_comes_after_the_last_byte() {
    let (mut a, b) = any();
    let mut link = TcpLink::new(b, 4);
    a.write_all(&[9; 100]).unwrap();
    drop(a);
    let mut got = 0;
    while got < 99 {
        let n = wait(&mut link, 0).unwrap().min(99 - got);
        link.consume(n);
        got += n;
    }
    // The link shows the last byte as often as the caller asks, since a caller that waits for several peers asks again
    // and again.
    for _ in 0..3 {
        assert_eq!(wait(&mut link, 0).unwrap(), 1);
        assert_eq!(link.glance().len(), 1);
    }
    let mut rest = [0; 2];
    assert_eq!(link.read(&mut rest).unwrap(), 1);
    assert_eq!(how(link.read(&mut rest).unwrap_err()), "connection closed");
}

#[test]
fn a_reset_is_reported_as_a_reset() {
    let (a, b) = any();
    let mut link = TcpLink::new(b, 4);
    SockRef::from(&a).set_linger(Some(Duration::ZERO)).unwrap();
    drop(a);
    assert_eq!(how(wait(&mut link, 0).unwrap_err()), "connection reset");
    assert_eq!(how(link.write(&[1], &[]).unwrap_err()), "connection closed");
}

#[test]
fn a_write_stops_when_nobody_reads() {
    let (a, _b) = any();
    let mut link = TcpLink::new(a, 4);
    let block = vec![0; 1 << 20];
    let sent = (0..1000).map(|_| link.write(&[1; 32], &block).unwrap()).take_while(|n| *n > 0).count();
    assert!(sent < 1000);
}
