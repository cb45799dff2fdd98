//! Locks whose whole state is in themselves, so that a forked child can make and use its own.
//!
//! `parking_lot`, whose interface this has, keeps the waiting threads of all locks of a process in one table. A forked
//! child inherits the table with the parent's waiting threads in it, whose memory it uses for other things: it would hang
//! at a lock that no other thread holds. Here a word is all that there is, and the kernel keeps who waits (futex).
//! A panic while a lock is held does not poison it.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A mutual exclusion; see [`lock_api::Mutex`].
pub type Mutex<T> = lock_api::Mutex<RawMutex, T>;
/// A locked [`Mutex`].
pub type MutexGuard<'a, T> = lock_api::MutexGuard<'a, RawMutex, T>;
/// A condition to wait for under a [`Mutex`]; see [`lock_api::Condvar`]. A wait may end without a notification.
pub type Condvar = lock_api::Condvar<RawCondvar>;

const FREE: u32 = 0;
const HELD: u32 = 1;
/// Held, and somebody may sleep.
const AWAITED: u32 = 2;
/// Looks before sleeping: about as long as a short critical section.
const SPINS: u32 = 100;

/// The word of a [`Mutex`].
pub struct RawMutex(AtomicU32);

/// A guard stays on its thread.
#[doc(hidden)]
pub struct OfThread(PhantomData<*mut ()>);
// SAFETY: it is nothing; a shared guard only gives shared access.
unsafe impl Sync for OfThread {}

const GUARD: OfThread = OfThread(PhantomData);

impl RawMutex {
    fn try_take(&self) -> bool {
        self.0.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Takes it by this time, if there is one.
    #[cold]
    fn take_late(&self, deadline: Option<Instant>) -> bool {
        for _ in 0..SPINS {
            match self.0.load(Ordering::Relaxed) {
                FREE if self.try_take() => return true,
                HELD | FREE => std::hint::spin_loop(),
                _ => break,
            }
        }
        // From here on it is held as awaited: others may sleep, too.
        while self.0.swap(AWAITED, Ordering::Acquire) != FREE {
            if !sleep(&self.0, AWAITED, deadline) {
                // It may have become free at the last moment.
                return self.0.swap(AWAITED, Ordering::Acquire) == FREE;
            }
        }
        true
    }
}

// SAFETY: whoever changed the word from FREE holds it alone until `unlock` writes FREE; acquire and release order what was
// done under it.
unsafe impl lock_api::RawMutex for RawMutex {
    #[allow(clippy::declare_interior_mutable_const)]
    const INIT: RawMutex = RawMutex(AtomicU32::new(FREE));
    type Guard = OfThread;

    #[inline]
    fn lock(&self) -> OfThread {
        if !self.try_take() {
            self.take_late(None);
        }
        GUARD
    }

    #[inline]
    fn try_lock(&self) -> Option<OfThread> {
        self.try_take().then_some(GUARD)
    }

    #[inline]
    unsafe fn unlock(&self, _: OfThread) {
        if self.0.swap(FREE, Ordering::Release) == AWAITED {
            wake(&self.0, 1);
        }
    }

    fn is_locked(&self) -> bool {
        self.0.load(Ordering::Relaxed) != FREE
    }
}

// SAFETY: as above.
unsafe impl lock_api::RawMutexTimed for RawMutex {
    type Duration = Duration;
    type Instant = Instant;

    fn try_lock_for(&self, timeout: Duration) -> Option<OfThread> {
        (self.try_take() || self.take_late(Instant::now().checked_add(timeout))).then_some(GUARD)
    }

    fn try_lock_until(&self, deadline: Instant) -> Option<OfThread> {
        (self.try_take() || self.take_late(Some(deadline))).then_some(GUARD)
    }
}

/// The words of a [`Condvar`]. Waits may end without a notification.
pub struct RawCondvar {
    /// Changes with every notification.
    turn: AtomicU32,
    /// Threads that wait, or are about to. Without any a notification is no system call.
    waiting: AtomicU32,
}

impl RawCondvar {
    /// False at the deadline.
    fn wait_by(&self, mutex: &RawMutex, deadline: Option<Instant>) -> bool {
        use lock_api::RawMutex as _;
        // Under the mutex: whoever changes what is waited for takes it afterwards, and sees both.
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let turn = self.turn.load(Ordering::SeqCst);
        // SAFETY: the caller holds it.
        unsafe { mutex.unlock(GUARD) };
        let in_time = sleep(&self.turn, turn, deadline);
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        mutex.lock();
        in_time
    }

    fn notify(&self, threads: i32) {
        self.turn.fetch_add(1, Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) > 0 {
            wake(&self.turn, threads);
        }
    }
}

// SAFETY: the turn is read under the mutex, and the kernel sleeps only while it has not changed, so no notification after
// the unlocking is lost; the mutex is locked again before any return, and nothing here panics.
unsafe impl lock_api::RawCondvar for RawCondvar {
    #[allow(clippy::declare_interior_mutable_const)]
    const INIT: RawCondvar = RawCondvar { turn: AtomicU32::new(0), waiting: AtomicU32::new(0) };
    type RawMutex = RawMutex;

    unsafe fn wait(&self, mutex: &RawMutex, _: &mut OfThread) {
        self.wait_by(mutex, None);
    }

    fn notify_one(&self) -> bool {
        self.notify(1);
        false
    }

    fn notify_all(&self) -> usize {
        self.notify(i32::MAX);
        0
    }
}

// SAFETY: as above.
unsafe impl lock_api::RawCondvarTimed for RawCondvar {
    fn checked_duration_to_instant(timeout: &Duration) -> Option<Instant> {
        Instant::now().checked_add(*timeout)
    }

    unsafe fn wait_until(&self, mutex: &RawMutex, _: &mut OfThread, deadline: &Instant) -> bool {
        !self.wait_by(mutex, Some(*deadline))
    }
}

/// Sleeps while the word has this value, until it is woken, or for no reason. False: the deadline has passed.
fn sleep(word: &AtomicU32, value: u32, deadline: Option<Instant>) -> bool {
    let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
    if left.is_some_and(|left| left.is_zero()) {
        return false;
    }
    // SAFETY: zeroes are a time.
    let mut time: libc::timespec = unsafe { std::mem::zeroed() };
    let time: *const libc::timespec = match left {
        Some(left) => {
            time.tv_sec = left.as_secs().min(1 << 30) as libc::time_t;
            time.tv_nsec = left.subsec_nanos().into();
            &time
        }
        None => std::ptr::null(),
    };
    let how = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
    // SAFETY: the word and the time outlive the call.
    let woken = unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), how, value, time) };
    woken == 0 || std::io::Error::last_os_error().raw_os_error() != Some(libc::ETIMEDOUT)
}

fn wake(word: &AtomicU32, threads: i32) {
    // SAFETY: an address, which need not even be mapped any more.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG, threads) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost_between_threads() {
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

    /// Two threads that hand a turn to each other through one condition: each loss would stop both.
    #[test]
    fn turns_are_handed_over() {
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
