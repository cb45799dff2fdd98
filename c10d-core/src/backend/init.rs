//! The data that a backend gets when it is made for a group.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Backend, Reports};
use crate::Result;
use crate::device::{DeviceRuntime, Seat};
use crate::store::{PrefixStore, Store};
use crate::waiting;

/// The data that a backend gets when it is made for a group.
#[non_exhaustive]
pub struct GroupInit {
    /// The group's name, the same on all ranks.
    pub group: Arc<str>,
    /// This rank.
    pub rank: u32,
    /// How many ranks.
    pub size: u32,
    /// Random, the same on all ranks, different for every group ever made.
    pub session: [u8; 16],
    /// A part of the store that this group has for itself. A wait for a key ends, too, when another rank reports that it
    /// cannot make the group.
    pub store: Arc<dyn Store>,
    /// The store as the group's maker gave it, for a backend that meets ranks of another library there.
    pub root: Arc<dyn Store>,
    /// How long an op may take unless it says otherwise.
    pub timeout: Duration,
    /// How long the end of the group may be held up by what was not taken yet, when the program ends without leaving it.
    pub drop_within: Duration,
    /// When the backend must be ready.
    pub deadline: Instant,
    /// Free-form settings, e.g. `gloo-like.transport` = `tcp`.
    pub hints: Arc<BTreeMap<String, String>>,
    /// The name of the backend that the ranks agreed on for the CPU, if there is any.
    pub cpu: Option<&'static str>,
    pub(crate) seat: Seat,
    pub(crate) others: Arc<dyn OtherBackends>,
    pub(crate) reports: Arc<Reports>,
}

/// Makes the other backends of a group, on which one may stand.
pub(crate) trait OtherBackends: Send + Sync {
    /// The group's backend of this name, made at the first call.
    fn backend(&self, init: &GroupInit, name: &str) -> Result<Arc<dyn Backend>>;
    /// The same where nothing is made yet, and no group is above.
    fn anew(&self) -> Arc<dyn OtherBackends>;
    /// The ranks that the group above knows to be gone, in the numbering of this one.
    fn lost(&self) -> Vec<u32>;
}

impl GroupInit {
    /// A setting.
    pub fn hint(&self, name: &str) -> Option<&str> {
        self.hints.get(name).map(String::as_str)
    }

    /// The ranks of this group that are known to be gone already, because they died or left in the group that this one is
    /// made from. What they wrote to the store before is there; a backend that waits for more can stop.
    pub fn lost(&self) -> Vec<u32> {
        self.others.lost()
    }

    /// The same question, for threads and closures that do not have this.
    pub fn watch(&self) -> impl Fn() -> Vec<u32> + Send + Sync + use<> {
        let others = self.others.clone();
        move || others.lost()
    }

    /// What ranks tell each other that cannot make the group. A backend that waits for other ranks asks it meanwhile; what it
    /// fails with itself, the others are told when it returns that.
    pub fn reports(&self) -> Arc<Reports> {
        self.reports.clone()
    }

    /// After how long what waits says so; `None`: never. See [`waiting`](crate::waiting).
    ///
    /// # Errors
    /// `InvalidArgument` where the setting is no number of seconds.
    pub fn warn_after(&self) -> Result<Option<Duration>> {
        waiting::after(self.hint(waiting::HINT))
    }

    /// Which of the runtime's devices is this rank's: the one that the program bound it to, else what
    /// [`DeviceRuntime::default_index`] says.
    pub fn device_index(&self, runtime: &dyn DeviceRuntime) -> Result<Option<u16>> {
        let any = runtime.device(0);
        self.seat.index((any.key(), any.vendor()), runtime)
    }

    /// A backend of this name for the caller alone, who decides the order of what it is given; `purpose` tells several of
    /// one group apart. Every rank makes it.
    pub fn own_backend(&self, name: &str, purpose: &str) -> Result<Arc<dyn Backend>> {
        let mut own = self.anew();
        purpose.bytes().enumerate().for_each(|(i, b)| own.session[i % 16] = own.session[i % 16].rotate_left(3) ^ b);
        own.store = Arc::new(PrefixStore::new(format!("for/{purpose}"), own.store));
        own.backend(name)
    }

    /// The group's backend of this name, made at the first call. A backend may so stand on another (a device's on the
    /// CPU's).
    pub fn backend(&self, name: &str) -> Result<Arc<dyn Backend>> {
        self.others.backend(self, name)
    }

    /// The same, for backends that are made anew.
    pub(crate) fn anew(&self) -> GroupInit {
        self.with(self.store.clone(), self.others.anew())
    }

    /// The same with another part of the store.
    pub(crate) fn with(&self, store: Arc<dyn Store>, others: Arc<dyn OtherBackends>) -> GroupInit {
        GroupInit {
            group: self.group.clone(),
            store,
            root: self.root.clone(),
            hints: self.hints.clone(),
            seat: self.seat.clone(),
            others,
            reports: self.reports.clone(),
            ..*self
        }
    }
}
