//! The state and the operations of a TCPStore server, without sockets: keys, queues, and waiting clients.

mod lists;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

pub(crate) use lists::Task;

use c10d_core::store::sum;

use super::Limits;
use super::protocol::{Refusal, Request, STOP_WAITING, WAIT_CANCELED, Write};
use super::quota::{Accounts, Amount, ClientId, Home, Owner};

type Key = Arc<[u8]>;
/// The waiting clients by ticket, which is their order of arrival.
type Waiters = BTreeMap<u64, ClientId>;

/// The memory that an entry takes beyond its key and value.
const OVERHEAD: usize = 64;
/// If a wait is for more keys than this, its entries in the lists of waiting clients are removed in pieces.
const FEW: usize = 256;

pub(crate) struct Keyspace {
    limits: Limits,
    values: BTreeMap<Key, Entry>,
    queues: HashMap<Key, Queue>,
    /// For each awaited key or queue, the clients that wait for it.
    consumers: HashMap<Key, Waiters>,
    /// For each barrier, the clients that wait at it.
    barriers: HashMap<Key, Waiters>,
    /// For each waiting client, the keys or the barrier for which it waits.
    waiting: HashMap<ClientId, Waiting>,
    /// The waits that have ended but still have entries in `consumers`: ticket, owner and the keys of these entries.
    stale: Vec<(u64, Owner, Vec<Key>)>,
    arrivals: u64,
    accounts: Accounts,
}

struct Entry {
    value: Vec<u8>,
    owner: Owner,
}

struct Queue {
    items: VecDeque<(Vec<u8>, Owner)>,
    bytes: usize,
    owner: Owner,
}

enum Waiting {
    Keys { ticket: u64, absent: usize, keys: Vec<Key> },
    Barrier { ticket: u64, key: Key },
}

impl Keyspace {
    pub(crate) fn new(limits: Limits) -> Keyspace {
        Keyspace {
            limits,
            values: BTreeMap::new(),
            queues: HashMap::new(),
            consumers: HashMap::new(),
            barriers: HashMap::new(),
            waiting: HashMap::new(),
            stale: Vec::new(),
            arrivals: 0,
            accounts: Accounts::new(Amount { bytes: limits.total, keys: limits.keys }),
        }
    }

    /// Registers a client. What the client stores counts towards the share of its address.
    pub(crate) fn welcome(&mut self, client: ClientId, home: Home) {
        self.accounts.welcome(client, home);
    }

    pub(crate) fn leave(&mut self, client: ClientId) {
        self.forget(client);
        self.accounts.leave(client);
    }

    /// Executes a request. The answer is appended to `reply`. Clients whose wait has ended are appended to `woken`, and
    /// each of them must get a [`STOP_WAITING`]. A request about many keys returns a `Task`, which the caller must
    /// continue by [`Keyspace::go_on`].
    pub(crate) fn apply(
        &mut self,
        client: ClientId,
        request: Request,
        reply: &mut Vec<u8>,
        woken: &mut Vec<ClientId>,
    ) -> Result<Option<Task>, Refusal> {
        match request {
            Request::Set(key, value) => self.set(client, key.into(), value, woken)?,
            Request::CompareSet { key, expected, desired } => {
                let key: Key = key.into();
                let swap = match self.values.get(&key) {
                    Some(entry) => entry.value == expected,
                    None => expected.is_empty(),
                };
                if swap {
                    self.set(client, key.clone(), desired, woken)?;
                }
                self.put(reply, self.values.get(&key).map_or(&expected, |entry| &entry.value))?;
            }
            Request::Get(key) => self.put(reply, self.value(&key))?,
            Request::Add(key, delta) => reply.integer(self.add(client, key.into(), delta, woken)?),
            Request::Check(keys) => return Ok(Some(Task::check(keys))),
            Request::Wait(keys) => return self.wait(client, keys).map(Some),
            Request::NumKeys => reply.integer(self.values.len() as i64),
            Request::Delete(key) => {
                let gone = self.values.remove(&key[..]);
                if let Some(Entry { value, owner }) = &gone {
                    self.accounts.give_back(*owner, Amount::key(cost(&key, value)));
                }
                reply.integer(i64::from(gone.is_some()));
            }
            Request::Append(key, more) => self.append(client, key.into(), &more, woken)?,
            Request::MultiGet(keys) => return Ok(Some(Task::get(keys))),
            Request::MultiSet(pairs) => return Ok(Some(Task::set(pairs))),
            Request::CancelWait => {
                self.forget(client);
                reply.push(WAIT_CANCELED);
            }
            Request::Ping(nonce) => reply.extend_from_slice(&nonce.to_le_bytes()),
            Request::QueuePush(key, item) => self.push(client, key.into(), item, woken)?,
            Request::QueuePop(key) => self.pop(&key, reply)?,
            Request::QueueLen(key) => reply.integer(self.queues.get(&key[..]).map_or(0, |q| q.items.len() as i64)),
            Request::ListKeys => return Ok(Some(Task::list())),
            Request::Barrier(key, world) => self.barrier(client, key.into(), world, reply, woken)?,
        }
        Ok(None)
    }

    pub(crate) fn forget(&mut self, client: ClientId) {
        let owner = self.accounts.owner(client);
        match self.waiting.remove(&client) {
            None => {}
            Some(Waiting::Keys { ticket, keys, .. }) => {
                let few = keys.len() <= FEW;
                self.stale.push((ticket, owner, keys));
                if few {
                    self.tidy(FEW + 1);
                }
            }
            Some(Waiting::Barrier { ticket, key }) => {
                self.accounts.give_back(owner, Amount::bytes(key.len() + OVERHEAD));
                leave(&mut self.barriers, &key, ticket);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn memory(&self) -> usize {
        self.accounts.all().bytes
    }

    fn value(&self, key: &[u8]) -> &[u8] {
        self.values.get(key).map_or(&[], |entry| &entry.value)
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

    /// Checks that `more` is within the client's share. Returns the owner to which `more` must be charged.
    fn room(&self, client: ClientId, more: Amount) -> Result<Owner, Refusal> {
        let owner = self.accounts.owner(client);
        if self.accounts.has_room(owner, more) { Ok(owner) } else { Err(Refusal::Full) }
    }

    fn set(&mut self, client: ClientId, key: Key, value: Vec<u8>, woken: &mut Vec<ClientId>) -> Result<(), Refusal> {
        if value.len() > self.limits.per_key {
            return Err(Refusal::Full);
        }
        let old = self.values.get(&key).map(|entry| (Amount::key(cost(&key, &entry.value)), entry.owner));
        let new = Amount::key(cost(&key, &value));
        let owner = self.room(client, new.less(old.map_or(Amount::default(), |(old, _)| old)))?;
        if let Some((old, owner)) = old {
            self.accounts.give_back(owner, old);
        }
        self.accounts.charge(owner, new);
        self.values.insert(key.clone(), Entry { value, owner });
        self.appeared(&key, woken);
        Ok(())
    }

    fn add(&mut self, client: ClientId, key: Key, delta: i64, woken: &mut Vec<ClientId>) -> Result<i64, Refusal> {
        let old = self.values.get(&key).map(|entry| &entry.value[..]);
        let sum = sum(old, delta).map_err(|_| Refusal::BadNumber)?;
        self.set(client, key, sum.to_string().into_bytes(), woken)?;
        Ok(sum)
    }

    fn append(&mut self, client: ClientId, key: Key, more: &[u8], woken: &mut Vec<ClientId>) -> Result<(), Refusal> {
        if !self.values.contains_key(&key) {
            return self.set(client, key, more.to_vec(), woken);
        }
        let owner = self.room(client, Amount::bytes(more.len()))?;
        if let Some(entry) = self.values.get_mut(&key) {
            if entry.value.len() + more.len() > self.limits.per_key {
                return Err(Refusal::Full);
            }
            self.accounts.give_back(entry.owner, Amount::key(cost(&key, &entry.value)));
            entry.value.extend_from_slice(more);
            entry.owner = owner;
            self.accounts.charge(owner, Amount::key(cost(&key, &entry.value)));
        }
        Ok(())
    }

    fn push(&mut self, client: ClientId, key: Key, item: Vec<u8>, woken: &mut Vec<ClientId>) -> Result<(), Refusal> {
        let more = item.len() + OVERHEAD;
        let new = match self.queues.get(&key) {
            Some(queue) if queue.bytes + more > self.limits.per_key => return Err(Refusal::Full),
            None if more > self.limits.per_key => return Err(Refusal::Full),
            Some(_) => Amount::default(),
            None => Amount::key(key.len() + OVERHEAD),
        };
        let cost = Amount { bytes: new.bytes + more, keys: new.keys };
        let owner = self.room(client, cost)?;
        self.accounts.charge(owner, cost);
        let queue = self.queues.entry(key.clone()).or_insert(Queue { items: VecDeque::new(), bytes: 0, owner });
        queue.bytes += more;
        queue.items.push_back((item, owner));
        // One item serves one consumer, so only the first client that still waits is woken.
        while let Some((ticket, client)) = self.consumers.get_mut(&key).and_then(BTreeMap::pop_first) {
            if self.consumers.get(&key).is_some_and(BTreeMap::is_empty) {
                self.consumers.remove(&key);
            }
            if self.one_less(client, ticket, woken) {
                break;
            }
        }
        Ok(())
    }

    fn pop(&mut self, key: &[u8], reply: &mut Vec<u8>) -> Result<(), Refusal> {
        let Some(queue) = self.queues.get_mut(key) else {
            reply.integer(0);
            return Ok(());
        };
        reply.integer(queue.items.len() as i64);
        let (item, owner) = queue.items.pop_front().unwrap_or((Vec::new(), queue.owner));
        let less = item.len() + OVERHEAD;
        queue.bytes -= less;
        self.accounts.give_back(owner, Amount::bytes(less));
        if queue.items.is_empty() {
            self.accounts.give_back(queue.owner, Amount::key(key.len() + OVERHEAD));
            self.queues.remove(key);
        }
        self.put(reply, &item)
    }

    fn wait(&mut self, client: ClientId, keys: Vec<Vec<u8>>) -> Result<Task, Refusal> {
        let ticket = self.ticket(client)?;
        // The count starts at 1, so that it cannot reach 0 before all keys are known.
        self.waiting.insert(client, Waiting::Keys { ticket, absent: 1, keys: Vec::new() });
        Ok(Task::wait(keys, ticket))
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
        if self.add(client, key.clone(), 1, woken)? < world {
            let more = Amount::bytes(key.len() + OVERHEAD);
            let owner = self.room(client, more)?;
            self.accounts.charge(owner, more);
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

    /// Makes a ticket: a number that orders waiting clients by their arrival. It is an error if the client waits
    /// already.
    fn ticket(&mut self, client: ClientId) -> Result<u64, Refusal> {
        if self.waiting.contains_key(&client) {
            return Err(Refusal::AlreadyWaiting);
        }
        self.arrivals += 1;
        Ok(self.arrivals)
    }

    fn appeared(&mut self, key: &[u8], woken: &mut Vec<ClientId>) {
        for (ticket, client) in self.consumers.remove(key).unwrap_or_default() {
            self.one_less(client, ticket, woken);
        }
    }

    /// Records that one of the keys that `client` awaits with this ticket exists now. Returns whether the client was
    /// still waiting with this ticket.
    fn one_less(&mut self, client: ClientId, ticket: u64, woken: &mut Vec<ClientId>) -> bool {
        match self.waiting.get_mut(&client) {
            Some(Waiting::Keys { ticket: current, absent, .. }) if *current == ticket => {
                *absent -= 1;
                if *absent == 0 {
                    self.forget(client);
                    woken.push(client);
                }
                true
            }
            _ => false,
        }
    }
}

fn cost(key: &[u8], value: &[u8]) -> usize {
    key.len() + value.len() + OVERHEAD
}

fn leave(waiting: &mut HashMap<Key, Waiters>, key: &Key, ticket: u64) {
    if let Some(waiters) = waiting.get_mut(key) {
        waiters.remove(&ticket);
        if waiters.is_empty() {
            waiting.remove(key);
        }
    }
}
