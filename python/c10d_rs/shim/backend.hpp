// A rank of a group: how it begins and ends, and how calls are passed to the library. The ops are in ops.hpp.
#pragma once

#include <Python.h>

#include <torch/csrc/distributed/c10d/Backend.hpp>

#include <algorithm>
#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <pybind11/pybind11.h>

#include "call.hpp"
#include "failure.hpp"
#include "sparse.hpp"
#include "store.hpp"
#include "work.hpp"

namespace {

using WorkRef = c10::intrusive_ptr<c10d::Work>;
using StoreRef = c10::intrusive_ptr<c10d::Store>;

// Options of a group. The package sets all of them except the hints.
struct HintedOptions : c10d::Backend::Options {
  explicit HintedOptions(std::map<std::string, std::string> hints = {}, Millis timeout = kBackendDefaultTimeout)
      : c10d::Backend::Options("c10d_rs", timeout), hints(std::move(hints)) {}
  c10::intrusive_ptr<c10d::Backend::Options> clone() const { return c10::make_intrusive<HintedOptions>(*this); }
  std::map<std::string, std::string> hints;
  // The library's backend for each device, such as "cpu:gloo-like,cuda:nccl"; empty: the library selects the backends.
  std::string backends;
  // The library's name of the device that PyTorch calls PrivateUse1; empty: the library's default one.
  std::string private_use1;
  // The device of this rank, if the program named one.
  std::optional<at::Device> device;
};

// Copies the description of a group's options, which only newer releases of PyTorch have.
template <class To, class From>
void describe_as(To& to, const From& from) {
  if constexpr (requires { to.group_desc; }) to.group_desc = from.group_desc;
}

using OptionsRef = c10::intrusive_ptr<HintedOptions>;

// Makes a group in the library. Waits until all ranks have joined.
std::shared_ptr<Group> join(const StoreRef& store, int rank, int size, const std::string& name, const std::string& prefix,
                            const HintedOptions& options, const Ranks& ranks) {
  c10drs_store ours{new StoreRef(own(store)), ask_store, release_store};
  std::vector<c10drs_text> hints;
  for (auto& [hint, value] : options.hints) {
    hints.push_back(text(hint));
    hints.push_back(text(value));
  }
  c10drs_init init{};
  init.bytes = sizeof(init);
  init.rank = static_cast<uint32_t>(rank);
  init.size = static_cast<uint32_t>(size);
  init.timeout_ms = options.timeout.count();
  init.name = text(name);
  init.prefix = text(prefix);
  init.backends = text(options.backends);
  init.private_use1 = text(options.private_use1);
  if (options.device && options.device->has_index()) {
    init.device_kind = kind_of(*options.device);
    init.device_index = options.device->index();
  }
  init.hints = hints.data();
  init.hints_len = hints.size();
  init.store = &ours;
  c10drs_group* group = nullptr;
  c10drs_error* error = nullptr;
  if (lib.open(&init, &group, &error) != 0) std::rethrow_exception(taken(error, ranks));
  return std::make_shared<Group>(group);
}

// The part of a backend that is the same for every op.
class Member : public c10d::Backend {
 public:
  Member(std::shared_ptr<Group> group, int rank, int size, OptionsRef options)
      : c10d::Backend(rank, size), group_(std::move(group)), options_(std::move(options)), global_(ranks_of(*options_)) {
    init();
    std::lock_guard<std::mutex> lock(all_mutex);
    all.push_back(this);
  }

  ~Member() override {
    if (owner_ != getpid()) return;  // In a forked child: the group belongs to the parent.
    {
      std::lock_guard<std::mutex> lock(all_mutex);
      all.erase(std::remove(all.begin(), all.end(), this), all.end());
    }
    if (Py_IsInitialized() && PyGILState_Check()) {
      pybind11::gil_scoped_release no_gil;
      group_.reset();
    } else {
      group_.reset();
    }
  }

  // Leaves every group, because the interpreter ends.
  static void leave_all(int64_t millis) {
    std::vector<Member*> members;
    {
      std::lock_guard<std::mutex> lock(all_mutex);
      members = all;
    }
    auto until = std::chrono::steady_clock::now() + Millis(millis);
    for (auto* member : members) {
      auto left = std::chrono::duration_cast<Millis>(until - std::chrono::steady_clock::now());
      member->leave(std::max(left, Millis(1)));
    }
  }

  static Ranks ranks_of(const HintedOptions& options) {
    auto& ranks = options.global_ranks_in_group;
    return std::make_shared<const std::vector<int64_t>>(ranks.begin(), ranks.end());
  }

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

  void abort() override {
    if (owner_ == getpid()) lib.abort(group_->raw, text("torch.distributed aborted the group"));
  }

  void shutdown() override { leave(std::min(options_->timeout, Millis(10000))); }

  void startCoalescing() override {
    std::lock_guard<std::mutex> lock(coalescing_mutex_);
    coalescing_ = true;
  }

  WorkRef endCoalescing() override {
    std::lock_guard<std::mutex> lock(coalescing_mutex_);
    coalescing_ = false;
    return c10::make_intrusive<Batch>(rank_, std::exchange(coalesced_, {}));
  }

 protected:
  void leave(Millis limit) {
    if (owner_ != getpid() || left_.exchange(true)) return;
    auto* before = lib.failure(group_->raw);
    c10drs_error* error = nullptr;
    if (lib.shutdown(group_->raw, limit.count(), &error) == 0) return;
    if (!before) TORCH_WARN("c10d_rs: leaving the group: ", error ? error->text : "");
    if (before) lib.error_free(before);
    if (error) lib.error_free(error);
  }

  // The options of a group that consists of these ranks of this group.
  OptionsRef options_for(const std::vector<int64_t>& ranks, const c10::intrusive_ptr<c10d::Backend::Options>& asked) const {
    auto options = c10::make_intrusive<HintedOptions>(*options_);
    options->global_ranks_in_group.clear();
    for (auto rank : ranks) {
      options->global_ranks_in_group.push_back(rank < static_cast<int64_t>(global_->size()) ? (*global_)[rank] : rank);
    }
    if (asked) {
      options->timeout = asked->timeout;
      options->group_name = asked->group_name;
      describe_as(*options, *asked);
      if (auto* with = dynamic_cast<HintedOptions*>(asked.get())) {
        options->hints = with->hints;
        if (!with->backends.empty()) options->backends = with->backends;
      }
    }
    return options;
  }

  c10::intrusive_ptr<OpWork> begin(c10d::OpType op, const char* title, const Tensors& shown, Millis timeout, uint64_t seq,
                                   std::vector<Tensors> outputs) {
    auto work = c10::make_intrusive<OpWork>(rank_, op, title, std::optional<Tensors>(shown), seq, timeout, global_);
    work->lists_ = std::move(outputs);
    if (timed_) work->time();
    return work;
  }

  // Passes a call to the library: runs it on this thread if the caller waits for it, and starts it otherwise.
  WorkRef give(Call& call, c10d::OpType op, const char* title, std::vector<Tensors> outputs, const Tensors& shown) {
    bool p2p = call.raw.op <= C10DRS_OP_recv_any_source;
    auto seq = p2p ? p2p_++ : ++seq_;
    auto work = begin(op, title, shown, Millis(call.raw.timeout_ms), seq, std::move(outputs));
    work->loan_ = call.loan;
    c10drs_error* error = nullptr;
    bool coalesced = coalescing_.load(std::memory_order_relaxed);
    if (!call.async && !coalesced) {
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

  std::shared_ptr<Group> group_;
  const OptionsRef options_;
  const Ranks global_;
  std::atomic<uint64_t> seq_{0};

 private:
  const pid_t owner_ = getpid();
  std::atomic<uint64_t> p2p_{0};
  std::atomic<bool> coalescing_{false}, left_{false}, timed_{false};
  std::mutex coalescing_mutex_;
  std::vector<c10::intrusive_ptr<OpWork>> coalesced_;

  static inline std::mutex all_mutex;
  static inline std::vector<Member*> all;
};

}  // namespace
