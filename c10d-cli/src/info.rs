//! `c10d info`: shows the registrations.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use c10d::backend::{BackendMap, Registry, TableRow};
use c10d::{DispatchKey, OpKind};
use comfy_table::{Table, presets};
use serde::Serialize;

use crate::Outcome;
#[cfg(feature = "plugins")]
use crate::plugins::{Row, print_rows};

/// Show the registration table (op × dispatch key → kernel → backend) and the backends.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Print JSON: `registrations` (60 rows), `backends`, `libraries`, and `plugins` (the decision about each file).
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Info {
    registrations: Vec<Registration>,
    backends: Vec<Backend>,
    libraries: Vec<Library>,
    #[cfg(feature = "plugins")]
    plugins: Vec<Row>,
}

#[derive(Serialize)]
struct Registration {
    op: &'static str,
    key: &'static str,
    source: Option<&'static str>,
    backend: Option<String>,
    why: Option<String>,
}

#[derive(Serialize)]
struct Backend {
    name: &'static str,
    devices: Vec<&'static str>,
    source: &'static str,
    available: bool,
    why: Option<String>,
}

/// A vendor's library that is loaded at run time.
#[derive(Serialize)]
struct Library {
    name: &'static str,
    path: Option<PathBuf>,
    version: Option<String>,
    why: Option<String>,
}

#[cfg(any(feature = "mpi", feature = "nccl"))]
fn library(name: &'static str, found: c10d::Result<(PathBuf, String)>) -> Library {
    match found {
        Ok((path, version)) => Library { name, path: Some(path), version: Some(version), why: None },
        Err(e) => Library { name, path: None, version: None, why: Some(e.report().what.clone()) },
    }
}

fn libraries() -> Vec<Library> {
    vec![
        #[cfg(feature = "mpi")]
        library("mpi", c10d::mpi::library()),
        #[cfg(feature = "nccl")]
        library("nccl", c10d::nccl::library()),
    ]
}

/// Prints the registrations. A reader that closes the pipe early is not an error.
pub(crate) fn info(args: &Args) -> Outcome {
    shown(args).or_else(|e| match e.downcast_ref::<io::Error>() {
        Some(broken) if broken.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        _ => Err(e),
    })
}

fn shown(args: &Args) -> Outcome {
    // Loads the plugins that the environment variables request.
    #[cfg(feature = "plugins")]
    let report = c10d::plugins::search()?.environment().load();
    #[cfg(feature = "plugins")]
    let (plugins, loaded) = (report.decisions.iter().map(Row::from).collect::<Vec<_>>(), report.providers);
    #[cfg(not(feature = "plugins"))]
    let loaded = Vec::new();
    let registry = Registry::collect(&[c10d::builtin().to_vec(), loaded].concat())?;
    let rows = registry.table(&BackendMap::default())?;
    let backends: Vec<Backend> = registry
        .backends()
        .map(|(r, source)| {
            let probe = (r.probe)();
            let why = probe.as_ref().err().map(|e| e.report().what.clone());
            let devices = r.keys.iter().map(|key| key.device_word()).collect();
            Backend { name: r.name, devices, source, available: probe.is_ok(), why }
        })
        .collect();
    let libraries = libraries();
    if args.json {
        let registrations = rows.into_iter().map(Registration::from).collect();
        let info = Info {
            registrations,
            backends,
            libraries,
            #[cfg(feature = "plugins")]
            plugins,
        };
        writeln!(io::stdout(), "{}", serde_json::to_string_pretty(&info)?)?;
    } else {
        #[cfg(feature = "plugins")]
        if !plugins.is_empty() {
            writeln!(io::stdout(), "Plugins\n")?;
            print_rows(&plugins, false)?;
            writeln!(io::stdout())?;
        }
        print(&rows, &backends, &libraries)?;
    }
    Ok(ExitCode::SUCCESS)
}

impl From<TableRow> for Registration {
    fn from(row: TableRow) -> Registration {
        let TableRow { op, key, source, backend, why, .. } = row;
        Registration { op: op.name(), key: key.name(), source, backend, why }
    }
}

fn print(rows: &[TableRow], backends: &[Backend], libraries: &[Library]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "Backends\n")?;
    let mut table = table(vec!["name", "devices", "crate", "available"]);
    for b in backends {
        let available = if b.available { "yes".to_owned() } else { format!("no: {}", b.why.as_deref().unwrap_or("")) };
        table.add_row(vec![b.name.to_owned(), b.devices.join(", "), b.source.to_owned(), available]);
    }
    writeln!(out, "{}\n", table.trim_fmt())?;

    if !libraries.is_empty() {
        writeln!(out, "Libraries\n")?;
        let mut table = self::table(vec!["name", "version", "file"]);
        for l in libraries {
            let file = l.path.as_ref().map(|p| p.display().to_string()).or(l.why.clone()).unwrap_or_default();
            table.add_row(vec![l.name.to_owned(), l.version.clone().unwrap_or_else(|| "none".to_owned()), file]);
        }
        writeln!(out, "{}\n", table.trim_fmt())?;
    }

    writeln!(out, "Registrations: {} (op × key → kernel's crate → backend)\n", rows.len())?;
    let mut header = vec!["op"];
    header.extend(DispatchKey::ALL.map(DispatchKey::name));
    let mut table = self::table(header);
    let mut reasons = BTreeSet::new();
    for op in OpKind::ALL {
        let mut cells = vec![op.name().to_owned()];
        for key in DispatchKey::ALL {
            let row = rows.iter().find(|row| row.op == *op && row.key == key);
            reasons.extend(row.and_then(reason));
            cells.push(row.map_or_else(String::new, cell));
        }
        table.add_row(cells);
    }
    writeln!(out, "{}\n", table.trim_fmt())?;
    for reason in reasons {
        writeln!(out, "{reason}")?;
    }
    Ok(())
}

/// Returns why a kernel or backend is missing. If the text does not name the dispatch key, the key is put before it.
fn reason(row: &TableRow) -> Option<String> {
    let why = row.why.as_ref()?;
    Some(if why.contains(row.key.name()) { why.clone() } else { format!("{}: {why}", row.key) })
}

fn cell(row: &TableRow) -> String {
    match (row.source, row.backend.as_deref()) {
        (Some(source), Some(backend)) => format!("{source} → {backend}"),
        (Some(source), None) => format!("{source} → none"),
        (None, _) => "no kernel".to_owned(),
    }
}

fn table(header: Vec<&str>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    table
}
