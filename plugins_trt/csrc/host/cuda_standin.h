// State that the two halves of the stand-in driver share. Result codes and attributes are those of cuda.h.
#pragma once

#include <functional>
#include <string>
#include <vector>

namespace adaptrt::host {

constexpr int kSuccess = 0;
constexpr int kInvalidValue = 1;
constexpr int kInvalidContext = 201;
constexpr int kNoBinaryForGpu = 209;
constexpr int kInvalidImage = 200;
constexpr int kNotFound = 500;
constexpr int kCaptureUnsupported = 900;

struct Device {
  int arch = 87;
  int sharedBytes = 0;
  bool refusesCubins = false;  // as a driver older than the assembler that wrote them
  bool isCurrent = false;
  bool isCapturing = false;
  unsigned long long contextId = 1;
  std::vector<std::function<void()>> captured;
  std::vector<std::string> records;  // JSON, one object for each thing that happened

  // Whether something that a capture forbids may happen; records it where not.
  bool allowed(char const* what);
};

Device& device();

}  // namespace adaptrt::host

#define ADAPTRT_EXPORT extern "C" __attribute__((visibility("default")))
