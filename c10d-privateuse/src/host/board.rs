//! On a lane's thread: gives operations to the plugin.
#![allow(unsafe_code)]

use std::sync::Arc;
use std::time::Instant;

use c10d_core::{OpKind, Result};

use super::flight::Inside;
use super::group::{Called, Group};
use super::lend::{self, Holds};
use super::slots::{self, Token};
use super::{call, done, verdict, watch};
use crate::abi::{self, Why};

/// An operation that the plugin is about to get.
struct Given {
    token: Token,
    group: Arc<Group>,
    op: OpKind,
    request: *const abi::Request,
    inside: Inside,
    called: Called,
}

/// Gives operations of one group to the plugin: one by `submit`, several together.
pub(super) fn board(tokens: &[Token]) {
    let given: Vec<Given> = tokens.iter().filter_map(|token| give(*token)).collect();
    let Some(Given { group, op, .. }) = given.first() else { return };
    let requests: Vec<*const abi::Request> = given.iter().map(|g| g.request).collect();
    let tokens: Vec<Token> = given.iter().map(|g| g.token).collect();
    let name = if given.len() == 1 { format!("submit({op})") } else { format!("submit_batch({op}, ..)") };
    let (handle, functions) = (group.handle(), group.functions());
    let (status, why) = match (&requests[..], functions.submit, functions.submit_batch) {
        ([request], Some(submit), _) => {
            // SAFETY: validated; a request stays until its operation is done, and for ever if it is given up. The plugin
            // may end it during the call, and by the ABI does not look at it afterwards.
            Why::ask(|why| unsafe { submit(handle, *request, Some(done::done), tokens[0], why) })
        }
        (several, _, Some(submit)) => {
            let (first, numbers, count) = (several.as_ptr(), tokens.as_ptr(), several.len() as u64);
            // SAFETY: as above, for as many requests and tokens.
            Why::ask(|why| unsafe { submit(handle, first, numbers, count, Some(done::done), why) })
        }
        _ => (abi::codes::INTERNAL, "it has no such function".to_owned()),
    };
    given.iter().for_each(|g| *g.inside.lock() = None);
    let group = group.clone();
    given.into_iter().for_each(|g| drop(g.called));
    let Err(error) = verdict::status(group.plugin(), &name, status, &why) else { return };
    for token in tokens {
        match slots::answered(token, |of| std::ptr::eq(of, &*group)) {
            slots::Found::Flight(flight) => flight.end(Err(error.clone())),
            slots::Found::GivenUp => {}
            _ => {
                let what = format!("it called done and returned an error as well: {error}");
                group.fail(&group.plugin().error(&name, what));
            }
        }
    }
}

/// Has the plugin keep the operation's device memory. The operation stays where the clock can end it. `None`: it did.
fn hold(token: Token) -> Option<Result<Option<Holds>>> {
    let (group, inside, places) = slots::look(token, |flight| {
        let places = lend::to_hold(flight.group.plugin(), &flight.job);
        (flight.group.clone(), flight.inside.clone(), places)
    })?;
    let places = match places {
        Ok(Some(places)) => places,
        Ok(None) => return Some(Ok(None)),
        Err(e) => return Some(Err(e)),
    };
    *inside.lock() = Some("retain");
    let holds = Holds::take(group.plugin(), group.runtime(), places);
    *inside.lock() = None;
    Some(holds.map(Some))
}

/// Takes the operation out of the line, and makes it one that the plugin has. `None`: it is over.
fn give(token: Token) -> Option<Given> {
    let holds = hold(token)?;
    // Gone if its time was over meanwhile.
    let mut flight = slots::board(token)?;
    let group = flight.group.clone();
    let limit = flight.limit.min(group.limit());
    let lent = match group.failure() {
        Some(error) => Err(error),
        None => holds.and_then(|holds| lend::lend(group.plugin(), holds, &flight.job)),
    };
    match lent {
        // The copies took too long; the plugin is not to blame.
        Ok(_) if limit <= Instant::now() => {
            slots::unboard(token);
            flight.give_up();
            return None;
        }
        Ok(lent) => flight.lent = lent,
        Err(e) => {
            slots::unboard(token);
            flight.refuse(e);
            return None;
        }
    }
    let request = flight.job.request();
    let op = request.op;
    let remaining = request.deadline().saturating_duration_since(Instant::now());
    let call = call::call(request, &flight.lent, remaining);
    let (request, inside) = (&raw const call.request, flight.inside.clone());
    flight.call = Some(call);
    *inside.lock() = Some("submit");
    let called = group.operation_called();
    slots::give(token, flight);
    // The clock did not see the operation meanwhile.
    watch::at(limit.min(group.limit()));
    Some(Given { token, group, op, request, inside, called })
}
