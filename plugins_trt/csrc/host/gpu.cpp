#include "gpu.h"

#include <dlfcn.h>

#include <stdexcept>

namespace adaptrt::host {

template <typename... Arguments>
void Gpu::call(char const* name, Arguments... arguments) {
  auto const function = reinterpret_cast<int (*)(Arguments...)>(symbol(name));
  if (function == nullptr) {
    throw std::runtime_error(std::string("the CUDA driver has no ") + name);
  }
  if (int const result = function(arguments...); result != 0) {
    throw std::runtime_error(std::string(name) + " gave CUDA error " + std::to_string(result));
  }
}

Gpu::Gpu(std::string const& path) : library_(dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL)) {
  if (library_ == nullptr) {
    throw std::runtime_error(std::string("got no CUDA driver: ") + dlerror());
  }
  int device = 0;
  void* context = nullptr;
  call("cuInit", 0U);
  call("cuDeviceGet", &device, 0);
  call("cuDevicePrimaryCtxRetain", &context, device);
  call("cuCtxSetCurrent", context);
  // One that waits for the default stream, on which memory is written.
  call("cuStreamCreate", &stream_, 0U);
}

void* Gpu::symbol(char const* name) const { return dlsym(library_, name); }

Gpu::Address Gpu::allocate(size_t bytes) {
  Address at = 0;
  if (bytes != 0) {
    call("cuMemAlloc_v2", &at, bytes);
  }
  return at;
}

void Gpu::release(Address at) {
  if (at != 0) {
    call("cuMemFree_v2", at);
  }
}

void Gpu::write(Address at, std::vector<char> const& bytes) {
  if (!bytes.empty()) {
    call("cuMemcpyHtoD_v2", at, static_cast<void const*>(bytes.data()), bytes.size());
  }
}

void Gpu::fill(Address at, unsigned char value, size_t bytes) {
  if (bytes != 0) {
    call("cuMemsetD8_v2", at, value, bytes);
  }
}

std::vector<char> Gpu::read(Address at, size_t bytes) {
  std::vector<char> found(bytes);
  if (bytes != 0) {
    call("cuMemcpyDtoH_v2", static_cast<void*>(found.data()), at, bytes);
  }
  return found;
}

void Gpu::wait() { call("cuStreamSynchronize", stream_); }

void Gpu::beginCapture() {
  constexpr int kThreadLocal = 1;
  call("cuStreamBeginCapture_v2", stream_, kThreadLocal);
}

void Gpu::launchCapture() {
  void* graph = nullptr;
  void* executable = nullptr;
  call("cuStreamEndCapture", stream_, &graph);
  call("cuGraphInstantiateWithFlags", &executable, graph, 0ULL);
  call("cuGraphLaunch", executable, stream_);
  wait();
  call("cuGraphExecDestroy", executable);
  call("cuGraphDestroy", graph);
}

}  // namespace adaptrt::host
