// Errors of the library as exceptions.
#pragma once

#include <exception>
#include <memory>
#include <string>
#include <vector>

#include "library.hpp"

namespace {

// What an error has beside its text.
struct Facts {
  std::string kind, op, phase;
  int64_t seq = -1, rank = -1;
  bool failed = false;
  std::vector<uint32_t> guilty;
  std::vector<int64_t> guilty_global;
};

// An error of the library. In Python it is a c10d_rs.BackendError. Other libraries catch it as torch's
// DistBackendError.
class __attribute__((visibility("default"))) Failure : public c10::DistBackendError {
 public:
  Failure(const char* where, std::string words, std::shared_ptr<const Facts> facts)
      : c10::DistBackendError({where, __FILE__, 0}, std::move(words)), facts(std::move(facts)) {}
  std::shared_ptr<const Facts> facts;
};

// The ranks of a group, as ranks of the default group.
using Ranks = std::shared_ptr<const std::vector<int64_t>>;

// Makes an exception of the library's error, and frees the error. The exception's text is `before`, then the error's
// text.
std::exception_ptr taken(c10drs_error* error, const Ranks& ranks, const std::string& before = "") {
  if (!error) {
    auto none = std::make_shared<Facts>();
    return std::make_exception_ptr(Failure("c10d_rs", "the library reported an error without a text", none));
  }
  auto facts = std::make_shared<Facts>();
  facts->kind = error->kind;
  facts->op = error->op;
  facts->phase = error->phase;
  facts->seq = error->seq;
  facts->rank = error->rank;
  facts->failed = error->failed != 0;
  facts->guilty.assign(error->guilty, error->guilty + error->guilty_len);
  for (auto rank : facts->guilty) {
    facts->guilty_global.push_back(rank < ranks->size() ? (*ranks)[rank] : static_cast<int64_t>(rank));
  }
  std::string words = before + error->text;
  lib.error_free(error);
  return std::make_exception_ptr(Failure("c10d_rs", std::move(words), std::move(facts)));
}

}  // namespace
