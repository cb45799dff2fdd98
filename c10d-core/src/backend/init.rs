//! The data from which a backend is made for a group.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Backend, Reports};
use crate::Result;
use crate::device::{DeviceRuntime, Seat};
use crate::store::{PrefixStore, Store};
use crate::waiting;

/// The data from which a backend is made for a group.
#[non_exhaustive]
pub struct GroupInit {
    /// The group's name, the same on all ranks.
    pub group: Arc<str>,
    /// This rank.
    pub rank: u32,
    /// The number of ranks of the group.
    pub size: u32,
    /// A random id that is the same on all ranks, and that no other group has. It is zero if some ranks use another
    /// library (such as PyTorch).
    pub session: [u8; 16],
    /// A part of the store that only this group uses. A wait for a key also ends when another rank reports that it
    /// cannot make the group. After this rank has left the group, every request fails. If some ranks use another
    /// library, this is the whole store, and no rank makes such reports.
    pub store: Arc<dyn Store>,
    /// The store that the builder was given or got from the init method, without the prefix of this group. If some
    /// ranks use another library, the backend finds them through this store.
    pub root: Arc<dyn Store>,
    /// How long an op may take if it has no timeout of its own.
    pub timeout: Duration,
    /// If the program ends without leaving the group, it waits at most this long until the peers have received
    /// everything that this rank sent.
    pub drop_within: Duration,
    /// The time by which the backend must be ready.
    pub deadline: Instant,
    /// Free-form settings, e.g. `gloo-like.transport` = `tcp`.
    pub hints: Arc<BTreeMap<String, String>>,
    /// The name of the backend on which the ranks agreed for the CPU, if there is one.
    pub cpu: Option<&'static str>,
    /// The same part of the store as `store`, but it can still be used after this rank has left the group.
    pub(crate) lasting: Arc<dyn Store>,
    pub(crate) seat: Seat,
    pub(crate) others: Arc<dyn OtherBackends>,
    pub(crate) reports: Arc<Reports>,
}

/// Gives a backend access to the other backends of its group.
pub(crate) trait OtherBackends: Send + Sync {
    /// Returns the group's backend of this name, which is made at the first call.
    fn backend(&self, init: &GroupInit, name: &str) -> Result<Arc<dyn Backend>>;
    /// Returns a value that makes each backend anew. The value returns no existing backend, and makes no backend from a
    /// backend of a parent group.
    fn anew(&self) -> Arc<dyn OtherBackends>;
    /// Returns the ranks that the parent group knows to be gone, in the numbering of this group.
    fn lost(&self) -> Vec<u32>;
}

impl GroupInit {
    /// Returns the value of a hint, if it is set.
    pub fn hint(&self, name: &str) -> Option<&str> {
        self.hints.get(name).map(String::as_str)
    }

    /// Returns the ranks of this group that are known to be gone: they died or left the parent group, from which this
    /// group is made. All their writes to the store are complete, so a backend need not wait for more.
    pub fn lost(&self) -> Vec<u32> {
        self.others.lost()
    }

    /// Returns a function that returns the current result of [`lost`](GroupInit::lost), for threads and closures that
    /// cannot borrow the `GroupInit`.
    pub fn watch(&self) -> impl Fn() -> Vec<u32> + Send + Sync + use<> {
        let others = self.others.clone();
        move || others.lost()
    }

    /// Returns the reports by which ranks tell each other that they cannot make the group. A backend that waits for
    /// other ranks must look at the reports while it waits. The backend need not report its own failure: core reports
    /// the error that the backend's constructor returns.
    pub fn reports(&self) -> Arc<Reports> {
        self.reports.clone()
    }

    /// Returns the time after which a long wait is reported, or `None` if waits are never reported. See
    /// [`waiting`](crate::waiting).
    ///
    /// # Errors
    /// `InvalidArgument` if the setting is not a number of seconds.
    pub fn warn_after(&self) -> Result<Option<Duration>> {
        waiting::after(self.hint(waiting::HINT))
    }

    /// Returns the index of this rank's device among the runtime's devices: the device to which the program has bound
    /// the rank, else the result of [`DeviceRuntime::default_index`].
    pub fn device_index(&self, runtime: &dyn DeviceRuntime) -> Result<Option<u16>> {
        let any = runtime.device(0);
        self.seat.index((any.key(), any.vendor()), runtime)
    }

    /// Makes a backend of this name that only the caller uses, so the caller decides in which order calls run on it.
    /// Every rank of the group must make it, with the same `purpose`. Several own backends of one group need different
    /// purposes.
    ///
    /// # Errors
    /// The same as for [`backend`](GroupInit::backend).
    pub fn own_backend(&self, name: &str, purpose: &str) -> Result<Arc<dyn Backend>> {
        let mut own = self.under(&format!("for/{purpose}"), self.others.anew());
        purpose.bytes().enumerate().for_each(|(i, b)| own.session[i % 16] = own.session[i % 16].rotate_left(3) ^ b);
        own.backend(name)
    }

    /// Returns the group's backend of this name, which is made at the first call. For example, the backend of a device
    /// can use the backend of the CPU.
    ///
    /// # Errors
    /// `Unsupported` if no backend has this name. Otherwise the error of the backend's constructor.
    pub fn backend(&self, name: &str) -> Result<Arc<dyn Backend>> {
        self.others.backend(self, name)
    }

    /// Returns the same part of the store as `store`. The returned store can still be used after this rank has left the
    /// group.
    pub fn lasting_store(&self) -> Arc<dyn Store> {
        self.lasting.clone()
    }

    /// Returns a copy whose keys in the store begin with `prefix`, and whose `backend` uses `others`.
    pub(crate) fn under(&self, prefix: &str, others: Arc<dyn OtherBackends>) -> GroupInit {
        let part = |store: &Arc<dyn Store>| -> Arc<dyn Store> { Arc::new(PrefixStore::new(prefix, store.clone())) };
        let (store, lasting) = (part(&self.store), part(&self.lasting));
        GroupInit { store, lasting, ..self.with(others) }
    }

    /// Returns a copy whose `backend` makes new backends.
    pub(crate) fn anew(&self) -> GroupInit {
        self.with(self.others.anew())
    }

    fn with(&self, others: Arc<dyn OtherBackends>) -> GroupInit {
        GroupInit {
            group: self.group.clone(),
            store: self.store.clone(),
            lasting: self.lasting.clone(),
            root: self.root.clone(),
            hints: self.hints.clone(),
            seat: self.seat.clone(),
            others,
            reports: self.reports.clone(),
            ..*self
        }
    }
}
