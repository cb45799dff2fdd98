//! The operations that a plugin has or will get, by token. A token is valid for one answer. When a second answer with
//! the same token arrives, the slot is empty or has a later operation with another token.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Instant;

use c10d_core::process::PerProcess;
use c10d_core::sync::Mutex;

use super::group::Group;
use super::operation::Operation;
use super::token::{self, Token};

#[derive(Default)]
struct Slot {
    generation: u32,
    content: Content,
}

#[derive(Default)]
enum Content {
    /// Empty: the slot is new, or its last operation was taken out and not given to the plugin.
    #[default]
    Empty,
    /// Empty: the plugin has ended the last operation, which belonged to this group.
    Answered(Weak<Group>),
    /// Empty: the clock took the last operation, because its time was over.
    GivenUp,
    /// The operation has not been given to the plugin yet.
    Waiting(Operation),
    /// The operation is in a `TakenOut`. The plugin has not got it yet.
    TakenOut,
    Given(Operation),
}

/// What a plugin's answer refers to.
pub(super) enum AnswerTo {
    /// The operation, which the caller must end.
    Operation(Box<Operation>),
    /// The plugin has answered the operation twice. The group is `None` if it does not exist any more, or belongs to
    /// another plugin.
    AnsweredBefore(Option<Arc<Group>>),
    /// The operation's time was over before the plugin answered.
    GivenUp,
    /// The slot has no operation with this token (any more), or the plugin was not given the operation.
    Unknown,
}

#[derive(Default)]
struct Slots {
    slots: Vec<Slot>,
    /// The empty slots. The slot that was emptied first is reused first, so that the group of a second answer can be
    /// found for as long as possible.
    free: VecDeque<u32>,
}

static SLOTS: PerProcess<Mutex<Slots>> = PerProcess::new();

/// Puts an operation into a slot. Returns its token.
pub(super) fn put(mut operation: Operation) -> Token {
    let mut all = SLOTS.get().lock();
    let index = all.free.pop_front().unwrap_or_else(|| {
        all.slots.push(Slot::default());
        (all.slots.len() - 1) as u32
    });
    let slot = &mut all.slots[index as usize];
    slot.generation = slot.generation.wrapping_add(1).max(1);
    let token = token::token(index, slot.generation);
    operation.token = token;
    slot.content = Content::Waiting(operation);
    token
}

impl Slots {
    fn find(&mut self, token: Token) -> Option<&mut Slot> {
        let generation = token::generation(token);
        self.slots.get_mut(token::slot(token) as usize).filter(|s| s.generation == generation && generation != 0)
    }

    fn take(&mut self, token: Token, leave: impl FnOnce(&Operation) -> Content) -> Option<Operation> {
        let slot = self.find(token)?;
        let leave = match &slot.content {
            Content::Waiting(o) | Content::Given(o) => leave(o),
            _ => return None,
        };
        match std::mem::replace(&mut slot.content, leave) {
            Content::Waiting(o) | Content::Given(o) => Some(o),
            _ => None,
        }
    }
}

/// Calls `look` with an operation that waits for the plugin. Returns `None` if the operation is not waiting any more.
pub(super) fn look_at_waiting<T>(token: Token, look: impl FnOnce(&Operation) -> T) -> Option<T> {
    match &SLOTS.get().lock().find(token)?.content {
        Content::Waiting(operation) => Some(look(operation)),
        _ => None,
    }
}

/// An operation that a thread is giving to the plugin. The thread takes the operation out of its slot, so that it can
/// copy the operation's memory without the lock of all slots. Until the operation is back in the slot, neither the
/// clock (`super::clock`) nor an answer can end it.
#[must_use = "the slot stays reserved until `give` or `keep`"]
pub(super) struct TakenOut(pub(super) Operation);

/// Takes out an operation that is about to be given to the plugin. Returns `None` if the clock has ended the operation.
pub(super) fn take_out(token: Token) -> Option<TakenOut> {
    SLOTS.get().lock().take(token, |_| Content::TakenOut).map(TakenOut)
}

impl TakenOut {
    pub(super) fn give(self) {
        if let Some(slot) = SLOTS.get().lock().find(self.0.token) {
            slot.content = Content::Given(self.0);
        }
    }

    /// Frees the slot. Returns the operation, which the caller then ends without the plugin.
    pub(super) fn keep(self) -> Operation {
        let mut all = SLOTS.get().lock();
        if let Some(slot) = all.find(self.0.token) {
            slot.content = Content::Empty;
            all.free.push_back(token::slot(self.0.token));
        }
        self.0
    }
}

/// Finds the operation to which the plugin's answer with this token refers. `mine` returns whether a group belongs to
/// the plugin that answered.
pub(super) fn take_answered(token: Token, mine: impl Fn(&Group) -> bool) -> AnswerTo {
    let mut all = SLOTS.get().lock();
    let Some(slot) = all.find(token) else { return AnswerTo::Unknown };
    match &slot.content {
        Content::Given(o) if mine(&o.group) => {}
        Content::Answered(group) => return AnswerTo::AnsweredBefore(group.upgrade().filter(|g| mine(g))),
        Content::GivenUp => return AnswerTo::GivenUp,
        _ => return AnswerTo::Unknown,
    }
    match all.take(token, |o| Content::Answered(Arc::downgrade(&o.group))) {
        Some(operation) => {
            all.free.push_back(token::slot(token));
            AnswerTo::Operation(Box::new(operation))
        }
        None => AnswerTo::Unknown,
    }
}

#[derive(Default)]
pub(super) struct Overdue {
    /// The operations whose time is over.
    pub(super) operations: Vec<Operation>,
    /// The groups of overdue operations that only the plugin can end, because the plugin uses the caller's memory.
    pub(super) on_trust: Vec<Arc<Group>>,
    /// The earliest time after `now` at which an operation's time is over.
    pub(super) next: Option<Instant>,
}

/// Takes every operation whose time is over at `now`.
pub(super) fn take_overdue(now: Instant) -> Overdue {
    let mut all = SLOTS.get().lock();
    let Overdue { mut operations, mut on_trust, mut next } = Overdue::default();
    for index in 0..all.slots.len() {
        let slot = &mut all.slots[index];
        let (Content::Waiting(o) | Content::Given(o)) = &slot.content else { continue };
        let limit = o.limit.min(o.group.limit());
        if limit > now {
            next = Some(next.map_or(limit, |n| n.min(limit)));
            continue;
        }
        if !o.lent.can_be_lost() {
            on_trust.push(o.group.clone());
            continue;
        }
        match std::mem::replace(&mut slot.content, Content::GivenUp) {
            // This slot is never reused, so even a very late answer of the plugin is recognised.
            Content::Given(o) => operations.push(o),
            Content::Waiting(o) => {
                operations.push(o);
                all.free.push_back(index as u32);
            }
            _ => {}
        }
    }
    Overdue { operations, on_trust, next }
}
