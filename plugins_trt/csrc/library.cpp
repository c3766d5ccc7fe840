// What the library shows to the outside: the two entry points that a plugin registry's loadLibrary looks up
// (trtexec --dynamicPlugins), and registration at load time for those that only dlopen it (ONNX Runtime's
// trt_extra_plugin_lib_paths, trtexec --staticPlugins, ctypes).
#include <dlfcn.h>
#include <unwind.h>

#include <cstring>
#include <memory>
#include <vector>

#include "op_plugin.h"
#include "report.h"
#include "tensorrt_library.h"

#define ADAPTRT_EXPORT extern "C" __attribute__((visibility("default")))

namespace adaptrt {
namespace {

std::vector<nvinfer1::IPluginCreatorInterface*> const& creators() {
  // Never destroyed, neither list nor creators: registries keep the pointers until the process ends.
  static auto const* const all = [] {
    auto* const made = new std::vector<nvinfer1::IPluginCreatorInterface*>;
    for (OpContract const& contract : opContracts()) {
      made->push_back(new OpCreator(contract));
    }
    return made;
  }();
  return *all;
}

// Interfaces of another major version are laid out otherwise: calling into it would crash.
bool fits() {
  TensorrtLibrary const library = tensorrtLibrary();
  if (!library.mismatch().empty()) {
    log(nvinfer1::ILogger::Severity::kERROR, library.mismatch());
    return false;
  }
  return true;
}

_Unwind_Reason_Code noticeTensorrt(_Unwind_Context* context, void* found) {
  Dl_info info{};
  auto* const address = reinterpret_cast<void*>(_Unwind_GetIP(context));
  if (dladdr(address, &info) != 0 && info.dli_fname != nullptr) {
    char const* const slash = std::strrchr(info.dli_fname, '/');
    if (std::strncmp(slash == nullptr ? info.dli_fname : slash + 1, "libnvinfer", 10) == 0) {
      *static_cast<bool*>(found) = true;
      return _URC_END_OF_STACK;
    }
  }
  return _URC_NO_REASON;
}

// A registry that loads us asks for our creators next, and fails where they are registered already.
bool loadedByTensorrt() {
  bool found = false;
  _Unwind_Backtrace(noticeTensorrt, &found);
  return found;
}

int32_t registerCreators() {
  if (!fits()) {
    return -1;
  }
  nvinfer1::IPluginRegistry* const registry = tensorrtLibrary().registry();
  if (registry == nullptr) {
    return 0;
  }
  int32_t registered = 0;
  for (nvinfer1::IPluginCreatorInterface* const creator : creators()) {
    auto const& one = static_cast<nvinfer1::IPluginCreatorV3One&>(*creator);
    if (registry->getCreator(one.getPluginName(), kVersion, kNamespace) == nullptr &&
        registry->registerCreator(*creator, kNamespace)) {
      ++registered;
    }
  }
  return registered;
}

__attribute__((constructor)) void registerAtLoad() {
  guarded(nullptr, "loading libadaptrt_trt.so", 0, [] { return loadedByTensorrt() ? 0 : registerCreators(); });
}

}  // namespace
}  // namespace adaptrt

// Called by IPluginRegistry::loadLibrary before getCreators.
ADAPTRT_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder* finder) noexcept {
  // Without a version check the finder could not be called; the mismatch is reported by getCreators.
  if (adaptrt::tensorrtLibrary().mismatch().empty()) {
    adaptrt::keepLoggerFinder(finder);
  }
}

// Gives none where this library was built for another major version of TensorRT.
ADAPTRT_EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count) noexcept {
  count = 0;
  using List = nvinfer1::IPluginCreatorInterface* const*;
  return adaptrt::guarded<List>(nullptr, "getCreators", nullptr, [&]() -> List {
    if (!adaptrt::fits()) {
      return nullptr;
    }
    count = static_cast<int32_t>(adaptrt::creators().size());
    return adaptrt::creators().data();
  });
}

// For processes that load TensorRT after this library. Gives the number of creators that were not registered
// before; 0 also where there is no TensorRT, -1 where it is of another major version.
ADAPTRT_EXPORT int32_t adaptrtRegisterPlugins() noexcept {
  return adaptrt::guarded(nullptr, "adaptrtRegisterPlugins", -1, [] { return adaptrt::registerCreators(); });
}

// Major version of TensorRT that this library was built for, and the hash of the kernels' sources.
ADAPTRT_EXPORT int32_t adaptrtTensorrtMajor() noexcept { return NV_TENSORRT_MAJOR; }
ADAPTRT_EXPORT char const* adaptrtKernelSourceHash() noexcept { return adaptrt::kSourceHash; }
