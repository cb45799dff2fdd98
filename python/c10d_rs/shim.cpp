// PyTorch's c10d::Backend over the C interface of libc10d_rs.
//
// Built against the user's PyTorch at first use. The order of things: the library's functions; errors; the threads on
// which works are told to be over; tensors; works; stores; the backend; what Python sees.

#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <pybind11/chrono.h>
#include <pybind11/stl.h>

#include <ATen/ATen.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/Types.hpp>
#include <torch/csrc/distributed/c10d/Work.hpp>
#include <torch/csrc/utils/pybind.h>

#include "c10d_rs.h"

namespace py = pybind11;

namespace {

using Millis = std::chrono::milliseconds;
using Tensors = std::vector<at::Tensor>;

// ---- the library -------------------------------------------------------------------------------------------------

// The functions of libc10d_rs, found at run time, so that this file is built without it.
struct Library {
#define C10DRS_FUNCTIONS(X)                                                                                         \
  X(abi) X(info) X(open) X(failure) X(abort) X(shutdown) X(shrink) X(close) X(error_free) X(run) X(start)           \
  X(sparse_all_reduce) X(work_done) X(work_wait) X(work_notify) X(work_free)
#define C10DRS_FIELD(name) decltype(&c10drs_##name) name = nullptr;
  C10DRS_FUNCTIONS(C10DRS_FIELD)
#undef C10DRS_FIELD
};

Library lib;

void load(const std::string& path) {
  if (lib.abi) return;
  void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  TORCH_CHECK(handle, "c10d_rs: cannot load ", path, ": ", dlerror());
  Library found;
#define C10DRS_FIND(name)                                                                       \
  found.name = reinterpret_cast<decltype(&c10drs_##name)>(dlsym(handle, "c10drs_" #name));      \
  TORCH_CHECK(found.name, "c10d_rs: ", path, " has no function c10drs_" #name);
  C10DRS_FUNCTIONS(C10DRS_FIND)
#undef C10DRS_FIND
  TORCH_CHECK(found.abi() == C10DRS_ABI, "c10d_rs: ", path, " has interface ", found.abi(), ", the shim was built for ",
              C10DRS_ABI, "; run `python -m c10d_rs build`");
  lib = found;
}

c10drs_text text(const std::string& s) { return {s.data(), s.size()}; }

// ---- errors ------------------------------------------------------------------------------------------------------

// What the library knows of an error, beside its words.
struct Facts {
  std::string kind, op, phase;
  int64_t seq = -1, rank = -1;
  bool failed = false;
  std::vector<uint32_t> guilty;
  std::vector<int64_t> guilty_global;
};

// Becomes the Python class c10d_rs.BackendError; where another library catches it, torch's DistBackendError.
class __attribute__((visibility("default"))) Failure : public c10::DistBackendError {
 public:
  Failure(const char* where, std::string words, std::shared_ptr<const Facts> facts)
      : c10::DistBackendError({where, __FILE__, 0}, std::move(words)), facts(std::move(facts)) {}
  std::shared_ptr<const Facts> facts;
};

// Takes the library's error over.
std::exception_ptr taken(c10drs_error* error, const std::vector<int64_t>& global, const std::string& before = "") {
  if (!error) return std::make_exception_ptr(Failure("c10d_rs", "an error without words", std::make_shared<Facts>()));
  auto facts = std::make_shared<Facts>();
  facts->kind = error->kind;
  facts->op = error->op;
  facts->phase = error->phase;
  facts->seq = error->seq;
  facts->rank = error->rank;
  facts->failed = error->failed != 0;
  facts->guilty.assign(error->guilty, error->guilty + error->guilty_len);
  for (auto rank : facts->guilty) {
    facts->guilty_global.push_back(rank < global.size() ? global[rank] : static_cast<int64_t>(rank));
  }
  std::string words = before + error->text;
  lib.error_free(error);
  return std::make_exception_ptr(Failure("c10d_rs", std::move(words), std::move(facts)));
}

// ---- threads that say that works are over ------------------------------------------------------------------------

// Works for whose end somebody left word are completed on these threads, never on the library's own: callbacks may take
// the GIL, wait, or start other works. A callback's own works are completed by the next thread, so it may wait for them.
class Lanes {
 public:
  // A forked child has none of its parent's threads, and begins anew.
  static Lanes& here() {
    static std::atomic<Lanes*> lanes{nullptr};
    Lanes* found = lanes.load();
    while (!found || found->owner_ != getpid()) {
      auto* fresh = new Lanes;  // stays as long as the process
      if (lanes.compare_exchange_strong(found, fresh)) return *fresh;
      delete fresh;
    }
    return *found;
  }

  static size_t depth() { return depth_; }

  void push(size_t lane, std::function<void()> job) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (over_) {
      // The interpreter goes away, and nobody is to be told any more. The job keeps what it has for ever.
      new std::function<void()>(std::move(job));
      return;
    }
    while (queues_.size() <= lane) queues_.push_back(std::make_unique<Queue>());
    auto& queue = *queues_[lane];
    queue.jobs.push_back(std::move(job));
    if (!queue.running) {
      queue.running = true;
      std::thread([this, lane, &queue] { serve(lane, queue); }).detach();
    }
    queue.changed.notify_one();
  }

  // No job is begun any more; waits a little for those that run.
  void end(Millis limit) {
    std::unique_lock<std::mutex> lock(mutex_);
    over_ = true;
    idle_.wait_for(lock, limit, [this] { return busy_ == 0; });
  }

 private:
  struct Queue {
    std::deque<std::function<void()>> jobs;
    std::condition_variable changed;
    bool running = false;
  };

  void serve(size_t lane, Queue& queue) {
    depth_ = lane + 1;
    std::unique_lock<std::mutex> lock(mutex_);
    while (true) {
      queue.changed.wait(lock, [&] { return !queue.jobs.empty() && !over_; });
      auto job = std::move(queue.jobs.front());
      queue.jobs.pop_front();
      ++busy_;
      lock.unlock();
      job();
      job = nullptr;
      lock.lock();
      if (--busy_ == 0) idle_.notify_all();
    }
  }

  const pid_t owner_ = getpid();
  std::mutex mutex_;
  std::vector<std::unique_ptr<Queue>> queues_;
  std::condition_variable idle_;
  size_t busy_ = 0;
  bool over_ = false;
  static thread_local size_t depth_;
};

thread_local size_t Lanes::depth_ = 0;

// ---- tensors -----------------------------------------------------------------------------------------------------

// The library's type for this one. Where it has none, `moves` says that only bytes are moved: any type of that size.
uint32_t type_of(at::ScalarType type, bool moves) {
  switch (type) {
    case at::kByte: return C10DRS_TYPE_u8;
    case at::kChar: return C10DRS_TYPE_i8;
    case at::kUInt16: return C10DRS_TYPE_u16;
    case at::kShort: return C10DRS_TYPE_i16;
    case at::kUInt32: return C10DRS_TYPE_u32;
    case at::kInt: return C10DRS_TYPE_i32;
    case at::kUInt64: return C10DRS_TYPE_u64;
    case at::kLong: return C10DRS_TYPE_i64;
    case at::kHalf: return C10DRS_TYPE_f16;
    case at::kBFloat16: return C10DRS_TYPE_bf16;
    case at::kFloat: return C10DRS_TYPE_f32;
    case at::kDouble: return C10DRS_TYPE_f64;
    case at::kBool: return C10DRS_TYPE_bool;
    case at::kComplexFloat: return C10DRS_TYPE_complex64;
    case at::kComplexDouble: return C10DRS_TYPE_complex128;
    case at::kFloat8_e4m3fn: return C10DRS_TYPE_f8e4m3;
    case at::kFloat8_e5m2: return C10DRS_TYPE_f8e5m2;
    default: break;
  }
  TORCH_CHECK_TYPE(moves, "c10d_rs: tensors of ", type, " are moved, but not reduced");
  switch (c10::elementSize(type)) {
    case 2: return C10DRS_TYPE_u16;
    case 4: return C10DRS_TYPE_u32;
    case 8: return C10DRS_TYPE_u64;
    default: return C10DRS_TYPE_u8;
  }
}

uint64_t size_of(uint32_t type) {
  static const uint8_t sizes[] = {1, 1, 2, 2, 4, 4, 8, 8, 2, 2, 4, 8, 1, 8, 16, 1, 1};
  return sizes[type];
}

// The tensors of one call: those that the library works on, and those into which results are copied afterwards.
struct Loan {
  Tensors held;
  std::vector<std::pair<at::Tensor, at::Tensor>> copies;

  // What is copied is copied whatever autograd and inference mode have to say.
  void copy_back() {
    if (copies.empty()) return;
    at::AutoDispatchBelowADInplaceOrView guard;
    for (auto& [to, from] : copies) to.copy_(from);
    copies.clear();
  }
};

// The last holder may be a thread of the library's, and the drop of a tensor may take the GIL.
void release(void* owner) {
  std::unique_ptr<std::shared_ptr<Loan>> loan(static_cast<std::shared_ptr<Loan>*>(owner));
  if (loan->use_count() == 1) {
    Lanes::here().push(0, [kept = std::move(*loan)] {});
  }
}

enum class Use { Read, Write, Both };

// A call that is being described.
struct Call {
  c10drs_call raw{};
  std::vector<c10drs_tensor> inputs, outputs;
  std::vector<uint64_t> input_splits, output_splits;
  std::shared_ptr<Loan> loan = std::make_shared<Loan>();
  bool moves = true;

  Call(uint32_t op, Millis timeout) {
    raw.op = op;
    raw.timeout_ms = timeout.count() < 0 ? -1 : timeout.count();
  }

  void reduces(const c10d::ReduceOp& op) {
    moves = false;
    raw.reduce = op.op_;
    if (op.op_ == c10d::ReduceOp::PREMUL_SUM) {
      auto* with = dynamic_cast<c10d::NCCLPreMulSumSupplement*>(op.supplement_.get());
      TORCH_CHECK_VALUE(with, "c10d_rs: ReduceOp.PREMUL_SUM has no factor");
      raw.factor = with->tensor_factor.defined() ? with->tensor_factor.item<double>() : with->double_factor;
    }
  }

  void add(const at::Tensor& tensor, Use use) {
    TORCH_CHECK_VALUE(tensor.defined(), "c10d_rs: a tensor of the call is undefined");
    TORCH_CHECK_VALUE(tensor.layout() == at::kStrided, "c10d_rs: the op takes dense tensors, not ", tensor.layout());
    auto device = tensor.device();
    TORCH_CHECK_VALUE(device.is_cpu(), "c10d_rs: the tensor is on ", device, ", which this build does not serve");
    raw.device_kind = 1;
    auto itemsize = tensor.element_size();
    at::Tensor plain = tensor;
    auto address = reinterpret_cast<uintptr_t>(tensor.numel() ? tensor.const_data_ptr() : nullptr);
    if (!tensor.is_contiguous() || tensor.is_conj() || tensor.is_neg() || address % std::min<size_t>(itemsize, 8) != 0) {
      at::AutoDispatchBelowADInplaceOrView guard;
      plain = at::empty(tensor.sizes(), tensor.options().memory_format(at::MemoryFormat::Contiguous));
      if (use != Use::Write) plain.copy_(tensor);
      if (use != Use::Read) loan->copies.emplace_back(tensor, plain);
    }
    c10drs_tensor t{};
    uint64_t count = plain.numel();
    auto type = plain.scalar_type();
    if (type == at::kComplexHalf && !moves) {
      TORCH_CHECK_VALUE(raw.reduce < 2, "c10d_rs: only sums and averages are made of ComplexHalf");
      t.dtype = C10DRS_TYPE_f16;
      count *= 2;
    } else {
      t.dtype = type_of(type, moves);
      count *= itemsize / size_of(t.dtype);
    }
    t.count = count;
    // Read, it is not written; the interface has one pointer for both.
    t.data = count ? const_cast<void*>(plain.const_data_ptr()) : nullptr;
    (use == Use::Read ? inputs : outputs).push_back(t);
    loan->held.push_back(std::move(plain));
  }

  void add(const Tensors& tensors, Use use) {
    for (const auto& tensor : tensors) add(tensor, use);
  }

  // Of lists in which types differ, bytes are moved.
  void level() {
    auto differ = [&](const std::vector<c10drs_tensor>& list) {
      return std::any_of(list.begin(), list.end(), [&](const auto& t) {
        return t.dtype != (inputs.empty() ? outputs : inputs).front().dtype;
      });
    };
    if (!moves || !(differ(inputs) || differ(outputs))) return;
    for (auto* list : {&inputs, &outputs}) {
      for (auto& t : *list) {
        t.count *= size_of(t.dtype);
        t.dtype = C10DRS_TYPE_u8;
      }
    }
  }

  const c10drs_call* ready() {
    raw.inputs = inputs.data();
    raw.inputs_len = inputs.size();
    raw.outputs = outputs.data();
    raw.outputs_len = outputs.size();
    raw.input_splits = input_splits.data();
    raw.input_splits_len = input_splits.size();
    raw.output_splits = output_splits.data();
    raw.output_splits_len = output_splits.size();
    if (raw.device_kind == 0) raw.device_kind = 1;
    return &raw;
  }
};

// ---- works -------------------------------------------------------------------------------------------------------

class OpWork final : public c10d::Work {
 public:
  OpWork(int rank, c10d::OpType op, const char* title, const std::optional<Tensors>& inputs, uint64_t seq, Millis timeout)
      : c10d::Work(rank, op, title, inputs), seq_(seq), timeout_(timeout), began_(std::chrono::steady_clock::now()) {}

  ~OpWork() override {
    if (rust_) lib.work_free(rust_);
  }

  bool profiled() const { return static_cast<bool>(recordFunctionEndCallback_); }

  bool isCompleted() override {
    if (known()) return true;
    if (!rust_ || !lib.work_done(rust_)) return false;
    ask(0);
    return known();
  }

  bool isSuccess() const override {
    std::lock_guard<std::mutex> lock(mutex_);
    return known_ && !exception_;
  }

  std::exception_ptr exception() const override {
    std::lock_guard<std::mutex> lock(mutex_);
    return exception_;
  }

  int sourceRank() const override { return source_; }
  std::vector<at::Tensor> result() override { return flat_; }
  uint64_t getSequencenumber() const override { return seq_; }
  Millis getTimeout() const { return timeout_; }
  void synchronize() override {}

  float getDuration() const override {
    TORCH_CHECK(timed_, "c10d_rs: get_duration() needs `_enable_collectives_timing()` first");
    TORCH_CHECK(known(), "c10d_rs: get_duration() of a work that is not over");
    return std::chrono::duration<float, std::milli>(ended_ - began_).count();
  }

  bool wait(Millis timeout = kNoTimeout) override {
    if (!known() && !ask(timeout == kNoTimeout ? -1 : timeout.count())) {
      auto facts = std::make_shared<Facts>();
      facts->kind = "Timeout";
      facts->op = c10d::opTypeToString(opType_);
      facts->seq = static_cast<int64_t>(seq_);
      facts->rank = rank_;
      throw Failure("Work.wait",
                    c10::str("Operation timed out! Work.wait: ", facts->op, " seq ", seq_, " on rank ", rank_,
                             " is not over after ", timeout.count(), " ms; it goes on"),
                    facts);
    }
    auto error = exception();
    if (error) std::rethrow_exception(error);
    return true;
  }

  void abort() override { TORCH_CHECK(false, "c10d_rs: a single work is not aborted; abort the group"); }

  c10::intrusive_ptr<c10::ivalue::Future> getFuture() override {
    return future(future_, [] { return c10::ListType::create(c10::TensorType::get()); });
  }

  c10::intrusive_ptr<c10::ivalue::Future> getFutureResult() override {
    return future(result_, []() -> c10::TypePtr { return c10::IntType::get(); });
  }

  // Has the work completed by a thread of its own, whether or not somebody waits for it.
  void watch() {
    if (!rust_ || watched_.exchange(true)) return;
    auto* self = new c10::intrusive_ptr<OpWork>(c10::intrusive_ptr<OpWork>::reclaim_copy(this));
    lane_ = Lanes::depth();
    if (lib.work_notify(rust_, &OpWork::over, self) == 0) {
      delete self;
      ask(0);
    }
  }

  // The outcome is known: tensors first, then futures, then whoever waits.
  void settle(std::exception_ptr error, int source) {
    if (claimed_.exchange(true)) {
      await();
      return;
    }
    if (!error) {
      try {
        loan_->copy_back();
      } catch (...) {
        error = std::current_exception();
      }
    }
    c10::intrusive_ptr<c10::ivalue::Future> future, result;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      exception_ = error;
      source_ = source;
      if (timed_) ended_ = std::chrono::steady_clock::now();
      known_ = true;
      future = future_;
      result = result_;
    }
    settled_.notify_all();
    if (future) mark(*future, false);
    if (result) mark(*result, true);
    finish(error);
    loan_.reset();
  }

  c10drs_work* rust_ = nullptr;
  std::shared_ptr<Loan> loan_;
  // What the future has: a list of tensors, or a list of lists.
  std::vector<Tensors> lists_;
  Tensors flat_;
  std::vector<int64_t> global_;
  bool timed_ = false;

 private:
  bool known() const { return known_.load(std::memory_order_acquire); }

  // Asks the library for the outcome. false: the op is not over.
  bool ask(int64_t millis) {
    if (!rust_) {
      await();
      return true;
    }
    uint32_t source = 0;
    c10drs_error* error = nullptr;
    int code = lib.work_wait(rust_, millis, &source, &error);
    if (code == 2) return false;
    settle(code == 0 ? nullptr : taken(error, global_), static_cast<int>(source));
    return true;
  }

  // Another thread has the outcome, and is about to tell it.
  void await() {
    c10::intrusive_ptr<c10::ivalue::Future> future;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      settled_.wait(lock, [this] { return known(); });
      future = future_;
    }
    // Not for its callbacks, of which this may be one.
    if (future && !future->completed()) future->wait();
  }

  static void over(void* context) {
    auto* self = static_cast<c10::intrusive_ptr<OpWork>*>(context);
    auto lane = (*self)->lane_;
    Lanes::here().push(lane, [self] {
      std::unique_ptr<c10::intrusive_ptr<OpWork>> owned(self);
      (*owned)->ask(-1);
    });
  }

  c10::IValue value() const {
    return lists_.size() > 1 ? c10::IValue(lists_) : c10::IValue(lists_.empty() ? flat_ : lists_.front());
  }

  void mark(c10::ivalue::Future& future, bool result) {
    try {
      if (result) {
        auto code = exception_ ? c10d::WorkResult::COMM_ERROR : c10d::WorkResult::SUCCESS;
        future.markCompleted(c10::IValue(static_cast<int64_t>(code)));
      } else if (exception_) {
        future.setError(exception_);
      } else {
        future.markCompleted(value());
      }
    } catch (const std::exception& e) {
      TORCH_WARN("c10d_rs: a callback of a future failed: ", e.what());
    }
  }

  template <class Type>
  c10::intrusive_ptr<c10::ivalue::Future> future(c10::intrusive_ptr<c10::ivalue::Future>& slot, Type type) {
    bool late = false;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (slot) return slot;
      c10::TypePtr of = type();
      if (&slot == &future_ && lists_.size() > 1) of = c10::ListType::create(of);
      slot = c10::make_intrusive<c10::ivalue::Future>(of);
      late = known_;
    }
    if (late) {
      mark(*slot, &slot == &result_);
    } else {
      watch();
    }
    return slot;
  }

  const uint64_t seq_;
  const Millis timeout_;
  const std::chrono::steady_clock::time_point began_;
  std::chrono::steady_clock::time_point ended_;
  int source_ = -1;
  size_t lane_ = 0;
  std::atomic<bool> watched_{false}, claimed_{false}, known_{false};
  std::condition_variable settled_;
  c10::intrusive_ptr<c10::ivalue::Future> future_, result_;
};

// Several works as one: what endCoalescing gives.
class Batch final : public c10d::Work {
 public:
  Batch(int rank, std::vector<c10::intrusive_ptr<OpWork>> works)
      : c10d::Work(rank, c10d::OpType::COALESCED), works_(std::move(works)) {}

  bool isCompleted() override {
    return std::all_of(works_.begin(), works_.end(), [](auto& w) { return w->isCompleted(); });
  }
  bool isSuccess() const override {
    return std::all_of(works_.begin(), works_.end(), [](auto& w) { return w->isSuccess(); });
  }
  std::exception_ptr exception() const override {
    for (auto& work : works_) {
      if (auto e = work->exception()) return e;
    }
    return nullptr;
  }
  bool wait(Millis timeout = kNoTimeout) override {
    auto until = std::chrono::steady_clock::now() + timeout;
    std::exception_ptr first;
    for (auto& work : works_) {
      auto left = std::chrono::duration_cast<Millis>(until - std::chrono::steady_clock::now());
      try {
        work->wait(timeout == kNoTimeout ? kNoTimeout : std::max(left, Millis(1)));
      } catch (...) {
        if (!first) first = std::current_exception();
      }
    }
    if (first) std::rethrow_exception(first);
    return true;
  }
  void synchronize() override {}
  uint64_t getSequencenumber() const override { return works_.empty() ? 0 : works_.back()->getSequencenumber(); }

  c10::intrusive_ptr<c10::ivalue::Future> getFuture() override {
    auto all = c10::make_intrusive<c10::ivalue::Future>(c10::ListType::create(c10::TensorType::get()));
    auto left = std::make_shared<std::atomic<size_t>>(works_.size());
    auto works = works_;
    auto done = [all, works] {
      Tensors tensors;
      for (auto& work : works) {
        if (auto e = work->exception()) return all->setErrorIfNeeded(e);
        tensors.insert(tensors.end(), work->flat_.begin(), work->flat_.end());
      }
      all->markCompleted(c10::IValue(tensors));
    };
    if (works_.empty()) done();
    for (auto& work : works_) {
      work->getFuture()->addCallback([left, done](c10::ivalue::Future&) {
        if (left->fetch_sub(1) == 1) done();
      });
    }
    return all;
  }

 private:
  std::vector<c10::intrusive_ptr<OpWork>> works_;
};

// ---- stores ------------------------------------------------------------------------------------------------------

std::vector<uint8_t> bytes(const c10drs_text& t) { return {t.data, t.data + t.len}; }

// PyTorch's TCPStore says aloud, on stderr, that a wait timed out. Short ones are to time out now and then, so they look.
void await_keys(c10d::Store& store, const std::vector<std::string>& keys, Millis limit) {
  if (limit > Millis(2000)) return store.wait(keys, limit);
  auto until = std::chrono::steady_clock::now() + limit;
  for (Millis pause(1); !store.check(keys); pause = std::min(pause * 2, Millis(20))) {
    auto now = std::chrono::steady_clock::now();
    TORCH_CHECK(now < until, "not there after ", limit.count(), " ms");
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

// A prefix store's own prefix, and the store below it.
struct Opened : c10d::PrefixStore {
  static std::string prefix(c10d::PrefixStore& store) { return store.*(&Opened::prefix_); }
};

// The store below all prefixes, and these, outermost first.
std::pair<c10::intrusive_ptr<c10d::Store>, std::vector<std::string>> unwrap(c10::intrusive_ptr<c10d::Store> store) {
  std::vector<std::string> prefixes;
  while (auto* prefix = dynamic_cast<c10d::PrefixStore*>(store.get())) {
    prefixes.push_back(Opened::prefix(*prefix));
    store = prefix->getUnderlyingStore();
  }
  return {store, prefixes};
}

// A connection of our own, where the store has such a thing: a wait in one thread keeps others from using it.
c10::intrusive_ptr<c10d::Store> own(const c10::intrusive_ptr<c10d::Store>& store) {
  if constexpr (requires { store->clone(); }) {
    try {
      if (auto clone = store->clone()) return clone;
    } catch (const std::exception&) {
    }
  }
  return store;
}

// ---- the backend -------------------------------------------------------------------------------------------------

struct HintedOptions : c10d::Backend::Options {
  explicit HintedOptions(std::map<std::string, std::string> hints = {}, Millis timeout = kBackendDefaultTimeout)
      : c10d::Backend::Options("c10d_rs", timeout), hints(std::move(hints)) {}
  c10::intrusive_ptr<c10d::Backend::Options> clone() const { return c10::make_intrusive<HintedOptions>(*this); }
  std::map<std::string, std::string> hints;
};

template <class O>
bool is_async(const O& options) {
  if constexpr (requires { options.asyncOp; }) return options.asyncOp;
  return true;
}

template <class O>
Millis timeout_of(const O& options) {
  return options.timeout;
}

// One handle of the library's, which groups and their works share.
struct Group {
  explicit Group(c10drs_group* group) : raw(group) {}
  ~Group() { lib.close(raw); }
  c10drs_group* const raw;
};

class Backend;
std::mutex backends_mutex;
std::vector<Backend*> backends;

class Backend final : public c10d::Backend {
 public:
  Backend(std::shared_ptr<Group> group, int rank, int size, c10::intrusive_ptr<HintedOptions> options)
      : c10d::Backend(rank, size), group_(std::move(group)), options_(std::move(options)), owner_(getpid()) {
    init();
    for (auto rank : options_->global_ranks_in_group) global_.push_back(static_cast<int64_t>(rank));
    std::lock_guard<std::mutex> lock(backends_mutex);
    backends.push_back(this);
  }

  ~Backend() override {
    if (owner_ != getpid()) return;  // The group, and what it waits for, is the parent's.
    {
      std::lock_guard<std::mutex> lock(backends_mutex);
      backends.erase(std::remove(backends.begin(), backends.end(), this), backends.end());
    }
    if (Py_IsInitialized() && PyGILState_Check()) {
      py::gil_scoped_release no_gil;
      group_.reset();
    } else {
      group_.reset();
    }
  }

  static c10::intrusive_ptr<Backend> open(const c10::intrusive_ptr<c10d::Store>& store, int rank, int size,
                                          const std::string& name, const std::string& prefix,
                                          const std::string& backends, c10::intrusive_ptr<HintedOptions> options) {
    c10drs_store ours{new c10::intrusive_ptr<c10d::Store>(own(store)), ask_store, release_store};
    std::vector<c10drs_text> hints;
    for (auto& [hint, value] : options->hints) {
      hints.push_back(text(hint));
      hints.push_back(text(value));
    }
    c10drs_init init{};
    init.bytes = sizeof(init);
    init.rank = static_cast<uint32_t>(rank);
    init.size = static_cast<uint32_t>(size);
    init.timeout_ms = options->timeout.count();
    init.name = text(name);
    init.prefix = text(prefix);
    init.backends = text(backends);
    init.hints = hints.data();
    init.hints_len = hints.size();
    init.store = &ours;
    c10drs_group* group = nullptr;
    c10drs_error* error = nullptr;
    if (lib.open(&init, &group, &error) != 0) {
      std::vector<int64_t> global(options->global_ranks_in_group.begin(), options->global_ranks_in_group.end());
      std::rethrow_exception(taken(error, global));
    }
    return c10::make_intrusive<Backend>(std::make_shared<Group>(group), rank, size, std::move(options));
  }

  // -- what it is

  const std::string getBackendName() const override { return "c10d_rs"; }
  c10::intrusive_ptr<c10d::Backend::Options> getBackendOptions() { return options_; }
  bool supportsSplitting() const override { return true; }
  bool supportsCoalescing() const override { return true; }
  bool supportsShrinking() const { return true; }
  void setTimeout(Millis timeout) { options_->timeout = timeout; }
  uint64_t getSequenceNumberForGroup() override { return seq_.load(); }
  void setSequenceNumberForGroup() override {}
  void enableCollectivesTiming() override { timed_ = true; }

  c10d::ErrorType getError() override {
    c10drs_error* error = lib.failure(group_->raw);
    if (!error) return c10d::ErrorType::SUCCESS;
    auto type = error->timed_out ? c10d::ErrorType::TIMEOUT : c10d::ErrorType::COMM_ERROR;
    lib.error_free(error);
    return type;
  }

  // -- the group's life

  void abort() override {
    if (owner_ == getpid()) lib.abort(group_->raw, text("torch.distributed aborted the group"));
  }

  void shutdown() override { leave(std::min(options_->timeout, Millis(10000))); }

  void leave(Millis limit) {
    if (owner_ != getpid() || left_.exchange(true)) return;
    auto* before = lib.failure(group_->raw);
    c10drs_error* error = nullptr;
    if (lib.shutdown(group_->raw, limit.count(), &error) == 0) return;
    if (!before) TORCH_WARN("c10d_rs: leaving the group: ", error ? error->text : "");
    if (before) lib.error_free(before);
    if (error) lib.error_free(error);
  }

  c10::intrusive_ptr<c10d::Backend> split(const c10::intrusive_ptr<c10d::Store>& store, const std::vector<int>& ranks,
                                          const c10::intrusive_ptr<c10d::Backend::Options>& opts) {
    auto at = std::find(ranks.begin(), ranks.end(), rank_);
    if (at == ranks.end()) return nullptr;
    auto options = c10::make_intrusive<HintedOptions>(*options_);
    options->global_ranks_in_group.clear();
    for (auto rank : ranks) {
      options->global_ranks_in_group.push_back(rank < static_cast<int>(global_.size()) ? global_[rank] : rank);
    }
    if (opts) {
      options->timeout = opts->timeout;
      options->group_name = opts->group_name;
      options->group_desc = opts->group_desc;
      if (auto* with = dynamic_cast<HintedOptions*>(opts.get())) options->hints = with->hints;
    }
    auto name = options->group_name.empty() ? std::string("split") : options->group_name;
    return open(store, static_cast<int>(at - ranks.begin()), static_cast<int>(ranks.size()), name, "", "", options);
  }

  c10::intrusive_ptr<c10d::Backend> shrink(const std::vector<int64_t>& ranks_to_exclude, int /*flags*/ = 0,
                                           const c10::intrusive_ptr<c10d::Backend::Options>& opts = nullptr) {
    std::vector<uint32_t> lost(ranks_to_exclude.begin(), ranks_to_exclude.end());
    c10drs_group* left = nullptr;
    c10drs_error* error = nullptr;
    if (lib.shrink(group_->raw, lost.data(), lost.size(), &left, &error) != 0) {
      std::rethrow_exception(taken(error, global_));
    }
    auto group = std::make_shared<Group>(left);
    auto options = c10::make_intrusive<HintedOptions>(*options_);
    options->global_ranks_in_group.clear();
    int rank = 0;
    for (int old = 0; old < size_; ++old) {
      if (std::find(lost.begin(), lost.end(), old) != lost.end()) continue;
      if (old < rank_) ++rank;
      options->global_ranks_in_group.push_back(old < static_cast<int>(global_.size()) ? global_[old] : old);
    }
    if (opts) options->timeout = opts->timeout;
    auto size = static_cast<int>(options->global_ranks_in_group.size());
    return c10::make_intrusive<Backend>(std::move(group), rank, size, std::move(options));
  }

  void startCoalescing() override {
    std::lock_guard<std::mutex> lock(coalescing_mutex_);
    coalescing_ = true;
  }

  c10::intrusive_ptr<c10d::Work> endCoalescing() override {
    std::lock_guard<std::mutex> lock(coalescing_mutex_);
    coalescing_ = false;
    return c10::make_intrusive<Batch>(rank_, std::exchange(coalesced_, {}));
  }

  // -- the ops

  c10::intrusive_ptr<c10d::Work> broadcast(Tensors& tensors, const c10d::BroadcastOptions& o) override {
    Call call(C10DRS_OP_broadcast, timeout(o));
    call.raw.root = static_cast<uint32_t>(o.rootRank);
    check_one(tensors, o.rootTensor, "broadcast");
    call.add(tensors, Use::Both);
    return give(call, c10d::OpType::BROADCAST, "c10d_rs:broadcast", {tensors}, tensors, is_async(o));
  }

  c10::intrusive_ptr<c10d::Work> allreduce(Tensors& tensors, const c10d::AllreduceOptions& o) override {
    if (!tensors.empty() && tensors[0].layout() == at::kSparse) return allreduce_sparse(tensors, o);
    Call call(C10DRS_OP_all_reduce, timeout(o));
    call.reduces(o.reduceOp);
    check_one(tensors, 0, "allreduce");
    call.add(tensors, Use::Both);
    return give(call, c10d::OpType::ALLREDUCE, "c10d_rs:all_reduce", {tensors}, tensors, is_async(o));
  }

  c10::intrusive_ptr<c10d::Work> allreduce_coalesced(Tensors& tensors,
                                                     const c10d::AllreduceCoalescedOptions& o) override {
    Call call(C10DRS_OP_all_reduce_coalesced, timeout(o));
    call.reduces(o.reduceOp);
    call.add(tensors, Use::Both);
    return give(call, c10d::OpType::ALLREDUCE_COALESCED, "c10d_rs:all_reduce", {tensors}, tensors, is_async(o));
  }

  c10::intrusive_ptr<c10d::Work> allreduce_sparse(Tensors& tensors, const c10d::AllreduceOptions& o) override {
    check_one(tensors, 0, "allreduce_sparse");
    TORCH_CHECK_VALUE(tensors[0].layout() == at::kSparse, "c10d_rs: sparse tensors are reduced in COO form, not in ",
                      tensors[0].layout());
    auto work = begin(c10d::OpType::_ALLREDUCE_SPARSE, "c10d_rs:sparse_all_reduce", tensors, timeout(o), seq_++);
    work->loan_ = std::make_shared<Loan>();
    work->flat_ = tensors;
    auto group = group_;
    auto run = [work, group, tensor = tensors[0], o, timeout = timeout(o)] {
      std::exception_ptr error;
      try {
        reduce_sparse(*group, tensor, o.reduceOp, timeout, work->global_);
      } catch (...) {
        error = std::current_exception();
      }
      work->settle(error, -1);
    };
    sparse_.push(std::move(run));
    return work;
  }

  c10::intrusive_ptr<c10d::Work> reduce(Tensors& tensors, const c10d::ReduceOptions& o) override {
    Call call(C10DRS_OP_reduce, timeout(o));
    call.reduces(o.reduceOp);
    call.raw.root = static_cast<uint32_t>(o.rootRank);
    check_one(tensors, o.rootTensor, "reduce");
    call.add(tensors, Use::Both);
    return give(call, c10d::OpType::REDUCE, "c10d_rs:reduce", {tensors}, tensors, is_async(o));
  }

  c10::intrusive_ptr<c10d::Work> allgather(std::vector<Tensors>& outputs, Tensors& inputs,
                                           const c10d::AllgatherOptions& o) override {
    Call call(C10DRS_OP_all_gather, timeout(o));
    check_one(inputs, 0, "allgather");
    check_lists(outputs, "allgather");
    call.add(inputs, Use::Read);
    call.add(outputs[0], Use::Write);
    return give(call, c10d::OpType::ALLGATHER, "c10d_rs:all_gather", outputs, inputs, is_async(o));
  }

  c10::intrusive_ptr<c10d::Work> _allgather_base(at::Tensor& output, at::Tensor& input,
                                                 const c10d::AllgatherOptions& o) override {
    Call call(C10DRS_OP_all_gather_into, timeout(o));
    call.add(input, Use::Read);
    call.add(output, Use::Write);
    return give(call, c10d::OpType::_ALLGATHER_BASE, "c10d_rs:all_gather", {{output}}, {input}, is_async(o));
  }

  c10::intrusive_ptr<c10d::Work> allgather_coalesced(std::vector<Tensors>& outputs, Tensors& inputs,
                                                     const c10d::AllgatherOptions& o) override {
    Call call(C10DRS_OP_all_gather_coalesced, timeout(o));
    TORCH_CHECK_VALUE(static_cast<int>(outputs.size()) == size_, "c10d_rs: allgather_coalesced takes ", size_,
                      " lists of outputs, one per rank, not ", outputs.size());
    for (auto& list : outputs) {
      TORCH_CHECK_VALUE(list.size() == inputs.size(), "c10d_rs: allgather_coalesced has ", inputs.size(),
                        " inputs, but a list of ", list.size(), " outputs");
    }
    call.add(inputs, Use::Read);
    for (size_t i = 0; i < inputs.size(); ++i) {
      for (auto& list : outputs) call.add(list[i], Use::Write);
    }
    call.level();
    return give(call, c10d::OpType::ALLGATHER_COALESCED, "c10d_rs:all_gather", outputs, inputs, is_async(o));
  }

  c10::intrusive_ptr<c10d::Work> allgather_into_tensor_coalesced(Tensors& outputs, Tensors& inputs,
                                                                 const c10d::AllgatherOptions& o) override {
    Call call(C10DRS_OP_all_gather_into_coalesced, timeout(o));
    call.add(inputs, Use::Read);
    call.add(outputs, Use::Write);
    call.level();
    return give(call, c10d::OpType::ALLGATHER_INTO_TENSOR_COALESCED, "c10d_rs:all_gather", {outputs}, inputs,
                is_async(o));
  }

  c10::intrusive_ptr<c10d::Work> gather(std::vector<Tensors>& outputs, Tensors& inputs,
                                        const c10d::GatherOptions& o) override {
    Call call(C10DRS_OP_gather, timeout(o));
    call.raw.root = static_cast<uint32_t>(o.rootRank);
    check_one(inputs, 0, "gather");
    call.add(inputs, Use::Read);
    if (rank_ == o.rootRank) {
      check_lists(outputs, "gather");
      call.add(outputs[0], Use::Write);
    }
    return give(call, c10d::OpType::GATHER, "c10d_rs:gather", outputs, inputs, is_async(o));
  }

  c10::intrusive_ptr<c10d::Work> gather_into_tensor(at::Tensor& output, at::Tensor& input,
                                                    const c10d::GatherOptions& o) {
    Call call(C10DRS_OP_gather, timeout(o));
    call.raw.root = static_cast<uint32_t>(o.rootRank);
    call.add(input, Use::Read);
    std::vector<Tensors> outputs;
    if (rank_ == o.rootRank) {
      TORCH_CHECK_VALUE(output.numel() == input.numel() * size_, "c10d_rs: gather_single: the output has ",
                        output.numel(), " elements; it must have ", size_, " times the ", input.numel(),
                        " of the input");
      call.add(output, Use::Write);
      // One part of the output for each rank.
      auto whole = call.outputs.front();
      call.outputs.clear();
      auto count = whole.count / size_;
      for (int rank = 0; rank < size_; ++rank) {
        auto* data = static_cast<uint8_t*>(whole.data) + rank * count * size_of(whole.dtype);
        call.outputs.push_back({count ? data : nullptr, count, whole.dtype});
      }
      outputs = {{output}};
    }
    return give(call, c10d::OpType::GATHER, "c10d_rs:gather", outputs, {input}, is_async(o));
  }

  c10::intrusive_ptr<c10d::Work> scatter(Tensors& outputs, std::vector<Tensors>& inputs,
                                         const c10d::ScatterOptions& o) override {
    Call call(C10DRS_OP_scatter, timeout(o));
    call.raw.root = static_cast<uint32_t>(o.rootRank);
    check_one(outputs, 0, "scatter");
    Tensors shown;
    if (rank_ == o.rootRank) {
      check_lists(inputs, "scatter");
      call.add(inputs[0], Use::Read);
      shown = inputs[0];
    }
    call.add(outputs, Use::Write);
    return give(call, c10d::OpType::SCATTER, "c10d_rs:scatter", {outputs}, shown, is_async(o));
  }

  c10::intrusive_ptr<c10d::Work> reduce_scatter(Tensors& outputs, std::vector<Tensors>& inputs,
                                                const c10d::ReduceScatterOptions& o) override {
    Call call(C10DRS_OP_reduce_scatter, timeout(o));
    call.reduces(o.reduceOp);
    check_one(outputs, 0, "reduce_scatter");
    check_lists(inputs, "reduce_scatter");
    call.add(inputs[0], Use::Read);
    call.add(outputs, Use::Write);
    return give(call, c10d::OpType::REDUCE_SCATTER, "c10d_rs:reduce_scatter", {outputs}, inputs[0], is_async(o));
  }

  c10::intrusive_ptr<c10d::Work> _reduce_scatter_base(at::Tensor& output, at::Tensor& input,
                                                      const c10d::ReduceScatterOptions& o) override {
    Call call(C10DRS_OP_reduce_scatter_into, timeout(o));
    call.reduces(o.reduceOp);
    call.add(input, Use::Read);
    call.add(output, Use::Write);
    return give(call, c10d::OpType::_REDUCE_SCATTER_BASE, "c10d_rs:reduce_scatter", {{output}}, {input}, is_async(o));
  }

  c10::intrusive_ptr<c10d::Work> reduce_scatter_tensor_coalesced(Tensors& outputs, Tensors& inputs,
                                                                 const c10d::ReduceScatterOptions& o) override {
    Call call(C10DRS_OP_reduce_scatter_into_coalesced, timeout(o));
    call.reduces(o.reduceOp);
    call.add(inputs, Use::Read);
    call.add(outputs, Use::Write);
    return give(call, c10d::OpType::REDUCE_SCATTER_TENSOR_COALESCED, "c10d_rs:reduce_scatter", {outputs}, inputs,
                is_async(o));
  }

  c10::intrusive_ptr<c10d::Work> alltoall(Tensors& outputs, Tensors& inputs, const c10d::AllToAllOptions& o) override {
    Call call(C10DRS_OP_all_to_all, timeout(o));
    call.add(inputs, Use::Read);
    call.add(outputs, Use::Write);
    return give(call, c10d::OpType::ALLTOALL, "c10d_rs:all_to_all", {outputs}, inputs, is_async(o));
  }

  c10::intrusive_ptr<c10d::Work> alltoall_base(at::Tensor& output, at::Tensor& input, std::vector<int64_t>& outputs,
                                               std::vector<int64_t>& inputs, const c10d::AllToAllOptions& o) override {
    Call call(C10DRS_OP_all_to_all_single, timeout(o));
    call.add(input, Use::Read);
    call.add(output, Use::Write);
    // Splits count rows; here they count elements.
    call.input_splits = splits(inputs, input, "input");
    call.output_splits = splits(outputs, output, "output");
    // Where one side has splits, the other may have equal parts.
    return give(call, c10d::OpType::ALLTOALL_BASE, "c10d_rs:all_to_all", {{output}}, {input}, is_async(o));
  }

  c10::intrusive_ptr<c10d::Work> send(Tensors& tensors, int to, int tag) override {
    Call call(C10DRS_OP_send, options_->timeout);
    check_one(tensors, 0, "send");
    call.raw.peer = static_cast<uint32_t>(to);
    call.raw.tag = static_cast<uint32_t>(tag);
    call.add(tensors, Use::Read);
    return give(call, c10d::OpType::SEND, "c10d_rs:send", {tensors}, tensors, true);
  }

  c10::intrusive_ptr<c10d::Work> recv(Tensors& tensors, int from, int tag) override {
    Call call(C10DRS_OP_recv, options_->timeout);
    check_one(tensors, 0, "recv");
    call.raw.peer = static_cast<uint32_t>(from);
    call.raw.tag = static_cast<uint32_t>(tag);
    call.add(tensors, Use::Write);
    return give(call, c10d::OpType::RECV, "c10d_rs:recv", {tensors}, tensors, true);
  }

  c10::intrusive_ptr<c10d::Work> recvAnysource(Tensors& tensors, int tag) override {
    Call call(C10DRS_OP_recv_any_source, options_->timeout);
    check_one(tensors, 0, "recvAnysource");
    call.raw.tag = static_cast<uint32_t>(tag);
    call.add(tensors, Use::Write);
    return give(call, c10d::OpType::RECVANYSOURCE, "c10d_rs:recvAnySource", {tensors}, tensors, true);
  }

  c10::intrusive_ptr<c10d::Work> barrier(const c10d::BarrierOptions& o) override {
    Call call(C10DRS_OP_barrier, timeout(o));
    return give(call, c10d::OpType::BARRIER, "c10d_rs:barrier", {}, {}, is_async(o));
  }

  void monitoredBarrier(const c10d::BarrierOptions& o, bool wait_all_ranks) override {
    auto limit = timeout(o);
    Call call(C10DRS_OP_monitored_barrier, limit);
    call.raw.wait_all_ranks = wait_all_ranks;
    ++seq_;
    c10drs_error* error = nullptr;
    if (lib.run(group_->raw, call.ready(), nullptr, &error) == 0) return;
    std::string before;
    if (error && error->guilty_len) {
      // PyTorch's words, which programs look for, then ours.
      std::string ranks;
      for (size_t i = 0; i < error->guilty_len; ++i) {
        ranks += (i ? ", " : "") + std::to_string(error->guilty[i]);
      }
      before = rank_ == 0 ? c10::str("[Rank 0]: Rank", error->guilty_len > 1 ? "s " : " ", ranks,
                                     " failed to pass monitoredBarrier in ", limit.count(), " ms: ")
                          : c10::str("Rank ", rank_, " successfully reached monitoredBarrier, but received errors ",
                                     "while waiting for send/recv from rank 0: ");
    }
    std::rethrow_exception(taken(error, global_, before));
  }

 private:
  // The order of sparse calls, which run on a thread of their own: they need the result's size before they have room.
  struct InOrder {
    std::shared_ptr<std::mutex> mutex = std::make_shared<std::mutex>();
    std::shared_ptr<std::deque<std::function<void()>>> jobs = std::make_shared<std::deque<std::function<void()>>>();

    void push(std::function<void()> job) {
      std::lock_guard<std::mutex> lock(*mutex);
      jobs->push_back(std::move(job));
      if (jobs->size() > 1) return;
      std::thread([mutex = mutex, jobs = jobs] {
        std::unique_lock<std::mutex> lock(*mutex);
        while (!jobs->empty()) {
          lock.unlock();
          jobs->front()();
          lock.lock();
          jobs->pop_front();
        }
      }).detach();
    }
  };

  template <class O>
  Millis timeout(const O& options) const {
    return timeout_of(options).count() < 0 ? options_->timeout : timeout_of(options);
  }

  void check_one(const Tensors& tensors, int64_t root_tensor, const char* op) const {
    TORCH_CHECK_VALUE(tensors.size() == 1 && root_tensor == 0, "c10d_rs: ", op, " takes one tensor per rank, not ",
                      tensors.size());
  }

  void check_lists(const std::vector<Tensors>& lists, const char* op) const {
    TORCH_CHECK_VALUE(lists.size() == 1 && static_cast<int>(lists[0].size()) == size_, "c10d_rs: ", op,
                      " takes one list of ", size_, " tensors, one per rank");
  }

  std::vector<uint64_t> splits(const std::vector<int64_t>& rows, const at::Tensor& tensor, const char* side) const {
    std::vector<uint64_t> out;
    if (rows.empty()) return out;
    TORCH_CHECK_VALUE(tensor.dim() > 0, "c10d_rs: all_to_all_single cuts a tensor without dimensions");
    int64_t height = tensor.size(0), sum = 0;
    int64_t row = height ? tensor.numel() / height : 0;
    for (auto n : rows) {
      TORCH_CHECK_VALUE(n >= 0, "c10d_rs: a split size of the ", side, " is negative");
      out.push_back(static_cast<uint64_t>(n * row));
      sum += n;
    }
    TORCH_CHECK_VALUE(sum == height, "c10d_rs: the ", side, "'s split sizes sum to ", sum, ", but it has ", height,
                      " rows");
    return out;
  }

  c10::intrusive_ptr<OpWork> begin(c10d::OpType op, const char* title, const Tensors& shown, Millis timeout,
                                 uint64_t seq) {
    auto work = c10::make_intrusive<OpWork>(rank_, op, title, std::optional<Tensors>(shown), seq, timeout);
    work->global_ = global_;
    work->timed_ = timed_;
    return work;
  }

  // Gives a call to the library: runs it here if the caller waits anyway, and starts it otherwise.
  c10::intrusive_ptr<c10d::Work> give(Call& call, c10d::OpType op, const char* title, std::vector<Tensors> outputs,
                                      const Tensors& shown, bool async) {
    bool p2p = op == c10d::OpType::SEND || op == c10d::OpType::RECV || op == c10d::OpType::RECVANYSOURCE;
    auto work = begin(op, title, shown, Millis(call.raw.timeout_ms), p2p ? p2p_++ : ++seq_);
    work->loan_ = call.loan;
    work->lists_ = std::move(outputs);
    for (auto& list : work->lists_) work->flat_.insert(work->flat_.end(), list.begin(), list.end());
    c10drs_error* error = nullptr;
    bool coalesced = coalescing_.load(std::memory_order_relaxed);
    if (!async && !coalesced) {
      uint32_t source = 0;
      int code = lib.run(group_->raw, call.ready(), &source, &error);
      work->settle(code == 0 ? nullptr : taken(error, global_), static_cast<int>(source));
      return work;
    }
    auto* owner = new std::shared_ptr<Loan>(call.loan);
    work->rust_ = lib.start(group_->raw, call.ready(), release, owner, &error);
    if (!work->rust_) {
      work->settle(taken(error, global_), -1);
    } else if (work->profiled() || timed_ || !call.loan->copies.empty()) {
      work->watch();
    }
    if (coalesced) {
      std::lock_guard<std::mutex> lock(coalescing_mutex_);
      if (coalescing_) coalesced_.push_back(work);
    }
    return work;
  }

  static void reduce_sparse(const Group& group, at::Tensor tensor, const c10d::ReduceOp& op, Millis timeout,
                            const std::vector<int64_t>& global) {
    at::AutoDispatchBelowADInplaceOrView guard;
    Call call(C10DRS_OP_all_reduce, timeout);
    call.reduces(op);
    auto indices = tensor._indices().contiguous();
    auto values = tensor._values().contiguous();
    std::vector<uint64_t> shape(tensor.sizes().begin(), tensor.sizes().end());
    c10drs_sparse sparse{};
    sparse.shape = shape.data();
    sparse.dims = shape.size();
    sparse.sparse_dim = tensor.sparse_dim();
    sparse.coalesced = tensor.is_coalesced();
    sparse.dtype = type_of(tensor.scalar_type(), false);
    sparse.indices = indices.numel() ? indices.const_data_ptr<int64_t>() : nullptr;
    sparse.nnz = tensor._nnz();
    sparse.values = values.numel() ? values.const_data_ptr() : nullptr;
    sparse.values_len = values.numel();
    struct Result {
      at::Tensor indices, values;
      int64_t sparse_dim;
    } result{{}, values, tensor.sparse_dim()};
    c10drs_give give = [](void* context, const int64_t* indices, size_t len, const void* data, size_t count) {
      auto& result = *static_cast<Result*>(context);
      auto nnz = static_cast<int64_t>(len) / result.sparse_dim;
      result.indices = at::empty({result.sparse_dim, nnz}, at::kLong);
      std::copy(indices, indices + len, result.indices.mutable_data_ptr<int64_t>());
      auto sizes = result.values.sizes().vec();
      sizes[0] = nnz;
      result.values = at::empty(sizes, result.values.options());
      if (count) memcpy(result.values.mutable_data_ptr(), data, count * result.values.element_size());
    };
    c10drs_error* error = nullptr;
    if (lib.sparse_all_reduce(group.raw, call.ready(), &sparse, give, &result, &error) != 0) {
      std::rethrow_exception(taken(error, global));
    }
    auto sum = at::_sparse_coo_tensor_unsafe(result.indices, result.values, tensor.sizes());
    sum._coalesced_(true);
    tensor.copy_(sum);
  }

  std::shared_ptr<Group> group_;
  c10::intrusive_ptr<HintedOptions> options_;
  std::vector<int64_t> global_;
  const pid_t owner_;
  std::atomic<uint64_t> seq_{0}, p2p_{0};
  std::atomic<bool> coalescing_{false}, left_{false};
  std::atomic<bool> timed_{false};
  std::mutex coalescing_mutex_;
  std::vector<c10::intrusive_ptr<OpWork>> coalesced_;
  InOrder sparse_;
};

// Leaves every group that is still there: the interpreter ends.
void leave_all(int64_t millis) {
  std::vector<Backend*> all;
  {
    std::lock_guard<std::mutex> lock(backends_mutex);
    all = backends;
  }
  auto until = std::chrono::steady_clock::now() + Millis(millis);
  for (auto* backend : all) {
    auto left = std::chrono::duration_cast<Millis>(until - std::chrono::steady_clock::now());
    backend->leave(std::max(left, Millis(1)));
  }
}

std::string info() {
  std::string words;
  lib.info(&words, [](void* sink, const void* bytes, size_t len) {
    static_cast<std::string*>(sink)->append(static_cast<const char*>(bytes), len);
  });
  return words;
}

PyObject* error_class = nullptr;

// A Failure as an object of the Python class.
void translate(std::exception_ptr p) {
  try {
    if (p) std::rethrow_exception(p);
  } catch (const Failure& failure) {
    if (!error_class) throw;
    py::object error = py::handle(error_class)(failure.what_without_backtrace());
    const auto& f = *failure.facts;
    error.attr("kind") = f.kind;
    error.attr("op") = f.op;
    error.attr("phase") = f.phase;
    error.attr("seq") = f.seq < 0 ? py::object(py::none()) : py::object(py::int_(f.seq));
    error.attr("rank") = f.rank < 0 ? py::object(py::none()) : py::object(py::int_(f.rank));
    error.attr("group_failed") = f.failed;
    error.attr("guilty_ranks") = py::tuple(py::cast(f.guilty));
    error.attr("guilty_global_ranks") = py::tuple(py::cast(f.guilty_global));
    PyErr_SetObject(error_class, error.ptr());
  }
}

}  // namespace

PYBIND11_MODULE(C10DRS_MODULE, m) {
  using NoGil = py::call_guard<py::gil_scoped_release>;
  py::class_<HintedOptions, c10d::Backend::Options, c10::intrusive_ptr<HintedOptions>>(m, "Options")
      .def(py::init([](std::map<std::string, std::string> hints, std::chrono::duration<double> timeout) {
             return c10::make_intrusive<HintedOptions>(std::move(hints), std::chrono::duration_cast<Millis>(timeout));
           }),
           py::arg("hints") = std::map<std::string, std::string>(), py::arg("timeout") = std::chrono::duration<double>(1800))
      .def_readwrite("hints", &HintedOptions::hints);
  m.def("load", &load);
  m.def("info", &info);
  m.def("unwrap", &unwrap);
  m.def("set_error_class", [](py::object cls) {
    error_class = cls.release().ptr();
    py::register_exception_translator(translate);
  });
  m.def(
      "open",
      [](const c10::intrusive_ptr<c10d::Store>& store, int rank, int size, const std::string& name,
         const std::string& prefix, const std::string& backends,
         c10::intrusive_ptr<HintedOptions> options) -> c10::intrusive_ptr<c10d::Backend> {
        return Backend::open(store, rank, size, name, prefix, backends, std::move(options));
      },
      NoGil());
  m.def("leave_all", &leave_all, NoGil());
  m.def("end", [](int64_t millis) { Lanes::here().end(Millis(millis)); }, NoGil());
}
