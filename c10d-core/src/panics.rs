//! Contains panics of foreign code on threads of this library: wakers, drops of users' buffers, callbacks, tracing
//! subscribers, device runtimes, stores.
//!
//! A panic of such code ends where it was called: the thread goes on, and so do the op, its group and all others. The
//! panic hook of the process has run by then (unless replaced, it prints the panic), and [`tracing`] reports the panic
//! once, as an error with target `c10d`. If the result of the call is needed, the panic becomes an error with its
//! message. On the user's own thread (in a call, a `poll`, or the drop of a handle) a panic continues in the caller as
//! usual. Code that is compiled with `panic = "abort"`, and values that panic again while they unwind, still end the
//! process, since nobody can catch that.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs foreign code. Returns its value, or the message of its panic. The panic's payload, whose drop is foreign code
/// as well, is gone when this returns.
///
/// ```
/// # use c10d_core::panics::caught;
/// assert_eq!(caught(|| 1), Ok(1));
/// assert_eq!(caught(|| panic!("no")), Err::<(), _>("no".to_owned()));
/// ```
pub fn caught<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(run)).map_err(words)
}

/// Runs foreign code whose panic does not matter to the caller: [`tracing`] reports it. `what` names the code.
///
/// ```
/// c10d_core::panics::contain("a callback", || panic!("nobody is harmed"));
/// ```
pub fn contain(what: &str, run: impl FnOnce()) {
    if let Err(words) = caught(run) {
        tell(what, &words);
    }
}

/// The message of a panic.
fn words(payload: Box<dyn Any + Send>) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let words = text.unwrap_or("no message").to_owned();
    if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        // Its drop may panic again.
        std::mem::forget(again);
    }
    words
}

#[cold]
fn tell(what: &str, words: &str) {
    // The subscriber is foreign code, too. If it panics, there is nobody to report that to.
    let _ = caught(|| tracing::error!(target: "c10d", "{what} panicked: {words}; c10d goes on"));
}
