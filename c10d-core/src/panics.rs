//! Catches panics of foreign code that threads of this library call: wakers, drops of users' buffers, callbacks,
//! tracing subscribers, device runtimes, stores.
//!
//! The panic hook of the process runs first, and prints the panic by default. Then the library catches the panic where
//! it called the code, and the thread, the op and the group continue. If the library needs the result of the foreign
//! code, the panic becomes an error with the panic's message. If it does not, [`tracing`] reports the panic as an error
//! event with target `c10d`. On the user's own thread (in a call, a `poll`, or the drop of a handle) a panic continues
//! in the caller as usual. Two kinds of panic still end the process: a panic of code that is compiled with
//! `panic = "abort"`, and a panic of a destructor while another panic unwinds.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs foreign code, and returns its value or the message of its panic. A panic of the destructor of the payload is
/// caught as well.
///
/// ```
/// # use c10d_core::panics::caught;
/// assert_eq!(caught(|| 1), Ok(1));
/// assert_eq!(caught(|| panic!("no")), Err::<(), _>("no".to_owned()));
/// ```
pub fn caught<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(run)).map_err(words)
}

/// Runs foreign code whose panic does not matter to the caller. [`tracing`] reports the panic. `what` names the code.
///
/// ```
/// c10d_core::panics::contain("a callback", || panic!("a bug in the callback"));
/// ```
pub fn contain(what: &str, run: impl FnOnce()) {
    if let Err(words) = caught(run) {
        tell(what, &words);
    }
}

/// Returns the message of a panic, and drops the payload.
fn words(payload: Box<dyn Any + Send>) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let words = text.unwrap_or("no message").to_owned();
    if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        // The drop has panicked with a second payload. This payload is leaked, since its drop may panic as well.
        std::mem::forget(again);
    }
    words
}

#[cold]
fn tell(what: &str, words: &str) {
    // The subscriber is foreign code. If it panics, nothing can report the panic.
    let _ = caught(|| tracing::error!(target: "c10d", "{what} panicked: {words}; c10d continues"));
}
