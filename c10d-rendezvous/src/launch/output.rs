//! The ranks' output: read as it comes, kept within bounds, printed by whole lines.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, poll};

use super::report::Captured;

/// A line longer than this is printed in pieces.
const LONGEST_LINE: usize = 64 << 10;
/// Kept of each captured stream, and of standard error for the report.
const CAPTURE: usize = 16 << 20;
const TAIL: usize = 4 << 10;
const TAIL_LINES: usize = 20;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Channel {
    Out,
    Err,
}

/// One stream of one rank.
pub(super) struct Stream {
    source: File,
    index: usize,
    channel: Channel,
    /// `None`: capture.
    lines: Option<Lines>,
}

impl Stream {
    /// `index` is the rank's place on this host.
    pub(super) fn new(source: OwnedFd, index: usize, rank: u32, channel: Channel, capture: bool) -> io::Result<Stream> {
        rustix::io::ioctl_fionbio(&source, true)?;
        let lines = if capture { None } else { Some(Lines::new(rank)) };
        Ok(Stream { source: source.into(), index, channel, lines })
    }
}

/// What is kept, per rank of this host.
pub(super) type Kept = Arc<Mutex<Vec<Captured>>>;

/// Reads all streams to their ends, or until `stop` becomes readable and nothing more is there.
pub(super) fn pump(mut streams: Vec<Stream>, kept: &Kept, stop: &OwnedFd) {
    let mut buffer = vec![0; 64 << 10];
    let mut stopping = false;
    while !streams.is_empty() {
        if !stopping {
            let mut fds: Vec<PollFd<'_>> = vec![PollFd::new(stop, PollFlags::IN)];
            fds.extend(streams.iter().map(|stream| PollFd::new(&stream.source, PollFlags::IN)));
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => stopping = !fds[0].revents().is_empty(),
                Err(_) => return,
            }
        }
        streams.retain_mut(|stream| match stream.source.read(&mut buffer) {
            Ok(n) if n > 0 => {
                take(stream, &buffer[..n], kept);
                true
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => true,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock && !stopping => true,
            _ => {
                if let Some(lines) = &mut stream.lines {
                    print(stream.channel, &lines.rest());
                }
                false
            }
        });
    }
}

fn take(stream: &mut Stream, bytes: &[u8], kept: &Kept) {
    let limit = if stream.lines.is_some() { TAIL } else { CAPTURE };
    if stream.channel == Channel::Err || stream.lines.is_none() {
        let mut kept = kept.lock();
        if let Some(rank) = kept.get_mut(stream.index) {
            let into = if stream.channel == Channel::Out { &mut rank.stdout } else { &mut rank.stderr };
            into.extend_from_slice(bytes);
            if into.len() > 2 * limit {
                into.drain(..into.len() - limit);
            }
        }
    }
    if let Some(lines) = &mut stream.lines {
        print(stream.channel, &lines.push(bytes));
    }
}

/// A launcher whose own output is closed goes on.
fn print(channel: Channel, text: &[u8]) {
    if text.is_empty() {
        return;
    }
    let _ = match channel {
        Channel::Out => io::stdout().lock().write_all(text).and_then(|()| io::stdout().flush()),
        Channel::Err => io::stderr().lock().write_all(text),
    };
}

/// The last lines of what was kept of standard error.
pub(super) fn tail(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(&stderr[stderr.len().saturating_sub(TAIL)..]).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

/// Cuts a stream into lines with the rank in front.
struct Lines {
    prefix: String,
    line: Vec<u8>,
}

impl Lines {
    fn new(rank: u32) -> Lines {
        Lines { prefix: format!("[{rank}] "), line: Vec::new() }
    }

    /// The lines that `bytes` completes.
    fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let mut piece = piece;
            while self.line.len() + piece.len() > LONGEST_LINE {
                let (head, rest) = piece.split_at(LONGEST_LINE - self.line.len());
                self.line.extend_from_slice(head);
                self.end(&mut out);
                piece = rest;
            }
            self.line.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                self.end(&mut out);
            }
        }
        out
    }

    /// What is left at the end, as a line.
    fn rest(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        if !self.line.is_empty() {
            self.end(&mut out);
        }
        out
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.prefix.as_bytes());
        out.append(&mut self.line);
        if !out.ends_with(b"\n") {
            out.push(b'\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_wherever_the_stream_is_cut() {
        let text = b"one\n\ntwo\nthree";
        for cut in 0..=text.len() {
            let mut lines = Lines::new(3);
            let mut out = lines.push(&text[..cut]);
            out.extend(lines.push(&text[cut..]));
            out.extend(lines.rest());
            assert_eq!(out, b"[3] one\n[3] \n[3] two\n[3] three\n");
        }
    }

    #[test]
    fn a_line_without_end_is_printed_in_pieces() {
        let mut lines = Lines::new(0);
        let out = lines.push(&vec![b'x'; 3 * LONGEST_LINE + 5]);
        assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), 3);
        assert_eq!(lines.line.len(), 5);
        assert!(lines.line.capacity() <= 2 * LONGEST_LINE);
    }

    #[test]
    fn the_tail_is_the_last_lines() {
        let text: String = (0..1000).map(|i| format!("line {i}\n")).collect();
        let tail = tail(text.as_bytes());
        assert!(tail.ends_with("line 999") && tail.lines().count() == TAIL_LINES, "{tail}");
    }
}
