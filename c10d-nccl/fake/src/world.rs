//! Memory, streams and events, and the order of all accesses to memory. The host is the program, which calls the
//! driver.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock};
use std::thread::{ThreadId, current};

use crossbeam_channel::{Sender, unbounded};
use parking_lot::{Condvar, Mutex};

/// A vector clock of the host's next call, of a stream's next work or of an event: for each stream, the number of
/// pieces of work that are certain to be finished by then.
pub(crate) type Clock = HashMap<u64, u64>;

pub(crate) type Work = Box<dyn FnOnce() + Send>;

/// A use of a range of device memory, for reading or for writing.
#[derive(Clone, Copy)]
pub(crate) struct Touch {
    pub(crate) at: u64,
    pub(crate) bytes: usize,
    pub(crate) writes: bool,
}

struct Use {
    stream: u64,
    tick: u64,
    touch: Touch,
}

struct Allocation {
    bytes: usize,
    device: u16,
    uses: Vec<Use>,
}

struct Stream {
    device: u16,
    work: Sender<Work>,
    clock: Clock,
    tick: u64,
}

struct Event {
    device: u16,
    clock: Clock,
    /// Whether the stream has reached the last record of the event. Waits and queries refer only to the last record.
    reached: Arc<(Mutex<bool>, Condvar)>,
}

#[derive(Default)]
pub(crate) struct World {
    allocations: BTreeMap<u64, Allocation>,
    streams: HashMap<u64, Stream>,
    events: HashMap<u64, Event>,
    /// The work that the host knows to be finished.
    host: Clock,
    /// The threads that have used their own default stream (`CU_STREAM_PER_THREAD`).
    threads: Vec<ThreadId>,
    next: u64,
}

pub(crate) static WORLD: LazyLock<Mutex<World>> = LazyLock::new(Mutex::default);

/// The handle of the default stream of device 0. Those of other devices follow.
const DEFAULT: u64 = 1 << 40;
const LEGACY: u64 = 1;
const PER_THREAD: u64 = 2;

fn join(clock: &mut Clock, other: &Clock) {
    for (stream, tick) in other {
        let known = clock.entry(*stream).or_default();
        *known = (*known).max(*tick);
    }
}

impl World {
    fn handle(&mut self) -> u64 {
        self.next += 1;
        // A handle is not a valid address, so reading through it fails.
        0x10_0000 + self.next * 16
    }

    pub(crate) fn allocate(&mut self, device: u16, at: u64, bytes: usize) {
        self.allocations.insert(at, Allocation { bytes, device, uses: Vec::new() });
    }

    /// Removes an allocation. Returns whether streams may still use it, and all streams of its device.
    pub(crate) fn free(&mut self, at: u64) -> Option<(bool, Vec<u64>)> {
        let allocation = self.allocations.remove(&at)?;
        let in_use = allocation.uses.iter().any(|u| self.host.get(&u.stream).is_none_or(|t| *t < u.tick));
        Some((in_use, self.streams(allocation.device)))
    }

    pub(crate) fn device_of(&self, at: u64) -> Option<u16> {
        let (base, a) = self.allocations.range(..=at).next_back()?;
        (at - base < a.bytes as u64).then_some(a.device)
    }

    /// Returns the number of bytes from an address to the end of its allocation.
    pub(crate) fn rest(&self, at: u64) -> Option<usize> {
        let (base, a) = self.allocations.range(..=at).next_back()?;
        a.bytes.checked_sub((at - base) as usize)
    }

    pub(crate) fn create_stream(&mut self, device: u16) -> u64 {
        let handle = self.handle();
        self.start(handle, device);
        handle
    }

    fn start(&mut self, handle: u64, device: u16) {
        let (work, todo) = unbounded::<Work>();
        let run = move || todo.into_iter().for_each(|work| work());
        std::thread::Builder::new().name("fake stream".to_owned()).spawn(run).expect("a thread for a stream");
        self.streams.insert(handle, Stream { device, work, clock: Clock::new(), tick: 0 });
    }

    /// Returns the stream for a handle. There is one default stream per device, and one more per device and thread.
    pub(crate) fn stream(&mut self, given: u64, device: u16) -> Option<u64> {
        let handle = match given {
            0 | LEGACY => DEFAULT + u64::from(device),
            PER_THREAD => {
                let threads = &mut self.threads;
                let at = threads.iter().position(|t| *t == current().id()).unwrap_or(threads.len());
                if at == threads.len() {
                    threads.push(current().id());
                }
                DEFAULT + ((1 + at as u64) << 16) + u64::from(device)
            }
            _ => return self.streams.contains_key(&given).then_some(given),
        };
        if !self.streams.contains_key(&handle) {
            self.start(handle, device);
        }
        Some(handle)
    }

    pub(crate) fn stream_device(&self, stream: u64) -> Option<u16> {
        self.streams.get(&stream).map(|s| s.device)
    }

    pub(crate) fn streams(&self, device: u16) -> Vec<u64> {
        self.streams.iter().filter(|(_, s)| s.device == device).map(|(handle, _)| *handle).collect()
    }

    /// Returns the work that is finished before the stream's next work begins.
    pub(crate) fn clock(&self, stream: u64) -> Clock {
        self.streams.get(&stream).map(|s| s.clock.clone()).unwrap_or_default()
    }

    /// Records that the host knows that this work is finished.
    pub(crate) fn saw(&mut self, clock: &Clock) {
        join(&mut self.host, clock);
    }

    pub(crate) fn destroy_stream(&mut self, stream: u64) -> bool {
        self.streams.remove(&stream).is_some()
    }

    /// Puts work on a stream. Returns an error if the work has a race with earlier work, or uses memory that does not
    /// belong to the stream's device.
    pub(crate) fn enqueue(&mut self, stream: u64, touches: &[Touch], work: Work) -> Result<(), String> {
        let World { allocations, streams, host, .. } = self;
        let s = streams.get_mut(&stream).ok_or("no such stream")?;
        // Work that the host knows to be finished precedes this work.
        join(&mut s.clock, host);
        s.tick += 1;
        s.clock.insert(stream, s.tick);
        for touch in touches.iter().filter(|t| t.bytes > 0) {
            let (base, a) = allocations.range_mut(..=touch.at).next_back().ok_or("no device memory")?;
            if touch.at - base + touch.bytes as u64 > a.bytes as u64 {
                return Err(format!("{} bytes at {:#x} are not in one allocation", touch.bytes, touch.at));
            }
            if a.device != s.device {
                return Err(format!("memory of device {} on a stream of device {}", a.device, s.device));
            }
            let end = |t: &Touch| t.at + t.bytes as u64;
            let meets = |t: &Touch| t.at < end(touch) && touch.at < end(t) && (t.writes || touch.writes);
            let before = |u: &Use| s.clock.get(&u.stream).is_some_and(|tick| *tick >= u.tick);
            if let Some(u) = a.uses.iter().find(|u| u.stream != stream && meets(&u.touch) && !before(u)) {
                return Err(format!(
                    "a race: {} bytes at {:#x} are used by stream {:#x}, which stream {stream:#x} does not wait for",
                    touch.bytes, touch.at, u.stream
                ));
            }
            a.uses.retain(|u| !before(u) || u.stream == stream);
            a.uses.push(Use { stream, tick: s.tick, touch: *touch });
        }
        s.work.send(work).map_err(|_| "the stream is gone".to_owned())
    }

    pub(crate) fn create_event(&mut self, device: u16) -> u64 {
        let handle = self.handle();
        let reached = Arc::new((Mutex::new(true), Condvar::new()));
        self.events.insert(handle, Event { device, clock: Clock::new(), reached });
        handle
    }

    pub(crate) fn event_device(&self, event: u64) -> Option<u16> {
        self.events.get(&event).map(|e| e.device)
    }

    pub(crate) fn destroy_event(&mut self, event: u64) -> bool {
        self.events.remove(&event).is_some()
    }

    pub(crate) fn record(&mut self, event: u64, stream: u64) -> Result<(), String> {
        let device = self.event_device(event).ok_or("no such event")?;
        let reached = Arc::new((Mutex::new(false), Condvar::new()));
        let mark = reached.clone();
        let pass = move || {
            *mark.0.lock() = true;
            mark.1.notify_all();
        };
        self.enqueue(stream, &[], Box::new(pass))?;
        self.events.insert(event, Event { device, clock: self.clock(stream), reached });
        Ok(())
    }

    pub(crate) fn wait(&mut self, stream: u64, event: u64) -> Result<(), String> {
        let e = self.events.get(&event).ok_or("no such event")?;
        let (reached, clock) = (e.reached.clone(), e.clock.clone());
        let wait = move || {
            let mut passed = reached.0.lock();
            while !*passed {
                reached.1.wait(&mut passed);
            }
        };
        self.enqueue(stream, &[], Box::new(wait))?;
        if let Some(s) = self.streams.get_mut(&stream) {
            join(&mut s.clock, &clock);
        }
        Ok(())
    }

    pub(crate) fn query(&mut self, event: u64) -> Option<bool> {
        let e = self.events.get(&event)?;
        let over = *e.reached.0.lock();
        if over {
            join(&mut self.host, &e.clock);
        }
        Some(over)
    }
}
