// The ops: each method describes a call of the library.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "backend.hpp"

namespace {

using c10d::OpType;

class Backend final : public Member {
 public:
  using Member::Member;

  // -- groups that are made from this group

  static c10::intrusive_ptr<Backend> open(const StoreRef& store, int rank, int size, const std::string& name,
                                          const std::string& prefix, OptionsRef options) {
    auto group = join(store, rank, size, name, prefix, *options, ranks_of(*options));
    return c10::make_intrusive<Backend>(std::move(group), rank, size, std::move(options));
  }

  c10::intrusive_ptr<c10d::Backend> split(const StoreRef& store, const std::vector<int>& ranks,
                                          const c10::intrusive_ptr<c10d::Backend::Options>& opts) {
    auto at = std::find(ranks.begin(), ranks.end(), rank_);
    if (at == ranks.end()) return nullptr;
    auto options = options_for({ranks.begin(), ranks.end()}, opts);
    auto name = options->group_name.empty() ? std::string("split") : options->group_name;
    return open(store, static_cast<int>(at - ranks.begin()), static_cast<int>(ranks.size()), name, "", options);
  }

  // Makes a group of all ranks that call `merge` with this store. The ranks may be members of different groups.
  c10::intrusive_ptr<c10d::Backend> merge(const StoreRef& store, const c10::intrusive_ptr<c10d::Backend::Options>& opts,
                                          const int& rank, const int& size) {
    auto options = options_for({}, opts);
    auto name = options->group_name.empty() ? std::string("merged") : options->group_name;
    return open(store, rank, size, name, "", options);
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
    std::vector<int64_t> ranks;
    for (int64_t old = 0; old < size_; ++old) {
      if (std::find(lost.begin(), lost.end(), old) == lost.end()) ranks.push_back(old);
    }
    auto rank = std::lower_bound(ranks.begin(), ranks.end(), rank_) - ranks.begin();
    auto size = static_cast<int>(ranks.size());
    return c10::make_intrusive<Backend>(std::move(group), static_cast<int>(rank), size, options_for(ranks, opts));
  }

  // -- reductions

  WorkRef allreduce(Tensors& tensors, const c10d::AllreduceOptions& o) override {
    if (!tensors.empty() && tensors[0].layout() == at::kSparse) return allreduce_sparse(tensors, o);
    auto call = describe(C10DRS_OP_all_reduce, o);
    call.add(one(tensors, "allreduce"), Use::Both);
    return give(call, OpType::ALLREDUCE, "c10d_rs:all_reduce", {tensors}, tensors);
  }

  WorkRef allreduce_coalesced(Tensors& tensors, const c10d::AllreduceCoalescedOptions& o) override {
    auto call = describe(C10DRS_OP_all_reduce_coalesced, o);
    call.add(tensors, Use::Both);
    return give(call, OpType::ALLREDUCE_COALESCED, "c10d_rs:all_reduce", {tensors}, tensors);
  }

  WorkRef allreduce_sparse(Tensors& tensors, const c10d::AllreduceOptions& o) override {
    auto tensor = one(tensors, "allreduce_sparse");
    TORCH_CHECK_VALUE(tensor.layout() == at::kSparse, "c10d_rs: all_reduce takes sparse tensors in COO form, not in ",
                      tensor.layout());
    TORCH_CHECK_VALUE(tensor.is_cpu(), "c10d_rs: all_reduce takes sparse tensors on the CPU, not on ", tensor.device());
    auto limit = timeout_of(o, options_->timeout);
    auto work = begin(OpType::_ALLREDUCE_SPARSE, "c10d_rs:sparse_all_reduce", tensors, limit, ++seq_, {tensors});
    work->loan_ = std::make_shared<Loan>();
    sparse_.push([work, group = group_, tensor, op = o.reduceOp, limit] {
      std::exception_ptr error;
      try {
        reduce_sparse(*group, tensor, op, limit, work->global_);
      } catch (...) {
        error = std::current_exception();
      }
      work->settle(error, -1);
    });
    return work;
  }

  WorkRef reduce(Tensors& tensors, const c10d::ReduceOptions& o) override {
    auto call = describe(C10DRS_OP_reduce, o);
    call.add(one(tensors, "reduce", o.rootTensor), Use::Both);
    return give(call, OpType::REDUCE, "c10d_rs:reduce", {tensors}, tensors);
  }

  WorkRef reduce_scatter(Tensors& outputs, std::vector<Tensors>& inputs, const c10d::ReduceScatterOptions& o) override {
    auto call = describe(C10DRS_OP_reduce_scatter, o);
    call.add(list(inputs, "reduce_scatter"), Use::Read);
    call.add(one(outputs, "reduce_scatter"), Use::Write);
    return give(call, OpType::REDUCE_SCATTER, "c10d_rs:reduce_scatter", {outputs}, inputs[0]);
  }

  WorkRef _reduce_scatter_base(at::Tensor& output, at::Tensor& input, const c10d::ReduceScatterOptions& o) override {
    auto call = describe(C10DRS_OP_reduce_scatter_into, o);
    call.add(input, Use::Read);
    call.add(output, Use::Write);
    return give(call, OpType::_REDUCE_SCATTER_BASE, "c10d_rs:reduce_scatter", {{output}}, {input});
  }

  WorkRef reduce_scatter_tensor_coalesced(Tensors& outputs, Tensors& inputs,
                                          const c10d::ReduceScatterOptions& o) override {
    auto call = describe(C10DRS_OP_reduce_scatter_into_coalesced, o);
    call.add(inputs, Use::Read);
    call.add(outputs, Use::Write);
    return give(call, OpType::COALESCED, "c10d_rs:reduce_scatter", {outputs}, inputs);
  }

  // -- ops that move data

  WorkRef broadcast(Tensors& tensors, const c10d::BroadcastOptions& o) override {
    auto call = describe(C10DRS_OP_broadcast, o);
    call.add(one(tensors, "broadcast", o.rootTensor), Use::Both);
    return give(call, OpType::BROADCAST, "c10d_rs:broadcast", {tensors}, tensors);
  }

  WorkRef allgather(std::vector<Tensors>& outputs, Tensors& inputs, const c10d::AllgatherOptions& o) override {
    auto call = describe(C10DRS_OP_all_gather, o);
    call.add(one(inputs, "allgather"), Use::Read);
    call.add(list(outputs, "allgather"), Use::Write);
    return give(call, OpType::ALLGATHER, "c10d_rs:all_gather", outputs, inputs);
  }

  WorkRef _allgather_base(at::Tensor& output, at::Tensor& input, const c10d::AllgatherOptions& o) override {
    auto call = describe(C10DRS_OP_all_gather_into, o);
    call.add(input, Use::Read);
    call.add(output, Use::Write);
    return give(call, OpType::_ALLGATHER_BASE, "c10d_rs:all_gather", {{output}}, {input});
  }

  WorkRef allgather_coalesced(std::vector<Tensors>& outputs, Tensors& inputs, const c10d::AllgatherOptions& o) override {
    auto call = describe(C10DRS_OP_all_gather_coalesced, o);
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
    return give(call, OpType::ALLGATHER_COALESCED, "c10d_rs:all_gather", outputs, inputs);
  }

  WorkRef allgather_into_tensor_coalesced(Tensors& outputs, Tensors& inputs, const c10d::AllgatherOptions& o) override {
    auto call = describe(C10DRS_OP_all_gather_into_coalesced, o);
    call.add(inputs, Use::Read);
    call.add(outputs, Use::Write);
    call.level();
    return give(call, OpType::COALESCED, "c10d_rs:all_gather", {outputs}, inputs);
  }

  WorkRef gather(std::vector<Tensors>& outputs, Tensors& inputs, const c10d::GatherOptions& o) override {
    auto call = describe(C10DRS_OP_gather, o);
    call.add(one(inputs, "gather"), Use::Read);
    if (rank_ == o.rootRank) call.add(list(outputs, "gather"), Use::Write);
    return give(call, OpType::GATHER, "c10d_rs:gather", outputs, inputs);
  }

  WorkRef gather_into_tensor(at::Tensor& output, at::Tensor& input, const c10d::GatherOptions& o) {
    auto call = describe(C10DRS_OP_gather, o);
    call.add(input, Use::Read);
    if (rank_ != o.rootRank) return give(call, OpType::GATHER, "c10d_rs:gather", {}, {input});
    TORCH_CHECK_VALUE(output.numel() == input.numel() * size_, "c10d_rs: gather_single: the output has ", output.numel(),
                      " elements; it must have ", size_, " times the ", input.numel(), " of the input");
    call.add(output, Use::Write);
    call.cut_output(size_);
    return give(call, OpType::GATHER, "c10d_rs:gather", {{output}}, {input});
  }

  WorkRef scatter(Tensors& outputs, std::vector<Tensors>& inputs, const c10d::ScatterOptions& o) override {
    auto call = describe(C10DRS_OP_scatter, o);
    Tensors shown;
    if (rank_ == o.rootRank) {
      shown = list(inputs, "scatter");
      call.add(shown, Use::Read);
    }
    call.add(one(outputs, "scatter"), Use::Write);
    return give(call, OpType::SCATTER, "c10d_rs:scatter", {outputs}, shown);
  }

  WorkRef alltoall(Tensors& outputs, Tensors& inputs, const c10d::AllToAllOptions& o) override {
    auto call = describe(C10DRS_OP_all_to_all, o);
    call.add(inputs, Use::Read);
    call.add(outputs, Use::Write);
    return give(call, OpType::ALLTOALL, "c10d_rs:all_to_all", {outputs}, inputs);
  }

  WorkRef alltoall_base(at::Tensor& output, at::Tensor& input, std::vector<int64_t>& outputs, std::vector<int64_t>& inputs,
                        const c10d::AllToAllOptions& o) override {
    auto call = describe(C10DRS_OP_all_to_all_single, o);
    call.add(input, Use::Read);
    call.add(output, Use::Write);
    // PyTorch counts rows, and the library counts elements. If only one side has splits, the other has equal parts.
    call.input_splits = splits(inputs, input, "input");
    call.output_splits = splits(outputs, output, "output");
    return give(call, OpType::ALLTOALL_BASE, "c10d_rs:all_to_all", {{output}}, {input});
  }

  // -- messages

  WorkRef send(Tensors& tensors, int to, int tag) override {
    auto call = message(C10DRS_OP_send, to, tag);
    call.add(one(tensors, "send"), Use::Read);
    return give(call, OpType::SEND, "c10d_rs:send", {tensors}, tensors);
  }

  WorkRef recv(Tensors& tensors, int from, int tag) override {
    auto call = message(C10DRS_OP_recv, from, tag);
    call.add(one(tensors, "recv"), Use::Write);
    return give(call, OpType::RECV, "c10d_rs:recv", {tensors}, tensors);
  }

  WorkRef recvAnysource(Tensors& tensors, int tag) override {
    auto call = message(C10DRS_OP_recv_any_source, 0, tag);
    call.add(one(tensors, "recvAnysource"), Use::Write);
    return give(call, OpType::RECVANYSOURCE, "c10d_rs:recvAnySource", {tensors}, tensors);
  }

  // -- barriers

  WorkRef barrier(const c10d::BarrierOptions& o) override {
    auto call = describe(C10DRS_OP_barrier, o);
    return give(call, OpType::BARRIER, "c10d_rs:barrier", {}, {});
  }

  void monitoredBarrier(const c10d::BarrierOptions& o, bool wait_all_ranks) override {
    auto call = describe(C10DRS_OP_monitored_barrier, o);
    call.raw.wait_all_ranks = wait_all_ranks;
    ++seq_;
    c10drs_error* error = nullptr;
    if (lib.run(group_->raw, call.ready(), nullptr, &error) == 0) return;
    std::string before;
    if (error && error->guilty_len) {
      // The text begins like Gloo's, because programs search for Gloo's text.
      std::string ranks;
      for (size_t i = 0; i < error->guilty_len; ++i) {
        ranks += (i ? ", " : "") + std::to_string(error->guilty[i]);
      }
      if (rank_ != 0) {
        before = c10::str("Rank ", rank_, " successfully reached monitoredBarrier, but received errors while waiting ",
                          "for send/recv from rank 0: ");
      } else if (call.raw.timeout_ms == 0) {
        before = "[Rank 0]: Rank 0 timed out in monitoredBarrier after 0 ms: ";
      } else {
        before = c10::str("[Rank 0]: Rank", error->guilty_len > 1 ? "s " : " ", ranks,
                          " failed to pass monitoredBarrier in ", call.raw.timeout_ms, " ms: ");
      }
    }
    std::rethrow_exception(taken(error, global_, before));
  }

 private:
  template <class O>
  Call describe(uint32_t op, const O& options) const {
    return Call(op, options, options_->timeout);
  }

  Call message(uint32_t op, int peer, int tag) const {
    Call call(op, options_->timeout);
    call.raw.peer = static_cast<uint32_t>(peer);
    call.raw.tag = static_cast<uint32_t>(tag);
    return call;
  }

  const at::Tensor& one(const Tensors& tensors, const char* op, int64_t root_tensor = 0) const {
    TORCH_CHECK_VALUE(tensors.size() == 1 && root_tensor == 0, "c10d_rs: ", op, " takes one tensor per rank, not ",
                      tensors.size());
    return tensors[0];
  }

  const Tensors& list(const std::vector<Tensors>& lists, const char* op) const {
    TORCH_CHECK_VALUE(lists.size() == 1 && static_cast<int>(lists[0].size()) == size_, "c10d_rs: ", op,
                      " takes one list of ", size_, " tensors, one per rank");
    return lists[0];
  }

  static std::vector<uint64_t> splits(const std::vector<int64_t>& rows, const at::Tensor& tensor, const char* side) {
    std::vector<uint64_t> out;
    if (rows.empty()) return out;
    TORCH_CHECK_VALUE(tensor.dim() > 0, "c10d_rs: all_to_all_single cannot split a tensor without dimensions");
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

  InOrder sparse_;
};

}  // namespace
