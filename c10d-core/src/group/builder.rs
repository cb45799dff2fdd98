//! Making a group.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use super::other_backends::{BackendCache, Parent};
use super::routes::Routes;
use super::{Group, ProcessGroup, join, ranks};
use crate::backend::registry::{check_settings, offers};
use crate::backend::{BackendMap, GroupInit, GroupStore, Origin, PluginSearch, Provider, Registry, Reports};
use crate::device::Seat;
use crate::process::Process;
use crate::store::{HashStore, PrefixStore, Store, deadline_after};
use crate::types::Device;
use crate::{Error, Result, waiting};

/// The settings of a group: this rank, how it finds the other ranks, the backends, and the timeout.
///
/// `build` blocks until all ranks are present and connected, or returns an error that names the missing ranks. Core's
/// builder uses the providers that crates submitted at link time. The builder of `c10d::builder()` also uses the
/// providers that cargo features chose.
#[derive(Clone)]
#[must_use = "a builder does nothing until `build`"]
pub struct Builder {
    name: Arc<str>,
    rank: Option<u32>,
    size: Option<u32>,
    timeout: Duration,
    drop_within: Duration,
    bound: Option<Device>,
    store: Option<Arc<dyn Store>>,
    init: Option<String>,
    providers: Vec<&'static Provider>,
    plugins: PluginSearch,
    map: String,
    hints: BTreeMap<String, String>,
}

impl Default for Builder {
    fn default() -> Self {
        Builder {
            name: "default".into(),
            rank: None,
            size: None,
            timeout: Duration::from_secs(300),
            drop_within: super::leave::DROP_WITHIN,
            bound: None,
            store: None,
            init: None,
            providers: Vec::new(),
            plugins: PluginSearch::default(),
            map: String::new(),
            hints: BTreeMap::new(),
        }
    }
}

impl Builder {
    /// Makes a builder with default settings, for a group of one rank.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the group's name, which must be the same on all ranks. Two groups that exist at the same time in one store
    /// need different names.
    pub fn name(mut self, name: &str) -> Self {
        self.name = name.into();
        self
    }

    /// Sets the URL from which this process learns its rank, the world size and the store, instead of `rank`, `size`
    /// and `store`: `env://`, `tcp://..`, `file://..`, or another [init method](crate::backend::InitMethod) of the
    /// providers.
    pub fn init(mut self, url: &str) -> Self {
        self.init = Some(url.to_owned());
        self
    }

    /// Sets this process's rank. `build` fails if [`init`](Builder::init) gives a different one.
    pub fn rank(mut self, rank: u32) -> Self {
        self.rank = Some(rank);
        self
    }

    /// Sets the number of ranks. `build` fails if [`init`](Builder::init) gives a different one.
    pub fn size(mut self, size: u32) -> Self {
        self.size = Some(size);
        self
    }

    /// Sets the store through which the ranks find each other. A group of one rank needs none. `build` fails if
    /// [`init`](Builder::init) is set as well.
    pub fn store(mut self, store: Arc<dyn Store>) -> Self {
        self.store = Some(store);
        self
    }

    /// Sets how long each of these may take: the rendezvous, making the group, and an op. The default is 300 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets how long the drop of the group's last handle may wait for started operations, and for peers that have not
    /// received everything that this rank sent. The default is 10 s. If the time passes, the drop prints for which
    /// ranks it waited, and returns. With zero, the drop does not wait. If the last handle is dropped on a thread that
    /// must not block (in an async task), call `shutdown` before, on another thread.
    pub fn drop_within(mut self, limit: Duration) -> Self {
        self.drop_within = limit;
        self
    }

    /// Sets which backend serves which device, e.g. `"cpu:gloo-like,cuda:nccl"`; see [`BackendMap`].
    pub fn backend(mut self, map: &str) -> Self {
        self.map = map.to_owned();
        self
    }

    /// Sets the device of this rank. Barriers use it, and so do backends that work on one device only.
    pub fn device(mut self, device: Device) -> Self {
        self.bound = Some(device);
        self
    }

    /// Adds providers to those that crates submitted at link time.
    pub fn providers(mut self, providers: &[&'static Provider]) -> Self {
        self.providers.extend_from_slice(providers);
        self
    }

    /// Loads the plugin in this file, which may have any name. The path must be absolute. If the plugin is refused,
    /// `build` fails.
    ///
    /// Loading needs the crate that loads plugins: `c10d` with its feature `plugins`.
    pub fn plugin(mut self, path: impl Into<PathBuf>) -> Self {
        self.plugins.files.push(path.into());
        self
    }

    /// Loads the plugins of this directory (`libc10d_*.so`). The path must be absolute. Refused files are logged and
    /// skipped.
    pub fn plugin_directory(mut self, path: impl Into<PathBuf>) -> Self {
        self.plugins.directories.push(path.into());
        self
    }

    /// Lets the plugin with this name use the callers' memory directly, like linked backends. Other plugins get copies
    /// of borrowed memory.
    pub fn trust_plugin(mut self, name: &str) -> Self {
        self.plugins.trusted.push(name.to_owned());
        self
    }

    /// Loads the plugins of the user's directory (`$XDG_DATA_HOME/c10d/plugins`) and of the program's directory
    /// (`../lib/c10d/plugins`, relative to the directory of the executable).
    ///
    /// The variables `C10D_PLUGIN_PATH` and `C10D_PLUGINS` load plugins even without this call.
    pub fn plugins(mut self) -> Self {
        self.plugins.standard = true;
        self
    }

    /// Sets a hint for a backend, e.g. `("gloo-like.transport", "tcp")`. The manual's page `settings` lists all hints.
    pub fn hint(mut self, name: &str, value: &str) -> Self {
        self.hints.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Returns the registry from which this builder makes a group: the providers that crates submitted at link time,
    /// the listed providers, and the plugins that this builder or the environment asks for. A program gets a plugin's
    /// devices from the registry:
    ///
    /// ```no_run
    /// # fn main() -> c10d_core::Result<()> {
    /// # let builder = c10d_core::Builder::new();
    /// let acme = builder.plugins().registry()?.device("acme")?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// The errors of [`Registry::collect`]. `Plugin` or `Unsupported` if plugins that this builder requests cannot be
    /// loaded.
    pub fn registry(&self) -> Result<Registry> {
        Registry::collect(&self.clone().with_plugins()?.providers)
    }

    /// Makes the group: finds the other ranks and connects to them.
    ///
    /// # Errors
    ///
    /// - `InvalidArgument` if the settings contradict each other or the init method.
    /// - `Unsupported` if the backend map names a backend that this program does not have, or a backend that cannot
    ///   serve its device.
    /// - `Rendezvous` if ranks are missing, or lack a backend that another rank's map names. The error names the ranks
    ///   that are missing or lack the backend.
    /// - `Mismatch` if ranks disagree about the world size, the members or the version of c10d. The error names these
    ///   ranks.
    /// - `Store` if the store cannot be reached.
    /// - The errors of the backends' constructors.
    ///
    /// If the ranks have no backend in common for a device, `build` succeeds, and calls on the device fail with
    /// `Unsupported`.
    pub fn build(self) -> Result<ProcessGroup> {
        self.with_plugins()?.build_rank()
    }

    /// Runs `body` once per rank, each on its own thread, in one group of `size` ranks, and returns the results in rank
    /// order. Do not set rank, size, store or init method: each thread gets them from this function.
    ///
    /// # Errors
    /// The error of the rank that failed first. `PeerDead` and `Aborted` usually report only that another rank has
    /// failed, so such an error is returned only if no rank has any other error. If a rank panics, the panic continues
    /// in the caller after all threads have ended.
    pub fn run_ranks<T: Send>(self, size: u32, body: impl Fn(ProcessGroup) -> Result<T> + Sync) -> Result<Vec<T>> {
        self.leaves_ranks_to_others(size)?;
        let builder = self.with_plugins()?;
        ranks::run(size, |rank, store| body(builder.clone().rank(rank).size(size).store(store).build_rank()?))
    }

    fn with_plugins(mut self) -> Result<Self> {
        let more = Registry::collect(&self.providers)?.load_plugins(&self.plugins)?;
        self.providers.extend(more);
        Ok(self)
    }

    /// Returns an error if a rank, a store, an init method or a world size other than `size` is set: `run_ranks` sets
    /// these itself.
    fn leaves_ranks_to_others(&self, size: u32) -> Result {
        let what = match (self.rank, self.size, &self.store, &self.init) {
            (.., Some(url)) => {
                format!(
                    "the init method {url:?} is set, but run_ranks runs all {size} ranks as threads of this process; \
                        do not set an init method"
                )
            }
            (Some(rank), ..) => format!("rank is set to {rank}, but run_ranks gives each thread its own rank"),
            (_, Some(told), ..) if told != size => {
                format!("size is set to {told}, but run_ranks was called for {size} ranks")
            }
            (_, _, Some(_), _) => "a store is set, but run_ranks makes its own store".to_owned(),
            _ => return Ok(()),
        };
        Err(Error::invalid(what))
    }

    /// Makes this rank's group. The caller has loaded the plugins.
    fn build_rank(mut self) -> Result<ProcessGroup> {
        if let Some(url) = self.init.take() {
            self = self.meet(&url)?;
        }
        let me = Origin { group: self.name.clone(), rank: self.rank.unwrap_or(0), backend: "", global: None };
        let spec = self.spec().map_err(|e| me.described(e))?;
        spec.assemble()
    }

    /// Sets rank, size and store to those that an init method finds.
    fn meet(mut self, url: &str) -> Result<Self> {
        let method = Registry::collect(&self.providers)?.init_method(url)?;
        let (rank, size) = (method.rank_and_size)(url)?;
        self.agrees_with(url, rank, size)?;
        let joined = (method.join)(url, self.timeout)?;
        let store = if foreign(&self.hints) { joined.root } else { joined.store };
        (self.rank, self.size, self.store) = (Some(joined.rank), Some(joined.size), Some(store));
        Ok(self)
    }

    /// Returns an error if a setting contradicts the init method.
    fn agrees_with(&self, url: &str, rank: u32, size: u32) -> Result {
        let said = [("rank", self.rank, rank), ("size", self.size, size)];
        for (what, told, found) in said {
            if let Some(told) = told.filter(|told| *told != found) {
                let text =
                    format!("{what} is set to {told}, but the init method {url:?} says {found}; leave one of them out");
                return Err(Error::invalid(text));
            }
        }
        if self.store.is_some() {
            let text = format!("a store is set, but the init method {url:?} has its own store; leave one of them out");
            return Err(Error::invalid(text));
        }
        Ok(())
    }

    fn spec(self) -> Result<GroupSpec> {
        let (rank, size) = (self.rank.unwrap_or(0), self.size.unwrap_or(1));
        if size == 0 || rank >= size {
            let what = format!("rank {rank} of world size {size}: ranks go from 0 to world size - 1");
            return Err(Error::invalid(what));
        }
        if self.name.chars().any(char::is_control) {
            return Err(Error::invalid(format!("the group's name {:?} has control characters in it", self.name)));
        }
        let store = match self.store {
            Some(store) => store,
            None if size == 1 => Arc::new(HashStore::new()),
            None => {
                return Err(Error::invalid("a world of several ranks needs a store, or an init method such as env://"));
            }
        };
        let registry = Arc::new(Registry::collect(&self.providers)?);
        check_settings(&registry, &self.hints);
        Ok(GroupSpec {
            key_prefix: join::key_prefix(None, &self.name),
            name: self.name,
            rank,
            size,
            timeout: self.timeout,
            drop_within: self.drop_within,
            bound: self.bound,
            global: None,
            store,
            registry,
            map: self.map.parse()?,
            hints: Arc::new(self.hints),
            parent: None,
        })
    }
}

/// Returns whether the group may have ranks of another library. That is so if there is a hint whose name ends in
/// `.compat` and whose value is not `native`, such as `nccl.compat` of c10d-nccl.
///
/// The ranks of such a group do not use the store to agree on anything, so the backend map must name the backend. The
/// store must be that of the other library's ranks, without a prefix of this library. The group cannot have sub-groups.
pub(super) fn foreign(hints: &BTreeMap<String, String>) -> bool {
    hints.iter().any(|(name, value)| name.ends_with(FOREIGN) && value != "native")
}

/// The end of the names of hints that make a backend compatible with another library.
pub(super) const FOREIGN: &str = ".compat";

/// The data from which a group or sub-group is made.
pub(super) struct GroupSpec {
    pub(super) name: Arc<str>,
    pub(super) rank: u32,
    pub(super) size: u32,
    pub(super) timeout: Duration,
    pub(super) drop_within: Duration,
    pub(super) bound: Option<Device>,
    pub(super) global: Option<Arc<[u32]>>,
    /// The store that the builder or the init method gave, without this group's prefix.
    pub(super) store: Arc<dyn Store>,
    /// The prefix of this group's keys in the store.
    pub(super) key_prefix: String,
    pub(super) registry: Arc<Registry>,
    pub(super) map: BackendMap,
    pub(super) hints: Arc<BTreeMap<String, String>>,
    pub(super) parent: Option<Arc<Parent>>,
}

impl GroupSpec {
    pub(super) fn assemble(self) -> Result<ProcessGroup> {
        let (group, global) = (self.name.clone(), self.global.clone());
        let me = Origin { group, rank: self.rank, backend: "", global };
        self.assembled().map_err(|e| me.described(e))
    }

    fn assembled(self) -> Result<ProcessGroup> {
        let first_rank = self.global.as_ref().and_then(|g| g.get(self.rank as usize)).copied().unwrap_or(self.rank);
        let seat = Seat { bound: self.bound, hints: self.hints.clone(), rank: first_rank };
        let offers = offers(&self.registry, &self.map, &seat)?;
        let warn_after = waiting::after(self.hints.get(waiting::HINT).map(String::as_str))?;
        let deadline = deadline_after(self.timeout);
        let joined = match foreign(&self.hints) {
            true => join::on_trust(&self, &offers)?,
            false => join::join(&self, &offers, deadline)?,
        };
        let cpu = joined.served.iter().find(|(word, _)| word == "cpu");
        let cpu = cpu.map(|(_, name)| self.registry.backend(name)).transpose()?.map(|r| r.name);
        let reports = Arc::new(match foreign(&self.hints) {
            true => Reports::none(),
            false => Reports::new(Arc::new(PrefixStore::new("making", joined.store.clone())), self.rank, self.size),
        });
        let others = Arc::new(BackendCache::new(self.registry.clone(), self.parent.clone()));
        let lasting: Arc<dyn Store> = Arc::new(GroupStore::new(joined.store.clone(), reports.clone()));
        let backend_store = Arc::new(GroupStore::new(joined.store.clone(), reports.clone()));
        let init = GroupInit {
            group: self.name.clone(),
            rank: self.rank,
            size: self.size,
            session: joined.session,
            store: backend_store.clone(),
            lasting,
            root: self.store.clone(),
            timeout: self.timeout,
            drop_within: self.drop_within,
            deadline,
            hints: self.hints.clone(),
            cpu,
            seat,
            others: others.clone(),
            reports: reports.clone(),
        };
        let (lanes, routes) = Routes::lay(&self, &init, &offers, &joined.served).map_err(|error| {
            let cause = reports.settle(error);
            // Aborts the backends that this rank has made. They pass the error to peers that have made the group.
            others.give_up(&cause);
            backend_store.leave(Instant::now());
            cause
        })?;
        Ok(ProcessGroup(Arc::new(Group {
            owner: Process::current(),
            foreign: Default::default(),
            name: self.name,
            rank: self.rank,
            size: self.size,
            timeout: self.timeout,
            drop_within: self.drop_within,
            bound: self.bound,
            global: self.global,
            lanes,
            routes,
            failed: Default::default(),
            store: joined.store,
            root: self.store,
            backend_store,
            session: joined.session,
            registry: self.registry,
            map: self.map,
            hints: self.hints,
            warn_after,
            next_subgroup: AtomicU64::new(0),
            next_shrink: AtomicU64::new(0),
        })))
    }
}
