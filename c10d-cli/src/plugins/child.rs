//! A process in which a plugin may do its worst.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use super::{LOAD_VERB, Row};

/// Loading may take so long.
const LIMIT: Duration = Duration::from_secs(5);
/// In front of what the parent shall read; a plugin's constructor may print, too.
pub(super) const MARK: &str = "c10d-plugin ";

/// Loads the file in a child of this program, and gives what it decided, or how it ended instead.
pub(super) fn load(path: &Path) -> std::io::Result<Result<Row, String>> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(LOAD_VERB).arg(path).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut child = command.spawn()?;
    let mut pipe = child.stdout.take();
    let (send, heard) = channel();
    std::thread::spawn(move || {
        let mut text = Vec::new();
        let _ = pipe.as_mut().map(|p| p.take(1 << 20).read_to_end(&mut text));
        let _ = send.send(text);
    });
    let until = Instant::now() + LIMIT;
    let status = loop {
        match child.try_wait()? {
            Some(status) => break Some(status),
            None if Instant::now() >= until => break None,
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    let Some(status) = status else {
        child.kill()?;
        child.wait()?;
        return Ok(Err(format!("loading it took longer than {} s", LIMIT.as_secs())));
    };
    // Somebody whom the plugin started may hold the pipe still.
    let text = heard.recv_timeout(Duration::from_secs(1)).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let said = text.lines().rev().find_map(|line| line.strip_prefix(MARK));
    let row = said.and_then(|json| serde_json::from_str(json).ok());
    Ok(row.ok_or_else(|| format!("the process that loaded it ended early: {status}")))
}
