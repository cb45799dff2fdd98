//! Messages on standard error. If nobody reads them, the program still ends, and with the same exit code.

use std::fmt::Display;
use std::io::Write;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

/// How long a full pipe that nobody reads may delay the end of this program.
const PATIENCE: Duration = Duration::from_millis(500);

/// Writes a line. If the pipe is full and nobody reads it, `say` returns after half a second.
pub(crate) fn say(line: impl Display) {
    let line = format!("{line}\n");
    let (written, wait) = sync_channel(1);
    let write = move || {
        let _ = std::io::stderr().write_all(line.as_bytes());
        let _ = written.send(());
    };
    if std::thread::Builder::new().name("c10d-say".into()).spawn(write).is_ok() {
        let _ = wait.recv_timeout(PATIENCE);
    }
}

/// Makes foreign text safe to show on a terminal: without control characters, and with a limited length.
pub(crate) fn plain(text: &str) -> String {
    const MOST: usize = 2000;
    let mut out: String = text
        .chars()
        .take(MOST)
        .map(|c| if c.is_control() && c != '\n' { char::REPLACEMENT_CHARACTER } else { c })
        .collect();
    if text.chars().nth(MOST).is_some() {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(plain("a\x1b[2Jb\nc\u{9b}"), "a\u{fffd}[2Jb\nc\u{fffd}");
        assert_eq!(plain(&"x".repeat(5000)).chars().count(), 2001);
    }
}
