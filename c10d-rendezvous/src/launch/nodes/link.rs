//! The connections between launchers: host 0 has one to each other host. Each connection is opened before the ranks
//! start, with a token of this launch.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

/// The largest length of a line in bytes, and of a shown text from another host in characters.
const LINE: usize = 4 << 10;
const TEXT: usize = 500;
/// How long a host may leave keepalive probes unanswered before it counts as dead. The host's operating system answers
/// them, even if its launcher is stopped.
const SILENCE: Duration = Duration::from_secs(20);

#[derive(Debug, PartialEq)]
pub(super) enum Word {
    /// A rank failed; the text says how.
    Failed(String),
    /// All ranks of the host have ended.
    Done,
}

pub(super) struct Link {
    pub(super) node: u32,
    stream: TcpStream,
    unread: Vec<u8>,
    /// Whether the other host has reported the end of its ranks.
    pub(super) done: bool,
}

impl Link {
    pub(super) fn new(node: u32, stream: TcpStream) -> io::Result<Link> {
        stream.set_nonblocking(true)?;
        let socket = SockRef::from(&stream);
        let alive = TcpKeepalive::new().with_time(SILENCE / 4).with_interval(SILENCE / 8).with_retries(6);
        socket.set_tcp_keepalive(&alive)?;
        socket.set_tcp_user_timeout(Some(SILENCE))?;
        socket.set_tcp_nodelay(true)?;
        Ok(Link { node, stream, unread: Vec::new(), done: false })
    }

    pub(super) fn send(&mut self, word: &Word) {
        let line = match word {
            Word::Failed(what) => format!("failed {}\n", plain(what)),
            Word::Done => "done\n".to_owned(),
        };
        // The few messages of a job fit into the socket's buffer, so this does not block. Errors are ignored: `receive`
        // will notice that the connection is broken.
        let _ = self.stream.write_all(line.as_bytes());
    }

    /// Returns the messages that have arrived. An error means that the connection has ended.
    pub(super) fn receive(&mut self) -> io::Result<Vec<Word>> {
        let ended = take_in(&mut self.stream, &mut self.unread);
        let mut words = Vec::new();
        while let Some(line) = line(&mut self.unread) {
            match line.split_once(' ') {
                Some(("failed", what)) => words.push(Word::Failed(plain(what))),
                _ if line == "done" => {
                    self.done = true;
                    words.push(Word::Done);
                }
                _ => {}
            }
        }
        if words.is_empty() { ended.map(|()| words) } else { Ok(words) }
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// Reads all available bytes. Returns an error if the other side closed the connection or sent too much.
pub(super) fn take_in(stream: &mut TcpStream, unread: &mut Vec<u8>) -> io::Result<()> {
    let mut buffer = [0; LINE];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => unread.extend_from_slice(&buffer[..n]),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
        if unread.len() >= LINE && !unread.contains(&b'\n') || unread.len() >= 16 * LINE {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
}

/// Takes the next complete line, without its end.
pub(super) fn line(unread: &mut Vec<u8>) -> Option<String> {
    let end = unread.iter().position(|byte| *byte == b'\n')?;
    let line: Vec<u8> = unread.drain(..=end).collect();
    Some(String::from_utf8_lossy(&line[..end]).into_owned())
}

/// Makes a text of another host safe to show on a terminal: one line of limited length, without control characters.
pub(super) fn plain(text: &str) -> String {
    let mut out: String =
        text.chars().take(TEXT).map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect();
    if text.chars().nth(TEXT).is_some() {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn pair() -> (Link, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let there = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (Link::new(1, listener.accept().unwrap().0).unwrap(), there)
    }

    fn received(link: &mut Link) -> io::Result<Vec<Word>> {
        let mut fds = [rustix::event::PollFd::new(link, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut fds, None).unwrap();
        link.receive()
    }

    #[test]
    fn text_is_plain_and_bounded() {
        let (mut link, mut there) = pair();
        there.write_all(b"failed rank 1\x1b]0;owned\x07 \xc2\x9b2J\xff died\nnews of a later version\ndone\n").unwrap();
        let words = received(&mut link).unwrap();
        let what = "rank 1\u{fffd}]0;owned\u{fffd} \u{fffd}2J\u{fffd} died".to_owned();
        assert_eq!(words, [Word::Failed(what), Word::Done]);
        assert!(link.done);
        there.write_all(format!("failed {}\n", "x".repeat(3000)).as_bytes()).unwrap();
        let Word::Failed(what) = &received(&mut link).unwrap()[0] else { panic!("another message") };
        assert_eq!(what.chars().count(), TEXT + 1);
        drop(there);
        assert!(received(&mut link).is_err());
    }

    #[test]
    fn a_line_that_is_too_long_ends_the_connection() {
        let (mut link, mut there) = pair();
        let sender = std::thread::spawn(move || there.write_all(&vec![b'x'; 1 << 20]));
        while received(&mut link).is_ok_and(|words| words.is_empty()) {}
        drop(link);
        let _ = sender.join();
    }
}
