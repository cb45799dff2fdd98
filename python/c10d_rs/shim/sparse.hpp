// All-reduce of sparse tensors. The size of the result is not known before the call, so a callback receives the result.
#pragma once

#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "call.hpp"
#include "failure.hpp"
#include "library.hpp"

namespace {

// Runs jobs one after the other, on a thread that ends when there are no more.
class InOrder {
 public:
  void push(std::function<void()> job) {
    std::lock_guard<std::mutex> lock(*mutex_);
    jobs_->push_back(std::move(job));
    if (jobs_->size() > 1) return;
    std::thread([mutex = mutex_, jobs = jobs_] {
      std::unique_lock<std::mutex> lock(*mutex);
      while (!jobs->empty()) {
        auto job = std::move(jobs->front());
        lock.unlock();
        job();
        job = nullptr;
        lock.lock();
        jobs->pop_front();
      }
    }).detach();
  }

 private:
  std::shared_ptr<std::mutex> mutex_ = std::make_shared<std::mutex>();
  std::shared_ptr<std::deque<std::function<void()>>> jobs_ = std::make_shared<std::deque<std::function<void()>>>();
};

// Reduces the tensor on this thread, and copies the result into it.
void reduce_sparse(const Group& group, at::Tensor tensor, const c10d::ReduceOp& op, Millis timeout, const Ranks& ranks) {
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
    std::rethrow_exception(taken(error, ranks));
  }
  auto sum = at::_sparse_coo_tensor_unsafe(result.indices, result.values, tensor.sizes());
  sum._coalesced_(true);
  tensor.copy_(sum);
}

}  // namespace
