//! Starting calls on borrowed buffers.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::sync::{Condvar, Mutex};

use super::work::ScopedWork;
use crate::ProcessGroup;
use crate::buffer::Buffers;
use crate::call::Call;
use crate::error::complain;
use crate::{Error, ErrorKind};

/// Counts the operations of a scope that are not done.
#[derive(Default)]
pub(crate) struct ScopeCount {
    state: Mutex<Pending>,
    none: Condvar,
}

#[derive(Default)]
struct Pending {
    count: usize,
    /// The latest time by which an operation of the scope must be done.
    limit: Option<Instant>,
    /// Whether the scope is at its end and waits for its operations.
    awaited: bool,
}

impl ScopeCount {
    pub(crate) fn join(&self, limit: Instant) {
        let mut state = self.state.lock();
        state.count += 1;
        state.limit = state.limit.max(Some(limit));
    }

    pub(crate) fn leave(&self) {
        let mut state = self.state.lock();
        state.count -= 1;
        if state.count == 0 && state.awaited {
            self.none.notify_all();
        }
    }
}

/// A scope in which calls may be started on borrowed buffers; see [`ProcessGroup::scope`].
///
/// Code that could drop or use a buffer before the operation is done does not compile. Here a buffer is inside the
/// scope:
///
/// ```compile_fail,E0597
/// # use c10d_core::{ProcessGroup, ReduceOp, op};
/// # fn f(pg: ProcessGroup) {
/// pg.scope(|s| {
///     let mut inside = vec![1f32];
///     drop(s.start(op::all_reduce(&mut inside, ReduceOp::Sum)));
/// });
/// # }
/// ```
///
/// Here a buffer is used while its operation is in flight:
///
/// ```compile_fail,E0506
/// # use c10d_core::{ProcessGroup, ReduceOp, op};
/// # fn f(pg: ProcessGroup) {
/// let mut x = [1f32];
/// pg.scope(|s| {
///     let work = s.start(op::all_reduce(&mut x, ReduceOp::Sum));
///     x[0] = 2.0;
///     work.wait().map(drop)
/// });
/// # }
/// ```
///
/// Here a handle leaves the scope:
///
/// ```compile_fail
/// # use c10d_core::{ProcessGroup, ReduceOp, op};
/// # fn f(pg: ProcessGroup) {
/// let mut x = vec![1f32];
/// let escaped = pg.scope(|s| s.start(op::all_reduce(&mut x, ReduceOp::Sum)));
/// # }
/// ```
///
/// Here a call on a borrowed buffer starts without a scope:
///
/// ```compile_fail,E0597
/// # use c10d_core::{ProcessGroup, ReduceOp, op};
/// # fn f(pg: ProcessGroup) {
/// let mut x = vec![1f32];
/// drop(pg.start(op::all_reduce(&mut x, ReduceOp::Sum)));
/// # }
/// ```
pub struct Scope<'scope, 'env: 'scope> {
    group: ProcessGroup,
    count: Arc<ScopeCount>,
    scope: PhantomData<&'scope mut &'scope ()>,
    env: PhantomData<&'env mut &'env ()>,
}

impl<'scope, 'env> Scope<'scope, 'env> {
    pub(crate) fn enter<F, R>(group: &ProcessGroup, body: F) -> R
    where
        F: for<'s> FnOnce(&'s Scope<'s, 'env>) -> R,
    {
        let scope = Scope { group: group.clone(), count: Arc::default(), scope: PhantomData, env: PhantomData };
        // The drop of this guard waits for all operations, even after a panic of the body.
        let _all_over = AllOver { group, count: scope.count.clone() };
        body(&scope)
    }

    /// Starts a call. Its buffers may be borrowed from outside the scope.
    pub fn start<B: Buffers + 'scope>(&'scope self, call: Call<B>) -> ScopedWork<'scope, B::Back> {
        ScopedWork(self.group.0.start(call, Some(self.count.clone())))
    }
}

struct AllOver<'a> {
    group: &'a ProcessGroup,
    count: Arc<ScopeCount>,
}

impl Drop for AllOver<'_> {
    fn drop(&mut self) {
        if !self.group.0.is_home() {
            // In a forked child, no thread ends the operations, so a wait would never end.
            return;
        }
        let mut state = self.count.state.lock();
        state.awaited = true;
        while state.count > 0 {
            let limit = state.limit.unwrap_or_else(Instant::now);
            let until = limit.max(Instant::now() + Duration::from_secs(1));
            if self.count.none.wait_until(&mut state, until).timed_out() && state.count > 0 {
                let what = format!(
                    "{} operations of a scope are not done after their deadline, so the scope continues to wait; \
                        this is a bug in the backend",
                    state.count
                );
                let error = Error::new(ErrorKind::Internal, what);
                complain(&error);
                crate::sync::MutexGuard::unlocked(&mut state, || self.group.0.fail(&error));
            }
        }
    }
}
