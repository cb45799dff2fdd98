//! Which ranks are in the communicator: only ranks of this crate, or also ranks of PyTorch. With PyTorch, ids are
//! exchanged and calls are made in PyTorch's way.

use std::sync::Arc;

use c10d_core::backend::GroupInit;
use c10d_core::{Error, PrefixStore, Result, Store};

/// The hint that names the dialect.
pub(crate) const HINT: &str = "nccl.compat";
/// The name of PyTorch's group.
const GROUP: &str = "nccl.compat.group";
/// The prefix of PyTorch's groups in its store. It is `default_pg` unless the program passed its own store.
const PREFIX: &str = "nccl.compat.prefix";

/// A communicator with more ranks than this has several roots.
const RANKS_PER_ROOT: u32 = 128;

/// The way in which ids are exchanged and calls are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// The way of this crate.
    Native,
    /// The way of PyTorch's first engine: `nccl-legacy` since 2.15, and the only one before.
    TorchLegacy,
    /// The way of PyTorch's second engine, `nccl` and `nccl2` since 2.15, with PyTorch's name for the group.
    TorchNccl2(String),
}

impl Dialect {
    /// The dialect from the hints.
    pub(crate) fn of(init: &GroupInit) -> Result<Dialect> {
        match init.hint(HINT) {
            None | Some("native") => Ok(Dialect::Native),
            Some("torch-legacy") => Ok(Dialect::TorchLegacy),
            Some("torch-nccl2") => Ok(Dialect::TorchNccl2(group(init).to_owned())),
            Some(other) => {
                Err(Error::invalid(format!("{HINT} is {other:?}; it must be native, torch-legacy or torch-nccl2")))
            }
        }
    }

    pub(crate) fn is_native(&self) -> bool {
        *self == Dialect::Native
    }

    /// The part of the store in which the ranks meet.
    pub(crate) fn store(&self, init: &GroupInit) -> Arc<dyn Store> {
        if self.is_native() {
            return init.store.clone();
        }
        // The prefixes are nested as in `init_process_group`.
        let mut store = init.root.clone();
        let prefix = init.hint(PREFIX).unwrap_or("default_pg");
        let parts = [prefix.to_owned(), format!("{}/", group(init)), "cuda/".to_owned()];
        for part in parts.into_iter().filter(|part| !part.is_empty()) {
            store = Arc::new(PrefixStore::new(part, store));
        }
        store
    }

    /// A communicator with more ranks than this has several roots.
    pub(crate) fn ranks_per_root(&self) -> u32 {
        let set = || std::env::var("TORCH_NCCL_RANKS_PER_ROOT").ok()?.parse().ok().filter(|n| *n > 0);
        if self.is_native() { RANKS_PER_ROOT } else { set().unwrap_or(RANKS_PER_ROOT) }
    }

    /// The key of id `n` of `roots` of the communicator of all ranks.
    pub(crate) fn id_key(&self, n: u32, roots: u32) -> String {
        match self {
            Dialect::Native => format!("id/{n}"),
            // The number counts the communicators of a group, which has one.
            Dialect::TorchLegacy if roots == 1 => "0".to_owned(),
            Dialect::TorchLegacy => format!("UniqueNCCLID:{n}"),
            Dialect::TorchNccl2(group) if roots == 1 => format!("{group}/nccl_storekey_0"),
            Dialect::TorchNccl2(group) => format!("{group}/nccl_storekey_0_{n}"),
        }
    }

    /// The key of the id of the communicator of two ranks. The first of them makes it.
    pub(crate) fn pair_key(&self, first: u32, second: u32) -> String {
        match self {
            Dialect::TorchLegacy => format!("{first}:{second}"),
            _ => format!("pair/{first}/{second}"),
        }
    }

    /// The two ranks whose communicator a message uses, in the order of their numbers there. `None` means the
    /// communicator of all ranks.
    pub(crate) fn pair(&self, from: u32, to: u32) -> Option<(u32, u32)> {
        match self {
            Dialect::Native => Some((from, to)),
            Dialect::TorchLegacy => Some((from.min(to), from.max(to))),
            Dialect::TorchNccl2(_) => None,
        }
    }

    /// Whether the communicator of all ranks is made by its first op instead of with the group.
    pub(crate) fn is_lazy(&self) -> bool {
        *self == Dialect::TorchLegacy
    }
}

fn group(init: &GroupInit) -> &str {
    init.hint(GROUP).unwrap_or("0")
}
