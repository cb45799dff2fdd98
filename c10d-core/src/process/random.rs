//! Random bytes.

use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

use crate::{Error, ErrorKind, Result};

/// Returns unpredictable bytes from the system's random source.
///
/// # Errors
/// `Resource` if the system has no random source.
pub fn random<const N: usize>() -> Result<[u8; N]> {
    let mut out = [0; N];
    loop {
        match getrandom(&mut out[..], GetRandomFlags::empty()) {
            Ok(n) if n == out.len() => return Ok(out),
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => {
                return Err(Error::new(ErrorKind::Resource, "the system does not provide random bytes").caused_by(e));
            }
        }
    }
}
