//! Gives operations to the plugin. This runs on a queue's thread.
#![allow(unsafe_code)]

use std::sync::Arc;
use std::time::Instant;

use c10d_core::{OpKind, Result};

use super::group::{Group, OpenCall};
use super::lend::{self, Retained};
use super::operation::RunningFunction;
use super::slots::AnswerTo;
use super::token::Token;
use super::{answer, clock, done, request, slots};
use crate::abi::{self, Why};

/// An operation that is ready to be given to the plugin.
struct Prepared {
    token: Token,
    group: Arc<Group>,
    op: OpKind,
    request: *const abi::Request,
    running: RunningFunction,
    open: OpenCall,
}

/// Gives operations of one group to the plugin: a single one by `submit`, several by `submit_batch`.
pub(super) fn give(tokens: &[Token]) {
    let prepared: Vec<Prepared> = tokens.iter().filter_map(|token| prepare(*token)).collect();
    let Some(Prepared { group, op, .. }) = prepared.first() else { return };
    let requests: Vec<*const abi::Request> = prepared.iter().map(|p| p.request).collect();
    let tokens: Vec<Token> = prepared.iter().map(|p| p.token).collect();
    let name = if prepared.len() == 1 { format!("submit({op})") } else { format!("submit_batch({op}, ..)") };
    let (handle, functions) = (group.handle(), group.functions());
    let (status, why) = match (&requests[..], functions.submit, functions.submit_batch) {
        ([request], Some(submit), _) => {
            // SAFETY: the function was validated. The request is freed only after its operation has ended, and is
            // leaked if the host gives the operation up. The plugin may end the operation during the call, and by the
            // ABI does not read the request afterwards.
            Why::ask(|why| unsafe { submit(handle, *request, Some(done::done), tokens[0], why) })
        }
        (several, _, Some(submit)) => {
            let (first, numbers, count) = (several.as_ptr(), tokens.as_ptr(), several.len() as u64);
            // SAFETY: the same as for `submit`; there are `count` requests and tokens.
            Why::ask(|why| unsafe { submit(handle, first, numbers, count, Some(done::done), why) })
        }
        _ => (abi::codes::INTERNAL, "it has no such function".to_owned()),
    };
    prepared.iter().for_each(|p| *p.running.lock() = None);
    let group = group.clone();
    prepared.into_iter().for_each(|p| drop(p.open));
    let Err(error) = answer::status(group.plugin(), &name, status, &why) else { return };
    for token in tokens {
        match slots::take_answered(token, |of| std::ptr::eq(of, &*group)) {
            AnswerTo::Operation(operation) => operation.end(Err(error.clone())),
            AnswerTo::GivenUp => {}
            _ => {
                let what = format!("it called done, but returned an error as well: {error}");
                group.fail(&group.plugin().error(&name, what));
            }
        }
    }
}

/// Asks the plugin to retain the operation's device memory. Returns `None` if the operation has ended, and
/// `Some(Ok(None))` if there is nothing to retain.
fn retain(token: Token) -> Option<Result<Option<Retained>>> {
    let (group, running, allocations) = slots::look_at_waiting(token, |operation| {
        let allocations = lend::to_retain(operation.group.plugin(), &operation.job);
        (operation.group.clone(), operation.running.clone(), allocations)
    })?;
    let allocations = match allocations {
        Ok(Some(allocations)) => allocations,
        Ok(None) => return Some(Ok(None)),
        Err(e) => return Some(Err(e)),
    };
    *running.lock() = Some("retain");
    let retained = Retained::take(group.plugin(), group.runtime(), allocations);
    *running.lock() = None;
    Some(retained.map(Some))
}

/// Before a collective, compares the ranks' calls that are not compared yet (see `CallCheck::look`). If they differ,
/// the group fails. Returns `None` if the operation has ended.
fn compare(token: Token) -> Option<()> {
    let (group, op, root) = slots::look_at_waiting(token, |operation| {
        let request = operation.job.request();
        (operation.group.clone(), request.op, request.params.root)
    })?;
    if let Some(calls) = group.calls.as_ref().filter(|_| !op.is_p2p()) {
        calls.look(op, root).iter().for_each(|disagreement| group.fail(disagreement));
    }
    Some(())
}

/// Lends the plugin the memory of the operation, and marks the operation as given. Returns `None` if the operation has
/// ended.
fn prepare(token: Token) -> Option<Prepared> {
    compare(token)?;
    let retained = retain(token)?;
    // If the operation's time is over, the clock may have taken the operation out of its slot.
    let mut taken = slots::take_out(token)?;
    let operation = &mut taken.0;
    let group = operation.group.clone();
    let limit = operation.limit.min(group.limit());
    let lent = match group.failure() {
        Some(error) => Err(error),
        None => retained.and_then(|retained| lend::lend(group.plugin(), retained, &operation.job)),
    };
    match lent {
        // The copies took too long.
        Ok(_) if limit <= Instant::now() => {
            taken.keep().give_up();
            return None;
        }
        Ok(lent) => operation.lent = lent,
        Err(e) => {
            taken.keep().refuse(e);
            return None;
        }
    }
    let asked = operation.job.request();
    let op = asked.op;
    let remaining = asked.deadline().saturating_duration_since(Instant::now());
    let described = request::plugin_request(asked, &operation.lent, remaining);
    let (request, running) = (&raw const described.request, operation.running.clone());
    operation.request = Some(described);
    *running.lock() = Some("submit");
    let open = group.open_operation_call();
    taken.give();
    // The clock could not see the operation outside its slot, so the alarm is set again.
    clock::at(limit.min(group.limit()));
    Some(Prepared { token, group, op, request, running, open })
}
