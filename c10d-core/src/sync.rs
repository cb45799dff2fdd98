//! Locks without global state: a forked child can make and use its own. They wrap the standard library's locks, without
//! poisoning, and add a lock with a deadline.
//!
//! The interface is that of `parking_lot`. `parking_lot` itself does not work in a forked child: the child inherits the
//! table of the threads that wait for locks, and would hang at a lock that no thread holds.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{PoisonError, TryLockError};
use std::time::{Duration, Instant};

/// A mutex. A panic of a thread that holds it does not poison it.
#[derive(Default)]
pub struct Mutex<T: ?Sized> {
    /// The number of threads that wait for the mutex with a deadline. An unlock notifies them only if the number is not
    /// 0.
    late: AtomicU32,
    /// The lock under which the threads with a deadline wait for `free`.
    gate: std::sync::Mutex<()>,
    free: std::sync::Condvar,
    inner: std::sync::Mutex<T>,
}

/// The longest sleep of a thread that waits for the mutex with a deadline. A [`Condvar`] that releases the mutex does
/// not notify this thread, so it must try again.
const LOOK: Duration = Duration::from_millis(5);

impl<T> Mutex<T> {
    /// Makes an unlocked mutex.
    pub const fn new(value: T) -> Mutex<T> {
        Mutex {
            late: AtomicU32::new(0),
            gate: std::sync::Mutex::new(()),
            free: std::sync::Condvar::new(),
            inner: std::sync::Mutex::new(value),
        }
    }
}

impl<T: ?Sized> Mutex<T> {
    /// Locks the mutex, and waits as long as needed.
    #[inline]
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.guard(self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Locks the mutex if no thread holds it; else returns `None` at once.
    #[inline]
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        match self.inner.try_lock() {
            Ok(guard) => Some(self.guard(guard)),
            Err(TryLockError::Poisoned(poisoned)) => Some(self.guard(poisoned.into_inner())),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Locks the mutex, or returns `None` after `patience`.
    pub fn try_lock_for(&self, patience: Duration) -> Option<MutexGuard<'_, T>> {
        self.try_lock().or_else(|| match Instant::now().checked_add(patience) {
            Some(deadline) => self.try_lock_until(deadline),
            None => Some(self.lock()),
        })
    }

    /// Locks the mutex, or returns `None` at the deadline.
    pub fn try_lock_until(&self, deadline: Instant) -> Option<MutexGuard<'_, T>> {
        if let Some(guard) = self.try_lock() {
            return Some(guard);
        }
        self.late.fetch_add(1, Ordering::SeqCst);
        let mut gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        let guard = loop {
            // This thread is counted in `late` and holds the gate. So an unlock after this attempt waits for the gate,
            // and notifies only when this thread waits for `free`.
            if let Some(guard) = self.try_lock() {
                break Some(guard);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break None;
            }
            gate = self.free.wait_timeout(gate, left.min(LOOK)).unwrap_or_else(PoisonError::into_inner).0;
        };
        self.late.fetch_sub(1, Ordering::SeqCst);
        guard
    }

    /// Returns the guarded value. An exclusive reference needs no lock.
    pub fn get_mut(&mut self) -> &mut T {
        self.inner.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    #[inline]
    fn guard<'a>(&'a self, inner: std::sync::MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        MutexGuard { mutex: self, inner: Some(inner) }
    }

    /// Notifies a thread that waits with a deadline that the mutex was unlocked.
    #[inline]
    fn unlocked(&self) {
        if self.late.load(Ordering::SeqCst) > 0 {
            drop(self.gate.lock());
            self.free.notify_one();
        }
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

/// A locked [`Mutex`].
#[must_use = "a guard that is dropped at once unlocks the mutex at once"]
pub struct MutexGuard<'a, T: ?Sized> {
    mutex: &'a Mutex<T>,
    /// The standard library's guard. `None` only while a wait or [`MutexGuard::unlocked`] has released the lock.
    inner: Option<std::sync::MutexGuard<'a, T>>,
}

impl<T: ?Sized> MutexGuard<'_, T> {
    /// Unlocks the mutex while `body` runs, and then locks it again.
    pub fn unlocked<R>(guard: &mut Self, body: impl FnOnce() -> R) -> R {
        guard.inner = None;
        guard.mutex.unlocked();
        let result = body();
        guard.inner = Some(guard.mutex.inner.lock().unwrap_or_else(PoisonError::into_inner));
        result
    }
}

impl<T: ?Sized> Deref for MutexGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        match &self.inner {
            Some(inner) => inner,
            None => unreachable!("a guard is used while its lock is released"),
        }
    }
}

impl<T: ?Sized> DerefMut for MutexGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        match &mut self.inner {
            Some(inner) => inner,
            None => unreachable!("a guard is used while its lock is released"),
        }
    }
}

impl<T: ?Sized> Drop for MutexGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        if self.inner.take().is_some() {
            self.mutex.unlocked();
        }
    }
}

/// A condition variable for a [`Mutex`]. A wait may end without a notification.
#[derive(Default, Debug)]
pub struct Condvar(std::sync::Condvar);

/// How a wait with a deadline ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitTimeoutResult(bool);

impl WaitTimeoutResult {
    /// Returns whether the wait ended because its deadline passed.
    pub fn timed_out(self) -> bool {
        self.0
    }
}

impl Condvar {
    /// Makes a condition variable without waiting threads.
    pub const fn new() -> Condvar {
        Condvar(std::sync::Condvar::new())
    }

    /// Releases the lock, waits for a notification, and locks again.
    pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        self.wait_by(guard, None);
    }

    /// Releases the lock, waits for a notification until the deadline, and locks again.
    pub fn wait_until<T>(&self, guard: &mut MutexGuard<'_, T>, deadline: Instant) -> WaitTimeoutResult {
        self.wait_for(guard, deadline.saturating_duration_since(Instant::now()))
    }

    /// Releases the lock, waits for a notification for at most `patience`, and locks again.
    pub fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, patience: Duration) -> WaitTimeoutResult {
        WaitTimeoutResult(self.wait_by(guard, Some(patience)))
    }

    /// Waits, and returns whether `patience` ended the wait.
    fn wait_by<T>(&self, guard: &mut MutexGuard<'_, T>, patience: Option<Duration>) -> bool {
        let Some(inner) = guard.inner.take() else { return true };
        // The lock is released without notifying threads with a deadline. They try again after at most `LOOK`, and are
        // notified when this guard is dropped.
        let (inner, late) = match patience {
            None => (self.0.wait(inner).unwrap_or_else(PoisonError::into_inner), false),
            Some(patience) => {
                let (inner, how) = self.0.wait_timeout(inner, patience).unwrap_or_else(PoisonError::into_inner);
                (inner, how.timed_out())
            }
        };
        guard.inner = Some(inner);
        late
    }

    /// Wakes one waiting thread.
    pub fn notify_one(&self) {
        self.0.notify_one();
    }

    /// Wakes all waiting threads.
    pub fn notify_all(&self) {
        self.0.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_update_or_notification_is_lost() {
        const THREADS: u64 = 4;
        const TIMES: u64 = 20_000;
        let (sum, all) = (Mutex::new(0u64), Condvar::new());
        std::thread::scope(|s| {
            for _ in 0..THREADS {
                s.spawn(|| {
                    for i in 0..TIMES {
                        let mut sum =
                            if i % 3 == 0 { sum.try_lock_for(Duration::from_secs(60)).unwrap() } else { sum.lock() };
                        *sum += 1;
                        if *sum == THREADS * TIMES {
                            drop(sum);
                            all.notify_all();
                        }
                    }
                });
            }
            for _ in 0..3 {
                s.spawn(|| {
                    let mut sum = sum.lock();
                    while *sum < THREADS * TIMES {
                        let late = all.wait_for(&mut sum, Duration::from_secs(60)).timed_out();
                        assert!(!late || *sum == THREADS * TIMES, "a lost notification");
                    }
                });
            }
        });
        assert_eq!(*sum.lock(), THREADS * TIMES);
    }

    /// Two threads alternate through one condition variable. A lost notification would stop both.
    #[test]
    fn two_threads_alternate() {
        let (turn, changed) = (Mutex::new(0u32), Condvar::new());
        let play = |me: u32| {
            for _ in 0..5000 {
                let mut turn = turn.lock();
                while *turn % 2 != me {
                    changed.wait(&mut turn);
                }
                *turn += 1;
                changed.notify_one();
            }
        };
        std::thread::scope(|s| {
            s.spawn(|| play(0));
            s.spawn(|| play(1));
        });
        assert_eq!(*turn.lock(), 10_000);
    }

    #[test]
    fn deadlines_end_waits() {
        let (mutex, never) = (Mutex::new(()), Condvar::new());
        let soon = || Instant::now() + Duration::from_millis(20);
        let mut held = mutex.lock();
        std::thread::scope(|s| {
            s.spawn(|| assert!(mutex.try_lock_until(soon()).is_none() && mutex.try_lock().is_none()));
        });
        let until = soon();
        while !never.wait_until(&mut held, until).timed_out() {}
        assert!(Instant::now() >= until);
        drop(held);
        assert!(mutex.try_lock_until(Instant::now()).is_some());
    }
}
