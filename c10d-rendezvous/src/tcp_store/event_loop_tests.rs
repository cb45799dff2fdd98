use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use super::Limits;
use super::connection::Connection;
use super::event_loop::{BYTES_PER_TURN, Turn};
use super::keyspace::Keyspace;

/// In one turn, the server reads only a limited number of bytes of a client, even if the client has sent more.
#[test]
fn a_turn_of_a_client_with_large_values_ends() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (receiver, peer) = listener.accept().unwrap();
    let value = [&[1][..], &2u64.to_le_bytes(), b"/k", &(1u64 << 20).to_le_bytes()].concat();
    let bytes = [&[0, 0xce, 0xf7, 0x85, 0x3c][..], &value, &vec![7; 1 << 20]].concat();
    sender.set_nonblocking(true).unwrap();
    receiver.set_nonblocking(true).unwrap();
    let limits = Limits::default();
    let mut client = Connection::new(mio::net::TcpStream::from_std(receiver), peer, limits);
    // More than `BYTES_PER_TURN` bytes arrive before the turn begins.
    let (mut sent, until) = (0, Instant::now() + Duration::from_secs(20));
    while rustix::io::ioctl_fionread(&client.stream).unwrap() as usize <= BYTES_PER_TURN {
        sent += sender.write(&bytes[sent..]).unwrap_or(0);
        assert!(Instant::now() < until, "only {sent} bytes were accepted");
    }
    let (mut keyspace, mut woken, mut buffer) = (Keyspace::new(limits), Vec::new(), vec![0; BYTES_PER_TURN]);
    let mut turn = Turn { id: 2, keyspace: &mut keyspace, woken: &mut woken, task: None, work: 0, member: false };
    assert_eq!(turn.run(&mut client, &mut buffer), Ok(true), "the turn is over, and there is more");
}
