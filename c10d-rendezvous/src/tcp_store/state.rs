//! What a TCPStore server knows and does, without sockets: keys, queues, and who waits for what.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use super::Limits;
use super::protocol::{Refusal, Request, STOP_WAITING, WAIT_CANCELED, Write};

pub(crate) type ClientId = usize;
type Key = Arc<[u8]>;
/// Who waits, in the order of arrival.
type Line = BTreeMap<u64, ClientId>;

/// What an entry costs beyond its key and value, for the accounting of memory.
const OVERHEAD: usize = 64;

pub(crate) struct State {
    limits: Limits,
    values: HashMap<Key, Vec<u8>>,
    queues: HashMap<Key, Queue>,
    lines: HashMap<Key, Line>,
    barriers: HashMap<Key, Line>,
    waiting: HashMap<ClientId, Waiting>,
    arrivals: u64,
    bytes: usize,
}

#[derive(Default)]
struct Queue {
    items: VecDeque<Vec<u8>>,
    bytes: usize,
}

enum Waiting {
    Keys { ticket: u64, absent: usize, keys: Vec<Key> },
    Barrier { ticket: u64, key: Key },
}

impl State {
    pub(crate) fn new(limits: Limits) -> State {
        State {
            limits,
            values: HashMap::new(),
            queues: HashMap::new(),
            lines: HashMap::new(),
            barriers: HashMap::new(),
            waiting: HashMap::new(),
            arrivals: 0,
            bytes: 0,
        }
    }

    /// Executes a request. The answer goes to `reply`; clients that need wait no longer are pushed to `woken`, and each
    /// of them is owed a [`STOP_WAITING`].
    pub(crate) fn apply(
        &mut self,
        client: ClientId,
        request: Request,
        reply: &mut Vec<u8>,
        woken: &mut Vec<ClientId>,
    ) -> Result<(), Refusal> {
        match request {
            Request::Set(key, value) => self.set(key.into(), value, woken)?,
            Request::CompareSet { key, expected, desired } => {
                let key: Key = key.into();
                let swap = match self.values.get(&key) {
                    Some(value) => *value == expected,
                    None => expected.is_empty(),
                };
                if swap {
                    self.set(key.clone(), desired, woken)?;
                }
                self.put(reply, self.values.get(&key).unwrap_or(&expected))?;
            }
            Request::Get(key) => self.put(reply, self.value(&key))?,
            Request::Add(key, delta) => reply.integer(self.add(key.into(), delta, woken)?),
            Request::Check(keys) => reply.push(u8::from(!keys.iter().all(|key| self.present(key)))),
            Request::Wait(keys) => self.wait(client, keys, reply)?,
            Request::NumKeys => reply.integer(self.values.len() as i64),
            Request::Delete(key) => {
                let gone = self.values.remove(&key[..]);
                self.bytes -= gone.as_ref().map_or(0, |value| cost(&key, value));
                reply.integer(i64::from(gone.is_some()));
            }
            Request::Append(key, more) => self.append(key.into(), &more, woken)?,
            Request::MultiGet(keys) => {
                for key in &keys {
                    self.put(reply, self.value(key))?;
                }
            }
            Request::MultiSet(pairs) => {
                for (key, value) in pairs {
                    self.set(key.into(), value, woken)?;
                }
            }
            Request::CancelWait => {
                self.forget(client);
                reply.push(WAIT_CANCELED);
            }
            Request::Ping(nonce) => reply.extend_from_slice(&nonce.to_le_bytes()),
            Request::QueuePush(key, item) => self.push(key.into(), item, woken)?,
            Request::QueuePop(key) => self.pop(&key, reply)?,
            Request::QueueLen(key) => reply.integer(self.queues.get(&key[..]).map_or(0, |q| q.items.len() as i64)),
            Request::ListKeys => {
                reply.integer(self.values.len() as i64);
                for key in self.values.keys() {
                    self.put(reply, key)?;
                }
            }
            Request::Barrier(key, world) => self.barrier(client, key.into(), world, reply, woken)?,
        }
        Ok(())
    }

    /// The client waits for nothing any more.
    pub(crate) fn forget(&mut self, client: ClientId) {
        match self.waiting.remove(&client) {
            None => {}
            Some(Waiting::Keys { ticket, keys, .. }) => {
                for key in &keys {
                    self.bytes -= key.len() + OVERHEAD;
                    leave(&mut self.lines, key, ticket);
                }
            }
            Some(Waiting::Barrier { ticket, key }) => {
                self.bytes -= key.len() + OVERHEAD;
                leave(&mut self.barriers, &key, ticket);
            }
        }
    }

    /// Bytes that keys, queues and waits are counted as.
    #[cfg(test)]
    pub(super) fn memory(&self) -> usize {
        self.bytes
    }

    fn value(&self, key: &[u8]) -> &[u8] {
        self.values.get(key).map_or(&[], Vec::as_slice)
    }

    fn present(&self, key: &[u8]) -> bool {
        self.values.contains_key(key) || self.queues.contains_key(key)
    }

    fn put(&self, reply: &mut Vec<u8>, bytes: &[u8]) -> Result<(), Refusal> {
        if reply.len() + bytes.len() + 8 > self.limits.reply {
            return Err(Refusal::ReplyTooLarge);
        }
        reply.string(bytes);
        Ok(())
    }

    /// Whether `more` bytes and `entries` keys still fit.
    fn room(&self, more: usize, entries: usize) -> Result<(), Refusal> {
        let full =
            self.bytes + more > self.limits.total || self.values.len() + self.queues.len() + entries > self.limits.keys;
        if full { Err(Refusal::Full) } else { Ok(()) }
    }

    fn set(&mut self, key: Key, value: Vec<u8>, woken: &mut Vec<ClientId>) -> Result<(), Refusal> {
        if value.len() > self.limits.per_key {
            return Err(Refusal::Full);
        }
        let old = self.values.get(&key).map(|value| cost(&key, value));
        let new = cost(&key, &value);
        self.room(new.saturating_sub(old.unwrap_or(0)), usize::from(old.is_none()))?;
        self.bytes = self.bytes + new - old.unwrap_or(0);
        self.values.insert(key.clone(), value);
        self.appeared(&key, woken);
        Ok(())
    }

    fn add(&mut self, key: Key, delta: i64, woken: &mut Vec<ClientId>) -> Result<i64, Refusal> {
        let old = match self.values.get(&key) {
            None => 0,
            Some(text) => std::str::from_utf8(text)
                .ok()
                .and_then(|text| text.trim().parse::<i64>().ok())
                .ok_or(Refusal::BadNumber)?,
        };
        let sum = old.checked_add(delta).ok_or(Refusal::BadNumber)?;
        self.set(key, sum.to_string().into_bytes(), woken)?;
        Ok(sum)
    }

    fn append(&mut self, key: Key, more: &[u8], woken: &mut Vec<ClientId>) -> Result<(), Refusal> {
        if !self.values.contains_key(&key) {
            return self.set(key, more.to_vec(), woken);
        }
        self.room(more.len(), 0)?;
        if let Some(value) = self.values.get_mut(&key) {
            if value.len() + more.len() > self.limits.per_key {
                return Err(Refusal::Full);
            }
            value.extend_from_slice(more);
            self.bytes += more.len();
        }
        Ok(())
    }

    fn push(&mut self, key: Key, item: Vec<u8>, woken: &mut Vec<ClientId>) -> Result<(), Refusal> {
        let more = item.len() + OVERHEAD;
        let new = !self.queues.contains_key(&key);
        self.room(more + if new { key.len() + OVERHEAD } else { 0 }, usize::from(new))?;
        let queue = self.queues.entry(key.clone()).or_default();
        if queue.bytes + more > self.limits.per_key {
            return Err(Refusal::Full);
        }
        queue.bytes += more;
        queue.items.push_back(item);
        self.bytes += more + if new { key.len() + OVERHEAD } else { 0 };
        // One item serves one consumer: only the first in line wakes.
        let first = self.lines.get_mut(&key).and_then(|line| line.pop_first());
        if let Some((_, client)) = first {
            if self.lines.get(&key).is_some_and(BTreeMap::is_empty) {
                self.lines.remove(&key);
            }
            self.one_less(client, woken);
        }
        Ok(())
    }

    fn pop(&mut self, key: &[u8], reply: &mut Vec<u8>) -> Result<(), Refusal> {
        let Some(queue) = self.queues.get_mut(key) else {
            reply.integer(0);
            return Ok(());
        };
        reply.integer(queue.items.len() as i64);
        let item = queue.items.pop_front().unwrap_or_default();
        queue.bytes -= item.len() + OVERHEAD;
        self.bytes -= item.len() + OVERHEAD;
        if queue.items.is_empty() {
            self.queues.remove(key);
            self.bytes -= key.len() + OVERHEAD;
        }
        self.put(reply, &item)
    }

    fn wait(&mut self, client: ClientId, keys: Vec<Vec<u8>>, reply: &mut Vec<u8>) -> Result<(), Refusal> {
        let ticket = self.ticket(client)?;
        let mut absent: Vec<Key> = keys.into_iter().filter(|key| !self.present(key)).map(Key::from).collect();
        absent.sort_unstable();
        absent.dedup();
        if absent.is_empty() {
            reply.push(STOP_WAITING);
            return Ok(());
        }
        let more = absent.iter().map(|key| key.len() + OVERHEAD).sum();
        self.room(more, 0)?;
        self.bytes += more;
        for key in &absent {
            self.lines.entry(key.clone()).or_default().insert(ticket, client);
        }
        self.waiting.insert(client, Waiting::Keys { ticket, absent: absent.len(), keys: absent });
        Ok(())
    }

    fn barrier(
        &mut self,
        client: ClientId,
        key: Key,
        world: i64,
        reply: &mut Vec<u8>,
        woken: &mut Vec<ClientId>,
    ) -> Result<(), Refusal> {
        let ticket = self.ticket(client)?;
        if self.add(key.clone(), 1, woken)? < world {
            self.room(key.len() + OVERHEAD, 0)?;
            self.bytes += key.len() + OVERHEAD;
            self.barriers.entry(key.clone()).or_default().insert(ticket, client);
            self.waiting.insert(client, Waiting::Barrier { ticket, key });
            return Ok(());
        }
        for client in self.barriers.remove(&key).unwrap_or_default().into_values() {
            self.forget(client);
            woken.push(client);
        }
        reply.push(STOP_WAITING);
        Ok(())
    }

    /// A place in line; a client has one at a time.
    fn ticket(&mut self, client: ClientId) -> Result<u64, Refusal> {
        if self.waiting.contains_key(&client) {
            return Err(Refusal::AlreadyWaiting);
        }
        self.arrivals += 1;
        Ok(self.arrivals)
    }

    fn appeared(&mut self, key: &[u8], woken: &mut Vec<ClientId>) {
        for client in self.lines.remove(key).unwrap_or_default().into_values() {
            self.one_less(client, woken);
        }
    }

    /// One of the keys that `client` waits for is there.
    fn one_less(&mut self, client: ClientId, woken: &mut Vec<ClientId>) {
        if let Some(Waiting::Keys { absent, .. }) = self.waiting.get_mut(&client) {
            *absent -= 1;
            if *absent == 0 {
                self.forget(client);
                woken.push(client);
            }
        }
    }
}

fn cost(key: &[u8], value: &[u8]) -> usize {
    key.len() + value.len() + OVERHEAD
}

fn leave(lines: &mut HashMap<Key, Line>, key: &Key, ticket: u64) {
    if let Some(line) = lines.get_mut(key) {
        line.remove(&ticket);
        if line.is_empty() {
            lines.remove(key);
        }
    }
}
