// Devices for tests on a machine without accelerators: PyTorch's PrivateUse1 over the device of one of c10d's plugins,
// and tensors in memory of a simulated CUDA driver.
#include <ATen/EmptyTensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <dlfcn.h>
#include <torch/csrc/utils/pybind.h>
#include <torch/library.h>

#include "c10d_plugin.h"

namespace {

const c10d_device* device = nullptr;

// PyTorch calls these hooks when Python code makes a storage.
struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
};

Hooks hooks;

// Takes the device of this plugin. c10d loads the same file.
void open(const std::string& path) {
  void* library = dlopen(path.c_str(), RTLD_NOW);
  TORCH_CHECK(library, dlerror());
  auto entry = reinterpret_cast<const c10d_plugin* (*)(const c10d_host*)>(dlsym(library, "c10d_plugin_v1"));
  device = entry(nullptr)->device;
  at::RegisterPrivateUse1HooksInterface(&hooks);
}

void check(int32_t code, const c10d_why& why) { TORCH_CHECK(code == C10D_OK, "the device failed: ", code); }

struct Memory final : c10::Allocator {
  at::DataPtr allocate(size_t bytes) override {
    void* base = nullptr;
    c10d_why why{};
    check(device->allocate(0, std::max<size_t>(bytes, 1), &base, &why), why);
    return {base, base, [](void* base) { device->free(0, base); }, at::Device(at::kPrivateUse1, 0)};
  }
  at::DeleterFnPtr raw_deleter() const override {
    return [](void* base) { device->free(0, base); };
  }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    c10d_why why{};
    check(device->copy(0, 0, to, 0, from, 0, bytes, &why), why);
  }
};

Memory memory;
const c10::DispatchKeySet key(c10::DispatchKey::PrivateUse1);

at::Tensor empty(c10::IntArrayRef size, std::optional<at::ScalarType> type, std::optional<at::Layout>,
                 std::optional<at::Device>, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(size, &memory, key, c10::dtype_or_default(type), format);
}

at::Tensor empty_strided(c10::IntArrayRef size, c10::IntArrayRef stride, std::optional<at::ScalarType> type,
                         std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool>) {
  return at::detail::empty_strided_generic(size, stride, &memory, key, c10::dtype_or_default(type));
}

// The tensor with a copy of its storage on the host.
at::Tensor on_host(const at::Tensor& t) {
  if (t.is_cpu()) return t;
  auto bytes = t.storage().nbytes();
  auto whole = at::empty({static_cast<int64_t>(bytes / t.element_size())}, t.options().device(at::kCPU));
  c10d_why why{};
  if (bytes) check(device->copy_out(0, 0, whole.mutable_data_ptr(), t.storage().data(), 0, bytes, &why), why);
  return whole.as_strided(t.sizes(), t.strides(), t.storage_offset());
}

at::Tensor copy_from(const at::Tensor& from, const at::Tensor& to, bool) {
  auto host = on_host(to);
  host.copy_(on_host(from));
  if (to.is_cpu()) return to;
  c10d_why why{};
  auto bytes = to.storage().nbytes();
  if (bytes) check(device->copy_in(0, 0, to.storage().mutable_data(), 0, host.storage().data(), bytes, &why), why);
  return to;
}

at::Tensor copy_from_and_resize(const at::Tensor& from, const at::Tensor& to) {
  to.resize_(from.sizes());
  return copy_from(from, to, false);
}

at::Tensor as_strided(const at::Tensor& self, c10::IntArrayRef size, c10::IntArrayRef stride, std::optional<int64_t> at) {
  return at::native::as_strided_tensorimpl(self, size, stride, at);
}

at::Tensor view(const at::Tensor& self, c10::IntArrayRef size) { return at::native::view(self, size); }

const at::Tensor& resize(const at::Tensor& self, c10::IntArrayRef size, std::optional<at::MemoryFormat>) {
  auto* impl = self.unsafeGetTensorImpl();
  auto fresh = empty(size, self.scalar_type(), {}, {}, {}, {});
  impl->set_storage_keep_dtype(fresh.storage());
  impl->set_sizes_contiguous(size);
  return self;
}

void fallback(const c10::OperatorHandle& op, torch::jit::Stack* stack) { at::native::cpu_fallback(op, stack); }

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", empty);
  m.impl("empty_strided", empty_strided);
  m.impl("_copy_from", copy_from);
  m.impl("_copy_from_and_resize", copy_from_and_resize);
  m.impl("as_strided", as_strided);
  m.impl("view", view);
  m.impl("resize_", resize);
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>()); }

C10_REGISTER_GUARD_IMPL(PrivateUse1, c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::PrivateUse1>)

// PyTorch's access to CUDA over the simulated driver. There is one stream, which the test sets.
struct CudaGuard final : c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA> {
  // Newer releases of PyTorch ask for the handle. With older releases, c10d_rs waits for the stream.
  void* getStreamNativeHandle(const c10::Stream) const { return stream; }
  void synchronizeStream(const c10::Stream&) const override {
    using Wait = int (*)(void*);
    auto wait = reinterpret_cast<Wait>(dlsym(dlopen("libcuda.so.1", RTLD_NOW), "cuStreamSynchronize"));
    TORCH_CHECK(wait && wait(stream) == 0, "the stream cannot be waited for");
  }
  void* stream = nullptr;
};

CudaGuard cuda;

// A tensor of floats in CUDA memory of the simulated driver.
at::Tensor cuda_tensor(uintptr_t address, int64_t count, int index, uintptr_t stream) {
  cuda.stream = reinterpret_cast<void*>(stream);
  static c10::impl::DeviceGuardImplRegistrar registered(c10::DeviceType::CUDA, &cuda);
  at::DataPtr data(reinterpret_cast<void*>(address), at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(index)));
  c10::Storage storage(c10::Storage::use_byte_size_t(), count * 4, std::move(data), nullptr, false);
  auto tensor = at::detail::make_tensor<c10::TensorImpl>(std::move(storage), c10::DispatchKeySet(c10::DispatchKey::CUDA),
                                                         caffe2::TypeMeta::Make<float>());
  tensor.unsafeGetTensorImpl()->set_sizes_contiguous({count});
  return tensor;
}

}  // namespace

PYBIND11_MODULE(_c10d_rs_device, m) {
  m.def("open", &open);
  m.def("cuda_tensor", &cuda_tensor);
}
