//! The events of streams.

use parking_lot::{Condvar, Mutex};

#[derive(Default)]
pub(crate) struct Event {
    state: Mutex<Records>,
    reached: Condvar,
}

#[derive(Default)]
struct Records {
    recorded: u64,
    reached: u64,
    error: Option<String>,
}

impl Event {
    /// Records the event. Returns the number of this record.
    pub(crate) fn record(&self) -> u64 {
        let mut state = self.state.lock();
        state.recorded += 1;
        state.error = None;
        state.recorded
    }

    pub(crate) fn last(&self) -> u64 {
        self.state.lock().recorded
    }

    /// Marks this record of the event as reached. A stream calls this after all work before the record. `error` is an
    /// earlier failure on the stream, if there was one.
    pub(crate) fn reach(&self, record: u64, error: Option<&str>) {
        let mut state = self.state.lock();
        state.reached = state.reached.max(record);
        if record == state.recorded {
            state.error = error.map(str::to_owned);
        }
        self.reached.notify_all();
    }

    pub(crate) fn wait(&self, record: u64) {
        let mut state = self.state.lock();
        while state.reached < record {
            self.reached.wait(&mut state);
        }
    }

    pub(crate) fn query(&self) -> Result<bool, String> {
        let state = self.state.lock();
        match &state.error {
            Some(error) if state.reached >= state.recorded => Err(error.clone()),
            _ => Ok(state.reached >= state.recorded),
        }
    }
}
