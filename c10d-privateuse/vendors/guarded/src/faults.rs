//! The faults that a test has requested.

use std::collections::{BTreeMap, BTreeSet};

use c10d_core::{Error, ErrorKind, Result};
use parking_lot::{Condvar, Mutex};

use crate::log::What;

#[derive(Default)]
pub(crate) struct Faults {
    asked: Mutex<RequestedFaults>,
    changed: Condvar,
}

#[derive(Default)]
struct RequestedFaults {
    hangs: BTreeSet<(u16, String)>,
    stalls: BTreeSet<u16>,
    held: Vec<(u16, What)>,
    errors: BTreeMap<(u16, String), String>,
    panics: BTreeSet<(u16, String)>,
    /// For each device: how many copies still succeed before one fails, and the text of the failure.
    copies: BTreeMap<u16, (u64, String)>,
    forgetful: bool,
    hanging: usize,
}

impl Faults {
    pub(crate) fn hang(&self, index: u16, call: &str) {
        self.asked.lock().hangs.insert((index, call.to_owned()));
    }

    pub(crate) fn stall(&self, index: u16) {
        self.asked.lock().stalls.insert(index);
    }

    pub(crate) fn hold(&self, index: u16, what: What) {
        self.asked.lock().held.push((index, what));
    }

    pub(crate) fn error(&self, index: u16, call: &str, text: &str) {
        self.asked.lock().errors.insert((index, call.to_owned()), text.to_owned());
    }

    pub(crate) fn panic(&self, index: u16, call: &str) {
        self.asked.lock().panics.insert((index, call.to_owned()));
    }

    pub(crate) fn fail_copy(&self, index: u16, nth: u64, text: &str) {
        self.asked.lock().copies.insert(index, (nth, text.to_owned()));
    }

    pub(crate) fn forget(&self) {
        self.asked.lock().forgetful = true;
    }

    pub(crate) fn forgetful(&self) -> bool {
        self.asked.lock().forgetful
    }

    pub(crate) fn recover(&self) {
        let mut asked = self.asked.lock();
        *asked = RequestedFaults { hanging: asked.hanging, ..RequestedFaults::default() };
        drop(asked);
        self.changed.notify_all();
    }

    pub(crate) fn hanging(&self) -> usize {
        self.asked.lock().hanging
    }

    /// Waits while this call must hang. If a test requested it, panics or returns an error. Each call starts with this
    /// function.
    pub(crate) fn enter(&self, index: u16, call: &str) -> Result {
        let mut asked = self.asked.lock();
        let key = (index, call.to_owned());
        asked.hanging += 1;
        while asked.hangs.contains(&key) {
            self.changed.wait(&mut asked);
        }
        asked.hanging -= 1;
        assert!(!asked.panics.contains(&key), "{call} was told to panic");
        match asked.errors.get(&key) {
            Some(text) => Err(Error::new(ErrorKind::Device, text.clone())),
            None => Ok(()),
        }
    }

    /// Waits while the device must stall or must hold this kind of work. A stream calls this before each piece of work.
    pub(crate) fn pass(&self, index: u16, what: Option<What>) {
        let mut asked = self.asked.lock();
        while asked.stalls.contains(&index) || what.is_some_and(|what| asked.held.contains(&(index, what))) {
            self.changed.wait(&mut asked);
        }
    }

    /// Returns the text of the failure if this copy must fail.
    pub(crate) fn copy(&self, index: u16) -> Result<(), String> {
        let mut asked = self.asked.lock();
        match asked.copies.get_mut(&index) {
            Some((0, text)) => {
                let text = text.clone();
                asked.copies.remove(&index);
                Err(text)
            }
            Some((left, _)) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}
