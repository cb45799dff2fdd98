//! Which ranks are in the communicator: only ranks of this crate, or also ranks of PyTorch. With ranks of PyTorch, this
//! crate exchanges ids and makes calls as PyTorch does. PyTorch has two implementations of its backend for NCCL. Here,
//! they are called its first and second engine.

use std::sync::Arc;

use c10d_core::backend::GroupInit;
use c10d_core::{Error, PrefixStore, Result, Store};

/// The hint that names the dialect.
pub(crate) const HINT: &str = "nccl.compat";
/// The hint with PyTorch's name of the group. Without this hint, the name is `0`.
const GROUP: &str = "nccl.compat.group";
/// The hint with the prefix of PyTorch's keys in its store. Without this hint, the prefix is `default_pg`, as in
/// PyTorch if the program does not pass its own store.
const PREFIX: &str = "nccl.compat.prefix";

/// A communicator with more ranks than this has several roots (ranks that make an id).
const RANKS_PER_ROOT: u32 = 128;

/// How ids are exchanged and calls are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// All ranks use this crate.
    Native,
    /// As in PyTorch's first engine, which is called `nccl-legacy` since PyTorch 2.15, and was the only engine before.
    TorchLegacy,
    /// As in PyTorch's second engine, which is called `nccl` and `nccl2` since PyTorch 2.15. The field is PyTorch's
    /// name of the group.
    TorchNccl2(String),
}

impl Dialect {
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

    /// Returns the part of the store through which the ranks exchange ids.
    pub(crate) fn store(&self, init: &GroupInit) -> Arc<dyn Store> {
        if self.is_native() {
            return init.store.clone();
        }
        // `init_process_group` nests the prefixes in this order.
        let mut store = init.root.clone();
        let prefix = init.hint(PREFIX).unwrap_or("default_pg");
        let parts = [prefix.to_owned(), format!("{}/", group(init)), "cuda/".to_owned()];
        for part in parts.into_iter().filter(|part| !part.is_empty()) {
            store = Arc::new(PrefixStore::new(part, store));
        }
        store
    }

    /// Returns the largest number of ranks with which a communicator has only one root.
    pub(crate) fn ranks_per_root(&self) -> u32 {
        let set = || std::env::var("TORCH_NCCL_RANKS_PER_ROOT").ok()?.parse().ok().filter(|n| *n > 0);
        if self.is_native() { RANKS_PER_ROOT } else { set().unwrap_or(RANKS_PER_ROOT) }
    }

    /// Returns the store key of id `n` of the `roots` ids of the communicator of all ranks.
    pub(crate) fn id_key(&self, n: u32, roots: u32) -> String {
        match self {
            Dialect::Native => format!("id/{n}"),
            // The 0 is the number of the communicator in its group, which has only this one.
            Dialect::TorchLegacy if roots == 1 => "0".to_owned(),
            Dialect::TorchLegacy => format!("UniqueNCCLID:{n}"),
            Dialect::TorchNccl2(group) if roots == 1 => format!("{group}/nccl_storekey_0"),
            Dialect::TorchNccl2(group) => format!("{group}/nccl_storekey_0_{n}"),
        }
    }

    /// Returns the store key of the id of the communicator of two ranks. The first of the two ranks makes the id.
    pub(crate) fn pair_key(&self, first: u32, second: u32) -> String {
        match self {
            Dialect::TorchLegacy => format!("{first}:{second}"),
            _ => format!("pair/{first}/{second}"),
        }
    }

    /// Returns the two ranks whose communicator a message uses: first the rank that is rank 0 of this communicator,
    /// then the other one. `None` means that the message uses the communicator of all ranks.
    pub(crate) fn pair(&self, from: u32, to: u32) -> Option<(u32, u32)> {
        match self {
            Dialect::Native => Some((from, to)),
            Dialect::TorchLegacy => Some((from.min(to), from.max(to))),
            Dialect::TorchNccl2(_) => None,
        }
    }

    /// Whether the communicator of all ranks is made at its first op instead of with the group.
    pub(crate) fn is_lazy(&self) -> bool {
        *self == Dialect::TorchLegacy
    }
}

fn group(init: &GroupInit) -> &str {
    init.hint(GROUP).unwrap_or("0")
}
