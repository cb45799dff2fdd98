// Builds the description of a library call from PyTorch's tensors.
#pragma once

#include <ATen/ATen.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/Stream.h>
#include <torch/csrc/distributed/c10d/Types.hpp>

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "lanes.hpp"
#include "library.hpp"

namespace {

using Tensors = std::vector<at::Tensor>;

// Returns the library's element type for PyTorch's. If the library does not have the type, and the op only moves bytes
// (`moves`), returns a type of the same size.
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
  TORCH_CHECK_TYPE(moves, "c10d_rs: tensors of ", type, " cannot be reduced");
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

// A device's kind, with DLPack's code.
uint32_t kind_of(at::Device device) {
  switch (device.type()) {
    case at::kCPU: return 1;
    case at::kCUDA: return 2;
    case at::kPrivateUse1: return 12;
    default: TORCH_CHECK_VALUE(false, "c10d_rs: the tensor is on ", device, "; c10d_rs has no ops for such devices");
  }
}

// The stream on which this thread enqueues work of the device.
c10::Stream stream_of(at::Device device) { return c10::impl::getDeviceGuardImpl(device.type())->getStream(device); }

// The handle by which the device's driver knows the stream. Older releases of PyTorch do not offer it.
template <typename S>
auto handle_of(const S& stream, int) -> decltype(stream.native_handle()) {
  return stream.native_handle();
}
template <typename S>
void* handle_of(const S&, long) {
  TORCH_CHECK_NOT_IMPLEMENTED(false, "this PyTorch has no handles of streams");
}

// Returns the handle of the current stream. The library runs the call after this stream's work. The handle of the
// default stream is 0. If there is no handle, this function waits for the stream's work, and then returns 0.
uint64_t driver_stream(at::Device device) {
  auto stream = stream_of(device);
  try {
    return reinterpret_cast<uint64_t>(handle_of(stream, 0));
  } catch (const c10::Error&) {
    stream.synchronize();
    return 0;
  }
}

// The tensors of one call: those that the library uses, and those into which results are copied afterwards.
struct Loan {
  Tensors held;
  std::vector<std::pair<at::Tensor, at::Tensor>> copies;

  // The guard skips the checks of autograd and inference mode, which would refuse some of these copies. When the
  // function returns, the copies are complete on the device.
  void copy_back() {
    if (copies.empty()) return;
    at::AutoDispatchBelowADInplaceOrView guard;
    for (auto& [to, from] : copies) to.copy_(from);
    auto device = copies.front().first.device();
    if (!device.is_cpu()) stream_of(device).synchronize();
    copies.clear();
  }
};

// The last owner may be a thread of the library, and freeing a tensor may need the GIL. So one of the shim's own
// threads (`Lanes`, lanes.hpp) frees it.
void release(void* owner) {
  std::unique_ptr<std::shared_ptr<Loan>> loan(static_cast<std::shared_ptr<Loan>*>(owner));
  if (loan->use_count() == 1) {
    Lanes::here().push(0, [kept = std::move(*loan)] {});
  }
}

enum class Use { Read, Write, Both };

// How long the op may take: the time in its options, or else the group's timeout.
template <class O>
Millis timeout_of(const O& options, Millis group) {
  return options.timeout.count() < 0 ? group : options.timeout;
}

// A call whose description is being built.
struct Call {
  c10drs_call raw{};
  std::vector<c10drs_tensor> inputs, outputs;
  std::vector<uint64_t> input_splits, output_splits;
  std::shared_ptr<Loan> loan = std::make_shared<Loan>();
  bool moves = true;
  bool async = true;

  Call(uint32_t op, Millis timeout) {
    raw.op = op;
    raw.timeout_ms = timeout.count() < 0 ? -1 : timeout.count();
    raw.device_kind = 1;
  }

  // Takes root, reduce operation, timeout and `async_op` from the options that have them.
  template <class O>
  Call(uint32_t op, const O& options, Millis group) : Call(op, timeout_of(options, group)) {
    if constexpr (requires { options.rootRank; }) raw.root = static_cast<uint32_t>(options.rootRank);
    if constexpr (requires { options.reduceOp; }) reduces(options.reduceOp);
    if constexpr (requires { options.asyncOp; }) async = options.asyncOp;
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
    if (loan->held.empty() && !device.is_cpu()) on(device);
    TORCH_CHECK_VALUE(loan->held.empty() || device == loan->held.front().device(), "c10d_rs: the tensors of the call are on ",
                      device, " and on ", loan->held.front().device());
    auto itemsize = tensor.element_size();
    at::Tensor plain = tensor;
    auto address = reinterpret_cast<uintptr_t>(tensor.numel() && device.is_cpu() ? tensor.const_data_ptr() : nullptr);
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
      TORCH_CHECK_VALUE(raw.reduce < 2, "c10d_rs: tensors of ComplexHalf can be reduced only by a sum or an average");
      t.dtype = C10DRS_TYPE_f16;
      count *= 2;
    } else {
      t.dtype = type_of(type, moves);
      count *= itemsize / size_of(t.dtype);
    }
    t.count = count;
    // An input is never written. The interface has one pointer type for inputs and outputs, so the const is cast away.
    if (count && device.is_cpu()) {
      t.data = const_cast<void*>(plain.const_data_ptr());
    } else if (count) {
      t.data = const_cast<void*>(plain.storage().data());
      t.offset = plain.storage_offset() * itemsize;
    }
    (use == Use::Read ? inputs : outputs).push_back(t);
    loan->held.push_back(std::move(plain));
  }

  // The device of the call, if it is not the CPU.
  void on(at::Device device) {
    raw.device_kind = kind_of(device);
    raw.device_index = device.index();
    raw.stream = driver_stream(device);
  }

  void add(const Tensors& tensors, Use use) {
    for (const auto& tensor : tensors) add(tensor, use);
  }

  // If the types in the lists differ, the tensors are moved as bytes.
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

  // Divides the output into this number of equal parts.
  void cut_output(int parts) {
    auto whole = outputs.front();
    auto count = whole.count / parts;
    outputs.clear();
    for (int part = 0; part < parts; ++part) {
      auto offset = whole.offset + part * count * size_of(whole.dtype);
      outputs.push_back({count ? whole.data : nullptr, count ? offset : 0, count, whole.dtype});
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
    return &raw;
  }
};

}  // namespace
