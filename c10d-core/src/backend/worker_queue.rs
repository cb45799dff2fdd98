//! A queue of started operations with a thread that runs them in order.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::process::spawn;
use crate::sync::{Condvar, Mutex, MutexGuard};
use crate::{Error, Result};

/// A queue with one worker thread, which starts when the first item is pushed.
///
/// The thread takes items one by one with [`next`](WorkerQueue::next), or all queued items with
/// [`take`](WorkerQueue::take). It ends when the queue is closed and empty.
pub struct WorkerQueue<T> {
    /// The number of items in the queue, plus 1 if the item that `next` returned is not finished. It is changed under
    /// the lock, and read without the lock.
    pending: AtomicUsize,
    queued: Mutex<Queued<T>>,
    /// Signalled when an item was pushed, or when `rouse` was called.
    news: Condvar,
    /// Signalled when the thread has finished an item.
    finished: Condvar,
}

struct Queued<T> {
    items: VecDeque<T>,
    has_thread: bool,
    closed: bool,
    roused: bool,
    /// The state of the item that `next` returned.
    current: CurrentItem,
}

#[derive(Clone, Copy, PartialEq)]
enum CurrentItem {
    None,
    Pending,
    /// The item does not count as pending any more, but the thread is still reporting its end.
    Settled,
}

impl<T> Default for WorkerQueue<T> {
    fn default() -> WorkerQueue<T> {
        let items = VecDeque::new();
        let queued = Queued { items, has_thread: false, closed: false, roused: false, current: CurrentItem::None };
        let (news, finished) = (Condvar::new(), Condvar::new());
        WorkerQueue { pending: AtomicUsize::new(0), queued: Mutex::new(queued), news, finished }
    }
}

impl<T> WorkerQueue<T> {
    /// Returns whether no item is queued or pending. If so, it stays true until an item is pushed.
    #[inline]
    pub fn is_idle(&self) -> bool {
        self.pending.load(Ordering::Acquire) == 0
    }

    /// Adds an item to the queue. The first item starts the thread, which has the name `name` and runs `body`.
    ///
    /// # Errors
    /// `Resource` if the thread cannot be started. The item is returned with it.
    pub fn push(&self, item: T, name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), (T, Error)> {
        let mut queued = self.queued.lock();
        if !queued.has_thread {
            if let Err(error) = spawn(name, body) {
                return Err((item, error));
            }
            queued.has_thread = true;
        }
        queued.items.push_back(item);
        queued.roused = true;
        self.pending.fetch_add(1, Ordering::AcqRel);
        drop(queued);
        self.news.notify_one();
        Ok(())
    }

    /// Closes the queue: the thread ends when the queue is empty.
    pub fn close(&self) {
        self.queued.lock().closed = true;
        self.rouse();
    }

    /// Wakes the thread that waits in [`take`](WorkerQueue::take).
    pub fn rouse(&self) {
        self.queued.lock().roused = true;
        self.news.notify_one();
    }

    /// Marks the item that it returned before as finished, and waits for the next item. Returns `None` when the queue
    /// is closed and empty.
    pub fn next(&self) -> Option<T> {
        let mut queued = self.queued.lock();
        self.settle(&mut queued);
        if queued.current != CurrentItem::None {
            queued.current = CurrentItem::None;
            self.finished.notify_all();
        }
        loop {
            if let Some(item) = queued.items.pop_front() {
                queued.current = CurrentItem::Pending;
                return Some(item);
            }
            if queued.closed {
                return None;
            }
            self.news.wait(&mut queued);
        }
    }

    /// Marks the item that `next` returned as not pending any more. The thread calls it before it reports the item's
    /// end, so that the code that gets the report finds the queue idle if no other item is queued.
    pub fn settled(&self) {
        self.settle(&mut self.queued.lock());
    }

    fn settle(&self, queued: &mut MutexGuard<'_, Queued<T>>) {
        if queued.current == CurrentItem::Pending {
            queued.current = CurrentItem::Settled;
            self.pending.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// Waits until an item was pushed, [`rouse`](WorkerQueue::rouse) was called, or `patience` is over. Moves all
    /// queued items to `into`, and returns whether the queue is closed.
    pub fn take(&self, into: &mut Vec<T>, patience: Option<Duration>) -> bool {
        let mut queued = self.queued.lock();
        while !queued.roused && queued.items.is_empty() {
            match patience {
                Some(patience) => {
                    self.news.wait_for(&mut queued, patience);
                    break;
                }
                None => self.news.wait(&mut queued),
            }
        }
        queued.roused = false;
        self.pending.fetch_sub(queued.items.len(), Ordering::AcqRel);
        into.extend(queued.items.drain(..));
        queued.closed
    }

    /// Waits until no item is pending and the end of every item was reported. Returns `false` if the deadline passed
    /// first.
    pub fn drain(&self, deadline: Instant) -> bool {
        let mut queued = self.queued.lock();
        let is_through = |queued: &Queued<T>| self.is_idle() && queued.current == CurrentItem::None;
        while !is_through(&queued) {
            if self.finished.wait_until(&mut queued, deadline).timed_out() {
                return is_through(&queued);
            }
        }
        true
    }

    /// Returns the smallest value of `of` for the items in the queue, or `None` if the queue is empty.
    pub fn least<K: Ord>(&self, of: impl FnMut(&T) -> K) -> Option<K> {
        self.queued.lock().items.iter().map(of).min()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::channel;

    use super::*;
    use crate::store::deadline_after;

    const SOON: Duration = Duration::from_millis(20);
    const LONG: Duration = Duration::from_secs(60);

    /// Items run in order. The queue is idle when the last item is settled, and drained when the thread has finished
    /// it.
    #[test]
    fn an_item_is_settled_before_its_end_is_reported() {
        let queue = Arc::new(WorkerQueue::default());
        let ((open, opened), (tell, told)) = (channel::<()>(), channel());
        let worker = queue.clone();
        let mut body = Some(move || {
            while let Some(item) = worker.next() {
                opened.recv().unwrap();
                worker.settled();
                tell.send((item, worker.is_idle())).unwrap();
                opened.recv().unwrap();
            }
        });
        assert!(queue.is_idle() && queue.drain(Instant::now()));
        for item in [2, 3, 1] {
            let body = body.take();
            queue.push(item, "test", move || body.into_iter().for_each(|body| body())).unwrap();
        }
        for want in [(2, false), (3, false), (1, true)] {
            assert!(!queue.is_idle());
            open.send(()).unwrap();
            assert_eq!(told.recv().unwrap(), want);
            assert!(!queue.drain(deadline_after(SOON)), "the thread has not finished");
            open.send(()).unwrap();
        }
        assert!(queue.drain(deadline_after(LONG)) && queue.is_idle());
        queue.close();
        assert!(told.recv_timeout(LONG).is_err(), "the thread has ended");
    }

    #[test]
    fn all_are_taken_at_once_or_when_roused() {
        let queue = WorkerQueue::default();
        for item in [2, 1] {
            queue.push(item, "test", || ()).unwrap();
        }
        assert_eq!((queue.least(|item| *item), queue.is_idle()), (Some(1), false));
        let mut taken = Vec::new();
        assert!(!queue.take(&mut taken, None));
        assert_eq!((&taken[..], queue.is_idle()), (&[2, 1][..], true));
        queue.rouse();
        assert!(!queue.take(&mut taken, None));
        assert!(!queue.take(&mut taken, Some(SOON)), "the time is over");
        queue.close();
        assert!(queue.take(&mut taken, None) && taken.len() == 2);
    }
}
