// The functions of libc10d_rs.
#pragma once

#include <dlfcn.h>

#include <string>

#include <c10/util/Exception.h>

#include "../c10d_rs.h"

namespace {

// The functions of libc10d_rs. They are found at run time, so the shim is built without the library.
struct Library {
#define C10DRS_FUNCTIONS(X)                                                                                         \
  X(abi) X(open) X(failure) X(abort) X(shutdown) X(shrink) X(close) X(error_free) X(run) X(start)           \
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
  TORCH_CHECK(found.abi() == C10DRS_ABI, "c10d_rs: ", path, " has interface ", found.abi(), ", but the shim was built for ",
              C10DRS_ABI, "; run `python -m c10d_rs build`");
  lib = found;
}

c10drs_text text(const std::string& s) { return {s.data(), s.size()}; }

// A group of the library. The backend and its calls share it.
struct Group {
  explicit Group(c10drs_group* group) : raw(group) {}
  ~Group() { lib.close(raw); }
  c10drs_group* const raw;
};

}  // namespace
