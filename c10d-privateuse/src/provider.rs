//! The registration of the plugin loader.

use c10d_core::backend::{PluginSearch, Provider, Registry};
use c10d_core::{Error, ErrorKind, Result};

use crate::load::{Search, Verdict};

/// The plugin loader. The facade includes this provider. A program without the facade passes it to the builder.
pub static PROVIDER: Provider =
    Provider { source: env!("CARGO_PKG_NAME"), load_plugins: Some(load), ..Provider::EMPTY };

fn load(asked: &PluginSearch, linked: &Registry) -> Result<Vec<&'static Provider>> {
    let PluginSearch { files, directories, trusted, standard, .. } = asked;
    let search = Search::beside(linked).environment();
    let search = files.iter().fold(search, |search, file| search.file(file));
    let search = directories.iter().fold(search, |search, directory| search.directory(directory));
    let search = trusted.iter().fold(search, |search, name| search.trust(name));
    let report = if *standard { search.standard() } else { search }.load();
    let refused = report.decisions.iter().find(|d| d.verdict == Verdict::Refused && files.contains(&d.path));
    match refused {
        Some(decision) => Err(Error::new(ErrorKind::Plugin, decision.to_string()).rejected()),
        None => Ok(report.providers),
    }
}
