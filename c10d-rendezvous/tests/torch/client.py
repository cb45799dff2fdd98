"""Tests each method of PyTorch's client with the server at the port in argv, then exchanges data with a Rust client."""

import sys
from datetime import timedelta

import torch.distributed as dist

port = int(sys.argv[1])
store = dist.TCPStore("127.0.0.1", port, None, False, timedelta(seconds=30), wait_for_workers=False)


def times_out(call, *args):
    try:
        call(*args)
    except dist.DistStoreError:
        return
    raise AssertionError(f"{call} did not time out")


store.set("k", b"\x00v\xff")
assert store.get("k") == b"\x00v\xff"
assert store.add("n", 5) == 5 and store.add("n", -7) == -2
assert store.get("n") == b"-2"
assert store.compare_set("c", "", "1") == b"1"
assert store.compare_set("c", "1", "2") == b"2"
assert store.compare_set("c", "1", "3") == b"2"
assert store.compare_set("cc", "exp", "new") == b"exp"
assert store.check(["k", "c"]) and not store.check(["k", "cc"])
store.wait(["k", "n"], timedelta(seconds=5))
times_out(store.wait, ["k", "none"], timedelta(milliseconds=100))
store.append("a", "one")
store.append("a", "two")
assert store.get("a") == b"onetwo"
store.multi_set(["m1", "m2"], ["1", ""])
assert store.multi_get(["m1", "a", "m2"]) == [b"1", b"onetwo", b""]
assert store.num_keys() == 6, store.num_keys()
assert store.delete_key("a") and not store.delete_key("a")
assert sorted(store.list_keys()) == ["c", "k", "m1", "m2", "n"], store.list_keys()
store.queue_push("q", "x")
store.queue_push("q", "y")
assert store.queue_len("q") == 2
assert store.queue_pop("q") == b"x" and store.queue_pop("q", block=False) == b"y"
try:
    store.queue_pop("q", block=False)
    raise AssertionError("queue_pop returned an item of an empty queue")
except dist.QueueEmptyError:
    pass
store.barrier("alone", 1)
times_out(store.barrier, "lonely", 2, timedelta(milliseconds=100))
assert store.clone().get("k") == b"\x00v\xff"
nested = dist.PrefixStore("default_pg", dist.PrefixStore("x/", store))
nested.set("k", "nested")
big = b"z" * (8 << 20)
store.set("big", big)
assert store.get("big") == big

# The Rust side waits for this, and answers.
store.set("from python", "hello")
assert store.get("from rust") == b"hello"
store.queue_push("to rust", "item")
assert store.queue_pop("to python") == b"item"
assert store.add("both", 1) > 0
store.barrier("met", 2)
print("python succeeded", flush=True)
