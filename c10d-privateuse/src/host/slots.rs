//! Tokens. A token is good for one answer; whatever comes with it later meets an empty slot.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Instant;

use c10d_core::process::PerProcess;
use c10d_core::sync::Mutex;

use super::flight::Flight;
use super::group::Group;

/// Slot in the low half, generation in the high half.
pub(super) type Token = u64;

#[derive(Default)]
struct Slot {
    generation: u32,
    held: Held,
}

#[derive(Default)]
enum Held {
    /// Nothing; and who answered last, if it was the plugin.
    #[default]
    Empty,
    Answered(Weak<Group>),
    GivenUp,
    /// Not given to the plugin yet.
    Waiting(Flight),
    /// In the hands of the thread that will give it to the plugin.
    Boarding(Weak<Group>),
    /// The plugin has it.
    Given(Flight),
}

/// What a token stands for.
pub(super) enum Found {
    /// The operation, which is now the caller's to end.
    Flight(Box<Flight>),
    /// It was answered before: the plugin answers twice.
    Answered(Option<Arc<Group>>),
    /// Its time was over before the answer came.
    GivenUp,
    /// There is no such operation.
    Unknown,
}

#[derive(Default)]
struct Slots {
    slots: Vec<Slot>,
    /// First in, first out, so that an answer that comes twice still finds whose it was.
    free: VecDeque<u32>,
}

static SLOTS: PerProcess<Mutex<Slots>> = PerProcess::new();

/// A new token.
pub(super) fn put(mut flight: Flight) -> Token {
    let mut all = SLOTS.get().lock();
    let index = all.free.pop_front().unwrap_or_else(|| {
        all.slots.push(Slot::default());
        (all.slots.len() - 1) as u32
    });
    let slot = &mut all.slots[index as usize];
    slot.generation = slot.generation.wrapping_add(1).max(1);
    let token = Token::from(slot.generation) << 32 | Token::from(index);
    flight.token = token;
    slot.held = Held::Waiting(flight);
    token
}

impl Slots {
    fn find(&mut self, token: Token) -> Option<&mut Slot> {
        let generation = (token >> 32) as u32;
        self.slots.get_mut(token as u32 as usize).filter(|s| s.generation == generation && generation != 0)
    }

    fn take(&mut self, token: Token, leave: impl FnOnce(&Flight) -> Held) -> Option<Flight> {
        let slot = self.find(token)?;
        let leave = match &slot.held {
            Held::Waiting(f) | Held::Given(f) => leave(f),
            _ => return None,
        };
        match std::mem::replace(&mut slot.held, leave) {
            Held::Waiting(f) | Held::Given(f) => Some(f),
            _ => None,
        }
    }
}

/// Looks at an operation that waits for the plugin, if it was not given up meanwhile.
pub(super) fn look<T>(token: Token, look: impl FnOnce(&Flight) -> T) -> Option<T> {
    match &SLOTS.get().lock().find(token)?.held {
        Held::Waiting(flight) => Some(look(flight)),
        _ => None,
    }
}

/// Takes an operation that is about to be given to the plugin, if it was not given up meanwhile.
pub(super) fn board(token: Token) -> Option<Flight> {
    SLOTS.get().lock().take(token, |f| Held::Boarding(Arc::downgrade(&f.group)))
}

/// Puts it back, now the plugin's.
pub(super) fn give(token: Token, flight: Flight) {
    if let Some(slot) = SLOTS.get().lock().find(token) {
        slot.held = Held::Given(flight);
    }
}

/// Takes the slot back for others, for an operation that was boarded and ended without the plugin.
pub(super) fn unboard(token: Token) {
    let mut all = SLOTS.get().lock();
    if let Some(slot) = all.find(token) {
        slot.held = Held::Empty;
        all.free.push_back(token as u32);
    }
}

/// What the plugin's answer with this token is about. `mine` tells whether a group is the plugin's that answers.
pub(super) fn answered(token: Token, mine: impl Fn(&Group) -> bool) -> Found {
    let mut all = SLOTS.get().lock();
    let Some(slot) = all.find(token) else { return Found::Unknown };
    match &slot.held {
        Held::Given(f) if mine(&f.group) => {}
        Held::Answered(group) => return Found::Answered(group.upgrade().filter(|g| mine(g))),
        Held::Boarding(group) => return Found::Answered(group.upgrade().filter(|g| mine(g))),
        Held::GivenUp => return Found::GivenUp,
        _ => return Found::Unknown,
    }
    match all.take(token, |f| Held::Answered(Arc::downgrade(&f.group))) {
        Some(flight) => {
            all.free.push_back(token as u32);
            Found::Flight(Box::new(flight))
        }
        None => Found::Unknown,
    }
}

/// Operations whose time is over.
#[derive(Default)]
pub(super) struct Overdue {
    pub(super) late: Vec<Flight>,
    /// The groups of those that cannot be ended without the plugin: it has memory that is not its to keep.
    pub(super) held: Vec<Arc<Group>>,
    /// When the next one's time is over.
    pub(super) next: Option<Instant>,
}

/// Takes every operation whose time is over at `now`.
pub(super) fn overdue(now: Instant) -> Overdue {
    let mut all = SLOTS.get().lock();
    let Overdue { mut late, mut held, mut next } = Overdue::default();
    for index in 0..all.slots.len() {
        let slot = &mut all.slots[index];
        let (Held::Waiting(f) | Held::Given(f)) = &slot.held else { continue };
        let limit = f.limit.min(f.group.limit());
        if limit > now {
            next = Some(next.map_or(limit, |n| n.min(limit)));
            continue;
        }
        if !f.lent.can_be_lost() {
            held.push(f.group.clone());
            continue;
        }
        match std::mem::replace(&mut slot.held, Held::GivenUp) {
            // The slot is not used again: whenever the answer comes, it is known to be late.
            Held::Given(f) => late.push(f),
            Held::Waiting(f) => {
                late.push(f);
                all.free.push_back(index as u32);
            }
            _ => {}
        }
    }
    Overdue { late, held, next }
}
