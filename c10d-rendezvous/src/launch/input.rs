//! The ranks' standard input.

use std::io::{self, IsTerminal, Write};
use std::os::fd::OwnedFd;
use std::process::ChildStdin;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::options::{Output, Stdin};

/// The interval for checking whether this process may read the terminal.
const BACKGROUND: Duration = Duration::from_millis(300);

/// The source of a rank's standard input.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Nothing,
    /// The launcher's own standard input.
    Ours,
    /// The launcher reads its standard input and copies it to the rank.
    Fed,
    /// The launcher's caller writes the rank's input.
    Callers,
}

impl Source {
    pub(super) fn of(output: Output, stdin: Stdin, rank: u32) -> Source {
        match (output, stdin) {
            (Output::Piped, _) => Source::Callers,
            (_, Stdin::None) => Source::Nothing,
            (_, Stdin::Rank0) if rank > 0 => Source::Nothing,
            // A terminal cannot be passed on: reading from the terminal would stop the ranks, which are in a background
            // process group.
            (_, Stdin::Rank0) if !io::stdin().is_terminal() => Source::Ours,
            (_, Stdin::Rank0 | Stdin::All) => Source::Fed,
        }
    }
}

/// Copies standard input to all sinks until the input ends, or until `stop` becomes readable. A closed sink is left
/// out.
pub(super) fn feed(mut sinks: Vec<ChildStdin>, stop: &OwnedFd) {
    let stdin = io::stdin();
    let terminal = stdin.is_terminal();
    let mut buffer = vec![0; 64 << 10];
    while !sinks.is_empty() {
        let background = terminal && !is_foreground();
        let mut fds = vec![PollFd::new(stop, PollFlags::IN)];
        if !background {
            fds.push(PollFd::new(&stdin, PollFlags::IN));
        }
        let pause = Timespec { tv_sec: 0, tv_nsec: BACKGROUND.subsec_nanos().into() };
        match poll(&mut fds, background.then_some(&pause)) {
            Ok(_) if !fds[0].revents().is_empty() => return,
            Ok(_) if fds.get(1).is_some_and(|fd| !fd.revents().is_empty()) => {}
            Ok(_) | Err(rustix::io::Errno::INTR) => continue,
            Err(_) => return,
        }
        match rustix::io::read(&stdin, &mut buffer[..]) {
            Ok(0) => return,
            Ok(n) => sinks.retain_mut(|sink| sink.write_all(&buffer[..n]).is_ok()),
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
            Err(_) => return,
        }
    }
}

/// Whether this process may read its terminal. The operating system stops a background process that reads the terminal.
fn is_foreground() -> bool {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The fields after the name, which is in parentheses: state, parent, group, session, terminal, and the terminal's
    // foreground group.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    matches!((fields.get(2), fields.get(5)), (Some(own), Some(terminals)) if own == terminals)
}
