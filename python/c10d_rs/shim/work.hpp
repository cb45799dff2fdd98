// Works: the work of one op, and the work of several ops.
#pragma once

#include <torch/csrc/distributed/c10d/Work.hpp>

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "call.hpp"
#include "failure.hpp"
#include "lanes.hpp"

namespace {

class OpWork final : public c10d::Work {
 public:
  OpWork(int rank, c10d::OpType op, const char* title, const std::optional<Tensors>& inputs, uint64_t seq, Millis timeout,
         Ranks global)
      : c10d::Work(rank, op, title, inputs), global_(std::move(global)), seq_(seq), timeout_(timeout) {}

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
  std::vector<at::Tensor> result() override { return flat(); }
  uint64_t getSequencenumber() const override { return seq_; }
  Millis getTimeout() const { return timeout_; }
  void synchronize() override {}

  float getDuration() const override {
    TORCH_CHECK(timed_, "c10d_rs: call `_enable_collectives_timing()` before get_duration()");
    TORCH_CHECK(known(), "c10d_rs: get_duration() of an op that is not finished");
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
                             " is not finished after ", timeout.count(), " ms, and continues"),
                    facts);
    }
    auto error = exception();
    if (error) std::rethrow_exception(error);
    return true;
  }

  void abort() override { TORCH_CHECK(false, "c10d_rs: a single op cannot be aborted; abort the group"); }

  c10::intrusive_ptr<c10::ivalue::Future> getFuture() override {
    return future(future_, [] { return c10::ListType::create(c10::TensorType::get()); });
  }

  c10::intrusive_ptr<c10::ivalue::Future> getFutureResult() override {
    return future(result_, []() -> c10::TypePtr { return c10::IntType::get(); });
  }

  // The outputs of all lists.
  Tensors flat() const {
    Tensors all;
    for (auto& list : lists_) all.insert(all.end(), list.begin(), list.end());
    return all;
  }

  // Measures how long the op takes from now on.
  void time() {
    timed_ = true;
    began_ = std::chrono::steady_clock::now();
  }

  // Lets a lane complete the work, even if nobody waits for it.
  void watch() {
    if (!rust_ || watched_.exchange(true)) return;
    auto* self = new c10::intrusive_ptr<OpWork>(c10::intrusive_ptr<OpWork>::reclaim_copy(this));
    lane_ = Lanes::depth();
    if (lib.work_notify(rust_, &OpWork::over, self) == 0) {
      delete self;
      ask(0);
    }
  }

  // Sets the outcome. If another thread is setting it, or has done so, waits for that thread instead. The tensors are
  // written before the outcome is known, and the futures are completed afterwards.
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
  // The value of the future: a list of tensors, or a list of lists.
  std::vector<Tensors> lists_;
  const Ranks global_;

 private:
  bool known() const { return known_.load(std::memory_order_acquire); }

  // Asks the library for the outcome. Returns false if the op is not finished within `millis`.
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

  // Waits for the thread that sets the outcome.
  void await() {
    c10::intrusive_ptr<c10::ivalue::Future> future;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      settled_.wait(lock, [this] { return known(); });
      future = future_;
    }
    // This waits until the future is completed, but not for its callbacks, since this thread may be running one of
    // them.
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
    return lists_.size() > 1 ? c10::IValue(lists_) : c10::IValue(flat());
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
      TORCH_WARN("c10d_rs: a callback of a future raised: ", e.what());
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
  bool timed_ = false;
  std::chrono::steady_clock::time_point began_, ended_;
  int source_ = -1;
  size_t lane_ = 0;
  std::atomic<bool> watched_{false}, claimed_{false}, known_{false};
  std::condition_variable settled_;
  c10::intrusive_ptr<c10::ivalue::Future> future_, result_;
};

// The work of several ops, which endCoalescing returns.
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
        auto own = work->flat();
        tensors.insert(tensors.end(), own.begin(), own.end());
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

}  // namespace
