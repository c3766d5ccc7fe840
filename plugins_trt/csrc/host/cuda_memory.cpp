// The stand-in driver's contexts, memory, streams and graphs. Memory is the host's, as long as asked for and not a
// byte longer, so that the address sanitizer sees what a kernel writes beyond its tensors.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "cuda_standin.h"

using namespace adaptrt::host;

namespace {

int const theContext = 0;
int const theStream = 0;

struct Graph {
  std::vector<std::function<void()>> launches;
};

int refusedUnless(bool allowed) { return allowed ? kSuccess : kCaptureUnsupported; }

}  // namespace

ADAPTRT_EXPORT int cuInit(unsigned /*flags*/) { return kSuccess; }

ADAPTRT_EXPORT int cuDeviceGet(int* found, int ordinal) {
  *found = 0;
  return ordinal == 0 ? kSuccess : kInvalidValue;
}

ADAPTRT_EXPORT int cuDeviceGetAttribute(int* value, int attribute, int /*device*/) {
  switch (attribute) {
    case 75: *value = device().arch / 10; return kSuccess;
    case 76: *value = device().arch % 10; return kSuccess;
    case 97: *value = device().sharedBytes; return kSuccess;
    default: return kInvalidValue;
  }
}

ADAPTRT_EXPORT int cuDevicePrimaryCtxRetain(void const** context, int /*device*/) {
  *context = &theContext;
  return kSuccess;
}

ADAPTRT_EXPORT int cuCtxSetCurrent(void const* context) {
  device().isCurrent = context != nullptr;
  return kSuccess;
}

ADAPTRT_EXPORT int cuCtxGetCurrent(void const** context) {
  *context = device().isCurrent ? &theContext : nullptr;
  return kSuccess;
}

ADAPTRT_EXPORT int cuCtxGetDevice(int* found) {
  *found = 0;
  return device().isCurrent ? kSuccess : kInvalidContext;
}

ADAPTRT_EXPORT int cuCtxGetId(void const* /*context*/, unsigned long long* id) {
  *id = device().contextId;
  return kSuccess;
}

ADAPTRT_EXPORT int cuGetErrorName(int result, char const** name) {
  switch (result) {
    case kInvalidValue: *name = "CUDA_ERROR_INVALID_VALUE"; return kSuccess;
    case kInvalidImage: *name = "CUDA_ERROR_INVALID_IMAGE"; return kSuccess;
    case kInvalidContext: *name = "CUDA_ERROR_INVALID_CONTEXT"; return kSuccess;
    case kNoBinaryForGpu: *name = "CUDA_ERROR_NO_BINARY_FOR_GPU"; return kSuccess;
    case kNotFound: *name = "CUDA_ERROR_NOT_FOUND"; return kSuccess;
    case kCaptureUnsupported: *name = "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"; return kSuccess;
    default: return kInvalidValue;
  }
}

ADAPTRT_EXPORT int cuMemAlloc_v2(unsigned long long* at, size_t bytes) {
  if (!device().allowed("cuMemAlloc")) {
    return kCaptureUnsupported;
  }
  void* memory = nullptr;
  if (bytes == 0 || posix_memalign(&memory, 256, bytes) != 0) {
    return kInvalidValue;
  }
  *at = reinterpret_cast<uintptr_t>(memory);
  return kSuccess;
}

ADAPTRT_EXPORT int cuMemFree_v2(unsigned long long at) {
  std::free(reinterpret_cast<void*>(at));
  return refusedUnless(device().allowed("cuMemFree"));
}

ADAPTRT_EXPORT int cuMemcpyHtoD_v2(unsigned long long to, void const* from, size_t bytes) {
  std::memcpy(reinterpret_cast<void*>(to), from, bytes);
  return refusedUnless(device().allowed("cuMemcpyHtoD"));
}

ADAPTRT_EXPORT int cuMemcpyDtoH_v2(void* to, unsigned long long from, size_t bytes) {
  std::memcpy(to, reinterpret_cast<void const*>(from), bytes);
  return refusedUnless(device().allowed("cuMemcpyDtoH"));
}

ADAPTRT_EXPORT int cuMemsetD8_v2(unsigned long long at, unsigned char value, size_t bytes) {
  std::memset(reinterpret_cast<void*>(at), value, bytes);
  return refusedUnless(device().allowed("cuMemsetD8"));
}

ADAPTRT_EXPORT int cuStreamCreate(void const** stream, unsigned /*flags*/) {
  *stream = &theStream;
  return kSuccess;
}

ADAPTRT_EXPORT int cuStreamSynchronize(void* /*stream*/) {
  return refusedUnless(device().allowed("cuStreamSynchronize"));
}

ADAPTRT_EXPORT int cuStreamBeginCapture_v2(void* /*stream*/, int /*mode*/) {
  device().isCapturing = true;
  device().captured.clear();
  return kSuccess;
}

ADAPTRT_EXPORT int cuStreamEndCapture(void* /*stream*/, Graph** graph) {
  device().isCapturing = false;
  *graph = new Graph{device().captured};
  return kSuccess;
}

ADAPTRT_EXPORT int cuGraphInstantiateWithFlags(Graph** executable, Graph* graph, unsigned long long /*flags*/) {
  *executable = new Graph(*graph);
  return kSuccess;
}

ADAPTRT_EXPORT int cuGraphLaunch(Graph* executable, void* /*stream*/) {
  for (auto const& launch : executable->launches) {
    launch();
  }
  return kSuccess;
}

ADAPTRT_EXPORT int cuGraphDestroy(Graph* graph) {
  delete graph;
  return kSuccess;
}

ADAPTRT_EXPORT int cuGraphExecDestroy(Graph* executable) {
  delete executable;
  return kSuccess;
}
