#include "cuda_driver.h"

#include <dlfcn.h>

#include "report.h"

namespace adaptrt {
namespace {

constexpr char const* kLibrary = "libcuda.so.1";

Error failed(std::string const& message) { return Error(nvinfer1::ErrorCode::kFAILED_INITIALIZATION, message); }

template <typename Function>
void look(Function& function, void* library, char const* name) {
  function = reinterpret_cast<Function>(dlsym(library, name));
}

template <typename Function>
void need(Function& function, void* library, char const* name) {
  look(function, library, name);
  if (function == nullptr) {
    throw failed(std::string("got a ") + kLibrary + " without " + name + ", expected one of CUDA 11.4 or later");
  }
}

}  // namespace

CudaDriver::CudaDriver() {
  void* const library = dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    char const* const why = dlerror();
    throw failed(std::string("got no CUDA driver (") + (why == nullptr ? kLibrary : why) + "), expected one to run on");
  }
  need(init, library, "cuInit");
  need(ctxGetCurrent, library, "cuCtxGetCurrent");
  need(ctxGetDevice, library, "cuCtxGetDevice");
  need(deviceGetAttribute, library, "cuDeviceGetAttribute");
  need(moduleLoadData, library, "cuModuleLoadData");
  need(moduleUnload, library, "cuModuleUnload");
  need(moduleGetFunction, library, "cuModuleGetFunction");
  need(funcSetAttribute, library, "cuFuncSetAttribute");
  need(launchKernel, library, "cuLaunchKernel");
  need(getErrorName, library, "cuGetErrorName");
  look(ctxGetId, library, "cuCtxGetId");
  look(funcLoad, library, "cuFuncLoad");
  check(init(0), "starting the CUDA driver");
}

CudaDriver const& CudaDriver::instance() {
  static CudaDriver const driver;
  return driver;
}

std::string CudaDriver::name(cu::Result result) const {
  char const* text = nullptr;
  if (getErrorName(result, &text) != cu::kSuccess || text == nullptr) {
    return "CUDA error " + std::to_string(result);
  }
  return text;
}

void CudaDriver::check(cu::Result result, std::string const& doing) const {
  if (result != cu::kSuccess) {
    throw Error(nvinfer1::ErrorCode::kFAILED_EXECUTION, "got " + name(result) + " " + doing);
  }
}

CudaDevice currentDevice() {
  CudaDriver const& driver = CudaDriver::instance();
  cu::Context context = nullptr;
  driver.check(driver.ctxGetCurrent(&context), "asking for the current context");
  if (context == nullptr) {
    throw Error(nvinfer1::ErrorCode::kINVALID_STATE,
                "got no current CUDA context in this thread, expected TensorRT's; call cudaSetDevice first");
  }
  cu::Device device = 0;
  driver.check(driver.ctxGetDevice(&device), "asking for the current device");
  auto const attribute = [&](int which) {
    int value = 0;
    driver.check(driver.deviceGetAttribute(&value, which, device), "asking for the device's attributes");
    return value;
  };
  CudaDevice found{};
  found.arch = attribute(cu::kComputeCapabilityMajor) * 10 + attribute(cu::kComputeCapabilityMinor);
  found.sharedBytes = static_cast<unsigned>(attribute(cu::kMostSharedMemory));
  // A context's address may come back after it is destroyed, its id does not.
  if (driver.ctxGetId == nullptr || driver.ctxGetId(context, &found.key) != cu::kSuccess) {
    found.key = reinterpret_cast<uintptr_t>(context);
  }
  return found;
}

}  // namespace adaptrt
