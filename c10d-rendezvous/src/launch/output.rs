//! The ranks' output. The launcher reads it as it arrives. If the output is captured, the launcher keeps the last bytes
//! of each stream, and prints nothing. Otherwise the launcher prints the output line by line, and keeps the last bytes
//! of standard error.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use c10d_core::sync::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::lines::Lines;
use super::report::Captured;
use super::requests::Requests;

/// How long the launcher waits for the end of a line that began after a carriage return, before it prints the
/// unfinished line.
const PROGRESS: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
/// At least this many of the last bytes of a captured stream are kept.
const CAPTURE: usize = 16 << 20;
/// At least this many of the last bytes of standard error are kept, for the report of a failure.
const TAIL: usize = 4 << 10;
/// The report has at most this many of the last lines of standard error.
const TAIL_LINES: usize = 20;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Channel {
    Out,
    Err,
}

pub(super) struct Stream {
    source: File,
    index: usize,
    channel: Channel,
    /// The line splitter; `None` if the stream is captured.
    lines: Option<Lines>,
}

impl Stream {
    /// Makes a stream of the rank with this index on this host.
    pub(super) fn new(source: OwnedFd, index: usize, rank: u32, channel: Channel, capture: bool) -> io::Result<Stream> {
        rustix::io::ioctl_fionbio(&source, true)?;
        let lines = if capture { None } else { Some(Lines::new(rank)) };
        Ok(Stream { source: source.into(), index, channel, lines })
    }
}

/// The kept output of each rank of this host.
pub(super) type CapturedOutput = Arc<Mutex<Vec<Captured>>>;

/// Reads all streams to their ends, or until `stop` becomes readable and no more data is available. If nobody reads the
/// printed output any more, requests the end of the ranks.
pub(super) fn pump(mut streams: Vec<Stream>, kept: &CapturedOutput, stop: &OwnedFd, requests: &Requests) {
    let mut buffer = vec![0; 64 << 10];
    let mut printer = Printer { requests, open: None, lost: [false; 2] };
    let mut stopping = false;
    while !streams.is_empty() {
        if !stopping {
            let mut fds: Vec<PollFd<'_>> = vec![PollFd::new(stop, PollFlags::IN)];
            fds.extend(streams.iter().map(|stream| PollFd::new(&stream.source, PollFlags::IN)));
            let waits = streams.iter().any(|stream| stream.lines.as_ref().is_some_and(Lines::waits));
            match poll(&mut fds, waits.then_some(&PROGRESS)) {
                Ok(0) => streams.iter_mut().for_each(|stream| printer.print(stream, Lines::so_far)),
                Ok(_) | Err(rustix::io::Errno::INTR) => stopping = !fds[0].revents().is_empty(),
                Err(_) => return,
            }
        }
        streams.retain_mut(|stream| match stream.source.read(&mut buffer) {
            Ok(n) if n > 0 => {
                keep(stream, &buffer[..n], kept);
                printer.print(stream, |lines| lines.push(&buffer[..n]));
                true
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => true,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock && !stopping => true,
            _ => {
                printer.print(stream, Lines::rest);
                false
            }
        });
    }
}

fn keep(stream: &Stream, bytes: &[u8], kept: &CapturedOutput) {
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
}

struct Printer<'a> {
    requests: &'a Requests,
    /// The stream that printed last, if it printed an unfinished line.
    open: Option<(usize, Channel)>,
    /// Whether writing to standard output and to standard error has failed.
    lost: [bool; 2],
}

impl Printer<'_> {
    fn print(&mut self, stream: &mut Stream, text: impl FnOnce(&mut Lines) -> Vec<u8>) {
        let Some(lines) = &mut stream.lines else { return };
        let text = text(lines);
        let (me, channel) = ((stream.index, stream.channel), stream.channel);
        if text.is_empty() || self.lost[channel as usize] {
            return;
        }
        // On a terminal, the line of another stream replaces an unfinished line. In a file, the line of the other
        // stream begins on the next line.
        let between: &[u8] = match self.open {
            Some(open) if open != me && is_terminal(channel) => b"\x1b[K",
            Some(open) if open != me && open.1 == channel => b"\n",
            _ => b"",
        };
        self.open = text.ends_with(b"\r").then_some(me);
        let written = match channel {
            Channel::Out => write(&mut io::stdout().lock(), between, &text),
            Channel::Err => write(&mut io::stderr().lock(), between, &text),
        };
        let Err(e) = written else { return };
        self.lost[channel as usize] = true;
        match channel {
            Channel::Out if e.kind() == io::ErrorKind::BrokenPipe => self.requests.reader_gone(),
            // A closed standard error does not end the job.
            Channel::Err => {}
            Channel::Out => {
                let _ =
                    writeln!(io::stderr(), "c10d: the output of the ranks cannot be written any more and is lost: {e}");
            }
        }
    }
}

fn is_terminal(channel: Channel) -> bool {
    match channel {
        Channel::Out => io::stdout().is_terminal(),
        Channel::Err => io::stderr().is_terminal(),
    }
}

fn write(to: &mut impl Write, between: &[u8], text: &[u8]) -> io::Result<()> {
    to.write_all(between)?;
    to.write_all(text)?;
    to.flush()
}

pub(super) fn tail(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(&stderr[stderr.len().saturating_sub(TAIL)..]).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_the_last_lines() {
        let text: String = (0..1000).map(|i| format!("line {i}\n")).collect();
        let tail = tail(text.as_bytes());
        assert!(tail.ends_with("line 999") && tail.lines().count() == TAIL_LINES, "{tail}");
    }
}
