//! Joining what the crates below know: the init method's rank, size and store, and the linked backends.

#[cfg(feature = "plugins")]
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "plugins")]
use c10d_core::ErrorKind;
use c10d_core::registry::Provider;
use c10d_core::{Device, Error, GroupBuilder, ProcessGroup, Result, Store};

use crate::builtin;

/// Makes a [`ProcessGroup`]: [`GroupBuilder`] with the linked backends, and an init method in place of rank, size and
/// store.
///
/// ```no_run
/// # fn main() -> c10d::Result<()> {
/// let pg = c10d::builder().init("env://").build()?;
/// println!("rank {} of {}", pg.rank(), pg.size());
/// # Ok(()) }
/// ```
#[derive(Clone)]
#[must_use = "a builder does nothing until `build`"]
pub struct Builder {
    group: GroupBuilder,
    init: Option<String>,
    told: Told,
    timeout: Duration,
    #[cfg(feature = "plugins")]
    plugins: Plugins,
}

/// What was said of the ranks beside an init method.
#[derive(Clone, Default)]
struct Told {
    rank: Option<u32>,
    size: Option<u32>,
    store: bool,
}

impl Told {
    /// Refuses what the init method contradicts.
    fn agrees_with(&self, url: &str, rank: u32, size: u32) -> Result<()> {
        let said = [("rank", self.rank, rank), ("size", self.size, size)];
        for (what, told, found) in said {
            if let Some(told) = told.filter(|told| *told != found) {
                let text =
                    format!("{what} is set to {told}, but the init method {url:?} says {found}; leave one of them out");
                return Err(Error::invalid(text));
            }
        }
        if self.store {
            let text = format!("a store is set, but the init method {url:?} brings one; leave one of them out");
            return Err(Error::invalid(text));
        }
        Ok(())
    }
}

/// Which plugins were asked for.
#[cfg(feature = "plugins")]
#[derive(Clone, Default)]
struct Plugins {
    files: Vec<PathBuf>,
    directories: Vec<PathBuf>,
    trusted: Vec<String>,
    standard: bool,
}

/// A builder that knows the linked backends.
pub fn builder() -> Builder {
    let timeout = Duration::from_secs(300);
    Builder {
        group: GroupBuilder::new().providers(builtin()).timeout(timeout),
        init: None,
        told: Told::default(),
        timeout,
        #[cfg(feature = "plugins")]
        plugins: Plugins::default(),
    }
}

impl Builder {
    /// How this process learns its rank and meets the others: `env://`, `tcp://..`, `file://..`; see
    /// [`init`](c10d_rendezvous::init).
    pub fn init(mut self, url: &str) -> Self {
        self.init = Some(url.to_owned());
        self
    }

    /// See [`GroupBuilder::name`].
    pub fn name(self, name: &str) -> Self {
        self.with(|g| g.name(name))
    }

    /// See [`GroupBuilder::rank`]. Together with [`init`](Builder::init), what that says, or `build` fails.
    pub fn rank(mut self, rank: u32) -> Self {
        self.told.rank = Some(rank);
        self.with(|g| g.rank(rank))
    }

    /// See [`GroupBuilder::size`]. Together with [`init`](Builder::init), what that says, or `build` fails.
    pub fn size(mut self, size: u32) -> Self {
        self.told.size = Some(size);
        self.with(|g| g.size(size))
    }

    /// See [`GroupBuilder::store`]. Together with [`init`](Builder::init), `build` fails.
    pub fn store(mut self, store: Arc<dyn Store>) -> Self {
        self.told.store = true;
        self.with(|g| g.store(store))
    }

    /// How long finding the others, making the group, and each op on it, may take; 300 s unless set.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self.with(|g| g.timeout(timeout))
    }

    /// See [`GroupBuilder::drop_within`].
    pub fn drop_within(self, limit: Duration) -> Self {
        self.with(|g| g.drop_within(limit))
    }

    /// See [`GroupBuilder::backend`].
    pub fn backend(self, map: &str) -> Self {
        self.with(|g| g.backend(map))
    }

    /// See [`GroupBuilder::device`].
    pub fn device(self, device: Device) -> Self {
        self.with(|g| g.device(device))
    }

    /// See [`GroupBuilder::providers`].
    pub fn providers(self, providers: &[&'static Provider]) -> Self {
        self.with(|g| g.providers(providers))
    }

    /// See [`GroupBuilder::hint`].
    pub fn hint(self, name: &str, value: &str) -> Self {
        self.with(|g| g.hint(name, value))
    }

    /// Loads this plugin, whatever its file's name; the path is absolute. `build` fails if it is refused.
    #[cfg(feature = "plugins")]
    pub fn plugin(mut self, path: impl Into<PathBuf>) -> Self {
        self.plugins.files.push(path.into());
        self
    }

    /// Loads the plugins of this directory (`libc10d_*.so`); what is refused is logged and left out.
    #[cfg(feature = "plugins")]
    pub fn plugin_directory(mut self, path: impl Into<PathBuf>) -> Self {
        self.plugins.directories.push(path.into());
        self
    }

    /// Lets the plugin of this name work on the callers' own memory; see [`Search::trust`](crate::plugins::Search::trust).
    #[cfg(feature = "plugins")]
    pub fn trust_plugin(mut self, name: &str) -> Self {
        self.plugins.trusted.push(name.to_owned());
        self
    }

    /// Loads the plugins of the user's and the program's directory; see
    /// [`Search::standard`](crate::plugins::Search::standard).
    ///
    /// Without this call, too, the variables `C10D_PLUGIN_PATH` and `C10D_PLUGINS` have plugins loaded.
    #[cfg(feature = "plugins")]
    pub fn plugins(mut self) -> Self {
        self.plugins.standard = true;
        self
    }

    /// Joins the other ranks.
    pub fn build(self) -> Result<ProcessGroup> {
        let Builder { group, init, told, timeout, .. } = self.with_plugins()?;
        let Some(url) = init else { return group.build() };
        let (rank, size) = c10d_rendezvous::rank_and_size(&url)?;
        told.agrees_with(&url, rank, size)?;
        let joined = c10d_rendezvous::init(&url, timeout)?;
        let store = if group.has_foreign_ranks() { joined.root } else { joined.store };
        group.rank(joined.rank).size(joined.size).store(store).build()
    }

    /// As [`run_ranks`], with what this builder was told; rank, size and store are those of the threads.
    pub fn run_ranks<T: Send>(self, size: u32, body: impl Fn(ProcessGroup) -> Result<T> + Sync) -> Result<Vec<T>> {
        if let Some(url) = &self.init {
            let what =
                format!("the init method {url:?} says who this process is, but {size} threads are to be the ranks");
            return Err(Error::invalid(what));
        }
        c10d_core::run_ranks(size, self.with_plugins()?.group, body)
    }

    #[cfg(not(feature = "plugins"))]
    fn with_plugins(self) -> Result<Self> {
        Ok(self)
    }

    #[cfg(feature = "plugins")]
    fn with_plugins(mut self) -> Result<Self> {
        use crate::plugins::{Verdict, search};

        let Plugins { files, directories, trusted, standard } = std::mem::take(&mut self.plugins);
        let mut search = search()?.environment();
        search = files.iter().fold(search, |search, file| search.file(file));
        search = directories.into_iter().fold(search, |search, directory| search.directory(directory));
        search = trusted.into_iter().fold(search, |search, name| search.trust(name));
        let report = if standard { search.standard() } else { search }.load();
        let refused = report.decisions.iter().find(|d| d.verdict == Verdict::Refused && files.contains(&d.path));
        if let Some(decision) = refused {
            return Err(Error::new(ErrorKind::Plugin, decision.to_string()).rejected());
        }
        Ok(self.providers(&report.providers))
    }

    fn with(mut self, change: impl FnOnce(GroupBuilder) -> GroupBuilder) -> Self {
        self.group = change(self.group);
        self
    }
}

/// Runs `body` once per rank, each on a thread of its own, in one group of `size` ranks over the linked backends; gives
/// the results in rank order. See [`c10d_core::run_ranks`].
///
/// ```
/// # fn main() -> c10d::Result<()> {
/// let sums = c10d::run_ranks(4, |pg| {
///     let mut x = vec![pg.rank() as f32; 8];
///     pg.all_reduce(&mut x, c10d::ReduceOp::Sum)?;
///     Ok(x[0])
/// })?;
/// assert_eq!(sums, [6.0; 4]);
/// # Ok(()) }
/// ```
pub fn run_ranks<T: Send>(size: u32, body: impl Fn(ProcessGroup) -> Result<T> + Sync) -> Result<Vec<T>> {
    builder().run_ranks(size, body)
}
