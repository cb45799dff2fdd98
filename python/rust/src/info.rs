//! The text of `python -m c10d_rs info`: the version, the backends, the plugins, and which backend runs each op.

use std::fmt::Write;

use c10d::backend::{BackendMap, Registry};
use c10d::{DispatchKey, OpKind, Result};

pub(crate) fn info() -> Result<String> {
    let mut out = format!("version {}\n", env!("CARGO_PKG_VERSION"));
    let plugins = c10d::plugins::search()?.environment().load();
    for decision in &plugins.decisions {
        let _ = writeln!(out, "plugin {decision}");
    }
    let registry = Registry::collect(&[c10d::builtin().to_vec(), plugins.providers].concat())?;
    for (backend, source) in registry.backends() {
        let devices: Vec<_> = backend.keys.iter().map(|key| key.device_word()).collect();
        let why = (backend.probe)().err().map(|e| e.report().what.clone());
        let why = why.map_or("available".to_owned(), |why| format!("not here: {why}"));
        let _ = writeln!(out, "backend {} of {source}, devices {}: {why}", backend.name, devices.join(", "));
    }
    let rows = registry.table(&BackendMap::default())?;
    // The table shows the backends of a group that names no backends. "-" means that no backend runs the op.
    let _ = write!(out, "\n{:<30}", "op");
    for key in DispatchKey::ALL {
        let _ = write!(out, " {:<14}", key.name());
    }
    for op in OpKind::ALL {
        let _ = write!(out, "\n{:<30}", op.name());
        for key in DispatchKey::ALL {
            let row = rows.iter().find(|row| row.op == *op && row.key == key);
            let _ = write!(out, " {:<14}", row.and_then(|row| row.backend.as_deref()).unwrap_or("-"));
        }
    }
    Ok(out.lines().map(|line| format!("{}\n", line.trim_end())).collect())
}
