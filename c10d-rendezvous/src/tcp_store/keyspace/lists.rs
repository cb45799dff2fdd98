//! Requests about many keys. They are executed in pieces. Between two pieces, other clients have their turns.
//!
//! So a large request is not atomic: other clients may change the store between two of its keys.

use std::ops::Bound;
use std::vec::IntoIter;

use super::{Amount, ClientId, Key, Keyspace, OVERHEAD, Waiting, leave};
use crate::tcp_store::protocol::{Refusal, STOP_WAITING, Write};

/// A request that is partly done.
pub(crate) struct Task {
    work: Work,
    /// The bytes that the request holds.
    held: usize,
}

enum Work {
    Check(IntoIter<Vec<u8>>),
    Get(IntoIter<Vec<u8>>),
    Set(IntoIter<(Vec<u8>, Vec<u8>)>),
    Wait { keys: IntoIter<Vec<u8>>, ticket: u64 },
    List { after: Option<Key>, n: i64, listed: Vec<u8> },
}

impl Task {
    fn new(work: Work, held: usize) -> Task {
        Task { work, held }
    }

    fn of(keys: Vec<Vec<u8>>, work: impl FnOnce(IntoIter<Vec<u8>>) -> Work) -> Task {
        let held = keys.iter().map(|key| key.len() + size_of::<Vec<u8>>()).sum();
        Task::new(work(keys.into_iter()), held)
    }

    pub(super) fn check(keys: Vec<Vec<u8>>) -> Task {
        Task::of(keys, Work::Check)
    }

    pub(super) fn get(keys: Vec<Vec<u8>>) -> Task {
        Task::of(keys, Work::Get)
    }

    pub(super) fn set(pairs: Vec<(Vec<u8>, Vec<u8>)>) -> Task {
        let held = pairs.iter().map(|(key, value)| key.len() + value.len() + 2 * size_of::<Vec<u8>>()).sum();
        Task::new(Work::Set(pairs.into_iter()), held)
    }

    pub(super) fn wait(keys: Vec<Vec<u8>>, ticket: u64) -> Task {
        Task::of(keys, |keys| Work::Wait { keys, ticket })
    }

    pub(super) fn list() -> Task {
        Task::new(Work::List { after: None, n: 0, listed: Vec::new() }, 0)
    }

    pub(crate) fn held(&self) -> usize {
        match &self.work {
            Work::List { listed, .. } => listed.len(),
            _ => self.held,
        }
    }
}

impl Keyspace {
    /// Continues a request for at most `budget` keys, and reduces `budget` by the work done. Returns the request if it
    /// is not done.
    pub(crate) fn go_on(
        &mut self,
        client: ClientId,
        mut task: Task,
        budget: &mut usize,
        reply: &mut Vec<u8>,
        woken: &mut Vec<ClientId>,
    ) -> Result<Option<Task>, Refusal> {
        while *budget > 0 {
            *budget -= 1;
            let over = match &mut task.work {
                Work::Check(keys) => match keys.next() {
                    Some(key) if self.present(&key) => false,
                    key => {
                        reply.push(u8::from(key.is_some()));
                        true
                    }
                },
                Work::Get(keys) => match keys.next() {
                    Some(key) => {
                        self.put(reply, self.value(&key))?;
                        false
                    }
                    None => true,
                },
                Work::Set(pairs) => match pairs.next() {
                    Some((key, value)) => {
                        self.set(client, key.into(), value, woken)?;
                        false
                    }
                    None => true,
                },
                Work::Wait { keys, ticket } => match keys.next() {
                    Some(key) => {
                        self.enlist(client, *ticket, key)?;
                        false
                    }
                    None => {
                        self.listed(client, reply);
                        true
                    }
                },
                Work::List { after, n, listed } => {
                    let from = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
                    match self.values.range::<[u8], _>((from, Bound::Unbounded)).next() {
                        Some((key, _)) => {
                            *n += 1;
                            *after = Some(key.clone());
                            let key = key.clone();
                            self.put(listed, &key)?;
                            false
                        }
                        None => {
                            reply.integer(*n);
                            reply.append(listed);
                            true
                        }
                    }
                }
            };
            if over {
                return Ok(None);
            }
        }
        Ok(Some(task))
    }

    /// Adds this key to the client's wait, unless the key exists.
    fn enlist(&mut self, client: ClientId, ticket: u64, key: Vec<u8>) -> Result<(), Refusal> {
        if self.present(&key) || self.consumers.get(&key[..]).is_some_and(|waiters| waiters.contains_key(&ticket)) {
            return Ok(());
        }
        let more = Amount::bytes(key.len() + OVERHEAD);
        let owner = self.room(client, more)?;
        let Some(Waiting::Keys { absent, keys, .. }) = self.waiting.get_mut(&client) else { return Ok(()) };
        self.accounts.charge(owner, more);
        let key: Key = key.into();
        *absent += 1;
        keys.push(key.clone());
        self.consumers.entry(key).or_default().insert(ticket, client);
        Ok(())
    }

    /// Records that all keys of a client's wait are known. Before this call, the client cannot be woken.
    fn listed(&mut self, client: ClientId, reply: &mut Vec<u8>) {
        if let Some(Waiting::Keys { absent, .. }) = self.waiting.get_mut(&client) {
            *absent -= 1;
            if *absent == 0 {
                self.forget(client);
                reply.push(STOP_WAITING);
            }
        }
    }

    /// Removes at most `budget` entries of waits that have ended from the lists of waiting clients.
    pub(crate) fn tidy(&mut self, budget: usize) {
        for _ in 0..budget {
            let Some((ticket, owner, keys)) = self.stale.last_mut() else { return };
            let (ticket, owner) = (*ticket, *owner);
            match keys.pop() {
                Some(key) => {
                    self.accounts.give_back(owner, Amount::bytes(key.len() + OVERHEAD));
                    leave(&mut self.consumers, &key, ticket);
                }
                None => drop(self.stale.pop()),
            }
        }
    }

    pub(crate) fn is_untidy(&self) -> bool {
        !self.stale.is_empty()
    }
}
