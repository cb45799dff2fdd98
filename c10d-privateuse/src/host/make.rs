//! Lets a plugin make its object for a new group or for a sub-group.
#![allow(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use c10d_core::backend::GroupInit;
use c10d_core::{ErrorKind, Result};

use super::group::{Group, grace};
use super::loaded::LoadedPlugin;
use super::queues::SubmitQueues;
use super::timed_call::{TimedCall, call_until};
use super::{answer, give, groups, listen, overdue};
use crate::abi::{self, Why};

/// The values of `c10d_group_init`, and the time limits of the call: the plugin is told the time until `deadline`, and
/// the host waits until `limit`.
struct Terms {
    rank: u32,
    name: Arc<str>,
    session: [u8; 16],
    deadline: Instant,
    limit: Instant,
}

impl Group {
    fn prepare(loaded: &'static LoadedPlugin, init: &GroupInit) -> Result<Arc<Group>> {
        let group = Group::new(loaded, init, SubmitQueues::new(give::give))?;
        overdue::watch()?;
        groups::add(&group);
        Ok(group)
    }

    pub(super) fn create(loaded: &'static LoadedPlugin, init: &GroupInit) -> Result<Arc<Group>> {
        let group = Group::prepare(loaded, init)?;
        let Some(create) = group.functions.create_group else {
            return Err(group.plugin().error("create_group", "it has no such function"));
        };
        let plugin = group.plugin();
        // SAFETY: the function was validated. The call's thread keeps the group, to which `init` points, until the call
        // returns.
        group.make("create_group", init, move |init, handle, why| unsafe {
            create(plugin.table(), init, handle, why)
        })?;
        Ok(group)
    }

    /// Makes a group of these ranks by the plugin's `split`. Returns `None` if the plugin cannot split this group, or
    /// if this group's object is destroyed.
    pub(super) fn split(self: &Arc<Self>, ranks: &[u32], init: &GroupInit) -> Option<Result<Arc<Group>>> {
        let split = self.functions.split?;
        let group = match Group::prepare(self.loaded(), init) {
            Ok(group) => group,
            Err(e) => return Some(Err(e)),
        };
        let (parent, ranks) = (self.open_call()?, ranks.to_vec());
        let made = group.make("split", init, move |init, handle, why| {
            // SAFETY: the same as in `create`; the parent is not destroyed while `parent` counts this call.
            unsafe { split(parent.0.handle(), ranks.as_ptr(), init, handle, why) }
        });
        match made {
            Err(e) if *e.kind() == ErrorKind::Unsupported => None,
            made => Some(made.map(|()| group)),
        }
    }

    /// Calls the plugin's `split` on a rank that is in no sub-group.
    pub(super) fn no_split(self: &Arc<Self>, patience: Duration) {
        let Some(split) = self.functions.split.filter(|_| self.failure().is_none()) else { return };
        let Some(me) = self.open_call() else { return };
        let told = call_until(Instant::now() + patience, move || {
            // SAFETY: the same as in `split`; on a rank that is in no sub-group, these arguments are null by the ABI.
            Why::ask(|why| unsafe {
                split(me.0.handle(), std::ptr::null(), std::ptr::null(), std::ptr::null_mut(), why)
            })
        });
        let result = match told {
            Ok(TimedCall::Returned((abi::codes::UNSUPPORTED, _))) => Ok(()),
            Ok(TimedCall::Returned((status, why))) => answer::status(self.plugin(), "split", status, &why),
            Ok(TimedCall::Hangs) => Err(self.plugin().gave_up("split")),
            Err(e) => Err(e),
        };
        if let Err(e) = result {
            self.fail(&e);
        }
    }

    /// Calls a function that makes the plugin's object, on another thread and with a time limit.
    fn make(
        self: &Arc<Self>,
        call: &'static str,
        init: &GroupInit,
        make: impl FnOnce(*const abi::GroupInit, *mut *mut std::ffi::c_void, *mut Why) -> i32 + Send + 'static,
    ) -> Result {
        let terms = Terms {
            rank: init.rank,
            name: init.group.clone(),
            session: init.session,
            deadline: init.deadline,
            limit: init.deadline + grace(init.timeout),
        };
        let me = self.open_operation_call();
        let made = call_until(terms.limit, move || {
            let init = me.0.init(&terms);
            let mut handle = std::ptr::null_mut();
            let answer = Why::ask(|why| make(&init, &mut handle, why));
            let _ = me.0.handle.set(handle as usize);
            answer
        })?;
        match made {
            TimedCall::Returned((status, why)) => answer::status(self.plugin(), call, status, &why)?,
            TimedCall::Hangs => {
                self.aborted.store(1, Ordering::Release);
                return Err(self.plugin().gave_up(call));
            }
        }
        if self.functions.async_error.is_some() {
            listen::to(self.plugin())?;
        }
        Ok(())
    }

    fn init(&self, terms: &Terms) -> abi::GroupInit {
        let left = terms.deadline.saturating_duration_since(Instant::now());
        abi::GroupInit {
            struct_size: abi::size::<abi::GroupInit>(),
            rank: terms.rank,
            size: self.size,
            reserved: 0,
            name: terms.name.as_ptr().cast(),
            name_len: terms.name.len() as u64,
            session: terms.session,
            store: self.store.0,
            timeout_ns: u64::try_from(left.as_nanos()).unwrap_or(u64::MAX),
            aborted: self.aborted.as_ptr(),
        }
    }
}
