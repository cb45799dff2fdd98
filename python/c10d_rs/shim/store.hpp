// Passes the library's requests to a store of PyTorch.
#pragma once

#include <torch/csrc/distributed/c10d/PrefixStore.hpp>

#include <algorithm>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "lanes.hpp"
#include "library.hpp"

namespace {

std::vector<uint8_t> bytes(const c10drs_text& t) { return {t.data, t.data + t.len}; }

// PyTorch's TCPStore prints a warning when a wait times out. Short waits often time out, so this function polls instead
// of a short wait.
void await_keys(c10d::Store& store, const std::vector<std::string>& keys, Millis limit) {
  if (limit > Millis(2000)) return store.wait(keys, limit);
  auto until = std::chrono::steady_clock::now() + limit;
  for (Millis pause(1); !store.check(keys); pause = std::min(pause * 2, Millis(20))) {
    auto now = std::chrono::steady_clock::now();
    TORCH_CHECK(now < until, "no such key after ", limit.count(), " ms");
    std::this_thread::sleep_until(std::min(now + pause, until));
  }
}

int ask_store(void* context, uint32_t verb, const c10drs_text* args, size_t len, int64_t number, int64_t timeout_ms,
              int64_t* out, void* sink, c10drs_put put) {
  try {
    c10d::Store& store = **static_cast<c10::intrusive_ptr<c10d::Store>*>(context);
    std::vector<std::string> keys;
    for (size_t i = 0; i < len; ++i) keys.emplace_back(args[i].data, args[i].len);
    auto give = [&](const std::vector<uint8_t>& value) { put(sink, value.data(), value.size()); };
    switch (verb) {
      case C10DRS_SET: store.set(keys.at(0), bytes(args[1])); break;
      case C10DRS_GET:
        await_keys(store, {keys.at(0)}, Millis(timeout_ms));
        give(store.get(keys[0]));
        break;
      case C10DRS_WAIT: await_keys(store, keys, Millis(timeout_ms)); break;
      case C10DRS_ADD: *out = store.add(keys.at(0), number); break;
      case C10DRS_COMPARE_SET: give(store.compareSet(keys.at(0), bytes(args[1]), bytes(args[2]))); break;
      case C10DRS_APPEND: store.append(keys.at(0), bytes(args[1])); break;
      case C10DRS_CHECK: *out = store.check(keys); break;
      case C10DRS_DELETE: *out = store.deleteKey(keys.at(0)); break;
      case C10DRS_COUNT: *out = store.getNumKeys(); break;
      default: TORCH_CHECK(false, "unknown verb ", verb);
    }
    return 0;
  } catch (const c10::Error& e) {
    std::string words = e.what_without_backtrace();
    put(sink, words.data(), words.size());
  } catch (const std::exception& e) {
    std::string words = e.what();
    put(sink, words.data(), words.size());
  }
  return 1;
}

void release_store(void* context) { delete static_cast<c10::intrusive_ptr<c10d::Store>*>(context); }

// Gives access to the prefix of a prefix store.
struct Opened : c10d::PrefixStore {
  static std::string prefix(c10d::PrefixStore& store) { return store.*(&Opened::prefix_); }
};

// The store without its prefixes, and the prefixes, outermost first.
std::pair<c10::intrusive_ptr<c10d::Store>, std::vector<std::string>> unwrap(c10::intrusive_ptr<c10d::Store> store) {
  std::vector<std::string> prefixes;
  while (auto* prefix = dynamic_cast<c10d::PrefixStore*>(store.get())) {
    prefixes.push_back(Opened::prefix(*prefix));
    store = prefix->getUnderlyingStore();
  }
  return {store, prefixes};
}

// Returns a second connection to the store, if the store can make one, because a thread that waits on a connection
// blocks other threads that use the same connection.
c10::intrusive_ptr<c10d::Store> own(const c10::intrusive_ptr<c10d::Store>& store) {
  if constexpr (requires { store->clone(); }) {
    try {
      if (auto clone = store->clone()) return clone;
    } catch (const std::exception&) {
    }
  }
  return store;
}

}  // namespace
