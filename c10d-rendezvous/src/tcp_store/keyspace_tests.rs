use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::Limits;
use super::keyspace::Keyspace;
use super::protocol::{Refusal, Request};
use super::quota::ClientId;

fn b(text: &str) -> Vec<u8> {
    text.as_bytes().to_vec()
}

fn int(n: i64) -> Vec<u8> {
    n.to_le_bytes().to_vec()
}

fn string(text: &str) -> Vec<u8> {
    [int(text.len() as i64), b(text)].concat()
}

struct Server(Keyspace);

impl Server {
    fn new() -> Server {
        Server(Keyspace::new(Limits::default()))
    }

    fn try_ask(&mut self, client: ClientId, request: Request) -> Result<(Vec<u8>, Vec<ClientId>), Refusal> {
        let (mut reply, mut woken) = (Vec::new(), Vec::new());
        let mut task = self.0.apply(client, request, &mut reply, &mut woken)?;
        while let Some(begun) = task {
            // Each turn processes one key.
            task = self.0.go_on(client, begun, &mut 1, &mut reply, &mut woken)?;
        }
        Ok((reply, woken))
    }

    fn ask(&mut self, client: ClientId, request: Request) -> (Vec<u8>, Vec<ClientId>) {
        self.try_ask(client, request).unwrap()
    }

    fn reply(&mut self, request: Request) -> Vec<u8> {
        let (reply, woken) = self.ask(99, request);
        assert!(woken.is_empty());
        reply
    }
}

#[test]
fn a_request_about_many_keys_is_done_in_pieces() {
    const KEYS: u32 = 10_000;
    let keys = || (0..KEYS).map(|i| i.to_le_bytes().to_vec()).collect::<Vec<_>>();
    let pairs = || keys().into_iter().map(|key| (key, b("v"))).collect();
    let mut s = Keyspace::new(Limits::default());
    s.welcome(1, 0);
    let (mut reply, mut woken) = (Vec::new(), Vec::new());
    for request in [
        Request::MultiSet(pairs()),
        Request::Check(keys()),
        Request::MultiGet(keys()),
        Request::ListKeys,
        Request::Wait((KEYS..2 * KEYS).map(|i| i.to_le_bytes().to_vec()).collect()),
    ] {
        let mut task = s.apply(1, request, &mut reply, &mut woken).unwrap();
        let mut pieces = 0;
        while let Some(begun) = task {
            let mut budget = 100;
            task = s.go_on(1, begun, &mut budget, &mut reply, &mut woken).unwrap();
            assert!(task.is_none() || budget == 0);
            pieces += 1;
        }
        assert!(pieces >= KEYS / 100, "{pieces} pieces");
    }
    // The memory of a wait is freed in pieces.
    let before = s.memory();
    s.forget(1);
    assert_eq!(s.memory(), before);
    let mut pieces = 0;
    while s.is_untidy() {
        s.tidy(100);
        pieces += 1;
    }
    assert!(pieces >= KEYS / 100 && s.memory() < before, "{pieces} pieces");
    // A key of the client's earlier wait does not end the client's new wait.
    let again = s.apply(1, Request::Wait(vec![b("other")]), &mut reply, &mut woken).unwrap();
    assert!(s.go_on(1, again.unwrap(), &mut 9, &mut reply, &mut woken).unwrap().is_none());
    s.apply(1, Request::Set((KEYS + 1).to_le_bytes().to_vec(), b("v")), &mut reply, &mut woken).unwrap();
    assert!(woken.is_empty());
    s.apply(1, Request::Set(b("other"), b("v")), &mut reply, &mut woken).unwrap();
    assert_eq!(woken, [1]);
}

#[test]
fn numbers_are_decimal_text() {
    let mut s = Server::new();
    assert_eq!(s.reply(Request::Add(b("n"), 5)), int(5));
    assert_eq!(s.reply(Request::Add(b("n"), -7)), int(-2));
    assert_eq!(s.reply(Request::Get(b("n"))), string("-2"));
    s.reply(Request::Set(b("n"), b("41")));
    assert_eq!(s.reply(Request::Add(b("n"), 1)), int(42));
    s.reply(Request::Set(b("n"), i64::MAX.to_string().into_bytes()));
    assert_eq!(s.try_ask(0, Request::Add(b("n"), 1)), Err(Refusal::BadNumber));
    s.reply(Request::Set(b("n"), b("12x")));
    assert_eq!(s.try_ask(0, Request::Add(b("n"), 1)), Err(Refusal::BadNumber));
    assert_eq!(s.reply(Request::Get(b("n"))), string("12x"));
}

#[test]
fn compare_set_handles_its_four_cases() {
    let mut s = Server::new();
    let mut cas = |expected: &str, desired: &str| {
        s.reply(Request::CompareSet { key: b("k"), expected: b(expected), desired: b(desired) })
    };
    assert_eq!(cas("exp", "new"), string("exp"));
    assert_eq!(cas("", "1"), string("1"));
    assert_eq!(cas("1", "2"), string("2"));
    assert_eq!(cas("1", "3"), string("2"));
    assert_eq!(s.reply(Request::NumKeys), int(1));
}

#[test]
fn a_wait_ends_with_its_last_key_and_only_then() {
    let mut s = Server::new();
    s.reply(Request::Set(b("there"), b("")));
    assert_eq!(s.ask(1, Request::Wait(vec![b("there")])), (vec![0], vec![]));
    assert_eq!(s.ask(1, Request::Wait(vec![b("a"), b("there"), b("b"), b("a")])), (vec![], vec![]));
    assert_eq!(s.ask(2, Request::Wait(vec![b("b")])), (vec![], vec![]));
    assert_eq!(s.ask(0, Request::Add(b("b"), 1)).1, [2]);
    assert_eq!(s.ask(0, Request::Append(b("a"), b("x"))).1, [1]);
    assert_eq!(s.ask(0, Request::Set(b("a"), b("y"))).1, [0; 0]);
}

#[test]
fn each_writing_verb_wakes_waiting_clients() {
    let writes: [fn(Vec<u8>) -> Request; 6] = [
        |k| Request::Set(k, vec![]),
        |k| Request::Add(k, 1),
        |k| Request::Append(k, vec![]),
        |k| Request::CompareSet { key: k, expected: vec![], desired: vec![1] },
        |k| Request::MultiSet(vec![(k, vec![])]),
        |k| Request::QueuePush(k, vec![]),
    ];
    for write in writes {
        let mut s = Server::new();
        s.ask(1, Request::Wait(vec![b("k")]));
        assert_eq!(s.ask(0, write(b("k"))).1, [1]);
    }
    let mut s = Server::new();
    s.ask(1, Request::Wait(vec![b("k")]));
    let refused = Request::CompareSet { key: b("k"), expected: b("x"), desired: b("y") };
    assert_eq!(s.ask(0, refused).1, [0; 0], "a key that was not created wakes nobody");
}

#[test]
fn cancelled_and_vanished_waiters_are_forgotten() {
    let mut s = Server::new();
    assert_eq!(s.reply(Request::CancelWait), [1]);
    s.ask(1, Request::Wait(vec![b("a"), b("b")]));
    s.ask(2, Request::Wait(vec![b("a")]));
    assert_eq!(s.ask(1, Request::CancelWait), (vec![1], vec![]));
    s.0.forget(2);
    assert_eq!(s.ask(0, Request::MultiSet(vec![(b("a"), vec![]), (b("b"), vec![])])).1, [0; 0]);
    assert_eq!(s.ask(1, Request::Wait(vec![b("c")])), (vec![], vec![]));
    assert_eq!(s.try_ask(1, Request::Wait(vec![b("d")])), Err(Refusal::AlreadyWaiting));
}

#[test]
fn a_queue_wakes_one_consumer_per_item_in_order() {
    let mut s = Server::new();
    for client in [3, 1, 2] {
        s.ask(client, Request::Wait(vec![b("q")]));
    }
    assert_eq!(s.ask(0, Request::QueuePush(b("q"), b("x"))).1, [3]);
    assert_eq!(s.ask(0, Request::QueuePush(b("q"), b("y"))).1, [1]);
    s.0.forget(2);
    assert_eq!(s.ask(0, Request::QueuePush(b("q"), b(""))).1, [0; 0]);
    assert_eq!(s.reply(Request::QueueLen(b("q"))), int(3));
    assert_eq!(s.reply(Request::Check(vec![b("q")])), [0]);
    assert_eq!(s.reply(Request::Get(b("q"))), string(""));
    assert_eq!(s.reply(Request::NumKeys), int(0));
    assert_eq!(s.reply(Request::Delete(b("q"))), int(0));
    for (before, item) in [(3, "x"), (2, "y"), (1, "")] {
        assert_eq!(s.reply(Request::QueuePop(b("q"))), [int(before), string(item)].concat());
    }
    assert_eq!(s.reply(Request::QueuePop(b("q"))), int(0));
    assert_eq!(s.reply(Request::Check(vec![b("q")])), [1]);
}

#[test]
fn a_barrier_opens_once_and_stays_open() {
    let mut s = Server::new();
    assert_eq!(s.ask(1, Request::Barrier(b("x"), 3)), (vec![], vec![]));
    assert_eq!(s.ask(1, Request::CancelWait), (vec![1], vec![]), "a cancelled arrival counts");
    assert_eq!(s.ask(2, Request::Barrier(b("x"), 3)), (vec![], vec![]));
    assert_eq!(s.ask(3, Request::Barrier(b("x"), 3)), (vec![0], vec![2]));
    assert_eq!(s.ask(1, Request::Barrier(b("x"), 3)), (vec![0], vec![]));
    assert_eq!(s.reply(Request::Get(b("x"))), string("4"));
}

#[test]
fn requests_beyond_the_limits_are_rejected() {
    let limits = Limits { total: 10_000, per_key: 1_000, keys: 40, reply: 2_000, ..Limits::default() };
    let full = || {
        let mut server = Server(Keyspace::new(limits));
        server.0.welcome(0, 0);
        server
    };
    let mut s = full();
    s.ask(0, Request::Append(b("k"), vec![0; 600]));
    assert_eq!(s.try_ask(0, Request::Append(b("k"), vec![0; 401])), Err(Refusal::Full));
    s.ask(0, Request::Append(b("k"), vec![0; 400]));
    assert_eq!(s.try_ask(0, Request::Set(b("k"), vec![0; 1_001])), Err(Refusal::Full));
    assert_eq!(s.try_ask(0, Request::MultiGet(vec![b("k"), b("k")])), Err(Refusal::ReplyTooLarge));
    // One client may have a quarter of the keys, here 10 of 40.
    let mut s = full();
    for i in 0..10 {
        s.ask(0, Request::Set(vec![i], vec![]));
    }
    assert_eq!(s.try_ask(0, Request::Set(vec![10], vec![])), Err(Refusal::Full));
    assert_eq!(s.try_ask(0, Request::QueuePush(vec![10], vec![])), Err(Refusal::Full));
    s.ask(0, Request::Set(vec![9], b("replacing is fine")));
    let mut s = full();
    let pushed = (0..100).take_while(|_| s.try_ask(0, Request::QueuePush(b("q"), vec![])).is_ok()).count();
    assert!((5..20).contains(&pushed), "{pushed} empty items in a queue of 1000 bytes");
    let mut s = full();
    let waiting = (0..1000).take_while(|c| s.try_ask(*c, Request::Wait(vec![vec![b'k'; 100]])).is_ok()).count();
    assert!((20..100).contains(&waiting), "{waiting} waits of 100 bytes in a store of 10000");
}

/// An action of the property test below, which compares the keyspace with a simple model.
#[derive(Clone, Debug)]
enum Step {
    Set(u8),
    Delete(u8),
    Wait(ClientId, BTreeSet<u8>),
    Cancel(ClientId),
    Vanish(ClientId),
}

fn step() -> impl Strategy<Value = Step> {
    let (key, client) = (0u8..5, 0usize..4);
    prop_oneof![
        key.clone().prop_map(Step::Set),
        key.clone().prop_map(Step::Delete),
        (client.clone(), prop::collection::btree_set(key, 1..4)).prop_map(|(c, keys)| Step::Wait(c, keys)),
        client.clone().prop_map(Step::Cancel),
        client.prop_map(Step::Vanish),
    ]
}

proptest! {
    #[test]
    fn waits_end_as_in_the_simple_model(steps in prop::collection::vec(step(), 0..60)) {
        let mut s = Server::new();
        let mut there = BTreeSet::new();
        let mut waits: BTreeMap<ClientId, BTreeSet<u8>> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Set(key) => {
                    there.insert(key);
                    let mut expected = Vec::new();
                    waits.retain(|client, keys| {
                        keys.remove(&key);
                        if keys.is_empty() { expected.push(*client); }
                        !keys.is_empty()
                    });
                    let mut woken = s.ask(9, Request::Set(vec![key], vec![1])).1;
                    woken.sort_unstable();
                    prop_assert_eq!(woken, expected);
                }
                Step::Delete(key) => {
                    let was = there.remove(&key);
                    prop_assert_eq!(s.reply(Request::Delete(vec![key])), int(i64::from(was)));
                }
                Step::Wait(client, keys) => {
                    let asked = s.try_ask(client, Request::Wait(keys.iter().map(|k| vec![*k]).collect()));
                    if waits.contains_key(&client) {
                        prop_assert_eq!(asked, Err(Refusal::AlreadyWaiting));
                        continue;
                    }
                    let absent: BTreeSet<u8> = keys.difference(&there).copied().collect();
                    let reply = if absent.is_empty() { vec![0] } else { vec![] };
                    if !absent.is_empty() { waits.insert(client, absent); }
                    prop_assert_eq!(asked, Ok((reply, vec![])));
                }
                Step::Cancel(client) => {
                    waits.remove(&client);
                    prop_assert_eq!(s.ask(client, Request::CancelWait), (vec![1], vec![]));
                }
                Step::Vanish(client) => {
                    waits.remove(&client);
                    s.0.forget(client);
                }
            }
        }
        for key in there {
            s.reply(Request::Delete(vec![key]));
        }
        for client in 0..4 {
            s.0.forget(client);
        }
        prop_assert_eq!(s.0.memory(), 0, "memory is accounted for to the last byte");
    }
}
