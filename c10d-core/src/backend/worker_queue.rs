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
/// [`take`](WorkerQueue::take). The thread ends when the queue is closed and empty. If the queue's thread uses `next`,
/// another thread that waits for an item can run queued items itself, with [`help`](WorkerQueue::help).
pub struct WorkerQueue<T> {
    /// The number of items in the queue, plus 1 while an item is being run and is not settled (see
    /// [`settled`](WorkerQueue::settled)). Threads change this number under the lock, and read it without the lock.
    pending: AtomicUsize,
    queued: Mutex<Queued<T>>,
    /// Signalled when there is news for the queue's thread: an item, a call of `rouse`, or the end of another thread's
    /// help. A push without a notification signals only if the thread is asleep.
    news: Condvar,
    /// Signalled when an item was finished, if a thread waits for that.
    finished: Condvar,
}

/// The time after which the queue's thread looks again for items that were pushed without a notification.
const NAP: Duration = Duration::from_micros(100);
/// The largest value of that time, which doubles while other threads run the items.
const LONGEST_NAP: Duration = Duration::from_micros(400);

struct Queued<T> {
    items: VecDeque<T>,
    has_thread: bool,
    closed: bool,
    roused: bool,
    /// Whether the last item was pushed by `push_quietly`.
    quiet: bool,
    /// Whether the queue's thread waits without a time limit, so that each push must notify it.
    asleep: bool,
    /// Whether the queue's own thread runs the current item, and not a thread that helps.
    serving: bool,
    /// The state of the item that is being run.
    current: CurrentItem,
    /// The number of threads that wait for the end of an item.
    waiting: usize,
    /// How many of these threads wait in [`help`](WorkerQueue::help).
    helpers: usize,
    /// The number of items that were run in [`help`](WorkerQueue::help).
    helped: u64,
}

#[derive(Clone, Copy, PartialEq)]
enum CurrentItem {
    None,
    Pending,
    /// The item does not count as pending any more, but the thread that ran it is still reporting its end.
    Settled,
}

impl<T> Default for WorkerQueue<T> {
    fn default() -> WorkerQueue<T> {
        let queued = Queued {
            items: VecDeque::new(),
            has_thread: false,
            closed: false,
            roused: false,
            quiet: false,
            asleep: false,
            serving: false,
            current: CurrentItem::None,
            waiting: 0,
            helpers: 0,
            helped: 0,
        };
        let (news, finished) = (Condvar::new(), Condvar::new());
        WorkerQueue { pending: AtomicUsize::new(0), queued: Mutex::new(queued), news, finished }
    }
}

impl<T> WorkerQueue<T> {
    /// Returns whether no item is queued or pending.
    #[inline]
    pub fn is_idle(&self) -> bool {
        self.pending.load(Ordering::Acquire) == 0
    }

    /// Adds an item to the queue. The first item starts the thread, which has the name `name` and runs `body`.
    ///
    /// # Errors
    /// `Resource` if the thread cannot be started. The item is returned with the error.
    pub fn push(&self, item: T, name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), (T, Error)> {
        self.add(item, false, name, body)
    }

    /// Like [`push`](WorkerQueue::push), for a short item of a queue whose thread uses `next`. That thread may begin
    /// the item up to 100 µs later (400 µs while other threads run items), so that most pushes need not wake it.
    ///
    /// # Errors
    /// The same as those of `push`.
    pub fn push_quietly(&self, item: T, name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), (T, Error)> {
        self.add(item, true, name, body)
    }

    fn add(&self, item: T, quiet: bool, name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), (T, Error)> {
        let mut queued = self.queued.lock();
        if !queued.has_thread {
            if let Err(error) = spawn(name, body) {
                return Err((item, error));
            }
            queued.has_thread = true;
        }
        queued.items.push_back(item);
        queued.roused = true;
        queued.quiet = quiet;
        self.pending.fetch_add(1, Ordering::AcqRel);
        let notify = queued.asleep || !quiet;
        drop(queued);
        if notify {
            self.news.notify_one();
        }
        Ok(())
    }

    /// Closes the queue: the thread ends when the queue is empty.
    pub fn close(&self) {
        self.queued.lock().closed = true;
        self.rouse();
    }

    /// Wakes the queue's thread. If it waits in [`take`](WorkerQueue::take), `take` returns.
    pub fn rouse(&self) {
        self.queued.lock().roused = true;
        self.news.notify_one();
    }

    /// Marks as finished the item that the previous call of `next` returned, and waits for the next item. Returns
    /// `None` when the queue is closed and empty.
    pub fn next(&self) -> Option<T> {
        let mut queued = self.queued.lock();
        // If `serving` is not set, the current item (if any) belongs to a thread that helps, which also finishes it.
        if std::mem::take(&mut queued.serving) {
            self.finish(&mut queued);
        }
        let mut nap = NAP;
        let mut may_run = queued.helpers == 0;
        let mut is_calm = false;
        loop {
            let waits_for_notice = !queued.quiet || is_calm;
            if (may_run || waits_for_notice) && queued.current == CurrentItem::None {
                if let Some(item) = queued.items.pop_front() {
                    queued.current = CurrentItem::Pending;
                    queued.serving = true;
                    return Some(item);
                }
                if queued.closed {
                    return None;
                }
            }
            if waits_for_notice {
                queued.asleep = true;
                self.news.wait(&mut queued);
                queued.asleep = false;
                (may_run, is_calm, nap) = (true, false, NAP);
                continue;
            }
            let helped = queued.helped;
            let late = self.news.wait_for(&mut queued, nap).timed_out();
            // While other threads run the items, this thread takes none.
            let is_helped = queued.helped != helped || queued.current != CurrentItem::None;
            may_run = !is_helped;
            is_calm = late && !is_helped;
            nap = if is_helped { LONGEST_NAP.min(nap * 2) } else { NAP };
        }
    }

    /// Runs queued items on the calling thread instead of the queue's thread, until `is_done` returns `true` or the
    /// queue is empty. While another thread runs an item, the calling thread waits; if the deadline passes during this
    /// wait, the function returns. `run` must run one item, then call [`settled`](WorkerQueue::settled), and then
    /// report the item's end. `is_done` is called with the queue's lock held.
    pub fn help(&self, deadline: Instant, is_done: impl Fn() -> bool, mut run: impl FnMut(T)) {
        let mut queued = self.queued.lock();
        while !is_done() {
            if queued.current != CurrentItem::None {
                queued.helpers += 1;
                let late = self.wait_for_end(&mut queued, deadline);
                queued.helpers -= 1;
                if late {
                    break;
                }
            } else if let Some(item) = queued.items.pop_front() {
                queued.current = CurrentItem::Pending;
                queued.helped = queued.helped.wrapping_add(1);
                drop(queued);
                run(item);
                queued = self.queued.lock();
                self.finish(&mut queued);
            } else {
                break;
            }
        }
        if queued.asleep && (queued.closed || !queued.items.is_empty()) {
            drop(queued);
            self.news.notify_one();
        }
    }

    /// Waits until an item was finished, and returns whether the deadline passed.
    fn wait_for_end(&self, queued: &mut MutexGuard<'_, Queued<T>>, deadline: Instant) -> bool {
        queued.waiting += 1;
        let late = self.finished.wait_until(queued, deadline).timed_out();
        queued.waiting -= 1;
        late
    }

    fn finish(&self, queued: &mut MutexGuard<'_, Queued<T>>) {
        self.settle(queued);
        if queued.current != CurrentItem::None {
            queued.current = CurrentItem::None;
            if queued.waiting > 0 {
                self.finished.notify_all();
            }
        }
    }

    /// Marks the current item as not pending any more. The thread that runs the item calls `settled` before it reports
    /// the item's end. So the code that gets the report finds the queue idle if no other item is queued.
    pub fn settled(&self) {
        self.settle(&mut self.queued.lock());
    }

    fn settle(&self, queued: &mut MutexGuard<'_, Queued<T>>) {
        if queued.current == CurrentItem::Pending {
            queued.current = CurrentItem::Settled;
            self.pending.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// Waits until an item was pushed, [`rouse`](WorkerQueue::rouse) was called, or `patience` (`None`: no limit) has
    /// passed. Moves all queued items to `into`, and returns whether the queue is closed.
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
            if self.wait_for_end(&mut queued, deadline) {
                return is_through(&queued);
            }
        }
        true
    }

    /// Calls `look` with the queued items, in their order. While `look` runs, no item is taken out of the queue. If an
    /// item is being run, returns `None` without calling `look`.
    pub fn look<R>(&self, look: impl FnOnce(&VecDeque<T>) -> R) -> Option<R> {
        let queued = self.queued.lock();
        (queued.current == CurrentItem::None).then(|| look(&queued.items))
    }

    /// Returns the smallest value of `of` for the items in the queue, or `None` if the queue is empty.
    pub fn least<K: Ord>(&self, of: impl FnMut(&T) -> K) -> Option<K> {
        self.queued.lock().items.iter().map(of).min()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::{Sender, channel};

    use super::*;
    use crate::store::deadline_after;

    const SOON: Duration = Duration::from_millis(20);
    const LONG: Duration = Duration::from_secs(60);

    /// Items run in order. The queue is idle when the last item is settled, and drained when the thread has finished
    /// that item.
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

    /// A thread that waits for an item runs the items before it and the item itself, in order. The queue's thread runs
    /// the items for which no thread waits.
    #[test]
    fn a_thread_that_waits_runs_items() {
        let queue = Arc::new(WorkerQueue::default());
        let (end, ended) = channel();
        let run = |item: u32| {
            queue.settled();
            end.send((item, thread_name())).unwrap();
        };
        let worker = |queue: Arc<WorkerQueue<u32>>, end: Sender<(u32, String)>| {
            move || {
                while let Some(item) = queue.next() {
                    queue.settled();
                    end.send((item, thread_name())).unwrap();
                }
            }
        };
        let here = thread_name();
        // The thread starts with the first push and may take that item.
        queue.push(0, "the thread", worker(queue.clone(), end.clone())).unwrap();
        assert_eq!(ended.recv_timeout(LONG).unwrap(), (0, "the thread".into()));
        assert!(queue.drain(deadline_after(LONG)));
        let mut ran_here = 0;
        for round in 0..100 {
            for item in [1, 2, 3] {
                queue.push_quietly(item, "", || ()).unwrap();
            }
            let last = std::cell::Cell::new(0);
            let is_done = || {
                ended.try_iter().for_each(|(item, thread)| {
                    assert_eq!(item, last.get() + 1, "round {round}");
                    last.set(item);
                    ran_here += usize::from(thread == here);
                });
                last.get() >= 2
            };
            let is_done = std::cell::RefCell::new(is_done);
            queue.help(deadline_after(LONG), || (is_done.borrow_mut())(), run);
            assert!((is_done.borrow_mut())(), "round {round}: an item for which this thread waits");
            if last.get() == 2 {
                assert_eq!(ended.recv_timeout(LONG).unwrap().0, 3, "round {round}: an item for which no thread waits");
            }
        }
        assert!(ran_here > 0);
        queue.close();
    }

    /// While one thread pushes items (with and without a notification) and helps, and the queue's thread runs items,
    /// every item is run once.
    #[test]
    fn no_item_is_forgotten() {
        const ITEMS: usize = 20_000;
        let queue = Arc::new(WorkerQueue::default());
        let ran = Arc::new(AtomicUsize::new(0));
        let count = |queue: &WorkerQueue<usize>, ran: &AtomicUsize, item: usize| {
            assert_eq!(ran.fetch_add(1, Ordering::SeqCst), item, "the items run in order");
            queue.settled();
        };
        let worker = (queue.clone(), ran.clone());
        let mut body = Some(move || {
            while let Some(item) = worker.0.next() {
                count(&worker.0, &worker.1, item);
            }
        });
        for item in 0..ITEMS {
            let body = body.take();
            let body = move || body.into_iter().for_each(|body| body());
            match item % 7 {
                0 | 3 => queue.push(item, "test", body).unwrap(),
                _ => queue.push_quietly(item, "test", body).unwrap(),
            }
            if item % 5 == 0 {
                queue.help(
                    deadline_after(LONG),
                    || ran.load(Ordering::SeqCst) + item % 3 > item,
                    |item| count(&queue, &ran, item),
                );
            }
            if item % 64 == 0 {
                assert!(
                    queue.drain(deadline_after(Duration::from_secs(10))),
                    "item {item} of {}",
                    ran.load(Ordering::SeqCst)
                );
            }
        }
        assert!(queue.drain(deadline_after(LONG)) && ran.load(Ordering::SeqCst) == ITEMS);
        queue.close();
    }

    fn thread_name() -> String {
        std::thread::current().name().unwrap_or_default().to_owned()
    }

    #[test]
    fn take_returns_all_items_and_returns_when_roused() {
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
        assert!(!queue.take(&mut taken, Some(SOON)), "`take` returns after its time limit");
        queue.close();
        assert!(queue.take(&mut taken, None) && taken.len() == 2);
    }
}
