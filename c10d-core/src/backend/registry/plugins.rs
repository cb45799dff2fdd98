//! Providers that come at run time, from plugins.

use std::path::PathBuf;

use super::{Provider, Registry};
use crate::{Error, Result};

/// Loads the plugins that a builder asks for and those that the environment names. The registry has the linked
/// providers.
pub type PluginLoader = fn(&PluginSearch, &Registry) -> Result<Vec<&'static Provider>>;

/// Which plugins a program asks for.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct PluginSearch {
    /// These files, each of which must be loaded.
    pub files: Vec<PathBuf>,
    /// The plugins of these directories.
    pub directories: Vec<PathBuf>,
    /// The names of plugins that may work on the callers' own memory.
    pub trusted: Vec<String>,
    /// The plugins of the user's and the program's directory.
    pub standard: bool,
}

impl PluginSearch {
    fn is_empty(&self) -> bool {
        self.files.is_empty() && self.directories.is_empty() && self.trusted.is_empty() && !self.standard
    }
}

impl Registry {
    /// The providers of the plugins that the search and the environment ask for.
    pub(crate) fn load_plugins(&self, search: &PluginSearch) -> Result<Vec<&'static Provider>> {
        match self.providers.iter().find_map(|p| p.load_plugins) {
            Some(load) => load(search, self),
            None if search.is_empty() => Ok(Vec::new()),
            None => {
                let what =
                    "plugins are asked for, but nothing in this program loads them (the feature `plugins` of c10d)";
                Err(Error::unsupported(what))
            }
        }
    }
}
