//! A process's name.

use super::{PerProcess, random};
use crate::Result;
use crate::sync::Mutex;

/// See [`token`].
pub type Token = [u8; 16];

/// What this process is told from all others by: random, the same for all ranks of it, another one in its forked children.
pub fn token() -> Result<Token> {
    static TOKEN: PerProcess<Mutex<Option<Token>>> = PerProcess::new();
    let mut token = TOKEN.get().lock();
    match *token {
        Some(token) => Ok(token),
        None => Ok(*token.insert(random()?)),
    }
}
