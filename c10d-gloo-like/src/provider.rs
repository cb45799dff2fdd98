//! What this crate registers.

use std::sync::Arc;

use c10d_core::registry::{Provider, Registration};
use c10d_core::{Backend, DispatchKey, Error, GroupInit, Result};

use crate::backend::GlooLike;
use crate::mesh::Transport;

/// The CPU backend, under the name `gloo-like`.
///
/// Settings: hint `gloo-like.transport` (or the variable `C10D_TRANSPORT`): `auto`, `shm` or `tcp`.
pub static PROVIDER: Provider = Provider {
    source: env!("CARGO_PKG_NAME"),
    backends: &[Registration {
        name: crate::NAME,
        keys: &[DispatchKey::Cpu],
        priority: 100,
        probe: &|| Ok(()),
        create: &create,
    }],
    ..Provider::EMPTY
};

c10d_core::submit!(PROVIDER);

fn create(init: &GroupInit) -> Result<Arc<dyn Backend>> {
    Ok(Arc::new(GlooLike::connect(init, transport(init)?)?))
}

fn transport(init: &GroupInit) -> Result<Transport> {
    const HINT: &str = "gloo-like.transport";
    const VARIABLE: &str = "C10D_TRANSPORT";
    let (name, value) = match (init.hint(HINT), std::env::var(VARIABLE)) {
        (Some(value), _) => (HINT, value.to_owned()),
        (None, Ok(value)) => (VARIABLE, value),
        (None, Err(_)) => return Ok(Transport::default()),
    };
    Transport::from_name(&value)
        .ok_or_else(|| Error::invalid(format!("{name} is {value:?}; it must be auto, shm or tcp")))
}
