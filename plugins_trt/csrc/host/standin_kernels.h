// What the kernels compute, in plain C++ on host memory, by decoded arguments.
#pragma once

#include <cstdint>
#include <map>
#include <string>

namespace adaptrt::host {

struct Argument {
  std::string kind;   // "input", "size" or "output"
  std::string dtype;  // of what the pointer points to
  void* pointer;
  int32_t value;
};

using Arguments = std::map<std::string, Argument>;

// Computes the op of that name. False where the op is unknown or an argument of its own is missing.
bool compute(std::string const& op, Arguments const& arguments);

}  // namespace adaptrt::host
