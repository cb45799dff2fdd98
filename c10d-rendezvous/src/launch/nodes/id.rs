//! Random ids: the id of a job, and the secret token by which launchers recognize each other.

use c10d_core::{Result, process};

pub(super) fn random_id() -> Result<String> {
    Ok(format!("{:016x}", u64::from_le_bytes(process::random()?)))
}

pub(super) fn is_id(text: &str) -> bool {
    text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}
