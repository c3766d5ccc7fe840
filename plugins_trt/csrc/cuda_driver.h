// The part of the CUDA driver's interface that launching a compiled kernel takes, loaded when first used: the
// library links neither libcuda nor libcudart and so also loads where an engine is only built or inspected.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

// Declared here, outside our namespace, so that they are the types of cuda.h and NvInfer's headers.
struct CUctx_st;
struct CUmod_st;
struct CUfunc_st;
struct CUstream_st;

namespace adaptrt {

// Handles and codes of cuda.h; host/check_driver_types.cpp compares them with that header where it is found.
namespace cu {
using Result = int;
using Device = int;
using Context = CUctx_st*;
using Module = CUmod_st*;
using Function = CUfunc_st*;
using Stream = CUstream_st*;
constexpr Result kSuccess = 0;
constexpr int kComputeCapabilityMajor = 75;
constexpr int kComputeCapabilityMinor = 76;
constexpr int kMostSharedMemory = 97;
constexpr int kMostDynamicSharedMemory = 8;
}  // namespace cu

class CudaDriver {
 public:
  // Throws Error where libcuda.so.1 is missing or too old.
  static CudaDriver const& instance();

  // Throws Error with the driver's own name of the failure.
  void check(cu::Result result, std::string const& doing) const;

  // "CUDA_ERROR_...", for messages.
  std::string name(cu::Result result) const;

  cu::Result (*init)(unsigned flags);
  cu::Result (*ctxGetCurrent)(cu::Context* context);
  cu::Result (*ctxGetDevice)(cu::Device* device);
  cu::Result (*deviceGetAttribute)(int* value, int attribute, cu::Device device);
  cu::Result (*moduleLoadData)(cu::Module* module, void const* image);
  cu::Result (*moduleUnload)(cu::Module module);
  cu::Result (*moduleGetFunction)(cu::Function* function, cu::Module module, char const* name);
  cu::Result (*funcSetAttribute)(cu::Function function, int attribute, int value);
  cu::Result (*launchKernel)(cu::Function function, unsigned gridX, unsigned gridY, unsigned gridZ, unsigned blockX,
                             unsigned blockY, unsigned blockZ, unsigned sharedBytes, cu::Stream stream,
                             void** parameters, void** extra);
  cu::Result (*getErrorName)(cu::Result result, char const** name);

  // Null in drivers that lack them (before CUDA 12.0 and 12.4).
  cu::Result (*ctxGetId)(cu::Context context, unsigned long long* id);
  cu::Result (*funcLoad)(cu::Function function);

 private:
  CudaDriver();
};

// What a kernel is chosen by, and the key under which its module is kept.
struct CudaDevice {
  int arch;                // 87 for compute capability 8.7
  unsigned sharedBytes;    // the most that one block may have
  unsigned long long key;  // of the context that is current
};

// Of the calling thread's current context. Throws Error where there is none.
CudaDevice currentDevice();

}  // namespace adaptrt
