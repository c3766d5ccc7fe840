// Compiles only where what cuda_driver.h declares is what cuda.h declares.
#include <cuda.h>

#include <type_traits>

#include "cuda_driver.h"

namespace adaptrt {

static_assert(cu::kSuccess == CUDA_SUCCESS);
static_assert(cu::kComputeCapabilityMajor == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
static_assert(cu::kComputeCapabilityMinor == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
static_assert(cu::kMostSharedMemory == CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN);
static_assert(cu::kMostDynamicSharedMemory == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES);
static_assert(std::is_same_v<cu::Context, CUcontext>);
static_assert(std::is_same_v<cu::Module, CUmodule>);
static_assert(std::is_same_v<cu::Function, CUfunction>);
static_assert(std::is_same_v<cu::Stream, CUstream>);
static_assert(std::is_same_v<cu::Device, CUdevice>);

// CUresult and the attributes are C enumerations, passed as int.
template <typename T>
using Plain = std::conditional_t<std::is_enum_v<T>, int, T>;

template <typename Ours, typename Theirs>
struct SameFunction : std::false_type {};
template <typename... Ours, typename... Theirs>
struct SameFunction<cu::Result (*)(Ours...), CUresult (*)(Theirs...)>
    : std::bool_constant<(std::is_same_v<Plain<Ours>, Plain<Theirs>> && ...)> {};

#define ADAPTRT_SAME(ours, theirs) \
  static_assert(SameFunction<decltype(CudaDriver::ours), std::remove_reference_t<decltype(&theirs)>>::value)

ADAPTRT_SAME(init, cuInit);
ADAPTRT_SAME(ctxGetCurrent, cuCtxGetCurrent);
ADAPTRT_SAME(ctxGetDevice, cuCtxGetDevice);
ADAPTRT_SAME(deviceGetAttribute, cuDeviceGetAttribute);
ADAPTRT_SAME(moduleLoadData, cuModuleLoadData);
ADAPTRT_SAME(moduleUnload, cuModuleUnload);
ADAPTRT_SAME(moduleGetFunction, cuModuleGetFunction);
ADAPTRT_SAME(funcSetAttribute, cuFuncSetAttribute);
ADAPTRT_SAME(launchKernel, cuLaunchKernel);
#if CUDA_VERSION >= 12000
ADAPTRT_SAME(ctxGetId, cuCtxGetId);
#endif
#if CUDA_VERSION >= 12040
ADAPTRT_SAME(funcLoad, cuFuncLoad);
#endif

}  // namespace adaptrt
