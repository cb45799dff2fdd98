// PyTorch's c10d::Backend over the C interface of libc10d_rs.
//
// The shim is built for the installed PyTorch at first use. This is the only source file, and it includes the others.

#include <pybind11/chrono.h>
#include <pybind11/stl.h>

#include <torch/csrc/utils/pybind.h>

#include "ops.hpp"

namespace py = pybind11;

namespace {

PyObject* error_class = nullptr;

// Raises a Failure as an object of the Python class.
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
      .def_readwrite("hints", &HintedOptions::hints)
      .def_readwrite("_backends", &HintedOptions::backends)
      .def_readwrite("_private_use1", &HintedOptions::private_use1)
      .def_property("_device", [](const HintedOptions& o) { return o.device; },
                    [](HintedOptions& o, std::optional<at::Device> device) { o.device = device; });
  m.def("load", &load);
  m.def("unwrap", &unwrap);
  m.def("set_error_class", [](py::object cls) {
    error_class = cls.release().ptr();
    py::register_exception_translator(translate);
  });
  m.def(
      "open",
      [](const StoreRef& store, int rank, int size, const std::string& name, const std::string& prefix,
         OptionsRef options) -> c10::intrusive_ptr<c10d::Backend> {
        return Backend::open(store, rank, size, name, prefix, std::move(options));
      },
      NoGil());
  m.def("leave_all", &Member::leave_all, NoGil());
  m.def("end", [](int64_t millis) { Lanes::here().end(Millis(millis)); }, NoGil());
}