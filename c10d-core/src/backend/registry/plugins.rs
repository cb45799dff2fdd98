//! Providers that are loaded from plugins at run time.

use std::path::PathBuf;

use super::{Provider, Registry};
use crate::{Error, Result};

/// A function that loads the plugins that a builder asks for, and those that environment variables name. The registry
/// that the function gets contains core's provider, the listed providers and the linked providers.
pub type PluginLoader = fn(&PluginSearch, &Registry) -> Result<Vec<&'static Provider>>;

/// The plugins that a program asks for.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct PluginSearch {
    /// Files. If one of them cannot be loaded, the group is not made.
    pub files: Vec<PathBuf>,
    /// Directories whose plugins are loaded.
    pub directories: Vec<PathBuf>,
    /// The names of plugins that may use the callers' memory directly.
    pub trusted: Vec<String>,
    /// Whether plugins are loaded from the standard directories: `$XDG_DATA_HOME/c10d/plugins` of the user, and
    /// `../lib/c10d/plugins`, relative to the directory of the program's executable.
    pub standard: bool,
}

impl PluginSearch {
    fn is_empty(&self) -> bool {
        self.files.is_empty() && self.directories.is_empty() && self.trusted.is_empty() && !self.standard
    }
}

impl Registry {
    /// Loads the plugins that the search and the environment ask for, and returns their providers.
    pub(crate) fn load_plugins(&self, search: &PluginSearch) -> Result<Vec<&'static Provider>> {
        match self.providers.iter().find_map(|p| p.load_plugins) {
            Some(load) => load(search, self),
            None if search.is_empty() => Ok(Vec::new()),
            None => {
                let what = "the builder asks for plugins, but this program cannot load them; enable the feature \
                        `plugins` of c10d";
                Err(Error::unsupported(what))
            }
        }
    }
}
