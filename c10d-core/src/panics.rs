//! Code that is not this library's, on threads that are: wakers, drops of users' buffers, callbacks, tracing subscribers,
//! devices' runtimes, stores.
//!
//! A panic of such code ends where it was called: the thread goes on, and so do the op, its group and all others. The
//! process's panic hook has run by then (unless replaced, it prints the panic); beside it the panic is told once by
//! [`tracing`], as an error with target `c10d`. Where the call's result is needed, the panic becomes an error that says its
//! words. On a thread of the user's own (a call, a `poll`, the drop of a handle) a panic is the caller's, as ever. Code
//! compiled with `panic = "abort"`, and values that panic once more while they unwind, still end the process: nobody can
//! catch that.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs foreign code; its value, or what its panic said. The panic's payload, whose drop is foreign code as well, is gone
/// when this returns.
///
/// ```
/// # use c10d_core::panics::caught;
/// assert_eq!(caught(|| 1), Ok(1));
/// assert_eq!(caught(|| panic!("no")), Err::<(), _>("no".to_owned()));
/// ```
pub fn caught<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(run)).map_err(words)
}

/// Runs foreign code whose panic changes nothing for the caller: it is told by [`tracing`], and over. `what` says what
/// code it is.
///
/// ```
/// c10d_core::panics::contain("a callback", || panic!("nobody is harmed"));
/// ```
pub fn contain(what: &str, run: impl FnOnce()) {
    if let Err(words) = caught(run) {
        tell(what, &words);
    }
}

/// What the panic said.
fn words(payload: Box<dyn Any + Send>) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let words = text.unwrap_or("no message").to_owned();
    if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        // Whose drop may panic in its turn.
        std::mem::forget(again);
    }
    words
}

#[cold]
fn tell(what: &str, words: &str) {
    // The subscriber is foreign, too. One that panics has nobody left to be told to.
    let _ = caught(|| tracing::error!(target: "c10d", "{what} panicked: {words}; c10d goes on"));
}
