//! The function by which plugins end operations.
#![allow(unsafe_code)]

use c10d_core::ErrorKind;
use c10d_core::panics::contain;

use super::answer::{self, About};
use super::groups;
use super::plugin::Hosted;
use super::slots::{self, AnswerTo};
use super::token::Token;
use crate::abi;

pub(super) unsafe extern "C" fn done(host: *const abi::Host, token: Token, result: *const abi::Result) {
    // A panic on the host's side must not unwind into the plugin.
    contain("the work after the end of a plugin's operation", || end(host, token, result));
}

fn end(host: *const abi::Host, token: Token, result: *const abi::Result) {
    let Some(plugin) = Hosted::of(host) else {
        tracing::error!(target: "c10d::plugin", "a plugin called done with a host table that does not exist");
        return;
    };
    let operation = match slots::take_answered(token, |g| std::ptr::eq(g.plugin(), plugin)) {
        AnswerTo::Operation(operation) => operation,
        AnswerTo::GivenUp => {
            tracing::warn!(target: "c10d::plugin", plugin = plugin.name, "ended an operation whose time was over");
            return;
        }
        AnswerTo::AnsweredBefore(Some(group)) => {
            return group.fail(&plugin.error("done", "it ended one operation twice, so its results may be wrong"));
        }
        AnswerTo::AnsweredBefore(None) | AnswerTo::Unknown => {
            let what = format!(
                "it ended an operation that does not exist (token {token:#x}): c10d never gave it this operation, or \
                 the operation or its group has already ended"
            );
            return groups::end_all(plugin, plugin.error("done", what));
        }
    };
    let request = operation.job.request();
    let about = About { plugin, op: request.op, fingerprint: request.fingerprint, size: operation.group.size };
    // SAFETY: by the ABI, `result` is null or points to a valid result.
    let outcome = unsafe { answer::outcome(&about, result) };
    match outcome.map_err(|error| operation.group.in_its_words(error)) {
        Err(error) if *error.kind() == ErrorKind::Plugin => {
            // The plugin broke the contract, so it may still use the memory.
            operation.group.fail(&error);
            operation.give_up();
        }
        outcome => operation.end(outcome),
    }
}
