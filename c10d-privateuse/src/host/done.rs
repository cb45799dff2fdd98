//! How plugins end operations.
#![allow(unsafe_code)]

use c10d_core::ErrorKind;
use c10d_core::panics::contain;

use super::slots::{Found, Token};
use super::verdict::{self, About};
use super::{Hosted, slots};
use crate::abi;

/// The `c10d_done` that plugins get.
pub(super) unsafe extern "C" fn done(host: *const abi::Host, token: Token, result: *const abi::Result) {
    // Whatever goes wrong on our side must not unwind into the plugin.
    contain("what follows the end of a plugin's operation", || answer(host, token, result));
}

fn answer(host: *const abi::Host, token: Token, result: *const abi::Result) {
    let Some(plugin) = Hosted::of(host) else {
        tracing::error!(target: "c10d::plugin", "a plugin called done with a host table that is nobody's");
        return;
    };
    let flight = match slots::answered(token, |g| std::ptr::eq(g.plugin(), plugin)) {
        Found::Flight(flight) => flight,
        Found::GivenUp => {
            tracing::warn!(target: "c10d::plugin", plugin = plugin.name, "answered an operation whose time was over");
            return;
        }
        Found::Answered(Some(group)) => {
            return group.fail(&plugin.error("done", "it ended one operation twice; its results cannot be believed"));
        }
        Found::Answered(None) | Found::Unknown => {
            let what = format!(
                "it ended an operation that does not exist (token {token:#x}): answered, or its group destroyed"
            );
            return plugin.break_with(plugin.error("done", what));
        }
    };
    let request = flight.job.request();
    let about = About { plugin, op: request.op, fingerprint: request.fingerprint, size: flight.group.size };
    // SAFETY: the ABI: null or a result.
    let outcome = unsafe { verdict::of(&about, result) };
    match outcome.map_err(verdict::failed) {
        Err(error) if *error.kind() == ErrorKind::Plugin => {
            // It broke the contract: nobody knows whether it has let go of the memory.
            flight.group.fail(&error);
            flight.give_up();
        }
        outcome => flight.end(outcome),
    }
}
