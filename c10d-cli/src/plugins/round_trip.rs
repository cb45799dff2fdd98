//! Tests the copies that every op on a device needs: bytes that are copied to the device and back are unchanged.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use c10d::backend::{Provider, Registry};
use c10d::device::DeviceBuffer;

/// The lengths of the round trips in bytes. Some are odd, so that some copies end inside a word.
const LENGTHS: [usize; 6] = [1, 7, 64, 4097, (64 << 10) + 3, (1 << 20) + 1];
/// The time limit of one copy.
const LIMIT: Duration = Duration::from_secs(5);
/// The time limit of all copies together. They run on a separate thread, because a call of the device's runtime may not
/// return.
const PATIENCE: Duration = Duration::from_secs(30);

/// Copies bytes to the first device of this name and back. An error says what was wrong.
pub(super) fn check(providers: &[&'static Provider], device: &'static str) -> Result<(), String> {
    let providers = providers.to_vec();
    let (tell, told) = channel();
    let copies = move || {
        let _ = tell.send(round_trips(&providers, device));
    };
    let spawned = std::thread::Builder::new().name("c10d-round-trip".into()).spawn(copies);
    spawned.map_err(|e| format!("no thread for the copies: {e}"))?;
    told.recv_timeout(PATIENCE).unwrap_or_else(|e| {
        Err(match e {
            RecvTimeoutError::Timeout => format!("the copies did not complete within {} s", PATIENCE.as_secs()),
            RecvTimeoutError::Disconnected => "the copies panicked".to_owned(),
        })
    })
}

fn round_trips(providers: &[&'static Provider], device: &str) -> Result<(), String> {
    let runtime =
        Registry::collect(providers).and_then(|registry| registry.device(device)).map_err(|e| e.to_string())?;
    for (turn, len) in LENGTHS.into_iter().enumerate() {
        let sent: Vec<u8> = (0..len).map(|i| (i * 7 + i / 251 + turn + 1) as u8).collect();
        let buffer = DeviceBuffer::from_slice(&runtime, 0, &sent, LIMIT)
            .map_err(|e| format!("{len} bytes could not be copied to the device: {e}"))?;
        let came =
            buffer.to_vec::<u8>(LIMIT).map_err(|e| format!("{len} bytes could not be copied from the device: {e}"))?;
        if let Some(i) = (0..len).find(|i| came.get(*i) != Some(&sent[*i])) {
            let (sent, came) = (sent[i], came.get(i).map_or("nothing".to_owned(), u8::to_string));
            return Err(format!(
                "of {len} bytes that were copied to the device and back, byte {i} was sent as {sent} and came back as {came}"
            ));
        }
    }
    Ok(())
}
