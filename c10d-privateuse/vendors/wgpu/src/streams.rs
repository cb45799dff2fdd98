//! The unfinished work of a device. A device has one queue, so its work is ordered. After the queue has done a copy to
//! host memory, a callback must still write the data to the host memory.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use c10d_core::device::{Event, Stream};

#[derive(Debug)]
pub(crate) struct Arrival {
    /// The addresses of the host memory.
    pub(crate) to: Range<usize>,
    done: AtomicBool,
}

impl Arrival {
    pub(crate) fn finish(&self) {
        self.done.store(true, Ordering::Release);
    }

    pub(crate) fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Mark {
    /// Whether the queue has reached the record.
    pub(crate) passed: Arc<AtomicBool>,
    arrivals: Vec<Arc<Arrival>>,
}

impl Mark {
    pub(crate) fn is_reached(&self) -> bool {
        self.passed.load(Ordering::Acquire) && self.arrivals.iter().all(|a| a.is_done())
    }
}

#[derive(Debug, Default)]
pub(crate) struct Streams {
    next: u64,
    arrivals: HashMap<Stream, Vec<Arc<Arrival>>>,
    marks: HashMap<Event, Mark>,
}

impl Streams {
    /// Returns a number for a new stream or event. 0 is the default stream.
    pub(crate) fn create(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub(crate) fn destroy_stream(&mut self, stream: Stream) {
        self.arrivals.remove(&stream);
    }

    pub(crate) fn destroy_event(&mut self, event: Event) {
        self.marks.remove(&event);
    }

    /// Adds a copy to these addresses on the stream.
    pub(crate) fn arrival(&mut self, stream: Stream, to: Range<usize>) -> Arc<Arrival> {
        let arrival = Arc::new(Arrival { to, done: AtomicBool::new(false) });
        self.pending(stream).push(arrival.clone());
        arrival
    }

    /// Records the event after all work that is on the stream now.
    pub(crate) fn record(&mut self, event: Event, stream: Stream) -> Mark {
        let mark = Mark { passed: Arc::default(), arrivals: self.pending(stream).clone() };
        self.marks.insert(event, mark.clone());
        mark
    }

    pub(crate) fn wait(&mut self, stream: Stream, event: Event) {
        let arrivals = self.marks.get(&event).map(|mark| mark.arrivals.clone()).unwrap_or_default();
        self.pending(stream).extend(arrivals);
    }

    /// Returns the event's last record, or `None` if it was never recorded.
    pub(crate) fn mark(&self, event: Event) -> Option<Mark> {
        self.marks.get(&event).cloned()
    }

    /// Returns the unfinished copies of the stream that write to any of these addresses.
    pub(crate) fn overlapping(&mut self, stream: Stream, bytes: &Range<usize>) -> Vec<Arc<Arrival>> {
        let overlaps = |a: &Arc<Arrival>| a.to.start < bytes.end && bytes.start < a.to.end;
        self.pending(stream).iter().filter(|a| overlaps(a)).cloned().collect()
    }

    fn pending(&mut self, stream: Stream) -> &mut Vec<Arc<Arrival>> {
        let arrivals = self.arrivals.entry(stream).or_default();
        arrivals.retain(|a| !a.is_done());
        arrivals
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_reached_after_the_queue_and_the_copies_of_its_stream() {
        let mut streams = Streams::default();
        let (a, b) = (streams.create(), streams.create());
        let event = streams.create();
        let mine = streams.arrival(a, 0..8);
        let other = streams.arrival(b, 8..16);
        let mark = streams.record(event, a);
        mine.finish();
        assert!(!mark.is_reached());
        mark.passed.store(true, Ordering::Release);
        assert!(mark.is_reached());
        streams.wait(a, event);
        assert_eq!(streams.overlapping(a, &(0..100)).len(), 0);
        assert_eq!(streams.overlapping(b, &(15..20)).len(), 1);
        other.finish();
        assert_eq!(streams.overlapping(b, &(15..20)).len(), 0);
    }
}
