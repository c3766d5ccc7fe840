// What the kernels compute, in plain C++ on host memory, by decoded arguments.
#pragma once

#include <cstdint>
#include <map>
#include <string>

namespace adaptrt::host {

struct Argument {
  std::string kind;   // "input", "size", "output", or "constant", which the kernel was compiled with
  std::string dtype;  // of what the pointer points to; a constant's value
  void* pointer;
  int32_t value;
};

using Arguments = std::map<std::string, Argument>;

// Computes what the kernel of that name does. False where it is unknown or an argument of its own is missing.
bool compute(std::string const& entry, Arguments const& arguments);

}  // namespace adaptrt::host
