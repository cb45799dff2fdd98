//! The data that the host stores about a plugin. It includes the table of host functions that the plugin got, and the
//! error of the plugin's first contract violation.
#![allow(unsafe_code)]

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use c10d_core::sync::Mutex;
use c10d_core::{Error, ErrorKind, Result};

use super::timed_call::{TimedCall, call_until};
use crate::abi;

/// The data about a plugin, which is never freed. The table is the first field: both have the same address.
#[repr(C)]
pub(crate) struct Hosted {
    table: abi::Host,
    pub(crate) name: &'static str,
    pub(crate) path: PathBuf,
    /// The time limit for code of the plugin that runs outside an operation.
    patience: Duration,
    /// The error of the plugin's first contract violation, if there was one.
    broken: OnceLock<Error>,
    /// Whether the plugin works on the callers' own memory, because the user trusts it by name.
    trusted: AtomicBool,
    /// Whether a thread is asking the plugin's groups for errors.
    pub(super) listening: Mutex<bool>,
    /// The number of bytes that were lent to operations and leaked.
    pub(super) written_off: AtomicU64,
    /// The number of calls of the plugin's functions that did not return in time and were abandoned together with their
    /// threads.
    pub(super) given_up: AtomicU64,
}

// SAFETY: nobody writes to the table after it was made, and all other fields are `Sync`.
unsafe impl Sync for Hosted {}
// SAFETY: the table has only function pointers and numbers, and all other fields are `Send`.
unsafe impl Send for Hosted {}

/// The addresses of all host tables that plugins got.
static TABLES: Mutex<Vec<usize>> = Mutex::new(Vec::new());

impl Hosted {
    /// Makes the data about a plugin, with the table of functions that the plugin gets.
    pub(super) fn leak(table: abi::Host, name: &str, path: &Path, patience: Duration) -> &'static Hosted {
        let hosted: &'static Hosted = Box::leak(Box::new(Hosted {
            table,
            name: String::leak(name.to_owned()),
            path: path.to_owned(),
            patience,
            broken: OnceLock::new(),
            trusted: AtomicBool::new(false),
            listening: Mutex::new(false),
            written_off: AtomicU64::new(0),
            given_up: AtomicU64::new(0),
        }));
        TABLES.lock().push(std::ptr::from_ref(hosted) as usize);
        hosted
    }

    pub(crate) fn table(&self) -> *const abi::Host {
        std::ptr::from_ref(self).cast()
    }

    /// Returns the data about the plugin that got this table, or `None` if no plugin got it.
    pub(super) fn of(table: *const abi::Host) -> Option<&'static Hosted> {
        let known = TABLES.lock().contains(&(table as usize));
        // SAFETY: `table` is the address of a `Hosted`, which is never freed.
        known.then(|| unsafe { &*table.cast::<Hosted>() })
    }

    pub(super) fn error(&self, call: &str, why: impl std::fmt::Display) -> Error {
        let what = format!("plugin {:?} ({}), {call}: {why}", self.name, self.path.display());
        Error::new(ErrorKind::Plugin, what)
    }

    /// Runs code of the plugin outside an operation, on a separate thread. After the time limit `patience`, the thread
    /// is abandoned.
    pub(crate) fn in_time<T: Send + 'static>(&self, call: &str, f: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        match call_until(Instant::now() + self.patience, f)? {
            TimedCall::Returned(value) => Ok(value),
            TimedCall::Hangs => Err(self.gave_up(call)),
        }
    }

    /// Makes the error of a call that did not return in time, and counts the call.
    pub(super) fn gave_up(&self, call: &str) -> Error {
        self.given_up.fetch_add(1, Ordering::Relaxed);
        self.error(call, "it did not return in time")
    }

    /// Records that the plugin broke its contract, so that no further group is made. Only the first error is kept.
    pub(super) fn set_broken(&self, error: &Error) {
        let _ = self.broken.set(error.clone());
    }

    pub(crate) fn trust(&self) {
        self.trusted.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_trusted(&self) -> bool {
        self.trusted.load(Ordering::Relaxed)
    }

    pub(super) fn broken(&self) -> Option<&Error> {
        self.broken.get()
    }

    pub(crate) fn written_off(&self) -> (u64, u64) {
        (self.written_off.load(Ordering::Relaxed), self.given_up.load(Ordering::Relaxed))
    }
}
