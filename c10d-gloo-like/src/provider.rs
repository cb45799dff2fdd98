//! The registration of this crate.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use c10d_core::backend::{Backend, GroupInit, Provider, Registration};
use c10d_core::{DispatchKey, Error, Result};

use crate::backend::GlooLike;
use crate::mesh::{ADDR, IFNAME, Transport};
use crate::schedule::Table;
use crate::tcp::SHORTEST_SILENCE;

/// The CPU backend, under the name `gloo-like`.
///
/// The hint `gloo-like.transport` (or the variable `C10D_TRANSPORT`) is `auto`, `shm` or `tcp`. The hint
/// `gloo-like.link_timeout` sets how many seconds another host may be silent over TCP before its ranks count as dead
/// (default 10). The hint `gloo-like.cma` (or the variable `C10D_CMA`) is `auto`, or `off` if ranks must not read large
/// blocks out of each other's processes. The hint `gloo-like.tuning` (or the variable `C10D_TUNING`) names a file that
/// `c10d perf --tune` has written. The rules in this file choose the algorithms. The variables `C10D_SOCKET_ADDR` and
/// `C10D_SOCKET_IFNAME` choose the addresses of connections over TCP.
pub static PROVIDER: Provider = Provider {
    source: env!("CARGO_PKG_NAME"),
    backends: &[Registration {
        name: crate::NAME,
        keys: &[DispatchKey::Cpu],
        priority: 100,
        probe: &|| Ok(()),
        create: &create,
    }],
    hints: &[TRANSPORT, CMA, LINK_TIMEOUT, TUNING],
    variables: &[TRANSPORT_VARIABLE, CMA_VARIABLE, TUNING_VARIABLE, IFNAME, ADDR],
    ..Provider::EMPTY
};

c10d_core::submit!(PROVIDER);

const TRANSPORT: &str = "gloo-like.transport";
const CMA: &str = "gloo-like.cma";
const LINK_TIMEOUT: &str = "gloo-like.link_timeout";
const TUNING: &str = "gloo-like.tuning";
const TRANSPORT_VARIABLE: &str = "C10D_TRANSPORT";
const CMA_VARIABLE: &str = "C10D_CMA";
const TUNING_VARIABLE: &str = "C10D_TUNING";

fn create(init: &GroupInit) -> Result<Arc<dyn Backend>> {
    Ok(Arc::new(GlooLike::connect(init, transport(init)?, cma(init)?, silence(init)?, &table(init)?)?))
}

/// Returns the table by which algorithms are chosen.
fn table(init: &GroupInit) -> Result<Table> {
    let file = init.hint(TUNING).map(OsString::from).or_else(|| std::env::var_os(TUNING_VARIABLE));
    let file = file.filter(|file| !file.to_string_lossy().trim().is_empty());
    file.map_or_else(|| Ok(Table::builtin()), |file| Table::read(Path::new(&file)))
}

/// Returns how long a peer's host may be silent.
fn silence(init: &GroupInit) -> Result<Duration> {
    const USUAL: Duration = Duration::from_secs(10);
    let Some(text) = init.hint(LINK_TIMEOUT) else { return Ok(USUAL) };
    let seconds = text.trim().parse::<f64>().ok().and_then(|s| Duration::try_from_secs_f64(s).ok());
    let longest = Duration::from_secs(3600);
    seconds.filter(|s| (SHORTEST_SILENCE..=longest).contains(s)).ok_or_else(|| {
        Error::invalid(format!(
            "{LINK_TIMEOUT} is {text:?}; it must be a number of seconds from 1 to {}",
            longest.as_secs()
        ))
    })
}

/// Whether ranks on one host may read each other's private memory.
fn cma(init: &GroupInit) -> Result<bool> {
    let (name, value) = match (init.hint(CMA), std::env::var(CMA_VARIABLE)) {
        (Some(value), _) => (CMA, value.to_owned()),
        (None, Ok(value)) if !value.trim().is_empty() => (CMA_VARIABLE, value),
        (None, _) => return Ok(true),
    };
    match value.trim() {
        "auto" => Ok(true),
        "off" => Ok(false),
        _ => Err(Error::invalid(format!("{name} is {value:?}; it must be auto or off"))),
    }
}

fn transport(init: &GroupInit) -> Result<Transport> {
    let (name, value) = match (init.hint(TRANSPORT), std::env::var(TRANSPORT_VARIABLE)) {
        (Some(value), _) => (TRANSPORT, value.to_owned()),
        (None, Ok(value)) if !value.trim().is_empty() => (TRANSPORT_VARIABLE, value),
        (None, _) => return Ok(Transport::default()),
    };
    Transport::from_name(value.trim())
        .ok_or_else(|| Error::invalid(format!("{name} is {value:?}; it must be auto, shm or tcp")))
}
