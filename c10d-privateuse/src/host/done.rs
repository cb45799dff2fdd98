//! How plugins end operations.
#![allow(unsafe_code)]

use c10d_core::ErrorKind;
use c10d_core::panics::contain;

use super::answer::{self, About};
use super::groups;
use super::plugin::Hosted;
use super::slots::{self, AnswerTo};
use super::token::Token;
use crate::abi;

/// The `c10d_done` that plugins get.
pub(super) unsafe extern "C" fn done(host: *const abi::Host, token: Token, result: *const abi::Result) {
    // A panic on the host's side must not unwind into the plugin.
    contain("what follows the end of a plugin's operation", || end(host, token, result));
}

fn end(host: *const abi::Host, token: Token, result: *const abi::Result) {
    let Some(plugin) = Hosted::of(host) else {
        tracing::error!(target: "c10d::plugin", "a plugin called done with a host table that is nobody's");
        return;
    };
    let operation = match slots::take_answered(token, |g| std::ptr::eq(g.plugin(), plugin)) {
        AnswerTo::Operation(operation) => operation,
        AnswerTo::GivenUp => {
            tracing::warn!(target: "c10d::plugin", plugin = plugin.name, "answered an operation whose time was over");
            return;
        }
        AnswerTo::AnsweredBefore(Some(group)) => {
            return group.fail(&plugin.error("done", "it ended one operation twice; its results cannot be believed"));
        }
        AnswerTo::AnsweredBefore(None) | AnswerTo::Unknown => {
            let what = format!(
                "it ended an operation that does not exist (token {token:#x}): answered, or its group destroyed"
            );
            return groups::end_all(plugin, plugin.error("done", what));
        }
    };
    let request = operation.job.request();
    let about = About { plugin, op: request.op, fingerprint: request.fingerprint, size: operation.group.size };
    // SAFETY: by the ABI it is null or a result.
    let outcome = unsafe { answer::outcome(&about, result) };
    match outcome.map_err(|error| operation.group.in_its_words(error)) {
        Err(error) if *error.kind() == ErrorKind::Plugin => {
            // It broke the contract, so it may still use the memory.
            operation.group.fail(&error);
            operation.give_up();
        }
        outcome => operation.end(outcome),
    }
}
