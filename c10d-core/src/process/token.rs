//! The token of a process, by which ranks recognise that they are in one process.

use super::{PerProcess, random};
use crate::Result;
use crate::sync::Mutex;

/// See [`token`].
pub type Token = [u8; 16];

/// Returns the token of this process: random bytes, which differ even from those of its forked children.
///
/// # Errors
/// `Resource` if the system has no random source.
pub fn token() -> Result<Token> {
    static TOKEN: PerProcess<Mutex<Option<Token>>> = PerProcess::new();
    let mut token = TOKEN.get().lock();
    match *token {
        Some(token) => Ok(token),
        None => Ok(*token.insert(random()?)),
    }
}
